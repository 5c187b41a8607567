"""Migrations: bring a database to this program's schema, or say what to run."""

from __future__ import annotations

import fcntl
import io
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import column, create_engine, inspect, select, table
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DatabaseError

from gateway.errors import SchemaMismatch, StoreUnusable
from gateway.store.database import Query, Tx
from gateway.store.files import create_private, private
from gateway.store.schema import metadata, store_schema
from gateway.store.unusable import why

#: The oldest revision whose programs can work with this program's schema: it has only been added to since.
#: A migration that takes something away raises it, here and in `store_schema`.
WORKS_FROM = "0020"
_FOLDER = Path(__file__).parent / "migrations"
#: Where the migrations are. A test adds those of a next release.
FOLDERS = [_FOLDER / "versions"]
_REVISION = Query(select(column("version_num")).select_from(table("alembic_version")))
_WORKS_FROM = Query(select(store_schema.c.works_from).where(store_schema.c.id == 1))


def _config(path: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", os.pathsep.join(map(str, FOLDERS)))
    config.attributes["path"] = path
    return config


def head_revision() -> str:
    """Return the newest revision that this program knows."""
    head = ScriptDirectory.from_config(_config(Path())).get_current_head()
    assert head is not None  # noqa: S101 - the migrations ship with the program
    return head


def current_revision(path: Path) -> str | None:
    """Return the revision of a database; None if it has no tables of ours.

    StoreUnusable where it cannot be read: the disk is full, it is locked, it is no database.
    """
    if not path.exists():
        return None
    engine = create_engine(f"sqlite:///{path}")
    try:
        with engine.connect() as connection:
            if not inspect(connection).get_table_names():
                return None
            return MigrationContext.configure(connection).get_current_revision() or "unversioned"
    except DatabaseError as error:
        raise StoreUnusable(why(path, error)) from None
    finally:
        engine.dispose()


def known_revisions(path: Path) -> frozenset[str]:
    """Return the revisions that this program can upgrade from, its own included."""
    script = ScriptDirectory.from_config(_config(path))
    return frozenset(each.revision for each in script.walk_revisions())


def schema_range() -> tuple[str, str]:
    """Return the oldest and the newest revision that this program can work with as it is."""
    head = head_revision()
    return head, head


async def revision(tx: Tx) -> str:
    """Return the revision of an open database; `none` where it has no tables of ours."""
    try:
        row = await tx.one(_REVISION)
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return "none"
    return "none" if row is None else str(row["version_num"])


async def works_from(tx: Tx) -> str | None:
    """Return the oldest revision whose programs can work with an open database; None: it does not say."""
    try:
        row = await tx.one(_WORKS_FROM)
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return None
    return None if row is None else str(row["works_from"])


def is_usable(revision: str | None, works_from: str | None, own: str) -> bool:
    """Whether a program that needs the schema `own` can work with another one as it is. Pure.

    With its own, and with a newer one that was only added to since. Whether it may set marks there is
    asked of the gate version.
    """
    if revision == own:
        return True
    return revision is not None and works_from is not None and works_from <= own < revision


def changed(revision: str | None, own: str) -> SchemaMismatch:
    """Return why a running gateway stops."""
    return SchemaMismatch(
        f"the database was changed to schema {revision or 'none'} while this gateway ran, and it "
        f"works with {own}. It stops; start the program version that fits the database."
    )


async def check_schema(tx: Tx) -> None:
    """Raise SchemaMismatch if the database's schema is not one this program can work with.

    For a running gateway, once the schema was changed: it must not write to a database whose
    conditions it does not know.
    """
    found, own = await revision(tx), head_revision()
    if found != own and not is_usable(found, await works_from(tx), own):
        raise changed(found, own)


def statements(dialect: Dialect, after: str) -> list[str]:
    """Return what brings a schema from an older revision to the newest one, without a database.

    So a migration that PostgreSQL databases may need reads no row.
    """
    script = ScriptDirectory.from_config(_config(Path()))
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
        for each in reversed(list(script.iterate_revisions("head", after))):
            each.module.upgrade()
    return texts.texts


def before_statements(after: str) -> list[str]:
    """Return what is done on PostgreSQL before the statements of an upgrade, each in a transaction of its own.

    What takes long, and would hold up everybody in one transaction with the rest. Each may be run twice, and
    leaves a schema that programs of the older revision work with.
    """
    script = ScriptDirectory.from_config(_config(Path()))
    return [
        text
        for each in reversed(list(script.iterate_revisions("head", after)))
        for text in getattr(each.module, "BEFORE_ON_POSTGRES", ())
    ]


class _Texts(io.TextIOBase):
    """Takes statements, which are written to it one by one."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def write(self, text: str) -> int:
        self.texts.append(text.strip().removesuffix(";"))
        return len(text)


def upgrade(path: Path) -> tuple[str | None, str]:
    """Bring the database to the newest schema; return (revision before, revision after).

    May be called twice, also by two processes at once: a file lock beside the database orders them.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(path):
        before = current_revision(path)
        head = head_revision()
        if before != head:
            create_private(path)
            command.upgrade(_config(path), "head")
        return before, head


def prepare(path: Path) -> None:
    """Create an empty database; raise SchemaMismatch where an existing one cannot be used as it is."""
    revision = current_revision(path)
    if revision is None:
        upgrade(path)
    else:
        require_head(path, revision, None if revision == head_revision() else _works_from_of(path))


def require_head(path: Path, revision: str, works_from: str | None = None) -> None:
    """Raise SchemaMismatch where a database's revision is not one that this program can work with."""
    head = head_revision()
    if is_usable(revision, works_from, head):
        return
    message = (
        f"the database {path} has schema {revision}, this program needs {head}. "
        "Stop every gateway on it, back it up (payout-gateway db backup), and run: "
        "payout-gateway db upgrade"
        if revision in known_revisions(path)
        else f"the database {path} has schema {revision}, which this program does not know "
        "(it is newer, or not a payout-gateway database). Run the program version it was made with."
    )
    raise SchemaMismatch(message)


def _works_from_of(path: Path) -> str | None:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        try:
            row = connection.execute("SELECT works_from FROM store_schema").fetchone()
        except sqlite3.OperationalError:
            # Older tables, or a failing disk: opening the store reports it.
            return None
    return None if row is None else str(row[0])


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with open(path.with_name(path.name + ".lock"), "w", opener=private) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
