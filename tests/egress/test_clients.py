"""The keep-alive client of deliveries beside the library's: every receiver, however bad, gets the same.

What a receiver does is a script: bytes, pauses and an end. Both clients post to it, and the results of
the tries are compared, whole.
"""

from __future__ import annotations

import asyncio
import gzip
import ssl
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.config.settings import WebhookSettings
from gateway.egress import KeepAliveClient
from gateway.egress.answers import MOST_INTERIM
from gateway.egress.exchange import Connection
from gateway.egress.posting import READ_BYTES, NotConnectedError
from gateway.runtime import real_runtime
from gateway.webhooks.sender import DeliveryOutcome, DeliveryResult, Sender, Target
from tests.delivery_clients import KINDS, client, each_client
from tests.egress.test_guard import SetResolver
from tests.webhooks.test_sender import self_signed

TARGET_SECRETS = (bytes(32),)
BODY = b'{"type":"payout.created"}'
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
#: What a script may do beside sending: wait for the client to close, close, or break the connection.
HANG, CLOSE, RESET = "hang", "close", "reset"
Step = bytes | float | str


@dataclass
class Scripted:
    """A receiver that plays a script for every request, and counts requests and connections."""

    script: Sequence[Step]
    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection, request after request."""
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head + await reader.readexactly(len(BODY)))
                await self._play(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for step in self.script:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif step == HANG:
                await reader.read(1)
            elif step == RESET:
                writer.transport.abort()
                raise ConnectionError
            else:
                writer.close()
                raise ConnectionError


@asynccontextmanager
async def scripted(*script: Step, tls: ssl.SSLContext | None = None) -> AsyncIterator[Scripted]:
    """Run such a receiver."""
    made = Scripted(script)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


def pieces(text: bytes, size: int, pause: float = 0.002) -> list[Step]:
    """Return the steps that send a text slowly."""
    steps: list[Step] = []
    for at in range(0, len(text), size):
        steps += [text[at : at + size], pause]
    return steps


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    """Return an answer in chunks."""
    return (
        CHUNKED
        + b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in chunks)
        + b"0\r\n"
        + trailers
        + b"\r\n"
    )


def encoded(body: bytes, encoding: bytes) -> bytes:
    """Return an answer with a content encoding."""
    head = b"HTTP/1.1 500 E\r\ncontent-encoding: %s\r\ncontent-length: %d\r\n\r\n"
    return head % (encoding, len(body)) + body


_RAW = zlib.compressobj(wbits=-15)
RAW_DEFLATE = _RAW.compress(b"without a header") + _RAW.flush()
LONG = b"x" * (READ_BYTES + 5000)
RECEIVERS: dict[str, Sequence[Step]] = {
    "a receipt": [OK],
    "no content": [NO_CONTENT],
    "slowly": [0.2, OK],
    "byte by byte": pieces(OK, 1),
    "in odd pieces": pieces(chunked(b"hello ", b"world"), 7),
    "status, then a late body": [OK[:-2], 0.2, OK[-2:]],
    "status, and never the body": [OK[:-2], HANG],
    "half a body": [OK[:-1], CLOSE],
    "half a body, reset": [OK[:-1], 0.1, RESET],
    "half a status": [b"HTTP/1.1 20", CLOSE],
    "half a header": [b"HTTP/1.1 200 OK\r\nx: ", CLOSE],
    "nothing": [CLOSE],
    "a reset": [RESET],
    "hangs": [HANG],
    "trickles headers": pieces(b"HTTP/1.1 200 OK\r\nx-a: " + b"y" * 600, 2, 0.01),
    "until the end of the connection": [b"HTTP/1.1 200 OK\r\n\r\nall of it", CLOSE],
    "connection: close": [OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"), CLOSE],
    "http/1.0": [b"HTTP/1.0 200 OK\r\n\r\nold", CLOSE],
    "chunks": [chunked(b"one ", b"two")],
    "chunks with trailers": [chunked(b"one", trailers=b"x-sum: 1\r\nretry-after: 99\r\n")],
    "chunk extensions": [CHUNKED + b"2;a=b\r\nok\r\n0\r\n\r\n"],
    "spaces after a chunk size": [CHUNKED + b"2  \r\nok\r\n0\r\n\r\n"],
    "a chunk that is none": [CHUNKED + b"2\r\nok\r\nzz\r\n", HANG],
    "chunks that never end": [CHUNKED + b"2\r\nok\r\n", HANG],
    "an interim answer": [HINTS, 0.05, OK],
    "continue": [b"HTTP/1.1 100 Continue\r\n\r\n" + OK],
    "all interim answers": [HINTS * MOST_INTERIM + OK],
    "one interim answer too many": [HINTS * (MOST_INTERIM + 1) + OK, HANG],
    "only interim answers": [HINTS, HANG],
    "switching protocols": [
        b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        HANG,
    ],
    "two answers": [OK + OK, HANG],
    "garbage after it": [OK + b"???", HANG],
    "garbage": [b"what?\r\n\r\n", HANG],
    "another protocol": [b"SSH-2.0-OpenSSH_9\r\n", HANG],
    "a redirect": [b"HTTP/1.1 307 T\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"],
    "gone": [b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"],
    "too busy": [b"HTTP/1.1 503 B\r\nRetry-After: 120\r\ncontent-length: 0\r\n\r\n"],
    "unwanted": [b"HTTP/1.1 200 O\r\nWebhook-Delivery: disable\r\ncontent-length: 0\r\n\r\n"],
    "a header twice": [
        b"HTTP/1.1 503 B\r\nretry-after: 7\r\nretry-after: 9\r\ncontent-length: 0\r\n\r\n"
    ],
    "many headers": [OK.replace(b"\r\n\r\n", b"\r\n" + b"a: b\r\n" * 100 + b"\r\n")],
    "too many headers": [OK.replace(b"\r\n\r\n", b"\r\n" + b"a: b\r\n" * 200 + b"\r\n"), HANG],
    "a line too long": [OK.replace(b"\r\n\r\n", b"\r\na: " + b"b" * 9000 + b"\r\n\r\n"), HANG],
    "two lengths": [OK.replace(b"\r\n\r\n", b"\r\ncontent-length: 3\r\n\r\n"), HANG],
    "length and chunks": [
        CHUNKED.replace(b"\r\n\r\n", b"\r\ncontent-length: 2\r\n\r\n") + b"2\r\nok\r\n0\r\n\r\n",
        HANG,
    ],
    "a length that is none": [OK.replace(b": 2", b": two"), HANG],
    "bare line feeds": [OK.replace(b"\r\n", b"\n")],
    "a folded header": [OK.replace(b"\r\n\r\n", b"\r\nx: a\r\n b\r\n\r\n")],
    "no reason": [OK.replace(b" OK", b"")],
    "a long body": [b"HTTP/1.1 500 E\r\ncontent-length: %d\r\n\r\n" % len(LONG) + LONG, HANG],
    "a body as long as is read": [
        b"HTTP/1.1 500 E\r\ncontent-length: %d\r\n\r\n" % READ_BYTES + LONG[:READ_BYTES]
    ],
    "gzip": [encoded(gzip.compress(b"packed"), b"gzip")],
    "deflate": [encoded(zlib.compress(b"packed"), b"deflate")],
    "deflate without a header": [encoded(RAW_DEFLATE, b"deflate")],
    "gzip that is none": [encoded(b"not packed", b"gzip")],
    "an unknown encoding": [encoded(b"??", b"br")],
    "bytes that are no text": [OK.replace(b"ok", b"\xff\x00")],
}


async def post(kind: str, script: Sequence[Step]) -> DeliveryResult:
    """Deliver one event to a receiver that plays a script; its duration does not matter."""
    async with scripted(*script) as server, client(kind) as http:
        sender = Sender(http, WebhookSettings(timeout_s=0.6), real_runtime())
        target = Target(f"http://127.0.0.1:{server.port}/in?a=b", TARGET_SECRETS)
        return (await sender.send(target, "evt_1", BODY))._replace(duration_ms=0)


#: Where the clients differ. The library parses a whole packet before it looks at the status in it, and
#: so loses one that stands in front of what it cannot parse; in a packet of its own it counts there, too.
#: Ours counts in both cases: the receiver has answered.
LIBRARY_LOSES_THE_STATUS = {
    "a chunk that is none": (200, "ok"),
    "an unknown encoding": (500, ""),
    "garbage after it": (200, "ok"),
}


@pytest.mark.parametrize("name", RECEIVERS)
async def test_both_clients_say_the_same_of_a_receiver(name: str) -> None:
    """Outcome, status, what is logged of the body, and what the receiver wants."""
    ours, theirs = await asyncio.gather(*(post(kind, RECEIVERS[name]) for kind in KINDS))
    if name in LIBRARY_LOSES_THE_STATUS:
        assert (ours.http_status, ours.snippet) == LIBRARY_LOSES_THE_STATUS[name]
        assert theirs.outcome is DeliveryOutcome.CONNECT_ERROR
    else:
        assert ours == theirs


@pytest.mark.parametrize("name", ["a chunk that is none", "garbage after it"])
async def test_a_status_in_a_packet_of_its_own_counts_with_both(name: str) -> None:
    """What cannot be parsed comes a moment later here."""
    (whole, *rest) = RECEIVERS[name]
    assert isinstance(whole, bytes)
    end = whole.index(b"\r\n\r\n") + 4
    apart = [whole[:end], 0.05, whole[end:], *rest]
    ours, theirs = await asyncio.gather(*(post(kind, apart) for kind in KINDS))
    assert ours.http_status == theirs.http_status == 200


def test_the_list_holds_every_kind() -> None:
    """So that the comparison is not one of failures, or of receipts, only."""
    assert len(RECEIVERS) > 50


@each_client
async def test_what_the_results_are(kind: str) -> None:
    """A few of them, by what is expected: two clients might be wrong together."""
    for name, outcome, status, snippet in (
        ("chunks with trailers", DeliveryOutcome.SUCCEEDED, 200, "one"),
        ("byte by byte", DeliveryOutcome.SUCCEEDED, 200, "ok"),
        ("status, and never the body", DeliveryOutcome.SUCCEEDED, 200, ""),
        ("an interim answer", DeliveryOutcome.SUCCEEDED, 200, "ok"),
        ("a redirect", DeliveryOutcome.HTTP_ERROR, 307, ""),
        ("gzip", DeliveryOutcome.HTTP_ERROR, 500, "packed"),
        ("half a status", DeliveryOutcome.CONNECT_ERROR, None, None),
        ("trickles headers", DeliveryOutcome.TIMEOUT, None, None),
    ):
        result = await post(kind, RECEIVERS[name])
        assert (result.outcome, result.http_status, result.snippet) == (outcome, status, snippet)
    assert (await post(kind, RECEIVERS["chunks with trailers"])).retry_after_s is None
    assert (await post(kind, RECEIVERS["too busy"])).retry_after_s == 120


@each_client
async def test_a_connection_serves_many_events(kind: str) -> None:
    """Also after chunks, trailers and interim answers; what is sent is whole each time."""
    script = [HINTS + chunked(b"one", trailers=b"x-sum: 1\r\n")]
    async with scripted(*script) as server, client(kind) as http:
        sender = Sender(http, WebhookSettings(timeout_s=5), real_runtime())
        target = Target(f"http://127.0.0.1:{server.port}/in", TARGET_SECRETS, {"X-Team": "pay"})
        for number in range(5):
            assert (await sender.send(target, f"evt_{number}", BODY)).snippet == "one"
    assert server.connections == 1
    for number, request in enumerate(server.requests):
        lines = request.split(b"\r\n")
        assert lines[0] == b"POST /in HTTP/1.1"
        assert lines[-1] == BODY
        found = {line.lower() for line in lines[1:-2]}
        assert len(found) == len(lines) - 3
        assert {
            b"host: 127.0.0.1:%d" % server.port,
            b"content-length: %d" % len(BODY),
            b"content-type: application/json",
            b"webhook-id: evt_%d" % number,
            b"x-team: pay",
        } <= found


@each_client
@pytest.mark.parametrize("name", ["two answers", "connection: close", "switching protocols"])
async def test_a_connection_that_cannot_serve_again_is_not_used(kind: str, name: str) -> None:
    """What the receiver sent too much is never taken for the answer to the next event."""
    async with scripted(*RECEIVERS[name]) as server, client(kind) as http:
        sender = Sender(http, WebhookSettings(timeout_s=5), real_runtime())
        target = Target(f"http://127.0.0.1:{server.port}/", TARGET_SECRETS)
        for _ in range(2):
            assert (await sender.send(target, "evt_1", BODY)).http_status in {200, 101}
    assert server.connections == 2


@each_client
async def test_bytes_that_come_while_nobody_asks_end_the_connection(kind: str) -> None:
    """An answer to no request is not the answer to the next one."""
    late = b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"
    async with scripted(OK, 0.05, late) as server, client(kind) as http:
        sender = Sender(http, WebhookSettings(timeout_s=5), real_runtime())
        target = Target(f"http://127.0.0.1:{server.port}/", TARGET_SECRETS)
        assert (await sender.send(target, "evt_1", BODY)).http_status == 200
        await asyncio.sleep(0.2)
        assert (await sender.send(target, "evt_2", BODY)).http_status == 200
    assert server.connections == 2


async def test_a_kept_connection_that_is_closed_under_the_request() -> None:
    """The event goes out once more over a new connection, and only once.

    The library's client does not do that; the event then waits for the next try by the plan.
    """
    async with closing_after(1) as server, client() as http:
        sender = Sender(http, WebhookSettings(timeout_s=5), real_runtime())
        target = Target(f"http://127.0.0.1:{server.port}/", TARGET_SECRETS)
        assert (await sender.send(target, "evt_1", BODY)).ok
        # It is read, and the connection closed without a word.
        assert (await sender.send(target, "evt_2", BODY)).ok
        assert [each.count(b"webhook-id: evt_2") for each in server.requests] == [0, 1, 1]
    assert server.connections == 2


@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 200 OK\r\n"], ids=["a byte", "a line"])
async def test_whatever_came_of_an_answer_forbids_to_send_again(begun: bytes) -> None:
    """The receiver has acted on it then: the try has failed, and the plan says when the next one is."""
    async with closing_after(1, begun) as server, client() as http:
        sender = Sender(http, WebhookSettings(timeout_s=5), real_runtime())
        target = Target(f"http://127.0.0.1:{server.port}/", TARGET_SECRETS)
        assert (await sender.send(target, "evt_1", BODY)).ok
        result = await sender.send(target, "evt_2", BODY)
    assert result.outcome is DeliveryOutcome.CONNECT_ERROR
    assert (len(server.requests), server.connections) == (2, 1)


async def test_a_new_connection_that_is_closed_is_not_dialled_again() -> None:
    """It was sent, and may have arrived."""
    async with scripted(CLOSE) as server, client() as http:
        sender = Sender(http, WebhookSettings(timeout_s=5), real_runtime())
        target = Target(f"http://127.0.0.1:{server.port}/", TARGET_SECRETS)
        result = await sender.send(target, "evt_1", BODY)
    assert result.outcome is DeliveryOutcome.CONNECT_ERROR
    assert (len(server.requests), server.connections) == (1, 1)


@asynccontextmanager
async def closing_after(count: int, begun: bytes = b"") -> AsyncIterator[Scripted]:
    """Run a receiver that closes its first connection instead of answering request `count` + 1."""
    made = Scripted(())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.connections += 1
        first = made.connections == 1
        try:
            for number in range(100):
                head = await reader.readuntil(b"\r\n\r\n")
                made.requests.append(head + await reader.readexactly(len(BODY)))
                if first and number == count:
                    writer.write(begun)
                    break
                writer.write(OK)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


@each_client
async def test_tls_verifies_the_certificate_and_the_name(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trusted certificate for another name is refused; for its own name it is taken, with SNI."""
    names: list[str] = []
    context, certificate = self_signed("hooks.example.com")
    context.sni_callback = lambda _, name, __: names.append(name)
    made = ssl.create_default_context

    def trusting(*args: object, **kwargs: object) -> ssl.SSLContext:
        trusted = made(*args, **kwargs)  # type: ignore[arg-type]
        trusted.load_verify_locations(cadata=certificate)
        return trusted

    monkeypatch.setattr(ssl, "create_default_context", trusting)
    if kind == "library":
        # aiohttp makes its context once, when it is imported.
        monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting())
    async with (
        scripted(OK, tls=context) as server,
        client(kind, resolver=SetResolver([["127.0.0.1"]])) as http,
    ):
        sender = Sender(http, WebhookSettings(timeout_s=5), real_runtime())
        outcomes = [
            (await sender.send(Target(f"https://{host}:{server.port}/", TARGET_SECRETS), "e", BODY))
            for host in ("hooks.example.com", "hooks.example.com", "other.example.com")
        ]
    assert [each.outcome for each in outcomes] == [
        DeliveryOutcome.SUCCEEDED,
        DeliveryOutcome.SUCCEEDED,
        DeliveryOutcome.TLS_ERROR,
    ]
    assert names == ["hooks.example.com", "other.example.com"]
    assert len(server.requests) == 2


