"""Migrations: bring a database to this program's schema, or say what to run."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import column, select, table

from gateway.errors import SchemaMismatch, StoreUnusable
from gateway.store.database import Query, Tx
from gateway.store.files import create_private, private
from gateway.store.schema import store_schema
from gateway.store.unusable import why

#: The oldest revision whose programs can work with this program's schema: it has only been added to since.
#: A migration that takes something away raises it, here and in `store_schema`.
WORKS_FROM = "0020"
#: Where the migrations are. A test adds those of a next release.
FOLDERS = [Path(__file__).parent / "migrations" / "versions"]
_VERSIONS = "alembic_version"
_TABLES = (
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
)
_VERSION = f"SELECT version_num FROM {_VERSIONS}"  # noqa: S608 - a name of ours
_REVISION = Query(select(column("version_num")).select_from(table(_VERSIONS)))
_WORKS_FROM = Query(select(store_schema.c.works_from).where(store_schema.c.id == 1))


def head_revision() -> str:
    """Return the newest revision that this program knows."""
    return max(known_revisions())


def current_revision(path: Path) -> str | None:
    """Return the revision of a database; None if it has no tables of ours.

    StoreUnusable where it cannot be read: the disk is full, it is locked, it is no database.
    """
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path)) as connection:
            tables = {name for (name,) in connection.execute(_TABLES)}
            row = connection.execute(_VERSION).fetchone() if _VERSIONS in tables else None
    except sqlite3.Error as error:
        raise StoreUnusable(why(path, error)) from None
    if not tables:
        return None
    return "unversioned" if row is None else str(row[0])


def known_revisions() -> frozenset[str]:
    """Return the revisions that this program can upgrade from, its own included.

    By the names of their files, which begin with them: a gateway that starts need not load each migration.
    """
    found = (each.name for folder in FOLDERS for each in folder.glob("[0-9]*.py"))
    return frozenset(name.partition("_")[0] for name in found)


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
            # Loads Alembic, which a gateway on a prepared database never needs.
            from gateway.store import upgrading  # noqa: PLC0415

            upgrading.upgrade(path, FOLDERS)
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
        if revision in known_revisions()
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
