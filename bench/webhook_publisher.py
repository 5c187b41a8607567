"""Publishes events at the gateway's process by its benchmark route: at a rate, or as fast as it answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, cast

#: Connections, and so callers at once.
CALLERS = 64


@dataclass
class Told:
    """What was published: when each event was asked for, and when it was committed (monotonic, ns)."""

    asked: dict[str, int] = field(default_factory=dict)
    committed: dict[str, int] = field(default_factory=dict)
    #: how many requests got no answer: their events may be durable or not
    unanswered: int = 0


class _Connection(asyncio.Protocol):
    """A kept connection that costs as little as Python allows."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.answer: asyncio.Future[Any] | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take an answer; uvicorn sends its body in chunks or with a length, and JSON has no newline."""
        self._buffer += data
        begin = self._buffer.find(b"\r\n\r\n")
        if begin < 0 or not self._buffer.endswith((b"]", b"0\r\n\r\n")):
            return
        text = self._buffer[begin:]
        self._buffer = b""
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(json.loads(text[text.index(b"[") : text.rindex(b"]") + 1]))

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error or ConnectionError("closed"))

    async def ask(self, method: str, path: str, body: bytes = b"") -> Any:
        """Send a request; return its answer."""
        self.answer = asyncio.get_running_loop().create_future()
        head = f"{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)
        return await self.answer


class Publisher:
    """Publishes for a number of orgs in turn, and remembers when."""

    def __init__(self, port: int, orgs: int) -> None:
        self._port = port
        self._orgs = orgs
        self._idle: deque[_Connection] = deque()
        self.told = Told()

    async def used(self) -> tuple[float, int, int]:
        """Return what the gateway's process has used: CPU seconds, statements, commits."""
        connection = await self._connection()
        found = await connection.ask("GET", "/used")
        self._idle.append(connection)
        return found[0], found[1], found[2]

    async def at_a_rate(self, rate: float, seconds: float, path: str = "/publish") -> None:
        """Publish at a steady rate, whether answers come or not (open loop). `path`: another route to call."""
        begun, tasks = time.monotonic(), list[asyncio.Task[None]]()
        for number in range(int(rate * seconds)):
            wait_s = begun + number / rate - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            tasks.append(asyncio.create_task(self._publish(number, path)))
        await asyncio.gather(*tasks)

    async def all_at_once(self, count: int) -> None:
        """Publish so many as fast as they are answered, by so many callers at once."""
        numbers = iter(range(count))

        async def call() -> None:
            for number in numbers:
                await self._publish(number)

        await asyncio.gather(*(call() for _ in range(CALLERS)))

    async def _publish(self, number: int, path: str = "/publish") -> None:
        asked = time.monotonic_ns()
        try:
            connection = await self._connection()
            event_id, at = await connection.ask("POST", path, b"%d" % (number % self._orgs))
        except OSError:
            self.told.unanswered += 1
            return
        self._idle.append(connection)
        self.told.asked[event_id], self.told.committed[event_id] = asked, at

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
        return connection
