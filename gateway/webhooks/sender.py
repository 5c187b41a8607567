"""One try at one signed webhook: bytes in, outcome out."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import NamedTuple

from gateway import __version__
from gateway.config.settings import WebhookSettings
from gateway.egress import (
    DeniedAddressError,
    Guard,
    KeepAliveClient,
    LibraryClient,
    Poster,
    connector,
)
from gateway.egress.echoes import redact
from gateway.egress.lookups import Lookups, LookupTimeoutError
from gateway.egress.posting import KEEPALIVE_S, Answer, NotConnectedError
from gateway.runtime import Runtime
from gateway.signing import PREFIX, headers, secret_text

#: How much of an answer is kept for the log.
_SNIPPET_BYTES = 4 * 1024
#: How much of it is searched for what was sent; more than is kept, so that no value is cut in two.
_SEARCHED_BYTES = _SNIPPET_BYTES + 1024
_RETRY_AFTER_CHARS = 40
#: Values of headers that are no secret are removed from answers if they have so many characters.
_LEAST_SHOWN = 4
#: The answer header by which a receiver has its endpoint disabled (webhooks protocol notes, §2).
_CONTROL = "webhook-delivery"
_HEADERS = {"content-type": "application/json", "user-agent": f"payout-gateway/{__version__}"}


class DeliveryOutcome(StrEnum):
    """What a try met."""

    SUCCEEDED = "succeeded"  #: answered 2xx
    HTTP_ERROR = "http_error"  #: answered anything else, redirects too
    TIMEOUT = "timeout"  #: no status in time, or the name did not resolve in time
    CONNECT_ERROR = "connect_error"  #: no connection, or it broke
    TLS_ERROR = "tls_error"  #: the certificate or the handshake failed
    BLOCKED = "blocked"  #: the address is not public


#: Answers of a receiver that has too much to do.
_OVERLOADED = frozenset({429, 502, 503, 504})
_GONE = 410


@dataclass(frozen=True)
class Target:
    """Where events go, and what is sent along. `headers` may carry the subscriber's secrets."""

    url: str
    secrets: Sequence[bytes] = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: of Ed25519 keys, for endpoints that want `v1a`, too
    seeds: Sequence[bytes] = field(default=(), repr=False)
    #: names of those of the headers whose values are shown to nobody
    sensitive: Collection[str] = ()
    #: whose endpoint it is: an org has a bounded number of look-ups of names
    org: str = ""


class DeliveryResult(NamedTuple):
    """One try and what came of it."""

    outcome: DeliveryOutcome
    http_status: int | None
    snippet: str | None
    duration_ms: int
    #: The receiver's `Retry-After`, in seconds.
    retry_after_s: float | None = None
    #: The receiver wants nothing more, by `webhook-delivery: disable`.
    unwanted: bool = False

    @property
    def ok(self) -> bool:
        """Whether the receiver has it."""
        return self.outcome is DeliveryOutcome.SUCCEEDED

    @property
    def overloaded(self) -> bool:
        """Whether the receiver needs time: 429, 502, 503, 504, or no answer."""
        return self.outcome is DeliveryOutcome.TIMEOUT or self.http_status in _OVERLOADED

    @property
    def disabled_reason(self) -> str | None:
        """Why the endpoint is to be disabled at once: `gone`, `unwanted`, or None."""
        if self.http_status == _GONE:
            return "gone"
        return "unwanted" if self.unwanted else None


def client_for(settings: WebhookSettings) -> KeepAliveClient | LibraryClient:
    """Return the client that deliveries go through: use it with `async with`. Needs a running loop.

    Through an egress proxy, which resolves names and refuses inner addresses itself, it is the
    library's client: it knows how to ask a proxy for a tunnel.
    """
    lookups = Lookups(
        "endpoint-names",
        deadline_s=settings.lookup_timeout_s,
        per_scope=settings.lookups_per_org,
    )
    if settings.egress_proxy is not None:
        through = connector(
            allow_private_addresses=True, resolver=lookups, owner=True, keepalive_s=KEEPALIVE_S
        )
        return LibraryClient(through, proxy=settings.egress_proxy)
    guard = Guard(
        allow_private_addresses=settings.allow_private_addresses,
        denied_networks=settings.denied_networks,
    )
    return KeepAliveClient(guard, lookups)


