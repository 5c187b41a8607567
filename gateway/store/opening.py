"""Opening the store that is configured."""

from __future__ import annotations

from sqlalchemy import column, select, table

from gateway.config import Settings
from gateway.store import migrate
from gateway.store.database import Database, Query, Tx

_REVISION = Query(select(column("version_num")).select_from(table("alembic_version")))


def open_database(settings: Settings) -> Database:
    """Return the store, to be entered with `async with`. A fresh one is made; an old one is refused.

    Raises SchemaMismatch, which says what to run; so does every change, once another process has
    migrated the database while it is open.
    """
    path = settings.database
    migrate.prepare(path)

    async def same_revision(tx: Tx) -> None:
        row = await tx.one(_REVISION)
        migrate.require_head(path, "unversioned" if row is None else str(row["version_num"]))

    return Database(path, on_schema_change=same_revision)
