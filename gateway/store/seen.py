"""Rows that point reads need not read again, because nobody has committed since they were read.

Exact by SQLite's own word: in a new snapshot `PRAGMA data_version` differs from before where any other
connection has committed in between, of this process or of another one. The connection of point reads never
writes, so every change of a row is such a commit, and one that was rolled back is never seen. What is kept
is dropped as a whole: nothing has to say what it wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.store.connection import Connection
    from gateway.store.statements import Query, Row

#: Results that are kept; above so many all are dropped. Each is a row or two.
MOST = 1024


class SeenRows:
    """The rows of some statements (`Query(…, remembered=True)`) in one state of the database."""

    def __init__(self) -> None:
        self._of: tuple[int, int] | None = None
        self._rows: dict[tuple[Query, tuple[Any, ...]], list[Row]] = {}

    def __len__(self) -> int:
        """Return how many results are kept."""
        return len(self._rows)

    def look_at(self, connection: Connection) -> None:
        """Drop everything, unless the open snapshot is of the state that it was read in."""
        of = connection.opened, connection.data_version()
        if of != self._of:
            self._rows.clear()
            self._of = of

    def query(self, connection: Connection, query: Query, values: dict[str, Any]) -> list[Row]:
        """Return the rows of a statement in the open snapshot. Change nothing of the list."""
        key = query, tuple(values.values())
        rows = self._rows.get(key)
        if rows is None:
            text, fixed = query.compiled()
            rows = connection.query(text, {**fixed, **values} if fixed else values)
            if len(self._rows) >= MOST:
                self._rows.clear()
            self._rows[key] = rows
        return rows
