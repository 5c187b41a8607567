"""Token buckets: who may do how much, of one kind, in this process.

Each has `burst` tokens at most, and gets `per_s` new ones a second. They are kept in memory: another
process on the same database has buckets of its own, and a restart fills them all.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from functools import lru_cache
from typing import NamedTuple

from gateway.config.rates import LimitSettings
from gateway.runtime import Clock

#: Member of a request's ASGI state: called once it is known who sent the request, and that it is let in.
RECOGNISED = "recognised"
#: Member of a request's ASGI state: true once all of its body has arrived, so that no timer is needed.
ARRIVED = "arrived"
#: Member of a request's ASGI state: called when its caller has had so many refusals that this one is held
#: back, or its connection closed; nothing else is to be done for it.
HELD = "held"
#: Buckets that are remembered; the one used longest ago is forgotten first, and would be full again.
_MOST = 20_000
#: Many small additions lose the last digits; a caller that waited as asked must not have to wait again.
_ALMOST_ONE = 1 - 1e-6


# Asked of every connection: what is flooded with them must not read the same address again and again.
@lru_cache(maxsize=4096)
def client_group(host: str | None) -> str:
    """Return what stands for a client where it is limited by its address.

    The address itself, and of IPv6 the network of 64 bits, which one client has all of.
    """
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Taken(NamedTuple):
    """What came of asking for a token."""

    allowed: bool
    left: int  #: whole tokens that are left
    full_s: int  #: seconds until the bucket is full again
    retry_s: int  #: seconds until there is a token; at least 1 where it was not allowed


class Buckets:
    """The buckets of one kind, one for each of those who use it."""

    def __init__(self, name: str, clock: Clock, per_s: float, burst: int) -> None:
        self.name = name
        self.per_s = per_s
        self.burst = burst
        self._clock = clock
        self._policy = f'"{name}";q={burst};w={self.window_s}'
        self._raw_policy = (b"ratelimit-policy", self._policy.encode())
        #: tokens, and when they were counted
        self._kept: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @property
    def window_s(self) -> int:
        """How long an empty bucket needs to fill, in seconds."""
        return max(1, math.ceil(self.burst / self.per_s))

    def headers(self, taken: Taken) -> dict[str, str]:
        """Return the fields of draft-ietf-httpapi-ratelimit-headers, as it has been since -08."""
        return {"RateLimit-Policy": self._policy, "RateLimit": self._left(taken)}

    def raw_headers(self, taken: Taken) -> list[tuple[bytes, bytes]]:
        """Return the same fields as ASGI has them."""
        return [self._raw_policy, (b"ratelimit", self._left(taken).encode())]

    def _left(self, taken: Taken) -> str:
        return f'"{self.name}";r={taken.left};t={taken.full_s}'

    def take(self, who: str) -> Taken:
        """Take a token from a caller's bucket, if there is one."""
        now = self._clock.monotonic()
        tokens, at = self._kept.pop(who, (float(self.burst), now))
        tokens = min(float(self.burst), tokens + (now - at) * self.per_s)
        allowed = tokens > _ALMOST_ONE
        if allowed:
            tokens = max(0.0, tokens - 1)
        self._kept[who] = tokens, now
        if len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        return Taken(
            allowed,
            int(tokens),
            math.ceil((self.burst - tokens) / self.per_s),
            0 if tokens > _ALMOST_ONE else max(1, math.ceil((1 - tokens) / self.per_s)),
        )


class Refusals:
    """Sends the refusals of a caller no faster than a rate, if it goes on after being refused.

    `burst` refusals are sent at once, and then `per_s` a second: each waits for its turn, at most
    `most_s` seconds. So a client that sends its next request as soon as it has an answer costs the
    process a fixed number of refusals, however many connections it has.
    """

    def __init__(self, clock: Clock, settings: LimitSettings) -> None:
        self._clock = clock
        self._gap_s = 1 / settings.refusals_per_s
        self._burst_s = settings.refusals_burst * self._gap_s
        self._most_s = settings.refusals_held_s
        self._most_held = settings.refusals_held
        #: when the last refusal of a caller is or was sent
        self._last: OrderedDict[str, float] = OrderedDict()
        self._held = 0

    @property
    def held(self) -> int:
        """How many wait for their turn."""
        return self._held

    def wait_s(self, who: str) -> float | None:
        """Return how long the next refusal of a caller has to wait; None: too many wait already.

        A refusal that has to wait has taken its turn: call this once per refusal.
        """
        now = self._clock.monotonic()
        free = now - self._burst_s
        turn = max(self._last.get(who, free), free) + self._gap_s
        wait_s = max(0.0, turn - now)
        if wait_s > self._most_s or (wait_s > 0 and self._held >= self._most_held):
            return None
        self._last[who] = turn
        self._last.move_to_end(who)
        if len(self._last) > _MOST:
            self._last.popitem(last=False)
        return wait_s

    async def hold(self, seconds: float) -> None:
        """Wait for the turn of a refusal."""
        self._held += 1
        try:
            await self._clock.sleep(seconds)
        finally:
            self._held -= 1


class Sample:
    """Lets one of many through: for log lines that anybody can cause."""

    def __init__(self, clock: Clock, every_s: float = 10) -> None:
        self._clock = clock
        self._every_s = every_s
        self._last: float | None = None
        self._left_out = 0

    def take(self) -> int | None:
        """Return how many were left out since the last one, or None if this one is left out."""
        now = self._clock.monotonic()
        if self._last is not None and now - self._last < self._every_s:
            self._left_out += 1
            return None
        left_out, self._left_out, self._last = self._left_out, 0, now
        return left_out
