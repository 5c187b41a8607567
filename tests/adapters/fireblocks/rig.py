"""What the adapter's tests run it against: its twin, or a server that answers as told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from adapters.fireblocks.adapter import Fireblocks
from adapters.fireblocks.settings import FireblocksSettings
from gateway.adapter import (
    Absent,
    Account,
    BatchReport,
    CannotLook,
    CustodianAccountDestination,
    Report,
    Tools,
)
from gateway.assets import AssetRegistry
from gateway.runtime import Ids, Moment, SystemClock, offload
from tests.adapters.fireblocks.workspace import (
    EXTERNAL_WALLET,
    Workspace,
    open_workspace,
    pooled_keys,
)
from tests.adapters.orders import OrderForTest

ASSETS = {"USDC": {"asset_id": "USDC", "network": "Ethereum"}, "USD": {"asset_id": "USD"}}


@asynccontextmanager
async def adapter_for(url: str, clock: Any, **settings: Any) -> AsyncIterator[Fireblocks]:
    """Return an adapter for an address."""
    async with aiohttp.ClientSession() as http:
        tools = Tools(http, clock, Ids(SystemClock()), offload, AssetRegistry())
        members = {"base_url": url, "assets": ASSETS, "timeout_s": 5, **settings}
        yield Fireblocks(FireblocksSettings.model_validate(members), tools)


class TwinClock:
    """The twin's time as the gateway's clock: tokens are judged by it."""

    def __init__(self, space: Workspace) -> None:
        self._space = space

    def now(self) -> Any:
        """Return the time that both sides share; the twin's life can be advanced without it."""
        return datetime.fromtimestamp(self._space.twin.clock.shared(), UTC)

    def moment(self) -> Moment:
        """Return the twin's time by all clocks."""
        wall = round(self.now().timestamp() * 1e6)
        return Moment("twin", round(self.monotonic() * 1e6), wall)

    def monotonic(self) -> float:
        """Return the twin's time in seconds."""
        return self._space.twin.clock.now()

    async def sleep(self, seconds: float) -> None:
        """Sleep by the twin's time."""
        await self._space.twin.clock.sleep(seconds)


@asynccontextmanager
async def pair(
    settings: Any = None, **switches: Any
) -> AsyncIterator[tuple[Fireblocks, Workspace]]:
    """Run a twin and an adapter that talks to it."""
    async with open_workspace(**switches) as space:
        credentials = space.twin.credentials(space.root)
        keys = {name: credentials[name] for name in ("api_key", "private_key", "jwks_url")}
        members = {**keys, **(settings or {})}
        async with adapter_for(space.root + "/v1", TwinClock(space), **members) as adapter:
            yield adapter, space


def order(**members: Any) -> OrderForTest:
    """Return an order that Fireblocks can pay."""
    payee = CustodianAccountDestination(account_type="EXTERNAL_WALLET", id=EXTERNAL_WALLET)
    source = Account(id="EX_SUB3", type="EXCHANGE_ACCOUNT")
    return OrderForTest(
        **{"amount": Decimal(43), "destination": payee, "source": source, **members}
    )


async def submit(adapter: Fireblocks, mine: OrderForTest) -> Report:
    """Submit a set of one; return the report of its payout."""
    return (await adapter.submit_batch(mine)).items[mine.payout_id]


async def fetch(adapter: Fireblocks, mine: OrderForTest) -> Report | Absent | CannotLook:
    """Look at a set of one; return the report of its payout."""
    found = await adapter.fetch_batch(mine)
    return found.items[mine.payout_id] if isinstance(found, BatchReport) else found


async def executes(space: Workspace) -> int:
    """Return how many executes the twin has received."""
    return sum(each.path.endswith("/actions/execute") for each in space.twin.calls)


@dataclass
class Wire:
    """A server whose every answer a test chooses; otherwise a custodian that has registered the set.

    `answers`: by call (`create`, `execute`, `status`, `transaction`) a status with a body (a text as
    it is, else JSON). `change`: what the registered set has instead of what was asked for.
    """

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    change: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    registered: dict[str, Any] = field(default_factory=dict)
    #: Every request: call, raw path, headers and body.
    calls: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    def made(self, call: str) -> list[tuple[str, str, dict[str, str], bytes]]:
        """Return the requests of one call."""
        return [each for each in self.calls if each[0] == call]

    async def handle(self, call: str, request: web.Request) -> web.Response:
        """Answer one request."""
        raw = await request.read()
        self.calls.append((call, request.raw_path, dict(request.headers), raw))
        if call == "create":
            self._register(json.loads(raw))
        good = {"execute": {"payoutId": "p-1"}, "transaction": {}}.get(call, self.registered)
        status, body = self.answers.get(call, (200, good))
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(
            status=status, text=text, content_type="application/json", headers=self.headers
        )

    def _register(self, wanted: dict[str, Any]) -> None:
        instructions = [
            {**each, "state": "NOT_STARTED", "transactions": []}
            for each in wanted["instructionSet"]
        ]
        told = {
            "payoutId": "p-1",
            "paymentAccount": wanted["paymentAccount"],
            "state": "REQUESTED",
            "status": "REGISTERED",
            "instructionSet": instructions,
        }
        for name, value in self.change.items():
            if name == "double":
                instructions.append(instructions[0])
            elif name in {"paymentAccount", "status", "payoutId"}:
                told[name] = value
            else:
                instructions[0][name] = value
        self.registered = told


@asynccontextmanager
async def answering(
    answers: dict[str, tuple[int, Any]] | None = None,
    change: dict[str, Any] | None = None,
    clock: Any = None,
) -> AsyncIterator[tuple[Fireblocks, Wire]]:
    """Run a server that answers as told, and an adapter that talks to it."""
    wire = Wire(answers or {}, change or {})
    app = web.Application()

    def route(method: str, path: str, call: str) -> None:
        async def handle(request: web.Request) -> web.Response:
            return await wire.handle(call, request)

        app.router.add_route(method, path, handle)

    route("POST", "/v1/payments/payout", "create")
    route("POST", "/v1/payments/payout/{id}/actions/execute", "execute")
    route("GET", "/v1/payments/payout/{id}", "status")
    route("GET", "/v1/transactions/{id}", "transaction")
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        async with adapter_for(
            url, clock or SystemClock(), api_key="k-123456", private_key=pem()
        ) as adapter:
            yield adapter, wire
    finally:
        await runner.cleanup()


def pem() -> str:
    """Return an API user's key."""
    return (
        next(pooled_keys())
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        .decode()
    )
