"""One try at one webhook, over real sockets, against receivers of every kind."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import ThreadedResolver, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks import Webhook

from gateway.config.settings import WebhookSettings
from gateway.egress import denied
from gateway.runtime import real_runtime
from gateway.signing import secret_text
from gateway.webhooks.sender import DeliveryOutcome, DeliveryResult, Sender, Target, client_for
from tests.delivery_clients import client, each_client

SECRET = bytes(range(32))
BODY = b'{"type":"payout.created","data":{"id":"pay_1"}}'
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def receiver(handle: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Run a receiver; give its base URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    scheme = "http" if tls is None else "https"
    try:
        yield f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def send(
    url: str, kind: str = "keepalive", *, private: bool = True, timeout_s: float = 5
) -> DeliveryResult:
    """Send one event."""
    settings = WebhookSettings(timeout_s=timeout_s)
    async with client(kind, private=private) as http:
        target = Target(url, (SECRET,))
        return await Sender(http, settings, real_runtime()).send(target, "evt_1", BODY)


@each_client
async def test_a_receipt(kind: str) -> None:
    """Any 2xx is a receipt; what arrives verifies, byte for byte."""
    seen: list[tuple[bytes, dict[str, str]]] = []

    async def take(request: web.Request) -> web.Response:
        seen.append((await request.read(), dict(request.headers)))
        return web.Response(status=202, text="thanks")

    async with receiver(take) as url:
        result = await send(url + "/hook?a=b", kind)
    assert (result.outcome, result.http_status, result.snippet) == (
        DeliveryOutcome.SUCCEEDED,
        202,
        "thanks",
    )
    ((body, headers),) = seen
    assert body == BODY
    assert Webhook(secret_text(SECRET)).verify(body, headers)["type"] == "payout.created"
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("status", [301, 400, 404, 410, 429, 500, 503])
@each_client
async def test_anything_else_is_no_receipt(status: int, kind: str) -> None:
    """Redirects are not followed: the target hears nothing."""
    paths: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async with receiver(answer) as url:
        result = await send(url + "/hook", kind)
    assert (result.outcome, result.http_status) == (DeliveryOutcome.HTTP_ERROR, status)
    assert paths == ["/hook"]


@each_client
async def test_a_hanging_receiver_times_out(kind: str) -> None:
    """One total deadline, however slowly it trickles."""
    stop = asyncio.Event()

    async def trickle(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=200)
        await answer.prepare(request)
        while not stop.is_set():
            await answer.write(b"x")
            await asyncio.sleep(0.05)
        return answer

    async def hang(_: web.Request) -> web.StreamResponse:
        await stop.wait()
        return web.Response()

    async with receiver(hang) as url:
        assert (await send(url, kind, timeout_s=0.3)).outcome is DeliveryOutcome.TIMEOUT
        stop.set()
    stop.clear()
    async with receiver(trickle) as url:
        # The status line is the receipt; the body is read no further than it has come.
        assert (await send(url, kind, timeout_s=0.5)).duration_ms < 2000
        stop.set()


@each_client
async def test_an_endless_answer_is_cut(kind: str) -> None:
    """The body of an answer is neither read to its end nor kept whole."""
    sent = 0

    async def pour(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse(status=500)
        await answer.prepare(request)
        for _ in range(2000):
            await answer.write(b"y" * 65536)
            sent += 65536
        return answer

    async with receiver(pour) as url:
        result = await send(url, kind)
    assert result.outcome is DeliveryOutcome.HTTP_ERROR
    assert result.snippet is not None
    assert len(result.snippet) <= 4096
    assert sent < 2000 * 65536


@each_client
async def test_no_listener_and_a_reset(kind: str) -> None:
    """No connection, or one that breaks, is an outcome, too."""

    async def reset(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with receiver(reset) as url:
        assert (await send(url, kind)).outcome is DeliveryOutcome.CONNECT_ERROR
    assert (await send(url, kind)).outcome is DeliveryOutcome.CONNECT_ERROR


@each_client
async def test_a_receiver_that_closes_in_the_middle_of_its_answer(kind: str) -> None:
    """The status has come: it counts. Before the status nothing has."""

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}}")
        writer.write(told.pop())
        await writer.drain()
        writer.close()

    told = [b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"]
    server = await asyncio.start_server(half, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        result = await send(url, kind)
        assert (result.outcome, result.http_status, result.snippet) == (
            DeliveryOutcome.SUCCEEDED,
            200,
            "half",
        )
        assert (await send(url, kind)).outcome is DeliveryOutcome.CONNECT_ERROR
    assert told == []


@each_client
async def test_an_answer_after_the_deadline_is_none(kind: str) -> None:
    """A duplicate is allowed then, a loss is not: the try counts as failed."""
    took: list[bytes] = []

    async def late(request: web.Request) -> web.Response:
        took.append(await request.read())
        await asyncio.sleep(0.4)
        return web.Response()

    async with receiver(late) as url:
        result = await send(url, kind, timeout_s=0.2)
    assert (result.outcome, result.ok, result.overloaded) == (DeliveryOutcome.TIMEOUT, False, True)
    assert took == [BODY]


@each_client
async def test_a_refused_connection_is_dialled_once_more(kind: str) -> None:
    """At once, as nothing was sent; what was sent is never sent again by the same try."""
    calls: list[str] = []

    class Flaky(ThreadedResolver):
        fails_at = 0

        async def resolve(self, host: str, *args: Any, **kwargs: Any) -> Any:
            calls.append(host)
            if len(calls) == self.fails_at:
                msg = "no such name just now"
                raise OSError(msg)
            return await super().resolve("127.0.0.1", *args, **kwargs)

    got = 0

    async def take(request: web.Request) -> web.StreamResponse:
        nonlocal got
        got += 1
        if got == 2:
            assert request.transport is not None
            request.transport.abort()
        return web.Response()

    async with receiver(take) as url:
        port = url.rpartition(":")[2]
        for fails_at, outcome in ((1, DeliveryOutcome.SUCCEEDED), (0, "connect_error")):
            calls.clear()
            resolver = Flaky()
            resolver.fails_at = fails_at
            async with client(kind, resolver=resolver) as http:
                sender = Sender(http, WebhookSettings(timeout_s=5), real_runtime())
                target = Target(f"http://hooks.example.com:{port}/", (SECRET,))
                result = await sender.send(target, "evt_1", BODY)
            assert result.outcome == outcome
    assert got == 2


@each_client
async def test_names_that_do_not_resolve_heal(kind: str) -> None:
    """A try fails without a name, and the next one asks again."""
    calls: list[str] = []

    class Ill(ThreadedResolver):
        async def resolve(self, host: str, *args: Any, **kwargs: Any) -> Any:
            calls.append(host)
            if len(calls) <= 2:
                msg = "no such name just now"
                raise OSError(msg)
            return await super().resolve("127.0.0.1", *args, **kwargs)

    async with receiver(_ok) as url, client(kind, resolver=Ill()) as http:
        sender = Sender(http, WebhookSettings(timeout_s=5), real_runtime())
        target = Target(f"http://hooks.example.com:{url.rpartition(':')[2]}/", (SECRET,))
        outcomes = [(await sender.send(target, "evt_1", BODY)).outcome for _ in range(2)]
    assert outcomes == [DeliveryOutcome.CONNECT_ERROR, DeliveryOutcome.SUCCEEDED]


@each_client
async def test_what_the_subscriber_wants_sent_along(kind: str) -> None:
    """Custom headers go out; they never replace a signature."""
    seen: list[dict[str, str]] = []

    async def take(request: web.Request) -> web.Response:
        seen.append(dict(request.headers))
        return web.Response(headers={"webhook-delivery": "disable"})

    async with receiver(take) as url, client(kind) as http:
        sender = Sender(http, WebhookSettings(timeout_s=5), real_runtime())
        target = Target(url, (SECRET, bytes(32)), {"X-Team": "pay", "webhook-id": "evil"})
        result = await sender.send(target, "evt_1", BODY)
    (headers,) = seen
    assert (headers["X-Team"], headers["webhook-id"]) == ("pay", "evt_1")
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in target.secrets:
        assert Webhook(secret_text(secret)).verify(BODY, headers)
    assert (result.ok, result.disabled_reason) == (True, "unwanted")
    assert "evil" not in repr(target)


async def test_through_an_egress_proxy() -> None:
    """The proxy is given the whole address, signed headers and body; it alone resolves the name."""
    heads: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        heads.append(await reader.readexactly(len(BODY)))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        settings = WebhookSettings(timeout_s=5, egress_proxy=f"http://127.0.0.1:{port}")
        async with client_for(settings) as http:
            sender = Sender(http, settings, real_runtime())
            target = Target("http://hooks.no-such-name.example/in", (SECRET,))
            result = await sender.send(target, "evt_1", BODY)
    assert (result.outcome, result.http_status) == (DeliveryOutcome.SUCCEEDED, 204)
    head, body = heads
    assert head.startswith(b"POST http://hooks.no-such-name.example/in HTTP/1.1")
    assert b"webhook-signature: v1," in head.lower()
    assert body == BODY


@each_client
async def test_a_false_certificate(kind: str) -> None:
    """TLS is verified."""
    async with receiver(_ok, self_signed("127.0.0.1")[0]) as url:
        assert (await send(url, kind)).outcome is DeliveryOutcome.TLS_ERROR


async def _ok(_: web.Request) -> web.StreamResponse:
    return web.Response()


@each_client
async def test_inner_addresses_are_not_dialled(kind: str) -> None:
    """Without the setting no byte reaches loopback, by literal or by name."""
    hits = 0

    async def count(_: web.Request) -> web.StreamResponse:
        nonlocal hits
        hits += 1
        return web.Response()

    async with receiver(count) as url:
        for address in (url, url.replace("127.0.0.1", "localhost")):
            assert (await send(address, kind, private=False)).outcome is DeliveryOutcome.BLOCKED
        assert hits == 0
        assert (await send(url, kind)).ok
    assert hits == 1


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.31.0.1",
        "192.168.1.1",
        "198.19.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2001::1",
        "2002:7f00:1::",
        "fc00::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff0e::1",
    ],
)
def test_denied(address: str) -> None:
    """Inner addresses in every form, also those that a standard library calls global."""
    assert denied(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111"])
def test_not_denied(address: str) -> None:
    """Public addresses are."""
    assert not denied(address)


def self_signed(host: str) -> tuple[ssl.SSLContext, str]:
    """Return a server's context with a certificate for a name, and the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        file.write(certificate)
        file.flush()
        context.load_cert_chain(file.name)
    return context, certificate.decode()
