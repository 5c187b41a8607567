"""What a server may send before, and after, its final status: bounded, counted on real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.config.settings import WebhookSettings
from gateway.egress import custodian_connector
from gateway.egress.answers import (
    MOST_FRAMING_BYTES,
    MOST_HEAD_BYTES,
    MOST_INTERIM,
    AnswerTooLongError,
    BoundedHandler,
)
from gateway.runtime import real_runtime
from gateway.webhooks.sender import DeliveryOutcome, DeliveryResult, Sender, Target
from tests.delivery_clients import client, each_client
from tests.webhooks.test_sender import receiver

HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
#: What the kernel may hold of a connection that nobody reads.
_BUFFERED = 8 * 1024 * 1024
_MOST_POURED = 64 * 1024 * 1024


@dataclass
class Pouring:
    """A server on a thread of its own that answers with `first`, then with `rest` until it is cut off."""

    first: bytes
    rest: bytes
    port: int = 0
    sent: int = 0
    cut: bool = False

    def serve(self, listener: socket.socket) -> None:
        """Answer one connection."""
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(20)
            got = b""
            while b"{}" not in got:
                got += peer.recv(65536)
            try:
                peer.sendall(self.first)
                block = self.rest * (65536 // max(1, len(self.rest)))
                while block and self.sent < _MOST_POURED:
                    self.sent += peer.send(block)
                # Not cut off so far: wait until the client closes.
                self.cut = not peer.recv(1)
            except OSError:
                self.cut = True


@contextmanager
def pouring(first: bytes, rest: bytes) -> Iterator[Pouring]:
    """Run such a server for one connection."""
    made = Pouring(first, rest)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made.port = listener.getsockname()[1]
        thread = threading.Thread(target=made.serve, args=(listener,), daemon=True)
        thread.start()
        yield made
        thread.join(20)
        assert not thread.is_alive()


async def deliver(port: int, kind: str) -> DeliveryResult:
    """Deliver one event."""
    async with client(kind) as http:
        sender = Sender(http, WebhookSettings(timeout_s=10), real_runtime())
        target = Target(f"http://127.0.0.1:{port}/", (bytes(32),))
        return await sender.send(target, "evt_1", b"{}")


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (b"", HINTS),
        (b"", b"HTTP/1.1 103 E\r\n\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 103 E\r\nlink: " + b"a" * 8000 + b"\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"a: " + b"b" * 4000 + b"\r\n"),
    ],
    ids=["hints", "bare hints", "continue", "large hints", "headers"],
)
@each_client
async def test_interim_answers_and_headers_without_end_are_cut(
    first: bytes, rest: bytes, kind: str
) -> None:
    """Long before the deadline, by count: the server gets rid of no more than what sockets buffer."""
    with pouring(first, rest) as server:
        result = await deliver(server.port, kind)
    assert (result.outcome, result.http_status) == (DeliveryOutcome.CONNECT_ERROR, None)
    assert server.cut
    assert server.sent < _BUFFERED


async def test_few_interim_answers_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come at once: the parser makes an object of each before the bound is checked."""
    parsed = 0
    real = BoundedHandler.feed_data

    def feed_data(self: BoundedHandler, data: Any, size: int = 0) -> None:
        nonlocal parsed
        parsed += 1
        real(self, data, size)

    monkeypatch.setattr(BoundedHandler, "feed_data", feed_data)
    with pouring(b"", HINTS) as server:
        await deliver(server.port, "library")
    assert MOST_INTERIM < parsed <= MOST_INTERIM + 512 // len(HINTS) + 1


