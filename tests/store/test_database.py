"""The ways into the store: grouped commits, each undone alone, durable, uncancellable, consistent reads."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Refused, SchemaMismatch, WitnessFailed
from gateway.store.database import GROUP_LIMIT, Database, Tx
from tests.store import faulty
from tests.store.faulty import (
    ALL,
    INSERT,
    Faults,
    add,
    add_and_fail,
    add_marked,
    add_pair,
    committed,
    names,
    refuse,
)

NOTHING_BUT = "may await nothing but its transaction"


@pytest.fixture
def faults() -> Faults:
    """What runs, and what fails."""
    return Faults()


@pytest.fixture
async def db(path: Path, faults: Faults) -> AsyncIterator[Database]:
    """An open store."""
    # Groups as long as they get: a slow machine must not change the counts.
    async with Database(path, fault=faults, group_s=60) as db:
        yield db


class Gate:
    """A point at which a thread of the store waits until the test lets it go on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.reached = asyncio.Event()
        self._opened = threading.Event()

    def wait(self) -> None:
        """Say that the point is reached, and wait. Called in the thread."""
        self._loop.call_soon_threadsafe(self.reached.set)
        assert self._opened.wait(30)

    def open(self) -> None:
        """Let every thread go on."""
        self._opened.set()


# --- Groups ------------------------------------------------------------------------------------------------


