"""Partitions of events, deliveries and tries, one for each month: made ahead, and dropped when they are over.

No insert can fail for want of a partition: a month's positions are given out only once its partitions are
there, and until then events go into the month before.

A partition is dropped under a lock of the three tables for as long as three look-ups in indexes and the
`DROP` take. A lock that is not free soon is given up and requested again: while it waits, everybody who comes
later would wait, too. `DETACH ... CONCURRENTLY` holds up nobody, but cannot be in one transaction with
the question whether somebody has just asked for an event again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from gateway.errors import StoreUnusable
from gateway.logs import get_logger
from gateway.store.migrate import is_usable
from gateway.store.months import (
    AHEAD,
    FIRST_END,
    Facts,
    Kept,
    Left,
    Month,
    Span,
    why_kept,
    why_tries_kept,
)
from gateway.store.postgres.connection import Connection, Server
from gateway.store.postgres.errors import Conflict, ConnectionLost
from gateway.store.postgres.partition_tables import TABLES, of_month
from gateway.store.postgres.schema import IDENTITY, LOCK

R = TypeVar("R")

#: How long a month that is due is left to be dropped at once, before its rows are deleted one by one.
_GRACE_US = 7 * 86_400 * 1_000_000
#: How long a lock of a whole table is waited for, everybody behind it waiting, too; how often in one sweep.
_LOCK_MS, _TRIES, _PAUSE_S = 100, 5, 0.5
#: How long the turn of events is waited for: who waits for it holds up nobody longer than its holder does.
_TURN_MS = 5000
#: The newest events of a month have its highest positions, but for the clocks of processes, which differ.
_NEWEST = 1000
#: One process at a time, and none beside an upgrade or a command that has the database alone; and only on the
#: database that is known, as for every other change.
_MAY = (
    f"SELECT pg_try_advisory_xact_lock_shared({LOCK}) "  # noqa: S608 - names and numbers of our own
    f"AND pg_try_advisory_xact_lock({LOCK + 1}) AS turn, "
    "(SELECT version_num FROM alembic_version) AS revision, "
    "(SELECT works_from FROM store_schema WHERE id = 1) AS works_from, "
    f"{IDENTITY} = (SELECT identity FROM store_cluster WHERE id = 1) AS known, "
    "(SELECT frozen FROM store_state WHERE id = 1) IS NULL AS usable"
)
_FOUND = (
    "SELECT substr(c.relname, 8) AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
    "WHERE i.inhparent = to_regclass('events')"
)
_NEXT = (
    "SELECT last_value + CASE WHEN is_called THEN 1 ELSE 0 END AS position FROM events_position_seq"
)
_BEGIN_MONTH = f"SELECT setval('events_position_seq', $1::bigint, false) WHERE ({_NEXT}) < $1"
_NEWEST_EVENT = (
    "SELECT max(created_at) AS at FROM "  # noqa: S608 - a number of our own
    f"(SELECT created_at FROM events_{{0}} ORDER BY position DESC LIMIT {_NEWEST}) AS newest"
)
_NEWEST_TRY = (
    "SELECT max(newest.at) AS at FROM endpoints CROSS JOIN LATERAL (SELECT started_at AS at "
    "FROM delivery_attempts_{0} WHERE endpoint_id = endpoints.id ORDER BY started_at DESC LIMIT 1) AS newest"
)
_ANY_TRY = "SELECT 1 FROM delivery_attempts_{0} LIMIT 1"
#: Driven by the open payouts, of which there are few.
_OPEN_PAYOUT = (
    "SELECT 1 FROM payouts CROSS JOIN LATERAL (SELECT 1 FROM events_{0} WHERE payout_id = payouts.id LIMIT 1) "
    "AS found WHERE payouts.status IN ('pending', 'broadcast') LIMIT 1"
)
_UNDELIVERED = "SELECT 1 FROM deliveries_{0} WHERE state = 'pending' LIMIT 1"
_REPLAYED = "SELECT min(since) AS at FROM recoveries WHERE state = 'running'"
#: Another transaction has the lock for longer, or waits for what this one has.
_NOT_FREE = ("55P03", "40P01")
_log = get_logger("store")


class Busy(Exception):
    """A lock is not free, another process does the same, or the database is not to be changed."""


class Partitions:
    """The months of one database. Any number of processes may have one; one at a time works.

    - `revision`: the schema that this program works with.
    - `fault`: called with the text of each statement right before it is sent; a test raises.
    """

    def __init__(
        self, server: Server, revision: str, fault: Callable[[str], None] | None = None
    ) -> None:
        self._server = server
        self._revision = revision
        self._fault = fault
        #: why each month was kept at the last look, so that it is logged once
        self._kept: dict[Month, Kept] = {}

    async def sweep(self, now: int, events_before: int, tries_before: int) -> Left:
        """Make the months ahead, begin the present one, drop what is over; return what is left to rows.

        `now`: on the timeline. `…_before`: microseconds since 1970; what is younger is kept. Returned are
        the first partition and months that are kept long after they are due. Nothing is raised: what fails
        is logged, and tried again at the next sweep.
        """
        first = Span(0, FIRST_END)
        left = Left([first], [first])
        try:
            async with self._connected() as connection:
                await self.begin(connection, Month.at(now))
                for month in await months(connection):
                    kept = await self.drop(connection, month, events_before)
                    if kept in {None, Kept.WRITTEN}:
                        continue
                    due = month.ends_at + _GRACE_US
                    if kept is not Kept.YOUNG and due < events_before:
                        left.events.append(Span(month.first, month.end))
                    tries_kept = await self.drop_tries(connection, month, tries_before)
                    if tries_kept is not None and due < tries_before:
                        left.tries.append(Span(month.first, month.end))
        except Busy as busy:
            _log.info("months_busy", why=str(busy))
        except (sqlite3.Error, StoreUnusable, ConnectionLost, Conflict) as error:
            _log.error("months_failed", exc_info=error)
        return left

    async def begin(self, connection: Connection, month: Month) -> None:
        """Make the partitions of a month and of those after it; let the next event be in the month.

        May be called again, also with an earlier month: positions only rise. Busy: nothing was done.
        """
        there = set(await months(connection))
        for each in (month.after(number) for number in range(AHEAD + 1)):
            if each in there:
                continue

            async def make(made: Month = each) -> None:
                for text in of_month(made):
                    await connection.execute(text)

            await self._change(connection, make)
        if await next_position(connection) < month.first:

            async def jump() -> None:
                await connection.execute("LOCK TABLE store_event_order IN EXCLUSIVE MODE")
                await connection.rows(_BEGIN_MONTH, month.first)

            await self._change(connection, jump, lock_ms=_TURN_MS)
            _log.info("month_begun", month=month.name)

    async def drop(self, connection: Connection, month: Month, before: int) -> Kept | None:
        """Drop a month with all its rows; return why it is kept. Busy: its lock was not free.

        `before`: events from then on are kept.
        """
        # First without a lock, and what costs least first.
        facts = Facts(await next_position(connection))
        kept = why_kept(month, facts, month.ends_at + 1)
        if kept is None:
            facts = await _changing(connection, month, facts)
            kept = why_kept(month, facts, before)
        if kept is None:
            found = await connection.rows(_OPEN_PAYOUT.format(month.name))
            kept = why_kept(month, facts._replace(open_payout=bool(found)), before)
        if kept is None:
            kept = await self._drop_locked(connection, month, before)
        if kept in {None, Kept.WRITTEN, Kept.YOUNG}:
            self._kept.pop(month, None)
        elif self._kept.get(month) is not kept:
            self._kept[month] = kept
            _log.info("month_kept", month=month.name, why=kept.value)
        return kept

    async def _drop_locked(self, connection: Connection, month: Month, before: int) -> Kept | None:
        """Drop a month, unless that has changed which may change. Return why it is kept.

        Nobody can open a payout in it meanwhile: no event is written into a month that is over, and a
        payout that has ended stays so.
        """
        own = [f"{table}_{month.name}" for table in TABLES]
        whole = [f"ONLY {table}" for table in TABLES]
        lock = f"LOCK TABLE {', '.join(whole + own)} IN ACCESS EXCLUSIVE MODE"

        async def work() -> tuple[Kept | None, float]:
            await connection.execute(lock)
            begin = asyncio.get_running_loop().time()
            facts = await _changing(connection, month, Facts(await next_position(connection)))
            kept = why_kept(month, facts, before)
            if kept is None:
                await connection.execute(f"DROP TABLE {', '.join(reversed(own))}")
            return kept, begin

        kept, begin = await self._change(connection, work)
        if kept is None:
            self._told("month_dropped", month, begin)
        return kept

    async def drop_tries(self, connection: Connection, month: Month, before: int) -> Kept | None:
        """Delete all tries of a month whose events are kept; return why they are kept. Busy.

        The partition stays: one of its events may be sent again. `before`: tries from then on are kept.
        """
        if not await connection.rows(_ANY_TRY.format(month.name)):
            return None
        if kept := await _why_tries_kept(connection, month, before):
            return kept
        name = f"delivery_attempts_{month.name}"

        async def work() -> tuple[Kept | None, float]:
            await connection.execute(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")
            begin = asyncio.get_running_loop().time()
            kept = await _why_tries_kept(connection, month, before)
            if kept is None:
                await connection.execute(f"TRUNCATE {name}")
            return kept, begin

        kept, begin = await self._change(connection, work)
        if kept is None:
            self._told("tries_dropped", month, begin)
        return kept

    def _told(self, event: str, month: Month, begin: float) -> None:
        """Log what was done, and how long it took from the lock on, deleting the files included."""
        took = asyncio.get_running_loop().time() - begin
        _log.info(event, month=month.name, took_ms=round(1000 * took, 1))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """Have a connection of its own, which no change of the gateway waits for."""
        connection = Connection(self._server, self._fault)
        try:
            await connection.open()
            yield connection
        finally:
            await connection.close()

    async def _change(
        self, connection: Connection, work: Callable[[], Awaitable[R]], lock_ms: int = _LOCK_MS
    ) -> R:
        """Run `work` in a transaction, again where a lock is not free. Busy: nothing was done."""
        for left in reversed(range(_TRIES)):
            # What is asked under the lock must be the newest, whatever level the database has by default.
            await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            try:
                await self._check(connection)
                await connection.execute(f"SET LOCAL lock_timeout = {lock_ms}")
                done = await work()
                await connection.commit()
            except (sqlite3.OperationalError, Conflict) as error:
                await connection.rollback()
                if getattr(error.__cause__, "sqlstate", None) not in _NOT_FREE:
                    raise
                if not left:
                    raise Busy("a table is used by a long transaction") from error
                await asyncio.sleep(_PAUSE_S)
            except BaseException:
                await connection.rollback()
                raise
            else:
                return done
        raise AssertionError

    async def _check(self, connection: Connection) -> None:
        """Raise Busy if this process may not change the database now."""
        (row,) = await connection.rows(_MAY)
        if not (row["turn"] and row["known"] and row["usable"]):
            raise Busy("another process has its turn, or the database is frozen")
        if not is_usable(row["revision"], row["works_from"], self._revision):
            raise Busy("the schema is that of another program")


async def months(connection: Connection) -> list[Month]:
    """Return the months that have partitions, oldest first."""
    found = (Month.of_name(row["name"]) for row in await connection.rows(_FOUND))
    return sorted(each for each in found if each is not None)


async def next_position(connection: Connection) -> int:
    """Return the position that the next event gets."""
    (row,) = await connection.rows(_NEXT)
    return int(row["position"])


async def _changing(connection: Connection, month: Month, facts: Facts) -> Facts:
    """Add what is known by a look-up each."""
    (newest,) = await connection.rows(_NEWEST_EVENT.format(month.name))
    (replayed,) = await connection.rows(_REPLAYED)
    return facts._replace(
        newest_at=newest["at"],
        undelivered=bool(await connection.rows(_UNDELIVERED.format(month.name))),
        replayed_from=replayed["at"],
    )


async def _why_tries_kept(connection: Connection, month: Month, before: int) -> Kept | None:
    facts = Facts(await next_position(connection))
    if why_tries_kept(month, facts, before) is None:
        (newest,) = await connection.rows(_NEWEST_TRY.format(month.name))
        undelivered = bool(await connection.rows(_UNDELIVERED.format(month.name)))
        facts = facts._replace(newest_try_at=newest["at"], undelivered=undelivered)
    return why_tries_kept(month, facts, before)
