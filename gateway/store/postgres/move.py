"""Move a SQLite database to PostgreSQL: offline, in one transaction, compared row by row.

Whatever fails, the target is as empty as before, and the move is begun again. The file is frozen before
the target is committed: at no moment can both be used. Once it is committed the file is never moved again:
it knows nothing of what was done since. Nor is a file that its state file says to be an older copy.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import Table

from gateway.errors import SchemaMismatch, StoreUnusable
from gateway.runtime import Ids
from gateway.store import migrate
from gateway.store.audit import add_to_copy
from gateway.store.postgres import schema
from gateway.store.postgres.connection import Server
from gateway.store.schema import metadata
from gateway.store.state import DATABASE, FROZEN
from gateway.store.state_file import MOVED_TO, StateFile, judge, next_step

#: Rows per step.
_AT_ONCE = 2000
#: Tables that a new database has a row in.
_MADE_WITH_ROWS = ("store_state", "store_schema")
#: Columns with a number that the database gives, and the sequence that gives it.
_NUMBERED = (("events", "position"), ("heartbeats", "id"))


class NotMovedError(Exception):
    """The database was not moved; the message says why. Nothing was changed in the target."""


@dataclass(frozen=True)
class Moved:
    """One table that was copied."""

    table: str
    rows: int
    digest: str  #: SHA-256 of all rows in the order of the primary key, the same on both sides


def reason_of(server: Server) -> str:
    """Return why the file is frozen after the move."""
    return f"{MOVED_TO} {server.label}: this file is what was left"


def begun_reason_of(server: Server) -> str:
    """Return why the file is frozen from right before the commit in the target until right after it."""
    return f"the database is being moved to {server.label}: run db move again if it has stopped"


async def move(  # noqa: PLR0913 - both sides, and who moves
    path: Path,
    server: Server,
    state_file: StateFile,
    *,
    operator: str,
    ids: Ids,
    at: int,
    tell: Callable[[Moved], None] = lambda _: None,
) -> list[Moved]:
    """Copy every row of a SQLite database into an empty PostgreSQL one, compare, freeze the file.

    Nobody else may use either. `at`: the wall clock, for the audit log. NotMovedError, SchemaMismatch,
    StoreUnusable; nothing is written to the target then.
    """
    revision = migrate.current_revision(path)
    if revision is None:
        raise NotMovedError(f"there is no database {path}")
    migrate.require_head(path, revision)
    begun = begun_reason_of(server)
    uri = f"{path.absolute().as_uri()}?mode=rw"  # noqa: ASYNC240 - nothing else runs meanwhile
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as source:
        source.execute("PRAGMA synchronous=FULL")
        frozen = _why_frozen(source, state_file)
        if frozen not in {None, begun}:
            raise NotMovedError(f"{path} is frozen: {frozen}. Next: {next_step(frozen)}")
        await schema.prepare(server)
        try:
            connection = await asyncpg.connect(server.url, timeout=server.connect_s)
        except (OSError, asyncpg.PostgresError) as error:
            raise StoreUnusable(f"{server.label} cannot be used: {error}") from error
        try:
            async with connection.transaction(isolation="serializable"):
                await _refuse_rows(connection, server)
                moved = [await _copy(source, connection, table) for table in metadata.sorted_tables]
                for each in moved:
                    tell(each)
                await connection.execute("UPDATE store_state SET frozen = NULL, witnessed = 0")
                await _go_on_numbering(source, connection)
                # From here on the file is not used any more, whatever becomes of the commit.
                _freeze(source, state_file, begun, operator, ids, at)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise NotMovedError(f"{server.label}: {error}") from error
        finally:
            await connection.close(timeout=5)
        _freeze(source, state_file, reason_of(server), operator, ids, at)
    return moved


def _why_frozen(source: sqlite3.Connection, state_file: StateFile) -> str | None:
    """Return why the file must not be used, also where no gateway has opened it since. StateFileError."""
    marks, witnessed, frozen = source.execute(
        "SELECT marks, witnessed, frozen FROM store_state"
    ).fetchone()
    if frozen is not None:
        return str(frozen)
    used = marks > 0 or source.execute("SELECT 1 FROM payouts LIMIT 1").fetchone() is not None
    here = state_file.database_file()
    return judge(state_file.read(), here, marks, witnessed=bool(witnessed), used=used).frozen


async def _refuse_rows(connection: Any, server: Server) -> None:
    """Refuse a target that is in use, or has been used."""
    if not await connection.fetchval(f"SELECT pg_try_advisory_xact_lock({schema.LOCK})"):
        raise NotMovedError(f"{server.label} is in use: stop every gateway on it")
    for table in metadata.sorted_tables:
        if table.name in _MADE_WITH_ROWS:
            continue
        if await connection.fetchval(f'SELECT 1 FROM "{table.name}" LIMIT 1') is not None:  # noqa: S608 - names of our own
            raise NotMovedError(
                f"{server.label} has rows in {table.name} already: name an empty database"
            )
    for name in (*_MADE_WITH_ROWS, "store_cluster"):
        await connection.execute(f"DELETE FROM {name}")  # noqa: S608 - names of our own


async def _copy(source: sqlite3.Connection, connection: Any, table: Table) -> Moved:
    names = [column.name for column in table.columns]
    order = ", ".join(f'"{column.name}"' for column in table.primary_key.columns)
    listed = ", ".join(f'"{name}"' for name in names)
    text = f'SELECT {listed} FROM "{table.name}" ORDER BY {order}'  # noqa: S608 - names of our own
    read, count = hashlib.sha256(), 0
    for rows in _pages(source.execute(text)):
        for row in rows:
            if any(isinstance(value, str) and "\0" in value for value in row):
                raise NotMovedError(
                    f"a text in {table.name} has a NUL character, which PostgreSQL does not store; "
                    f"its row begins with {row[0]!r}"
                )
            _add(read, row)
        await connection.copy_records_to_table(table.name, records=rows, columns=names)
        count += len(rows)
    written, found = hashlib.sha256(), 0
    async for row in connection.cursor(text, prefetch=_AT_ONCE):
        _add(written, tuple(row))
        found += 1
    if (count, read.digest()) != (found, written.digest()):
        raise NotMovedError(f"{table.name} differs after the copy: {count} rows, {found} written")
    return Moved(table.name, count, read.hexdigest())


def _pages(cursor: sqlite3.Cursor) -> Iterator[list[Any]]:
    while rows := cursor.fetchmany(_AT_ONCE):
        yield rows


def _add(digest: Any, row: Iterable[Any]) -> None:
    """Add a row: each value with its type and length, so that no two rows look alike."""
    for value in row:
        data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        digest.update(f"{type(value).__name__}:{len(data)}:".encode())
        digest.update(data)
    digest.update(b"\n")


async def _go_on_numbering(source: sqlite3.Connection, connection: Any) -> None:
    """Let no number be given a second time, also not one whose row was deleted."""
    for table, column in _NUMBERED:
        row = source.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
        if row is not None and row[0]:
            await connection.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), {int(row[0])})"
            )


def _freeze(  # noqa: PLR0913 - what the audit log needs
    source: sqlite3.Connection, state_file: StateFile, reason: str, operator: str, ids: Ids, at: int
) -> None:
    (marks, frozen) = source.execute("SELECT marks, frozen FROM store_state").fetchone()
    if frozen != reason:
        source.execute("BEGIN IMMEDIATE")
        source.execute("UPDATE store_state SET frozen = ?", (reason,))
        add_to_copy(
            source,
            {
                "id": ids.new("aud"),
                "at": at,
                "actor": operator,
                "act": FROZEN,
                "subject": DATABASE,
                "detail": reason,
            },
        )
        source.execute("COMMIT")
    state_file.rewrite(marks, frozen=reason)


__all__ = ["Moved", "NotMovedError", "SchemaMismatch", "move", "reason_of"]
