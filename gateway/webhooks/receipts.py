"""Results of tries are written in groups: what arrives within a moment, or while one group is written.

A receipt by itself costs a transaction, a commit and two hand-overs between threads, more than the
delivery. So a receipt waits for others, as long as nobody needs the place that its try keeps: for
`GATHER_S` at most, and at most `MOST_WAITING` wait. From `JOINING` on, they share the commit of whatever is
written next. What waits is sent again after a kill.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from gateway.store.database import Database, Tx

#: How long a receipt waits for others, in seconds.
GATHER_S = 0.08
#: So many that wait are written with the next change of anybody, such as the next event.
JOINING = 3
#: As soon as so many wait, they are written: a kill sends no more than these again, and what is being written.
MOST_WAITING = 4
_AT_ONCE = 500
T = TypeVar("T")
R = TypeVar("R")


class Receipts(Generic[T, R]):
    """Writes tries by a store function; each caller waits until its own is durable."""

    def __init__(
        self,
        db: Database,
        write: Callable[[Tx, Sequence[T]], Awaitable[Sequence[R]]],
        pause_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._db = db
        #: how long to wait after a group, so that other changes do not wait behind the next one
        self._pause_s = pause_s
        self._write = write
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._writing: asyncio.Task[None] | None = None
        #: when what waits is written at the latest
        self._latest: asyncio.TimerHandle | None = None
        #: whether it is written as soon as the group before it is
        self._hurried = False
        self._closing = False
        db.when_forming(self._join)

    async def settle(self, tried: T, *, may_wait: bool = False) -> R:
        """Record an attempt; return the store function's result. Durable when this returns.

        `may_wait`: for others that come soon, as nobody needs what the caller holds meanwhile.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[R] = loop.create_future()
        self._waiting.append((tried, done))
        if not may_wait or self._closing or len(self._waiting) >= MOST_WAITING:
            self.hurry()
        elif self._latest is None:
            self._latest = loop.call_later(GATHER_S, self.hurry)
        return await done

    def hurry(self) -> None:
        """Write now what waits for others, if anything does."""
        if self._latest is not None:
            self._latest.cancel()
            self._latest = None
        if not self._waiting:
            return
        self._hurried = True
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name="receipts")

    def _join(self) -> None:
        """Share the commit of a change that has just come, if enough wait for a statement of their own."""
        if len(self._waiting) >= JOINING:
            self.hurry()

    def close(self) -> None:
        """Write now what waits, and let nothing wait from now on. May be called twice."""
        self._closing = True
        self.hurry()

    async def _write_all(self) -> None:
        try:
            while self._hurried:
                group, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
                self._hurried = bool(self._waiting)
                try:
                    results = await self._db.run(self._write, [tried for tried, _ in group])
                except Exception as error:  # noqa: BLE001 - handed to those who wait for it
                    for _, done in group:
                        if not done.done():
                            done.set_exception(error)
                else:
                    for (_, done), result in zip(group, results, strict=True):
                        if not done.done():
                            done.set_result(result)
                if (pause_s := self._pause_s()) > 0:
                    await asyncio.sleep(pause_s)
        finally:
            self._writing = None