@each_client
async def test_other_deliveries_go_on_meanwhile(kind: str) -> None:
    """Six such receivers are rid of before a good one has taken fifty events."""
    taken = 0

    async def take(_: web.Request) -> web.Response:
        nonlocal taken
        taken += 1
        return web.Response()

    with ExitStack() as stack:
        bad = [stack.enter_context(pouring(b"", HINTS)) for _ in range(6)]
        async with receiver(take) as url:
            under_way = [asyncio.create_task(deliver(each.port, kind)) for each in bad]
            port = int(url.rpartition(":")[2])
            good = [await deliver(port, kind) for _ in range(50)]
            assert all(each.done() for each in under_way)
        results = await asyncio.gather(*under_way)
    assert {each.outcome for each in good} == {DeliveryOutcome.SUCCEEDED}
    assert {each.outcome for each in results} == {DeliveryOutcome.CONNECT_ERROR}
    assert taken == 50


@each_client
async def test_a_few_interim_answers_are_fine(kind: str) -> None:
    """As many as are allowed, with headers, in front of a receipt."""
    with pouring(HINTS * MOST_INTERIM + OK, b"") as server:
        result = await deliver(server.port, kind)
    assert (result.outcome, result.snippet) == (DeliveryOutcome.SUCCEEDED, "ok")


@each_client
async def test_one_more_is_not(kind: str) -> None:
    """The bound is exact; a final status behind it does not count."""
    with pouring(HINTS * (MOST_INTERIM + 1) + OK, b"") as server:
        result = await deliver(server.port, kind)
    assert (result.outcome, result.http_status) == (DeliveryOutcome.CONNECT_ERROR, None)


@each_client
async def test_headers_of_an_ordinary_size_are_fine(kind: str) -> None:
    """Half of the bound."""
    lines = b"".join(b"a%d: %s\r\n" % (n, b"b" * 4000) for n in range(8))
    assert MOST_HEAD_BYTES / 3 < len(lines) < MOST_HEAD_BYTES
    with pouring(OK.replace(b"\r\n\r\n", b"\r\n" + lines + b"\r\n"), b"") as server:
        assert (await deliver(server.port, kind)).ok


@each_client
async def test_answers_that_nobody_asked_for_end_the_connection(kind: str) -> None:
    """The first final status stands; what follows it is not parsed without end."""
    with pouring(OK, OK) as server:
        result = await deliver(server.port, kind)
    assert (result.outcome, result.http_status) == (DeliveryOutcome.SUCCEEDED, 200)
    assert server.cut
    assert server.sent < _BUFFERED


CHUNKS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n"


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (CHUNKS + b"0\r\n", b"x-a: b\r\n"),
        (CHUNKS, b"1;" + b"a" * 4000 + b"\r\nb\r\n"),
        (CHUNKS + b"1;", b"a"),
    ],
    ids=["trailers", "chunk extensions", "one chunk extension"],
)
@each_client
async def test_framing_without_end_is_cut(first: bytes, rest: bytes, kind: str) -> None:
    """What is neither head nor body counts, too: the status stands, and the connection is closed."""
    with pouring(first, rest) as server:
        result = await deliver(server.port, kind)
    assert (result.outcome, result.http_status) == (DeliveryOutcome.SUCCEEDED, 200)
    assert result.snippet is not None
    assert result.snippet.startswith("ok")
    assert server.cut
    assert server.sent < _BUFFERED


async def test_a_long_answer_of_a_custodian_in_small_chunks_is_read() -> None:
    """The framing may grow with the body: here it is longer than the bound for an empty one."""
    body = b"5\r\nhello\r\n" * (MOST_FRAMING_BYTES // 5)
    with pouring(CHUNKS + body + b"0\r\n\r\n", b"") as server:
        async with (
            aiohttp.ClientSession(connector=custodian_connector()) as session,
            session.post(f"http://127.0.0.1:{server.port}/", data=b"{}") as answer,
        ):
            assert len(await answer.read()) == 2 + MOST_FRAMING_BYTES // 5 * 5


async def test_a_custodian_has_the_same_bounds() -> None:
    """Its call ends with an error after which nobody knows whether the request arrived."""
    with pouring(b"", HINTS) as server:
        async with aiohttp.ClientSession(connector=custodian_connector()) as session:
            with pytest.raises(AnswerTooLongError):
                await session.post(f"http://127.0.0.1:{server.port}/", data=b"{}")
    assert server.cut
    assert server.sent < _BUFFERED
