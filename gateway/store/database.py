"""One way into the database: `db.run(fn, …)` for a change, `db.read(fn, …)` for a look.

A store function is `async def fn(tx, …)`: it awaits nothing but the transaction, decides before it
writes, and may be run again. Changes of many callers share one commit (group commit): on SQLite a
commit with `synchronous=FULL` costs a disk flush, and sharing it is what makes the store fast
without giving up durability.

The statements are Core expressions compiled once to text and run on the bare driver: measured in
`docs/decisions/0007-compiled-statements.md`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

import aiosqlite
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert as upsert

from gateway.errors import Refused, WitnessFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from sqlalchemy.sql import ClauseElement

__all__ = ["Database", "Query", "Row", "StoreFunction", "Tx", "Witness", "upsert"]

P = ParamSpec("P")
R = TypeVar("R")
Row = sqlite3.Row

#: How many changes may share one commit.
GROUP_LIMIT = 128
_DIALECT = sqlite.dialect(paramstyle="named")
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA busy_timeout=10000",
)


class Query:
    """A Core statement, compiled on first use and kept. Build it once, at module level."""

    def __init__(self, statement: ClauseElement, *, columns: tuple[str, ...] | None = None) -> None:
        self._statement = statement
        self._columns = columns
        self._compiled: tuple[str, dict[str, Any]] | None = None

    def compiled(self) -> tuple[str, dict[str, Any]]:
        """Return the text and the values that the statement itself carries."""
        if self._compiled is None:
            compiled = self._statement.compile(
                dialect=_DIALECT,
                column_keys=list(self._columns) if self._columns else None,
                compile_kwargs={"render_postcompile": True},
            )
            fixed = {name: value for name, value in compiled.params.items() if value is not None}
            self._compiled = (str(compiled), fixed)
        return self._compiled


class Tx(Protocol):
    """An open transaction."""

    async def all(self, query: Query, **values: Any) -> list[Row]:
        """Run a statement; return its rows."""

    async def one(self, query: Query, **values: Any) -> Row | None:
        """Run a statement; return its first row or None."""

    async def many(self, query: Query, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement that returns nothing, once for each row of values, in one call."""

    def mark(self, number: int) -> None:
        """Say that this change writes moving mark `number`."""


StoreFunction = Callable[Concatenate[Tx, P], Awaitable[R]]


class Witness(Protocol):
    """Remembers, outside the database, the highest moving mark that was committed."""

    def record(self, mark: int) -> None:
        """Store the mark durably before returning. Called in a thread, in rising order."""


class _SqliteTx:
    """A transaction on one SQLite connection."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self.marked: int | None = None

    def mark(self, number: int) -> None:
        self.marked = number if self.marked is None else max(self.marked, number)

    async def all(self, query: Query, **values: Any) -> list[Row]:
        text, fixed = query.compiled()
        return list(await self._connection.execute_fetchall(text, {**fixed, **values}))

    async def one(self, query: Query, **values: Any) -> Row | None:
        rows = await self.all(query, **values)
        return rows[0] if rows else None

    async def many(self, query: Query, rows: Sequence[Mapping[str, Any]]) -> None:
        text, fixed = query.compiled()
        await self._connection.executemany(text, [{**fixed, **row} for row in rows])


@dataclass
class _Change:
    """One caller's change, waiting for the writer."""

    call: Callable[[Tx], Awaitable[Any]]
    done: asyncio.Future[Any]
    mark: int | None = None


