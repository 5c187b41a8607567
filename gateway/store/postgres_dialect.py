"""How statements are written for PostgreSQL: `$1` with the type of each value, as asyncpg takes them."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.dialects.postgresql.base import PGDDLCompiler, PGTypeCompiler
from sqlalchemy.dialects.sqlite.dml import OnConflictDoNothing, OnConflictDoUpdate
from sqlalchemy.ext.compiler import compiles


class _Types(PGTypeCompiler):
    """Types that hold what SQLite's hold: integers of 64 bits, and texts compared byte by byte."""

    def visit_INTEGER(self, type_: Any, **_: Any) -> str:  # noqa: ARG002, N802 - called by SQLAlchemy
        """Return the type of integers. `events.position` alone outgrows 32 bits."""
        return "BIGINT"

    def visit_TEXT(self, type_: Any, **_: Any) -> str:  # noqa: ARG002, N802 - called by SQLAlchemy
        """Return the type of texts. A page of a list goes on after an id: every locale must agree."""
        return 'TEXT COLLATE "C"'


class _Schema(PGDDLCompiler):
    """Numbers that are counted have 64 bits, too."""

    def get_column_specification(self, column: Any, **options: Any) -> str:
        """Return how a column is written in CREATE TABLE."""
        return super().get_column_specification(column, **options).replace(" SERIAL", " BIGSERIAL")  # type: ignore[no-untyped-call, no-any-return]


class Dialect(asyncpg.dialect):
    """The dialect of the statements and of the schema."""

    type_compiler_cls = _Types
    ddl_compiler = _Schema
    supports_statement_cache = False


DIALECT = Dialect()  # type: ignore[no-untyped-call]


# The store builds its upserts with SQLite's construct; both databases write it alike.
@compiles(OnConflictDoNothing, "postgresql")
def _do_nothing(clause: Any, compiler: Any, **options: Any) -> str:
    clause.constraint_target = None
    return str(compiler.visit_on_conflict_do_nothing(clause, **options))


@compiles(OnConflictDoUpdate, "postgresql")
def _do_update(clause: Any, compiler: Any, **options: Any) -> str:
    clause.constraint_target = None
    return str(compiler.visit_on_conflict_do_update(clause, **options))
