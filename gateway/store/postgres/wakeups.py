"""Waking the loops of other processes, by LISTEN and NOTIFY.

It only saves time: a process that misses a call finds the work at its next poll (`engine.idle_s`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from gateway.logs import get_logger
from gateway.store.postgres.connection import Server

_CHANNEL = "payout_gateway"
#: How often a lost connection is looked for, and made again.
_LOOK_S = 1.0
_log = get_logger("store")


class Wakeups:
    """Tells other processes on the database what there is to do, and hears it from them."""

    def __init__(self, server: Server, own: str, heard: Callable[[str], None]) -> None:
        self._server = server
        self._own = own
        self._heard = heard
        self._names: set[str] = set()
        self._waiting = asyncio.Event()

    def tell(self, name: str) -> None:
        """Wake a loop of every other process; at once, as far as the connection is there."""
        self._names.add(name)
        self._waiting.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Hear and tell meanwhile."""
        task = asyncio.create_task(self._run(), name="store-wakeups")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._connected()
            except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                # Other loops say that the store is away; this one only comes back.
                _log.info("wakeups_lost")
            await asyncio.sleep(_LOOK_S)

    async def _connected(self) -> None:
        connection = await asyncpg.connect(
            self._server.url,
            timeout=self._server.connect_s,
            command_timeout=self._server.statement_s,
            server_settings={"application_name": "payout-gateway wake-ups"},
        )
        try:
            await connection.add_listener(_CHANNEL, self._hear)
            while not connection.is_closed():
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._waiting.wait(), _LOOK_S)
                self._waiting.clear()
                while self._names:
                    name = self._names.pop()
                    await connection.execute(
                        "SELECT pg_notify($1, $2)", _CHANNEL, f"{self._own} {name}"
                    )
        finally:
            connection.terminate()

    def _hear(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        origin, _, name = payload.partition(" ")
        if origin != self._own and name:
            self._heard(name)
