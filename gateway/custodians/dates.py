"""How far our wall clock is from a custodian's, by the `Date` of its answers, and which credentials it dated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import SimpleNamespace

import aiohttp

from gateway.runtime import Clock, Moment

#: An older answer says nothing about the present clocks.
_FRESH_S = 600.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: How far the wall clock was ahead of elapsed time, in microseconds, at each reading of a verb.
_READINGS: ContextVar[list[int] | None] = ContextVar("readings", default=None)


class Dates:
    """Remembers the newest `Date` header of one instance's answers, against elapsed time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: tuple[float, float, str] | None = None

    def tracing(self) -> aiohttp.TraceConfig:
        """Return what a session needs to note every answer's date."""
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._note)
        return trace

    def note(self, date: str | None) -> None:
        """Note the `Date` header of an answer that has just come."""
        theirs = _seconds_of(date) if date else None
        if theirs is None:
            return
        now = self._clock.moment()
        # The custodian's present time, if both clocks have run equally since.
        self._seen = (theirs - now.elapsed / 1e6, now.elapsed / 1e6, now.clock_id)

    def skew_s(self) -> float | None:
        """Return our wall clock minus the custodian's, in seconds; None if it is not known now."""
        now = self._clock.moment()
        if self._seen is None or self._seen[2] != now.clock_id:
            return None
        offset, noted, _ = self._seen
        if now.elapsed / 1e6 - noted > _FRESH_S:
            return None
        return now.wall / 1e6 - (offset + now.elapsed / 1e6)

    async def _note(
        self,
        _session: aiohttp.ClientSession,
        _context: SimpleNamespace,
        params: aiohttp.TraceRequestEndParams,
    ) -> None:
        self.note(params.response.headers.get("Date"))


@lru_cache(maxsize=16)
def _seconds_of(date: str) -> float | None:
    """Return the seconds since 1970 of a `Date` header; None if it is invalid. Cached, as it changes once a second."""
    try:
        at = parsedate_to_datetime(date)
    except ValueError:
        return None
    return None if at.tzinfo is None else at.timestamp()


class NotedClock:
    """A clock for an adapter that remembers each reading of the wall clock until the verb ends.

    Credentials that were dated while it was wrong are therefore not used after it was corrected.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def moment(self) -> Moment:
        """Return this moment by all clocks."""
        now = self._clock.moment()
        readings = _READINGS.get()
        if readings is not None:
            readings.append(_ahead(now))
        return now

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        return _EPOCH + timedelta(microseconds=self.moment().wall)

    def monotonic(self) -> float:
        """Return seconds on a clock that never steps back."""
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep for a number of seconds."""
        await self._clock.sleep(seconds)


@contextmanager
def noted_readings(clock: Clock) -> Iterator[None]:
    """Note the wall clock's time, now and whenever an adapter reads it meanwhile."""
    token = _READINGS.set([_ahead(clock.moment())])
    try:
        yield
    finally:
        _READINGS.reset(token)


def set_since_s(clock: Clock) -> list[float]:
    """Return by how many seconds the wall clock was ahead of what it shows now, at each reading."""
    now = _ahead(clock.moment())
    return [(each - now) / 1e6 for each in _READINGS.get() or ()]


def _ahead(moment: Moment) -> int:
    return moment.wall - moment.elapsed
