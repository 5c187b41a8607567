"""Sleeping until there is something to do."""

from __future__ import annotations

import asyncio

from gateway.runtime import Clock, Timeline

_YIELD_S = 0.001


class Wakeup:
    """A bell that one loop sleeps by. Ringing twice wakes once; a ring while awake is not lost."""

    def __init__(self, clock: Clock, timeline: Timeline | None = None) -> None:
        self._clock = clock
        self._timeline = timeline or Timeline(clock)
        self._bell = asyncio.Event()

    def ring(self) -> None:
        """Wake the sleeper."""
        self._bell.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep so many seconds, or until the bell rings."""
        if seconds > 0 and not self._bell.is_set():
            waits = {
                asyncio.ensure_future(self._bell.wait()),
                asyncio.ensure_future(self._clock.sleep(seconds)),
            }
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()
        self._bell.clear()

    async def sleep_until_due(self, due: int | None, longest_s: float) -> None:
        """Sleep until a time of the timeline, `longest_s` at most, or until the bell rings."""
        seconds = longest_s if due is None else (due - self._timeline.now()) / 1e6
        if seconds <= 0:
            # Due already: yield a moment to the others, by the loop's time and not by the clock's.
            await asyncio.sleep(_YIELD_S)
            self._bell.clear()
            return
        await self.sleep(min(seconds, longest_s))
