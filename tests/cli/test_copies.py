"""`db backup`, `restore`, `moved`, `adopt` and `custodians same-account`, on real files."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.store import gateways, migrate
from tests.cli.test_commands import run

CONFIG = """
server_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
database = "g.db"
state_file = "elsewhere/g.state"
[custodians.acme]
adapter = "dummy"
base_url = "http://127.0.0.1:1/v1"
api_key = "k"
webhook_secret = "s"
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with one custodian, its state file in another folder; a counter is watched briefly."""
    monkeypatch.setattr(gateways, "STALE_S", 0.2)
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "g.toml"
    path.write_text(CONFIG)
    run("db", "upgrade", "--config", path)
    return path


def change(config: Path, text: str) -> None:
    """Change the database behind the gateway's back."""
    with closing(sqlite3.connect(config.with_name("g.db"))) as connection:
        connection.execute(text)
        connection.commit()


def rows(config: Path, text: str) -> list[Any]:
    """Run a query on the database file."""
    with closing(sqlite3.connect(config.with_name("g.db"))) as connection:
        return connection.execute(text).fetchall()


def test_the_state_file_is_where_it_is_configured(config: Path) -> None:
    """Beside the configuration; its name is not taken for a file to read a setting from."""
    told = json.loads((config.parent / "elsewhere" / "g.state").read_text())
    assert told["marks"] == 0
    assert not config.with_name("g.db.state").exists()


def test_there_and_back(config: Path, tmp_path: Path) -> None:
    """Back up, go on, restore: frozen; adopt: usable; accept again."""
    at = ("--config", config)
    change(config, "UPDATE store_state SET marks = 4")
    run("db", "upgrade", *at)
    told = json.loads(run("db", "backup", tmp_path / "b.db", "--json", *at))
    assert told == {"path": str(tmp_path / "b.db"), "schema": migrate.head_revision(), "mark": 4}
    assert "exists" in run("db", "backup", tmp_path / "b.db", *at, code=2)
    change(config, "UPDATE store_state SET marks = 6")
    run("db", "upgrade", *at)
    assert "--force" in run("db", "restore", tmp_path / "b.db", *at, code=1)
    text = run("db", "restore", tmp_path / "b.db", "--force", *at)
    assert "newest mark 4" in text
    assert "g.db.replaced-1" in text
    assert "it is frozen" in text
    assert "db adopt" in text
    assert "warning: the database is frozen" in run("keys", "list", *at)
    frozen = "newest mark 4, and the state file had 6"
    assert frozen in run("db", "moved", *at, code=1)
    assert frozen in run("db", "adopt", "--accept-new", *at, code=1)
    for command in (
        ("payouts", "retry", "pay_x"),
        ("payouts", "resolve", "pay_x", "--yes", "--as", "delivered", "--evidence", "seen"),
    ):
        assert frozen in run(*command, *at, code=1)
    assert "give --last-mark-at" in run("db", "adopt", *at, code=2)
    for wrong in ("yesterday", "2026-01-01T00:00:00", "2026-01-01"):
        assert "with a zone" in run("db", "adopt", "--last-mark-at", wrong, *at, code=2)
    future = run("db", "adopt", "--last-mark-at", "2999-01-01T00:00:00Z", *at, code=1)
    assert "future" in future
    done = json.loads(run("db", "adopt", "--last-mark-at", "2026-01-01T00:00:00Z", "--json", *at))
    assert done == {
        "last_mark": 4,
        "missing_from": None,
        "missing_until": "2026-01-01T00:00:00.000Z",
        "marks": 7,
        "executions": 0,
        "without_execution": 0,
        "attention": 0,
        "quotes": 0,
        "batches": 0,
        "accepting": False,
        "references": [],
    }
    assert "warning" not in run("keys", "list", *at)
    assert rows(config, "SELECT accepting FROM store_state") == [(0,)]
    assert "are accepted" in run("db", "adopt", "--accept-new", *at)
    assert rows(config, "SELECT accepting, marks FROM store_state") == [(1, 7)]


def test_a_machine_that_was_set_back_is_adopted_without_being_frozen(config: Path) -> None:
    """Its snapshot holds the state file, too: nothing recognises it, so the operator says it."""
    text = run(
        "db", "adopt", "--last-mark-at", "2026-01-01T00:00:00Z", "--accept-new", "--config", config
    )
    assert "between the beginning and 2026-01-01T00:00:00.000Z may be missing" in text
    assert "are accepted" in text
    assert rows(config, "SELECT accepting, frozen FROM store_state") == [(1, None)]


