"""Receipts are written in groups: what came while one group was written makes the next."""

from __future__ import annotations

import asyncio

from gateway.store.database import Database
from gateway.store.receipts import Receipt, settle_receipts

_AT_ONCE = 500


class Receipts:
    """Writes receipts; each caller waits until its own is durable."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: list[tuple[Receipt, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def settle(self, receipt: Receipt) -> None:
        """Write a receipt (`settle_receipts`). When this returns, it is durable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((receipt, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="receipts")
        await done

    async def _write(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
                try:
                    await self._db.run(settle_receipts, [row for row, _ in group])
                except Exception as error:  # noqa: BLE001 - handed to those who wait for it
                    _tell(group, error)
                else:
                    _tell(group, None)
        finally:
            self._writing = None


def _tell(group: list[tuple[Receipt, asyncio.Future[None]]], error: Exception | None) -> None:
    for _, done in group:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