@each_client
async def test_a_header_that_would_break_the_request_is_not_sent(kind: str) -> None:
    """Endpoints cannot have such headers; should one come by another way, nothing goes out."""
    async with scripted(OK) as server, client(kind) as http:
        sender = Sender(http, WebhookSettings(timeout_s=5), real_runtime())
        for value in ("a\r\nx: y", "a\nb", "a\rb"):
            target = Target(f"http://127.0.0.1:{server.port}/", TARGET_SECRETS, {"X-A": value})
            assert (await sender.send(target, "e", BODY)).outcome is DeliveryOutcome.CONNECT_ERROR
    assert server.requests == []


async def test_idle_connections_are_closed() -> None:
    """Before the receiver does it, and without another post."""
    async with scripted(OK) as server, client() as http:
        http._keepalive_s = 0.1  # type: ignore[union-attr]
        sender = Sender(http, WebhookSettings(timeout_s=5), real_runtime())
        target = Target(f"http://127.0.0.1:{server.port}/", TARGET_SECRETS)
        await asyncio.gather(*(sender.send(target, f"evt_{n}", BODY) for n in range(5)))
        assert len(http._all) == 5  # type: ignore[union-attr]
        await asyncio.sleep(0.3)
        assert len(http._all) == 0  # type: ignore[union-attr]


