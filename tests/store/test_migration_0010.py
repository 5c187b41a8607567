"""Revision 0010: tables for money that comes back; rows of before are kept as they were."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from alembic import command

from gateway.store import migrate, upgrading


def test_payouts_of_before_are_kept(tmp_path: Path) -> None:
    """Nothing came back of them, and the reader of today reads them."""
    path = tmp_path / "store.db"
    command.upgrade(upgrading.config(path), "0009")
    with sqlite3.connect(path) as db:
        db.execute(
            "INSERT INTO payouts (id, org, mode, status, sub_status, external_ref, metadata, terms, "
            "custodian, account, document, sequence, created_at, updated_at) VALUES "
            "('pay_1', 'acme', 'live', 'delivered', 'delivered', 'u', '{}', '{}', 'c', '{}', '{}', "
            "3, 1, 1)"
        )
        before = db.execute("SELECT * FROM payouts").fetchall()
    db.close()
    assert migrate.upgrade(path) == ("0009", migrate.head_revision())
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT * FROM payouts").fetchall() == [(*row, None) for row in before]
        assert db.execute("SELECT COUNT(*) FROM payout_returns").fetchone() == (0,)
        assert db.execute("SELECT COUNT(*) FROM delivered_looks").fetchone() == (0,)
    db.close()
