"""The writer: changes of many callers share one transaction and one commit.

The whole group runs on the event loop's thread, without a hand-over per statement; only COMMIT,
which waits for the disk, goes to a thread of its own. What arrives meanwhile is the next group.
Every step below is a plain call, never a coroutine, so that nothing can be cancelled half-way:

    _next ─▶ _begin ─▶ _work ─▶ [thread] _commit ─▶ _committed ─▶ _next …
                └─▶ [thread] wait for the write lock ─▶ _begun ─▶ _work …

An error leads to `_undo`: the group is rolled back and runs again in parts.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gateway.errors import Refused, WitnessFailed
from gateway.logs import get_logger
from gateway.store.change import GROUP_LIMIT, Change
from gateway.store.commit_thread import CommitThread
from gateway.store.connection import WriteFault, is_busy
from gateway.store.later import Waiting
from gateway.store.live_rows import LiveRows
from gateway.store.transaction import SqliteTx, StoreFunction, drive

if TYPE_CHECKING:
    from gateway.store.connection import Connection
    from gateway.store.lanes import Lanes

T = TypeVar("T")

_BEGIN = "BEGIN IMMEDIATE"
#: For so many turns of the event loop at most a group gathers what arrives.
_TURNS = 4
_log = get_logger("store")


class Witness(Protocol):
    """Remembers, outside the database, the highest moving mark that was committed."""

    def record(self, mark: int) -> None:
        """Store the mark durably before returning. Called in the commit thread, once per group."""


class Writer:
    """Runs changes in groups on one connection, of which nobody else makes use."""

    def __init__(  # noqa: PLR0913 - the hooks are independent of each other
        self,
        connection: Connection,
        *,
        busy_s: float,
        group_s: float,
        witness: Witness | None = None,
        end_reads: Callable[[], None] = lambda: None,
        before_commit: Callable[[int | None], None] | None = None,
        on_schema_change: StoreFunction[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self._busy_s = busy_s
        self._group_s = group_s
        self._witness = witness
        #: ends the snapshot of point reads: SQLite starts its log anew only where nobody reads it
        self._end_reads = end_reads
        self._before_commit = before_commit
        self._on_schema_change = on_schema_change
        self._schema_version = 0
        #: the connection's count of what others have committed; None: not known of this connection
        self._data_version: int | None = None
        self._live = LiveRows()
        self._waiting = Waiting(connection, None)
        self._thread = CommitThread()
        self._queue: deque[Change] = deque()
        #: parts of a group that failed, to be run again before what is queued
        self._again: deque[list[Change]] = deque()
        self._busy = False
        #: for how many turns the next group has gathered, and how many changes it had in the last one
        self._turns = self._gathered = 0
        self._closed = False
        #: why the last change that had something to write could not be written; None: it was
        self.fault: WriteFault | None = None
        #: how many commits had something to write: each of them waited for the disk
        self.commits = 0
        #: rises when other processes have committed, by one for any number of commits
        self.foreign_commits = 0
        #: the sender of this process; None: there is none
        self.lanes: Lanes | None = None
        #: called when a change comes while nothing is written: what is handed in now shares its commit
        self.forming: Callable[[], None] = _nobody

    async def open(self) -> None:
        """Connect."""
        self._loop = asyncio.get_running_loop()
        # The callbacks run in this context, not in that of the caller that happened to start a group.
        self._context = copy_context()
        self._resting = asyncio.Event()
        self._resting.set()
        connected: asyncio.Future[None] = self._loop.create_future()
        self._in_thread(self._connect, partial(_settle, connected))
        await connected

    def _connect(self) -> None:
        self._connection.open(self._busy_s)
        self._schema_version = self._connection.schema_version()

    async def drain(self) -> None:
        """Wait until everything that was handed in is done."""
        while self._busy:
            await self._resting.wait()

    def close(self) -> None:
        """Disconnect. A commit under way is waited for; what has not begun fails."""
        self._closed = True
        self._thread.close()
        self._connection.close()

    def submit(
        self, fn: StoreFunction[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> asyncio.Future[Any]:
        """Queue a change; the future is resolved when it is durable."""
        if self._closed:
            raise RuntimeError("the store is closed")
        change = Change(fn, args, kwargs, self._loop.create_future())
        self._queue.append(change)
        if not self._busy:
            self._busy = True
            self._resting.clear()
            self._soon()
            self.forming()
        return change.done

    def _soon(self) -> None:
        # After those callers that were just answered: what they change next joins the next group.
        self._loop.call_soon(self._next, context=self._context)

    def _next(self) -> None:
        """Begin the next group, if there is one."""
        if self._closed:
            for change in (*(each for part in self._again for each in part), *self._queue):
                change.fail(RuntimeError("the store is closed"))
            self._again.clear()
            self._queue.clear()
        if self._again:
            self._guarded(self._begin, self._again.popleft())
        elif self._queue and self._gathers():
            self._soon()
        elif self._queue:
            size = min(GROUP_LIMIT, len(self._queue))
            self._guarded(self._begin, [self._queue.popleft() for _ in range(size)])
        else:
            self._busy = False
            self._resting.set()

    def _gathers(self) -> bool:
        """Whether the next group waits for another turn of the loop, because changes are still coming.

        A turn of an idle loop takes microseconds. A turn of a busy one brings changes that then share the
        transaction, the statements and the commit.
        """
        came, self._gathered = len(self._queue) > self._gathered, len(self._queue)
        self._turns += 1
        if came and self._turns <= _TURNS:
            return True
        self._turns = self._gathered = 0
        return False

    def _begin(self, group: list[Change]) -> None:
        if not self._connection.is_open:
            self._begin_in_thread(group)
            return
        self._end_reads()
        _, error = _attempt(partial(self._connection.execute, _BEGIN))
        if error is None:
            self._work(group)
        elif is_busy(error):
            self._begin_in_thread(group)
        else:
            self._undo(group, error)

    def _begin_in_thread(self, group: list[Change]) -> None:
        """Wait for another process's transaction, without holding up the event loop."""
        begin = partial(self._connection.begin_waiting, _BEGIN, self._busy_s)
        self._in_thread(begin, self._guarded, self._begun, group)

    def _begun(self, group: list[Change], _: None, error: BaseException | None) -> None:
        if error is None:
            self._work(group)
        elif is_busy(error):
            self._roll_back()
            self.fault = WriteFault.of(error)
            # Not each alone: every one of them would wait as long again.
            for change in group:
                change.fail(_busy(self._busy_s, error))
            self._soon()
        else:
            self._undo(group, error)

    def _work(self, group: list[Change]) -> None:
        """Run the changes of a group in the open transaction, then have it committed."""
        culprit = None
        before = self._connection.changes
        self._waiting = Waiting(self._connection, self.lanes)
        # CPU time, not time: on a busy machine small groups would only make it busier.
        begun, cpu = (perf_counter(), thread_time()) if len(group) > 1 else (0.0, 0.0)
        try:
            self._check_others()
            for number, change in enumerate(group, 1):
                culprit = change
                self._run(change)
                if number < len(group) and self._used_up(begun, cpu):
                    # Others need the event loop, too: the rest belongs to the next group.
                    self._put_back(group[number:])
                    del group[number:]
                    break
            # From here on it may be anybody's.
            culprit = None
            self._write_waiting()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the caller gets it
            self._undo(group, error, culprit)
            return
        mark = max((each.mark for each in group if each.mark is not None), default=None)
        if self._connection.changes == before and mark is None:
            # Nothing to write: this only gives the lock back, and waits for no disk.
            self._committed(group, *_attempt(partial(self._commit, None, wrote=False)))
        else:
            commit = partial(self._commit, mark, wrote=True)
            self._in_thread(commit, self._guarded, self._committed, group)

    def _write_waiting(self) -> None:
        """Write what the changes of the group have left. Raises where that failed before, too."""
        if self._waiting.failure is not None:
            # A change has swallowed it.
            raise self._waiting.failure
        self._waiting.write()

    def _used_up(self, begun: float, cpu: float) -> bool:
        """Whether a group has had its CPU time. Asked of the cheaper clock first: time is never less."""
        return perf_counter() - begun >= self._group_s and thread_time() - cpu >= self._group_s

    def _put_back(self, rest: list[Change]) -> None:
        """Keep changes for the next group, in front of what came after them."""
        if self._again:
            self._again.appendleft(rest)
        else:
            self._queue.extendleft(reversed(rest))

    def _check_others(self) -> None:
        """Take note of what other processes have committed since the last group. In the transaction.

        The write lock is held by now: what the number does not tell of cannot happen any more. Where it
        stands still, nobody else has changed the schema either. (The writer itself never does.)
        """
        version = self._connection.data_version()
        if version == self._data_version:
            return
        # A snapshot that was begun while this process waited for the lock is as old as what is dropped here.
        self._end_reads()
        self._live.clear()
        self._check_schema()
        # Only now: a schema that is refused is looked at again in the next group.
        self._data_version = version
        self.foreign_commits += 1

    def _check_schema(self) -> None:
        """Ask the hook where the schema was changed since the last group."""
        if self._on_schema_change is None:
            return
        version = self._connection.schema_version()
        if version != self._schema_version:
            drive(self._on_schema_change, SqliteTx(self._connection))
            self._schema_version = version

    def _roll_back(self) -> None:
        """Leave the transaction, and forget what was read and written in it."""
        self._live.clear()
        self._connection.rollback()
        if not self._connection.is_open:
            # Another connection counts anew.
            self._data_version = None
        self._waiting.over(committed=False)

    def _run(self, change: Change) -> None:
        """Run one change. A refusal that wrote nothing is an answer: it undoes no group."""
        connection, waiting = self._connection, self._waiting
        change.result = change.refusal = change.mark = None
        # What others have left may be written meanwhile: that is not the change's own.
        before = connection.changes - waiting.written, waiting.left
        tx = SqliteTx(connection, live=self._live, lanes=self.lanes, waiting=waiting)
        change.callbacks = tx.callbacks
        try:
            change.result = drive(change.fn, tx, *change.args, **change.kwargs)
        except Refused as refusal:
            if (connection.changes - waiting.written, waiting.left) != before:
                raise
            change.refusal = refusal
            change.over(committed=False)
        else:
            change.mark = tx.marked
        # It may have swallowed an error by which SQLite rolled the whole transaction back.
        connection.require_transaction()

    def _commit(self, mark: int | None, *, wrote: bool) -> Exception | None:
        """Commit, then tell the witness; return the witness's error."""
        if wrote and self._before_commit is not None:
            self._before_commit(mark)
        self._connection.execute("COMMIT")
        if wrote:
            self.commits += 1
            self.fault = None
        if mark is None or self._witness is None:
            return None
        try:
            self._witness.record(mark)
        except Exception as error:  # noqa: BLE001 - those whose mark it was get it
            return error
        return None

    def _committed(
        self, group: list[Change], unwitnessed: Exception | None, error: BaseException | None
    ) -> None:
        if error is not None:
            self._undo(group, error)
            return
        self._waiting.over(committed=True)
        for change in group:
            change.over(committed=True)
            if unwitnessed is not None and change.mark is not None:
                failure = WitnessFailed(change.mark)
                failure.__cause__ = unwitnessed
                change.fail(failure)
            else:
                change.settle()
        self._soon()

    def _undo(
        self, group: list[Change], error: BaseException, culprit: Change | None = None
    ) -> None:
        """Roll a group back and run it again in parts, until each error is its own caller's.

        A known culprit runs alone, between those before it and those after it. Otherwise (COMMIT
        itself failed) each change runs alone.
        """
        self._roll_back()
        self.fault = WriteFault.of(error) or self.fault
        for change in group:
            change.over(committed=False)
        if len(group) == 1:
            group[0].fail(error)
        elif culprit is None:
            self._again.extendleft([change] for change in reversed(group))
        else:
            at = group.index(culprit)
            parts = (group[:at], [culprit], group[at + 1 :])
            self._again.extendleft(part for part in reversed(parts) if part)
        self._soon()

    def _in_thread(self, work: Callable[[], object], then: Callable[..., None], *args: Any) -> None:
        """Do some work in the commit thread, then go on on the event loop: `args`, result, error."""

        def job() -> None:
            outcome: tuple[Any, ...] = (*args, *_attempt(work))
            self._loop.call_soon_threadsafe(then, *outcome, context=self._context)

        self._thread.do(job)

    def _guarded(self, step: Callable[..., None], group: list[Change], *outcome: Any) -> None:
        """Take a step. Should the runner itself fail, its callers hear of it and it goes on."""
        try:
            step(group, *outcome)
        except BaseException as error:
            self._roll_back()
            for change in group:
                change.over(committed=False)
                failure = RuntimeError(f"the store's runner failed: {error!r}")
                failure.__cause__ = error
                change.fail(failure)
            self._soon()
            if not isinstance(error, Exception):
                raise
            _log.error("store_runner_failed", exc_info=error)


def _nobody() -> None:
    """Hear of nothing."""


def _attempt(work: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """Return what some work returns, or what it raises."""
    try:
        return work(), None
    except BaseException as error:  # noqa: BLE001 - handed on as a value
        return None, error


def _settle(done: asyncio.Future[None], _: None, error: BaseException | None) -> None:
    """Resolve a future. Nobody may wait for it any more."""
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _busy(seconds: float, cause: BaseException) -> sqlite3.OperationalError:
    """Return a new error: one that several callers raise would mix their traces."""
    error = sqlite3.OperationalError(
        f"database is locked: another process kept the write lock for {seconds:g} s; "
        "nothing was written"
    )
    error.__cause__ = cause
    return error
