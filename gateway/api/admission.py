"""Admission: how many requests an API key, a client secret or an unknown client may send.

A refused request has done nothing: no quote and no idempotency key is used, no body was read. It is
asked for right after the key was recognised. A caller that goes on regardless gets its refusals at a
fixed rate: each of them costs the process as much as a small request. A repeat that would only be answered with its kept
answer takes a token of the rate like any other request, and nothing of the custodians' budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request

from gateway.config.rates import LimitSettings
from gateway.errors import Refused
from gateway.limits import HELD, RECOGNISED, Buckets, Refusals, Sample, client_group
from gateway.metrics import Metrics
from gateway.runtime import Clock

#: What a person waits for: a flood of other calls under the same key does not hold it up.
_CONFIRMS = frozenset({"/payouts/{payout_id}/confirm", "/payouts/{payout_id}/cancel"})
_QUOTE = "/payouts/quote"
_BODIES = "bodies"
#: Member of a request's ASGI state: true where its caller has used up most of its rate, so that requests of
#: other orgs come first.
GIVES_WAY = "gives_way"
#: Of the burst, what is left when that begins.
_FEW_LEFT = 0.5


class Admission:
    """The rates of one process."""

    def __init__(self, settings: LimitSettings, clock: Clock, metrics: Metrics) -> None:
        self._metrics = metrics
        self._lines = Sample(clock)
        self._refusals = Refusals(clock, settings)
        self._most_bodies = settings.bodies
        self._bodies: Counter[str] = Counter()
        self._classes = {
            name: Buckets(
                name,
                clock,
                getattr(settings, f"{name}_per_s"),
                getattr(settings, f"{name}_burst"),
            )
            for name in ("reads", "quotes", "writes", "confirms", "unknown")
        }

    def admit(self, request: Request, who: str) -> None:
        """Let a request of a key or a payout's client secret in. Refused: `rate_limited`."""
        state = request.scope["state"]
        state["admitted"] = who
        refused = self._take(request, class_of(request), who)
        if refused is not None:
            raise refused
        recognised = state.get(RECOGNISED)
        if recognised is not None:
            # Now its connection keeps its place while the body arrives.
            recognised()

    def unknown(self, request: Request) -> Refused | None:
        """Count a wrong key, token, path or signature of a client; return the refusal where it sent too many.

        Only what is wrong counts, and only it is refused: clients behind one address do not lock each
        other out.
        """
        host = request.client.host if request.client else None
        refused = self._take(request, "unknown", client_group(host))
        if refused is not None:
            # A client that sends too many must not fill the log: one line for many of them.
            request.state.left_out = self._lines.take()
        return refused

    @contextmanager
    def receiving(self, request: Request) -> Iterator[None]:
        """Receive a body of a key or client secret. Refused: `rate_limited`, where too many arrive.

        The connection of a request that was let in keeps its place while its body arrives. So one key
        must not have all of them. A client that was not let in has no such place, and is not counted.
        """
        who = getattr(request.state, "admitted", None)
        if who is None:
            yield
            return
        if self._bodies[who] >= self._most_bodies:
            self._metrics.rate_limited(_BODIES)
            detail = (
                f"{self._most_bodies} bodies of this caller are still arriving. Nothing was done."
            )
            headers = {
                "Retry-After": "1",
                "RateLimit-Policy": f'"{_BODIES}";q={self._most_bodies};qu="concurrent-requests"',
                "RateLimit": f'"{_BODIES}";r=0;t=1',
            }
            raise Refused("rate_limited", detail, headers=headers)
        self._bodies[who] += 1
        try:
            yield
        finally:
            self._bodies[who] -= 1
            if not self._bodies[who]:
                del self._bodies[who]

    async def hold_back(self, request: Request, refused: Refused) -> Refused:
        """Return a refusal once it may be sent: later, if its caller has had many of them.

        Where too many wait already, it is sent at once, and its connection is closed. The request has
        done nothing and no body was read, so that waiting costs little more than the connection.
        """
        host = request.client.host if request.client else None
        # An id of a key or payout, or an address: they cannot be mistaken for each other.
        who = getattr(request.state, "admitted", None) or client_group(host)
        wait_s = self._refusals.wait_s(who)
        if wait_s == 0:
            return refused
        request.state.left_out = self._lines.take()
        held = getattr(request.state, HELD, None)
        if held is not None:
            # Its connection may be closed for a new one, and new ones of its address come after requests.
            held()
        if wait_s is None:
            self._metrics.refusal_held("closed")
            refused.headers["Connection"] = "close"
            return refused
        self._metrics.refusal_held("held")
        await self._refusals.hold(wait_s)
        return refused

    def _take(self, request: Request, name: str, who: str) -> Refused | None:
        buckets = self._classes[name]
        taken = buckets.take(who)
        request.scope["state"]["rate_limit"] = buckets.raw_headers(taken)
        if taken.allowed:
            if taken.left < _FEW_LEFT * buckets.burst:
                request.scope["state"][GIVES_WAY] = True
            return None
        self._metrics.rate_limited(name)
        detail = f"Too many requests of the class {name!r}. Nothing was done."
        return Refused("rate_limited", detail, headers={"Retry-After": str(taken.retry_s)})


def admission_of(request: Request) -> Admission:
    """Return the rates of the application."""
    admission: Admission = request.app.state.admission
    return admission


def class_of(request: Request) -> str:
    """Return the class of a request by its route and method."""
    path = request.scope["route"].path
    if request.method in {"GET", "HEAD"}:
        return "reads"
    if path in _CONFIRMS:
        return "confirms"
    return "quotes" if path == _QUOTE else "writes"


def refuse_stranger(request: Request, refused: Refused, status: int) -> Refused:
    """Return the refusal of a request, or that of a rate where an unknown client sent too many.

    For what nobody with a key, a client secret or a custodian's signature has sent.
    """
    wrong = status in _WRONG or refused.code == "cannot_verify"
    strange = not hasattr(request.state, "admitted") and wrong
    return (strange and admission_of(request).unknown(request)) or refused


_WRONG = frozenset({401, 404, 405})


def headers_of(state: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    """Return the rate's header fields of the answer to a request."""
    found: list[tuple[bytes, bytes]] = state.get("rate_limit", [])
    return found
