"""Limits the request rate at one custodian instance, with a token bucket and a pause after a 429.

Tokens are taken before work begins, never between a moving mark and its call. Every request counts,
whatever makes it; the next work waits until the bucket is no longer overdrawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp

from gateway.capabilities import Rate
from gateway.errors import RateLimited
from gateway.runtime import Clock

#: The longest pause that a `Retry-After` can cause.
MOST_PAUSE_S = 300.0
#: The first and longest pause if the custodian names none; each 429 after a pause doubles it.
_FIRST_PAUSE_S, _LONGEST_OWN_PAUSE_S = 1.0, 60.0
#: How often looks get a token first, so that proofs can end while many payouts are sent.
_LOOKS_EVERY = 4
#: The expected number of requests per verb until it has been measured.
_EXPECTED = 3.0
_MEMORY = 0.1
_TOO_MANY = 429
_ALMOST_ONE = 1 - 1e-6


@dataclass
class _Work:
    """The requests of one verb: the tokens already taken, and the status of the last answer."""

    prepaid: float = 0.0
    made: int = 0
    status: int | None = None


_WORK: ContextVar[_Work | None] = ContextVar("work", default=None)


@dataclass(frozen=True)
class Share:
    """How much work may begin now; `looks` of it are looks that come before anything that moves money."""

    works: int
    looks: int


class Pacer:
    """The bucket of one custodian instance. Without a rate, only a 429 delays anything."""

    def __init__(self, clock: Clock, rate: Rate | None = None) -> None:
        self._clock = clock
        self._per_s: float | None = None
        self._burst = 1.0
        self._tokens = 0.0
        self._counted_at = clock.monotonic()
        self._expected = _EXPECTED
        self._paused_until = float("-inf")
        #: consecutive answers of 429 after pauses
        self._strikes = 0
        #: whether one request is made after a pause, while the others wait for its answer
        self._probing = False
        self._turn = 0
        self.obey(rate)

    def obey(self, rate: Rate | None) -> None:
        """Enforce a rate from now on, starting with a full bucket."""
        self._per_s = None if rate is None else rate.per_s
        self._burst = 1.0 if rate is None else float(rate.burst)
        self._tokens = self._burst
        self._counted_at = self._clock.monotonic()

    @property
    def paced(self) -> bool:
        """Whether a rate is kept to."""
        return self._per_s is not None

    def paused_s(self) -> float:
        """Return for how many seconds nothing is sent; 0 if there is no pause."""
        return max(0.0, self._paused_until - self._clock.monotonic())

    def share(self, most: int) -> Share:
        """Return how much work may begin now, `most` at most."""
        if self.paused_s() or self._probing:
            return Share(0, 0)
        if self._strikes:
            return Share(min(1, most), 0)
        if self._per_s is None:
            return Share(most, 0)
        works = min(most, int((self._count() + 1e-6) / self._cost))
        turns = range(self._turn + 1, self._turn + works + 1)
        return Share(works, sum(turn % _LOOKS_EVERY == 0 for turn in turns))

    def begin(self, works: int) -> None:
        """Take the tokens for this amount of work."""
        self._probing = self._probing or (works > 0 and self._strikes > 0)
        self._turn += works
        if self._per_s is not None:
            self._tokens = self._count() - works * self._cost

    def wait_s(self) -> float | None:
        """Return after how many seconds more work may begin; None if that does not depend on time."""
        paused = self.paused_s()
        if paused:
            return paused
        if self._per_s is None or self._probing:
            return None
        missing = self._cost - self._count()
        return max(0.0, missing / self._per_s) if missing > 0 else None

    def allow_mark(self) -> None:
        """Refuse a moving call while the instance pauses. Raises RateLimited: nothing was sent."""
        paused = self.paused_s()
        if paused:
            message = "the custodian takes no requests now (HTTP 429); not sent"
            raise RateLimited(message, again_after_s=paused)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run work that was begun; tokens that it did not need are returned."""
        work = _Work(prepaid=self._cost if self._per_s is not None else 0.0)
        token = _WORK.set(work)
        try:
            yield
        finally:
            _WORK.reset(token)
            self._tokens += work.prepaid
            self._probing = False
            if work.made:
                self._expected += _MEMORY * (work.made - self._expected)

    @contextmanager
    def hearing(self) -> Iterator[_Work]:
        """Note how the requests of a verb are answered."""
        work = _WORK.get()
        token = None
        if work is None:
            work = _Work()
            token = _WORK.set(work)
        work.status = None
        try:
            yield work
        finally:
            if token is not None:
                _WORK.reset(token)

    def tracing(self) -> aiohttp.TraceConfig:
        """Return what a session needs to count every request and to hear every 429."""
        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(self._started)
        trace.on_request_end.append(self._ended)
        return trace

    def request(self) -> None:
        """Count a request."""
        work = _WORK.get()
        if work is not None:
            work.made += 1
            if work.prepaid >= _ALMOST_ONE:
                work.prepaid -= 1
                return
        if self._per_s is not None:
            self._tokens = self._count() - 1

    def answered(self, status: int, retry_after: str | None = None) -> None:
        """Note an answer. The first 429 starts a pause; those to requests already on their way do not extend it."""
        work = _WORK.get()
        if work is not None:
            work.status = status
        if status != _TOO_MANY:
            if not self.paused_s():
                self._strikes = 0
                self._probing = False
            return
        if self.paused_s():
            return
        own_s = min(_LONGEST_OWN_PAUSE_S, _FIRST_PAUSE_S * 2**self._strikes)
        wish_s = _seconds(retry_after)
        self._strikes = min(self._strikes + 1, 16)
        self._paused_until = self._clock.monotonic() + (own_s if wish_s is None else wish_s)

    @property
    def _cost(self) -> float:
        # Work that costs more than a full bucket must still begin eventually.
        return min(self._burst, float(max(1, math.ceil(self._expected - 0.2))))

    def _count(self) -> float:
        """Return the present tokens; negative if more requests were made than tokens taken."""
        now = self._clock.monotonic()
        if self._per_s is not None:
            fresh = (now - self._counted_at) * self._per_s
            self._tokens = min(self._burst, self._tokens + fresh)
        self._counted_at = now
        return self._tokens

    async def _started(
        self,
        _session: aiohttp.ClientSession,
        _context: SimpleNamespace,
        _params: aiohttp.TraceRequestStartParams,
    ) -> None:
        self.request()

    async def _ended(
        self,
        _session: aiohttp.ClientSession,
        _context: SimpleNamespace,
        params: aiohttp.TraceRequestEndParams,
    ) -> None:
        response = params.response
        self.answered(response.status, response.headers.get("Retry-After"))


def _seconds(retry_after: str | None) -> float | None:
    """Return a `Retry-After` in seconds, capped; None if it is invalid."""
    text = (retry_after or "").strip()
    if not text.isascii() or not text.isdigit():
        return None
    # A number with many digits is the custodian's mistake, and must not stop the instance for good.
    return min(float(text[:6]), MOST_PAUSE_S)
