"""Opening a PostgreSQL store: what it makes, what it refuses, and when it is frozen."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.config.settings import Settings
from gateway.database_url import PostgresUrl
from gateway.errors import InUse, SchemaMismatch, StoreUnusable
from gateway.runtime import Runtime
from gateway.store import migrate
from gateway.store.database import Database
from gateway.store.opening import compare, open_database, open_to_read, state_file_of
from gateway.store.postgres import opening, schema
from gateway.store.postgres.cluster import difference
from gateway.store.postgres.connection import Server
from gateway.store.postgres.errors import Unavailable
from gateway.store.state import advance, frozen, state_row
from tests import postgres
from tests.clock import SetClock
from tests.store.faulty import add, names
from tests.store.rows import add_payout, runtime_of

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.fixture
def empty() -> Iterator[Server]:
    """A database without tables."""
    with postgres.fresh(prepared=False) as server:
        yield server


@pytest.fixture
def server() -> Iterator[Server]:
    """A database with every table and no row."""
    with postgres.fresh() as server:
        yield server


def settings_of(server: Server, **parts: str) -> Settings:
    """Return a configuration with nothing but a database; `parts` replace words of its URL."""
    url = server.url
    for old, new in parts.items():
        url = url.replace(old, new)
    return Settings.model_validate({"database": url, "server_key": KEY})


@asynccontextmanager
async def opened(server: Server, runtime: Runtime | None = None) -> AsyncIterator[Database]:
    """Open it as a gateway does."""
    async with open_database(settings_of(server), runtime) as db:
        yield db


# --- Schema ------------------------------------------------------------------------------------------------


async def test_an_empty_database_gets_its_tables(empty: Server) -> None:
    """By whichever process comes first; many may come at once."""
    done = await asyncio.gather(*(schema.prepare(empty) for _ in range(4)))
    head = migrate.head_revision()
    assert sorted(done, key=str) == [*[(head, head)] * 3, (None, head)]
    async with opened(empty) as db:
        row = await db.read(state_row)
        assert (row["marks"], row["accepting"], row["frozen"]) == (0, 1, None)
        await db.run(add, "a")
    async with open_to_read(settings_of(empty)) as db:
        assert await db.read(names) == ["a"]


async def test_both_stores_have_the_same_tables(server: Server, tmp_path: Any) -> None:
    """Names and columns of SQLite's migrations and of what is made here are the same."""
    path = tmp_path / "store.db"
    migrate.prepare(path)
    ours = {
        (row["table_name"], row["column_name"])
        for row in postgres.execute(
            server.url,
            "SELECT table_name, column_name FROM information_schema.columns "
            "JOIN pg_class ON relname = table_name AND relnamespace = 'public'::regnamespace "
            "WHERE table_schema = 'public' AND NOT relispartition "
            "AND (table_name NOT LIKE 'store\\_%' OR table_name IN ('store_state', 'store_schema'))",
        )
    }
    connection = sqlite3.connect(path)
    tables = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        # Rows of before are kept there for people; a new database has none.
        if not name.startswith(("sqlite_", "old_"))
    ]
    theirs = {
        (table, row[1])
        for table in tables
        for row in connection.execute(f"PRAGMA table_info({table})")
    }
    connection.close()
    assert ours == theirs


async def test_tables_of_something_else_are_left_alone(empty: Server) -> None:
    """A foreign database is refused, and nothing is made in it."""
    postgres.execute(empty.url, "CREATE TABLE customers (id int)")
    with pytest.raises(SchemaMismatch, match="not those of a payout-gateway"):
        async with opened(empty):
            pass
    (row,) = postgres.execute(
        empty.url, "SELECT count(*) AS n FROM pg_tables WHERE schemaname = 'public'"
    )
    assert row["n"] == 1


@pytest.mark.parametrize(
    ("revision", "words"),
    [("0009", "does not know it"), ("0013", "db upgrade"), ("9999", "newer")],
)
async def test_another_schema_is_refused(empty: Server, revision: str, words: str) -> None:
    """An older one and a newer one, with what to do."""
    await schema.prepare(empty)
    postgres.execute(
        empty.url,
        f"UPDATE alembic_version SET version_num = '{revision}'",
        f"UPDATE store_schema SET works_from = '{revision}'",
    )
    for way in (opened(empty), open_to_read(settings_of(empty))):
        with pytest.raises(SchemaMismatch, match=words):
            async with way:
                pass


