"""Results of tries are written in groups: what arrives while one group is written makes the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from gateway.store.database import Database, Tx

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

    async def settle(self, tried: T) -> R:
        """Record an attempt; return the store function's result. Durable when this returns."""
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((tried, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name="receipts")
        return await done

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
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
