"""Migrations: fresh, old and newer databases."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from gateway.config.settings import Settings
from gateway.errors import SchemaMismatch
from gateway.store import migrate, upgrading
from gateway.store.opening import open_database
from gateway.store.schema import metadata
from tests.store.faulty import add, committed

NEXT = Path(__file__).parent / "next_release"


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
        connection.execute("UPDATE store_schema SET works_from = ?", (revision,))
    connection.close()
    with pytest.raises(SchemaMismatch, match=words):
        migrate.prepare(path)


def test_a_newer_schema_that_only_adds_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may be started again while a newer one is rolled out. It does not go back, though."""
    path = tmp_path / "store.db"
    with monkeypatch.context() as newer:
        newer.setattr(migrate, "FOLDERS", [*migrate.FOLDERS, NEXT])
        assert migrate.upgrade(path) == (None, "9000")
    migrate.prepare(path)
    assert migrate.current_revision(path) == "9000"


@pytest.mark.parametrize(
    ("revision", "works_from", "usable"),
    [
        ("0030", "0020", True),
        ("0030", None, True),
        ("0029", "0020", False),
        ("0031", "0020", True),
        ("0031", "0030", True),
        ("0031", "0031", False),
        ("0031", None, False),
        (None, None, False),
    ],
)
def test_which_schemas_a_program_works_with(
    revision: str | None, works_from: str | None, usable: bool
) -> None:
    """Its own, and newer ones that were only added to; never an older one."""
    assert migrate.is_usable(revision, works_from, "0030") is usable


def test_migrations_only_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each migration since `WORKS_FROM` leaves every table, column and value that an older program writes.

    One that must take something away raises `WORKS_FROM`, and a release without use of it comes before.
    """
    monkeypatch.setattr(migrate, "FOLDERS", [*migrate.FOLDERS, NEXT])
    path = tmp_path / "store.db"
    config = upgrading.config(path, migrate.FOLDERS)
    command.upgrade(config, migrate.WORKS_FROM)
    before = _columns(path)
    later = sorted(each for each in migrate.known_revisions() if each > migrate.WORKS_FROM)
    assert later[-1] == "9000"
    for revision in later:
        command.upgrade(config, revision)
        after = _columns(path)
        for table, columns in before.items():
            assert after[table].items() >= columns.items(), (revision, table)
            added = set(after[table]) - set(columns)
            needed = {
                name for name in added if after[table][name][1] and after[table][name][2] is None
            }
            assert not needed, f"{revision}: an older program writes no {needed} in {table}"
        before = after


def _columns(path: Path) -> dict[str, dict[str, tuple[object, ...]]]:
    """Return of each table of ours the columns: type, whether one is needed, default; and what is unique."""
    with sqlite3.connect(path) as db:
        tables = [
            name
            for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if not name.startswith("sqlite_") and name != "alembic_version"
        ]
        found: dict[str, dict[str, tuple[object, ...]]] = {}
        for table in tables:
            found[table] = {
                row[1]: (row[2], row[3], row[4], row[5])
                for row in db.execute(f"PRAGMA table_info({table})")
            }
            unique = sum(row[2] for row in db.execute(f"PRAGMA index_list({table})"))
            found[table]["(unique)"] = (unique, 0, 0)
    db.close()
    return found


def test_the_migrations_say_what_the_code_says(tmp_path: Path) -> None:
    """From which revision on a program works with the schema."""
    path = tmp_path / "store.db"
    migrate.upgrade(path)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT * FROM store_schema").fetchall() == [(1, migrate.WORKS_FROM)]
    db.close()


def test_an_old_schema_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older, known schema is refused with the command that upgrades it."""
    path = tmp_path / "store.db"
    migrate.prepare(path)
    monkeypatch.setattr(migrate, "head_revision", lambda: "0099")
    with pytest.raises(SchemaMismatch, match="payout-gateway db upgrade"):
        migrate.prepare(path)


async def test_a_migration_under_a_running_gateway_stops_its_changes(tmp_path: Path) -> None:
    """Every change is refused before it writes, unless only something was added."""
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
        await db.run(add, "between")
        elsewhere(
            "CREATE TABLE taken (id INT)",
            "UPDATE store_schema SET works_from = '9999'",
            "DROP TABLE taken",
        )
        with pytest.raises(SchemaMismatch, match="while this gateway ran"):
            await db.run(add, "after")
    assert committed(path) == {"before", "between"}


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
    config = upgrading.config(path)
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
    command.upgrade(upgrading.config(path), "0003")
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


def test_the_names_of_the_files_are_the_revisions() -> None:
    """A gateway that starts reads the names only; Alembic reads the migrations."""
    script = ScriptDirectory.from_config(upgrading.config(Path()))
    assert {each.revision for each in script.walk_revisions()} == migrate.known_revisions()
    assert script.get_current_head() == migrate.head_revision()
