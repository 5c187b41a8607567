"""Pages of lists: read at once while that is short, and in a reader thread where it is not."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.store import database
from gateway.store.database import Database, Query, Tx
from tests.store.faulty import Faults, add, fails, names

#: As many steps of SQLite as a page that passes over some thousand rows.
_LONG = Query(
    text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
        "SELECT count(*) AS found FROM n"
    )
)
#: The same in rows: it is given up after some of them.
_MANY = Query(
    text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i FROM n"
    )
)


@pytest.fixture
def faults() -> Faults:
    """What runs, and what fails."""
    return Faults()


@pytest.fixture(autouse=True)
def rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every page tried on the loop, whatever became of the one before."""
    monkeypatch.setattr(database, "REST_S", 0.0)


@pytest.fixture
async def db(path: Path, faults: Faults) -> AsyncIterator[Database]:
    """An open store that gives a page up as soon as it looks at the clock."""
    async with Database(path, page_s=0.0, fault=faults) as db:
        yield db


async def _thread(_: Tx) -> str:
    return threading.current_thread().name


async def _long(tx: Tx) -> tuple[int, str]:
    row = await tx.one(_LONG)
    assert row is not None
    return row["found"], threading.current_thread().name


async def _rows(tx: Tx) -> int:
    return len(await tx.all(_MANY))


async def test_a_short_page_is_read_on_the_loop_and_sees_every_commit(db: Database) -> None:
    """It takes fewer steps than there are between two looks at the clock."""
    for name in ("a", "b"):
        await db.run(add, name)
        assert name in await db.read_page(names)
    assert await db.read_page(_thread) == threading.current_thread().name


async def test_a_long_page_is_given_up_and_read_in_a_thread(db: Database) -> None:
    """Its statement runs twice; the result is that of the second time."""
    before = db.statements
    found, thread = await db.read_page(_long)
    assert (found, thread.startswith("store-scan")) == (20000, True)
    assert db.statements == before + 2


async def test_after_a_long_page_the_next_ones_are_read_in_threads(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or somebody who asks for nothing but long pages would have the event loop waiting all the time."""
    monkeypatch.setattr(database, "REST_S", 600.0)
    await db.read_page(_long)
    before = db.statements
    assert (await db.read_page(_long))[0] == 20000
    assert db.statements == before + 1
    assert (await db.read_page(_thread)).startswith("store-scan")


async def test_a_page_has_its_time(path: Path) -> None:
    """Otherwise every page would be left to a thread, and no test here would see it."""
    async with Database(path, page_s=60.0) as db:
        assert await db.read_page(_long) == (20000, threading.current_thread().name)


async def test_only_pages_have_a_limit(db: Database) -> None:
    """The connection of point reads is the same one, before and after a page that was given up."""
    await db.read_page(_long)
    assert await db.read(_long) == (20000, threading.current_thread().name)
    await db.read_page(_thread)
    assert await db.read(_long) == (20000, threading.current_thread().name)


async def test_a_page_that_was_given_up_leaves_the_connection_open(db: Database) -> None:
    """Where ROLLBACK were given up as well, the connection would have to be opened again."""
    await db.read(names)
    opened = db._read_connection.opened
    await db.read_page(_long)
    assert not db._read_connection.in_transaction
    await db.read(names)
    assert db._read_connection.opened == opened


async def test_a_page_that_was_given_up_is_compiled_once_and_not_each_time(db: Database) -> None:
    """Python 3.11 takes a statement that failed after its first row for one that is in use."""
    await db.read_page(_rows)
    compiled: list[int] = []

    def note(action: int, *_: str | None) -> int:
        compiled.append(action)
        return sqlite3.SQLITE_OK

    raw = db._read_connection._raw
    assert raw is not None
    raw.set_authorizer(note)
    # With another authorizer every statement is compiled again, but only once.
    await db.read(_rows)
    assert compiled
    compiled.clear()
    await db.read(_rows)
    assert compiled == []
    raw.set_authorizer(None)


async def test_an_error_of_a_page_is_its_callers(db: Database, faults: Faults) -> None:
    """Only what was given up, and what is busy, is asked again."""
    faults.start(fails("disk I/O error", lambda _, text: text.startswith("SELECT")))
    with pytest.raises(sqlite3.OperationalError, match="disk"):
        await db.read_page(names)
    assert faults.texts == ["BEGIN", "SELECT api_keys.id", "ROLLBACK"]


async def test_many_pages_leave_turns_to_others(db: Database) -> None:
    """Four pages at most are read in one turn of the event loop."""
    turns: list[int] = []
    turn = 0

    async def note(_: Tx) -> None:
        turns.append(turn)

    async def count() -> None:
        nonlocal turn
        while len(turns) < 12:
            turn += 1
            await asyncio.sleep(0)

    await asyncio.gather(count(), *(db.read_page(note) for _ in range(12)))
    assert max(turns.count(each) for each in set(turns)) == 4