# --- What cannot be used -----------------------------------------------------------------------------------


async def test_a_read_only_database(server: Server) -> None:
    """A standby, or one that is set to be read only: refused with words, not used in part."""
    name = postgres.name_of(server.url)
    postgres.admin(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        with pytest.raises(StoreUnusable, match="read-only"):
            async with opened(server):
                pass
    finally:
        postgres.admin(f"ALTER DATABASE {name} RESET default_transaction_read_only")


async def test_a_role_without_permission(server: Server) -> None:
    """It may connect, and see nothing."""
    postgres.admin("DROP ROLE IF EXISTS nobody_here", "CREATE ROLE nobody_here LOGIN")
    settings = settings_of(server, **{"//postgres:": "//nobody_here:"})
    with pytest.raises(StoreUnusable, match="refuses it to this role"):
        async with open_database(settings):
            pass


async def test_no_connection_left(server: Server) -> None:
    """Whoever gets none is told so, and nothing is half done; later it goes on."""
    postgres.admin(
        "DROP ROLE IF EXISTS few", "CREATE ROLE few LOGIN SUPERUSER", "ALTER ROLE few NOSUPERUSER"
    )
    postgres.execute(
        server.url,
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO few",
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO few",
    )
    settings = settings_of(server, **{"//postgres:": "//few:"})
    try:
        async with open_database(settings) as db:
            await db.run(add, "a")
            postgres.admin("ALTER ROLE few CONNECTION LIMIT 1")
            with pytest.raises((StoreUnusable, Unavailable), match="no free connection"):
                async with open_database(settings):
                    pass
            # Connections that are open are not concerned.
            await db.run(add, "b")
            postgres.admin("ALTER ROLE few CONNECTION LIMIT -1")
            async with open_database(settings) as other:
                assert await other.read(names) == ["a", "b"]
    finally:
        postgres.execute(server.url, "DROP OWNED BY few")
        postgres.admin("DROP ROLE few")


async def test_absent_at_start(server: Server) -> None:
    """The words name the database, and not the password."""
    settings = Settings.model_validate(
        {"database": "postgresql://u:hunter2@127.0.0.1:1/payouts", "server_key": KEY}
    )
    with pytest.raises(StoreUnusable, match="cannot be reached") as caught:
        async with open_database(settings):
            pass
    assert "postgresql:127.0.0.1:1/payouts" in str(caught.value)
    assert "hunter2" not in str(caught.value) + repr(settings)


async def test_alone_means_alone(server: Server) -> None:
    """A command that wants it alone is refused beside a gateway, and keeps others out meanwhile."""
    url = settings_of(server).postgres
    assert isinstance(url, PostgresUrl)
    async with opened(server):
        with opening.alone(url), pytest.raises(InUse):
            async with opened(server):
                pass
    with opening.alone(url):
        held = opened(server)
        db = await held.__aenter__()
    try:
        await db.run(add, "a")
        with pytest.raises(StoreUnusable, match="has the database alone"):
            async with opened(server):
                pass
    finally:
        await held.__aexit__(None, None, None)


# --- Is it the database that was used? ---------------------------------------------------------------------


async def test_a_copy_of_the_database_is_frozen(server: Server) -> None:
    """Another database of the cluster, made from this one: no mark, and the audit log says why."""
    async with opened(server) as db:
        await db.run(add_payout)
        assert await db.read(frozen) is None
    name = postgres.name_of(server.url)
    postgres.admin(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
    copy = Server(server.url.replace(name, f"{name}_copy"), "copy")
    try:
        async with opened(copy) as db:
            assert "another database of the cluster" in str(await db.read(frozen))
        rows = postgres.execute(copy.url, "SELECT act FROM audit_log")
        assert [row["act"] for row in rows] == ["database_frozen"]
        # The one that it was made from goes on.
        async with opened(server) as db:
            assert await db.read(frozen) is None
    finally:
        postgres.drop(copy.url)


def restore(server: Server, dump: Path) -> None:
    """Restore a dump into a database that has tables; `--clean` cannot drop keys of partitions."""
    made = (
        "CREATE SCHEMA public AUTHORIZATION pg_database_owner",
        "GRANT USAGE ON SCHEMA public TO PUBLIC",
    )
    postgres.execute(server.url, "DROP SCHEMA public CASCADE", *made)
    postgres.program("pg_restore", "--exit-on-error", f"--dbname={server.url}", dump)


async def test_a_dump_that_is_restored_into_the_same_database(
    server: Server, tmp_path: Path
) -> None:
    """Cluster, timeline and database are the same ones; the tables are not, and lack what came since."""
    async with opened(server) as db:
        await db.run(add_payout)
    dump = tmp_path / "payouts.dump"
    postgres.program("pg_dump", "--format=custom", f"--file={dump}", server.url)
    async with opened(server) as db:
        await db.run(advance)
        assert await db.read(frozen) is None
    restore(server, dump)
    async with opened(server) as db:
        row = await db.read(state_row)
        assert (row["marks"], "a dump was restored" in str(row["frozen"])) == (0, True)


async def test_a_dump_that_is_restored_under_a_gateway(server: Server, tmp_path: Path) -> None:
    """It is seen in the first commit, before anything is written."""
    async with opened(server) as db:
        await db.run(add_payout)
        dump = tmp_path / "payouts.dump"
        postgres.program("pg_dump", "--format=custom", f"--file={dump}", server.url)
        await db.run(advance)
        restore(server, dump)
        await db.run(add, "a")
        assert "a dump was restored" in str(await db.read(frozen))


async def test_a_database_that_was_named_without_its_tables(server: Server) -> None:
    """As an earlier program has stored it: it is taken as it is, and named in full from then on."""
    async with opened(server) as db:
        await db.run(add_payout)
    (row,) = postgres.execute(server.url, "SELECT identity FROM store_cluster")
    short = row["identity"].rsplit("/", 1)[0]
    postgres.execute(server.url, f"UPDATE store_cluster SET identity = '{short}'")
    async with opened(server) as db:
        assert await db.read(frozen) is None
    assert postgres.execute(server.url, "SELECT identity FROM store_cluster") == [row]


async def test_a_copy_without_payouts_is_taken_as_it_is(server: Server) -> None:
    """There is nothing that it could pay twice."""
    async with opened(server):
        pass
    postgres.execute(server.url, "UPDATE store_cluster SET identity = '1/00000001/1'")
    async with opened(server) as db:
        assert await db.read(frozen) is None
    (row,) = postgres.execute(server.url, "SELECT identity FROM store_cluster")
    assert row["identity"] != "1/00000001/1"


async def test_a_database_that_is_exchanged_under_a_gateway(server: Server) -> None:
    """It is frozen in the first transaction that reaches the other one, before anything else is written."""
    name = postgres.name_of(server.url)
    runtime = runtime_of(SetClock())
    settings = settings_of(server)
    cluster = state_file_of(settings, runtime)
    async with open_database(settings, runtime, cluster) as db:
        await db.run(add_payout)
        stop = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname LIKE '{name}%' AND pid <> pg_backend_pid()"
        )
        for text in (
            f"CREATE DATABASE {name}_new TEMPLATE {name}",
            f"ALTER DATABASE {name} RENAME TO {name}_old",
            f"ALTER DATABASE {name}_new RENAME TO {name}",
        ):
            for _ in range(50):
                try:
                    postgres.admin(stop, text)
                    break
                except Exception:  # noqa: BLE001 - it was connected to again in between
                    continue
        seen: list[Any] = []

        async def look_and_add(tx: Any) -> None:
            seen.append(await frozen(tx))
            await add(tx, "a")

        await db.run(look_and_add)
        assert seen[0] is None
        assert "another database of the cluster" in str(seen[-1])
        assert "another database" in str((await compare(db, runtime, cluster))["frozen"])
    postgres.drop(server.url.replace(name, f"{name}_old"))


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ("7/00000003/16384/4", "a dump was restored into it"),
        ("7/00000002/16384", "timeline 3 of the cluster, and the database was used on timeline 2"),
        ("8/00000003/16384", "another PostgreSQL cluster"),
        ("7/00000003/16385", "another database of the cluster"),
    ],
)
def test_the_reason_is_told(known: str, words: str) -> None:
    """A promotion, a restored dump, a copy."""
    assert words in difference(known, "7/00000003/16384/5")


# --- Time --------------------------------------------------------------------------------------------------


async def test_due_times_go_by_the_database(server: Server) -> None:
    """Machines whose clocks are an hour apart agree about what is due."""
    ahead = SetClock()
    ahead.step(3600)
    first, second = runtime_of(SetClock()), runtime_of(ahead)
    async with opened(server, first), opened(server, second):
        assert abs(first.timeline.now() - second.timeline.now()) < 5_000_000
