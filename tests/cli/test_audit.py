"""`audit`: what commands do is written down, and a log that was changed is recognised."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_commands import config, create, run

__all__ = ["config"]
_TRIGGERS = ("audit_log_no_update", "audit_log_no_delete", "audit_log_no_replace")


def listed(config: Path, *more: str) -> list[dict[str, Any]]:
    """Return the log, newest first."""
    return list(json.loads(run("audit", "list", "--json", *more, "--config", config))["data"])


def tamper(config: Path, *statements: str) -> None:
    """Change the log as the owner of the file can."""
    with sqlite3.connect(config.with_name("g.db")) as connection:
        for trigger in _TRIGGERS:
            connection.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            connection.execute(statement)
    connection.close()


@pytest.fixture
def written(config: Path) -> Path:
    """A log with some rows in two chains of orgs and in the installation's."""
    for org in ("acme", "acme", "beta"):
        made = create(config, org=org)
    run("keys", "rotate", made["id"], "--scope", "payouts:read", "--config", config)
    run("keys", "revoke", made["id"], "--config", config)
    run("keys", "create", "--operator", "--mode", "live", "--config", config)
    run("db", "reseal", "--config", config)
    return config


def test_acts_on_keys_are_listed(written: Path) -> None:
    """Newest first: who, when, what, before and after; never the key."""
    rows = listed(written)
    assert [(row["org"], row["act"]) for row in rows] == [
        (None, "resealed"),
        (None, "reseal_begun"),
        (None, "key_created"),
        ("beta", "key_revoked"),
        ("beta", "key_rotated"),
        ("beta", "key_created"),
        ("acme", "key_created"),
        ("acme", "key_created"),
    ]
    assert rows[4]["after"]["scopes"] == ["payouts:read"]
    assert rows[4]["before"]["id"] == rows[5]["subject"] == rows[3]["subject"]
    assert rows[2]["after"]["scopes"] == ["payouts:operate"]
    assert all(row["actor"] and row["at"].endswith("Z") for row in rows)
    assert "sk_live_" not in json.dumps(rows)
    assert [row["act"] for row in listed(written, "--installation", "--limit", "1")] == ["resealed"]
    assert len(listed(written, "--org", "acme")) == 2
    assert len(listed(written, "--subject", rows[3]["subject"])) == 2
    assert len(listed(written, "--act", "key_created")) == 4
    assert "key_revoked" in run("audit", "list", "--config", written)
    assert "not both" in run(
        "audit", "list", "--org", "a", "--installation", "--config", written, code=2
    )


def test_the_export_is_whole_and_in_order(written: Path) -> None:
    """One line of JSON per row, chain by chain; enough to check the hashes elsewhere."""
    lines = [json.loads(line) for line in run("audit", "export", "--config", written).splitlines()]
    assert [(row["org"], row["number"]) for row in lines] == [
        *(("", number) for number in (1, 2, 3)),
        *(("acme", number) for number in (1, 2)),
        *(("beta", number) for number in (1, 2, 3)),
    ]
    for row in lines:
        # As the docs say it.
        members = [row[name] for name in ("previous", "org", "number", "id", "at", "actor", "act")]
        members += [row[name] for name in ("subject", "detail", "before", "after", "request_id")]
        text = json.dumps(members, ensure_ascii=False, separators=(",", ":"))
        assert row["hash"] == hashlib.sha256(text.encode()).hexdigest()
    only = run("audit", "export", "--org", "acme", "--config", written).splitlines()
    assert [json.loads(line)["org"] for line in only] == ["acme", "acme"]


def test_a_whole_log_is_verified(written: Path, tmp_path: Path) -> None:
    """Exit 0, with the head of each chain; the heads of before are still in it after more acts."""
    told = run("audit", "verify", "--json", "--config", written)
    assert {row["org"]: row["number"] for row in json.loads(told)["heads"]} == {
        None: 3,
        "acme": 2,
        "beta": 3,
    }
    heads = tmp_path / "heads.json"
    heads.write_text(told)
    create(written, org="acme")
    run("audit", "verify", "--heads", heads, "--config", written)
    assert "(installation)" in run("audit", "verify", "--config", written)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE audit_log SET actor = 'eve' WHERE org = 'beta' AND number = 2", "was changed"),
        ("UPDATE audit_log SET after = NULL WHERE org = 'beta' AND number = 2", "was changed"),
        ("UPDATE audit_log SET request_id = 'r' WHERE org = 'acme' AND number = 2", "was changed"),
        ("UPDATE audit_log SET at = at + 1 WHERE org = 'acme' AND number = 1", "was changed"),
        ("UPDATE audit_log SET hash = 'x' WHERE org = 'beta' AND number = 3", "was changed"),
        ("DELETE FROM audit_log WHERE org = 'beta' AND number = 2", "row 2 is missing"),
        ("DELETE FROM audit_log WHERE org = 'acme' AND number = 1", "row 1 is missing"),
        (
            "UPDATE audit_log SET org = 'beta', number = 4 WHERE org = 'acme' AND number = 2",
            "follow",
        ),
    ],
)
def test_a_changed_log_is_recognised(written: Path, statement: str, words: str) -> None:
    """Exit 1, naming the chain and the row."""
    run("audit", "verify", "--config", written)
    tamper(written, statement)
    assert words in run("audit", "verify", "--config", written, code=1)


