"""Migrations: fresh, old and newer databases."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from gateway.errors import SchemaMismatch
from gateway.store import migrate
from gateway.store.schema import metadata


def test_migrations_make_the_schema_of_the_code(tmp_path: Path) -> None:
    """The migrated database and the tables in the code are the same."""
    path = tmp_path / "store.db"
    assert migrate.upgrade(path) == (None, migrate.head_revision())
    assert migrate.upgrade(path) == (migrate.head_revision(), migrate.head_revision())
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


@pytest.mark.parametrize(("revision", "words"), [("0000", "does not know"), ("9999", "newer")])
def test_a_foreign_schema_is_refused(tmp_path: Path, revision: str, words: str) -> None:
    """A database of another version is not touched; the message says what to do."""
    path = tmp_path / "store.db"
    migrate.prepare(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()
    with pytest.raises(SchemaMismatch, match=words):
        migrate.prepare(path)


def test_an_old_schema_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older, known schema is refused with the command that upgrades it."""
    path = tmp_path / "store.db"
    migrate.prepare(path)
    monkeypatch.setattr(migrate, "head_revision", lambda: "0099")
    with pytest.raises(SchemaMismatch, match="payout-gateway db upgrade"):
        migrate.prepare(path)


def test_two_processes_may_prepare_at_once(tmp_path: Path) -> None:
    """Concurrent first starts make one database."""
    path = tmp_path / "store.db"
    errors: list[Exception] = []

    def prepare() -> None:
        try:
            migrate.prepare(path)
        except Exception as error:  # noqa: BLE001 - collected for the assertion
            errors.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert migrate.current_revision(path) == migrate.head_revision()
