"""Sleeping until there is something to do."""

from __future__ import annotations

import asyncio

from gateway.runtime import Clock, Timeline

_YIELD_S = 0.001


def looks_bell(custodian: str) -> str:
    """Return the name of the bell of the looks after the delivery at a custodian instance.

    Not the engine's: most news are of payouts that are not delivered yet.
    """
    return f"{custodian}/delivered"


class Wakeup:
    """A bell that one loop sleeps by. Ringing twice wakes once; a ring while awake is not lost."""

    def __init__(self, clock: Clock, timeline: Timeline | None = None) -> None:
        self._clock = clock
        self._timeline = timeline or Timeline(clock)
        self._rung = False
        self._sleeper: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake the sleeper."""
        self._rung = True
        if self._sleeper is not None:
            _end(self._sleeper)

    async def sleep(self, seconds: float) -> None:
        """Sleep so many seconds, or until the bell rings."""
        if seconds > 0 and not self._rung:
            sleeper = self._sleeper = asyncio.get_running_loop().create_future()
            timer = asyncio.ensure_future(self._clock.sleep(seconds))
            timer.add_done_callback(lambda _: _end(sleeper))
            try:
                await sleeper
            finally:
                timer.cancel()
                self._sleeper = None
        self._rung = False

    async def sleep_until_due(self, due: int | None, longest_s: float) -> None:
        """Sleep until a time of the timeline, `longest_s` at most, or until the bell rings."""
        seconds = longest_s if due is None else (due - self._timeline.now()) / 1e6
        if seconds <= 0:
            # Due already: yield a moment to the others, by the loop's time and not by the clock's.
            await asyncio.sleep(_YIELD_S)
            self._rung = False
            return
        await self.sleep(min(seconds, longest_s))


def _end(sleep: asyncio.Future[None]) -> None:
    if not sleep.done():
        sleep.set_result(None)
