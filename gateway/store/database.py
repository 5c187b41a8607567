"""The way into the database: `run` for a change, `read` for a point look-up, `scan` for a long read.

A store function is `async def fn(tx, …)`: it awaits nothing but the transaction, decides before it
writes, and may be run again. It is driven from start to end without ever being suspended, so no part
of a transaction can be cancelled.

- `run`: changes of many callers share one transaction and one commit. On SQLite a commit with
  `synchronous=FULL` costs a disk flush; sharing it is what makes the store fast without giving up
  durability. See `writer.py`.
- `read`: at once, on the event loop's thread. For look-ups by a key or of a bounded page. The reads of one
  turn of the loop share a snapshot; see `point_reads.py`.
- `read_page`: a page of a list. Most are short and read at once, as with `read`. One that has to pass over
  many rows is given up, and read in a reader thread.
- `scan`: in a reader thread. For lists, reports, counts, and whatever grows with the database.

The statements are Core expressions compiled once to text and run by the standard library's driver:
`docs/decisions/0007-compiled-statements.md`, `docs/decisions/0015-store-runner.md`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from gateway.store.change import GROUP_LIMIT
from gateway.store.connection import Connection, WriteFault, gave_up, is_busy
from gateway.store.point_reads import PointReads
from gateway.store.statements import Columns, Query, Row, listed, upsert, wide
from gateway.store.transaction import Later, StoreFunction, Tx, refuse_inside_a_function, snapshot
from gateway.store.writer import Witness, Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.store.lanes import Lanes
    from gateway.store.months import Months

__all__ = [
    "GROUP_LIMIT",
    "Columns",
    "Database",
    "Later",
    "Query",
    "Row",
    "StoreFunction",
    "Tx",
    "Witness",
    "listed",
    "upsert",
    "wide",
]

P = ParamSpec("P")
R = TypeVar("R")

#: How long a transaction waits for another process, before its callers get an error.
BUSY_S = 10.0
#: How much CPU time a group of changes may use on the event loop's thread, if it is more than one.
GROUP_S = 0.025
#: How much CPU time a page may use on the event loop's thread. One of 20 payouts takes 0.1 ms, one of 200 takes 0.8.
PAGE_S = 0.002
#: How long pages are left to the reader threads after one that took too long: those that are given up use at
#: most a twentieth of the event loop.
REST_S = 0.04
#: How many reads may follow each other before other callbacks of the event loop have their turn, and for how
#: many of them a page counts.
_READS_PER_TURN, _PAGE_COUNTS = 32, 8


class Database:
    """The embedded SQLite store. Use it with `async with`, on one event loop.

    - `readers`: how many scans run at the same time.
    - `busy_s`: how long to wait for another process's transaction.
    - `group_s`: how much CPU time a group of changes may use; the rest of it joins the next group.
    - `page_s`: how much CPU time a page of a list may use on the event loop's thread, before it is left to a
      reader thread.
    - `fault`: called with the text of each statement right before it runs, in its thread (BEGIN,
      COMMIT and ROLLBACK included, PRAGMAs not); a test raises what SQLite would.
    - `witness`: records the highest moving mark of each group after its commit and before any of its
      callers goes on. Where that fails, those that set a mark get `WitnessFailed`.
    - `verify`: called whenever a connection was opened; it raises where that is not the database.
    - `before_commit`: called in the commit thread right before a COMMIT that writes, with the highest
      mark of the group or None. What it raises undoes the changes of the group, and nobody else's.
    - `on_schema_change`: a store function that is called in the first transaction after any process
      changed the schema. What it raises (SchemaMismatch) goes to every caller; nothing is written.
    - `alone`: whether no other process has it open, as `opened_alone` says.
    - `untouched`: only `read` and `scan`; no file is written, not even a log beside the database.
    """

    #: the months of events, on a store that has partitions for them; SQLite has none
    months: Months | None = None

    def __init__(  # noqa: PLR0913 - the hooks are independent of each other
        self,
        path: Path,
        readers: int = 4,
        *,
        busy_s: float = BUSY_S,
        group_s: float = GROUP_S,
        page_s: float = PAGE_S,
        fault: Callable[[str], None] | None = None,
        witness: Witness | None = None,
        verify: Callable[[], None] | None = None,
        before_commit: Callable[[int | None], None] | None = None,
        on_schema_change: StoreFunction[[], None] | None = None,
        untouched: bool = False,
        alone: bool = False,
    ) -> None:
        self._path = path
        self._untouched = untouched
        self._alone = alone
        self._busy_s = busy_s
        self._page_s = page_s
        self._write_connection = Connection(path, fault=fault, verify=verify)
        self._read_connection = Connection(
            path, read_only=True, fault=fault, verify=verify, untouched=untouched
        )
        self._point_reads = PointReads(self._read_connection)
        self._writer = Writer(
            self._write_connection,
            busy_s=busy_s,
            group_s=group_s,
            witness=witness,
            end_reads=self._point_reads.end,
            before_commit=before_commit,
            on_schema_change=on_schema_change,
        )
        # One scan at a time runs Python, the others wait for SQLite or for it: several threads that
        # compute would keep the interpreter from the event loop.
        self._turn = threading.Lock()
        self._scan_connections = tuple(
            Connection(
                path,
                busy_s=busy_s,
                read_only=True,
                fault=fault,
                turn=self._turn,
                verify=verify,
                untouched=untouched,
            )
            for _ in range(readers)
        )
        #: as many as the pool has threads: a thread that runs always finds one
        self._free = deque(self._scan_connections)
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="store-scan")
        self._reads_this_turn = 0
        #: from when on pages are read on the event loop's thread again
        self._pages_from = 0.0
        self._open = False

    @property
    def path(self) -> Path:
        """Where the database file is."""
        return self._path

    @property
    def opened_alone(self) -> bool:
        """Whether no other process had the database open when this one opened it."""
        return self._alone

    @property
    def statements(self) -> int:
        """How many statements of store functions were run so far; an `executemany` counts once."""
        return sum(each.statements for each in self._connections)

    @property
    def commits(self) -> int:
        """How many commits wrote something so far; each of them waited for the disk."""
        return self._writer.commits

    @property
    def lanes(self) -> Lanes | None:
        """The sender of this process that new deliveries are handed to; None: there is none."""
        return self._writer.lanes

    @lanes.setter
    def lanes(self, lanes: Lanes | None) -> None:
        self._writer.lanes = lanes

    def when_forming(self, listener: Callable[[], None]) -> None:
        """Have a function called when a change comes while none is being written.

        What the function hands in, now or in the next turn of the event loop, shares its commit.
        """
        self._writer.forming = listener

    @property
    def foreign_commits(self) -> int:
        """A number that has risen where another process committed before the newest change of this one."""
        return self._writer.foreign_commits

    @property
    def counts_foreign_commits(self) -> bool:
        """Whether `foreign_commits` rises with commits of other processes alone."""
        return True

    @property
    def write_fault(self) -> WriteFault | None:
        """Why the last change could not be written; None: it was. The heartbeat tries every 5 s."""
        return self._writer.fault

    async def __aenter__(self) -> Self:
        """Open the connections. sqlite3.OperationalError if the database cannot be used."""
        self._loop = asyncio.get_running_loop()
        try:
            if not self._untouched:
                await self._writer.open()
            await self._loop.run_in_executor(self._pool, self._open_readers)
        except BaseException:
            self._close()
            raise
        self._open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish what was handed in, then close."""
        try:
            await self._writer.drain()
            self._open = False
            # No new scans, and those under way end: off the loop, which they do not need.
            await self._loop.run_in_executor(None, self._pool.shutdown)
        finally:
            self._close()

    async def run(self, fn: StoreFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a change; when this returns, it is durable. What `fn` raises undoes only itself.

        A change that was handed in is made even if its caller is cancelled. `fn` may be run more
        than once. sqlite3.OperationalError if the database cannot be written: nothing was.
        """
        self._check()
        if self._untouched:
            raise RuntimeError("the store is open to be read only")
        done: asyncio.Future[R] = self._writer.submit(fn, args, kwargs)
        return await done

    async def read(self, fn: StoreFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a short read on one consistent state of the database, at once, on this thread.

        It sees every commit that was made before this turn of the event loop (`point_reads`).
        """
        self._check()
        if self._reads_this_turn >= _READS_PER_TURN:
            await self._next_turn()
        self._count_read(1)
        try:
            return self._point_reads.run(fn, *args, **kwargs)
        except Exception as error:
            if not is_busy(error):
                raise
        # Rare: another process recovers the write-ahead log. Wait for it in a thread.
        return await self.scan(fn, *args, **kwargs)

    async def read_page(self, fn: StoreFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a read of a bounded page that may have to pass over any number of rows.

        At once, as `read`, if that takes no more than `page_s`. Otherwise it is given up and run
        again in a reader thread, as by `scan`: so `fn` may change nothing that others use.
        """
        self._check()
        if self._reads_this_turn >= _READS_PER_TURN:
            await self._next_turn()
        self._count_read(_PAGE_COUNTS)
        if self._loop.time() >= self._pages_from:
            try:
                return self._point_reads.run_within(self._page_s, fn, *args, **kwargs)
            except Exception as error:
                if gave_up(error):
                    self._pages_from = self._loop.time() + REST_S
                elif not is_busy(error):
                    raise
        return await self.scan(fn, *args, **kwargs)

    async def _next_turn(self) -> None:
        """Wait: a caller that only reads, again and again, must not stop everybody else."""
        while self._reads_this_turn >= _READS_PER_TURN:  # noqa: ASYNC110 - it is the next turn
            await asyncio.sleep(0)

    def _count_read(self, counts: int) -> None:
        """Count a read of this turn of the event loop, and have its snapshot end with it."""
        if self._reads_this_turn == 0:
            # Before the snapshot: news of a later commit comes after the snapshot has ended.
            self._loop.call_soon(self._new_turn)
        self._reads_this_turn += counts

    async def scan(self, fn: StoreFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a long read on one consistent state of the database, in a reader thread.

        `fn` runs beside the event loop, so it may change nothing that others use. If the caller is
        cancelled, a scan that has begun still runs to its end; one that has not never begins.
        """
        self._check()
        return await self._loop.run_in_executor(
            self._pool, partial(self._scan, fn, *args, **kwargs)
        )

    def _scan(self, fn: StoreFunction[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        connection = self._free.pop()
        try:
            with self._turn:
                return snapshot(connection, fn, *args, **kwargs)
        finally:
            self._free.append(connection)

    def _check(self) -> None:
        refuse_inside_a_function()
        if not self._open:
            raise RuntimeError("the store is not open")

    def _new_turn(self) -> None:
        self._reads_this_turn = 0
        self._point_reads.end()

    def _open_readers(self) -> None:
        for each in (self._read_connection, *self._scan_connections):
            each.open(self._busy_s)

    def _close(self) -> None:
        self._open = False
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._writer.close()
        for each in self._connections:
            each.close()

    @property
    def _connections(self) -> tuple[Connection, ...]:
        return (self._write_connection, self._read_connection, *self._scan_connections)