def test_references_without_a_payout_stop_it(config: Path) -> None:
    """They are listed; --yes says that they were checked."""
    at = ("--config", config)
    run("db", "adopt", "--last-mark-at", "2026-01-01T00:00:00Z", *at)
    change(
        config,
        "INSERT INTO audit_log (id, at, actor, act, subject, detail, org, number, previous, hash) "
        "SELECT 'a', 1, 'acme', 'unmatched_reference', 'acme transfer t-1', '', '', "
        "1 + max(number), 'p', 'h' FROM audit_log WHERE org = ''",
    )
    text = run("db", "adopt", "--accept-new", *at, code=1)
    assert "no payout has the reference acme transfer t-1" in text
    assert "--yes" in text
    assert rows(config, "SELECT accepting FROM store_state") == [(0,)]
    run("db", "adopt", "--accept-new", "--yes", *at)
    assert rows(config, "SELECT accepting FROM store_state") == [(1,)]
    assert rows(config, "SELECT count(*) FROM audit_log WHERE act = 'reference_checked'") == [(1,)]


def test_gateways_that_did_not_sign_off_are_waited_for(config: Path, tmp_path: Path) -> None:
    """Said on stderr. One that is gone stops neither an upgrade nor a restore."""
    change(
        config,
        "INSERT INTO gateways VALUES "
        "('gwy_1', 1, 'c', 1, 1, 'box', 77, '0', '', '', '', 1, 0, 1, NULL, NULL)",
    )
    run("db", "backup", tmp_path / "b.db", "--config", config)
    for command in (("upgrade",), ("restore", str(tmp_path / "b.db"), "--force")):
        text = run("db", *command, "--config", config)
        assert "gwy_1 (process 77 on box)" in text
    assert "waiting" not in run("db", "upgrade", "--force", "--config", config)


def test_what_cannot_be_restored_is_said_in_words(config: Path, tmp_path: Path) -> None:
    """One line, and the database is as before."""
    at = ("--force", "--config", config)
    (tmp_path / "junk").write_bytes(b"junk" * 1000)
    assert "no backup" in run("db", "restore", tmp_path / "none", *at, code=1)
    assert "not a database" in run("db", "restore", tmp_path / "junk", *at, code=2)
    (tmp_path / "elsewhere" / "g.state").write_text("x")
    run("db", "backup", tmp_path / "b.db", "--config", config)
    text = run("db", "restore", tmp_path / "b.db", *at, code=1)
    assert "not readable as a state file" in text
    text = run("db", "adopt", "--last-mark-at", "2026-01-01T00:00:00Z", "--config", config, code=1)
    assert "not readable as a state file" in text
    for broken in (b"x", b"\xff\xfe"):
        (tmp_path / "elsewhere" / "g.state").write_bytes(broken)
        text = run("db", "moved", "--config", config, code=1)
        assert "move this one away, and then: payout-gateway db adopt" in text
    (tmp_path / "elsewhere" / "g.state").unlink()
    change(config, "UPDATE store_state SET marks = 1")
    assert "payout-gateway db adopt" in run("db", "moved", "--config", config, code=1)
    run("db", "adopt", "--last-mark-at", "2026-01-01T00:00:00Z", "--config", config)


def test_two_fingerprints_are_one_account(config: Path) -> None:
    """Declared with evidence, by a configured name; a chain of declarations is one account."""

    def declare(old: str, new: str) -> str:
        return run(
            *("custodians", "same-account", "acme", "--fingerprint", old, "--same-as", new),
            *("--evidence", "ticket 1", "--config", config),
        )

    assert declare("a", "b") == "declared\n"
    assert rows(
        config,
        "SELECT custodian, fingerprint, same_as FROM account_declarations WHERE custodian > ''",
    ) == [("acme", "a", "b")]
    assert "already" in declare("b", "a")
    declare("b", "c")
    assert "already" in declare("c", "a")
    declare("a", "d")
    of_acme = "SELECT fingerprint, same_as FROM account_declarations WHERE custodian = 'acme'"
    named = dict(rows(config, of_acme))
    assert named == {"a": "d", "b": "d", "c": "d"}
    audit = rows(config, "SELECT act, subject, detail FROM audit_log ORDER BY rowid")
    assert len(audit) == 3
    assert audit[0] == ("same_account", "acme", "a is the same account as b: ticket 1")
    wrong = ("--fingerprint", "a", "--same-as", "b", "--config", config, "--evidence")
    assert "no custodian x" in run("custodians", "same-account", "x", *wrong, "e", code=2)
    assert "must say" in run("custodians", "same-account", "acme", *wrong, " ", code=2)
    # What an adoption recorded was made at no account: nobody can declare that a look finds it.
    nowhere = ("--fingerprint", "adopted", "--same-as", "b", "--evidence", "e")
    assert "is no account" in run("custodians", "same-account", "acme", *nowhere, code=2)
