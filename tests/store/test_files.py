"""Who can read what the gateway writes: its own user, whatever the umask of the process is."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config.settings import Settings
from gateway.runtime import Ids, SystemClock, real_runtime
from gateway.store import backup, migrate, state
from gateway.store.opening import open_database, state_file_of

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    """A process that hides nothing by itself."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    """Return the mode of each file in a folder."""
    return {
        path.name: oct(stat.S_IMODE(path.stat().st_mode))
        for path in folder.rglob("*")
        if path.is_file()
    }


def settings_in(folder: Path) -> Settings:
    """Return a configuration with its database in a folder."""
    return Settings.model_validate({"database": folder / "made" / "g.db", "server_key": KEY})


async def test_files_of_the_store_are_private(tmp_path: Path) -> None:
    """Database, log, shared memory, locks, state file, backup, and the folder that is made for them."""
    settings = settings_in(tmp_path)
    clock = SystemClock()
    async with open_database(settings) as db:
        await db.run(state.set_accepting, accepting=True)
        operator = backup.Operator("root", 0, Ids(clock))
        backup.back_up(settings.database, settings.database.with_name("b.db"), operator)
        found = modes(tmp_path)
    names = {"", "-wal", "-shm", ".lock", ".in-use", ".state", ".state.lock"}
    assert {f"g.db{suffix}" for suffix in names} | {"b.db"} == set(found)
    assert set(found.values()) == {"0o600"}
    assert stat.S_IMODE(settings.database.parent.stat().st_mode) == 0o700


async def test_files_of_an_earlier_version_are_closed_to_others(tmp_path: Path) -> None:
    """At the next start; a mode for a group alone is the operator's choice and stays."""
    settings = settings_in(tmp_path)
    async with open_database(settings):
        pass
    for path in settings.database.parent.iterdir():
        path.chmod(0o644)
    async with open_database(settings) as db:
        await db.run(state.set_accepting, accepting=True)
        assert set(modes(tmp_path).values()) == {"0o600"}
    settings.database.chmod(0o660)
    async with open_database(settings) as db:
        await db.run(state.set_accepting, accepting=False)
        found = modes(tmp_path)
    assert (found["g.db"], found["g.db-wal"]) == ("0o660", "0o660")


def test_a_restored_database_and_the_one_it_replaces_are_private(tmp_path: Path) -> None:
    """Also where the present one could be read by everybody."""
    settings = settings_in(tmp_path)
    runtime = real_runtime()
    migrate.prepare(settings.database)
    operator = backup.Operator("root", 0, runtime.ids)
    copy = tmp_path / "b.db"
    backup.back_up(settings.database, copy, operator)
    settings.database.chmod(0o644)
    witness = state_file_of(settings, runtime)
    backup.restore(copy, settings.database, witness, operator, clock_id="boot", replace=True)
    found = modes(tmp_path)
    assert {name for name in found if "replaced" in name} == {"g.db.replaced-1"}
    assert set(found.values()) == {"0o600"}


def test_every_command_writes_for_its_user_only(tmp_path: Path) -> None:
    """The command line as a process, under an umask that hides nothing."""
    program = [sys.executable, "-m", "gateway"]
    config = ("--config", str(tmp_path / "g.toml"))
    for arguments in (
        ("init",),
        ("keys", "create", "--org", "acme", "--mode", "test"),
        ("db", "backup", str(tmp_path / "b.db")),
    ):
        done = subprocess.run([*program, *arguments, *config], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    found = modes(tmp_path)
    assert {"g.toml", "server.key", "payout-gateway.db", "b.db"} <= set(found)
    assert set(found.values()) == {"0o600"}
