"""Revisions 0012 and 0013: pauses, active rules, attention that closes, limits; nothing of before changes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from alembic import command

from gateway.model import GATE_VERSION
from gateway.store import migrate, upgrading


def test_attention_of_before_stays_open_and_is_told_to_nobody(tmp_path: Path) -> None:
    """What is on the list stays on it; subscribers are not notified now."""
    path = tmp_path / "store.db"
    command.upgrade(upgrading.config(path), "0010")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(
            "INSERT INTO payouts (id, org, mode, status, sub_status, external_ref, metadata, terms, "
            "custodian, account, document, sequence, created_at, updated_at) VALUES "
            "('pay_1', 'acme', 'live', 'pending', 'created', 'u', '{}', '{}', 'c', '{}', '{}', 3, 1, 1)"
        )
        db.execute("INSERT INTO attention VALUES ('pay_1', 'mismatch', 'd', 2, 5, 7)")
    assert migrate.upgrade(path) == ("0010", migrate.head_revision())
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT * FROM attention").fetchall() == [
            ("pay_1", "mismatch", "d", 2, 5, 7, None, 7, None)
        ]
        assert db.execute("SELECT gate_version FROM store_state").fetchall() == [(GATE_VERSION,)]
        for table in ("pauses", "money_rules", "spending_counters", "spending_entries"):
            assert db.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (0,)
