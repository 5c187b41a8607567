"""The files of the store: only the user that runs the gateway can read them, whatever the umask is."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PRIVATE = 0o600


def private(path: str, flags: int) -> int:
    """Open a file as `open` does (its `opener`); a new one is readable by its owner only."""
    return os.open(path, flags | os.O_CLOEXEC, _PRIVATE)


def create_private(path: Path) -> None:
    """Create an empty file that only its owner can read; nothing happens where there is one.

    SQLite gives the files that it makes beside a database the database's own mode.
    """
    with suppress(FileExistsError):
        os.close(private(str(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def mode_like(mode: int) -> int:
    """Return the mode of a file that goes with one of this mode: never one for all users."""
    return _PRIVATE if mode & 0o007 else stat.S_IMODE(mode)


def beside(database: Path) -> tuple[Path, ...]:
    """Return the database and what may be beside it."""
    names = ("", "-wal", "-shm", "-journal", ".lock", ".in-use", ".state", ".state.lock")
    return tuple(database.with_name(database.name + suffix) for suffix in names)


def close_to_others(paths: Iterable[Path]) -> None:
    """Take every right of other users away from files that an earlier version made.

    A mode for a group, and for nobody else, is the operator's choice and stays. May be called twice.
    """
    for path in paths:
        with suppress(OSError):
            if path.is_file() and path.stat().st_mode & 0o007:
                path.chmod(_PRIVATE)
