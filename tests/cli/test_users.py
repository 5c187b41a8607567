"""`users`: created, listed, reset, removed; nothing secret is stored or printed twice."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli.main import app
from tests.cli.test_commands import config, run

__all__ = ["config"]
_PASSWORD = "correct horse battery staple"


def given(*words: str, password: str = _PASSWORD, code: int = 0) -> str:
    """Run a command that reads a password; return what it printed."""
    result = CliRunner().invoke(app, list(words), input=password + "\n")
    assert result.exit_code == code, result.output
    return result.output


def created(config: Path, name: str = "ada") -> dict[str, str]:
    """Create a user of acme."""
    words = ("users", "create", name, "--org", "acme", "--role", "admin", "--password-stdin")
    return dict(json.loads(given(*words, "--json", "--config", str(config))))


def test_a_user_from_creation_to_removal(config: Path) -> None:
    """The secret of codes is printed once; the list shows none; every act is in the audit log."""
    made = created(config)
    assert made["totp_link"].startswith("otpauth://totp/")
    assert made["totp_secret"] in made["totp_link"]
    told = run("users", "list", "--json", "--config", config)
    assert made["totp_secret"] not in told
    (row,) = json.loads(told)["data"]
    assert (row["name"], row["org"], row["role"]) == ("ada", "acme", "admin")
    renewed = given("users", "reset", "ada", "--password-stdin", "--config", str(config))
    assert "secret:" in renewed
    assert made["totp_secret"] not in renewed
    assert "removed ada" in run("users", "remove", "ada", "--config", config)
    run("users", "remove", "ada", "--config", config, code=1)
    acts = json.loads(run("audit", "list", "--json", "--config", config))["data"]
    assert [each["act"] for each in acts] == ["user_removed", "user_reset", "user_created"]
    with sqlite3.connect(config.with_name("g.db")) as connection:
        (stored,) = connection.execute("SELECT password, totp FROM users").fetchall()
    connection.close()
    assert stored == (None, None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("ada", "--role", "admin"), "--all-orgs"),
        (("ada", "--role", "admin", "--org", "a", "--all-orgs"), "--all-orgs"),
        (("Ada", "--role", "admin", "--org", "acme"), "lower-case"),
        (("ada", "--role", "admin", "--org", "a b"), "an org's name"),
    ],
)
def test_what_cannot_be_created(config: Path, words: tuple[str, ...], told: str) -> None:
    """The message says what is wrong and what to give instead."""
    shown = given("users", "create", *words, "--password-stdin", "--config", str(config), code=2)
    assert told in shown


def test_weak_passwords_are_refused(config: Path) -> None:
    """Before anything is stored."""
    words = ("users", "create", "ada", "--org", "acme", "--role", "viewer", "--password-stdin")
    shown = given(*words, "--config", str(config), password="short", code=2)
    assert "12 to 200 characters" in shown
