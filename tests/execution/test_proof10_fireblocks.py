"""Reviewer's reproductions (red): a set that waits for its account at Fireblocks looks like one never executed.

The real engine, the real adapter and the twin, all by the clock of the test. The account is busy with a
payout that was begun outside the gateway (the vendor's console, another API user): protocol notes, §4.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from adapters.fireblocks.adapter import Fireblocks
from adapters.fireblocks.settings import FireblocksSettings
from gateway.adapter import Capabilities, FundsMoved, Tools
from gateway.assets import AssetRegistry
from gateway.config import EngineSettings, RouteSettings
from gateway.custodians.dates import Dates
from gateway.custodians.instance import CustodianInstance
from gateway.errors import Refused
from gateway.execution.actions import Actions
from gateway.execution.engine import Engine
from gateway.execution.operator import Resolution, resolve
from gateway.execution.proof import proof
from gateway.execution.state import Job
from gateway.metrics import Metrics
from gateway.model import Account
from gateway.quotes import QuoteRequest, Quotes
from gateway.router import Instance, Router
from gateway.runtime import offload
from gateway.store import executions
from tests.adapters.fireblocks.rig import ASSETS
from tests.adapters.fireblocks.workspace import EXTERNAL_WALLET, Workspace, open_workspace
from tests.execution.conftest import LEASE_S, Bench
from tests.execution.script import as_set
from tests.pricing import TakesEverything

CAN = Fireblocks.capabilities


@pytest.fixture
def capabilities() -> Capabilities:
    """As the adapter declares."""
    return CAN


class Skew(Dates):
    """The twin's server dates its answers by the machine's clock; the test's clock is right."""

    off = 0.0

    def skew_s(self) -> float | None:
        """Return what the test says."""
        return self.off


class Rig:
    """An engine for Fireblocks on the bench, and the twin."""

    def __init__(self, bench: Bench, space: Workspace, adapter: Fireblocks, dates: Skew) -> None:
        self.bench, self.space, self.dates = bench, space, dates
        self.instance = CustodianInstance(
            "acme",
            "fireblocks",
            adapter,
            adapter.tools,
            Metrics(),
            30,
            fingerprint=lambda *parts: "/".join(parts),
            dates=dates,
        )
        self.engine = Engine(
            db=bench.db,
            runtime=bench.runtime,
            payouts=bench.payouts,
            assets=bench.assets,
            custodian=self.instance,
            settings=EngineSettings(lease_s=LEASE_S),
            owner="one",
            metrics=Metrics(),
            wake=lambda _: None,
        )
        route = RouteSettings(
            destination="custodian_account",
            custodian="acme",
            account=Account(id="EX_SUB3", type="EXCHANGE_ACCOUNT"),
        )
        router = Router([Instance("acme", frozenset({"live"}), CAN)], [route])
        bench.quotes = Quotes(router, bench.assets, bench.runtime, {"acme": TakesEverything()})

    async def accept(self, amount: str) -> str:
        """Accept a payout to the merchant's wallet."""
        request = QuoteRequest.model_validate(
            {
                "external_ref": "u",
                "destination": {
                    "type": "custodian_account",
                    "account_type": "EXTERNAL_WALLET",
                    "id": EXTERNAL_WALLET,
                },
                "asset": "USDC",
                "amount": Decimal(amount),
            }
        )
        bench = self.bench
        quote, account = bench.quotes.draft(bench.caller, request)
        await bench.db.run(bench.quotes.store, bench.caller, quote, account)
        return (await bench.db.run(bench.payouts.accept, bench.caller, quote.quote_id)).id

    async def turn(self) -> None:
        """Claim what is due and work on it once."""
        for each in await self.engine._claim(10):
            if isinstance(each, Job):
                await self.engine._work(each)
            else:
                await self.engine.tell(each)

    async def turns(self, count: int, every_s: float) -> None:
        """Work so many times, with time in between."""
        for _ in range(count):
            await self.advance(every_s)
            await self.turn()

    async def advance(self, seconds: float) -> None:
        """Let time pass on both sides."""
        await self.bench.clock.advance(seconds)
        self.space.twin.clock.advance(0)

    async def busy_account(self) -> None:
        """Somebody else's payout waits for funds, and keeps the account until midnight."""
        await self.space.started("1.000401")

    async def the_other_one_ends(self) -> None:
        """The funds arrive; then the queue of the account is worked off."""
        for _ in range(40):
            await self.space.steer("PUT", "balances", None) if False else None
            self.space.twin.clock.advance(100)

    @property
    def executes(self) -> int:
        """How many executes the twin has had."""
        return sum(each.path.endswith("/actions/execute") for each in self.space.twin.calls)


@pytest.fixture
async def rig(bench: Bench) -> AsyncIterator[Rig]:
    """A rig."""

    def base() -> float:
        return bench.clock.now().timestamp()

    async with open_workspace(base) as space, aiohttp.ClientSession() as http:
        keys = space.twin.credentials(space.root)
        tools = Tools(http, bench.clock, bench.runtime.ids, offload, AssetRegistry())
        settings = FireblocksSettings.model_validate(
            {
                "base_url": space.root + "/v1",
                "assets": ASSETS,
                "timeout_s": 5,
                **{name: keys[name] for name in ("api_key", "private_key", "jwks_url")},
            }
        )
        yield Rig(bench, space, Fireblocks(settings, tools), Skew(bench.clock))


