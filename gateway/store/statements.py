"""Statements: SQLAlchemy Core expressions, compiled once to the text that a bare driver runs.

One expression serves both stores. What SQLite and PostgreSQL write differently is in `dialects`.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.util import symbol

from gateway.store.dialects import listed

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect
    from sqlalchemy.sql import ClauseElement
    from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ["Columns", "Query", "Row", "columns_by_name", "listed", "upsert", "wide"]

Row = sqlite3.Row
#: A row as it was read, or the part of a joined row that belongs to one table.
Columns = Row | Mapping[str, Any]


def columns_by_name(row: Columns) -> Mapping[str, Any]:
    """Return the columns of a row by name: for a wide row of which much is read.

    sqlite3.Row compares a name with one column after the other: 0.65 µs for the thirtieth, where a dict
    takes 0.02 µs and is made in 1.7 µs.
    """
    return dict(zip(row.keys(), row, strict=True)) if isinstance(row, Row) else row


def wide(rows: Iterable[Row]) -> list[Row]:
    """Return rows as mappings; see `columns_by_name`. Read them by name: each name is there once."""
    return [cast("Row", columns_by_name(each)) for each in rows]


_DIALECT = sqlite.dialect(paramstyle="named")
#: The place of a value in a compiled text.
_NAMED = re.compile(r":(\w+)")


#: The tables of which the writer keeps rows: see `live_rows`.
LIVE_TABLES = frozenset(
    {
        "evidence",
        "execution_items",
        "executions",
        "money_rules",
        "pauses",
        "payouts",
        "refs",
        "store_state",
    }
)


class Query:
    """A Core statement, compiled on first use and kept. Build it once, at module level.

    - `on_postgres`: what is said there instead, with the same values and columns.
    - `in_commit_order`: what it writes becomes visible in the order of its numbers (`events.position`).
    - `keeps`: the store function that runs it tells the writer's live rows what it wrote.
    - `remembered`: point reads keep its rows as long as nobody commits (`seen`). For a row or two by a key,
      read again and again; its values are given in the same order each time.
    """

    def __init__(  # noqa: PLR0913 - what is to be known of a statement
        self,
        statement: ClauseElement,
        *,
        columns: tuple[str, ...] | None = None,
        on_postgres: ClauseElement | None = None,
        in_commit_order: bool = False,
        keeps: bool = False,
        remembered: bool = False,
    ) -> None:
        table = statement.table if isinstance(statement, UpdateBase) else None
        #: whether live rows may not be what the database holds any more, once it has run
        self.drops_live_rows = not keeps and getattr(table, "name", "") in LIVE_TABLES
        self.remembered = remembered
        self._statement = statement
        self._columns = columns
        self._on_postgres = statement if on_postgres is None else on_postgres
        self.in_commit_order = in_commit_order
        self._compiled: tuple[str, dict[str, Any]] | None = None
        self._by_place: tuple[str, tuple[str, ...]] | None = None
        self._words: frozenset[str] | None = None
        self._numbered: tuple[str, tuple[str, ...], dict[str, Any]] | None = None

    @property
    def writes(self) -> bool:
        """Whether it changes rows."""
        return isinstance(self._statement, UpdateBase)

    @property
    def returns(self) -> bool:
        """Whether it returns the rows that it reads or changes."""
        return not self.writes or bool(getattr(self._statement, "_returning", ()))

    def compiled(self) -> tuple[str, dict[str, Any]]:
        """Return the text for SQLite, and the values that the statement itself carries."""
        if self._compiled is None:
            compiled = self._compile(_DIALECT, self._statement)
            self._compiled = _with_constants(str(compiled), _fixed(compiled))
        return self._compiled

    def by_place(self) -> tuple[str, tuple[str, ...]]:
        """Return the text for SQLite with `?1`, `?2`, … and the names of these values.

        For many rows of values: those of a payout are bound in 2 µs so, and by name in 7.
        """
        if self._by_place is None:
            text, _ = self.compiled()
            names = tuple(dict.fromkeys(_NAMED.findall(text)))
            places = {name: f"?{place}" for place, name in enumerate(names, 1)}
            self._by_place = _NAMED.sub(lambda found: places[found[1]], text), names
        return self._by_place

    @property
    def words(self) -> frozenset[str]:
        """Every word of the text for SQLite: the tables that it names are among them."""
        if self._words is None:
            self._words = frozenset(re.findall(r"\w+", self.compiled()[0]))
        return self._words

    def numbered(self) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        """Return the text for PostgreSQL, the names of `$1`, `$2`, … and the values that it carries."""
        if self._numbered is None:
            # Only where there is a PostgreSQL: loading the dialect takes a while.
            from gateway.store.postgres_dialect import DIALECT  # noqa: PLC0415

            compiled = self._compile(DIALECT, self._on_postgres)
            names = tuple(compiled.positiontup or ())
            self._numbered = (str(compiled), names, _fixed(compiled))
        return self._numbered

    def _compile(self, dialect: Dialect, statement: ClauseElement) -> SQLCompiler:
        compiled = statement.compile(
            dialect=dialect,
            column_keys=list(self._columns) if self._columns else None,
            compile_kwargs={"render_postcompile": True},
        )
        # A statement, and so one with values.
        return cast("SQLCompiler", compiled)


def _fixed(compiled: SQLCompiler) -> dict[str, Any]:
    # A column that is named without a value has a marker for one.
    return {
        name: value
        for name, value in compiled.params.items()
        if value is not None and not isinstance(value, symbol)
    }


def _with_constants(text: str, fixed: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Write the words and numbers that a statement itself names into its text; return what is left.

    A bound value that an index is limited to (`WHERE state = 'pending'`) has SQLite compile the statement
    again at every run: only the value shows whether the index may be used. They are constants of this
    program, never a caller's values.
    """
    plain = {name: each for name, each in fixed.items() if type(each) in {int, str}}

    def write(found: re.Match[str]) -> str:
        value = plain.get(found[1])
        if value is None:
            return found[0]
        return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)

    left = {name: each for name, each in fixed.items() if name not in plain}
    return _NAMED.sub(write, text), left
