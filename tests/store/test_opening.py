"""Opening a database that is, or is not, the one that its state file knows. Real files."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.config.settings import Settings
from gateway.errors import SchemaMismatch, WitnessFailed
from gateway.store import migrate
from gateway.store.database import Database, Tx
from gateway.store.opening import compare, open_database, state_file_of
from gateway.store.state import advance, frozen, state_row
from gateway.store.state_file import MISSING, MOVED
from tests.clock import SetClock
from tests.store.rows import add_payout, runtime_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A configuration with nothing but a database."""
    return Settings.model_validate(
        {
            "database": tmp_path / "g.db",
            "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        }
    )


async def opened(settings: Settings, *, marks: int = 0, payouts: int = 0) -> str | None:
    """Open the database, perhaps use it, close it; return why it is frozen."""
    async with open_database(settings, runtime_of(SetClock())) as db:
        reason = await db.read(frozen)
        for _ in range(marks):
            await db.run(advance)
        for _ in range(payouts):
            await db.run(add_payout)
    return reason


def told(settings: Settings) -> dict[str, Any]:
    """Return what the state file says."""
    found: dict[str, Any] = json.loads(settings.state_path.read_text())
    return found


def audited(settings: Settings) -> list[tuple[str, str]]:
    """Return actor and act of every row of the audit log."""
    with closing(sqlite3.connect(settings.database)) as connection:
        return list(connection.execute("SELECT actor, act FROM audit_log ORDER BY id"))


async def test_the_first_file(settings: Settings) -> None:
    """Written for an empty database before anything is done with it; it names the database file."""
    assert settings.state_path == settings.database.with_name("g.db.state")
    assert await opened(settings) is None
    found = settings.database.stat()
    assert told(settings)["marks"] == 0
    assert told(settings)["file"]["device"] == found.st_dev
    assert told(settings)["file"]["inode"] == found.st_ino


async def test_marks_reach_the_file(settings: Settings) -> None:
    """Before whoever set the mark goes on."""
    async with open_database(settings, runtime_of(SetClock())) as db:
        for expected in (1, 2, 3):
            assert await db.run(advance) == expected
            assert told(settings)["marks"] == expected
    assert await opened(settings) is None


@pytest.mark.parametrize("step", [0, -3600, 3600])
async def test_a_copy_under_a_newer_state_file(settings: Settings, step: float) -> None:
    """Copied over the file, so that it is the same inode: frozen, durably and once; also over a boot.

    Whatever the wall clock was set to meanwhile.
    """
    await opened(settings, marks=1, payouts=1)
    shutil.copyfile(settings.database, settings.database.with_name("copy"))
    await opened(settings, marks=1)
    shutil.copyfile(settings.database.with_name("copy"), settings.database)
    clock = SetClock()
    clock.step(step)
    for _ in range(2):
        async with open_database(settings, runtime_of(clock)) as db:
            reason = await db.read(frozen)
        assert reason is not None
        assert "older copy" in reason
        clock.reboot()
    assert audited(settings) == [("gateway", "database_frozen")]
    assert told(settings)["marks"] == 2


async def test_it_stays_frozen_when_the_state_file_is_deleted(settings: Settings) -> None:
    """Taking the witness away does not make a copy younger."""
    await opened(settings, marks=1)
    settings.state_path.unlink()
    for _ in range(2):
        assert await opened(settings) == MISSING
    assert not settings.state_path.exists()


async def test_another_inode(settings: Settings) -> None:
    """A copy beside it, or a move: both could go on from the same mark, so neither does by itself."""
    await opened(settings, marks=1)
    settings.database.rename(settings.database.with_name("moved"))
    shutil.copyfile(settings.database.with_name("moved"), settings.database)
    assert await opened(settings) == MOVED


async def test_a_lost_database_is_not_begun_anew(settings: Settings) -> None:
    """A volume that was not mounted: the empty database in its place is frozen."""
    await opened(settings, marks=1)
    settings.database.unlink()
    reason = await opened(settings)
    assert reason is not None
    assert "newest mark is 0" in reason


async def test_an_empty_database_may_be_made_again(settings: Settings) -> None:
    """Nothing was ever handed to a custodian, so nothing can be paid twice."""
    await opened(settings)
    settings.database.unlink()
    assert await opened(settings) is None
    settings.state_path.unlink()
    assert await opened(settings) is None
    assert told(settings)["file"]["inode"] == settings.database.stat().st_ino


async def test_a_crash_between_commit_and_file(settings: Settings) -> None:
    """The database is ahead: the file catches up, and nothing is frozen."""
    await opened(settings, marks=1, payouts=1)
    before = settings.state_path.read_text()
    await opened(settings, marks=2)
    settings.state_path.write_text(before)
    assert await opened(settings) is None
    assert told(settings)["marks"] == 3


async def test_a_file_that_cannot_be_written(settings: Settings) -> None:
    """The mark is committed, its caller is told not to call, and nobody else is disturbed."""

    async def nothing(_: Tx) -> int:
        return 7

    runtime = runtime_of(SetClock())
    state_file = state_file_of(settings, runtime)
    async with open_database(settings, runtime, state_file) as db:
        await db.run(advance)
        settings.state_path.unlink()
        settings.state_path.mkdir()
        with pytest.raises(WitnessFailed):
            await db.run(advance)
        assert state_file.failing is not None
        assert await db.run(nothing) == 7
        assert (await compare(db, runtime, state_file))["frozen"] is None
        settings.state_path.rmdir()
        assert (await compare(db, runtime, state_file))["frozen"] == MISSING


async def test_an_unreadable_file_concludes_nothing(settings: Settings) -> None:
    """The gateway runs, but cannot set marks; once the file is back all is well."""
    await opened(settings, marks=1, payouts=1)
    whole = settings.state_path.read_text()
    settings.state_path.write_text("{")
    runtime = runtime_of(SetClock())
    state_file = state_file_of(settings, runtime)
    async with open_database(settings, runtime, state_file) as db:
        assert await db.read(frozen) is None
        with pytest.raises(WitnessFailed):
            await db.run(advance)
        settings.state_path.write_text(whole)
        assert (await compare(db, runtime, state_file))["frozen"] is None
        assert await db.run(advance) == 3
    assert told(settings)["marks"] == 3


async def test_two_processes_open_the_first_time(settings: Settings) -> None:
    """Whoever loses the race sees the other one's file, and not a missing one."""
    migrate.prepare(settings.database)
    runtime = runtime_of(SetClock())
    async with Database(settings.database) as db:
        await db.run(add_payout)
        state_file = state_file_of(settings, runtime)
        read, answers = state_file.read, [None]
        state_file.rewrite(0)
        state_file.read = lambda: answers.pop() if answers else read()  # type: ignore[method-assign]
        assert not (await db.read(state_row))["witnessed"]
        assert (await compare(db, runtime, state_file))["frozen"] is None
        answers.append(None)
        assert (await compare(db, runtime, state_file))["frozen"] is None
        assert (await db.read(state_row))["witnessed"]


async def test_a_schema_that_is_changed_meanwhile(settings: Settings) -> None:
    """The next write of a running program is refused; nothing of it is written."""
    async with open_database(settings, runtime_of(SetClock())) as db:
        with closing(sqlite3.connect(settings.database)) as other:
            other.execute("UPDATE alembic_version SET version_num = '9999'")
            other.commit()
        await db.run(
            advance
        )  # the number alone is not looked at: it is cheap to see the schema change
        with closing(sqlite3.connect(settings.database)) as other:
            other.execute("UPDATE store_schema SET works_from = '9999'")
            other.commit()
            other.execute("CREATE TABLE newer (id INTEGER)")
        for _ in range(2):
            with pytest.raises(SchemaMismatch, match="9999"):
                await db.run(advance)
        assert (await db.read(state_row))["marks"] == 1
