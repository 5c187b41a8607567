"""Statements: SQLAlchemy Core expressions, compiled once to text for the bare driver."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.util import symbol

if TYPE_CHECKING:
    from sqlalchemy.sql import ClauseElement

__all__ = ["Query", "Row", "listed", "upsert"]

Row = sqlite3.Row
#: A row as it was read, or the part of a joined row that belongs to one table.
Columns = Row | Mapping[str, Any]

_DIALECT = sqlite.dialect(paramstyle="named")


#: The tables of which the writer keeps rows: see `live_rows`.
LIVE_TABLES = frozenset(
    {"executions", "execution_items", "payouts", "evidence", "refs", "store_state", "pauses"}
)


class Query:
    """A Core statement, compiled on first use and kept. Build it once, at module level.

    `keeps`: the store function that runs it tells the writer's live rows what it wrote.
    """

    def __init__(
        self,
        statement: ClauseElement,
        *,
        columns: tuple[str, ...] | None = None,
        keeps: bool = False,
    ) -> None:
        table = statement.table if isinstance(statement, UpdateBase) else None
        #: whether live rows may not be what the database holds any more, once it has run
        self.drops_live_rows = not keeps and getattr(table, "name", "") in LIVE_TABLES
        self._statement = statement
        self._columns = columns
        self._compiled: tuple[str, dict[str, Any]] | None = None

    def compiled(self) -> tuple[str, dict[str, Any]]:
        """Return the text and the values that the statement itself carries."""
        if self._compiled is None:
            compiled = self._statement.compile(
                dialect=_DIALECT,
                column_keys=list(self._columns) if self._columns else None,
                compile_kwargs={"render_postcompile": True},
            )
            # A column that is named without a value has a marker for one.
            fixed = {
                name: value
                for name, value in compiled.params.items()
                if value is not None and not isinstance(value, symbol)
            }
            self._compiled = _with_constants(str(compiled), fixed)
        return self._compiled


def _with_constants(text: str, fixed: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Write the words and numbers that a statement itself names into its text; return what is left.

    A bound value that an index is limited to (`WHERE state = 'pending'`) has SQLite compile the statement
    anew at every run: only the value tells it whether the index may be used. They are constants of this
    program, never a caller's values.
    """
    plain = {name: each for name, each in fixed.items() if type(each) in {int, str}}

    def write(found: re.Match[str]) -> str:
        value = plain.get(found[1])
        if value is None:
            return found[0]
        return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)

    left = {name: each for name, each in fixed.items() if name not in plain}
    return re.sub(r":(\w+)", write, text), left


def listed(name: str) -> Select[Any]:
    """Return the members of a JSON list, given as one value: for `column.in_(listed("ids"))`.

    So one statement, compiled once, serves lists of any length.
    """
    return select(func.json_each(bindparam(name)).table_valued("value").c.value)
