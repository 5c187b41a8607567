"""Dummy's twin on a real socket, and an adapter that talks to it. Both live by one set clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from adapters.dummy.adapter import Dummy
from adapters.dummy.twin.app import DummyTwin, DummyTwinSettings
from adapters.twin.control import make_app
from gateway.adapter import Ids, Tools
from gateway.assets import AssetRegistry
from gateway.runtime import offload
from tests.clock import SetClock

STEP_S = 100.0


@dataclass
class Receiver:
    """A webhook receiver that keeps what it got."""

    url: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        """Take one delivery."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append((headers, await request.read()))
        return web.Response()


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    """Serve an application on loopback."""
    runner = web.AppRunner(app, shutdown_timeout=1, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Space:
    """A twin and an adapter that speaks to it."""

    def __init__(self, twin: DummyTwin, root: str, tools: Tools, clock: SetClock) -> None:
        self.twin = twin
        self.root = root
        self.tools = tools
        self.clock = clock
        self.adapter = self.adapter_with()

    def adapter_with(self, **settings: Any) -> Dummy:
        """Return an adapter whose settings differ."""
        given = {"base_url": f"{self.root}/v1", **self.twin.credentials(self.root), **settings}
        return Dummy(Dummy.Settings.model_validate(given), self.tools)  # type: ignore[arg-type]

    async def steer(self, method: str, what: str, body: Any = None) -> Any:
        """Use the control API."""
        url = f"{self.root}/_twin/{what}"
        async with self.tools.http.request(method, url, json=body) as answer:
            document = await answer.json()
            assert answer.status in {200, 201}, document
            return document

    async def fault(self, call: str, fault: str, **more: Any) -> None:
        """Let something go wrong."""
        await self.steer("POST", "faults", {"call": call, "fault": fault, **more})

    async def steps(self, count: int) -> None:
        """Let so many steps of a transfer's life pass."""
        await self.steer("POST", "clock", {"advance_s": STEP_S * count + 1})

    async def ledger(self) -> list[dict[str, str]]:
        """Return every transfer that moved money."""
        return list((await self.steer("GET", "ledger"))["transfers"])

    async def calls(self, call: str) -> int:
        """Return how often a call was received."""
        return sum(each["call"] == call for each in (await self.steer("GET", "calls"))["calls"])

    async def post(self, body: Any, key: str | None = None) -> tuple[int, Any]:
        """Send an order by hand; return status and body."""
        headers = {"Authorization": f"Bearer {key or self.twin.credentials('')['api_key']}"}
        async with self.tools.http.post(
            f"{self.root}/v1/transfers", json=body, headers=headers
        ) as answer:
            return answer.status, await answer.json()

    @asynccontextmanager
    async def receiver(self) -> AsyncIterator[Receiver]:
        """Run a webhook receiver and name it to the twin."""
        receiver = Receiver()
        app = web.Application()
        app.router.add_post("/hook", receiver.handle)
        async with listening(app) as root:
            receiver.url = f"{root}/hook"
            await self.steer("PUT", "webhooks", {"url": receiver.url})
            yield receiver


@pytest.fixture
async def space() -> AsyncIterator[Space]:
    """A running twin whose steps take 100 s of its own clock."""
    clock = SetClock()
    twin = DummyTwin(DummyTwinSettings(step_s=STEP_S), lambda: clock.now().timestamp())
    async with listening(make_app(twin)) as root, aiohttp.ClientSession() as http:
        yield Space(twin, root, Tools(http, clock, Ids(clock), offload, AssetRegistry()), clock)
