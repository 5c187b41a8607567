"""The writers: changes of many callers share one transaction and one commit, beside other processes.

There is no single writer here. Every transaction is SERIALIZABLE: PostgreSQL undoes one of two whose
results no order of the two explains, so that each check of a store function is as exact as with one
writer. An undone group is run again; after a few times it runs alone, with every other writer of every
process waiting, so that it ends.

    take a group ─▶ BEGIN, turn ─▶ its changes ─▶ token ─▶ COMMIT ─▶ answer the callers

A group that writes events takes a turn of its own first, and keeps it until it is committed: positions
are given in the order in which they become visible.

The connection may be lost in the COMMIT. Each group that wrote something has therefore left a token in
this writer's own row. Reading that row under a lock waits for whatever the server still does, and then
says what became of the group.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.errors import Refused, StoreUnusable
from gateway.logs import get_logger
from gateway.store.change import GROUP_LIMIT, Change
from gateway.store.connection import WriteFault
from gateway.store.postgres.errors import (
    Conflict,
    ConnectionLost,
    OutcomeUnknown,
    Unavailable,
    write_fault,
)
from gateway.store.postgres.schema import LOCK
from gateway.store.postgres.transaction import PostgresTx, drive
from gateway.store.transaction import StoreFunction

if TYPE_CHECKING:
    from gateway.store.lanes import Lanes
    from gateway.store.postgres.connection import Connection

#: How often a group is run beside others before it runs alone, and how often at all.
_BESIDE, _TRIES = 2, 8
#: How long a lost connection is tried again for, before the callers get an error; pauses between.
_RECONNECT_S, _PAUSE_S = 10.0, 0.1
#: How long a commit of unknown outcome is asked for.
_ASK_S = 30.0
_BEGIN = "BEGIN ISOLATION LEVEL SERIALIZABLE; LOCK TABLE store_turn IN {} MODE"
_SHARED, _ALONE = "ROW SHARE", "EXCLUSIVE"
_ORDERED = "; LOCK TABLE store_event_order IN EXCLUSIVE MODE"
#: Held for as long as the connection is open: who wants the database alone finds it taken.
_JOIN = f"SELECT pg_try_advisory_lock_shared({LOCK}) AS joined"
#: The row is there before the first group: one that is being inserted could not be waited for.
_ENTER = "INSERT INTO store_writers (id, token) VALUES ($1, '') ON CONFLICT DO NOTHING"
_TOKEN = (
    "UPDATE store_writers SET token = $2, at = now() WHERE id = $1 RETURNING "  # noqa: S105 - it names a group
    "(SELECT version_num FROM alembic_version) AS revision, "
    "(SELECT works_from FROM store_schema WHERE id = 1) AS works_from, {identity} AS here, "
    "current_setting('synchronous_standby_names') AS standbys"
)
_ASK = "SELECT token FROM store_writers WHERE id = $1 FOR UPDATE"
#: Rows of processes that were killed. One that still runs and wrote nothing for so long makes its own again.
_PURGE = "DELETE FROM store_writers WHERE at < now() - interval '7 days'"
_FORGET = "DELETE FROM store_writers WHERE id = $1"
_TIMED_OUT = "57014"
#: Errors that are about a whole transaction, and not about one change in it.
_OF_ALL = (Conflict, ConnectionLost, Unavailable)
_log = get_logger("store")


@dataclass(frozen=True)
class Hooks:
    """What the store asks and tells beside the changes."""

    #: an SQL expression that names this very database and server
    identity: str
    #: called right before each commit with the schema's revision, from which one on it can be worked with,
    #: the identity, and the standbys that are waited for; what it raises undoes the group
    before_commit: Callable[[str | None, str | None, str, str], None]
    #: called with the highest moving mark of a group that is committed
    marked: Callable[[int], None]
    #: whether this process has the database alone: the others are shut out, and it is not
    alone: bool
    #: a store function that runs first in every group for as long as it is not None
    guard: Callable[[], StoreFunction[[], None] | None]


class _Culprit(Exception):
    """One change of a group failed; the others are run again without it."""

    def __init__(self, change: Change, error: BaseException) -> None:
        self.change = change
        self.error = error
        super().__init__()


class _CommitLost(Exception):
    """The connection was lost in the COMMIT."""


class Writers:
    """Runs changes in groups, on two connections: one for those that write events, one for the rest.

    Which is which is learned: a change that was found to write an event belongs to the first from then on.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        name: str,
        hooks: Hooks,
        *,
        group_s: float,
    ) -> None:
        self._hooks = hooks
        self._group_s = group_s
        self._names_of_ordered: set[str] = set()
        self._writing = {
            ordered: _Lane(self, connect(), f"{name}-{number}", ordered=ordered)
            for number, ordered in enumerate((True, False), 1)
        }
        self._closed = False
        #: why the last change that had something to write could not be written; None: it was
        self.fault: WriteFault | None = None
        #: commits that wrote something; transactions undone because of others; groups that ran alone
        self.commits = self.conflicts = self.alone = 0
        #: the sender of this process; None: there is none
        self.lanes: Lanes | None = None

    @property
    def statements(self) -> int:
        """How many statements of store functions were run."""
        return sum(each.connection.statements for each in self._writing.values())

    async def open(self) -> None:
        """Connect, and take changes."""
        for lane in self._writing.values():
            await lane.start()

    async def drain(self) -> None:
        """Wait until everything that was handed in is done."""
        for lane in self._writing.values():
            await lane.resting.wait()

    async def close(self) -> None:
        """Disconnect. What has not begun fails."""
        self._closed = True
        _log.info("store_closed", commits=self.commits, conflicts=self.conflicts, alone=self.alone)
        for lane in self._writing.values():
            await lane.stop()

    def submit(
        self, fn: StoreFunction[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> asyncio.Future[Any]:
        """Queue a change; the future is resolved when it is durable."""
        if self._closed:
            raise RuntimeError("the store is closed")
        change = Change(fn, args, kwargs, asyncio.get_running_loop().create_future())
        self._writing[change.name in self._names_of_ordered].add(change)
        return change.done

    def learn(self, change: Change) -> None:
        """Remember that a change writes events."""
        self._names_of_ordered.add(change.name)

    @property
    def hooks(self) -> Hooks:
        """What is asked and told."""
        return self._hooks

    @property
    def group_s(self) -> float:
        """How long a group of more than one change may go on."""
        return self._group_s


class _Lane:
    """One connection, and the changes that wait for it."""

    def __init__(
        self, writers: Writers, connection: Connection, name: str, *, ordered: bool
    ) -> None:
        self.connection = connection
        self._writers = writers
        self._name = name
        self._ordered = ordered
        self._number = 0
        self._queue: deque[Change] = deque()
        self._arrived = asyncio.Event()
        self.resting = asyncio.Event()
        self.resting.set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        try:
            await self._enter()
        except ConnectionLost as lost:
            raise _gone(lost) from lost
        # In a context of its own, not in that of the caller that opened the store.
        self._task = asyncio.get_running_loop().create_task(self._serve(), context=Context())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while self._queue:
            self._queue.popleft().fail(RuntimeError("the store is closed"))
        if self.connection.is_open:
            try:
                await self.connection.rollback()
                await self.connection.rows(_FORGET, self._name)
            except Exception:  # noqa: BLE001, S110 - a row that is left over harms nobody
                pass
        await self.connection.close()

    def add(self, change: Change) -> None:
        self._queue.append(change)
        self.resting.clear()
        self._arrived.set()

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            # After those callers that were just answered: what they change next joins this group.
            await asyncio.sleep(0)
            size = min(GROUP_LIMIT, len(self._queue))
            group = [self._queue.popleft() for _ in range(size)]
            try:
                await self._run(group)
            except BaseException as error:
                for change in group:
                    failure = RuntimeError(f"the store's runner failed: {error!r}")
                    failure.__cause__ = error
                    change.fail(failure)
                self.connection.drop()
                if not isinstance(error, Exception):
                    raise
                _log.error("store_runner_failed", exc_info=error)
            if not self._queue:
                self._arrived.clear()
                self.resting.set()

    async def _run(self, group: list[Change]) -> None:
        """Run a group, in parts where a change of it fails, until every caller has its answer."""
        parts = deque([group])
        while parts:
            part = parts.popleft()
            if not part:
                continue
            try:
                await self._part(part)
            except _Culprit as culprit:
                self._fail(culprit.error)
                if len(part) == 1:
                    part[0].fail(culprit.error)
                    continue
                at = part.index(culprit.change)
                parts.extendleft((part[at + 1 :], [culprit.change], part[:at]))
            except (sqlite3.Error, StoreUnusable) as error:
                # The error is about the server, not about one change: each change alone would wait as long again.
                self._fail(error)
                for change in part:
                    change.fail(_again(error))
            except Exception as error:  # noqa: BLE001 - each caller gets its own
                self._fail(error)
                if len(part) == 1:
                    part[0].fail(error)
                else:
                    parts.extendleft([change] for change in reversed(part))

    async def _part(self, part: list[Change]) -> None:  # noqa: C901 - one branch for each way to fail
        """Run changes in one transaction, again where another one was in the way."""
        ordered, tries, until = self._ordered, 0, None
        loop = asyncio.get_running_loop()
        while True:
            token = self._next_token()
            try:
                await self._enter()
                await self._transaction(part, token, alone=tries >= _BESIDE, ordered=ordered)
            except Conflict as conflict:
                self._writers.conflicts += 1
                ordered = ordered or conflict.ordered
                tries += not conflict.ordered
                if tries >= _TRIES:
                    raise Unavailable(
                        "other transactions were in the way again and again; nothing was written"
                    ) from conflict
                await self.connection.rollback()
            except ConnectionLost as lost:
                self.connection.drop()
                until = until or self._until()
                if loop.time() >= until:
                    raise _gone(lost) from lost
                await asyncio.sleep(_PAUSE_S)
            except Unavailable:
                await self.connection.rollback()
                until = until or self._until()
                if self.connection.is_open or loop.time() >= until:
                    raise
                await asyncio.sleep(_PAUSE_S)
            except _CommitLost as lost:
                self.connection.drop()
                if await self._is_committed(token, lost):
                    self._committed(part)
                    self._settle(part)
                    return
            except BaseException:
                await self.connection.rollback()
                raise
            else:
                self._settle(part)
                return

    def _until(self) -> float:
        """Return how long a server that cannot be reached is tried again.

        One that was reachable a moment ago may be restarting; where that is known to be over, no caller
        waits for it.
        """
        now = asyncio.get_running_loop().time()
        return now if self._writers.fault is not None else now + _RECONNECT_S

    async def _enter(self) -> None:
        """Connect, and have a row for the tokens."""
        if not self.connection.is_open:
            await self.connection.open()
            if not self._writers.hooks.alone:
                (row,) = await self.connection.rows(_JOIN)
                if not row["joined"]:
                    self.connection.drop()
                    raise Unavailable("another process has the database alone; nothing was written")
            await self.connection.rows(_PURGE)
            await self.connection.rows(_ENTER, self._name)

    async def _transaction(
        self, part: list[Change], token: str, *, alone: bool, ordered: bool
    ) -> None:
        """Run changes, and commit them. A change that takes the group's time leaves the rest queued."""
        connection, writers = self.connection, self._writers
        begin = _BEGIN.format(_ALONE if alone else _SHARED)
        await connection.execute(begin + (_ORDERED if ordered else ""))
        writers.alone += alone
        guard = writers.hooks.guard()
        wrote = False
        if guard is not None:
            tx = PostgresTx()
            await drive(connection, guard, tx)
            wrote = tx.wrote
        loop = asyncio.get_running_loop()
        until = loop.time() + writers.group_s
        for number, change in enumerate(part, 1):
            wrote = await self._change(change, ordered=ordered) or wrote
            if number < len(part) and loop.time() >= until:
                self._queue.extendleft(reversed(part[number:]))
                del part[number:]
                break
        if wrote:
            rows = await connection.rows(
                _TOKEN.format(identity=writers.hooks.identity), self._name, token
            )
            if not rows:
                # A server that has lost the row, or another one.
                connection.drop()
                raise ConnectionLost
            (row,) = rows
            writers.hooks.before_commit(
                row["revision"], row["works_from"], row["here"], row["standbys"]
            )
        await self._commit(wrote=wrote)
        if wrote:
            self._committed(part)

    def _committed(self, part: list[Change]) -> None:
        """Note that changes are durable, before their callers go on."""
        writers = self._writers
        writers.commits += 1
        writers.fault = None
        mark = max((each.mark for each in part if each.mark is not None), default=None)
        if mark is not None:
            writers.hooks.marked(mark)

    async def _commit(self, *, wrote: bool) -> None:
        try:
            await self.connection.commit()
        except ConnectionLost as error:
            if wrote:
                raise _CommitLost from error
            raise

    async def _change(self, change: Change, *, ordered: bool) -> bool:
        """Run one change; return whether it wrote. A refusal that wrote nothing is an answer."""
        change.over(committed=False)
        change.result = change.refusal = change.mark = None
        tx = PostgresTx(lanes=self._writers.lanes)
        change.callbacks = tx.callbacks
        tx.ordered = ordered
        error: BaseException | None = None
        try:
            change.result = await drive(
                self.connection, change.fn, tx, *change.args, **change.kwargs
            )
        except Refused as refusal:
            change.refusal = refusal
            change.over(committed=False)
        except Exception as raised:  # noqa: BLE001 - judged below
            error = raised
        # Whatever the function made of it: by this PostgreSQL gave the whole transaction up.
        error = tx.error or error
        if (tx.ordered and not ordered) or (isinstance(error, Conflict) and error.ordered):
            self._writers.learn(change)
        if isinstance(error, _OF_ALL) and not _is_timeout(error):
            raise error
        if error is not None:
            raise _Culprit(change, error) from error
        if change.refusal is not None and tx.wrote:
            raise _Culprit(change, change.refusal) from change.refusal
        change.mark = tx.marked
        return tx.wrote

    async def _is_committed(self, token: str, lost: BaseException) -> bool:
        """Ask this writer's row what became of a group. OutcomeUnknown: nobody answers."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _ASK_S
        while True:
            try:
                await self.connection.open()
                # It waits for the other end of the lost connection, where that is still at work.
                rows = await self.connection.rows(_ASK, self._name)
            except (Unavailable, ConnectionLost, Conflict) as error:
                self.connection.drop()
                if loop.time() < until:
                    await asyncio.sleep(_PAUSE_S)
                    continue
                unknown = OutcomeUnknown(
                    "the connection to PostgreSQL was lost in the commit: it may have been written"
                )
                unknown.__cause__ = error.__cause__ or error
                raise unknown from lost
            # Not the connection of a writer: it has not joined.
            self.connection.drop()
            return bool(rows) and rows[0]["token"] == token

    def _settle(self, part: list[Change]) -> None:
        for change in part:
            change.settle()

    def _fail(self, error: BaseException) -> None:
        self._writers.fault = write_fault(error) or self._writers.fault

    def _next_token(self) -> str:
        self._number += 1
        return f"{self._name}:{self._number}"


def _is_timeout(error: BaseException) -> bool:
    """Whether one statement took too long: it may be this change alone, and the others run again without it."""
    return getattr(error.__cause__, "sqlstate", None) == _TIMED_OUT


def _again(error: Exception) -> Exception:
    """Return a new error: one that several callers raise would mix their traces."""
    new = type(error)(*error.args)
    new.__cause__ = error.__cause__ or error
    return new


def _gone(lost: BaseException) -> Unavailable:
    error = Unavailable("PostgreSQL cannot be reached; nothing was written")
    error.__cause__ = lost.__cause__
    return error
