"""The way into a PostgreSQL database: the same `run`, `read` and `scan` as on SQLite.

The driver is asyncpg, on the event loop: `docs/decisions/0023-postgresql.md`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

from gateway.store import migrate
from gateway.store.connection import WriteFault
from gateway.store.database import Database
from gateway.store.lanes import Lanes
from gateway.store.postgres.connection import Connection, Server
from gateway.store.postgres.errors import Conflict, ConnectionLost, Unavailable
from gateway.store.postgres.partitions import Partitions
from gateway.store.postgres.schema import IDENTITY
from gateway.store.postgres.transaction import PostgresTx, drive
from gateway.store.postgres.writer import Hooks, Writers
from gateway.store.transaction import StoreFunction, refuse_inside_a_function

P = ParamSpec("P")
R = TypeVar("R")

#: How long a group of changes may go on, if it is more than one. Seconds.
GROUP_S = 0.1
#: How much longer a statement of a long read may take.
_PATIENCE = 6
#: For writers. A table that is read as a whole is in conflict with every write to it, a place in an index
#: only with writes there.
_WRITING = {"enable_seqscan": "off"}
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


def no_guard() -> None:
    """Return no store function: nothing has to run before every group."""


class PostgresDatabase(Database):
    """A store on PostgreSQL, for one of any number of processes. Use it with `async with`.

    - `readers`, `scanners`: how many short and how many long reads run at the same time. With the two
      writers, that is how many connections there are.
    - `group_s`: how long a group of changes may go on; the rest of it joins the next group.
    - `fault`: called with the text of each statement right before it is sent; a test raises.
    - `marked`: called with the highest moving mark of each group that is committed.
    - `revision`: the schema that this program works with; nothing is written under one that it does not fit.
    - `check_identity`: called right before each commit with what the database is (`schema.IDENTITY`) and
      which standbys it waits for; what it raises undoes the group.
    - `guard`: returns a store function to run before every group, or None.
    - `alone`: no other process writes, because this one holds the lock that says so.
    - `untouched`: only `read` and `scan`.
    """

    def __init__(  # noqa: PLR0913 - the hooks are independent of each other
        self,
        server: Server,
        readers: int = 4,
        scanners: int = 2,
        *,
        group_s: float = GROUP_S,
        fault: Callable[[str], None] | None = None,
        marked: Callable[[int], None] = lambda _: None,
        revision: str | None = None,
        check_identity: Callable[[str, str], None] = lambda *_: None,
        guard: Callable[[], StoreFunction[[], None] | None] = no_guard,
        alone: bool = False,
        untouched: bool = False,
    ) -> None:
        self._looks = 0
        self._server = server
        self._untouched = untouched
        self._revision = revision
        self._check_identity = check_identity
        self._writers = Writers(
            lambda: Connection(server, fault, _WRITING),
            secrets.token_hex(8),
            Hooks(IDENTITY, self._before_commit, marked, alone, guard),
            group_s=group_s,
        )
        self._short = _Pool(lambda: Connection(server, fault), readers)
        patient = replace(server, statement_s=server.statement_s * _PATIENCE)
        self._long = _Pool(lambda: Connection(patient, fault), scanners)
        self.months = None if revision is None else Partitions(server, revision, fault)
        #: reads that were seen to need more than one statement, and so a snapshot
        self._several: set[str] = set()
        self._open = False

    @property
    def server(self) -> Server:
        """Where the database is."""
        return self._server

    @property
    def path(self) -> Path:
        """What the database is called in messages. It is no file."""
        return Path(self._server.label)

    @property
    def opened_alone(self) -> bool:
        """False: other processes may be there at any time."""
        return False

    @property
    def lanes(self) -> Lanes | None:
        """The sender of this process that new deliveries are handed to; None: there is none."""
        return self._writers.lanes

    @lanes.setter
    def lanes(self, lanes: Lanes | None) -> None:
        self._writers.lanes = lanes

    @property
    def statements(self) -> int:
        """How many statements of store functions were run so far."""
        return self._writers.statements + self._short.statements + self._long.statements

    @property
    def commits(self) -> int:
        """How many commits wrote something so far."""
        return self._writers.commits

    def when_forming(self, listener: Callable[[], None]) -> None:
        """Do nothing: changes that come one after the other have connections of their own."""

    @property
    def foreign_commits(self) -> int:
        """A number that rises at each look: another process may always have committed.

        So that a heartbeat always looks for other gateways and wakes the loops, also where a
        notification was lost.
        """
        self._looks += 1
        return self._looks

    @property
    def counts_foreign_commits(self) -> bool:
        """False: it rises at each look."""
        return False

    @property
    def conflicts(self) -> int:
        """How many transactions were undone because of others, and run again."""
        return self._writers.conflicts

    @property
    def alone(self) -> int:
        """How many transactions ran while all other writers waited."""
        return self._writers.alone

    @property
    def write_fault(self) -> WriteFault | None:
        """Why the last change could not be written; None: it was."""
        return self._writers.fault

    async def __aenter__(self) -> Self:
        """Connect. sqlite3.OperationalError, StoreUnusable where the database cannot be used."""
        try:
            if not self._untouched:
                await self._writers.open()
            await self._short.open()
        except BaseException:
            await self._disconnect()
            raise
        self._open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish what was handed in, then disconnect."""
        try:
            if not self._untouched:
                await self._writers.drain()
        finally:
            self._open = False
            await self._disconnect()

    async def run(self, fn: StoreFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a change; when this returns, it is durable. What `fn` raises undoes only itself.

        A change that was handed in is made even if its caller is cancelled. `fn` may be run more
        than once. sqlite3.OperationalError if the database cannot be written: nothing was, unless
        it is OutcomeUnknown.
        """
        self._check()
        if self._untouched:
            raise RuntimeError("the store is open to be read only")
        done: asyncio.Future[R] = self._writers.submit(fn, args, kwargs)
        return await done

    async def read(self, fn: StoreFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a short read on one consistent state of the database."""
        return await self._read(self._short, fn, *args, **kwargs)

    async def read_page(self, fn: StoreFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a read of a page: no statement keeps the event loop waiting here."""
        return await self.scan(fn, *args, **kwargs)

    async def scan(self, fn: StoreFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a long read on one consistent state of the database, beside the short ones."""
        return await self._read(self._long, fn, *args, **kwargs)

    async def _read(
        self, pool: _Pool, fn: StoreFunction[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        self._check()
        name = getattr(fn, "__qualname__", "") or repr(fn)
        for attempt in (1, 2):
            async with pool.connection() as connection:
                try:
                    await connection.open()
                    if name not in self._several:
                        tx = _SingleTx(read_only=True)
                        try:
                            return await drive(connection, fn, tx, *args, **kwargs)
                        except _MoreThanOne:
                            self._several.add(name)
                    return await _snapshot(connection, fn, *args, **kwargs)
                except (ConnectionLost, Conflict) as lost:
                    if attempt == 2:  # noqa: PLR2004 - the second and last one
                        error = Unavailable("PostgreSQL cannot be reached")
                        error.__cause__ = lost.__cause__
                        raise error from lost
                except Exception as error:
                    if isinstance(error.__cause__, _MoreThanOne):
                        self._several.add(name)
                        return await _snapshot(connection, fn, *args, **kwargs)
                    raise
        raise AssertionError

    def _before_commit(
        self, revision: str | None, works_from: str | None, here: str, standbys: str
    ) -> None:
        own = self._revision
        if own is not None and not migrate.is_usable(revision, works_from, own):
            raise migrate.changed(revision, own)
        self._check_identity(here, standbys)

    def _check(self) -> None:
        refuse_inside_a_function()
        if not self._open:
            raise RuntimeError("the store is not open")

    async def _disconnect(self) -> None:
        self._open = False
        await self._writers.close()
        await self._short.close()
        await self._long.close()


class _MoreThanOne(Exception):
    """A read needs more than one statement."""


class _SingleTx(PostgresTx):
    """A read of one statement, which needs no transaction to see one state."""

    asked = 0

    async def answer(self, connection: Connection, ask: Any) -> Any:
        self.asked += 1
        if self.asked > 1:
            raise _MoreThanOne
        return await super().answer(connection, ask)


async def _snapshot(
    connection: Connection, fn: StoreFunction[P, R], /, *args: P.args, **kwargs: P.kwargs
) -> R:
    """Run a store function that only reads, on one consistent state of the database."""
    try:
        await connection.execute(_SNAPSHOT)
        return await drive(connection, fn, PostgresTx(read_only=True), *args, **kwargs)
    finally:
        await connection.rollback()


class _Pool:
    """Connections that are opened when they are needed first; who finds none free waits in line."""

    def __init__(self, connect: Callable[[], Connection], size: int) -> None:
        self._all = [connect() for _ in range(size)]
        self._free = deque(self._all)
        self._turn = asyncio.Semaphore(size)

    @property
    def statements(self) -> int:
        return sum(each.statements for each in self._all)

    async def open(self) -> None:
        await self._all[-1].open()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        async with self._turn:
            # The one that was used last: the others may rest.
            connection = self._free.pop()
            try:
                yield connection
            except asyncio.CancelledError:
                # Its statement may still run: nobody waits for that.
                connection.drop()
                raise
            finally:
                self._free.append(connection)

    async def close(self) -> None:
        for each in self._all:
            await each.close()
