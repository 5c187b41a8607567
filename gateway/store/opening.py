"""Opening the store that is configured."""

from __future__ import annotations

from gateway.config import Settings
from gateway.store import migrate
from gateway.store.database import Database


def open_database(settings: Settings) -> Database:
    """Return the store, to be entered with `async with`. A fresh one is made; an old one is refused.

    Raises SchemaMismatch, which says what to run.
    """
    migrate.prepare(settings.database)
    return Database(settings.database)
