"""Migrations: bring a database to this program's schema, or say what to run."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import column, create_engine, inspect, select, table
from sqlalchemy.exc import DatabaseError

from gateway.errors import SchemaMismatch, StoreUnusable
from gateway.store.database import Query, Tx
from gateway.store.files import create_private, private
from gateway.store.unusable import why

_REVISION = Query(select(column("version_num")).select_from(table("alembic_version")))


def _config(path: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["path"] = path
    return config


def head_revision() -> str:
    """Return the newest revision that this program knows."""
    head = ScriptDirectory.from_config(_config(Path())).get_current_head()
    assert head is not None  # noqa: S101 - the migrations ship with the program
    return head


def current_revision(path: Path) -> str | None:
    """Return the revision of a database; None where it has no tables of ours.

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


async def check_schema(tx: Tx) -> None:
    """Raise SchemaMismatch where the database's schema is not one this program can work with.

    For a running gateway, once the schema was changed: it must not write to a database whose
    conditions it does not know.
    """
    row = await tx.one(_REVISION)
    revision = None if row is None else row["version_num"]
    first, last = schema_range()
    if revision is None or not first <= revision <= last:
        raise SchemaMismatch(
            f"the database was changed to schema {revision or 'none'} while this gateway ran, and it "
            f"works with {last}. It stops; start the program version that fits the database."
        )


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
    """Create an empty database; raise SchemaMismatch where an existing one is of another revision."""
    revision = current_revision(path)
    if revision is None:
        upgrade(path)
    else:
        require_head(path, revision)


def require_head(path: Path, revision: str) -> None:
    """Raise SchemaMismatch where a database's revision is not the one that this program needs."""
    head = head_revision()
    if revision == head:
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


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with open(path.with_name(path.name + ".lock"), "w", opener=private) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
