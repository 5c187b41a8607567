"""`users`: created, listed, reset, removed; nothing secret is stored or printed twice."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import segno
from typer.testing import CliRunner

from gateway.cli import users
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


def test_the_code_to_scan_holds_the_link() -> None:
    """Two rows of modules in each line, light ones drawn; it fits a terminal of 80 columns."""
    link = (
        f"otpauth://totp/Payouts%20pay.example:ada?secret={'A' * 32}&issuer=Payouts%20pay.example"
    )
    lines = users._code_of(link)
    assert max(map(len, lines)) <= 80
    dark = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}
    rows: list[list[int]] = []
    for line in lines:
        rows += [[dark[each][half] for each in line] for half in (0, 1)]
    wanted = [list(row) for row in segno.make(link, error="l").matrix_iter(border=2)]
    assert rows[: len(wanted)] == wanted
    # Its quiet zone is at every side: nothing that is dark can be stripped from a line's end.
    assert {each for line in lines for each in (line[0], line[-1])} == {"█"}


def test_a_terminal_gets_the_code(config: Path) -> None:
    """A pipe gets the secret and the link alone."""
    main, side = pty.openpty()
    arguments = ["users", "create", "ada", "--org", "acme", "--role", "viewer", "--password-stdin"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", *arguments, "--config", str(config)],
        stdin=subprocess.PIPE,
        stdout=side,
    )
    os.close(side)
    assert process.stdin is not None
    process.stdin.write(b"correct horse battery staple\n")
    process.stdin.close()
    shown = b""
    with suppress(OSError):  # the end of a terminal whose program has gone
        while part := os.read(main, 65536):
            shown += part
    os.close(main)
    assert process.wait() == 0
    text = shown.decode()
    assert "█▀" in text
    assert "secret:" in text
