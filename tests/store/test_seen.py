"""Point reads: one snapshot for a turn of the loop, and kept rows that are exact whoever commits."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Refused
from gateway.store import keys as rows
from gateway.store import seen
from gateway.store.database import Database, Tx
from tests.store.faulty import Faults, add, fails, names

_ELSEWHERE = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1], isolation_level=None) as connection:
    connection.execute(sys.argv[2])
"""
_REVOKE = "UPDATE api_keys SET revoked_at = 7"


@pytest.fixture
def faults() -> Faults:
    """What runs, and what fails."""
    return Faults()


@pytest.fixture
async def db(path: Path, faults: Faults) -> AsyncIterator[Database]:
    """An open store with two keys."""
    async with Database(path, fault=faults) as db:
        for name in ("a", "b"):
            await db.run(add, name)
        yield db


async def revoked(tx: Tx, name: str = "a") -> Any:
    """Return when a key was revoked."""
    row = await rows.key_by_digest(tx, f"digest-{name}")
    return None if row is None else row["revoked_at"]


async def elsewhere(path: Path, text: str) -> None:
    """Write by another process, and wait until it has committed."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _ELSEWHERE, path, text)
    assert await process.wait() == 0


def elsewhere_at_once(path: Path, text: str) -> None:
    """Write by another connection, and keep the event loop waiting meanwhile."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(text)


def _reads(db: Database) -> bool:
    """Return whether the snapshot of a turn is open."""
    return db._read_connection.in_transaction


async def test_what_nobody_has_changed_is_not_read_again(db: Database) -> None:
    """In the same turn and in later ones. Otherwise no test here could fail."""
    assert await db.read(revoked) is None
    before = db.statements
    for _ in range(3):
        assert await db.read(revoked) is None
        await asyncio.sleep(0)
    assert db.statements == before
    assert await db.read(revoked, "b") is None
    assert db.statements == before + 1


async def test_what_another_process_commits_is_read(db: Database) -> None:
    """A key that was revoked by the command line, for example: from the next request on."""
    assert await db.read(revoked) is None
    await elsewhere(db.path, _REVOKE)
    assert await db.read(revoked) == 7
    await elsewhere(db.path, "DELETE FROM api_keys")
    assert await db.read(rows.key_by_digest, "digest-a") is None
    # That there is none is kept as well, and as exactly.
    before = db.statements
    assert await db.read(rows.key_by_digest, "digest-a") is None
    assert db.statements == before


async def test_what_this_process_commits_is_read(db: Database) -> None:
    """As soon as its caller goes on."""
    assert await db.read(revoked) is None
    assert await db.run(rows.revoke_key, "a", 5)
    assert await db.read(revoked) == 5


async def test_what_is_undone_is_never_read(db: Database, faults: Faults) -> None:
    """Neither while it is written, nor after a rollback or a COMMIT that failed."""
    inside: list[Any] = []

    async def change(tx: Tx) -> None:
        await rows.revoke_key(tx, "a", 5)
        inside.append(await revoked(tx))
        raise ZeroDivisionError

    assert await db.read(revoked) is None
    with pytest.raises(ZeroDivisionError):
        await db.run(change)
    assert inside == [5]
    assert await db.read(revoked) is None
    faults.start(fails("disk I/O error", lambda _, text: text == "COMMIT"))
    with pytest.raises(sqlite3.OperationalError):
        await db.run(rows.revoke_key, "a", 6)
    assert await db.read(revoked) is None


async def test_reads_during_a_change_see_the_state_before(db: Database) -> None:
    """What is not committed yet fills nothing."""
    change = asyncio.ensure_future(db.run(rows.revoke_key, "a", 5))
    found = []
    while not change.done():
        found.append(await db.read(revoked))
        await asyncio.sleep(0)
    assert found[0] is None
    assert await db.read(revoked) == 5


async def test_the_reads_of_one_turn_see_one_state(db: Database) -> None:
    """Whoever commits in the middle of it is seen from the next turn on."""
    assert await db.read(names) == ["a", "b"]
    elsewhere_at_once(db.path, _REVOKE)
    assert await db.read(revoked) is None
    await asyncio.sleep(0)
    assert await db.read(revoked) == 7


async def test_a_read_sees_the_commit_that_its_caller_heard_of(db: Database) -> None:
    """Even though others read in every turn."""
    stop = asyncio.Event()

    async def read_on() -> None:
        while not stop.is_set():
            await db.read(names)
            await asyncio.sleep(0)

    reading = asyncio.ensure_future(read_on())
    for at in range(30):
        await db.run(add, f"k{at:02}")
        assert len(await db.read(names)) == at + 3
    stop.set()
    await reading


async def test_no_snapshot_is_open_when_a_change_begins(db: Database, faults: Faults) -> None:
    """Otherwise SQLite could never start its log anew while others read all the time."""
    open_: list[bool] = []

    def look(_: Any, text: str) -> None:
        if text == "BEGIN IMMEDIATE":
            open_.append(db._read_connection.in_transaction)

    async def both(name: str) -> None:
        change = asyncio.ensure_future(db.run(add, name))
        await asyncio.sleep(0)
        await db.read(names)
        assert db._read_connection.in_transaction
        await change

    faults.start(look)
    await asyncio.gather(*(both(name) for name in "xyz"))
    assert open_
    assert not any(open_)


async def test_a_refusal_keeps_the_snapshot_and_an_error_ends_it(db: Database) -> None:
    """Nothing that has failed is used again."""

    async def refuse(tx: Tx) -> None:
        await revoked(tx)
        raise Refused("payout_not_found", "no")

    async def fail(tx: Tx) -> None:
        await revoked(tx)
        raise ZeroDivisionError

    with pytest.raises(Refused):
        await db.read(refuse)
    assert _reads(db)
    with pytest.raises(ZeroDivisionError):
        await db.read(fail)
    assert not _reads(db)
    assert await db.read(revoked) is None
    await asyncio.sleep(0)
    assert not db._read_connection.in_transaction


async def test_a_connection_that_was_opened_again_keeps_nothing(db: Database) -> None:
    """Its numbers begin anew, and might be the same by chance."""
    assert await db.read(revoked) is None
    db._read_connection.close()
    before = db.statements
    assert await db.read(revoked) is None
    assert db.statements == before + 1


async def test_it_is_bounded(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many keys that nobody knows do not fill the memory."""
    monkeypatch.setattr(seen, "MOST", 4)
    for number in range(20):
        assert await db.read(revoked, f"unknown-{number}") is None
    assert len(db._point_reads.seen) <= 4


async def test_changes_and_scans_read_the_database(db: Database) -> None:
    """They have a state of their own."""
    for _ in range(2):
        before = db.statements
        assert await db.run(revoked) is None
        assert await db.scan(revoked) is None
        assert db.statements == before + 2


async def test_many_readers_take_turns(db: Database) -> None:
    """Those that a turn has no room for see a snapshot of a later one."""
    found = await asyncio.gather(*(db.read(revoked) for _ in range(200)))
    assert found == [None] * 200
    await asyncio.sleep(0)
    assert not db._read_connection.in_transaction
