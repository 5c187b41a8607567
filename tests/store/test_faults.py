"""Whatever fails: nothing is half-written, everybody gets the right error, and the store goes on."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Refused
from gateway.store import migrate
from gateway.store.connection import Connection
from gateway.store.database import Database, Tx
from gateway.store.writer import Writer
from tests.store.faulty import (
    Faults,
    add,
    add_and_fail,
    add_marked,
    add_pair,
    committed,
    fails,
    fill,
    names,
    refuse,
)

ERRORS = ("database or disk is full", "disk I/O error", "database is locked")
#: Another process that holds the write lock until it is told to let go.
HOLDER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
db.execute("COMMIT")
print("free", flush=True)
"""


class Marks:
    """A witness that remembers."""

    def __init__(self) -> None:
        self.recorded: list[int] = []

    def record(self, mark: int) -> None:
        """Remember a mark."""
        self.recorded.append(mark)


@pytest.fixture
def faults() -> Faults:
    """What runs, and what fails."""
    return Faults()


@pytest.fixture
def marks() -> Marks:
    """Which marks were recorded."""
    return Marks()


@pytest.fixture
async def db(path: Path, faults: Faults, marks: Marks) -> AsyncIterator[Database]:
    """An open store."""
    async with Database(path, fault=faults, witness=marks, busy_s=0.05, group_s=60) as db:
        yield db


# --- A fault at every statement ----------------------------------------------------------------------------


async def _script(db: Database, tag: str, mark: int) -> dict[str, Any]:
    """Hand in several changes at once; return what became of each."""
    calls = {
        "pair": db.run(add_pair, f"{tag}-pair"),
        "refused": db.run(refuse),
        "plain": db.run(add, f"{tag}-plain"),
        "fails": db.run(add_and_fail, f"{tag}-fails"),
        "marked": db.run(add_marked, f"{tag}-marked", mark),
        "last": db.run(add_pair, f"{tag}-last"),
    }
    results = await asyncio.gather(*calls.values(), return_exceptions=True)
    return dict(zip(calls, results, strict=True))


_ROWS = {
    "pair": ("pair-1", "pair-2"),
    "refused": (),
    "plain": ("plain",),
    "fails": (),
    "marked": ("marked",),
    "last": ("last-1", "last-2"),
}


def _check(results: dict[str, Any], tag: str, error: str | None, found: set[str]) -> None:
    """Every change is there as a whole or not at all, as its caller was told."""
    expected: set[str] = set()
    for name, result in results.items():
        failed = isinstance(result, sqlite3.OperationalError)
        if failed:
            assert error is not None
            assert error in str(result)
        elif name == "refused":
            assert isinstance(result, Refused), result
        elif name == "fails":
            assert type(result) is RuntimeError, result
        else:
            assert isinstance(result, str), result
            expected |= {f"{tag}-{row}" for row in _ROWS[name]}
    assert {each for each in found if each.startswith(tag + "-")} == expected


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "until it is mended"])
@pytest.mark.parametrize("error", ERRORS)
async def test_a_fault_at_every_statement(
    db: Database, path: Path, faults: Faults, marks: Marks, error: str, lasting: bool
) -> None:
    """BEGIN, each statement, COMMIT and ROLLBACK of a run of changes fail in turn; the store goes on."""
    number = 0
    while True:
        tag = f"n{number:03}"
        at = number

        def here(seen: int, _: str, at: int = at) -> bool:
            return seen >= at if lasting else seen == at

        faults.start(fails(error, here))
        results = await asyncio.wait_for(_script(db, tag, number + 1), 30)
        reached = len(faults.seen) > number
        faults.start()
        _check(results, tag, error, committed(path))
        assert (number + 1 in marks.recorded) is isinstance(results["marked"], str)
        if not lasting and error != "database is locked":
            # One fault is at most one caller's: the others ran again without it.
            failed = [each for each in results.values() if isinstance(each, sqlite3.Error)]
            assert len(failed) <= 1
        # The fault is gone: everything works on, and nothing is left open.
        assert not any(each.in_transaction for each in db._connections)
        again = f"{tag}-again"
        assert await asyncio.wait_for(db.run(add, again), 30) == again
        assert again in await db.read(names)
        assert again in await db.scan(names)
        if not reached:
            break
        number += 1
    assert number >= len(["BEGIN IMMEDIATE", "COMMIT"]) + 13
    assert not any(isinstance(each, sqlite3.Error) for each in results.values())


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "until it is mended"])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("kind", ["read", "scan"])
async def test_a_fault_at_every_statement_of_a_read(
    db: Database, faults: Faults, kind: str, error: str, lasting: bool
) -> None:
    """The reader gets the error; the next one gets an answer."""
    await db.run(add, "a")
    for number, text in enumerate(("BEGIN", "SELECT", "ROLLBACK")):

        def here(seen: int, _: str, at: int = number) -> bool:
            return seen >= at if lasting else seen == at

        for _ in range(6):
            faults.start(fails(error, here))
            met: Any
            (met,) = await asyncio.gather(getattr(db, kind)(names), return_exceptions=True)
            if isinstance(met, sqlite3.OperationalError):
                assert text != "ROLLBACK"
                assert error in str(met)
            else:
                # What was read is right, whatever becomes of the connection afterwards.
                assert met == ["a"]
                assert text == "ROLLBACK" or (kind, error) == ("read", "database is locked")
            faults.start()
            assert not any(each.in_transaction for each in db._connections)
            assert await db.read(names) == await db.scan(names) == ["a"]