@each_client
async def test_a_delivery_that_is_cut_off_leaves_no_connection(kind: str) -> None:
    """The answer to it, should it come, is nobody's."""
    async with scripted(0.2, OK) as server, client(kind) as http:
        sender = Sender(http, WebhookSettings(timeout_s=5), real_runtime())
        target = Target(f"http://127.0.0.1:{server.port}/", TARGET_SECRETS)
        cut = asyncio.create_task(sender.send(target, "evt_1", BODY))
        while not server.requests:
            await asyncio.sleep(0.01)
        cut.cancel()
        await asyncio.gather(cut, return_exceptions=True)
        assert (await sender.send(target, "evt_2", BODY)).ok
    assert server.connections == 2


async def test_an_answer_with_more_behind_it_ends_the_connection() -> None:
    """Also where the answer ends with a piece that is parsed, and the rest is in the same packet."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 4000\r\nx: "
    head += b"y" * (96 - len(head) - 4) + b"\r\n\r\n"
    answer = head + b"a" * 4000
    assert len(answer) == 4096  # one piece
    async with scripted(answer + OK) as server, client() as http:
        sender = Sender(http, WebhookSettings(timeout_s=5), real_runtime())
        target = Target(f"http://127.0.0.1:{server.port}/", TARGET_SECRETS)
        assert (await sender.send(target, "evt_1", BODY)).ok
        assert (await sender.send(target, "evt_2", BODY)).ok
    assert server.connections == 2


async def test_a_post_that_is_cut_off_after_its_answer_disturbs_no_other() -> None:
    """The connection serves the next post by then: that one would wait for ever."""
    async with scripted(OK) as server, client() as http:
        assert isinstance(http, KeepAliveClient)
        url = f"http://127.0.0.1:{server.port}/"

        async def post() -> int:
            return (await http.post(url, {}, BODY, timeout_s=2, scope="")).status

        free, second = http.free, list[asyncio.Task[int]]()
        first = asyncio.create_task(post())

        def freed(connection: Connection) -> None:
            free(connection)
            if not second:
                # It begins before the first one goes on, which is cut off.
                second.append(asyncio.create_task(post()))
                asyncio.get_running_loop().call_soon(first.cancel)

        http.free = freed  # type: ignore[method-assign]
        await asyncio.wait({first}, timeout=5)
        assert await asyncio.wait_for(second[0], 5) == 200
    assert server.connections == 1


async def test_a_connection_that_ends_before_it_is_used_is_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing was sent, and nobody would tell the post of the end: it would wait for its deadline."""
    async with closing_at_once() as port, client() as http:
        assert isinstance(http, KeepAliveClient)
        loop = asyncio.get_running_loop()
        create = loop.create_connection

        async def late(*args: Any, **kwargs: Any) -> Any:
            transport, connection = await create(*args, **kwargs)
            while not connection.closed:
                await asyncio.sleep(0.01)
            return transport, connection

        monkeypatch.setattr(loop, "create_connection", late)
        with pytest.raises(NotConnectedError):
            await http.post(f"http://127.0.0.1:{port}/", {}, BODY, timeout_s=1, scope="")
        assert not http._all


@asynccontextmanager
async def closing_at_once() -> AsyncIterator[int]:
    """Run a receiver that closes every connection at once; give its port."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
