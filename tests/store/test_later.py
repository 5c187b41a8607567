"""Writes that wait for the end of their group: read as if they were there, and undone with their change."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import sqlite3
from collections.abc import AsyncIterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

import gateway
from gateway.errors import Refused
from gateway.store.database import Database, Later, Tx
from tests.store.faulty import INSERT, Faults, add, names, refuse

#: What was called once a group was over.
over: list[bool] = []


async def _write(tx: Tx, found: Sequence[str]) -> None:
    tx.when_over(over.append)
    rows = [
        {
            "id": each,
            "org": "acme",
            "mode": "live",
            "digest": f"digest-{each}",
            "hint": "",
            "created_at": 0,
            "revoked_at": None,
        }
        for each in found
    ]
    await tx.many(INSERT, rows)


KEYS: Later[str] = Later(frozenset({"api_keys"}), _write)


async def leave(tx: Tx, name: str) -> str:
    """Store function: leave one row to be written."""
    await tx.later(KEYS, [name])
    return name


async def leave_and_refuse(tx: Tx, name: str) -> None:
    """Store function: leave a row, then refuse."""
    await leave(tx, name)
    raise Refused("no", "not today")


@pytest.fixture
def faults() -> Faults:
    """What runs, and what fails."""
    over.clear()
    return Faults()


@pytest.fixture
async def db(path: Path, faults: Faults) -> AsyncIterator[Database]:
    """An open store, its groups as long as they get."""
    async with Database(path, fault=faults, group_s=60) as db:
        yield db


async def test_many_changes_share_one_statement(db: Database, faults: Faults) -> None:
    """Right before the commit, in the order in which it was left."""
    faults.start()
    await asyncio.gather(*(db.run(leave, f"k{n}") for n in range(20)))
    assert faults.texts == ["BEGIN IMMEDIATE", "INSERT INTO", "COMMIT"]
    assert await db.read(names) == sorted(f"k{n}" for n in range(20))
    assert (db.commits, over) == (1, [True])


async def test_whoever_names_the_table_reads_it(db: Database, faults: Faults) -> None:
    """In the same change and in another one of the group; what names it not does not have it written."""

    async def leave_and_look(tx: Tx, name: str) -> list[str]:
        await leave(tx, name)
        return await names(tx)

    faults.start()
    found = await asyncio.gather(
        db.run(leave, "a"), db.run(names), db.run(leave_and_look, "b"), db.run(leave, "c")
    )
    assert list[object](found) == ["a", ["a"], ["a", "b"], "c"]
    assert faults.texts.count("INSERT INTO") == 3
    assert await db.read(names) == ["a", "b", "c"]
    assert db.commits == 1


async def test_a_change_that_fails_leaves_nothing(db: Database) -> None:
    """Neither what it left itself, nor is anything of its neighbours lost or doubled."""

    async def leave_and_fail(tx: Tx) -> None:
        await leave(tx, "never")
        raise RuntimeError("broken")

    results = await asyncio.gather(
        db.run(leave, "a"), db.run(leave_and_fail), db.run(leave, "b"), return_exceptions=True
    )
    assert [type(each) for each in results] == [str, RuntimeError, str]
    assert await db.read(names) == ["a", "b"]


async def test_a_refusal_that_has_left_something_undoes_it(db: Database) -> None:
    """It has written, although no statement has run yet."""
    results = await asyncio.gather(
        db.run(leave, "a"), db.run(leave_and_refuse, "never"), return_exceptions=True
    )
    assert [type(each) for each in results] == [str, Refused]
    assert await db.read(names) == ["a"]


async def test_a_refusal_that_has_others_written_undoes_no_group(db: Database) -> None:
    """Its look writes what a neighbour has left; it has written nothing itself."""
    results = await asyncio.gather(
        db.run(leave, "a"), db.run(refuse), db.run(leave, "b"), return_exceptions=True
    )
    assert [type(each) for each in results] == [str, Refused, str]
    assert db.commits == 1
    assert await db.read(names) == ["a", "b"]


@pytest.mark.parametrize("look", [False, True])
async def test_what_cannot_be_written_is_its_own_callers_error(
    db: Database,
    look: bool,
) -> None:
    """Whoever's statement, or the commit, had it written."""
    await db.run(add, "twice")
    results = await asyncio.gather(
        db.run(leave, "a"),
        db.run(leave, "twice"),
        db.run(names) if look else db.run(leave, "b"),
        db.run(leave, "c"),
        return_exceptions=True,
    )
    kinds = [type(each) for each in results]
    assert kinds == [str, sqlite3.IntegrityError, list if look else str, str]
    assert await db.read(names) == sorted(["a", "c", "twice", *([] if look else ["b"])])


async def test_who_swallows_the_error_commits_nothing_of_it(db: Database) -> None:
    """Half of the rows may be written: nobody goes on from there."""
    await db.run(add, "twice")

    async def swallow(tx: Tx) -> None:
        await leave(tx, "new")
        await leave(tx, "twice")
        with pytest.raises(sqlite3.IntegrityError):
            await names(tx)

    with pytest.raises(sqlite3.IntegrityError):
        await db.run(swallow)
    assert await db.read(names) == ["twice"]


async def test_a_commit_that_fails_is_told(db: Database, faults: Faults) -> None:
    """Once for each time that it was written; what is handed over is handed over after the last one."""
    failed: list[int] = []

    def plan(number: int, text: str) -> None:
        if text == "COMMIT" and not failed:
            failed.append(number)
            raise sqlite3.OperationalError("disk I/O error")

    faults.start(plan)
    await asyncio.gather(db.run(leave, "a"), db.run(leave, "b"))
    assert over == [False, True, True]
    assert await db.read(names) == ["a", "b"]


def test_no_two_of_them_write_one_table() -> None:
    """The order of what waits is kept within each of them, and between them there is none."""
    found: dict[int, Later[Any]] = {}
    for each in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if each.name.startswith(("gateway.store", "gateway.events", "gateway.execution")):
            members = vars(importlib.import_module(each.name)).values()
            found |= {id(one): one for one in members if isinstance(one, Later)}
    assert len(found) >= 5
    for one, other in combinations(found.values(), 2):
        assert one.tables.isdisjoint(other.tables)