async def test_a_commit_that_fails_is_tried_alone_for_each(
    db: Database, path: Path, faults: Faults
) -> None:
    """Nobody can be blamed for it; a second failure is the caller's own."""
    left = [1]

    def once(_: int, text: str) -> None:
        if text == "COMMIT" and left[0]:
            left[0] -= 1
            raise sqlite3.OperationalError("disk I/O error")

    faults.start(once)
    calls = (db.run(add, f"k{index}") for index in range(5))
    assert await asyncio.gather(*calls) == [f"k{index}" for index in range(5)]
    assert (db.commits, faults.texts.count("COMMIT")) == (5, 6)
    left[0] = 3
    results = await asyncio.gather(
        *(db.run(add, f"m{index}") for index in range(4)), return_exceptions=True
    )
    kinds = [type(each) for each in results]
    assert kinds == [sqlite3.OperationalError, sqlite3.OperationalError, str, str]
    assert {each for each in committed(path) if each.startswith("m")} == {"m2", "m3"}


async def test_errors_of_one_fault_are_separate_objects(db: Database, faults: Faults) -> None:
    """Callers that raise one and the same exception would mix their traces."""
    faults.start(fails("database is locked", lambda _, text: text == "BEGIN IMMEDIATE"))
    results = await asyncio.gather(
        *(db.run(add, f"k{index}") for index in range(5)), return_exceptions=True
    )
    assert len({id(each) for each in results}) == 5
    assert all("another process kept the write lock" in str(each) for each in results)


# --- Connections that are lost -----------------------------------------------------------------------------


async def test_a_connection_whose_rollback_fails_is_replaced(
    db: Database, path: Path, faults: Faults
) -> None:
    """Closing it rolls back, too."""
    connection = db._write_connection
    before = connection._raw
    faults.start(fails("disk I/O error", lambda _, text: text == "ROLLBACK"))
    results = await asyncio.gather(
        db.run(add, "a"), db.run(add_and_fail, "x"), db.run(add, "b"), return_exceptions=True
    )
    assert [type(each) for each in results] == [str, RuntimeError, str]
    assert connection._raw is not before
    assert committed(path) == {"a", "b"}


