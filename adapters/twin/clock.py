"""A twin's clock: real time plus an offset, with timers that run at once when it is advanced."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

#: The shortest timer of the loop, so that a base clock that stands still cannot make it spin.
_SHORTEST_WAIT_S = 0.001


class Timer:
    """A call that will be made once; `cancel` forgets it."""

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call = call
        self.canceled = False

    def cancel(self) -> None:
        """Forget the call; may be called twice."""
        self.canceled = True


class TwinClock:
    """Seconds since the epoch as the twin sees them; needs a running event loop once timers are set.

    `base` is the time that everybody shares (the machine's, or a simulation's, which must then run
    at the speed of the loop). Advancing moves only the twin: its callers stay at `base`.
    """

    def __init__(self, base: Callable[[], float] = time.time) -> None:
        self._base = base
        self._offset = 0.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._armed: asyncio.TimerHandle | None = None
        self._advancing = False
        self._sleepers: set[asyncio.Event] = set()

    def shared(self) -> float:
        """Return the time without the offset, in seconds: what a caller's own clock shows."""
        return self._base()

    def now(self) -> float:
        """Return the twin's time in seconds since the epoch."""
        return self._base() + self._offset

    def moment(self) -> datetime:
        """Return the twin's time, aware, in UTC."""
        return datetime.fromtimestamp(self.now(), UTC)

    def stamp(self) -> str:
        """Return the twin's time as RFC 3339 with milliseconds."""
        return self.moment().isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def next_midnight(self) -> float:
        """Return the next midnight UTC, strictly later than now, in seconds."""
        day = self.moment().replace(hour=0, minute=0, second=0, microsecond=0)
        return (day + timedelta(days=1)).timestamp()

    def call_at(self, due: float, call: Callable[[], None]) -> Timer:
        """Make `call` when the twin's time reaches `due` (seconds since the epoch)."""
        timer = Timer(due, call)
        heapq.heappush(self._timers, (due, next(self._order), timer))
        self._arm()
        return timer

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Make `call` after a number of seconds of the twin's time."""
        return self.call_at(self.now() + seconds, call)

    async def sleep(self, seconds: float) -> None:
        """Sleep for a number of seconds of the twin's time, or until the clock is reset."""
        done = asyncio.Event()
        self._sleepers.add(done)
        timer = self.call_later(seconds, done.set)
        try:
            await done.wait()
        finally:
            timer.cancel()
            self._sleepers.discard(done)

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`, running every timer that falls due, each at its own moment."""
        target = self.now() + seconds
        self._advancing = True
        try:
            while self._timers and self._timers[0][0] <= target:
                due, _, timer = heapq.heappop(self._timers)
                self._offset += max(0.0, due - self.now())
                if not timer.canceled:
                    timer.call()
            self._offset += max(0.0, target - self.now())
        finally:
            self._advancing = False
            self._arm()

    def reset(self) -> None:
        """Forget every timer, wake every sleeper, and go back to the shared time."""
        self._timers.clear()
        for sleeper in self._sleepers:
            sleeper.set()
        self._offset = 0.0
        self._arm()

    def _arm(self) -> None:
        if self._armed is not None:
            self._armed.cancel()
            self._armed = None
        if self._timers and not self._advancing:
            wait = max(_SHORTEST_WAIT_S, self._timers[0][0] - self.now())
            self._armed = asyncio.get_running_loop().call_later(wait, self._tick)

    def _tick(self) -> None:
        self._armed = None
        try:
            # Each tick reads the time once, so timers that a timer sets wait for the next tick.
            now = self.now()
            while self._timers and self._timers[0][0] <= now:
                _, _, timer = heapq.heappop(self._timers)
                if not timer.canceled:
                    timer.call()
        finally:
            self._arm()
