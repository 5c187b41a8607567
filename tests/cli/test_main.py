"""Every command, with what a user can get wrong: a message and an exit code, never a traceback."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer

from gateway import __version__
from gateway.cli import main as command_line
from gateway.store.database import Database
from tests.cli.test_commands import config, run

__all__ = ["config"]
#: Those that run until they are stopped, or start a stack of their own; they have tests of their own.
_SERVERS = {
    ("serve",),
    ("doctor",),
    ("sandbox",),
    ("demo",),
    ("webhooks", "listen"),
    ("adapters", "check"),
}
#: What each argument and required option gets: nothing of it exists.
_VALUES = {
    "account_id": "A",
    "account_type": "ACCOUNT",
    "amount": "5",
    "asset": "USDC",
    "batch_id": "bat_x",
    "begin": "2026-01-01",
    "code": "USDC",
    "custodian": "acme",
    "destination": "0x52908400098527886E0F7030069857D2E4169EE7",
    "end": "2026-02-01",
    "ending": "failed",
    "endpoint_id": "whe_x",
    "event_id": "evt_x",
    "evidence": "seen",
    "file": "nothing.csv",
    "into": "/nonexistent/report.csv",
    "key_id": "key_x",
    "mode": "live",
    "name": "nobody",
    "of": "whe_x",
    "org": "nobody",
    "payout_id": "pay_x",
    "payout_ids": "pay_x",
    "reason": "r",
    "role": "viewer",
    "since": "2026-01-01",
    "source": "/nonexistent/copy.db",
    "target": "postgresql://127.0.0.1:9/x",
    "to": "/nonexistent/copy.db",
}


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command with its path."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, each in getattr(command, "commands", {}).items():
            yield from walk(each, (*path, name))
        if not hasattr(command, "commands"):
            yield path, command

    yield from walk(typer.main.get_command(command_line.app), ())


def words_of(path: tuple[str, ...], command: Any, config: Path) -> list[str]:
    """Return a call of a command with everything that it requires."""
    words = list(path)
    for each in command.params:
        if each.param_type_name == "argument":
            words.append(_VALUES[each.name])
        elif each.required or (each.name, path[0]) == ("org", "keys"):
            words += [each.opts[0], _VALUES[each.name]]
    options = {option for each in command.params for option in each.opts}
    words += ["--config", str(config)] if "--config" in options else []
    words += ["--gateway", "http://127.0.0.1:9", "--api-key", "k"] if "--gateway" in options else []
    words += ["--yes"] if path == ("payouts", "resolve") else []
    words += ["--all-orgs"] if path == ("users", "create") else []
    words += ["--last-mark-at", "2026-01-01T00:00:00Z"] if path == ("db", "adopt") else []
    return words


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run the command line as its process does; return the exit code and what was printed."""

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["payout-gateway", *words])
        code: Any = 0
        try:
            command_line.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        return int(code), out + err

    mask = os.umask(0o077)
    os.umask(mask)
    yield call
    os.umask(mask)


_TEXTS = {
    "no file": None,
    "no TOML": b"database = ",
    "no UTF-8": b'database = "\xff"',
    "wrong types": b"server_key = 7\ndatabase = 5\nlisten = 3\nroutes = {}\n[custodians]\nx = 1",
    "a loop of links": None,
    "no server key": b'database = "g.db"',
}


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("what", _TEXTS)
def test_a_configuration_that_cannot_be_used(told: Any, tmp_path: Path, what: str) -> None:
    """Every command that reads one ends with 2 and names what is wrong with it."""
    config, text = tmp_path / "g.toml", _TEXTS[what]
    if text is not None:
        config.write_bytes(text)
    elif "links" in what:
        config.symlink_to(config)
    tried = 0
    for path, command in commands():
        words = words_of(path, command, config) if path not in _SERVERS else []
        if path == ("serve",):
            words = ["serve", "--config", str(config)]
        if "--config" in words and path != ("init",):
            code, said = told(*words)
            assert code == 2, (path, said)
            assert said.startswith("config: "), (path, said)
            tried += 1
    assert tried > 35


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("what", ["no database", "a folder", "rubbish", "empty"])
def test_a_database_that_cannot_be_used(
    told: Any, config: Path, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is not there: payouts, keys, batches, a gateway. Nothing is a traceback."""
    monkeypatch.chdir(tmp_path)
    database = config.with_name("g.db")
    if what == "empty":
        run("db", "upgrade", "--config", config)
    for path, command in commands():
        if path in _SERVERS:
            continue
        for each in config.parent.glob("g.db*") if what != "empty" else ():
            each.rmdir() if each.is_dir() else each.unlink()
        if what == "a folder":
            database.mkdir()
        elif what == "rubbish":
            database.write_bytes(b"rubbish" * 1000)
        code, said = told(*words_of(path, command, config))
        assert code in {0, 1, 2}, (path, said)
        assert said or code == 0, path
        if what in {"a folder", "rubbish"} and path[:1] not in {
            *(("adapters",), ("batches",), ("version",), ("init",), ("custodians",), ("pause",)),
            *(("db",),),
        }:
            assert code == 2, (path, said)


def test_a_locked_database(told: Any, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has it: reported, with exit code 2."""
    run("db", "upgrade", "--config", config)
    monkeypatch.setitem(Database.__init__.__kwdefaults__ or {}, "busy_s", 0.05)
    with sqlite3.connect(config.with_name("g.db"), isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        for words in (
            ("pause", "all", "--reason", "r"),
            ("keys", "create", "--org", "a", "--mode", "live"),
            ("db", "reseal"),
            ("rules", "activate", "--reason", "r"),
        ):
            code, said = told(*words, "--config", str(config))
            assert (code, "locked" in said) == (2, True), (words, said)
    other.close()


def test_words_that_are_no_text(told: Any, config: Path) -> None:
    """Bytes of a terminal in another encoding."""
    code, said = told("payouts", "show", os.fsdecode(b"pay_\xff"), "--config", str(config))
    assert code == 2
    assert "is not valid UTF-8" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("serve", "--role", "boss"), "'boss' is not one of 'all', 'api', 'engine', 'sender'"),
        (("serve", "--port", "abc"), "'--port': must be a whole number"),
        (("payouts", "list", "--limit", "0"), "'--limit': must be 1 or more"),
        (("users", "create", "ada", "--role", "boss"), "'boss' is not one of 'viewer'"),
        (
            ("routes", "explain", "0x1", "--org", "a", "--asset", "USDC", "--amount", "abc"),
            "amount must be",
        ),
    ],
    ids=["role", "port", "limit", "user", "amount"],
)
def test_no_librarys_words(told: Any, config: Path, words: tuple[str, ...], said: str) -> None:
    """What is wrong with an argument is said in ours."""
    code, output = told(*words, "--config", str(config))
    # A terminal's frame and line ends are not words.
    plain = " ".join(output.replace("│", " ").split())
    assert code in {1, 2}
    assert said in plain
    assert not [
        each for each in ("Value error", "Input should", "Errno", "Error(") if each in plain
    ]


