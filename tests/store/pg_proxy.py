"""A proxy in front of PostgreSQL that loses connections where a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from gateway.store.postgres.connection import Server

#: How a simple query of COMMIT looks on the wire.
_COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
#: How a connection begins that only cancels what another one does.
_CANCEL = b"\x00\x00\x00\x10\x04\xd2\x16\x2e"


class Proxy:
    """Forwards bytes between clients and the server, over Unix sockets."""

    def __init__(self, behind: str) -> None:
        self._behind = behind
        #: loses the connection at the next COMMIT: `before` the server hears of it, or `after` it is done
        self.lose: str | None = None
        #: whether new connections are refused
        self.away = False
        self._open: set[asyncio.StreamWriter] = set()
        self.commits_lost = 0
        #: requests to cancel a statement
        self.cancels = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one connection."""
        if self.away:
            writer.close()
            return
        up, down = await asyncio.open_unix_connection(self._behind)
        self._open |= {writer, down}
        lost = asyncio.Event()
        try:
            await asyncio.gather(
                self._to_server(reader, down, writer, lost), self._to_client(up, writer, lost)
            )
        finally:
            for each in (writer, down):
                self._open.discard(each)
                each.close()

    async def _to_server(
        self,
        reader: asyncio.StreamReader,
        down: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
        lost: asyncio.Event,
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                self.cancels += data.startswith(_CANCEL)
                if self.lose is not None and data.endswith(_COMMIT):
                    how, self.lose = self.lose, None
                    self.commits_lost += 1
                    lost.set()
                    if how == "after":
                        down.write(data)
                        await down.drain()
                        await asyncio.sleep(0.3)
                    writer.transport.abort()
                    down.transport.abort()
                    return
                down.write(data)
                await down.drain()
            down.close()

    async def _to_client(
        self, up: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        with suppress(ConnectionError):
            while data := await up.read(65536):
                if not lost.is_set():
                    writer.write(data)
                    await writer.drain()
            writer.close()

    def cut(self) -> None:
        """Lose every connection now."""
        for each in list(self._open):
            each.transport.abort()


@asynccontextmanager
async def in_front_of(server: Server, folder: Path) -> AsyncIterator[tuple[Proxy, Server]]:
    """Run a proxy; yield it, and the server as it is reached through it."""
    parts = urlsplit(server.url)
    (host,) = parse_qs(parts.query)["host"]
    port = parts.port or 5432
    proxy = Proxy(f"{host}/.s.PGSQL.{port}")
    folder.mkdir(exist_ok=True)
    listener = await asyncio.start_unix_server(proxy.serve, folder / f".s.PGSQL.{port}")
    try:
        yield proxy, Server(server.url.replace(host, str(folder)), server.label)
    finally:
        proxy.cut()
        listener.close()
