"""The limits of connections, over real sockets: headers, bodies, answers that nobody reads, numbers."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from gateway import connections
from gateway.config.settings import ListenSettings, Settings
from gateway.connections import Connections, LimitedProtocol, Limits, most_connections
from gateway.errors import ConfigError
from gateway.limits import HELD, RECOGNISED, client_group
from gateway.server import _Server, listen

LIMITS = Limits.of(ListenSettings(), 100)
GET = b"GET /small HTTP/1.1\r\nhost: x\r\n\r\n"


class Told:
    """Counts what was closed."""

    def __init__(self) -> None:
        self.closed: Counter[str] = Counter()
        self.open = 0

    def connections(self, count: int) -> None:
        self.open = count

    def connection_closed(self, reason: str) -> None:
        self.closed[reason] += 1


class Listener:
    """A server with limits, and raw clients for it."""

    def __init__(self, table: Connections, told: Told, port: int) -> None:
        self.table = table
        self.told = told
        self.port = port
        self.config: uvicorn.Config
        self.hold = asyncio.Event()
        self.bodies: list[int] = []
        self.gone = 0
        self.answered: Callable[[], None] = lambda: None
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(
        self, limit: int = 65536
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect; nothing is sent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=limit)
        self._writers.append(writer)
        return reader, writer

    async def hang_up(self) -> None:
        """Close every client."""
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)

    async def ask(self, request: bytes = GET) -> bytes:
        """Send a request on a connection of its own; return all that comes until it is closed."""
        reader, writer = await self.connect()
        writer.write(request.replace(b"\r\nhost", b"\r\nconnection: close\r\nhost"))
        return await all_of(reader)

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer nothing until the client is gone."""
        del scope, send
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone += 1

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `/small` at once, `/big` with 8 MB, `/body` what it read; the others when it is told to."""
        path, answer = scope["path"], b"fine"
        if path in {"/refused", "/turned-away"}:
            scope["state"][HELD]()
        if path in {"/held", "/refused"}:
            await self.hold.wait()
        if (b"authorization", b"known") in scope["headers"]:
            scope["state"][RECOGNISED]()
        if path == "/body":
            size, more = 0, True
            while more:
                message: Message = await receive()
                if message["type"] == "http.disconnect":
                    return
                size, more = size + len(message["body"]), message["more_body"]
            self.bodies.append(size)
        if path == "/big":
            answer = bytes(8 * 1024 * 1024)
        headers = [(b"content-length", str(len(answer)).encode())]
        if path == "/turned-away":
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})
        self.answered()


@asynccontextmanager
async def listening(limits: Limits = LIMITS) -> AsyncIterator[Listener]:
    """Serve within limits."""
    told = Told()
    table = Connections(limits, told)  # type: ignore[arg-type]
    made = Listener(table, told, 0)
    made.config = uvicorn.Config(
        made.app,
        http=table.protocol(),
        ws="none",
        interface="asgi3",
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = _Server(made.config, table)
    listener = listen("listen", "127.0.0.1", 0)
    made.port = listener.getsockname()[1]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    watching = asyncio.create_task(table.watch())
    await server.listening()
    try:
        yield made
    finally:
        made.hold.set()
        await made.hang_up()
        server.should_exit = True
        await serving
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def all_of(reader: asyncio.StreamReader, seconds: float = 10) -> bytes:
    """Return what comes until the connection is closed, in whatever way."""
    got = b""
    async with asyncio.timeout(seconds):
        try:
            while chunk := await reader.read(65536):
                got += chunk
        except ConnectionError:
            pass
    return got


async def until(condition: Any, seconds: float = 10) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 17_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 3_000 + b"\r\n",
        # Neither of these ever ends: the parser alone would keep all of it.
        b"GET /" + b"a" * 17_000,
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 17_000,
    ],
)
async def test_headers_are_limited_with_the_address(head: bytes) -> None:
    """431, and the connection is closed; what is just below is answered."""
    async with listening() as made:
        answer = await made.ask(head)
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert made.told.closed == {"headers_long": 1}
        fitting = b"GET /" + b"a" * 16_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n"
        assert (await made.ask(fitting)).startswith(b"HTTP/1.1 200 ")


async def test_what_is_no_request_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    """400, and no line in the log for each of them: nobody shall fill it by sending rubbish."""
    async with listening() as made:
        for rubbish in (b"\x16\x03\x01" + bytes(200), b"GET\r\n\r\n"):
            assert (await made.ask(rubbish)).startswith(b"HTTP/1.1 400 ")
        assert made.told.closed == {"unreadable": 2}
    assert "Invalid HTTP" not in caplog.text


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("hosts", [0, 1, 2])
async def test_a_request_has_one_host(hosts: int, version: bytes) -> None:
    """RFC 9112, section 3.2: 400 for two of them, and for none of them unless the request is HTTP/1.0."""
    head = b"GET /small HTTP/" + version + b"\r\nconnection: close\r\n" + b"HOST: x\r\n" * hosts
    async with listening() as made:
        reader, writer = await made.connect()
        writer.write(head + b"\r\n")
        answer = await all_of(reader)
        if hosts == 1 or (hosts == 0 and version == b"1.0"):
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert not made.told.closed
        else:
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert answer.endswith(b"Send one Host header.")
            assert made.told.closed == {"unreadable": 1}


async def test_a_host_in_a_trailer_is_none() -> None:
    """It is no second one: trailers are not used."""
    body = b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nhost: y\r\n\r\n"
    async with listening() as made:
        answer = await made.ask(b"POST /body HTTP/1.1\r\nhost: x\r\n" + body)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert made.bodies == [5]


async def test_fifty_megabytes_of_headers_are_not_kept() -> None:
    """The client is stopped long before it has sent them."""
    async with listening() as made:
        reader, writer = await made.connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nx: ")
        sent = 0
        try:
            while sent < 50_000_000:
                writer.write(bytes(65536).replace(b"\0", b"a"))
                await writer.drain()
                sent += 65536
        except ConnectionError:
            pass
        await all_of(reader)
        assert sent < 10_000_000


async def test_a_trailer_without_end_is_cut() -> None:
    """And so are sizes of chunks that bring nothing; a body of many chunks is read."""
    head = b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    async with listening() as made:
        for endless in (b"0\r\nx: " + b"a" * 40_000, b"5;x=" + b"a" * 40_000):
            reader, writer = await made.connect()
            writer.write(head + endless[:20_000])
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.write(endless[20_000:])
            await all_of(reader)
        assert made.told.closed == {"headers_long": 2}
        answer = await made.ask(head + b"5\r\nhello\r\n" * 20_000 + b"0\r\nx: y\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert made.bodies == [100_000]


@pytest.mark.parametrize(
    ("first", "status"),
    [(b"", b""), (b"GET /a", b"408"), (b"\r\n", b"408"), (GET + b"GET /a", b"408")],
)
async def test_headers_have_a_deadline(first: bytes, status: bytes) -> None:
    """For the first request and for the next ones, however often a byte comes."""
    async with listening(replace(LIMITS, header_s=0.6)) as made:
        reader, writer = await made.connect()
        writer.write(first)

        async def drip() -> None:
            for _ in range(100):
                await asyncio.sleep(0.1)
                writer.write(b"\r\n" if first == b"\r\n" else b"a" if first else b"")

        dripping = asyncio.create_task(drip())
        answer = await all_of(reader)
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        assert (b"HTTP/1.1 " + status in answer) if status else answer == b""
        assert made.told.closed == {"headers_late": 1}


async def test_a_slow_answer_is_not_taken_for_late_headers() -> None:
    """Deadlines are the client's: what the gateway itself takes does not count."""
    limits = replace(LIMITS, header_s=0.2, body_s=0.2, write_s=0.2)
    async with listening(limits) as made:
        reader, writer = await made.connect()
        writer.write(
            GET.replace(b"small", b"held").replace(b"\r\nhost", b"\r\nconnection: close\r\nhost")
        )
        await asyncio.sleep(1)
        made.hold.set()
        assert (await all_of(reader)).startswith(b"HTTP/1.1 200 ")
        assert not made.told.closed


