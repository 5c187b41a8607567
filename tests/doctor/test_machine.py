"""Disk, permissions, open files: each as it should be, and each wrong."""

from __future__ import annotations

import base64
import os
import resource
import types
from collections.abc import Iterable
from pathlib import Path

import pytest

from gateway.config.settings import Settings, load
from gateway.doctor import Finding, Level, machine

KEY = base64.b64encode(bytes(32)).decode()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose key is in a file of its own."""
    path, key = tmp_path / "g.toml", tmp_path / "server.key"
    key.write_text(KEY)
    path.write_text('server_key_file = "server.key"\ndatabase = "g.db"\n')
    path.chmod(0o644)
    key.chmod(0o640)
    return path


def levels(found: Iterable[Finding]) -> set[Level]:
    """Return how bad it is; whatever is not fine says what to do."""
    every = list(found)
    assert all(each.fix for each in every if each.level is not Level.OK)
    return {each.level for each in every}


def test_room_on_the_disk(tmp_path: Path) -> None:
    """By what is really free; a folder that is not there has no room."""
    most = 2**62
    assert levels(machine.disk(tmp_path, 1, 1)) == {Level.OK}
    assert levels(machine.disk(tmp_path, most, 1)) == {Level.WARNING}
    assert levels(machine.disk(tmp_path, most, most)) == {Level.FAILED}
    assert levels(machine.disk(tmp_path / "none", 1, 1)) == {Level.FAILED}


def test_a_database_on_another_machine(tmp_path: Path) -> None:
    """The innermost mount counts, and of two at one place the later one."""
    database, root = tmp_path / "g.db", "/dev/sda / ext4 rw 0 0\n"
    remote = f"server:/x {tmp_path} nfs4 rw 0 0\n"
    assert levels(machine.file_system(database, Path("/proc/self/mounts").read_text())) == {
        Level.OK
    }
    assert levels(machine.file_system(database, root + remote)) == {Level.FAILED}
    assert levels(machine.file_system(database, root.replace("ext4", "nfs"))) == {Level.FAILED}
    later = f"{root}{remote}/dev/sdb {tmp_path} xfs rw 0 0\n"
    assert levels(machine.file_system(database, later)) == {Level.OK}


def test_secrets_that_others_can_read(config: Path) -> None:
    """A group is the operator's choice. A configuration without a secret may be read by everybody."""
    settings = load(config)
    assert levels(machine.permissions(config, settings)) == {Level.OK}
    config.with_name("server.key").chmod(0o644)
    (found,) = machine.permissions(config, settings)
    assert (found.level, "server.key" in found.detail) == (Level.FAILED, True)
    config.with_name("server.key").chmod(0o600)
    config.write_text(f'server_key = "{KEY}"\ndatabase = "g.db"\n')
    (found,) = machine.permissions(config, load(config))
    assert "g.toml can be read by every user" in found.detail
    config.chmod(0o600)
    config.with_name("g.db").touch(0o604)
    config.with_name("g.db").chmod(0o604)
    (found,) = machine.permissions(config, load(config))
    assert "g.db can be read by every user" in found.detail
    assert KEY not in str(found)


def test_what_cannot_be_written(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fix is for the reason: the mount, the mode, or another owner."""
    mounted = machine.not_writable(config, read_only_mount=True)
    assert "mounted read-only" in mounted.detail
    assert f"findmnt -T {config}" in mounted.fix
    assert "owner" not in mounted.fix
    own = machine.not_writable(config, read_only_mount=False)
    assert own.fix.startswith(f"chmod u+w {config}")
    monkeypatch.setattr("os.geteuid", lambda: config.stat().st_uid + 1)
    assert "as the owner" in machine.not_writable(config, read_only_mount=False).fix


def test_a_mount_for_reading_only_is_recognised(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the kernel says of the file system, whoever runs the command."""
    flags = types.SimpleNamespace(f_flag=os.ST_RDONLY)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr("os.statvfs", lambda path: flags)
    (found,) = machine.permissions(config, load(config))
    assert found.detail.endswith("is on a file system that is mounted read-only")


def test_files_that_may_be_open(config: Path) -> None:
    """Less than the settings need is said, with the number."""
    settings = load(config)
    assert levels(machine.open_files(settings)) == {Level.OK}
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    listen = settings.listen.model_copy(update={"max_connections": hard})
    more: Settings = settings.model_copy(update={"listen": listen})
    assert levels(machine.open_files(more)) == {Level.WARNING}
