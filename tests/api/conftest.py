"""The API over a real socket, on a real SQLite file, with a clock that the test sets."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import json
import secrets
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from starlette.applications import Starlette

from gateway.adapter import (
    Absent,
    Account,
    BatchReport,
    CannotLook,
    Capabilities,
    Notice,
    Order,
    Ref,
    Report,
    SubStatus,
    Unsupported,
)
from gateway.api.application import ApiContext, create_api
from gateway.assets import AssetRegistry
from gateway.batches.elsewhere import FileChecks
from gateway.batches.service import Batches
from gateway.calling import Calling
from gateway.config.settings import Mode, Settings
from gateway.errors import CannotVerify, InvalidSignature
from gateway.execution.actions import Actions
from gateway.execution.engine import Engine
from gateway.execution.inbox import Inbox
from gateway.funds.reservations import Funds, account_rules
from gateway.keys import mint_key
from gateway.limits import Buckets
from gateway.metrics import Metrics
from gateway.panel.application import add_panel
from gateway.payouts import Payouts
from gateway.quotes import Quotes
from gateway.routing.accounts import PinnedAccounts
from gateway.routing.prices import PriceTable
from gateway.routing.router import Instance, Router
from gateway.rules import OwnRules
from gateway.runtime import Ids, Runtime, real_runtime
from gateway.spending import Spending
from gateway.spending_rules import Rules
from gateway.store.opening import open_database, state_file_of
from gateway.vault import vault_of
from gateway.webhooks.endpoints import Endpoints
from gateway.webhooks.replay import Replays
from gateway.webhooks.sender import Sender
from gateway.webhooks.share import Share
from gateway.webhooks.worker import Deliveries
from tests.clock import SetClock
from tests.databases import make_database
from tests.delivery_clients import client
from tests.routing.pricing import TakesEverything

ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
RATES = ("reads", "quotes", "writes", "confirms", "unknown", "quote_calls")
WALLET = {"type": "custodian_account", "account_type": "EXTERNAL_WALLET", "id": "w-1"}
STATES = {"sent": SubStatus.BROADCAST, "done": SubStatus.DELIVERED}
_SECRET = b"a custodian's webhook secret"


class HmacCustodian:
    """A custodian that signs its webhooks by HMAC; only what the API asks of one."""

    name = "acme_eu"
    adapter_name = "acme"
    keys_reachable = True

    def __init__(self, *, offers: bool = False) -> None:
        self._offers = offers

    @property
    def capabilities(self) -> Capabilities:
        """Pays custodian accounts and addresses."""
        return Capabilities(
            frozenset({"custodian_account", "address"}),
            payee_types=frozenset({"EXTERNAL_WALLET"}),
            webhooks=True,
            quotes=self._offers,
        )

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check the signature."""
        if not self.keys_reachable:
            raise CannotVerify("keys")
        if not hmac.compare_digest(headers.get("x-signature", ""), self.sign(body)):
            raise InvalidSignature("the signature does not fit")

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Read `{"id", "transfer"}`, and a `state` where there is one."""
        told = json.loads(body)
        if not isinstance(told, dict) or "id" not in told:
            msg = "no id"
            raise ValueError(msg)
        word = told.get("state")
        report = None if word is None else Report(STATES[word], word)
        refs = (Ref("transfer", str(told.get("transfer"))),)
        return [Notice(refs, str(told["id"]), report=report)]

    def fingerprint(self, account: Account, *, livemode: bool) -> str:
        """Name the account."""
        return f"{account.type} {account.id} {livemode}"

    async def check_clock(self) -> None:
        """Be right, always."""

    async def submit(self, order: Order) -> BatchReport:
        """Never called here: no engine runs."""
        raise Unsupported(order.payout_id)

    async def fetch(self, order: Order) -> BatchReport | Absent | CannotLook:
        """Never called here: no engine runs."""
        raise Unsupported(order.payout_id)

    async def confirm(self, order: Order, answer: Mapping[str, Any]) -> BatchReport:
        """Ask for nothing, ever."""
        raise Unsupported(f"{order.payout_id} {len(answer)}")

    async def cancel(self, order: Order) -> BatchReport:
        """Call nothing back."""
        raise Unsupported(order.payout_id)

    @staticmethod
    def sign(body: bytes) -> str:
        """Sign as the custodian does."""
        return hmac.new(_SECRET, body, hashlib.sha256).hexdigest()


class Api:
    """A running API and a client for it."""

    def __init__(
        self, context: ApiContext, clock: SetClock, custodian: HmacCustodian, path: Path
    ) -> None:
        self.context = context
        self.clock = clock
        self.custodian = custodian
        self.path = path
        self.url = ""
        self.http: aiohttp.ClientSession
        self.engine: Engine
        self.app: Starlette
        self.server: uvicorn.Server
        self.woken: list[str] = []
        self.pricer: TakesEverything
        self.keys: dict[tuple[str, str], str] = {}

    async def key(self, org: str = "acme", mode: Mode = "live") -> str:
        """Return an API key of an org."""
        if (org, mode) not in self.keys:
            minted = await self.context.db.run(mint_key, self.context.runtime, org, mode)
            self.keys[org, mode] = minted.key
        return self.keys[org, mode]

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        data: bytes | None = None,
        org: str = "acme",
        mode: Mode = "live",
        **headers: str | None,
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """Send a request; return the answer and its bytes. `header=None` leaves a default header out."""
        sent: dict[str, str | None] = {"authorization": f"Bearer {await self.key(org, mode)}"}
        if body is not None or data is not None:
            sent["content-type"] = "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        payload = (
            data if data is not None else json.dumps(body).encode() if body is not None else None
        )
        async with self.http.request(
            method,
            self.url + path,
            data=None if payload is None else io.BytesIO(payload),
            headers={k: v for k, v in sent.items() if v is not None},
        ) as answer:
            return answer, await answer.read()

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Send a request; return status and JSON."""
        answer, raw = await self.send(method, path, **options)
        return answer.status, json.loads(raw) if raw else None

    async def problem(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Send a request that is refused; check the form of the problem and return it."""
        answer, raw = await self.send(method, path, **options)
        problem: dict[str, Any] = json.loads(raw)
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["status"] == answer.status >= 400
        assert problem["request_id"] == answer.headers["request-id"]
        assert problem["type"].endswith("/docs/problems#" + problem["code"])
        return problem

    async def quote(
        self, *, org: str = "acme", mode: Mode = "live", **members: Any
    ) -> dict[str, Any]:
        """Ask for a quote that is given."""
        body = {
            "external_ref": "u-1",
            "destination": WALLET,
            "asset": "USDC",
            "amount": "43",
            **members,
        }
        status, quote = await self.call(
            "POST",
            "/payouts/quote",
            body=body,
            org=org,
            mode=mode,
            idempotency_key=secrets.token_hex(8),
        )
        assert status == 200, quote
        return dict(quote)

    async def pay(
        self, *, org: str = "acme", mode: Mode = "live", **members: Any
    ) -> dict[str, Any]:
        """Quote and pay."""
        quote = await self.quote(org=org, mode=mode, **members)
        status, payout = await self.call(
            "POST", "/payouts", body={"quote_id": quote["quote_id"]}, org=org, mode=mode
        )
        assert status == 201, payout
        return dict(payout)


class _Server(uvicorn.Server):
    """uvicorn that stops at once: its own loop looks ten times a second whether it shall."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()

    async def main_loop(self) -> None:
        """Serve until stopped."""
        await self.on_tick(0)
        await self.stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is idle, and wait for the rest as uvicorn does."""
        for each in list(self.server_state.connections):
            each.shutdown()
        await asyncio.sleep(0)
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for server in self.servers:
            server.close()
            await server.wait_closed()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The configuration."""
    return Settings.model_validate(
        {
            "database": tmp_path / "api.db",
            "public_url": "https://pay.example/base",
            "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "custodians": {"acme_eu": {"adapter": "acme", "modes": ["live", "test"]}},
            "routes": [
                {
                    "destination": "custodian_account",
                    "custodian": "acme_eu",
                    "account": {"id": "A1", "type": "VAULT"},
                    "networks": ["Ethereum"],
                },
                {
                    "destination": "address",
                    "custodian": "acme_eu",
                    "account": {"id": "A1", "type": "VAULT"},
                    "assets": ["USDC", "EURC"],
                    "fee": {"flat": "0.10", "basis_points": "25"},
                },
            ],
            "accounts": {"acme_eu": [{"id": "A2", "type": "VAULT"}]},
            # The clock of a test stands still, so that no bucket fills again by itself.
            "limits": {f"{name}_burst": 100_000 for name in RATES}
            | {"batch_jobs": 100, "batch_jobs_per_org": 100},
        }
    )


@asynccontextmanager
async def open_api(
    settings: Settings,
    *,
    clock: SetClock | None = None,
    offers: bool = False,
    file_checks: FileChecks | None = None,
) -> AsyncIterator[Api]:
    """Run one gateway's API. Several may run on one database, each with connections of its own.

    `offers`: the custodian is asked for an offer at each quote, over the network.
    """
    clock = clock or SetClock()
    runtime: Runtime = replace(real_runtime(), clock=clock, ids=Ids(clock))
    vault = vault_of(settings, runtime.ids)
    custodian = HmacCustodian(offers=offers)
    pricer = TakesEverything()
    accounts = settings.accounts["acme_eu"]
    instance = Instance("acme_eu", frozenset({"live", "test"}), custodian.capabilities, accounts)
    router = Router([instance], settings.routes)
    state_file = state_file_of(settings, runtime)
    make_database(settings.database)
    opened = open_database(settings, runtime, state_file)
    async with (
        opened as db,
        aiohttp.ClientSession() as http,
        client() as to_endpoints,
    ):
        woken: list[str] = []
        # Where a test sets limits; the cap of every payout has tests of its own.
        spending = None
        if settings.spending.limits:
            table = PriceTable(AssetRegistry(), settings.prices)
            spending = Spending(Rules(settings.spending, table.usd))
        own = OwnRules(settings)
        funds = Funds(runtime, account_rules(settings, {"acme_eu": 30.0}), settings.routes)
        pinned = PinnedAccounts(settings)
        payouts = Payouts(
            runtime, vault, spending=spending, rules=own.digest, funds=funds, pinned=pinned
        )
        endpoints = Endpoints(runtime, vault, settings)
        engine = Engine(
            db=db,
            runtime=runtime,
            payouts=payouts,
            assets=AssetRegistry(),
            custodian=custodian,
            settings=settings.engine,
            owner="test",
            metrics=Metrics(),
            wake=woken.append,
        )
        limits = settings.limits
        calls = Buckets("quote_calls", clock, limits.quote_calls_per_s, limits.quote_calls_burst)
        quotes = Quotes(
            router, AssetRegistry(), runtime, {"acme_eu": pricer}, calls, spending, funds
        )
        context = ApiContext(
            gateway_id=runtime.ids.new("gwy"),
            settings=settings,
            batches=Batches(
                runtime, quotes, frozenset(), settings.public_url, spending, funds, pinned
            ),
            funds=funds,
            db=db,
            payouts=payouts,
            actions=Actions(
                db=db,
                runtime=runtime,
                engines={"acme_eu": engine},
                owner="test",
                lease_s=60,
                payouts=payouts,
                metrics=Metrics(),
                wake=lambda _: None,
            ),
            inbox=Inbox(
                db=db,
                runtime=runtime,
                custodians={"acme_eu": custodian},
                recorders={"acme_eu": engine.recorder},
                settings=settings.engine,
                metrics=Metrics(),
                wake=woken.append,
            ),
            calling=Calling(runtime.clock),
            file_checks=file_checks,
            quotes=quotes,
            endpoints=endpoints,
            replays=Replays(runtime, endpoints),
            tester=Deliveries(
                db=db,
                runtime=runtime,
                endpoints=endpoints,
                sender=Sender(to_endpoints, settings.webhooks, runtime),
                settings=settings.webhooks,
                engine=settings.engine,
                metrics=Metrics(),
                gateway_id="gw_test",
                share=Share(runtime.clock, Calling(runtime.clock)),
            ),
            router=router,
            custodians={"acme_eu": custodian},
            vault=vault,
            runtime=runtime,
            metrics=Metrics(),
            wake=woken.append,
            ready=lambda: True,
            state_file=state_file,
            rules=own,
        )
        made = Api(context, clock, custodian, settings.database)
        made.engine = engine
        made.woken = woken
        made.pricer = pricer
        made.http = http
        made.app = add_panel(create_api(context))
        server = _Server(
            uvicorn.Config(
                made.app,
                host="127.0.0.1",
                port=0,
                log_config=None,
                lifespan="off",
                proxy_headers=False,
                # A test that fails while a request waits fails, and does not hang.
                timeout_graceful_shutdown=5,
            )
        )
        made.server = server
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.001)
        made.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        try:
            yield made
        finally:
            server.stop.set()
            await serving


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    """A running API."""
    async with open_api(settings) as made:
        yield made
