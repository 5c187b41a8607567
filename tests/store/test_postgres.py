"""The store on PostgreSQL: groups, conflicts, lost connections and commits of unknown outcome."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import bindparam, func, select, update

from gateway.errors import Refused, SchemaMismatch, StoreUnusable
from gateway.store import migrate
from gateway.store.database import Query, Tx
from gateway.store.postgres.connection import Connection, Server
from gateway.store.postgres.database import PostgresDatabase
from gateway.store.postgres.errors import OutcomeUnknown, Unavailable
from gateway.store.schema import api_keys, store_state
from tests import postgres
from tests.store.faulty import ALL, add, add_and_fail, add_marked, add_pair, names, refuse
from tests.store.pg_proxy import Proxy, in_front_of

NOTHING_BUT = "may await nothing but its transaction"
_COUNT = Query(select(func.count().label("n")).select_from(api_keys))
_MARKS = Query(select(store_state.c.marks))
_SET_MARKS = Query(update(store_state).values(marks=bindparam("new")))


@pytest.fixture
def server() -> Iterator[Server]:
    """A database with every table and no row."""
    with postgres.fresh() as server:
        yield server


@pytest.fixture
async def db(server: Server) -> AsyncIterator[PostgresDatabase]:
    """An open store."""
    async with PostgresDatabase(server, group_s=60) as db:
        yield db


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="pgp-") as folder:
        yield Path(folder)


# --- Groups ------------------------------------------------------------------------------------------------


async def test_changes_of_many_callers_share_commits(db: PostgresDatabase) -> None:
    """What is handed in together is a few commits, and all of it is durable."""
    added = await asyncio.gather(*(db.run(add, f"k{index:03}") for index in range(300)))
    assert await db.read(names) == sorted(added)
    assert db.commits <= 4


async def test_each_error_is_its_own_callers(db: PostgresDatabase) -> None:
    """One that fails, one that refuses after it wrote, one that refuses: none of them undoes another."""

    async def write_and_refuse(tx: Tx) -> None:
        await add(tx, "gone")
        raise Refused("no", "after all")

    async def twice(tx: Tx) -> None:
        await add(tx, "k1")
        await add(tx, "k1")

    async def swallow(tx: Tx) -> str:
        try:
            await twice(tx)
        except sqlite3.IntegrityError:
            return "nothing happened"
        return ""

    done = await asyncio.gather(
        db.run(add, "a"),
        db.run(add_and_fail, "b"),
        db.run(write_and_refuse),
        db.run(refuse),
        db.run(twice),
        db.run(swallow),
        db.run(add_pair, "c"),
        db.run(add, "d"),
        return_exceptions=True,
    )
    assert [type(each) for each in done] == [
        *(str, RuntimeError, Refused, Refused),
        *(sqlite3.IntegrityError, sqlite3.IntegrityError, str, str),
    ]
    assert await db.read(names) == ["a", "c-1", "c-2", "d"]


async def test_a_function_awaits_nothing_but_its_transaction(db: PostgresDatabase) -> None:
    """Neither the loop nor the store itself; what it wrote before is undone."""

    async def sleeps(tx: Tx) -> None:
        await add(tx, "a")
        await asyncio.sleep(0)

    async def nests(tx: Tx) -> None:
        await db.run(add, "b")

    for fn in (sleeps, nests):
        with pytest.raises(RuntimeError, match=NOTHING_BUT):
            await db.run(fn)
    assert await db.read(names) == []


async def test_a_cancelled_caller_does_not_stop_its_change(db: PostgresDatabase) -> None:
    """The change is made to its end."""
    task = asyncio.create_task(db.run(add, "a"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await db.run(add, "b")
    for _ in range(100):
        if await db.read(names) == ["a", "b"]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError


async def test_a_read_sees_one_state(db: PostgresDatabase) -> None:
    """A read of several statements sees none of what is committed in between."""
    await db.run(add, "a")
    seen: list[int] = []

    async def twice(tx: Tx) -> tuple[int, int]:
        first = len(await tx.all(ALL))
        seen.append(first)
        return first, len(await tx.all(ALL))

    async def busy() -> None:
        for index in range(30):
            await db.run(add, f"b{index:02}")

    task = asyncio.create_task(busy())
    while not task.done():
        first, second = await db.read(twice)
        assert first == second
    await task
    assert seen[-1] > seen[0]


async def test_marks_are_told_after_the_commit(server: Server) -> None:
    """Never a mark of a transaction that may be undone."""
    marks: list[int] = []
    async with PostgresDatabase(server, marked=marks.append) as db:
        await asyncio.gather(db.run(add_marked, "a", 3), db.run(add_marked, "b", 7))
        with pytest.raises(sqlite3.IntegrityError):
            await db.run(add_marked, "a", 9)
    assert max(marks) == 7
    assert 9 not in marks


# --- Several processes ---------------------------------------------------------------------------------------


async def test_a_check_before_a_write_is_exact(server: Server) -> None:
    """Many callers of two stores look and then write: as many succeed as with one writer."""

    async def one_of_five(tx: Tx, name: str) -> bool:
        row = await tx.one(_COUNT)
        assert row is not None
        if row["n"] >= 5:
            return False
        await add(tx, name)
        return True

    async with PostgresDatabase(server) as one, PostgresDatabase(server) as other:
        done = await asyncio.gather(
            *((one, other)[index % 2].run(one_of_five, f"k{index:02}") for index in range(50))
        )
        assert done.count(True) == 5
        assert len(await one.read(names)) == 5


async def test_increments_are_never_lost(server: Server) -> None:
    """A number that is read and written back by many loses no step, and every caller ends."""

    async def increment(tx: Tx) -> int:
        row = await tx.one(_MARKS)
        assert row is not None
        await tx.all(_SET_MARKS, new=row["marks"] + 1)
        return int(row["marks"])

    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(PostgresDatabase(server)) for _ in range(3)]
        seen: list[int] = []

        async def work(db: PostgresDatabase) -> None:
            for _ in range(12):
                seen.append(await db.run(increment))  # noqa: PERF401 - one after the other

        await asyncio.gather(*(work(db) for db in stores for _ in range(2)))
        assert sorted(seen) == list(range(72))
        assert sum(each.conflicts for each in stores) > 0


# --- Lost connections ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lose", ["before", "after"])
async def test_a_mark_whose_commit_was_asked_for_is_told(
    server: Server, folder: Path, lose: str
) -> None:
    """This process has seen it: an older copy that is put in place of the database lacks it."""
    marks: list[int] = []
    async with (
        in_front_of(server, folder) as (proxy, through),
        PostgresDatabase(through, marked=marks.append) as db,
    ):
        await db.run(add, "first")
        commits, proxy.lose = db.commits, lose
        await db.run(add_marked, "a", 7)
        assert (proxy.commits_lost, marks) == (1, [7])
        assert db.commits == commits + 1


@pytest.mark.parametrize("lose", ["before", "after"])
async def test_a_commit_of_unknown_outcome_is_asked_for(
    server: Server, folder: Path, lose: str
) -> None:
    """The connection is lost in the COMMIT: the change is made once, whether it had arrived or not."""
    ran: list[str] = []

    async def note(tx: Tx, name: str) -> str:
        ran.append(name)
        return await add(tx, name)

    async with in_front_of(server, folder) as (proxy, through), PostgresDatabase(through) as db:
        await db.run(note, "first")
        ran.clear()
        proxy.lose = lose
        assert await db.run(note, "second") == "second"
        assert proxy.commits_lost == 1
        # Run again where it was lost; not where it was committed: the key would be there already.
        assert ran == (["second"] if lose == "after" else ["second", "second"])
        await db.run(note, "third")
        assert await db.read(names) == ["first", "second", "third"]


async def test_a_commit_that_is_still_at_work_is_waited_for(server: Server) -> None:
    """The server goes on with a transaction whose connection is lost: its token is read after it has ended."""
    async with PostgresDatabase(server) as db:
        await db.run(add, "a")
        lane = db._writers._writing[False]
        other = Connection(server)
        await other.open()
        await other.execute("BEGIN")
        await other.execute(f"UPDATE store_writers SET token = 'lost' WHERE id = '{lane._name}'")
        asked = asyncio.create_task(lane._is_committed("lost", RuntimeError()))
        waits = "SELECT 1 FROM pg_locks WHERE NOT granted"
        while not asked.done() and not await other.rows(waits):
            await asyncio.sleep(0)
        await other.commit()
        assert await asked
        await other.close()


#: A COMMIT that takes as long as somebody keeps a lock, as one that waits for a standby does.
_SLOW_COMMIT = (
    (
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END'"
    ),
    (
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON api_keys DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION slow()"
    ),
)
_WAIT = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
    "AND wait_event_type = 'Lock' AND query LIKE '{}%'"
)


@pytest.mark.parametrize("committed", [True, False])
async def test_a_commit_that_is_not_waited_for_any_longer_is_asked_for(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    """It takes too long. It is not cancelled: PostgreSQL would acknowledge it without its standby.

    The writer's row says what became of it, once the server has done with it; the change is made once.
    """
    monkeypatch.setattr("gateway.store.postgres.connection._MARGIN_S", 0.0)
    ran: list[str] = []

    async def note(tx: Tx, name: str) -> str:
        ran.append(name)
        return await add(tx, name)

    async def waiting(query: str) -> int:
        while not (found := await holder.rows(_WAIT.format(query))):
            assert not changing.done()
        return int(found[0]["pid"])

    holder = Connection(server)
    await holder.open()
    await holder.execute("; ".join(_SLOW_COMMIT))
    try:
        async with in_front_of(server, folder) as (proxy, through):
            async with PostgresDatabase(replace(through, statement_s=0.5)) as db:
                await db.run(note, "first")
                ran.clear()
                await holder.execute("SELECT pg_advisory_lock(4711)")
                changing = asyncio.create_task(db.run(note, "second"))
                committing = await waiting("COMMIT")
                # Nothing is said, and nothing run again, while the server is still at it.
                await waiting("SELECT token")
                assert ran == ["second"]
                if not committed:
                    await holder.rows("SELECT pg_terminate_backend($1)", committing)
                await holder.execute("SELECT pg_advisory_unlock(4711)")
                assert await changing == "second"
                assert ran == (["second"] if committed else ["second", "second"])
                assert await db.read(names) == ["first", "second"]
            assert proxy.cancels == 0
    finally:
        await holder.execute("SELECT pg_advisory_unlock_all(); DROP FUNCTION slow CASCADE")
        await holder.close()


async def test_a_writer_whose_row_is_gone_makes_it_again(server: Server) -> None:
    """After a long rest another process has deleted it: the group is run again, and nothing is lost."""
    async with PostgresDatabase(server) as db:
        await db.run(add, "a")
        postgres.execute(server.url, "DELETE FROM store_writers")
        assert await db.run(add, "b") == "b"
        assert await db.read(names) == ["a", "b"]


async def test_another_process_may_always_have_committed(db: PostgresDatabase) -> None:
    """Each look says so: a heartbeat wakes the loops, also where a notification was lost."""
    first = db.foreign_commits
    assert db.foreign_commits != first


async def test_nothing_is_assumed_where_nobody_answers(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit may have arrived, and the server stays away: the caller is told just that."""
    monkeypatch.setattr("gateway.store.postgres.writer._ASK_S", 0.5)
    async with in_front_of(server, folder) as (proxy, through), PostgresDatabase(through) as db:
        await db.run(add, "first")
        proxy.lose, proxy.away = "after", True
        with pytest.raises(OutcomeUnknown, match="may have been written"):
            await db.run(add, "second")
        proxy.away = False
        assert await db.read(names) == ["first", "second"]


