"""Backups during writes, and restoring them: whole, in one step, and never unnoticed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command

from gateway.config.settings import Settings
from gateway.errors import StoreUnusable
from gateway.runtime import Ids
from gateway.store import backup, migrate, upgrading
from gateway.store.backup import BackupError, Operator, Restored, back_up, restore
from gateway.store.opening import open_database, state_file_of
from gateway.store.state import advance, frozen
from gateway.store.state_file import MOVED
from tests.clock import SetClock
from tests.store.rows import add_payout, runtime_of

ROOT = Operator("root", 1, Ids(SetClock()))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A configuration with nothing but a database."""
    return Settings.model_validate(
        {
            "database": tmp_path / "g.db",
            "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        }
    )


async def use(settings: Settings, *, marks: int = 0, payouts: int = 0) -> str | None:
    """Open the database, perhaps use it, close it; return why it is frozen."""
    async with open_database(settings, runtime_of(SetClock())) as db:
        reason = await db.read(frozen)
        for _ in range(marks):
            await db.run(advance)
        for _ in range(payouts):
            await db.run(add_payout)
    return reason


def put(settings: Settings, source: Path, *, replace: bool = True) -> Restored:
    """Restore a backup."""
    runtime = runtime_of(SetClock())
    clock_id = runtime.clock.moment().clock_id
    state_file = state_file_of(settings, runtime)
    return restore(source, settings.database, state_file, ROOT, clock_id=clock_id, replace=replace)


def rows(path: Path, text: str) -> list[Any]:
    """Run a query on a database file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(text).fetchall()


def test_a_backup_while_somebody_writes(settings: Settings, tmp_path: Path) -> None:
    """Whole as of one moment: two tables that are always changed together agree in every copy."""
    migrate.prepare(settings.database)
    stop = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(settings.database, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            while not stop.is_set():
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("UPDATE store_state SET marks = marks + 1")
                connection.execute("INSERT INTO clocks SELECT 'c' || marks, 0, 0 FROM store_state")
                connection.execute("COMMIT")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copies = [back_up(settings.database, tmp_path / f"b{n}.db", ROOT) for n in range(8)]
    finally:
        stop.set()
        writer.join()
    assert copies[-1].marks > copies[0].marks
    for number, copy in enumerate(copies):
        path = tmp_path / f"b{number}.db"
        assert rows(path, "SELECT marks FROM store_state") == [(copy.marks,)]
        assert rows(path, "SELECT count(*) FROM clocks") == [(copy.marks,)]
        assert rows(path, "PRAGMA journal_mode") == [("delete",)]
        assert rows(path, "SELECT actor, act FROM audit_log") == [("root", "backed_up")]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    left = {path.name for path in tmp_path.iterdir() if path.name.startswith("b")}
    assert left == {f"b{number}.db" for number in range(8)}


def test_a_backup_is_not_written_over(settings: Settings, tmp_path: Path) -> None:
    """Nor made of nothing, nor left half where it cannot be written."""
    target = tmp_path / "b.db"
    with pytest.raises(BackupError, match="no database"):
        back_up(settings.database, target, ROOT)
    migrate.prepare(settings.database)
    back_up(settings.database, target, ROOT)
    with pytest.raises(BackupError, match="exists"):
        back_up(settings.database, target, ROOT)
    missing = tmp_path / "none"
    with pytest.raises(BackupError, match=f"cannot be made: there is no folder {missing}$"):
        back_up(settings.database, missing / "b.db", ROOT)


def test_a_damaged_database_is_not_backed_up_silently(settings: Settings, tmp_path: Path) -> None:
    """The check of the copy fails, and no file says that there is a backup."""
    migrate.prepare(settings.database)
    data = bytearray(settings.database.read_bytes())
    data[8192:12000] = b"\xff" * 3808
    settings.database.write_bytes(bytes(data))
    with pytest.raises(BackupError):
        back_up(settings.database, tmp_path / "b.db", ROOT)
    assert not list(tmp_path.glob("b.db*"))


def test_a_backup_of_an_older_schema(settings: Settings, tmp_path: Path) -> None:
    """Made before an upgrade; it has no marks and no audit log yet."""
    command.upgrade(upgrading.config(settings.database), "0003")
    copy = back_up(settings.database, tmp_path / "b.db", ROOT)
    assert (copy.revision, copy.marks) == ("0003", 0)
    done = put(settings, tmp_path / "b.db")
    assert done.frozen is not None
    assert rows(settings.database, "SELECT version_num FROM alembic_version") == [("0003",)]


async def test_an_older_backup_is_frozen(settings: Settings, tmp_path: Path) -> None:
    """It comes back with everything, and sets no mark before it is adopted."""
    await use(settings, marks=1, payouts=2)
    back_up(settings.database, tmp_path / "b.db", ROOT)
    await use(settings, marks=1, payouts=1)
    with pytest.raises(BackupError, match="--force"):
        put(settings, tmp_path / "b.db", replace=False)
    assert await use(settings) is None
    done = put(settings, tmp_path / "b.db")
    assert done.copy.marks == 1
    assert done.frozen is not None
    assert await use(settings) == done.frozen
    assert rows(settings.database, "SELECT count(*) FROM payouts") == [(2,)]
    acts = [("root", "backed_up"), ("root", "restored"), ("gateway", "database_frozen")]
    assert rows(settings.database, "SELECT actor, act FROM audit_log ORDER BY rowid") == acts
    assert json.loads(settings.state_path.read_text())["marks"] == 2
    assert done.kept is not None
    assert rows(done.kept, "SELECT count(*) FROM payouts") == [(3,)]
    # Another restore does not make it younger.
    assert put(settings, tmp_path / "b.db").frozen == done.frozen


async def test_a_backup_that_lacks_nothing(settings: Settings, tmp_path: Path) -> None:
    """The newest mark of the state file, and every event: it goes on as it is."""
    await use(settings, marks=2, payouts=1)
    back_up(settings.database, tmp_path / "b.db", ROOT)
    assert put(settings, tmp_path / "b.db").frozen is None
    assert await use(settings) is None
    assert json.loads(settings.state_path.read_text())["marks"] == 2


async def test_a_backup_with_fewer_events(settings: Settings, tmp_path: Path) -> None:
    """No mark is missing, but partners were notified of something since: a payout that was canceled."""
    await use(settings, marks=2, payouts=1)
    back_up(settings.database, tmp_path / "b.db", ROOT)
    with closing(sqlite3.connect(settings.database)) as connection:
        connection.execute(
            "INSERT INTO events (id, org, mode, type, body, created_at) VALUES ('e', 'o', 'live', 't', '', 1)"
        )
        connection.commit()
    reason = put(settings, tmp_path / "b.db").frozen
    assert reason is not None
    assert "older than what it replaced" in reason


async def test_on_another_machine(settings: Settings, tmp_path: Path) -> None:
    """With the state file nothing is missing; without it nobody can know."""
    await use(settings, marks=2, payouts=1)
    back_up(settings.database, tmp_path / "b.db", ROOT)
    for name, with_file in (("with", True), ("without", False)):
        folder = tmp_path / name
        folder.mkdir()
        there = settings.model_copy(update={"database": folder / "g.db"})
        if with_file:
            shutil.copy(settings.state_path, there.state_path)
        done = put(there, tmp_path / "b.db", replace=False)
        assert done.kept is None
        assert (done.frozen is None) is with_file
        assert await use(there) == done.frozen


async def test_a_damaged_database_is_replaced(settings: Settings, tmp_path: Path) -> None:
    """That is what backups are for. What is damaged is kept, its write-ahead log too."""
    await use(settings, marks=1)
    back_up(settings.database, tmp_path / "b.db", ROOT)
    settings.database.write_bytes(b"damaged" * 1000)
    wal = settings.database.with_name("g.db-wal")
    wal.write_bytes(b"what is left of a log")
    done = put(settings, tmp_path / "b.db")
    assert done.kept is not None
    assert done.kept.read_bytes() == b"damaged" * 1000
    assert done.kept.with_name(done.kept.name + "-wal").read_bytes() == b"what is left of a log"
    assert await use(settings) is None


async def test_a_restore_that_ends_in_the_middle(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the state file and the database: what is still there is frozen, and nothing is lost."""
    await use(settings, marks=1)
    back_up(settings.database, tmp_path / "b.db", ROOT)
    await use(settings, marks=1)
    with monkeypatch.context() as patched:

        def stop(_: Path) -> None:
            raise OSError(5, "Input/output error")

        patched.setattr(backup, "_put_aside", stop)
        with pytest.raises(BackupError, match="not restored"):
            put(settings, tmp_path / "b.db")
    assert await use(settings) is not None
    assert rows(settings.database, "SELECT marks FROM store_state") == [(2,)]
    assert not list(tmp_path.glob(".g.db*"))
    put(settings, tmp_path / "b.db")
    assert rows(settings.database, "SELECT marks FROM store_state") == [(1,)]


async def test_what_cannot_be_restored(settings: Settings, tmp_path: Path) -> None:
    """Nothing, something else, a newer schema, the database itself, and one that is in use."""
    await use(settings)
    (tmp_path / "junk").write_bytes(b"junk" * 1000)
    sqlite3.connect(tmp_path / "empty").close()
    for name in ("none", "empty"):
        with pytest.raises(BackupError, match="no backup"):
            put(settings, tmp_path / name)
    with pytest.raises(StoreUnusable):
        put(settings, tmp_path / "junk")
    back_up(settings.database, tmp_path / "b.db", ROOT)
    shutil.copy(tmp_path / "b.db", tmp_path / "newer.db")
    with closing(sqlite3.connect(tmp_path / "newer.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(BackupError, match="does not know"):
        put(settings, tmp_path / "newer.db")
    with pytest.raises(BackupError, match="itself"):
        put(settings, settings.database)
    with closing(sqlite3.connect(settings.database)) as user:
        user.execute("BEGIN")
        user.execute("SELECT * FROM store_state").fetchall()
        with pytest.raises(BackupError, match="in use"):
            put(settings, tmp_path / "b.db")
    assert await use(settings) is None


async def test_a_raw_copy_in_the_databases_place_is_not_a_restore(
    settings: Settings, tmp_path: Path
) -> None:
    """Copied by hand it is another file, even if no mark is missing."""
    await use(settings, marks=1, payouts=1)
    back_up(settings.database, tmp_path / "b.db", ROOT)
    (tmp_path / "b.db").replace(settings.database)
    assert await use(settings) == MOVED
