"""Store functions and the transaction that they are given."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.store.connection import Connection
    from gateway.store.lanes import Lanes
    from gateway.store.live_rows import LiveRows
    from gateway.store.seen import SeenRows
    from gateway.store.statements import Query, Row

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

ONLY_TX = "a store function may await nothing but its transaction"


class Tx(Protocol):
    """An open transaction. Its methods never suspend the caller."""

    @property
    def live(self) -> LiveRows | None:
        """Rows that need not be read again, where this is the writer's transaction."""

    @property
    def lanes(self) -> Lanes | None:
        """The sender of this process that takes new deliveries over; None: they are claimed later."""

    async def all(self, query: Query, **values: Any) -> list[Row]:
        """Run a statement; return its rows."""

    async def one(self, query: Query, **values: Any) -> Row | None:
        """Run a statement; return its first row or None."""

    async def many(self, query: Query, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement that returns nothing, once for each row of values, in one call."""

    async def later(self, work: Later[T], items: Sequence[T]) -> None:
        """Have items written at the latest before the commit, together with those of other changes.

        Every statement reads them as if they had been written at once.
        """

    def mark(self, number: int) -> None:
        """Say that this change writes moving mark `number`: the witness records it after the commit."""

    def when_over(self, callback: Callable[[bool], None]) -> None:
        """Have a callback called once the change is over, on the event loop, before its caller goes on.

        True: it is durable. False: nothing of it is; the change may run again, with a new transaction.
        """


StoreFunction = Callable[Concatenate[Tx, P], Awaitable[R]]


@dataclass(frozen=True, eq=False)
class Later(Generic[T]):
    """A write of many items, of any number of changes. Build it once, at module level.

    - `tables`: all that `write` changes. No other `Later` has one of them, and what one inserts refers to
      nothing that another one inserts.
    - `write`: a store function; it gets the items in the order in which they came.
    """

    tables: frozenset[str]
    write: Callable[[Tx, Sequence[T]], Awaitable[None]]


class Waiting(Protocol):
    """What the changes of a group have left to be written: `gateway.store.later`."""

    def add(self, work: Later[T], items: Sequence[T]) -> None:
        """Keep items to be written."""

    def write_for(self, query: Query) -> None:
        """Write what a statement might read, before it runs."""


class CallTx:
    """What the transaction of one call of a store function keeps beside its rows. Of both stores."""

    def __init__(self, *, read_only: bool, lanes: Lanes | None) -> None:
        self._read_only = read_only
        self.lanes = lanes
        #: what is called once the change is over
        self.callbacks: list[Callable[[bool], None]] = []
        #: the highest moving mark that the call wrote
        self.marked: int | None = None

    def mark(self, number: int) -> None:
        """Say that this change writes moving mark `number`."""
        self._open()
        if self._read_only:
            raise RuntimeError("a read cannot write a moving mark")
        self.marked = number if self.marked is None else max(self.marked, number)

    def when_over(self, callback: Callable[[bool], None]) -> None:
        """Have a callback called once the change is over. A read is never over."""
        self._open()
        if self._read_only:
            raise RuntimeError("a read changes nothing that could be over")
        self.callbacks.append(callback)

    def _open(self) -> object:
        """Raise RuntimeError if the function has returned."""
        raise NotImplementedError


class SqliteTx(CallTx):
    """The transaction of one call of a store function, on one SQLite connection."""

    def __init__(
        self,
        connection: Connection,
        *,
        read_only: bool = False,
        live: LiveRows | None = None,
        lanes: Lanes | None = None,
        waiting: Waiting | None = None,
    ) -> None:
        super().__init__(read_only=read_only, lanes=lanes)
        self._connection: Connection | None = connection
        self.live = live
        #: what the changes of the group have left to be written; None: everything is written at once
        self._waiting = waiting

    async def all(self, query: Query, **values: Any) -> list[Row]:
        """Run a statement; return its rows."""
        return self._run(query, values)

    async def one(self, query: Query, **values: Any) -> Row | None:
        """Run a statement; return its first row or None."""
        rows = self._run(query, values)
        return rows[0] if rows else None

    async def later(self, work: Later[T], items: Sequence[T]) -> None:
        """Have items written at the latest before the commit."""
        self._open()
        if self._waiting is None:
            await work.write(self, items)
        else:
            self._waiting.add(work, items)

    def _before(self, query: Query) -> None:
        """Make ready for a statement: it must read what is waiting, and what is kept must stay true."""
        if self._waiting is not None:
            self._waiting.write_for(query)
        if query.drops_live_rows and self.live is not None:
            self.live.clear()

    def _run(self, query: Query, values: dict[str, Any]) -> list[Row]:
        self._before(query)
        text, fixed = query.compiled()
        return self._open().query(text, {**fixed, **values} if fixed else values)

    async def many(self, query: Query, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement that returns nothing, once for each row of values, in one call."""
        self._before(query)
        _, fixed = query.compiled()
        text, names = query.by_place()
        full = [{**fixed, **row} for row in rows] if fixed else rows
        try:
            self._open().query_many(text, [[row[name] for name in names] for row in full])
        except BaseException:
            # The rows before the one that failed are written, and nobody will say so.
            if self.live is not None:
                self.live.clear()
            raise

    def end(self) -> None:
        """Refuse every further statement: the function has returned."""
        self._connection = None

    def _open(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("the store function of this transaction has already returned")
        return self._connection


class PointTx(SqliteTx):
    """The transaction of a point read. There are two of them in each request, and one has nothing but its rows."""

    live = lanes = marked = _waiting = None
    _read_only = True

    def __init__(self, connection: Connection, seen: SeenRows) -> None:
        # What the other transactions set for themselves is the same for each of these, and stands above.
        self._connection = connection
        self._seen = seen

    def _run(self, query: Query, values: dict[str, Any]) -> list[Row]:
        if query.remembered:
            return self._seen.query(self._open(), query, values)
        return super()._run(query, values)


class _Here(threading.local):
    """What this thread is doing."""

    driving = False


_here = _Here()


@contextmanager
def stepping() -> Iterator[None]:
    """Say that this thread runs a store function meanwhile."""
    _here.driving = True
    try:
        yield
    finally:
        _here.driving = False


def refuse_inside_a_function() -> None:
    """Raise RuntimeError if the caller is itself a store function."""
    if _here.driving:
        raise RuntimeError(ONLY_TX)


def run_through(fn: StoreFunction[P, R], tx: Tx, /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a store function to its end, on this thread. RuntimeError if it awaits anything but `tx`."""
    steps = fn(tx, *args, **kwargs).__await__()
    try:
        steps.send(None)
    except StopIteration as end:
        returned: R = end.value
        return returned
    # It waits for something: end it. Whatever its `finally` blocks write is rolled back, too.
    with suppress(Exception, asyncio.CancelledError):
        steps.close()
    name = getattr(fn, "__qualname__", None) or repr(fn)
    raise RuntimeError(f"{ONLY_TX}; {name} awaited something else")


def drive(fn: StoreFunction[P, R], tx: SqliteTx, /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a store function to its end, now, on this thread.

    The methods of a transaction return at once, so the function cannot be suspended, and so neither
    cancelled nor interleaved with another. RuntimeError if it awaits anything else.
    """
    _here.driving = True
    try:
        return run_through(fn, tx, *args, **kwargs)
    finally:
        tx.end()
        _here.driving = False


def snapshot(
    connection: Connection, fn: StoreFunction[P, R], /, *args: P.args, **kwargs: P.kwargs
) -> R:
    """Run a store function that only reads, on one consistent state of the database."""
    connection.open()
    try:
        connection.execute("BEGIN")
        return drive(fn, SqliteTx(connection, read_only=True), *args, **kwargs)
    finally:
        connection.rollback()