async def paid(rig: Rig, amount: str) -> int:
    """Let the twin live to the next day; return how often this amount was paid."""
    for _ in range(80):
        rig.space.twin.clock.advance(1000)
    return [Decimal(each["amount"]) for each in await rig.space.ledger()].count(Decimal(amount))


async def test_the_other_item_of_a_queued_set_is_paid_once(rig: Rig) -> None:
    """D1, E3: execute arrives, its answer is lost, the set waits for the account; an item is ended by hand.

    The operator says only what is always allowed (`funds_moved: unknown`). The looks say REGISTERED:
    "absent", "proven"; the other item goes on as a new set, and both sets are worked off later.
    """
    bench = rig.bench
    await rig.busy_account()
    ids = [await rig.accept("5"), await rig.accept("7")]
    await bench.db.run(as_set, bench, ids, "bat_1")
    await rig.space.fault("execute", "lose_reply")
    await rig.turn()
    assert (await bench.execution(ids[1]))["state"] == "unknown"
    found = Resolution(delivered=False, evidence="seen", funds_moved=FundsMoved.UNKNOWN)
    await bench.db.run(resolve, rig.engine.recorder, bench.runtime, ids[0], found, lag=True)
    await rig.turns(12, 40)
    assert await paid(rig, "7") == 1


async def test_a_queued_payout_is_not_called_unpaid_by_an_operator(rig: Rig) -> None:
    """E3, O1: `resolve --funds-moved no` is allowed at once by "proof", without a look at the console."""
    bench = rig.bench
    await rig.busy_account()
    payout_id = await rig.accept("7")
    await rig.space.fault("execute", "lose_reply")
    await rig.turn()
    rig.dates.off = 60.0  # no execute is made meanwhile: our clock is wrong
    await rig.turns(12, 40)
    await rig.advance(LEASE_S)
    found = Resolution(delivered=False, evidence="x", funds_moved=FundsMoved.NO)
    with suppress(Exception):
        await bench.db.run(resolve, rig.engine.recorder, bench.runtime, payout_id, found, lag=True)
    payout = await bench.payout(payout_id)
    assert await paid(rig, "7") == 1
    assert payout.status != "failed", (payout.status, payout.failure)


async def test_a_queued_payout_is_not_canceled_as_unpaid(rig: Rig) -> None:
    """E3, O2: the partner cancels while the second execute is held up (clock skew, 429, 401)."""
    bench = rig.bench
    await rig.busy_account()
    payout_id = await rig.accept("7")
    await rig.space.fault("execute", "lose_reply")
    await rig.turn()
    rig.dates.off = 60.0
    await rig.turns(12, 40)
    acting = Actions(
        db=bench.db,
        runtime=bench.runtime,
        engines={"acme": rig.engine},
        owner="api",
        lease_s=LEASE_S,
    )
    with suppress(Refused):
        await acting.cancel(await bench.payout(payout_id))
    payout = await bench.payout(payout_id)
    assert await paid(rig, "7") == 1
    assert payout.status != "failed", (payout.status, payout.sub_status, payout.failure)


async def test_a_token_dated_by_a_wrong_clock_is_not_used(rig: Rig) -> None:
    """A1: the token is made while the clock is an hour ahead; it is set right; then the skew is looked at.

    (A process that is suspended between the two is enough.) The token lives an hour and more at the
    custodian; the call is stored with 90 s.
    """
    bench = rig.bench
    payout_id = await rig.accept("7")
    adapter: Any = rig.instance._adapter
    prepare = adapter._client.prepare
    made: list[str] = []

    async def prepared(method: str, path: str, *args: Any, **more: Any) -> Any:
        wrong = path.endswith("/actions/execute")
        if wrong:
            bench.clock.step(3600)
        call = await prepare(method, path, *args, **more)
        if wrong:
            made.append(call.headers["Authorization"].removeprefix("Bearer "))
            bench.clock.step(-3600)
        return call

    adapter._client.prepare = prepared
    await rig.turn()
    import jwt

    (token,) = made
    claims = jwt.decode(token, options={"verify_signature": False})
    calls = [each for each in await bench.evidence(payout_id) if each.kind == "call"]
    assert all(
        claims["exp"] - each.at.wall / 1e6 <= (each.call_life or 0) / 1e6 for each in calls
    ), f"marked with 90 s; the token lives {claims['exp'] - calls[0].at.wall / 1e6:.0f} s"


async def test_nobody_outside_is_needed_for_a_queued_set(rig: Rig) -> None:
    """As the first test; the account is busy with a payout of this gateway, which an operator ended.

    It waits for funds at Fireblocks until midnight; ended by hand (`funds_moved: unknown`, always
    allowed), it hands its turn at the account to the next one.
    """
    bench = rig.bench
    stuck = await rig.accept("1.000401")
    await rig.turn()
    await bench.clock.advance(LEASE_S)
    unknown = Resolution(delivered=False, evidence="seen", funds_moved=FundsMoved.UNKNOWN)
    await bench.db.run(resolve, rig.engine.recorder, bench.runtime, stuck, unknown, lag=True)
    ids = [await rig.accept("5"), await rig.accept("7")]
    await bench.db.run(as_set, bench, ids, "bat_1")
    await rig.space.fault("execute", "lose_reply")
    await rig.turn()
    assert (await bench.execution(ids[1]))["state"] == "unknown"
    await bench.db.run(resolve, rig.engine.recorder, bench.runtime, ids[0], unknown, lag=True)
    await rig.turns(12, 40)
    assert await paid(rig, "7") == 1