async def test_a_lost_connection_is_made_again(server: Server, folder: Path) -> None:
    """Every connection goes away in the middle of the work; each change is made once."""
    async with in_front_of(server, folder) as (proxy, through), PostgresDatabase(through) as db:
        tasks = []
        for index in range(60):
            tasks.append(asyncio.create_task(db.run(add, f"k{index:02}")))
            await asyncio.sleep(0.002)
            if index % 20 == 10:
                proxy.cut()
        await asyncio.gather(*tasks)
        assert await db.read(names) == [f"k{index:02}" for index in range(60)]


async def test_a_server_that_is_away_for_a_while(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers get an error that says that nothing was written; later ones are served again."""
    monkeypatch.setattr("gateway.store.postgres.writer._RECONNECT_S", 0.3)
    async with in_front_of(server, folder) as (proxy, through), PostgresDatabase(through) as db:
        await db.run(add, "a")
        await _away(proxy, db)
        proxy.away = False
        await db.run(add, "c")
        assert db.write_fault is None
        assert await db.read(names) == ["a", "c"]


async def _away(proxy: Proxy, db: PostgresDatabase) -> None:
    proxy.away = True
    proxy.cut()
    with pytest.raises(Unavailable, match="nothing was written"):
        await db.run(add, "b")
    with pytest.raises(Unavailable):
        await db.read(names)
    assert db.write_fault is not None
    assert "cannot be reached" in db.write_fault.words


async def test_backends_that_are_terminated(server: Server) -> None:
    """An administrator ends connections, in commits too: every change is made once."""
    killing = True

    async def kill() -> None:
        connection = Connection(server)
        await connection.open()
        while killing:
            await connection.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await asyncio.sleep(0.05)
        await connection.close()

    async with PostgresDatabase(server) as db:
        killer = asyncio.create_task(kill())
        for index in range(40):
            await db.run(add, f"k{index:02}")
            await asyncio.sleep(0.005)
        killing = False
        await killer
        assert await db.read(names) == [f"k{index:02}" for index in range(40)]


async def test_a_statement_that_takes_too_long_fails_alone(server: Server) -> None:
    """It waits for a lock that somebody keeps: it ends with an error, and the others are made."""
    holder = Connection(server)
    await holder.open()
    quick = Server(server.url, server.label, statement_s=0.5)
    async with PostgresDatabase(quick) as db:
        await db.run(add, "a")
        await holder.execute("BEGIN; UPDATE api_keys SET hint = 'held' WHERE id = 'a'")

        async def change(tx: Tx) -> None:
            await tx.all(Query(update(api_keys).where(api_keys.c.id == "a").values(hint="new")))

        waits, *others = await asyncio.gather(
            db.run(change), db.run(add, "b"), db.run(add, "c"), return_exceptions=True
        )
        assert isinstance(waits, Unavailable)
        assert "took too long" in str(waits)
        assert others == ["b", "c"]
    await holder.close()


# --- Events ----------------------------------------------------------------------------------------------


async def test_the_audit_log_is_append_only(server: Server) -> None:
    """The database itself refuses every change, by whomever."""
    connection = Connection(server)
    await connection.open()
    await connection.execute(
        "INSERT INTO audit_log (id, at, actor, act, subject, detail, org, number, previous, hash) "
        "VALUES ('a', 0, '', '', '', '', '', 1, '', '')"
    )
    for text in ("UPDATE audit_log SET at = 1", "DELETE FROM audit_log", "TRUNCATE audit_log"):
        with pytest.raises(sqlite3.ProgrammingError, match="append-only"):
            await connection.execute(text)
    await connection.close()


# --- What is opened ----------------------------------------------------------------------------------------


async def test_what_loses_commits_is_refused(server: Server) -> None:
    """A database that is set to acknowledge before the disk is used with its own setting overridden."""
    name = postgres.name_of(server.url)
    postgres.admin(f"ALTER DATABASE {name} SET synchronous_commit = off")
    connection = Connection(server)
    try:
        await connection.open()
        (row,) = await connection.rows("SELECT current_setting('synchronous_commit') AS told")
        assert row["told"] == "on"
    finally:
        await connection.close()
        postgres.admin(f"ALTER DATABASE {name} RESET synchronous_commit")


async def test_a_schema_that_changes_meanwhile_stops_writing(server: Server) -> None:
    """Another program version takes something away from the schema: nothing more is written.

    One that only adds to it does not.
    """
    head = migrate.head_revision()
    async with PostgresDatabase(server, revision=head) as db:
        await db.run(add, "a")
        postgres.execute(server.url, "UPDATE alembic_version SET version_num = '9999'")
        try:
            await db.run(add, "b")
            postgres.execute(server.url, "UPDATE store_schema SET works_from = '9999'")
            with pytest.raises(SchemaMismatch, match="9999"):
                await db.run(add, "c")
            assert await db.read(names) == ["a", "b"]
        finally:
            postgres.execute(
                server.url,
                f"UPDATE alembic_version SET version_num = '{head}'",
                f"UPDATE store_schema SET works_from = '{migrate.WORKS_FROM}'",
            )


async def test_an_unknown_server_is_told(folder: Path) -> None:
    """Absent at start: words, and no trace of the driver."""
    with pytest.raises((StoreUnusable, Unavailable), match="cannot be reached"):
        async with PostgresDatabase(Server(f"postgresql://u@/x?host={folder}", "nowhere")):
            pass