async def test_bodies_have_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte a second does not keep a request open, answered or not."""
    monkeypatch.setattr(connections, "_AFTER_THE_ANSWER_S", 0.0)
    monkeypatch.setattr(connections, "SWEEP_S", 0.1)
    async with listening(replace(LIMITS, body_s=0.5)) as made:
        for path in (b"body", b"small"):
            reader, writer = await made.connect()
            writer.write(b"POST /%b HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" % path)

            async def drip(writer: asyncio.StreamWriter = writer) -> None:
                for _ in range(100):
                    writer.write(b"a")
                    await asyncio.sleep(0.05)

            dripping = asyncio.create_task(drip())
            await all_of(reader)
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)
        assert made.told.closed == {"body_late": 2}


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    """Its answer is forgotten; one that reads slowly but steadily gets all of it."""
    async with listening(replace(LIMITS, write_s=1.0)) as made:
        request = GET.replace(b"small", b"big")
        reader, writer = await made.connect(limit=1024)
        writer.write(request)
        steady, other = await made.connect()
        other.write(request.replace(b"\r\nhost", b"\r\nconnection: close\r\nhost"))
        got = 0
        while chunk := await steady.read(128 * 1024):
            got += len(chunk)
            # Longer than `write_s` in all.
            await asyncio.sleep(0.03)
        assert got > 8 * 1024 * 1024
        await until(lambda: made.told.closed["not_read"])
        assert made.told.closed == {"not_read": 1}
        await until(lambda: made.told.open == 0)
        assert len(await all_of(reader)) < 8 * 1024 * 1024


async def test_connections_without_a_request_make_room() -> None:
    """The one that waits longest is closed; new requests are answered, and active ones are not disturbed."""
    async with listening(replace(LIMITS, most=20, most_per_address=20)) as made:
        held_reader, held = await made.connect()
        held.write(
            GET.replace(b"small", b"held").replace(b"\r\nhost", b"\r\nconnection: close\r\nhost")
        )
        await until(lambda: len(made.table) == 1)
        silent = [await made.connect() for _ in range(60)]
        for _ in range(20):
            assert (await made.ask()).startswith(b"HTTP/1.1 200 ")
        assert len(made.table) <= 20
        assert made.told.closed["replaced"] >= 60 - 20
        assert await all_of(silent[0][0]) == b""
        made.hold.set()
        assert (await all_of(held_reader)).startswith(b"HTTP/1.1 200 ")


async def test_a_refusal_that_is_held_back_makes_room() -> None:
    """Nothing of it is to be done, so a new connection may replace it; active ones are not disturbed."""
    async with listening(replace(LIMITS, most=10, most_per_address=10)) as made:
        held_reader, held = await made.connect()
        held.write(
            GET.replace(b"small", b"held").replace(b"\r\nhost", b"\r\nconnection: close\r\nhost")
        )
        refused = []
        for _ in range(9):
            refused.append(await made.connect())
            refused[-1][1].write(GET.replace(b"small", b"refused"))
        await until(lambda: len(made.table) == 10 and len(made.table._waiting) == 9)
        for _ in range(20):
            assert (await made.ask()).startswith(b"HTTP/1.1 200 ")
        assert await all_of(refused[0][0]) == b""
        assert "too_many" not in made.told.closed
        made.hold.set()
        assert (await all_of(held_reader)).startswith(b"HTTP/1.1 200 ")
        # The others get their answer.
        assert (await refused[-1][0].readuntil(b"fine")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("body", [b"", b"content-length: 10\r\n"])
async def test_an_answer_that_closes_is_sent_before_its_connection_goes(body: bytes) -> None:
    """A new connection that comes before the loop has written the answer does not replace this one."""
    async with listening(replace(LIMITS, most=1, most_per_address=1)) as made:
        admitted = []

        def arrive() -> None:
            new = LimitedProtocol(
                made.table, config=made.config, server_state=ServerState(), app_state={}
            )
            new.group = client_group("127.0.0.1")
            admitted.append(made.table.admit(new))

        made.answered = arrive
        reader, writer = await made.connect()
        writer.write(b"POST /turned-away HTTP/1.1\r\nhost: x\r\n" + body + b"\r\n")
        assert (await all_of(reader)).endswith(b"fine")
        assert admitted == [False]
        assert not made.told.closed


@pytest.mark.parametrize("path", [b"small", b"body"])
async def test_a_body_that_nobody_known_sends_makes_room(path: bytes) -> None:
    """Answered at once or still read: the one that waits longest goes, not one that is recognised."""
    head = b"POST /%b HTTP/1.1\r\nhost: x\r\n%bcontent-length: 10\r\n\r\n"
    known = b"authorization: known\r\nconnection: close\r\n"
    async with listening(replace(LIMITS, most=20, most_per_address=20)) as made:
        kept_reader, kept = await made.connect()
        kept.write(head % (b"body", known) + b"a")
        await until(lambda: len(made.table) == 1 and not made.table._waiting)
        slow = []
        for _ in range(60):
            slow.append(await made.connect())
            slow[-1][1].write(head % (path, b"") + b"a")
        await until(lambda: made.told.closed["replaced"] + made.told.closed["too_many"] >= 41)
        for _ in range(20):
            for _, writer in slow:
                if not writer.transport.is_closing():
                    writer.write(b"a")
            assert (await made.ask()).startswith(b"HTTP/1.1 200 ")
        assert "too_many" not in made.told.closed
        assert len(made.table) <= 20
        await all_of(slow[0][0])
        kept.write(b"a" * 9)
        assert (await all_of(kept_reader)).startswith(b"HTTP/1.1 200 ")
        assert made.bodies[-1] == 10


async def test_a_body_is_read_on_for_a_while_after_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sender gets its answer and may go on; one that drips is cut long before `body_s`."""
    monkeypatch.setattr(connections, "_DRAIN_S", 0.5)
    monkeypatch.setattr(connections, "SWEEP_S", 0.1)
    async with listening() as made:
        head = b"POST /small HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n"
        reader, writer = await made.connect()
        writer.write(head)
        assert b"fine" in await reader.readuntil(b"fine")
        writer.write(b"a" * 10 + GET)
        assert (await reader.readuntil(b"fine")).startswith(b"HTTP/1.1 200 ")
        assert not made.told.closed
        reader, writer = await made.connect()
        writer.write(head)
        assert b"fine" in await all_of(reader)
        assert made.told.closed == {"body_late": 1}


