"""Why a database cannot be used, in words that say what to do."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.errors import StoreUnusable

#: What SQLite needs to open a database beside the file itself.
_ROOM_BYTES = 128 * 1024
_DAMAGED = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_READ_ONLY = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM})
#: On a full disk the files beside the database cannot be made, and SQLite says only that.
_MAYBE_FULL = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})


def why(database: Path, error: BaseException) -> str:
    """Return why a database cannot be used. `error`: of SQLite, of SQLAlchemy or of the system."""
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    number = getattr(cause, "errno", None)
    if code in _DAMAGED:
        return f"{database} is not a database that can be read; name another one, or restore it"
    if (
        code == sqlite3.SQLITE_FULL
        or number == errno.ENOSPC
        or (code in _MAYBE_FULL and _is_full(database))
    ):
        return (
            f"the database {database} cannot be written: the disk is full. Make room, and try again"
        )
    if code in _LOCKED:
        return f"the database {database} is locked by another program: stop that one, or try again later"
    if code in _READ_ONLY or number in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return (
            f"the database {database} cannot be written by this user: look at the owner and the mode of "
            "the file and its folder, whether it is immutable (lsattr), and whether its file system is "
            "mounted read-only"
        )
    if code == sqlite3.SQLITE_CANTOPEN and not os.access(database, os.R_OK | os.W_OK):
        return f"the database {database} cannot be opened: this user may not read and write it"
    words = getattr(cause, "strerror", None) or cause
    return f"the database {database} cannot be used: {words}"


@contextmanager
def told(database: Path) -> Iterator[None]:
    """Raise StoreUnusable, in words, for an error of SQLite."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreUnusable(why(database, error)) from error


def _is_full(database: Path) -> bool:
    try:
        found = os.statvfs(database.parent)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _ROOM_BYTES
