"""Fresh databases, each a copy of one that was migrated once: migrating takes longer than most tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.store import migrate


def make_database(path: Path) -> Path:
    """Write a database with every table and no row, unless there is one; return its path.

    It is what `migrate.prepare` makes; that has tests of its own.
    """
    if not path.exists():
        path.write_bytes(_migrated())
    return path


@cache
def _migrated() -> bytes:
    """Migrate once in each process that shares the tests."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        migrate.prepare(path)
        return path.read_bytes()
