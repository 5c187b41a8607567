"""What the adapter's tests run it against: its twin, or a server that answers as told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import aiohttp
from aiohttp import web

from adapters.card_passcode.adapter import CardPasscode
from adapters.card_passcode.settings import CardPasscodeSettings
from gateway.adapter import Account, PayoutAccountDestination, Report, Tools
from gateway.assets import AssetRegistry
from gateway.runtime import Clock, Ids, Moment, SystemClock, offload
from tests.adapters.card_passcode.merchant import DEVICE, Merchant, open_merchant
from tests.adapters.orders import ELAPSED, OrderForTest

CREDENTIALS = {
    "client_id": "cli_test",
    "client_secret": "s3cret-of-the-client",
    "passcode": "STANDING-0815",
    "phone": "231770000001",
}


@asynccontextmanager
async def adapter_for(url: str, clock: Clock, **settings: Any) -> AsyncIterator[CardPasscode]:
    """Return an adapter for an address."""
    async with aiohttp.ClientSession() as http:
        tools = Tools(http, clock, Ids(SystemClock()), offload, AssetRegistry())
        members = {"base_url": url, "timeout_s": 5, "device": DEVICE, **CREDENTIALS, **settings}
        members = {name: value for name, value in members.items() if value is not None}
        yield CardPasscode(CardPasscodeSettings.model_validate(members), tools)


class TwinClock:
    """The gateway's clock over a twin: the shared time, and what a test let pass on our side."""

    def __init__(self, merchant: Merchant) -> None:
        self._clock = merchant.twin.clock
        self.ahead = timedelta()
        #: How far the wall clock was set wrong.
        self.off = timedelta()

    def now(self) -> datetime:
        """Return the wall clock."""
        shared = datetime.fromtimestamp(self._clock.shared(), UTC)
        return shared + self.ahead + self.off

    def moment(self) -> Moment:
        """Return the twin's time by all clocks."""
        wall = round(self.now().timestamp() * 1e6)
        return Moment("twin", round(self.monotonic() * 1e6), wall)

    def monotonic(self) -> float:
        """Return seconds that no setting of the wall clock changes."""
        return self._clock.shared() + self.ahead.total_seconds()

    async def sleep(self, seconds: float) -> None:
        """Sleep by the twin's time."""
        await self._clock.sleep(seconds)


@dataclass
class Pair:
    """A twin, and an adapter that talks to it."""

    adapter: CardPasscode
    merchant: Merchant
    clock: TwinClock

    async def advance(self, seconds: float) -> None:
        """Let time pass on both sides."""
        await self.merchant.advance(seconds)
        self.pass_here(seconds)

    def pass_here(self, seconds: float) -> None:
        """Let time pass on our side only."""
        self.clock.ahead += timedelta(seconds=seconds)
        ELAPSED.advance(seconds)

    def set_wrong(self, seconds: float) -> None:
        """Set our wall clock forward or back; no time passes."""
        self.clock.off += timedelta(seconds=seconds)

    async def end(self, order: OrderForTest) -> Report:
        """Let the execution live on the twin until it has ended; return what is seen then."""
        await self.merchant.advance(4000)
        await self.merchant.steps(3)
        self.pass_here(60)
        seen = await self.adapter.fetch(order.again())
        assert isinstance(seen, Report), seen
        return seen


@asynccontextmanager
async def pair(switches: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Pair]:
    """Run a twin and an adapter that talks to it; account 19 takes one-time codes."""
    async with open_merchant(**(switches or {})) as merchant:
        clock = TwinClock(merchant)
        members = {"payout_accounts": {"19": "one_time_code"}, **merchant.credentials, **settings}
        async with adapter_for(merchant.root + "/v1", clock, **members) as adapter:
            yield Pair(adapter, merchant, clock)


def order(amount: str = "75.00", account: str = "18", **members: Any) -> OrderForTest:
    """Return an order that the merchant can pay."""
    return OrderForTest(
        **{
            "amount": Decimal(amount),
            "destination": PayoutAccountDestination(payout_account_id=account),
            "source": Account(id="3", type="WALLET"),
            "asset": "USD",
            "network": None,
            "decimals": 2,
            **members,
        }
    )


def answer(code: str, **more: Any) -> dict[str, Any]:
    """Return what a person answers."""
    return {"passcode": {"token": {"code": code, **more}}}


@dataclass
class Wire:
    """A server whose every answer a test chooses; otherwise a provider where all goes well.

    `answers`: by call (`token`, `session`, `send_code`, `execute`, `status`) a status with a body.
    """

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    change: dict[str, dict[str, Any]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    #: Every request: call, headers and body.
    calls: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)

    def made(self, call: str) -> list[tuple[str, dict[str, str], Any]]:
        """Return the requests of one call."""
        return [each for each in self.calls if each[0] == call]

    async def handle(self, call: str, request: web.Request) -> web.Response:
        """Answer one request."""
        raw = await request.read()
        sent = json.loads(raw) if raw else {}
        self.calls.append((call, dict(request.headers), sent))
        good = {**self._good(call, sent, request), **self.change.get(call, {})}
        status, body = self.answers.get(call, (200, good))
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(
            status=status, text=text, content_type="application/json", headers=self.headers
        )

    def _good(self, call: str, sent: Any, request: web.Request) -> dict[str, Any]:
        if call == "token":
            return {"access_token": f"token-{len(self.calls)}", "expires_in": 60}
        if call == "session":
            times = {"created_at": "2026-03-02T10:00:00Z", "expires_at": "2026-03-02T10:15:00Z"}
            return {"id": 42, "wallet_id": 3, "status": "active", **times, **sent}
        if call == "send_code":
            return {"expires_at": "2999-01-01T00:00:00Z", "masked_target": "+231••••0001"}
        reference = sent.get("reference_id") or request.match_info.get("reference_id")
        return execution(str(reference))


def execution(reference_id: str, **change: Any) -> dict[str, Any]:
    """Return how an execution stands, as the notes show it."""
    return {
        "reference_id": reference_id,
        "status": "PROCESSING",
        "payer_amount": "75.90",
        "payer_currency": "USD",
        "payee_amount": "75.00",
        "payee_currency": "USD",
        "operation_type": "PAYOUT",
        "provider_transaction_id": None,
        "gateway_message": None,
        "wallet_message": None,
        "client_secret": None,
        "requires_action": False,
        **change,
    }


@asynccontextmanager
async def wired(
    clock: Clock | None = None, **settings: Any
) -> AsyncIterator[tuple[CardPasscode, Wire]]:
    """Run a server that answers as told, and an adapter that talks to it."""
    wire = Wire()
    app = web.Application()
    for method, path, call in (
        ("POST", "/v1/jwt/client/obtain/token", "token"),
        ("POST", "/v1/sessions/payout", "session"),
        ("POST", "/v1/passcodes/send", "send_code"),
        ("POST", "/v1/executions/payout", "execute"),
        ("GET", "/v1/status/payout/{reference_id}", "status"),
    ):

        async def handle(request: web.Request, call: str = call) -> web.Response:
            return await wire.handle(call, request)

        app.router.add_route(method, path, handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        async with adapter_for(url, clock or SystemClock(), **settings) as adapter:
            yield adapter, wire
    finally:
        await runner.cleanup()
