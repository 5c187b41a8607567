"""Between gateway and custodian: holds back the reply to one kind of request until it is let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from yarl import URL


@dataclass
class HoldingProxy:
    """Forwards everything. The reply to a path that ends with `hold` waits for `let_go`."""

    hold: str
    target: str = ""
    url: str = ""
    #: the custodian has carried the request out, and its reply is held
    held: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    #: whether the gateway still waited when the reply was let go
    waited_for: bool = False
    http: aiohttp.ClientSession | None = None

    async def in_front_of(self, url: str) -> str:
        """Forward to this address; return our own, with the same path."""
        address = URL(url)
        self.target = str(address.origin())
        return self.url + address.path.rstrip("/")

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Pass one request on."""
        assert self.http is not None
        body = await request.read()
        headers = {k: v for k, v in request.headers.items() if k.lower() != "host"}
        async with self.http.request(
            request.method, self.target + request.path, data=body or None, headers=headers
        ) as answer:
            raw = await answer.read()
            kept = {k: v for k, v in answer.headers.items() if k in {"Content-Type", "Date"}}
        if request.path.endswith(self.hold) and not self.let_go.is_set():
            self.held.set()
            await self.let_go.wait()
            transport = request.transport
            self.waited_for = transport is not None and not transport.is_closing()
        return web.Response(status=answer.status, body=raw, headers=kept)


@asynccontextmanager
async def holding_proxy(hold: str) -> AsyncIterator[HoldingProxy]:
    """Listen on loopback."""
    proxy = HoldingProxy(hold)
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", proxy.forward)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as proxy.http:
            yield proxy
    finally:
        proxy.let_go.set()
        await runner.cleanup()
