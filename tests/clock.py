"""A clock that stands still until it is told to move."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta


class SetClock:
    """Time for tests. Sleepers wake when the time is set past their end."""

    def __init__(self, at: datetime = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)) -> None:
        self._at = at
        self._start = at
        self._moved = asyncio.Condition()

    def now(self) -> datetime:
        """Return the time that was set."""
        return self._at

    def monotonic(self) -> float:
        """Return the seconds since the start."""
        return (self._at - self._start).total_seconds()

    async def sleep(self, seconds: float) -> None:
        """Sleep until the time was advanced so far."""
        end = self._at + timedelta(seconds=seconds)
        async with self._moved:
            await self._moved.wait_for(lambda: self._at >= end)

    async def advance(self, seconds: float) -> None:
        """Advance the time and wake who has slept enough."""
        async with self._moved:
            self._at += timedelta(seconds=seconds)
            self._moved.notify_all()