async def test_changes_of_many_callers_share_commits(db: Database, path: Path) -> None:
    """What is handed in together is one commit, up to the limit, and all of it is durable."""
    before = _commits(path)
    added = await asyncio.gather(*(db.run(add, f"k{index:03}") for index in range(300)))
    assert await db.read(names) == sorted(added)
    assert db.commits == -(-300 // GROUP_LIMIT)
    assert _commits(path) - before == db.commits


async def test_what_arrives_during_a_commit_is_the_next_group(db: Database, faults: Faults) -> None:
    """One change is committed at once, alone; those that come meanwhile go together."""
    gate = Gate()
    faults.start(lambda _, text: gate.wait() if text == "COMMIT" else None)
    first = asyncio.ensure_future(db.run(add, "first"))
    await gate.reached.wait()
    others = [asyncio.ensure_future(db.run(add, f"k{index}")) for index in range(20)]
    await _turns(20)
    assert not any(each.done() for each in (first, *others))
    gate.open()
    await asyncio.gather(first, *others)
    assert db.commits == 2


async def test_a_group_gathers_while_changes_keep_coming(db: Database) -> None:
    """Changes of the next turns of the loop share its commit; a turn without one begins it."""

    async def after(turns: int) -> None:
        await _turns(turns)
        await db.run(add, f"k{turns}")

    await asyncio.gather(*(after(turns) for turns in range(4)))
    assert db.commits == 1
    await asyncio.gather(after(4), after(4 + 2))
    assert db.commits == 1 + 2


async def test_a_group_begins_however_many_changes_come(db: Database, faults: Faults) -> None:
    """It gathers for a few turns at most: nobody is kept waiting by those that come after it."""
    begun: list[str] = []
    faults.start(lambda _, text: begun.append(text) if text.startswith("BEGIN") else None)
    waiting: list[asyncio.Future[str]] = []
    while not begun:
        assert len(waiting) < 10
        waiting.append(asyncio.ensure_future(db.run(add, f"k{len(waiting)}")))
        await _turns(1)
    await asyncio.gather(*waiting)


async def test_a_group_that_takes_too_long_is_cut(path: Path) -> None:
    """The event loop is not kept for all of a long queue; the rest follows, in its order."""
    order: list[str] = []

    async def note(tx: Tx, name: str) -> None:
        order.append(await add(tx, name))

    async with Database(path, group_s=0) as db:
        await asyncio.gather(
            *(db.run(note, f"k{index}") for index in range(5)),
            db.run(add_and_fail, "x"),
            db.run(note, "k5"),
            return_exceptions=True,
        )
        assert order == [f"k{index}" for index in range(6)]
        assert db.commits == 6


async def test_only_the_commit_leaves_the_loops_thread(db: Database, faults: Faults) -> None:
    """Statements run where the caller is, without a hand-over for each."""
    faults.start()
    await asyncio.gather(db.run(add, "a"), db.run(add, "b"))
    here = threading.current_thread().name
    assert faults.texts == ["BEGIN IMMEDIATE", "INSERT INTO", "INSERT INTO", "COMMIT"]
    assert [thread == here for _, thread in faults.seen] == [True, True, True, False]


async def test_a_group_that_wrote_nothing_waits_for_no_disk(db: Database, faults: Faults) -> None:
    """Claims that find nothing, and refusals, do not cost a commit."""
    faults.start()
    with pytest.raises(Refused):
        await db.run(refuse)
    assert await db.run(names) == []
    here = threading.current_thread().name
    assert {thread for _, thread in faults.seen} == {here}
    assert db.commits == 0


async def test_statements_and_commits_are_counted(db: Database) -> None:
    """Statements of store functions on every connection, an executemany as one; no BEGIN, no COMMIT."""

    async def add_many(tx: Tx) -> None:
        rows = [
            {
                "id": f"m{index}",
                "org": "o",
                "mode": "live",
                "digest": f"{index}",
                "hint": "",
                "created_at": 0,
                "revoked_at": None,
            }
            for index in range(10)
        ]
        await tx.many(INSERT, rows)

    await db.run(add_many)
    assert (db.statements, db.commits) == (1, 1)
    await asyncio.gather(db.run(add_pair, "a"), db.run(add, "b"))
    assert (db.statements, db.commits) == (6, 2)
    assert len(await db.read(names)) == len(await db.scan(names)) == 13
    assert (db.statements, db.commits) == (8, 2)


async def test_a_failing_change_undoes_only_itself(db: Database) -> None:
    """The neighbours in the group of a failing change are committed all the same, in their order."""
    results = await asyncio.gather(
        db.run(add, "a"),
        db.run(add_and_fail, "half"),
        db.run(add, "b"),
        db.run(add, "a"),
        db.run(add, "c"),
        return_exceptions=True,
    )
    kinds = [type(each) for each in results]
    assert kinds == [str, RuntimeError, str, sqlite3.IntegrityError, str]
    assert await db.read(names) == ["a", "b", "c"]


async def test_a_failing_change_does_not_tear_its_group_apart(db: Database) -> None:
    """It runs alone; those before it are one commit, and so are those after it."""
    results = await asyncio.gather(
        *(db.run(add, f"a{index}") for index in range(20)),
        db.run(add_and_fail, "half"),
        *(db.run(add, f"b{index}") for index in range(20)),
        return_exceptions=True,
    )
    assert [type(each) for each in results].count(str) == 40
    assert db.commits == 2


async def test_every_caller_gets_its_own_error(db: Database) -> None:
    """However many fail, and whatever with."""

    async def fail(tx: Tx, number: int) -> None:
        await add(tx, f"x{number}")
        raise KeyError(number)

    results = await asyncio.gather(
        *(
            db.run(fail, number) if number % 3 else db.run(add, f"k{number}")
            for number in range(30)
        ),
        return_exceptions=True,
    )
    for number, result in enumerate(results):
        if number % 3:
            assert isinstance(result, KeyError)
            assert result.args == (number,)
        else:
            assert result == f"k{number}"
    assert len(await db.read(names)) == 10


async def test_a_refusal_that_wrote_is_undone(db: Database) -> None:
    """A refusal is an answer; but had it written, its writes go."""

    async def write_and_refuse(tx: Tx) -> None:
        await add(tx, "written")
        raise Refused("no", "not today")

    for fn, commits in ((refuse, 1), (write_and_refuse, 2)):
        refused, added = await asyncio.gather(
            db.run(fn), db.run(add, fn.__name__), return_exceptions=True
        )
        assert isinstance(refused, Refused)
        assert added == fn.__name__
        assert db.commits == commits
    assert await db.read(names) == ["refuse", "write_and_refuse"]


async def test_a_select_alone_opens_no_hidden_transaction(db: Database, path: Path) -> None:
    """After any mix of reads and failed changes another process can write at once."""
    await db.read(names)
    await db.scan(names)
    await asyncio.gather(db.run(add, "x"), db.run(add, "x"), db.run(refuse), return_exceptions=True)
    assert committed(path) == {"x"}


async def test_what_is_closed_is_durable(path: Path) -> None:
    """Changes handed in before closing are written; the settings that make them durable are on."""
    async with Database(path) as db:
        waiting = [asyncio.ensure_future(db.run(add, f"w{index}")) for index in range(300)]
        await asyncio.sleep(0)
    assert all(each.done() for each in waiting)
    for call in (db.run, db.read, db.scan):
        with pytest.raises(RuntimeError, match="not open"):
            await call(names)
    async with Database(path) as db:
        assert len(await db.read(names)) == 300
        for connection in db._connections:
            raw = connection._raw
            assert raw is not None
            assert raw.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
            assert raw.execute("PRAGMA synchronous").fetchone()[0] == 2
            assert raw.execute("PRAGMA foreign_keys").fetchone()[0] == 1


async def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """Opening says so; an empty file would pass for a database that has lost everything."""
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        async with Database(tmp_path / "none.db"):
            pass
    assert list(tmp_path.iterdir()) == []


# --- What a store function may do --------------------------------------------------------------------------


async def _sleeps(tx: Tx) -> None:
    await add(tx, "asleep")
    await asyncio.sleep(0)


async def _waits(tx: Tx) -> None:
    await add(tx, "waiting")
    await asyncio.get_running_loop().create_future()


async def _gathers(tx: Tx) -> None:
    await asyncio.gather(tx.all(ALL), tx.all(ALL))


@pytest.mark.parametrize("fn", [_sleeps, _waits, _gathers])
async def test_a_store_function_awaits_nothing_else(
    db: Database, fn: Callable[[Tx], Awaitable[None]]
) -> None:
    """It is ended, its writes go, the error names it, and its neighbours are committed."""
    before, failed, after = await asyncio.gather(
        db.run(add, "before"), db.run(fn), db.run(add, "after"), return_exceptions=True
    )
    assert (before, after) == ("before", "after")
    assert isinstance(failed, RuntimeError)
    assert NOTHING_BUT in str(failed)
    assert fn.__name__ in str(failed)
    assert await db.read(names) == ["after", "before"]


async def test_a_store_function_that_is_ended_is_closed_at_once(db: Database, path: Path) -> None:
    """Its `finally` runs inside the transaction that is rolled back, and not some time later."""
    ended = []

    async def cleans_up(tx: Tx) -> None:
        try:
            await asyncio.sleep(0)
        finally:
            ended.append(await add(tx, "cleanup"))
            raise ValueError

    with pytest.raises(RuntimeError, match=NOTHING_BUT):
        await db.run(cleans_up)
    assert ended == ["cleanup"]
    assert committed(path) == set()


async def test_neither_does_a_read(db: Database) -> None:
    """Point reads and scans obey the same rule, and leave nothing open."""

    async def sleeps(tx: Tx) -> list[str]:
        await tx.all(ALL)
        await asyncio.sleep(0)
        return await names(tx)

    with pytest.raises(RuntimeError, match=NOTHING_BUT):
        await db.read(sleeps)
    for _ in range(10):
        with pytest.raises(RuntimeError, match=NOTHING_BUT):
            await db.scan(sleeps)
    assert await db.read(names) == await db.scan(names) == []


@pytest.mark.parametrize("inner", ["run", "read", "scan"])
@pytest.mark.parametrize("outer", ["run", "read", "scan"])
async def test_no_way_into_the_store_leads_through_a_store_function(
    db: Database, outer: str, inner: str
) -> None:
    """A change inside a change would wait for itself; it is refused before anything is queued."""

    async def nested(tx: Tx) -> None:
        await tx.all(ALL)
        await getattr(db, inner)(add, "inner")

    with pytest.raises(RuntimeError, match=NOTHING_BUT):
        await getattr(db, outer)(nested)
    assert await db.run(names) == []


async def test_a_transaction_ends_with_its_function(db: Database) -> None:
    """A caller that keeps it gets an error, and writes nothing into another transaction."""
    kept: list[Tx] = []

    async def keep(tx: Tx) -> None:
        kept.append(tx)

    await db.run(keep)
    await db.read(keep)
    await db.scan(keep)

    async def use(tx: Tx, old: Tx) -> None:
        await add(tx, "mine")
        await add(old, "stray")

    for old in kept:
        with pytest.raises(RuntimeError, match="already returned"):
            await db.run(use, old)
        with pytest.raises(RuntimeError, match="already returned"):
            old.mark(1)
    assert await db.read(names) == []


async def test_a_read_cannot_write(db: Database) -> None:
    """A change that was handed to the wrong method fails, instead of vanishing."""
    for call in (db.read, db.scan):
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await call(add, "lost")
        with pytest.raises(RuntimeError, match="moving mark"):
            await call(_mark)


async def _mark(tx: Tx) -> None:
    tx.mark(1)


# --- Cancelled callers -------------------------------------------------------------------------------------


async def test_a_cancelled_caller_changes_nothing_for_others(db: Database, faults: Faults) -> None:
    """Cancelled before its group begins, or during its commit: its change is made all the same."""
    gate = Gate()
    faults.start(lambda _, text: gate.wait() if text == "COMMIT" else None)
    early = asyncio.ensure_future(db.run(add, "early"))
    beside = asyncio.ensure_future(db.run(add, "beside"))
    await asyncio.sleep(0)
    early.cancel()
    await gate.reached.wait()
    late = asyncio.ensure_future(db.run(add, "late"))
    fails = asyncio.ensure_future(db.run(add_and_fail, "fails"))
    await asyncio.sleep(0)
    late.cancel()
    fails.cancel()
    gate.open()
    assert await beside == "beside"
    assert await db.run(add, "next") == "next"
    for each in (early, late, fails):
        with pytest.raises(asyncio.CancelledError):
            await each
    assert await db.read(names) == ["beside", "early", "late", "next"]


async def test_everybody_cancelled_is_everybody_written(db: Database) -> None:
    """A hundred callers that all go away at once leave a working store."""
    waiting = [asyncio.ensure_future(db.run(add, f"k{index:03}")) for index in range(100)]
    await asyncio.sleep(0)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len(await db.run(names)) == 100


# --- Reads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["read", "scan"])
async def test_a_read_sees_one_state(db: Database, path: Path, kind: str) -> None:
    """A change committed in the middle of a read is not seen by it."""
    await db.run(add, "first")

    async def look_twice(tx: Tx) -> tuple[list[str], list[str]]:
        before = await names(tx)
        with sqlite3.connect(path) as other:
            other.execute(
                "INSERT INTO api_keys (id, org, mode, digest, hint, created_at) "
                "VALUES ('second', 'o', 'live', 'd', '', 0)"
            )
        other.close()
        return before, await names(tx)

    assert await getattr(db, kind)(look_twice) == (["first"], ["first"])
    # The point reads of one turn share it.
    await asyncio.sleep(0)
    assert await getattr(db, kind)(names) == ["first", "second"]


async def test_point_reads_run_here_and_scans_elsewhere(db: Database, faults: Faults) -> None:
    """A long read must not hold up the event loop; a short one is not worth a thread."""
    faults.start()
    await db.read(names)
    await asyncio.sleep(0)
    await db.scan(names)
    assert faults.texts[:3] == faults.texts[3:] == ["BEGIN", "SELECT api_keys.id", "ROLLBACK"]
    here = threading.current_thread().name
    assert [thread == here for _, thread in faults.seen] == [True] * 3 + [False] * 3


async def test_reads_go_on_while_a_group_is_committed(db: Database, faults: Faults) -> None:
    """They see the state of before until the commit is done."""
    gate = Gate()
    faults.start(lambda _, text: gate.wait() if text == "COMMIT" else None)
    change = asyncio.ensure_future(db.run(add, "new"))
    await gate.reached.wait()
    assert await db.read(names) == await db.scan(names) == []
    gate.open()
    await change
    assert await db.read(names) == await db.scan(names) == ["new"]


async def test_a_loop_of_reads_lets_others_have_their_turn(db: Database) -> None:
    """A caller that does nothing but read cannot stop the event loop."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().call_soon(stopped.set)
    reads = 0
    while not stopped.is_set():
        await db.read(names)
        reads += 1
    assert reads < 100


async def test_a_read_that_finds_the_database_locked_waits_in_a_thread(
    db: Database, faults: Faults
) -> None:
    """Rare (another process recovers the log), and no reason to fail or to hold up the loop."""
    here = threading.current_thread().name

    def plan(_: int, text: str) -> None:
        if text == "BEGIN" and threading.current_thread().name == here:
            raise sqlite3.OperationalError("database is locked")

    await db.run(add, "a")
    faults.start(plan)
    assert await db.read(names) == ["a"]
    assert [thread == here for _, thread in faults.seen] == [True] + [False] * 3


async def test_cancelled_scans_leave_nothing_behind(
    db: Database, path: Path, faults: Faults
) -> None:
    """Many clients hang up during reports: afterwards reads, scans and changes all work.

    Once a cancelled BEGIN left its connection inside a transaction. One after the other all readers
    were lost that way, then every read failed, and every loop died.
    """
    await db.run(add, "a")
    here = threading.current_thread().name
    for at in ("BEGIN", "SELECT", "ROLLBACK"):
        gate = Gate()

        def plan(_: int, text: str, at: str = at, gate: Gate = gate) -> None:
            if text.startswith(at) and threading.current_thread().name != here:
                gate.wait()

        faults.start(plan)
        clients = [asyncio.ensure_future(db.scan(names)) for _ in range(40)]
        await gate.reached.wait()
        # Some hang up while SQLite works for them, the others while they wait for a reader.
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        assert all(each.cancelled() for each in clients)
        # Point reads do not wait for the abandoned reports, changes only for their own commit.
        assert await db.read(names) == ["a"]
        gate.open()
        assert await asyncio.gather(*(db.scan(names) for _ in range(20))) == [["a"]] * 20
        # What nobody waited for any more was not begun.
        assert faults.texts.count("BEGIN") <= 1 + 4 + 20
    faults.start()
    await db.run(add, "b")
    assert committed(path) == {"a", "b"}
    await _all_readers_work(db)


@pytest.mark.parametrize("turns", range(12))
async def test_callers_may_be_cancelled_at_any_moment(db: Database, path: Path, turns: int) -> None:
    """Whatever the callers are waiting for when they go away, the store goes on."""
    calls: list[Awaitable[Any]] = []
    for index in range(20):
        calls += [db.run(add, f"k{index}"), db.read(names), db.scan(names)]
    tasks = [asyncio.ensure_future(each) for each in calls]
    await _turns(turns)
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await db.run(add, "last")
    assert "last" in await db.read(names)
    assert "last" in committed(path)
    await _all_readers_work(db)


async def test_scans_run_at_the_same_time(db: Database, faults: Faults) -> None:
    """As many as there are readers; only their Python runs one at a time."""
    barrier = threading.Barrier(4)

    def together(_: int, text: str) -> None:
        if text == "BEGIN":
            barrier.wait(30)

    faults.start(together)
    running: list[int] = []

    async def alone(tx: Tx) -> int:
        running.append(1)
        try:
            for _ in range(300_000):
                if len(running) > 1:
                    break
            return len(running)
        finally:
            running.pop()

    assert await asyncio.gather(*(db.scan(alone) for _ in range(8))) == [1] * 8


# --- The witness -------------------------------------------------------------------------------------------


class Book:
    """A witness that writes down what it was told, and what was committed at that moment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[tuple[int, set[str], str]] = []
        self.error: Exception | None = None
        self.gate: Gate | None = None

    def record(self, mark: int) -> None:
        """Write down a mark, or fail."""
        self.records.append((mark, committed(self.path), threading.current_thread().name))
        if self.gate is not None:
            self.gate.wait()
        if self.error is not None:
            raise self.error


async def test_the_witness_is_told_between_commit_and_answer(path: Path) -> None:
    """Once per group, the highest mark, in the commit thread; nobody goes on before it returns."""
    book = Book(path)
    book.gate = Gate()
    async with Database(path, witness=book, group_s=60) as db:
        calls = [
            asyncio.ensure_future(each)
            for each in (
                db.run(add_marked, "a", 7),
                db.run(add_marked, "b", 9),
                db.run(add_marked, "c", 8),
                db.run(add, "d"),
            )
        ]
        await book.gate.reached.wait()
        await _turns(50)
        assert not any(each.done() for each in calls)
        book.gate.open()
        assert await asyncio.gather(*calls) == ["a", "b", "c", "d"]
        await db.run(add, "e")
    ((mark, seen, thread),) = book.records
    assert (mark, seen) == (9, {"a", "b", "c", "d"})
    assert thread != threading.current_thread().name


async def test_a_witness_that_fails_stops_only_those_who_set_a_mark(path: Path) -> None:
    """Their change is committed, and they get an error that the state file is not written."""
    book = Book(path)
    async with Database(path, witness=book, group_s=60) as db:
        book.error = OSError("no space left on device")
        one, two, other = await asyncio.gather(
            db.run(add_marked, "a", 1),
            db.run(add_marked, "b", 2),
            db.run(add, "c"),
            return_exceptions=True,
        )
        for error, mark in ((one, 1), (two, 2)):
            assert isinstance(error, WitnessFailed)
            assert error.mark == mark
            assert error.__cause__ is book.error
        assert other == "c"
        assert db.commits == 1
        book.error = None
        assert await db.run(add_marked, "d", 3) == "d"
        assert await db.read(names) == ["a", "b", "c", "d"]
    assert [mark for mark, _, _ in book.records] == [2, 3]


async def test_marks_that_were_undone_are_not_told(path: Path) -> None:
    """A mark counts only with the change that wrote it."""
    book = Book(path)

    async def mark_and_fail(tx: Tx) -> None:
        await add_marked(tx, "x", 99)
        raise RuntimeError("broken")

    async def mark_and_refuse(tx: Tx) -> None:
        tx.mark(98)
        raise Refused("no", "not today")

    async def mark_twice(tx: Tx) -> None:
        tx.mark(8)
        tx.mark(7)

    runs: list[int] = []

    async def mark_only_at_first(tx: Tx) -> None:
        runs.append(1)
        if len(runs) == 1:
            tx.mark(97)

    async with Database(path, witness=book) as db:
        await asyncio.gather(
            db.run(mark_only_at_first),
            db.run(add_marked, "a", 5),
            db.run(mark_and_fail),
            db.run(mark_and_refuse),
            db.run(add_marked, "b", 6),
            return_exceptions=True,
        )
        assert len(runs) == 2
        await db.run(mark_twice)
    assert [mark for mark, _, _ in book.records] == [5, 6, 8]


async def test_a_snapshot_ends_where_another_process_has_committed(
    path: Path, faults: Faults
) -> None:
    """Whoever sees that others have committed reads nothing from before, though in the same turn."""
    async with Database(path, fault=faults) as db:
        await db.run(add, "before")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute(
                "INSERT INTO api_keys (id, org, mode, digest, hint, created_at) "
                "VALUES ('other', 'acme', 'live', 'digest-other', '', 0)"
            )
            change = asyncio.ensure_future(db.run(add, "after"))
            while faults.texts.count("BEGIN IMMEDIATE") < 3:
                await asyncio.sleep(0.001)
            # As in one turn: nothing else ends the snapshot that is begun here.
            db._reads_this_turn = 1
            assert await db.read(names) == ["before"]
            other.execute("COMMIT")
            foreign = db.foreign_commits
            await change
            assert db.foreign_commits == foreign + 1
            assert await db.read(names) == ["after", "before", "other"]


# --- The schema fence --------------------------------------------------------------------------------------


async def test_a_changed_schema_is_noticed_before_anything_is_written(path: Path) -> None:
    """Another process migrates: every change fails until the hook agrees; then it is not asked again."""
    asked: list[list[str]] = []
    known = False

    async def fence(tx: Tx) -> None:
        asked.append(await names(tx))
        if not known:
            raise SchemaMismatch("stop")

    async with Database(path, on_schema_change=fence) as db:
        await db.run(add, "before")
        assert asked == []
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE new (id)")
        other.close()
        results = await asyncio.gather(
            *(db.run(add, f"k{index}") for index in range(3)), return_exceptions=True
        )
        assert [type(each) for each in results] == [SchemaMismatch] * 3
        assert committed(path) == {"before"}
        assert await db.read(names) == ["before"]
        known = True
        await db.run(add, "after")
        times = len(asked)
        await db.run(add, "later")
        assert len(asked) == times
    assert committed(path) == {"before", "after", "later"}


async def test_a_connection_that_was_opened_anew_looks_at_the_schema(
    path: Path, faults: Faults
) -> None:
    """It counts the commits of others from the start, perhaps to the number of the one before."""

    async def fence(_: Tx) -> None:
        raise SchemaMismatch("stop")

    async with Database(path, fault=faults, on_schema_change=fence) as db:
        await db.run(add, "before")
        faults.start(faulty.fails("disk I/O error", lambda _, text: text == "ROLLBACK"))
        with pytest.raises(RuntimeError, match="broken"):
            await db.run(add_and_fail, "x")
        faults.start()
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE new (id)")
        other.close()
        with pytest.raises(SchemaMismatch):
            await db.run(add, "after")
    assert committed(path) == {"before"}


# --- Helpers -----------------------------------------------------------------------------------------------


async def _all_readers_work(db: Database) -> None:
    """Once the scans that were abandoned have ended, every connection is idle, and reads."""
    # Point reads have one snapshot for a turn.
    await asyncio.sleep(0)
    while len(db._free) < 4:
        await asyncio.sleep(0)
    assert not any(each.in_transaction for each in db._connections)
    for _ in range(4):
        assert await db.scan(names) == await db.read(names)
        # The next one takes another connection.
        db._free.rotate()


async def _turns(count: int) -> None:
    """Let the event loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


def _commits(path: Path) -> int:
    """Return how many commits the write-ahead log shows: frames that carry a database size."""
    data = path.with_name(path.name + "-wal").read_bytes()
    page = int.from_bytes(data[8:12])
    frames = range(32, len(data) - 24, 24 + page)
    return sum(int.from_bytes(data[at + 4 : at + 8]) != 0 for at in frames)
