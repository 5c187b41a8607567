"""Between gateway and custodian: kills the gateway at one request, before or after it took effect."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web


@dataclass
class KillingProxy:
    """Forwards everything; at request `kill_at` (from 1) it kills the process `pid`."""

    kill_at: int = 0
    #: after the custodian has answered, and before the gateway hears of it; else before it is sent
    after: bool = False
    pid: int = 0
    target: str = ""
    url: str = ""
    seen: list[str] = field(default_factory=list)
    killed_at: str | None = None
    http: aiohttp.ClientSession | None = None

    async def in_front_of(self, url: str) -> str:
        """Forward to this address; return our own."""
        self.target = url
        return self.url

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Pass one request on."""
        body = await request.read()
        # A price asked for a quote is not yet part of any payout.
        counts = request.path != "/payouts/quote"
        if counts:
            self.seen.append(f"{request.method} {request.path}")
        now = counts and len(self.seen) == self.kill_at
        if now and not self.after:
            return self._kill(request)
        assert self.http is not None
        headers = {k: v for k, v in request.headers.items() if k.lower() != "host"}
        async with self.http.request(
            request.method, self.target + request.raw_path, data=body or None, headers=headers
        ) as answer:
            raw = await answer.read()
            if now:
                return self._kill(request)
            kept = {k: v for k, v in answer.headers.items() if k in {"Content-Type", "Retry-After"}}
            return web.Response(status=answer.status, body=raw, headers=kept)

    def _kill(self, request: web.Request) -> web.Response:
        self.killed_at = f"{'after' if self.after else 'before'} {self.seen[-1]}"
        os.kill(self.pid, signal.SIGKILL)
        if request.transport is not None:
            request.transport.abort()
        return web.Response()


@asynccontextmanager
async def killing_proxy() -> AsyncIterator[KillingProxy]:
    """Listen on loopback."""
    proxy = KillingProxy()
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
        await runner.cleanup()
