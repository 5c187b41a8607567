"""Counting the statements of store functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from gateway.store.database import Database, Later, Query, Row, StoreFunction, Tx
from gateway.store.lanes import Lanes
from gateway.store.live_rows import LiveRows

T = TypeVar("T")


class CountingTx:
    """A transaction that counts its statements; many rows in one call count once."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.texts: list[str] = []

    @property
    def live(self) -> LiveRows | None:
        """Rows that need not be read again."""
        return self._tx.live

    @property
    def lanes(self) -> Lanes | None:
        """The sender of this process."""
        return self._tx.lanes

    def when_over(self, callback: Callable[[bool], None]) -> None:
        """Have a callback called once the change is over."""
        self._tx.when_over(callback)

    async def all(self, query: Query, **values: Any) -> list[Row]:
        """Run a statement; return its rows."""
        self.texts.append(query.compiled()[0])
        return await self._tx.all(query, **values)

    async def one(self, query: Query, **values: Any) -> Row | None:
        """Run a statement; return its first row or None."""
        self.texts.append(query.compiled()[0])
        return await self._tx.one(query, **values)

    def mark(self, number: int) -> None:
        """Say that this change writes a moving mark."""
        self._tx.mark(number)

    async def later(self, work: Later[T], items: Sequence[T]) -> None:
        """Write items at once: each statement is this change's own."""
        await work.write(self, items)

    async def many(self, query: Query, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement once for each row of values."""
        self.texts.append(query.compiled()[0])
        await self._tx.many(query, rows)


async def counted(
    db: Database, fn: StoreFunction[..., Any], *args: Any, **kwargs: Any
) -> tuple[Any, list[str]]:
    """Run a change; return its result and the texts of its statements."""

    async def counting(tx: Tx) -> tuple[Any, list[str]]:
        counter = CountingTx(tx)
        return await fn(counter, *args, **kwargs), counter.texts

    return await db.run(counting)
