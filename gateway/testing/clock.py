"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

from gateway.runtime import Moment

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBERS = itertools.count(1)


class SetClock:
    """Time for tests. Sleepers wake when the time is set past their end."""

    def __init__(self, at: datetime = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)) -> None:
        self._at = at
        self._elapsed = timedelta()
        self._clock_id = f"set-{next(_NUMBERS)}"
        self._moved = asyncio.Condition()
        self._sleepers = 0

    def now(self) -> datetime:
        """Return the time that was set."""
        return self._at

    def monotonic(self) -> float:
        """Return the seconds since the start."""
        return self._elapsed.total_seconds()

    @property
    def sleepers(self) -> int:
        """How many wait for the time to be advanced."""
        return self._sleepers

    def moment(self) -> Moment:
        """Return this moment by all clocks."""
        microsecond = timedelta(microseconds=1)
        return Moment(
            self._clock_id, self._elapsed // microsecond, (self._at - _EPOCH) // microsecond
        )

    async def sleep(self, seconds: float) -> None:
        """Sleep until the time was advanced so far."""
        end = self._elapsed + timedelta(seconds=seconds)
        self._sleepers += 1
        try:
            async with self._moved:
                await self._moved.wait_for(lambda: self._elapsed >= end)
        finally:
            self._sleepers -= 1

    async def advance(self, seconds: float) -> None:
        """Advance the time and wake who has slept enough."""
        async with self._moved:
            self._at += timedelta(seconds=seconds)
            self._elapsed += timedelta(seconds=seconds)
            self._moved.notify_all()

    def step(self, seconds: float) -> None:
        """Set the wall clock forward or back; no time passes."""
        self._at += timedelta(seconds=seconds)

    def reboot(self) -> None:
        """Begin a new elapsed clock, as after a boot or on another machine; sleepers sleep on."""
        self._clock_id = f"set-{next(_NUMBERS)}"
