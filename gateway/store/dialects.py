"""What SQLite and PostgreSQL write differently: JSON, patterns, the larger of two values.

JSON is kept as text in both. Each construct below is one expression that compiles for either.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, Text, bindparam, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import Integer, TypeEngine

__all__ = [
    "greatest",
    "json_at",
    "json_items",
    "json_length",
    "json_pairs",
    "json_texts",
    "listed",
    "matches",
    "number",
]


class _Function(FunctionElement[Any]):
    """A function that is called differently by each database."""

    inherit_cache = True
    #: how it is written, with `{0}`, `{1}` for its arguments
    on_sqlite = on_postgresql = ""


@compiles(_Function, "sqlite")
def _sqlite(element: _Function, compiler: Any, **options: Any) -> str:
    return element.on_sqlite.format(*_arguments(element, compiler, options))


@compiles(_Function, "postgresql")
def _postgresql(element: _Function, compiler: Any, **options: Any) -> str:
    return element.on_postgresql.format(*_arguments(element, compiler, options))


def _arguments(element: _Function, compiler: Any, options: dict[str, Any]) -> list[str]:
    return [compiler.process(each, **options) for each in element.clauses]


class _Texts(_Function):
    name = "json_texts"
    on_sqlite, on_postgresql = "json_each({0})", "jsonb_array_elements_text(CAST({0} AS JSONB))"


class _Items(_Function):
    name = "json_items"
    on_sqlite, on_postgresql = "json_each({0})", "jsonb_array_elements(CAST({0} AS JSONB))"


class _Pairs(_Function):
    name = "json_pairs"
    on_sqlite, on_postgresql = "json_each({0})", "jsonb_each_text(CAST({0} AS JSONB))"


class json_length(_Function):  # noqa: N801 - a function
    """The number of members of a JSON list."""

    name = "json_length"
    type = Integer()
    on_sqlite = "json_array_length({0})"
    on_postgresql = "jsonb_array_length(CAST({0} AS JSONB))"


class greatest(_Function):  # noqa: N801 - a function
    """The larger of two values, neither of them null."""

    name = "greatest"
    on_sqlite, on_postgresql = "max({0}, {1})", "GREATEST({0}, {1})"


class matches(_Function):  # noqa: N801 - a function
    """Whether a text is like a pattern in which `*` stands for any characters, and nothing else."""

    name = "matches"
    on_sqlite = "({0} GLOB {1})"
    on_postgresql = r"({0} LIKE replace(replace(replace(replace({1}, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%'))"


class _At(_Function):
    """A member of a JSON value, by its place or its name."""

    inherit_cache = False

    def __init__(self, value: Any, at: int | str, type_: TypeEngine[Any]) -> None:
        self.at = at
        self.type = type_
        path = f"$[{at}]" if isinstance(at, int) else f"$.{at}"
        key = str(at) if isinstance(at, int) else f"'{at}'"
        self.on_sqlite = f"json_extract({{0}}, '{path}')"
        kind = "BIGINT" if isinstance(type_, Integer) else "TEXT"
        self.on_postgresql = f"CAST((CAST({{0}} AS JSONB) ->> {key}) AS {kind})"
        super().__init__(value)


class _Number(_Function):
    """A text of a JSON list as the number that it is; SQLite has it as that already."""

    type = Integer()
    on_sqlite, on_postgresql = "{0}", "CAST({0} AS BIGINT)"


def listed(name: str, type_: type[TypeEngine[Any]] = Text) -> Select[Any]:
    """Return the members of a JSON list, given as one value: for `column.in_(listed("ids"))`.

    So one statement, compiled once, serves lists of any length. `type_`: Integer for numbers.
    """
    value = _Texts(bindparam(name)).table_valued("value").c.value
    return select(_Number(value) if issubclass(type_, Integer) else value)


def json_texts(value: Any) -> Any:
    """Return a JSON list of texts as a table with the column `value`."""
    return _Texts(value).table_valued("value")


def json_items(value: Any, name: str | None = None) -> Any:
    """Return a JSON list of lists as a table with the column `value`, for `json_at`."""
    return _Items(value).table_valued("value", name=name)


def json_pairs(value: Any) -> Any:
    """Return a JSON object of numbers as a table: `key`, `value`."""
    return _Pairs(value).table_valued("key", "value")


def json_at(value: Any, at: int | str, type_: TypeEngine[Any] | None = None) -> ColumnElement[Any]:
    """Return a member of a JSON value, by its place or name; a text where no `type_` is given."""
    return _At(value, at, type_ or Text())


def number(value: Any) -> ColumnElement[Any]:
    """Return a value of `json_pairs` as a number."""
    return _Number(value)
