"""A transaction on PostgreSQL, and how a store function is driven through it.

The function is a plain coroutine that awaits nothing but its transaction. Here each statement is an
`Ask` that it hands out; the driver sends it, and goes on with the function once the answer is there.
Other work of the event loop runs meanwhile, so a function keeps nothing of its own outside the rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from gateway.store.transaction import ONLY_TX, CallTx, Later, StoreFunction, stepping

if TYPE_CHECKING:
    from gateway.store.lanes import Lanes
    from gateway.store.live_rows import LiveRows
    from gateway.store.postgres.connection import Connection
    from gateway.store.statements import Query, Row

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class _Ask:
    """A statement that a store function waits for."""

    query: Query
    values: Mapping[str, Any] | Sequence[Mapping[str, Any]]

    def __await__(self) -> Generator[_Ask, list[Row], list[Row]]:
        return (yield self)


class PostgresTx(CallTx):
    """The transaction of one call of a store function."""

    def __init__(self, *, read_only: bool = False, lanes: Lanes | None = None) -> None:
        super().__init__(read_only=read_only, lanes=lanes)
        #: none are kept: another process may have changed them
        self.live: LiveRows | None = None
        self._ended = False
        #: whether a statement was sent that may have changed a row
        self.wrote = False
        #: whether what it writes is read in the order of the commits
        self.ordered = False
        #: by which PostgreSQL gave the transaction up, although the function may have gone on
        self.error: BaseException | None = None

    async def all(self, query: Query, **values: Any) -> list[Row]:
        """Run a statement; return its rows."""
        self._check(query)
        return await _Ask(query, values)

    async def one(self, query: Query, **values: Any) -> Row | None:
        """Run a statement; return its first row or None."""
        rows = await self.all(query, **values)
        return rows[0] if rows else None

    async def many(self, query: Query, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement that returns nothing, once for each row of values, in one call."""
        self._check(query)
        if rows:
            await _Ask(query, rows)

    async def later(self, work: Later[T], items: Sequence[T]) -> None:
        """Write items at once: changes of a group share no writer's memory here."""
        self._open()
        await work.write(self, items)

    def end(self) -> None:
        """Refuse every further statement: the function has returned."""
        self._ended = True

    def _check(self, query: Query) -> None:
        self._open()
        if self._read_only and query.writes:
            raise RuntimeError("a read cannot write")

    def _open(self) -> None:
        if self._ended:
            raise RuntimeError("the store function of this transaction has already returned")

    async def answer(self, connection: Connection, ask: _Ask) -> list[Row]:
        """Run what the function asked for."""
        query = ask.query
        if query.in_commit_order and not self.ordered:
            await connection.take_order()
            self.ordered = True
        if isinstance(ask.values, Mapping):
            rows = await connection.query(query, ask.values)
        else:
            await connection.query_many(query, ask.values)
            rows = []
        if query.writes and (rows or not query.returns):
            self.wrote = True
        return rows


async def drive(
    connection: Connection,
    fn: StoreFunction[P, R],
    tx: PostgresTx,
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """Run a store function to its end. RuntimeError if it awaits anything but the transaction."""
    steps = fn(tx, *args, **kwargs).__await__()
    answer: list[Row] | None = None
    error: BaseException | None = None
    try:
        while True:
            with stepping():
                try:
                    ask = steps.send(answer) if error is None else steps.throw(error)
                except StopIteration as end:
                    returned: R = end.value
                    return returned
            if not isinstance(ask, _Ask):
                with stepping(), suppress(Exception, asyncio.CancelledError):
                    steps.close()
                name = getattr(fn, "__qualname__", None) or repr(fn)
                raise RuntimeError(  # noqa: TRY004 - as on SQLite
                    f"{ONLY_TX}; {name} awaited something else"
                )
            answer, error = None, None
            try:
                answer = await tx.answer(connection, ask)
            except Exception as caught:  # noqa: BLE001 - the function gets it, as on SQLite
                # PostgreSQL has given the transaction up: nothing that follows can be committed.
                tx.error = error = caught
    finally:
        tx.end()
        steps.close()
