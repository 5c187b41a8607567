"""Upgrading the schema of a PostgreSQL database: rows stay, readers go on, two processes do it once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import select

from gateway.errors import SchemaMismatch, StoreUnusable
from gateway.store import migrate, upgrading
from gateway.store.database import Query, Tx
from gateway.store.opening import open_database
from gateway.store.postgres import schema
from gateway.store.postgres.connection import Server
from gateway.store.schema import payouts
from gateway.store.state import state_row
from tests import postgres
from tests.store.faulty import add, names
from tests.store.rows import add_payout
from tests.store.test_postgres_opening import settings_of

NEXT = Path(__file__).parent / "next_release"
_FIRST = (Path(__file__).parent / "postgres_0013.sql").read_text()
_ROWS = (
    """INSERT INTO api_keys (id, org, mode, digest, hint, created_at)
    VALUES ('key_1', 'acme', 'live', 'd', 'h', 7)""",
    """INSERT INTO payouts (id, org, mode, status, sub_status, external_ref, metadata, terms, custodian,
        account, document, sequence, created_at, updated_at)
    VALUES ('pay_1', 'acme', 'live', 'pending', 'created', 'u', '{}', '{}', 'c', '{}', '{}', 3, 1, 1)""",
    "UPDATE store_state SET marks = 41",
)
_PAYOUTS = Query(select(payouts.c.id))
_COLUMNS = """
SELECT table_name, column_name, data_type, collation_name, is_nullable, column_default
FROM information_schema.columns WHERE table_schema = 'public'
"""
_INDEXES = "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
_CONSTRAINTS = """
SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace
"""


@pytest.fixture
def old() -> Iterator[Server]:
    """A database of the first revision that PostgreSQL had, with rows."""
    with postgres.fresh(prepared=False) as server:
        postgres.execute(server.url, *(each for each in _FIRST.split(";\n\n") if each.strip()))
        postgres.execute(server.url, *_ROWS)
        yield server


@pytest.fixture
def new() -> Iterator[Server]:
    """A database of this release."""
    with postgres.fresh(prepared=False) as server:
        postgres.in_thread(schema.prepare(server))
        yield server


@pytest.fixture
def next_release(new: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Know the migrations of a release to come; return a database of this one."""
    monkeypatch.setattr(migrate, "FOLDERS", [*migrate.FOLDERS, NEXT])
    return new


def _shape(server: Server) -> list[set[tuple[Any, ...]]]:
    return [
        {tuple(row) for row in postgres.execute(server.url, text)}
        for text in (_COLUMNS, _INDEXES, _CONSTRAINTS)
    ]


async def test_an_upgraded_schema_is_that_of_a_new_database(old: Server, new: Server) -> None:
    """Columns with types, collations and defaults, indexes, constraints; and the rows are as they were."""
    head = migrate.head_revision()
    assert await schema.upgrade(old) == ("0013", head)
    assert await schema.upgrade(old) == (head, head)
    assert _shape(old) == _shape(new)
    async with open_database(settings_of(old)) as db:
        assert await db.read(names) == ["key_1"]
        assert (await db.read(state_row))["marks"] == 41
        await db.run(add, "x")
    (row,) = postgres.execute(old.url, "SELECT works_from FROM store_schema")
    assert row["works_from"] == migrate.WORKS_FROM


async def test_two_processes_upgrade_once(old: Server) -> None:
    """One does it; the others wait, and find it done."""
    done = await asyncio.gather(*(schema.upgrade(old) for _ in range(4)))
    head = migrate.head_revision()
    assert sorted(done) == [("0013", head), *[(head, head)] * 3]


async def test_an_upgrade_that_fails_leaves_everything(
    old: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schema is as before, but for what is done before the transaction; the upgrade can be repeated."""
    before, statements = _shape(old), upgrading.statements
    monkeypatch.setattr(
        upgrading, "statements", lambda *given: [*statements(*given), "DISCARD ALL"]
    )
    with pytest.raises(Exception, match="DISCARD ALL"):
        await schema.upgrade(old)
    columns, indexes, constraints = _shape(old)
    assert [columns, indexes] == before[:2]
    assert {text.split("(")[0] for _, text in constraints - before[2]} == {"CHECK "}
    monkeypatch.undo()
    await schema.upgrade(old)


async def test_an_older_database_is_not_served(old: Server) -> None:
    """The program says what to run; `serve` does not do it by itself."""
    with pytest.raises(SchemaMismatch, match="payout-gateway db upgrade"):
        async with open_database(settings_of(old)):
            pass


async def test_readers_go_on_beside_an_upgrade(
    new: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a long read the upgrade waits only for a moment at a time, and short reads come through."""
    monkeypatch.setattr(schema, "_LOCK_S", 1)
    monkeypatch.setattr(schema, "_PAUSE_S", 0.2)
    async with open_database(settings_of(new)) as db:
        await db.run(add_payout)
        monkeypatch.setattr(migrate, "FOLDERS", [*migrate.FOLDERS, NEXT])
        long = await asyncpg.connect(new.url)
        try:
            transaction = long.transaction()
            await transaction.start()
            assert await long.fetchval("SELECT count(*) FROM payouts") == 1
            upgrading = asyncio.create_task(schema.upgrade(new))

            async def count(tx: Tx) -> int:
                return len(await tx.all(_PAYOUTS))

            for _ in range(20):
                # None of them needs longer than the upgrade may wait for its lock.
                assert await asyncio.wait_for(db.read(count), 4) == 1
                await asyncio.sleep(0.1)
            assert not upgrading.done()
            await transaction.rollback()
            assert (await upgrading)[1] == "9000"
        finally:
            await long.close()
        assert await db.read(count) == 1
        await db.run(add_payout)


async def test_an_upgrade_gives_up(next_release: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with words where somebody keeps a table for good."""
    for name, value in (("_LOCK_S", 1), ("_TRIES", 2), ("_PAUSE_S", 0.1)):
        monkeypatch.setattr(schema, name, value)
    long = await asyncpg.connect(next_release.url)
    try:
        async with long.transaction():
            await long.execute("LOCK TABLE payouts IN ACCESS SHARE MODE")
            with pytest.raises(StoreUnusable, match="kept a lock"):
                await schema.upgrade(next_release)
    finally:
        await long.close()


async def test_what_runs_decides_whether_it_has_to_stop(old: Server, new: Server) -> None:
    """A program from before 'works from' has to; a later one need not."""
    assert not await schema.may_run_beside(old)
    assert await schema.may_run_beside(new)
    row = (
        "INSERT INTO gateways (id, host, pid, version, config_digest, schema_from, schema_to, "
        "gate_version, counter, clock_id, elapsed, wall, marks, started_at) "
        "VALUES ('gwy_1', 'h', 1, 'v', 'd', '0013', '0013', 1, 1, 'c', 1, 1, 0, 1)"
    )
    postgres.execute(new.url, row)
    assert not await schema.may_run_beside(new)
