"""Migrations: fresh, old and newer databases."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from gateway.config import Settings
from gateway.errors import SchemaMismatch
from gateway.store import migrate
from gateway.store.opening import open_database
from gateway.store.schema import metadata
from tests.store.faulty import add, committed


def test_migrations_make_the_schema_of_the_code(tmp_path: Path) -> None:
    """The migrated database and the tables in the code are the same."""
    path = tmp_path / "store.db"
    assert migrate.upgrade(path) == (None, migrate.head_revision())
    assert migrate.upgrade(path) == (migrate.head_revision(), migrate.head_revision())
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        # What the revision before used stays under another name, for people.
        context = MigrationContext.configure(connection, opts={"include_name": _is_in_use})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def _is_in_use(name: str | None, kind: str, _: object) -> bool:
    return kind != "table" or not str(name).startswith("old_")


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


async def test_a_migration_under_a_running_gateway_stops_its_changes(tmp_path: Path) -> None:
    """Every change is refused before it writes; an index or a VACUUM is no migration."""
    path = tmp_path / "store.db"
    server_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    settings = Settings.model_validate({"database": path, "server_key": server_key})

    def elsewhere(*statements: str) -> None:
        with sqlite3.connect(path, isolation_level=None) as other:
            for statement in statements:
                other.execute(statement)
        other.close()

    async with open_database(settings) as db:
        elsewhere("CREATE INDEX ix_extra ON api_keys (hint)", "VACUUM")
        await db.run(add, "before")
        elsewhere(
            "BEGIN",
            "ALTER TABLE api_keys ADD COLUMN extra TEXT",
            "UPDATE alembic_version SET version_num = '9999'",
            "COMMIT",
        )
        with pytest.raises(SchemaMismatch, match="while this gateway ran"):
            await db.run(add, "after")
    assert committed(path) == {"before"}


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


def test_rows_of_before_are_kept(tmp_path: Path) -> None:
    """From the schema before batches: payouts, their children and the account locks stay."""
    path = tmp_path / "store.db"
    config = migrate._config(path)
    command.upgrade(config, "0002")
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA foreign_keys=ON")
        db.execute(
            "INSERT INTO quotes (id, org, mode, external_ref, metadata, terms, account, expires_at, "
            "created_at) VALUES ('quo_1', 'o', 'live', 'u', '{}', '{}', '{}', 1, 1)"
        )
        db.execute(
            "INSERT INTO payouts (id, org, mode, quote_id, status, sub_status, external_ref, metadata, "
            "terms, custodian, account, sequence, created_at, updated_at) VALUES ('pay_1', 'o', 'live', "
            "'quo_1', 'pending', 'created', 'u', '{}', '{}', 'c', '{}', 1, 1, 1)"
        )
        db.execute(
            "INSERT INTO timeline VALUES ('t', 'pay_1', 'pending', 'created', NULL, NULL, 1)"
        )
        db.execute("INSERT INTO work VALUES ('pay_1', 'c', 1, 0, NULL, 0)")
        db.execute("INSERT INTO account_locks VALUES ('c', 'V', '7', 'pay_1', 1)")
    db.close()
    assert migrate.upgrade(path) == ("0002", migrate.head_revision())
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA foreign_keys=ON")
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        assert db.execute("SELECT quote_id, batch_id FROM payouts").fetchall() == [("quo_1", None)]
        (execution,) = db.execute("SELECT id, state, rank, size, rows FROM executions").fetchall()
        assert execution[1:] == ("prepared", 0, 1, 0)
        items = db.execute("SELECT execution_id, payout_id, open FROM execution_items").fetchall()
        assert items == [(execution[0], "pay_1", 1)]
        locks = db.execute("SELECT execution_id FROM account_locks").fetchall()
        assert locks == [(execution[0],)]
        with pytest.raises(sqlite3.IntegrityError):
            db.execute("INSERT INTO payout_hashes VALUES ('0x', 'pay_none')")
    db.close()


def test_kept_answers_stay(tmp_path: Path) -> None:
    """From the schema before claims: an answer is still one, and open work may have none."""
    path = tmp_path / "store.db"
    command.upgrade(migrate._config(path), "0003")
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO idempotency VALUES ('o', 'live', 'r', 'k', 'f', X'01', 7)")
    db.close()
    migrate.upgrade(path)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT * FROM idempotency").fetchall() == [
            ("o", "live", "r", "k", "f", b"\x01", 7, 0, None, None)
        ]
        row = "INSERT INTO idempotency (org, mode, route, key, fingerprint) VALUES (?, ?, ?, ?, ?)"
        db.execute(row, ("o", "live", "r", "k2", "f"))
        with pytest.raises(sqlite3.IntegrityError):
            db.execute(row, ("o", "live", "r", "k", "f"))
    db.close()