def test_rows_that_were_cut_off_need_the_heads(written: Path, tmp_path: Path) -> None:
    """A chain that only ends earlier is whole in itself; with the heads of before it is not."""
    heads = tmp_path / "heads.json"
    heads.write_text(run("audit", "verify", "--json", "--config", written))
    tamper(written, "DELETE FROM audit_log WHERE org = 'beta' AND number = 3")
    run("audit", "verify", "--config", written)
    text = run("audit", "verify", "--heads", heads, "--config", written, code=1)
    assert "beta: it ends with row 2, and had 3 rows earlier" in text
    with sqlite3.connect(written.with_name("g.db")) as connection:
        connection.execute("DELETE FROM audit_log WHERE org = 'acme'")
    connection.close()
    text = run("audit", "verify", "--heads", heads, "--config", written, code=1)
    assert "acme: it ends with row 0" in text
    # Rewritten from the place where it was cut: another row, another hash.
    create(written, org="acme")
    create(written, org="acme")
    text = run("audit", "verify", "--heads", heads, "--config", written, code=1)
    assert "acme: row 2 is not the one that was noted earlier" in text


def test_a_file_without_heads(written: Path, tmp_path: Path) -> None:
    """Said in words, exit 2."""
    nothing = tmp_path / "nothing.json"
    for text in ("", "[]", '{"heads": [{}]}'):
        nothing.write_text(text)
        message = run("audit", "verify", "--heads", nothing, "--config", written, code=2)
        assert "has no heads" in message


@pytest.mark.parametrize(
    "column", ["actor", "detail", "before", "after", "id", "subject", "hash", "at"]
)
def test_bytes_in_a_row_are_named(written: Path, column: str) -> None:
    """No traceback: the row does not fit, and the list and the export go on showing it."""
    tamper(written, f"UPDATE audit_log SET {column} = x'ff00' WHERE org = 'beta' AND number = 2")
    text = run("audit", "verify", "--config", written, code=1)
    assert re.search(r"^beta: row 2 \(.*\) was changed$", text, re.MULTILINE), text
    run("audit", "verify", "--json", "--config", written, code=1)
    assert len(listed(written)) == 8
    run("audit", "list", "--config", written)
    assert len(run("audit", "export", "--config", written).splitlines()) == 8


def test_bytes_as_an_org_are_named(written: Path) -> None:
    """The row is in no chain of an org then."""
    tamper(written, "UPDATE audit_log SET org = x'ff' WHERE org = 'beta' AND number = 3")
    run("audit", "verify", "--config", written, code=1)


def test_each_fault_has_its_line(written: Path) -> None:
    """Two chains, two lines; no escape of a line break between them."""
    tamper(
        written,
        "UPDATE audit_log SET actor = 'eve' WHERE number = 2 AND org IN ('beta', 'acme')",
    )
    text = run("audit", "verify", "--config", written, code=1)
    assert "\\n" not in text
    for org in ("acme", "beta"):
        assert re.search(rf"^{org}: row 2 \(aud_[^ ]*\) was changed$", text, re.MULTILINE), text


def test_a_chain_that_is_gone_is_reported(written: Path) -> None:
    """Also without the heads: the org still has keys, which were logged."""
    tamper(written, "DELETE FROM audit_log WHERE org = 'beta'")
    text = run("audit", "verify", "--config", written, code=1)
    assert "beta: it has keys or payouts, and no chain any more" in text


def test_a_key_from_before_the_log_needs_no_chain(written: Path) -> None:
    """Such keys have no owner; their org has done nothing since."""
    tamper(
        written,
        "DELETE FROM audit_log WHERE org = 'beta'",
        "UPDATE api_keys SET owner = NULL WHERE org = 'beta'",
    )
    run("audit", "verify", "--config", written)


@pytest.mark.parametrize("command", [("audit", "list"), ("keys", "list")])
def test_lists_are_readable_in_a_narrow_terminal(
    written: Path, command: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 120 columns ids and scopes are whole, and nothing is folded into single letters."""
    monkeypatch.setenv("COLUMNS", "120")
    lines = run(*command, "--config", written).splitlines()
    rows = json.loads(run(*command, "--json", "--config", written))["data"]
    heads = [line for line in lines if not line.startswith(" ")]
    assert len(heads) == len(rows)
    for row, head in zip(rows, heads, strict=True):
        assert row.get("subject", row["id"]) in head
        assert len(head) <= 120
    if command[0] == "keys":
        assert "    scopes: payouts:read" in lines
    assert all(len(line) >= 12 for line in lines)
