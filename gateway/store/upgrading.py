"""Runs the migrations by Alembic. Loaded only where a schema is made or upgraded: it takes 10 MB of memory."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy.engine import Dialect

from gateway.store.schema import metadata

_FOLDER = Path(__file__).parent / "migrations"


def config(path: Path, folders: Sequence[Path] = (_FOLDER / "versions",)) -> Config:
    """Return what Alembic needs to know. `folders`: where the migrations are."""
    made = Config()
    made.set_main_option("script_location", str(_FOLDER))
    made.set_main_option("path_separator", "os")
    made.set_main_option("version_locations", os.pathsep.join(map(str, folders)))
    made.attributes["path"] = path
    return made


def upgrade(path: Path, folders: Sequence[Path]) -> None:
    """Bring an SQLite database to the newest schema. Not to be called by two processes at once."""
    command.upgrade(config(path, folders), "head")


def statements(dialect: Dialect, after: str, folders: Sequence[Path]) -> list[str]:
    """Return what brings a schema from an older revision to the newest one, without a database.

    So a migration that PostgreSQL databases may need reads no row.
    """
    texts = _Texts()
    context = MigrationContext.configure(
        dialect=dialect,
        opts={
            "as_sql": True,
            "literal_binds": True,
            "output_buffer": texts,
            "target_metadata": metadata,
        },
    )
    with Operations.context(context):
        for each in _after(after, folders):
            each.module.upgrade()
    return texts.texts


def before_statements(after: str, folders: Sequence[Path]) -> list[str]:
    """Return what is done on PostgreSQL before the statements of an upgrade, each in a transaction of its own.

    What takes long, and would hold up everybody in one transaction with the rest. Each may be run twice, and
    leaves a schema that programs of the older revision work with.
    """
    return [
        text
        for each in _after(after, folders)
        for text in getattr(each.module, "BEFORE_ON_POSTGRES", ())
    ]


def _after(revision: str, folders: Sequence[Path]) -> list[Script]:
    """Return the migrations after a revision, first one first."""
    script = ScriptDirectory.from_config(config(Path(), folders))
    return list(reversed(list(script.iterate_revisions("head", revision))))


class _Texts(io.TextIOBase):
    """Takes statements, which are written to it one by one."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def write(self, text: str) -> int:
        self.texts.append(text.strip().removesuffix(";"))
        return len(text)
