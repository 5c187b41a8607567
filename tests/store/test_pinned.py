"""A database file that is moved away, or replaced, while it is open. Real files."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.config.settings import Settings
from gateway.errors import StateFileError
from gateway.store.database import Database
from gateway.store.opening import open_database, state_file_of
from gateway.store.pinned import AWAY, FileReplaced, PinnedFile
from gateway.store.state import advance, frozen
from gateway.store.state_file import MOVED, FileId, StateFile
from tests.clock import SetClock
from tests.store.rows import add_payout, runtime_of


@dataclass(frozen=True)
class Opened:
    """An open database."""

    db: Database
    path: Path
    state_file: StateFile

    def marks(self, path: Path | None = None) -> int:
        """Return the newest mark in a file."""
        with closing(sqlite3.connect(path or self.path)) as connection:
            return int(connection.execute("SELECT marks FROM store_state").fetchone()[0])

    def replace(self) -> Path:
        """Move the database away and put a copy in its place; return where the first one is."""
        away = self.path.with_name("away.db")
        shutil.copyfile(self.path, self.path.with_name("copy"))
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name("g.db" + suffix).rename(away.with_name("away.db" + suffix))
        self.path.with_name("copy").rename(self.path)
        return away


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    """A database with a mark and a payout, open."""
    settings = Settings.model_validate(
        {
            "database": tmp_path / "g.db",
            "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        }
    )
    runtime = runtime_of(SetClock())
    state_file = state_file_of(settings, runtime)
    async with open_database(settings, runtime, state_file) as db:
        await db.run(add_payout)
        await db.run(advance)
        yield Opened(db, tmp_path / "g.db", state_file)


async def test_nothing_is_committed_to_a_file_that_is_away(opened: Opened) -> None:
    """Neither a mark nor anything else. It can be read, and goes on once it is back."""
    away = opened.replace()
    for change in (advance, add_payout):
        with pytest.raises(FileReplaced):
            await opened.db.run(change)
    assert opened.marks(away) == 1
    assert opened.state_file.failing == AWAY
    # Custodians' webhooks cannot be stored: `/readyz` answers 503.
    fault = opened.db.write_fault
    assert fault is not None
    assert (fault.words, fault.full) == (AWAY, False)
    assert await opened.db.read(frozen) is None
    with pytest.raises(StateFileError, match="moved away"):
        opened.state_file.record(2)
    with pytest.raises(StateFileError, match="moved away"):
        opened.state_file.rewrite(2)
    for suffix in ("", "-wal", "-shm"):
        away.with_name("away.db" + suffix).replace(opened.path.with_name("g.db" + suffix))
    assert await opened.db.run(advance) == 2
    assert opened.db.write_fault is None
    assert opened.state_file.failing is None


async def test_a_file_that_is_deleted(opened: Opened) -> None:
    """Nothing is written to what nobody can find any more."""
    opened.path.unlink()
    with pytest.raises(FileReplaced):
        await opened.db.run(advance)


async def test_no_mark_while_the_state_file_holds_another_file_for_the_database(
    opened: Opened,
) -> None:
    """The other one may have given the same number: refused before it is committed."""
    other = opened.path.with_name("other.db")
    shutil.copyfile(opened.path, other)
    opened.state_file.rewrite(2, file=FileId.of(other, "clock"))
    with pytest.raises(FileReplaced, match=MOVED):
        await opened.db.run(advance)
    assert opened.marks() == 1
    with pytest.raises(StateFileError, match=MOVED):
        opened.state_file.record(2)


async def test_a_connection_that_is_opened_again_is_on_the_same_file(opened: Opened) -> None:
    """After an error it is closed; what is at the path by then is not taken for the database."""
    opened.replace()
    opened.db._write_connection.close()
    opened.db._read_connection.close()
    with pytest.raises(FileReplaced):
        await opened.db.run(advance)
    with pytest.raises(FileReplaced):
        await opened.db.read(frozen)


def test_letting_a_file_go_keeps_the_locks_on_it(tmp_path: Path) -> None:
    """A process that closes an ordinary descriptor of a file loses SQLite's locks on it."""
    path = tmp_path / "g.db"
    take = (
        "import sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)\n"
        "db.execute('BEGIN EXCLUSIVE')\n"
    )

    def locked() -> bool:
        command = [sys.executable, "-c", take, str(path)]
        return subprocess.run(command, capture_output=True, check=False).returncode != 0

    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (x)")
        pinned = PinnedFile(path)
        connection.execute("BEGIN IMMEDIATE")
        pinned.check()
        pinned.close()
        assert locked()
        # The control: this is what it must not do.
        os.close(os.open(path, os.O_RDONLY))
        assert not locked()
