"""A store whose statements fail on demand, and store functions to try it with."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import bindparam, insert, select, update

from gateway.errors import Refused
from gateway.store.database import Query, Tx
from gateway.store.schema import api_keys, quotes

INSERT = Query(
    insert(api_keys),
    columns=("id", "org", "mode", "digest", "hint", "created_at", "revoked_at"),
)
ALL = Query(select(api_keys.c.id).order_by(api_keys.c.id))
ONE = Query(select(api_keys.c.id).where(api_keys.c.id == bindparam("key_id")))
RENAME = Query(
    update(api_keys).where(api_keys.c.id == bindparam("key_id")).values(org=bindparam("new"))
)
BULK = Query(insert(quotes))


class Faults:
    """Given to a store as `fault`: writes down each statement, and lets the wanted ones fail."""

    def __init__(self) -> None:
        #: (statement, name of the thread)
        self.seen: list[tuple[str, str]] = []
        #: called with number and text of each statement from now on; raises what SQLite would
        self.plan: Callable[[int, str], None] | None = None

    def __call__(self, text: str) -> None:
        self.seen.append((text, threading.current_thread().name))
        if self.plan is not None:
            self.plan(len(self.seen) - 1, text)

    def start(self, plan: Callable[[int, str], None] | None = None) -> None:
        """Count from here, by a new plan."""
        self.seen.clear()
        self.plan = plan

    @property
    def texts(self) -> list[str]:
        """The statements, each by its first two words."""
        return [" ".join(text.split()[:2]) for text, _ in self.seen]


def fails(error: str, when: Callable[[int, str], bool]) -> Callable[[int, str], None]:
    """Return a plan: an OperationalError with these words, on the statements that `when` names."""

    def plan(number: int, text: str) -> None:
        if when(number, text):
            raise sqlite3.OperationalError(error)

    return plan


async def add(tx: Tx, name: str) -> str:
    """Store function: add one row."""
    await tx.all(
        INSERT,
        id=name,
        org="acme",
        mode="live",
        digest=f"digest-{name}",
        hint="",
        created_at=0,
        revoked_at=None,
    )
    return name


async def add_pair(tx: Tx, name: str) -> str:
    """Store function: look, add two rows, change one."""
    await tx.one(ONE, key_id=name)
    await add(tx, f"{name}-1")
    await add(tx, f"{name}-2")
    await tx.all(RENAME, key_id=f"{name}-1", new="other")
    return name


async def add_marked(tx: Tx, name: str, mark: int) -> str:
    """Store function: add one row, and say that it was moving mark `mark`."""
    await add(tx, name)
    tx.mark(mark)
    return name


async def refuse(tx: Tx) -> None:
    """Store function: look, and refuse."""
    await tx.all(ALL)
    raise Refused("no", "not today")


async def add_and_fail(tx: Tx, name: str) -> None:
    """Store function: write, then fail."""
    await add(tx, name)
    raise RuntimeError("broken")


async def names(tx: Tx) -> list[str]:
    """Store function: return all rows' names."""
    return [row["id"] for row in await tx.all(ALL)]


async def fill(tx: Tx, name: str, size: int) -> str:
    """Store function: write so many bytes."""
    await tx.all(
        BULK,
        id=name,
        org="acme",
        mode="live",
        external_ref="u",
        reference=None,
        metadata="x" * size,
        terms="{}",
        account="{}",
        expires_at=0,
        created_at=0,
        payout_id=None,
        decision=None,
    )
    return name


def committed(path: Path) -> set[str]:
    """Return the rows' names as any other process sees them; raises where it could not write at once."""
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        found = {row[0] for row in other.execute("SELECT id FROM api_keys")}
        other.execute("ROLLBACK")
    finally:
        other.close()
    return found
