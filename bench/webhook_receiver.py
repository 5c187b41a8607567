"""A receiver that costs as little as Python allows: it answers 204, and remembers what came when.

Paths that begin with /hang are taken and never answered; after an answer to /close the connection is
closed, so that the next delivery dials anew. On standard input, one word a line: `down`
closes the port, `up` opens it again, `tell` prints what came (webhook-id, path, monotonic time in ns of
the first, how often) as one line of JSON, `count` how many they are, `forget` forgets it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast

import uvloop

_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
_LAST_ANSWER = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"


class Receiver(asyncio.Protocol):
    """One connection."""

    def __init__(self, seen: dict[tuple[str, str], list[int]], open_: set[Receiver]) -> None:
        self._seen = seen
        self._open = open_
        self._buffer = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's transports are of no class that could be asked for.
        self.transport = cast("asyncio.Transport", transport)
        self._open.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        """End."""
        self._open.discard(self)

    def data_received(self, data: bytes) -> None:
        """Take whole requests."""
        self._buffer += data
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].decode("latin-1").split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in head[1:])
            size = end + 4 + int(fields.get("content-length", 0))
            if len(self._buffer) < size:
                return
            self._buffer = self._buffer[size:]
            path = head[0].split(" ")[1]
            times = self._seen.setdefault(
                (fields.get("webhook-id", ""), path), [time.monotonic_ns(), 0]
            )
            times[1] += 1
            if path.startswith("/close"):
                self.transport.write(_LAST_ANSWER)
                self.transport.close()
            elif not path.startswith("/hang"):
                self.transport.write(_ANSWER)


async def run() -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    seen: dict[tuple[str, str], list[int]] = {}
    open_: set[Receiver] = set()
    server = await loop.create_server(lambda: Receiver(seen, open_), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async for line in lines:
        word = line.decode().strip()
        if word == "down":
            server.close()
            for each in list(open_):
                each.transport.abort()
        elif word == "up":
            server = await loop.create_server(lambda: Receiver(seen, open_), "127.0.0.1", port)
        elif word == "forget":
            seen.clear()
        if word == "count":
            sys.stdout.write(f"{len(seen)}\n")
            sys.stdout.flush()
            continue
        told = [[*key, *value] for key, value in seen.items()] if word == "tell" else None
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(run())