async def test_an_address_counts_as_refused_for_a_second() -> None:
    """Once one of its requests had its refusal held back; nothing is remembered of it later."""
    async with listening() as made:
        now = asyncio.get_running_loop().time
        await made.ask()
        assert not made.table.is_refused("127.0.0.1", now())
        made.hold.set()
        await made.ask(GET.replace(b"small", b"refused"))
        assert made.table.is_refused("127.0.0.1", now())
        assert not made.table.is_refused("127.0.0.1", now() + 1.1)
        made.table.sweep(now() + 1.1)
        assert not made.table.is_refused("127.0.0.1", now())


async def test_one_address_takes_no_more_than_its_share() -> None:
    """Where all of its connections are in the middle of a request, the next one is refused with 503."""
    async with listening(replace(LIMITS, most=20, most_per_address=5)) as made:
        writers = []
        for _ in range(5):
            _, writer = await made.connect()
            writer.write(GET.replace(b"small", b"held"))
            writers.append(writer)
        await until(lambda: len(made.table) == 5 and not made.table._waiting)
        assert (await made.ask()).startswith(b"HTTP/1.1 503 ")
        assert made.told.closed == {"too_many": 1}


async def test_a_trusted_proxy_stands_for_many_clients() -> None:
    """Only the total counts for it."""
    listen = ListenSettings(trusted_proxies=("127.0.0.0/8",), max_connections_per_address=16)
    async with listening(Limits.of(listen, 40)) as made:
        for _ in range(30):
            await made.connect()
        await until(lambda: len(made.table) == 30)
        assert not made.told.closed


