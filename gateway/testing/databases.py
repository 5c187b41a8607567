"""Fresh databases, each a copy of one that was migrated once: migrating takes longer than most tests."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg

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


def rows_of(url: str, query: str, values: Sequence[object] = ()) -> list[dict[str, Any]]:
    """Read a PostgreSQL database as it is now, by a query with `?` for its values."""
    numbers = count(1)
    text = re.sub(r"\?", lambda _: f"${next(numbers)}", query)

    async def read() -> list[dict[str, Any]]:
        connection = await asyncpg.connect(url)
        try:
            return [dict(row) for row in await connection.fetch(text, *values)]
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as pool:  # a loop may run in this thread
        return pool.submit(asyncio.run, read()).result()