class Sender:
    """Signs and posts. The same body bytes at every try; id the same, timestamp and signature new."""

    def __init__(self, client: Poster, settings: WebhookSettings, runtime: Runtime) -> None:
        self._client = client
        self._total_s = settings.timeout_s
        self._runtime = runtime

    async def send(self, target: Target, event_id: str, body: bytes) -> DeliveryResult:
        """Post an event once. Raises nothing; the outcome tells.

        Where no connection came about, nothing was sent: it is dialled a second time at once.
        """
        begun = self._runtime.clock.monotonic()
        status, snippet, retry_after, unwanted = None, None, None, False
        try:
            sent: list[Mapping[str, str]] = []
            try:
                answer = await self._post(target, event_id, body, sent, self._total_s)
            except NotConnectedError:
                # One deadline for both.
                left_s = begun + self._total_s - self._runtime.clock.monotonic()
                answer = await self._post(target, event_id, body, sent, left_s)
            status, snippet = answer.status, _snippet(answer, target, sent)
            ok = 200 <= status < 300  # noqa: PLR2004 - any 2xx is a receipt, nothing else
            outcome = DeliveryOutcome.SUCCEEDED if ok else DeliveryOutcome.HTTP_ERROR
            if answer.headers:
                retry_after = _retry_after(
                    answer.headers.get("retry-after", ""), self._runtime.clock.now()
                )
                unwanted = answer.headers.get(_CONTROL, "").strip().lower() == "disable"
        except (OSError, ValueError) as error:
            outcome = _outcome(error)
        took_us = round((self._runtime.clock.monotonic() - begun) * 1e6)
        duration_ms = took_us // 1000
        return DeliveryResult(outcome, status, snippet, duration_ms, retry_after, unwanted)

    def _post(
        self,
        target: Target,
        event_id: str,
        body: bytes,
        sent: list[Mapping[str, str]],
        timeout_s: float,
    ) -> Awaitable[Answer]:
        """Sign and post once: what is returned is awaited at once."""
        signed = headers(target.secrets, event_id, self._runtime.clock.now(), body, target.seeds)
        sent.append(signed)
        return self._client.post(
            target.url,
            {**target.headers, **signed, **_HEADERS},
            body,
            timeout_s=timeout_s,
            scope=target.org,
        )


def _confidential(target: Target, sent: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield what a receiver may echo and nobody is to read: header values, signatures, secrets."""
    sensitive = {name.lower() for name in target.sensitive}
    for name, value in target.headers.items():
        # A short value that is no secret ("pay", "1") would only make the answer unreadable.
        if name.lower() in sensitive or len(value) >= _LEAST_SHOWN:
            yield value
    for signed in sent:
        yield signed["webhook-signature"]
    for secret in target.secrets:
        yield from (secret_text(secret), secret_text(secret).removeprefix(PREFIX))


def _snippet(answer: Answer, target: Target, sent: Sequence[Mapping[str, str]]) -> str:
    """Return the beginning of an answer, for the log.

    What the delivery itself sent in confidence is removed, before it leaves the sender.
    """
    got = answer.body
    if not got:
        return ""
    # Before the cut: a value across it would stay in part.
    seen = got[:_SEARCHED_BYTES]
    cut = not answer.whole or len(seen) < len(got)
    got = redact(seen, _confidential(target, sent), cut=cut)
    return got[:_SNIPPET_BYTES].decode("utf-8", "replace").replace("\0", "\ufffd")


def _retry_after(text: str, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` asks for; None where it says nothing sensible."""
    text = text.strip()[:_RETRY_AFTER_CHARS]
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


def _outcome(error: BaseException) -> DeliveryOutcome:
    if isinstance(error, TimeoutError | LookupTimeoutError):
        return DeliveryOutcome.TIMEOUT
    if isinstance(error, ssl.SSLError):
        return DeliveryOutcome.TLS_ERROR
    if isinstance(error, DeniedAddressError):
        return DeliveryOutcome.BLOCKED
    return DeliveryOutcome.CONNECT_ERROR
