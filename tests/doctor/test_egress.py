"""The egress guard, with the client that deliveries use and a proxy on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.config.settings import WebhookSettings
from gateway.doctor import Level, egress
from gateway.egress import Guard


@asynccontextmanager
async def proxy(answer: bytes) -> AsyncIterator[str]:
    """Serve a proxy that answers every request alike; yield its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def level(**settings: Any) -> tuple[Level, str]:
    """Return what is found with these settings."""
    (found,) = await egress.check(WebhookSettings(**settings))
    assert found.fix or found.level is Level.OK
    return found.level, found.detail


async def test_inner_addresses_are_refused() -> None:
    """Tried with a listener on this machine."""
    assert (await level())[0] is Level.OK


async def test_a_guard_that_lets_it_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that refuses nothing is noticed: the delivery would arrive."""
    made = Guard.__init__

    def lax(self: Guard, **_: Any) -> None:
        made(self, allow_private_addresses=True)

    monkeypatch.setattr(Guard, "__init__", lax)
    monkeypatch.setattr(egress, "_METADATA", "127.0.0.1")
    monkeypatch.setattr(egress, "_TRY_S", 0.3)
    found, detail = await level()
    assert found is Level.FAILED
    assert "127.0.0.1, localhost" in detail


async def test_private_addresses_on_purpose() -> None:
    """Allowed by a setting: said each time."""
    assert (await level(allow_private_addresses=True))[0] is Level.WARNING


async def test_a_proxy_is_asked_for_inner_addresses() -> None:
    """One that refuses is fine; one that connects, one that is away, and what is none are not."""
    async with proxy(b"HTTP/1.1 403 Forbidden\r\n\r\n") as address:
        assert (await level(egress_proxy=address))[0] is Level.OK
    assert (await level(egress_proxy=address))[0] is Level.FAILED
    async with proxy(b"HTTP/1.1 200 OK\r\n\r\n") as address:
        found, detail = await level(egress_proxy=address)
        assert found is Level.FAILED
        assert "makes a connection to 127.0.0.1:80" in detail
    async with proxy(b"rubbish\r\n") as address:
        assert (await level(egress_proxy=address))[0] is Level.FAILED
