"""One connection to PostgreSQL that can always be used again, whatever failed on it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import asyncpg

from gateway.errors import StoreUnusable
from gateway.store.postgres.errors import (
    Conflict,
    ConnectionLost,
    Unavailable,
    translated,
    words_of,
)

if TYPE_CHECKING:
    from gateway.store.statements import Query, Row

#: Statements that are kept prepared on each connection. The store has about 250.
_KEPT_STATEMENTS = 512
#: Commits that PostgreSQL acknowledges before they are durable.
_NOT_DURABLE = ("off", "local", "remote_write")
#: The oldest server that the store is tested for.
_OLDEST = 140000
_SETTINGS = (
    "SELECT current_setting('server_version_num')::int AS version, "
    "current_setting('synchronous_commit') AS synchronous_commit, "
    "current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes, "
    "current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS standby"
)
#: How much longer than a statement may take this waits for an answer of any kind.
_MARGIN_S = 5.0
_FOR_EVER_S = 1e6
_TAKE_ORDER = "LOCK TABLE store_event_order IN EXCLUSIVE MODE NOWAIT"


@dataclass(frozen=True)
class Server:
    """Where PostgreSQL is, and how long it is waited for. Seconds."""

    url: str
    #: how it is called in messages: without the password
    label: str
    connect_s: float = 5.0
    #: how long one statement may take, waiting for others included
    statement_s: float = 10.0


class Connection:
    """A connection for one task at a time. It opens no transaction by itself."""

    def __init__(
        self,
        server: Server,
        fault: Callable[[str], None] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._server = server
        self._settings = dict(settings or {})
        self._fault = fault
        self._raw: asyncpg.Connection[asyncpg.Record] | None = None
        #: how many Query statements were run
        self.statements = 0

    @property
    def is_open(self) -> bool:
        """Whether the connection can be used as it is."""
        return self._raw is not None and not self._raw.is_closed()

    async def open(self) -> None:
        """Connect; nothing happens where the connection is open. Unavailable, StoreUnusable."""
        if self.is_open:
            return
        milliseconds = str(round(self._server.statement_s * 1000))
        try:
            raw = await asyncpg.connect(
                self._server.url,
                timeout=self._server.connect_s,
                # The server ends a statement in time; this is for a server that does not answer at all.
                command_timeout=self._server.statement_s + _MARGIN_S,
                statement_cache_size=_KEPT_STATEMENTS,
                max_cached_statement_lifetime=0,
                server_settings={
                    "application_name": "payout-gateway",
                    "statement_timeout": milliseconds,
                    # A process that is stopped in the middle of a transaction gives its locks back.
                    "idle_in_transaction_session_timeout": milliseconds,
                    "timezone": "UTC",
                    # Its statements are short; compiling one takes longer than running it.
                    "jit": "off",
                    **self._settings,
                },
            )
        except Exception as error:
            words = words_of(error)
            if words is None:
                raise
            raise Unavailable(f"{words}; nothing was written") from error
        try:
            await self._prepare(raw)
        except BaseException as error:
            raw.terminate()
            new = translated(error)
            if new is error:
                raise
            raise new from error
        self._raw = raw

    async def _prepare(self, raw: asyncpg.Connection[asyncpg.Record]) -> None:
        """Refuse a server that forgets what it has acknowledged."""
        found = await raw.fetchrow(_SETTINGS)
        assert found is not None  # noqa: S101 - one row, always
        if found["version"] < _OLDEST:
            raise StoreUnusable(f"{self._server.label}: PostgreSQL 14 or newer is needed")
        for name in ("fsync", "full_page_writes"):
            if found[name] != "on":
                raise StoreUnusable(
                    f"{self._server.label}: PostgreSQL runs with {name} = {found[name]}, and would lose "
                    "payouts in a crash; set it to on"
                )
        if found["encoding"] != "UTF8":
            raise StoreUnusable(f"{self._server.label}: the database's encoding is not UTF8")
        # Sums of integers are of this type; the tables have no column of it.
        await raw.set_type_codec(
            "numeric", schema="pg_catalog", encoder=str, decoder=int, format="text"
        )
        if found["synchronous_commit"] in _NOT_DURABLE:
            await raw.execute("SET synchronous_commit = on")

    async def close(self) -> None:
        """Disconnect; an open transaction is undone. May be called twice."""
        raw, self._raw = self._raw, None
        if raw is not None:
            try:
                await raw.close(timeout=2)
            except Exception:  # noqa: BLE001 - it is gone, one way or the other
                raw.terminate()

    def drop(self) -> None:
        """Disconnect at once, without a word to the server. May be called twice."""
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.terminate()

    async def execute(self, text: str) -> None:
        """Run statements without values."""
        raw = self._usable(text)
        try:
            await raw.execute(text)
        except Exception as error:
            raise self._failed(error) from error

    async def commit(self) -> None:
        """Commit. ConnectionLost: it may be committed, or not.

        A commit that waits for a standby must not be canceled: PostgreSQL would then acknowledge it, and
        only the primary would have it. The driver cancels what takes too long; here the connection is
        dropped instead, and the server goes on waiting.
        """
        raw = self._usable("COMMIT")
        committing = asyncio.ensure_future(raw.execute("COMMIT", timeout=_FOR_EVER_S))
        try:
            ended, _ = await asyncio.wait(
                [committing], timeout=self._server.statement_s + _MARGIN_S
            )
        finally:
            if not committing.done():
                committing.add_done_callback(lambda late: late.cancelled() or late.exception())
                self.drop()
        if not ended:
            raise ConnectionLost
        try:
            done = committing.result()
        except Exception as error:
            raise self._failed(error) from error
        if done != "COMMIT":
            raise sqlite3.OperationalError("the transaction was rolled back by an earlier error")

    async def rows(self, text: str, *values: Any) -> list[Row]:
        """Run a statement of the store itself; return its rows."""
        raw = self._usable(text)
        try:
            return cast("list[Row]", await raw.fetch(text, *values))
        except Exception as error:
            raise self._failed(error) from error

    async def query(self, query: Query, values: Mapping[str, Any]) -> list[Row]:
        """Run a statement of a store function; return its rows."""
        text, names, fixed = query.numbered()
        self.statements += 1
        return await self.rows(text, *[values[n] if n in values else fixed.get(n) for n in names])

    async def query_many(self, query: Query, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement of a store function once for each row of values."""
        text, names, fixed = query.numbered()
        self.statements += 1
        raw = self._usable(text)
        each = [[row[n] if n in row else fixed.get(n) for n in names] for row in rows]
        try:
            await raw.executemany(text, each)
        except Exception as error:
            raise self._failed(error) from error

    async def take_order(self) -> None:
        """Take the turn of those that write events, until the transaction ends. Conflict: it is taken.

        It is not waited for: the transaction has locks of its own, for which the other one may wait.
        """
        try:
            await self.execute(_TAKE_ORDER)
        except Unavailable as error:
            if getattr(error.__cause__, "sqlstate", None) == "55P03":
                raise Conflict(ordered=True) from error
            raise

    async def rollback(self) -> None:
        """Leave the transaction, if one is open, whatever it takes."""
        if self._raw is None:
            return
        try:
            if self._raw.is_in_transaction():
                await self._raw.execute("ROLLBACK")
        except Exception:  # noqa: BLE001 - closing the connection rolls back as well
            self.drop()

    def _usable(self, text: str) -> asyncpg.Connection[asyncpg.Record]:
        if self._fault is not None:
            self._fault(text)
        if self._raw is None or self._raw.is_closed():
            raise ConnectionLost
        return self._raw

    def _failed(self, error: Exception) -> BaseException:
        new = translated(error)
        if isinstance(new, ConnectionLost):
            self.drop()
        return new
