"""Revision 0009: every reference gets its key, no stored value changes, collisions are listed."""

from __future__ import annotations

import base64
import json
import sqlite3
from pathlib import Path

import pytest
from alembic import command
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.store import upgrading
from gateway.text import reference_key

_NFC, _NFD = "caf\u00e9", "cafe\u0301"
#: org, reference, status, funds_moved
_ROWS = [
    ("acme", _NFC, "delivered", None),
    ("acme", _NFD, "pending", None),
    ("acme", "inv\u200b-1", "delivered", None),
    ("acme", "inv-1", "delivered", None),
    # Not paid: it leaves its reference free.
    ("acme", "free\u200b", "failed", "no"),
    ("acme", "free", "delivered", None),
    # Written alike, as single payouts may be.
    ("acme", "same", "delivered", None),
    ("acme", "same", "delivered", None),
    # Another org's.
    ("rival", "inv-1\u200b", "delivered", None),
    ("acme", None, "delivered", None),
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose database has revision 0006 and these payouts."""
    path = tmp_path / "g.toml"
    key = base64.b64encode(bytes(32)).decode()
    path.write_text(f'server_key = "{key}"\ndatabase = "g.db"\n')
    command.upgrade(upgrading.config(tmp_path / "g.db"), "0006")
    with sqlite3.connect(tmp_path / "g.db") as db:
        # More than one page of them.
        rows = [*_ROWS, *(("bulk", f"r-{number}", "delivered", None) for number in range(2500))]
        for number, (org, reference, status, moved) in enumerate(rows):
            db.execute(
                "INSERT INTO payouts (id, org, mode, status, sub_status, external_ref, reference, "
                "metadata, terms, custodian, account, document, funds_moved, sequence, created_at, "
                "updated_at) VALUES (?, ?, 'live', ?, ?, ?, ?, '{}', '{}', 'c', '{}', '{}', "
                "?, 1, 1, 1)",
                (f"pay_{number:05}", org, status, status, "u\x00\x1b", reference, moved),
            )
    db.close()
    return path


def run(*arguments: object) -> str:
    """Run a command and return what it printed."""
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def _stored(config: Path, columns: str) -> list[tuple[str | None, ...]]:
    with sqlite3.connect(config.with_name("g.db")) as db:
        found = db.execute(f"SELECT {columns} FROM payouts ORDER BY id").fetchall()
    db.close()
    return found


def test_every_reference_gets_its_key_and_none_is_rewritten(config: Path) -> None:
    """However many there are."""
    before = _stored(config, "id, reference, external_ref, status, updated_at")
    run("db", "upgrade", "--config", config)
    assert _stored(config, "id, reference, external_ref, status, updated_at") == before
    pairs = _stored(config, "reference, reference_key")
    assert len(pairs) == len(_ROWS) + 2500
    assert all(key == reference_key(reference) for reference, key in pairs)


def test_collisions_are_listed_and_not_resolved(config: Path) -> None:
    """`db upgrade` says that there are some; a command lists them, told apart by their escapes."""
    assert "payout-gateway payouts collisions" in run("db", "upgrade", "--config", config)
    assert "payouts collisions" not in run("db", "upgrade", "--config", config)
    listed = json.loads(run("payouts", "collisions", "--json", "--config", config))["data"]
    assert [(each["org"], each["reference"]) for each in listed] == [
        ("acme", _NFC),
        ("acme", _NFD),
        ("acme", "inv\u200b-1"),
        ("acme", "inv-1"),
    ]
    assert [each["payout_id"] for each in listed] == [f"pay_{number:05}" for number in range(4)]
    text = run("payouts", "collisions", "--config", config)
    assert "inv\\u200b-1" in text
    assert "caf\\xe9" in text
    assert "cafe\\u0301" in text
    assert "\u200b" not in text


def test_a_database_without_collisions_says_nothing(tmp_path: Path) -> None:
    """And the list is empty."""
    path = tmp_path / "g.toml"
    key = base64.b64encode(bytes(32)).decode()
    path.write_text(f'server_key = "{key}"\ndatabase = "g.db"\n')
    assert "payouts collisions" not in run("db", "upgrade", "--config", path)
    assert json.loads(run("payouts", "collisions", "--json", "--config", path)) == {"data": []}
