"""Who uses a database: each process that has it open holds a shared lock on a file beside it.

The database file itself does not say it: it can be moved away under a gateway, and another one put in
its place. So the lock goes by the path. What changes which file is the database (`db restore`, `db
moved`, `db adopt`, `db upgrade`) takes the lock alone, or names the processes that have to be stopped.

It is a file of its own, because a process that closes any descriptor of a database file loses SQLite's
locks on it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.errors import InUse

#: What is added to the name of the database.
SUFFIX = ".in-use"
#: How long to wait for a process that has exclusive use, and for commands that have it for a moment.
SHARED_WAIT_S, ALONE_WAIT_S = 10.0, 2.0
_LOOK_S = 0.05
_LOCKS = Path("/proc/locks")
#: Databases that this process has alone: what it opens of them needs no lock of its own.
_alone: set[str] = set()


def lock_file(database: Path) -> Path:
    """Return the path of the lock file. Links are followed: one database has one lock file."""
    real = Path(os.path.realpath(database))
    return real.with_name(real.name + SUFFIX)


@contextmanager
def shared(database: Path, wait_s: float = SHARED_WAIT_S) -> Iterator[bool]:
    """Use a database beside others. InUse where another process has it alone; OSError.

    Gives whether no other process used it at that moment: every one that ever did is gone then.
    """
    path = lock_file(database)
    if str(path) in _alone:
        yield False
        return
    with _locked(path, database, fcntl.LOCK_SH, wait_s) as first:
        yield first


@contextmanager
def alone(database: Path, wait_s: float = ALONE_WAIT_S) -> Iterator[None]:
    """Have a database alone; what this process opens meanwhile is no other. InUse names the others."""
    path = lock_file(database)
    with _locked(path, database, fcntl.LOCK_EX, wait_s):
        _alone.add(str(path))
        try:
            yield
        finally:
            _alone.discard(str(path))


@contextmanager
def _locked(path: Path, database: Path, how: int, wait_s: float) -> Iterator[bool]:
    descriptor = _open(path, database)
    try:
        until = time.monotonic() + wait_s
        # For a moment: to have it alone is the only way to see that nobody else uses it.
        first = _try(descriptor, fcntl.LOCK_EX)
        while not _try(descriptor, how):
            if time.monotonic() >= until:
                raise InUse(database, _holders(descriptor))
            time.sleep(_LOOK_S)
        yield first
    finally:
        os.close(descriptor)


def _open(path: Path, database: Path) -> int:
    """Open the lock file. A new one belongs to whom the database belongs."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError:
        # A lock needs no right to write. Where there is no file yet, the error is the same again.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with suppress(OSError):
        model, found = database.stat(), os.fstat(descriptor)
        mode = 0o600 if model.st_mode & 0o007 else stat.S_IMODE(model.st_mode)
        if stat.S_IMODE(found.st_mode) != mode:
            os.fchmod(descriptor, mode)
        if (found.st_uid, found.st_gid) != (model.st_uid, model.st_gid):
            os.fchown(descriptor, model.st_uid, model.st_gid)
    return descriptor


def _try(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holders(descriptor: int) -> list[str]:
    """Return the processes of this machine that hold the lock, as far as the system shows them."""
    found = os.fstat(descriptor)
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    try:
        lines = [line.split() for line in _LOCKS.read_text().splitlines()]
    except OSError:
        return []
    # 1: FLOCK ADVISORY READ 1234 fe:00:5678 0 EOF; of one that waits, "->" comes first.
    pids = {int(each[4]) for each in lines if each[1] == "FLOCK" and each[5] == file}
    pids.discard(0)
    return [f"process {pid} on {socket.gethostname()}" for pid in sorted(pids)]