def test_the_version_is_an_option_as_well(told: Any) -> None:
    """As of other programs."""
    assert told("--version") == (0, f"{__version__}\n")
    assert json.loads(told("version", "--json")[1]) == {"version": __version__}


#: Commands that print nothing but documents of a format, or that run until they are stopped.
_WITHOUT_JSON = {
    ("serve",),
    ("demo",),
    ("audit", "export"),
    ("payouts", "export"),
    ("webhooks", "listen"),
}


def test_every_command_prints_json() -> None:
    """For scripts; those that do not are named in the docs."""
    without = {
        path
        for path, command in commands()
        if "--json" not in {option for each in command.params for option in each.opts}
    }
    assert without == _WITHOUT_JSON


def process(*words: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start the command line as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "gateway", *words],
        stderr=subprocess.PIPE,
        env={name: each for name, each in os.environ.items() if name != "COLUMNS"},
        **options,
    )


def test_a_reader_that_goes_away(config: Path) -> None:
    """As `| head -1` does: no traceback, and no word about the database."""
    run("keys", "create", "--org", "acme", "--mode", "live", "--config", config)
    at = ("--config", str(config))
    for words in (("audit", "export", *at), ("keys", "list", *at), ("payouts", "list", *at)):
        read, write = os.pipe()
        os.close(read)
        running = process(*words, stdout=write)
        os.close(write)
        _, err = running.communicate(timeout=30)
        assert err == b"", (words, err)
        assert running.returncode == 1


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts what runs in its background with SIGINT ignored, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c() -> None:
    """130, and nothing else is printed."""
    running = process(
        *("batches", "show", "bat_x", "--watch", "--gateway", "http://127.0.0.1:9"),
        *("--api-key", "sk_live_x"),
        stdout=subprocess.PIPE,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"bat_x: no answer\n"
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out, err) == (130, b"", b"")


def test_ids_are_whole_in_a_narrow_terminal(config: Path) -> None:
    """At 60 columns a table would break them; there is a line for each value instead."""
    run("db", "upgrade", "--config", config)
    with sqlite3.connect(config.with_name("g.db")) as db:
        db.execute(
            "INSERT INTO endpoints (id, org, mode, url, event_types, secret, status, created_at) VALUES "
            "('whe_01m8kftf7de5x81z93jrx2qrpt', 'acme', 'live', 'https://a.example/hooks', '[]', X'00', "
            "'enabled', 1)"
        )
    db.close()
    narrow = b"whe_01m8kftf7de5x81z93jrx2qrpt\r\n"
    wide = "│ whe_01m8kftf7de5x81z93jrx2qrpt │".encode()
    for columns, whole in ((60, narrow), (200, wide)):
        terminal, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        running = process("webhooks", "list", "--config", str(config), stdout=inside)
        os.close(inside)
        out = b""
        with suppress(OSError):  # the end, as Linux tells it
            while part := os.read(terminal, 65536):
                out += part
        os.close(terminal)
        _, err = running.communicate(timeout=30)
        assert whole in out, (columns, out, err)


@pytest.mark.parametrize("what", _TEXTS)
def test_the_doctor_of_a_configuration_that_cannot_be_used(
    told: Any, tmp_path: Path, what: str
) -> None:
    """Each fault is a finding with its fix; nothing else can be checked."""
    config, text = tmp_path / "g.toml", _TEXTS[what]
    if text is not None:
        config.write_bytes(text)
    elif "links" in what:
        config.symlink_to(config)
    code, said = told("doctor", "--json", "--config", str(config))
    *faults, rest = json.loads(said)["findings"]
    assert code == 1
    assert {each["check"] for each in faults} == {"configuration"}
    assert all(each["level"] == "failed" and each["fix"] for each in faults)
    assert rest["level"] == "skipped"