class Database:
    """The embedded SQLite store: one writer with grouped commits, a few readers.

    - `witness`: records the highest moving mark of each group after its commit and before any of its
      callers goes on. Where that fails, those that set a mark get `WitnessFailed`.
    - `on_schema_change`: a store function that is called in the first transaction after any process
      changed the schema. What it raises goes to every caller; nothing is written.
    """

    def __init__(
        self,
        path: Path,
        readers: int = 4,
        *,
        witness: Witness | None = None,
        on_schema_change: StoreFunction[[], None] | None = None,
    ) -> None:
        self._path = path
        self._witness = witness
        self._on_schema_change = on_schema_change
        self._schema_version = 0
        self._reader_count = readers
        self._changes: asyncio.Queue[_Change] = asyncio.Queue()
        self._readers: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
        self._open: list[aiosqlite.Connection] = []
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Open the connections and start the writer."""
        connection = await self._connect()
        self._schema_version = await _schema_version(connection)
        for _ in range(self._reader_count):
            self._readers.put_nowait(await self._connect())
        self._writer = asyncio.create_task(self._write(connection), name="store-writer")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish the changes that were handed in, then close."""
        await self._changes.join()
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        for connection in self._open:
            await connection.close()

    async def run(self, fn: StoreFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a change; when this returns, it is durable. What `fn` raises undoes only itself."""
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._changes.put_nowait(_Change(lambda tx: fn(tx, *args, **kwargs), done))
        return await asyncio.shield(done)

    async def read(self, fn: StoreFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a look at one consistent state of the database."""
        async with self._reader() as connection:
            await connection.execute_fetchall("BEGIN")
            try:
                return await fn(_SqliteTx(connection), *args, **kwargs)
            finally:
                await connection.execute_fetchall("ROLLBACK")

    async def _connect(self) -> aiosqlite.Connection:
        # isolation_level=None: the driver opens no transaction of its own; BEGIN is ours, always.
        connection = await aiosqlite.connect(self._path, isolation_level=None)
        connection.row_factory = sqlite3.Row
        for pragma in _PRAGMAS:
            await connection.execute_fetchall(pragma)
        self._open.append(connection)
        return connection

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[aiosqlite.Connection]:
        connection = await self._readers.get()
        try:
            yield connection
        finally:
            self._readers.put_nowait(connection)

    async def _write(self, connection: aiosqlite.Connection) -> None:
        while True:
            group = [await self._changes.get()]
            while len(group) < GROUP_LIMIT and not self._changes.empty():
                group.append(self._changes.get_nowait())
            try:
                await self._commit(connection, group)
            finally:
                for _ in group:
                    self._changes.task_done()

    async def _commit(self, connection: aiosqlite.Connection, group: list[_Change]) -> None:
        """Commit a group; where one call fails, undo the group and run each call alone."""
        try:
            results = await self._transact(connection, group)
        except Exception as error:  # noqa: BLE001 - handed to the caller, whatever it is
            if len(group) == 1:
                _fail(group[0].done, error)
                return
            for change in group:
                await self._commit(connection, [change])
            return
        unwitnessed = await self._record(group)
        for change, result in zip(group, results, strict=True):
            if unwitnessed is not None and change.mark is not None:
                failure = WitnessFailed(change.mark)
                failure.__cause__ = unwitnessed
                _fail(change.done, failure)
            elif isinstance(result, Refused):
                _fail(change.done, result)
            elif not change.done.done():
                change.done.set_result(result)

    async def _record(self, group: list[_Change]) -> Exception | None:
        """Tell the witness of the marks that were committed; return its error."""
        mark = max((each.mark for each in group if each.mark is not None), default=None)
        if mark is None or self._witness is None:
            return None
        try:
            await asyncio.to_thread(self._witness.record, mark)
        except Exception as error:  # noqa: BLE001 - those whose mark it was get it
            return error
        return None

    async def _transact(self, connection: aiosqlite.Connection, group: list[_Change]) -> list[Any]:
        await connection.execute_fetchall("BEGIN IMMEDIATE")
        try:
            await self._check_schema(connection)
            results = [await _result(connection, change) for change in group]
            await connection.execute_fetchall("COMMIT")
        except BaseException:
            if connection.in_transaction:
                await connection.execute_fetchall("ROLLBACK")
            raise
        return results

    async def _check_schema(self, connection: aiosqlite.Connection) -> None:
        """Ask the hook where the schema was changed since the last group. In the transaction."""
        if self._on_schema_change is None:
            return
        version = await _schema_version(connection)
        if version != self._schema_version:
            await self._on_schema_change(_SqliteTx(connection))
            self._schema_version = version


async def _result(connection: aiosqlite.Connection, change: _Change) -> Any:
    """Return what a call returns. A refusal that wrote nothing is an answer: it undoes no group."""
    before = connection.total_changes
    tx = _SqliteTx(connection)
    change.mark = None
    try:
        result = await change.call(tx)
    except Refused as refusal:
        if connection.total_changes != before:
            raise
        return refusal
    change.mark = tx.marked
    return result


async def _schema_version(connection: aiosqlite.Connection) -> int:
    (row,) = await connection.execute_fetchall("PRAGMA schema_version")
    return int(row[0])


def _fail(done: asyncio.Future[Any], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
