"""The machine: room on the disk, who can read the files, how many files may be open."""

from __future__ import annotations

import os
import pwd
import resource
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.config.settings import Settings
from gateway.connections import files_wanted
from gateway.doctor.findings import Finding, failed, ok, warning
from gateway.store.files import beside

_MIB = 2**20
#: Below this a database may stop in the middle of a busy hour; with so little it does at once.
LOW_BYTES, LEAST_BYTES = 2048 * _MIB, 256 * _MIB
#: File systems on which SQLite's log loses commits: its shared memory does not reach other machines.
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.glusterfs"})
_MOUNTS = Path("/proc/self/mounts")


def check(config: Path, settings: Settings) -> Iterator[Finding]:
    """Check disk, permissions and open files."""
    if settings.postgres is None:
        yield from disk(settings.database.parent, LOW_BYTES, LEAST_BYTES)
        if settings.state_path.parent != settings.database.parent:
            yield from disk(settings.state_path.parent, LOW_BYTES, LEAST_BYTES)
        yield from file_system(settings.database, _MOUNTS.read_text(encoding="utf-8"))
    yield from permissions(config, settings)
    yield from open_files(settings)


def disk(folder: Path, low: int, least: int) -> Iterator[Finding]:
    """Check the room in a folder; `low` and `least` in bytes."""
    try:
        found = os.statvfs(folder)
    except OSError as error:
        yield failed("disk", f"{folder}: {error.strerror}", "make the folder, or correct the path")
        return
    free = found.f_bavail * found.f_frsize
    told = f"{free // _MIB} MiB are free in {folder}"
    fix = "make room, or move the database to a larger disk (docs: Back up and restore)"
    if free < least:
        yield failed("disk", told, fix)
    elif free < low:
        yield warning("disk", told, fix)
    elif found.f_files and found.f_favail < 100:  # noqa: PLR2004 - the log, locks, a backup
        yield failed("disk", f"{found.f_favail} inodes are free in {folder}", fix)
    else:
        yield ok("disk", told)


def file_system(database: Path, mounts: str) -> Iterator[Finding]:
    """Check that the database is not on another machine. `mounts`: as the kernel lists them."""
    real = os.path.realpath(database.parent)
    kind, longest = "", ""
    for line in mounts.splitlines():
        _, point, name, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # A later mount hides an earlier one.
        if inside and len(point) >= len(longest):
            kind, longest = name, point
    if kind in _REMOTE:
        yield failed(
            "file system",
            f"{database} is on {longest} ({kind}): SQLite can lose commits there",
            "put the database on a local disk, or use PostgreSQL (docs: Run on PostgreSQL)",
        )
    else:
        yield ok("file system", f"{database} is on a local file system ({kind or 'unknown'})")


def permissions(config: Path, settings: Settings) -> Iterator[Finding]:
    """Check who can read secrets, and whether this user can write the database."""
    named = list(_secret_files(config))
    files = [*named, *([] if settings.postgres else [*beside(settings.database)])]
    open_to_all = []
    for each in files:
        with suppress(OSError):
            if each.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
                open_to_all.append(each)
    for each in open_to_all:
        yield failed(
            "permissions",
            f"{each} can be read by every user of this machine",
            f"chmod 600 {each}, and replace what is secret in it if others use this machine",
        )
    unwritable = list(dict.fromkeys(_unwritable(settings)))
    mounted = next((each for each in unwritable if _mounted_read_only(each)), None)
    if mounted is not None:
        # Of all that is on it, once.
        yield not_writable(mounted, read_only_mount=True)
    for each in unwritable:
        if not _mounted_read_only(each):
            yield not_writable(each, read_only_mount=False)
    if os.geteuid() == 0 and settings.postgres is None and settings.database.exists():
        owner = settings.database.stat().st_uid
        if owner != 0:
            yield warning(
                "permissions",
                f"this command runs as root, and the database belongs to {_user(owner)}",
                f"run it as {_user(owner)}: what root may do says nothing about the gateway",
            )
    if not open_to_all and not unwritable:
        yield ok("permissions", f"{len(named)} files with secrets are closed to other users")


def not_writable(path: Path, *, read_only_mount: bool) -> Finding:
    """Return that a file or folder cannot be written, and what helps against the reason for it."""
    me, owner = os.geteuid(), path.stat().st_uid
    if read_only_mount:
        return failed(
            "permissions",
            f"{path} is on a file system that is mounted read-only",
            f"mount it for writing (findmnt -T {path} shows it; a disk with errors is also mounted "
            "read-only: dmesg), or move the database to another disk",
        )
    told = f"{path} cannot be written by {_user(me)}; it belongs to {_user(owner)}"
    if me in {0, owner}:
        fix = (
            f"chmod u+w {path}; if that does not help, it is immutable: lsattr -d {path}, chattr -i"
        )
    else:
        fix = "run the gateway, and this command, as the owner; or change the owner"
    return failed("permissions", told, fix)


def open_files(settings: Settings) -> Iterator[Finding]:
    """Check how many files a process may have open, by the limits of this one."""
    wanted = files_wanted(settings)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        many = "any number of" if hard == resource.RLIM_INFINITY else hard
        yield ok("open files", f"a process may have {many} open; {wanted} are needed at most")
        return
    yield warning(
        "open files",
        f"a process may have {hard} open, and {wanted} are needed for listen.max_connections and "
        "webhooks.in_flight: clients will be refused earlier",
        f"allow {wanted} (LimitNOFILE in the unit, ulimit -n), or lower listen.max_connections",
    )


def _secret_files(config: Path) -> Iterator[Path]:
    """Yield the files that settings are read from, and the configuration where it holds a secret."""
    raw = tomllib.loads(config.read_text(encoding="utf-8"))
    inline = False

    def walk(table: Mapping[str, Any], at: tuple[str, ...]) -> Iterator[Path]:
        nonlocal inline
        for name, value in table.items():
            if isinstance(value, dict):
                yield from walk(value, (*at, name))
            elif name.endswith("_file") and isinstance(value, str) and name != "state_file":
                yield config.resolve().parent / value
            elif any(word in name for word in ("secret", "key", "passcode", "token")):
                inline = inline or (isinstance(value, str) and not name.endswith("_url"))

    yield from walk(raw, ())
    if inline:
        yield config


def _unwritable(settings: Settings) -> Iterator[Path]:
    if settings.postgres is not None:
        return
    for each in (settings.database, settings.database.parent, settings.state_path.parent):
        if each.exists() and not os.access(each, os.W_OK):
            yield each


def _mounted_read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
