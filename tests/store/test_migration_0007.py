"""Migration 0007: keys of before keep what they can do; the audit log becomes a chain."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command

from gateway.config.settings import Settings
from gateway.keys import USUAL, Scope, list_keys
from gateway.runtime import real_runtime
from gateway.store import audit, migrate, upgrading
from gateway.store.database import Tx
from gateway.store.opening import open_database

NEVER_BY_AGE = {
    Scope.PAYOUTS_APPROVE,
    Scope.ADDRESSES_WRITE,
    Scope.LIMITS_WRITE,
    Scope.KEYS_WRITE,
    Scope.PAYOUTS_OPERATE,
}
_OTHERS = "at, 'eve', act, subject, detail, org, number, before, after, request_id, previous, hash"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database of schema 0006 with two keys and three rows in the audit log."""
    path = tmp_path / "g.db"
    command.upgrade(upgrading.config(path), "0006")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO api_keys VALUES (?, 'acme', 'live', ?, 'sk_live_…abcd', 5, ?)",
            [("key_1", "d1", None), ("key_2", "d2", 7)],
        )
        connection.executemany(
            "INSERT INTO audit_log VALUES (?, 1, 'ann', 'same_account', 'fb', ?)",
            [("aud_1", "a is b"), ("aud_2", "c is d"), ("aud_3", "ü \U0001f600")],
        )
    return path


@pytest.fixture
def settings(old: Path) -> Settings:
    """The configuration of a gateway on it."""
    server_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    return Settings.model_validate({"database": old, "server_key": server_key})


@pytest.fixture
def upgraded(old: Path) -> Iterator[sqlite3.Connection]:
    """The database after the upgrade."""
    migrate.upgrade(old)
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        yield connection


async def test_old_keys_keep_what_they_can_do(old: Path, settings: Settings) -> None:
    """All that every key could do, written out, and nothing of what is new."""
    migrate.upgrade(old)
    async with open_database(settings) as db:
        found = await db.scan(list_keys)
    for key in found:
        assert set(key.scopes) == set(USUAL)
        assert not set(key.scopes) & NEVER_BY_AGE
        assert (key.org, key.networks, key.expires_at) == ("acme", (), None)
        assert (key.name, key.owner, key.last_used_at) == (None, None, None)
    assert [key.revoked_at is None for key in found] == [True, False]


def test_scopes_are_all_named() -> None:
    """What is usual, and what is never implied: nothing else exists."""
    assert set(Scope) == set(USUAL) | NEVER_BY_AGE
    assert not set(USUAL) & NEVER_BY_AGE


async def test_old_rows_are_the_installations_chain(old: Path, settings: Settings) -> None:
    """In their order, and new ones go on from them."""
    migrate.upgrade(old)
    async with open_database(settings) as db:
        await db.run(_add)
        rows = await db.scan(audit.chain_page, audit.INSTALLATION, 0, 100)
        assert await db.scan(audit.chains) == [audit.INSTALLATION]
    assert [row["id"] for row in rows][:3] == ["aud_1", "aud_2", "aud_3"]
    head, wrong = audit.broken(rows, audit.Head(audit.INSTALLATION, 0, ""))
    assert (head.number, wrong) == (len(rows), None)


async def _add(tx: Tx) -> None:
    ids = real_runtime().ids
    await audit.add_audit(tx, ids, 2, actor="ann", act="x", subject="y")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET detail = 'other'",
        "DELETE FROM audit_log WHERE id = 'aud_3'",
        "DELETE FROM audit_log",
        f"INSERT OR REPLACE INTO audit_log SELECT id, {_OTHERS} FROM audit_log WHERE id = 'aud_1'",
        f"INSERT OR REPLACE INTO audit_log SELECT 'aud_9', {_OTHERS} FROM audit_log LIMIT 1",
    ],
)
def test_the_database_itself_refuses_changes(upgraded: sqlite3.Connection, statement: str) -> None:
    """Whatever writes to it, and in whatever way."""
    before = upgraded.execute("SELECT * FROM audit_log ORDER BY id").fetchall()
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        upgraded.execute(statement)
    assert upgraded.execute("SELECT * FROM audit_log ORDER BY id").fetchall() == before


def test_a_new_database_refuses_changes_as_well(tmp_path: Path) -> None:
    """The same triggers."""
    migrate.upgrade(tmp_path / "new.db")
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        assert sorted(name for (name,) in names) == [
            "audit_log_no_delete",
            "audit_log_no_replace",
            "audit_log_no_update",
        ]
