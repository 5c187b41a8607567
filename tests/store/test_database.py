"""The store's one way in: grouped commits, undone alone, durable, consistent reads."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import bindparam, insert, select, update

from gateway.errors import Refused
from gateway.store import migrate
from gateway.store.database import Database, Query, Tx
from gateway.store.schema import api_keys

_INSERT = Query(insert(api_keys))
_ALL = Query(select(api_keys.c.id).order_by(api_keys.c.id))
_RENAME = Query(
    update(api_keys).where(api_keys.c.id == bindparam("key_id")).values(org=bindparam("new"))
)


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A fresh database file."""
    path = tmp_path / "store.db"
    migrate.prepare(path)
    return path


@pytest.fixture
async def db(path: Path) -> AsyncIterator[Database]:
    """An open store."""
    async with Database(path) as db:
        yield db


async def add(tx: Tx, name: str) -> str:
    """Store function: add one row."""
    await tx.all(
        _INSERT,
        id=name,
        org="acme",
        mode="live",
        digest=f"digest-{name}",
        hint="",
        created_at=0,
        revoked_at=None,
    )
    return name


async def names(tx: Tx) -> list[str]:
    """Store function: return all rows' names."""
    return [row["id"] for row in await tx.all(_ALL)]


async def test_many_changes_share_commits(db: Database, path: Path) -> None:
    """Concurrent changes are grouped: far fewer commits than changes, and all of them durable."""
    before = _commits(path)
    added = await asyncio.gather(*(db.run(add, f"k{index:03}") for index in range(200)))
    assert await db.read(names) == sorted(added)
    assert _commits(path) - before < 20


async def test_a_failing_change_undoes_only_itself(db: Database) -> None:
    """The neighbours in the group of a failing change are committed all the same."""

    async def write_then_fail(tx: Tx) -> None:
        await add(tx, "half")
        msg = "broken"
        raise RuntimeError(msg)

    results = await asyncio.gather(
        db.run(add, "a"),
        db.run(write_then_fail),
        db.run(add, "b"),
        db.run(add, "a"),
        return_exceptions=True,
    )
    assert [type(each) for each in results] == [str, RuntimeError, str, sqlite3.IntegrityError]
    assert await db.read(names) == ["a", "b"]


async def test_a_refusal_that_wrote_is_undone(db: Database) -> None:
    """A refusal is an answer; but had it written, its writes go."""

    async def refuse(tx: Tx, *, write: bool) -> None:
        if write:
            await add(tx, "written")
        raise Refused("no", "not today")

    async def both(*, write: bool) -> tuple[object, object]:
        return await asyncio.gather(
            db.run(refuse, write=write), db.run(add, f"n{write}"), return_exceptions=True
        )

    for write in (False, True):
        refused, added = await both(write=write)
        assert isinstance(refused, Refused)
        assert added == f"n{write}"
    assert await db.read(names) == ["nFalse", "nTrue"]


async def test_a_read_sees_one_state(db: Database) -> None:
    """A change committed in the middle of a read is not seen by it."""
    await db.run(add, "first")

    async def look_twice(tx: Tx) -> tuple[list[str], list[str]]:
        before = await names(tx)
        await db.run(add, "second")
        return before, await names(tx)

    assert await db.read(look_twice) == (["first"], ["first"])
    assert await db.read(names) == ["first", "second"]


async def test_a_select_alone_opens_no_hidden_transaction(db: Database, path: Path) -> None:
    """After any mix of reads and failed changes another process can write at once."""
    await db.read(names)
    with pytest.raises(sqlite3.IntegrityError):
        await db.run(_double)
    other = sqlite3.connect(path, timeout=0.1, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("COMMIT")
    other.close()


async def _double(tx: Tx) -> None:
    await add(tx, "x")
    await add(tx, "x")


async def test_what_is_closed_is_durable(path: Path) -> None:
    """Changes handed in before closing are written; the settings that make them durable are on."""
    async with Database(path) as db:
        waiting = [asyncio.ensure_future(db.run(add, f"w{index}")) for index in range(50)]
        await asyncio.sleep(0)
    assert all(each.done() for each in waiting)
    async with Database(path) as db:
        assert len(await db.read(names)) == 50
        pragmas = await db.read(_pragmas)
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


async def _pragmas(tx: Tx) -> dict[str, object]:
    connection = tx._connection  # type: ignore[attr-defined]
    found = {}
    for name in ("journal_mode", "synchronous", "foreign_keys"):
        rows = list(await connection.execute_fetchall(f"PRAGMA {name}"))
        found[name] = rows[0][0]
    return found


async def test_a_cancelled_caller_does_not_stop_the_writer(db: Database) -> None:
    """The change of a caller that went away is made or not made, and the next one works."""
    task = asyncio.ensure_future(db.run(add, "gone"))
    await asyncio.sleep(0)
    task.cancel()
    await db.run(add, "next")
    assert "next" in await db.read(names)


def _commits(path: Path) -> int:
    """Return how many commits the write-ahead log shows: frames that carry a database size."""
    data = path.with_name(path.name + "-wal").read_bytes()
    page = int.from_bytes(data[8:12])
    frames = range(32, len(data) - 24, 24 + page)
    return sum(int.from_bytes(data[at + 4 : at + 8]) != 0 for at in frames)