async def test_a_connection_that_cannot_be_replaced_yet_is_tried_again(
    db: Database, path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it can be opened every change fails; then all goes on, without a restart."""
    faults.start(fails("disk I/O error", lambda _, text: text == "ROLLBACK"))
    with pytest.raises(RuntimeError, match="broken"):
        await db.run(add_and_fail, "x")

    def refused(*_: Any, **__: Any) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    with monkeypatch.context() as patched:
        patched.setattr("gateway.store.connection.sqlite3.connect", refused)
        results = await asyncio.gather(db.run(add, "a"), db.run(add, "b"), return_exceptions=True)
        assert all(isinstance(each, sqlite3.OperationalError) for each in results)
    faults.start()
    assert await db.run(add, "c") == "c"
    assert committed(path) == {"c"}


async def test_a_fault_of_the_runner_itself_reaches_the_callers(
    db: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never a silence: they get an error, and the next change works."""

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    for step in ("_begin", "_work", "_committed"):
        with monkeypatch.context() as patched:
            patched.setattr(Writer, step, broken)
            results = await asyncio.gather(
                db.run(add, f"{step}-1"), db.run(add, f"{step}-2"), return_exceptions=True
            )
        assert all("runner failed" in str(each) for each in results)
        assert await db.run(add, step) == step
    # Only the last one failed after its commit.
    assert committed(path) == {"_begin", "_work", "_committed", "_committed-1", "_committed-2"}


def test_an_interrupt_leaves_nothing_half_written(path: Path) -> None:
    """Ctrl-C in the middle of a change: it is undone, the next one works, and so does closing."""

    async def interrupted(tx: Tx) -> None:
        await add(tx, "half")
        raise KeyboardInterrupt

    async def main() -> None:
        async with Database(path) as db:
            try:
                await db.run(interrupted)
            finally:
                await db.run(add, "next")

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert committed(path) == {"next"}


# --- A disk that is really full ----------------------------------------------------------------------------


async def test_a_real_full_database(path: Path) -> None:
    """SQLite's own error, raised by a limit of pages: nothing half-written, and it goes on."""
    async with Database(path) as db:
        raw = db._write_connection._raw
        assert raw is not None
        (pages,) = raw.execute("PRAGMA page_count").fetchone()
        raw.execute(f"PRAGMA max_page_count={pages + 4}")
        results = await asyncio.gather(
            db.run(add, "a"),
            db.run(fill, "quo_big", 100_000),
            db.run(add, "b"),
            return_exceptions=True,
        )
        assert [type(each) for each in results] == [str, sqlite3.OperationalError, str]
        assert "full" in str(results[1])
        assert committed(path) == {"a", "b"}
        raw.execute("PRAGMA max_page_count=1000000")
        assert await db.run(fill, "quo_big", 100_000) == "quo_big"


async def test_an_error_that_was_swallowed_writes_nothing(path: Path, faults: Faults) -> None:
    """SQLite may roll everything back by itself: what follows must not be committed one by one."""

    async def swallow(tx: Tx) -> None:
        await add(tx, "before")
        with contextlib.suppress(sqlite3.OperationalError):
            await fill(tx, "quo_big", 100_000)
        await add(tx, "after")

    async def swallow_and_end(tx: Tx) -> None:
        await add(tx, "only")
        with contextlib.suppress(sqlite3.OperationalError):
            await fill(tx, "quo_big", 100_000)

    async with Database(path, fault=faults) as db:
        raw = db._write_connection._raw
        assert raw is not None
        # As SQLite does after some I/O errors; a full database alone undoes only the statement.
        faults.start(lambda _, text: _roll_back(raw) if "INTO quotes" in text else None)
        for fn in (swallow, swallow_and_end):
            change = asyncio.ensure_future(db.run(fn))
            other = await db.run(add, fn.__name__)
            (result,) = await asyncio.gather(change, return_exceptions=True)
            assert isinstance(result, sqlite3.OperationalError)
            assert "rolled back by an earlier error" in str(result)
            assert other == fn.__name__
    assert committed(path) == {"swallow", "swallow_and_end"}


def _roll_back(raw: sqlite3.Connection) -> None:
    raw.execute("ROLLBACK")
    raise sqlite3.OperationalError("disk I/O error")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB; only root can make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    """The log cannot grow: callers get an error, reads go on; once there is room, so does the rest."""
    path = small_disk / "store.db"
    migrate.prepare(path)
    async with Database(path) as db:
        ballast = small_disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        written, refused = set(), 0
        for index in range(40):
            calls = (db.run(fill, f"quo_{index}_{part}", 20_000) for part in range(3))
            for result in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(result, str):
                    written.add(result)
                else:
                    assert isinstance(result, sqlite3.OperationalError)
                    refused += 1
        assert refused
        assert await db.read(names) == await db.scan(names) == []
        ballast.unlink()
        assert await db.run(add, "again") == "again"
        assert committed(path) == {"again"}
    with sqlite3.connect(path) as other:
        assert {row[0] for row in other.execute("SELECT id FROM quotes")} == written
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    other.close()


# --- Another process that writes ---------------------------------------------------------------------------


@contextlib.contextmanager
def _holding(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Have a process of its own hold the write lock."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    try:
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "free\n"
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()


async def test_waiting_for_another_process_does_not_stop_the_loop(path: Path) -> None:
    """The loop turns, reads are answered, and the change is made once the lock is free."""
    loop, waiting = asyncio.get_running_loop(), asyncio.Event()
    here = threading.current_thread().name

    def seen(text: str) -> None:
        if text == "BEGIN IMMEDIATE" and threading.current_thread().name != here:
            loop.call_soon_threadsafe(waiting.set)

    async with Database(path, busy_s=60, fault=seen) as db:
        # Twice: having waited once, the connection must not wait on the loop the next time.
        for names_before in ([], ["late0", "patient0"]):
            tag = "1" if names_before else "0"
            waiting.clear()
            with _holding(path):
                change = asyncio.ensure_future(db.run(add, f"patient{tag}"))
                await waiting.wait()
                for _ in range(500):
                    await asyncio.sleep(0)
                    assert await db.read(names) == names_before
                assert await db.scan(names) == names_before
                late = asyncio.ensure_future(db.run(add, f"late{tag}"))
                await asyncio.sleep(0)
                assert not change.done()
            assert (await change, await late) == (f"patient{tag}", f"late{tag}")
    assert committed(path) == {"patient0", "late0", "patient1", "late1"}


async def test_a_lock_that_is_kept_too_long_is_an_error(path: Path) -> None:
    """The callers of that group get it, nothing is written, and the next change works."""
    async with Database(path, busy_s=0.05) as db:
        with _holding(path):
            results = await asyncio.gather(
                *(db.run(add, f"k{index}") for index in range(5)), return_exceptions=True
            )
            for each in results:
                assert isinstance(each, sqlite3.OperationalError)
                assert "another process kept the write lock for 0.05 s" in str(each)
            assert await db.read(names) == []
        assert await db.run(add, "next") == "next"
    assert committed(path) == {"next"}


async def test_two_stores_on_one_database(path: Path) -> None:
    """Two gateways write at the same time: every change of both is made."""
    async with Database(path) as one, Database(path) as two:
        calls = [
            db.run(add, f"{number}-{index}")
            for index in range(100)
            for number, db in enumerate((one, two))
        ]
        added = await asyncio.gather(*calls)
        assert await one.read(names) == await two.scan(names) == sorted(added)


async def test_closing_waits_for_nobody_who_is_not_there(path: Path) -> None:
    """A store that could not be opened, or whose opening was cancelled, leaves no connection open."""
    opened: list[Connection] = []
    task = asyncio.ensure_future(_open(path, opened))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert opened
    assert not any(each.is_open for each in opened)


async def _open(path: Path, opened: list[Connection]) -> None:
    db = Database(path)
    opened += db._connections
    async with db:
        await asyncio.get_running_loop().create_future()
