"""The database file that the connections have open, and whether it is still the one at its path.

A file that is moved away is open all the same. A gateway that went on with it would pay from it, while
another one pays from the file that took its place.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

#: What is raised where the file at the path is another one, or there is none.
AWAY = (
    "the database file was moved away or replaced under this process: nothing is written any more. "
    "Put it back, or stop this process"
)
#: A descriptor of this kind may be closed: with any other, the process would lose SQLite's locks.
_PATH_ONLY = getattr(os, "O_PATH", 0)


class FileReplaced(sqlite3.OperationalError):
    """The database that is open is not the one at its path any more; nothing was written."""

    def __init__(self, words: str = AWAY) -> None:
        super().__init__(words)


class PinnedFile:
    """A database file, kept by a descriptor: no other file gets its number meanwhile.

    Open it before the connections, and `check` once they are open: they have this file, then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, _PATH_ONLY | os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(self._descriptor)
        self.device, self.inode = found.st_dev, found.st_ino

    def is_file(self, device: int, inode: int) -> bool:
        """Whether these are the numbers of this file."""
        return (device, inode) == (self.device, self.inode)

    def check(self) -> None:
        """Raise FileReplaced if the file at the path is not this one. May be called at any time."""
        try:
            found = self._path.stat()
        except OSError as error:
            raise FileReplaced from error
        if not self.is_file(found.st_dev, found.st_ino):
            raise FileReplaced

    def close(self) -> None:
        """Let the file go, once every connection is closed."""
        if _PATH_ONLY:
            os.close(self._descriptor)