async def test_requests_sent_ahead_are_limited() -> None:
    """Thousands fit into one packet, and each would be kept."""
    async with listening() as made:
        reader, writer = await made.connect()
        writer.write(GET.replace(b"small", b"held") * 1_000)
        await all_of(reader)
        assert made.told.closed == {"too_far_ahead": 1}
        made.hold.set()
        reader, writer = await made.connect()
        writer.write(GET * 5)
        assert (await reader.readexactly(400)).count(b"200 OK") >= 3


@pytest.mark.parametrize(("requests", "more"), [(1, b"no HTTP"), (2, b"no HTTP"), (12, b"")])
async def test_the_request_under_way_hears_that_its_connection_was_cut(
    requests: int, more: bytes
) -> None:
    """Also one that is not the newest: it would go on, and write to a connection that is closed."""
    async with listening() as made:
        made.config.loaded_app = made.stream
        _, writer = await made.connect()
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * requests + more + b"\r\n\r\n")
        await until(lambda: made.gone == 1)
        assert not made.table


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", ""),
        (None, ""),
    ],
)
def test_an_ipv6_client_is_its_network(host: str | None, group: str) -> None:
    """It has 2^64 addresses; whatever is no address is one client."""
    assert client_group(host) == group


def _settings(**listen: Any) -> Settings:
    key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    return Settings.model_validate({"server_key": key, "listen": listen})


def test_the_number_fits_the_files_that_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of open files is raised as far as the system lets it, then the number is lowered."""
    limit = [1024, 4096]

    def get(_: int) -> tuple[int, int]:
        return limit[0], limit[1]

    def put(_: int, wanted: tuple[int, int]) -> None:
        limit[:] = wanted

    monkeypatch.setattr(resource, "getrlimit", get)
    monkeypatch.setattr(resource, "setrlimit", put)
    assert most_connections(_settings(max_connections=1000)) == 1000
    assert limit[0] > 1000 + 128
    limit[:] = [1024, 1024]
    assert 500 < most_connections(_settings(max_connections=1000)) < 1024 - 128
    limit[:] = [100, 100]
    with pytest.raises(ConfigError, match="ulimit"):
        most_connections(_settings(max_connections=1000))
