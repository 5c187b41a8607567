"""Reviewer's reproduction (red): after restore and adopt, looks by an old reference "prove" absence.

The card rail with the passcode by the caller: real engine, adapter, twin and `Adoption`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from adapters.card_passcode.adapter import CardPasscode
from adapters.card_passcode.settings import CardPasscodeSettings
from gateway.adapter import Capabilities, FundsMoved, Tools
from gateway.adoption import Adoption
from gateway.assets import AssetRegistry
from gateway.config import EngineSettings, RouteSettings
from gateway.custodians.dates import Dates
from gateway.custodians.instance import CustodianInstance
from gateway.errors import Refused
from gateway.execution.actions import Actions
from gateway.execution.engine import Engine
from gateway.execution.state import Job
from gateway.metrics import Metrics
from gateway.model import Account
from gateway.quotes import QuoteRequest, Quotes
from gateway.router import Instance, Router
from gateway.runtime import offload
from gateway.store.database import Database
from gateway.store.state_file import StateFile
from tests.adapters.card_passcode.merchant import DEVICE, Merchant, open_merchant
from tests.execution.conftest import LEASE_S, Bench
from tests.pricing import TakesEverything


@pytest.fixture
def capabilities() -> Capabilities:
    """As the adapter declares where a person gives the passcode."""
    return CardPasscode.capabilities


class Desk:
    """An engine for the card rail on a bench."""

    def __init__(self, bench: Bench, adapter: CardPasscode) -> None:
        self.bench = bench
        self.instance = CustodianInstance(
            "acme",
            "card_passcode",
            adapter,
            adapter.tools,
            Metrics(),
            30,
            fingerprint=lambda *parts: "/".join(parts),
            dates=Dates(bench.clock),
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
            destination="payout_account", custodian="acme", account=Account(id="3", type="WALLET")
        )
        router = Router([Instance("acme", frozenset({"live"}), adapter.capabilities)], [route])
        bench.quotes = Quotes(router, bench.assets, bench.runtime, {"acme": TakesEverything()})

    async def accept(self, amount: str) -> str:
        """Accept a payout to payout account 18."""
        request = QuoteRequest.model_validate(
            {
                "external_ref": "u",
                "destination": {"type": "payout_account", "payout_account_id": "18"},
                "asset": "USD",
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

    async def confirm(self, payout_id: str, code: str) -> None:
        """Answer what the payout asks for."""
        payout = await self.bench.payout(payout_id)
        assert payout.requires_action is not None
        acting = Actions(
            db=self.bench.db,
            runtime=self.bench.runtime,
            engines={"acme": self.engine},
            owner="api",
            lease_s=LEASE_S,
        )
        answer = {"passcode": {"token": {"code": code}}}
        await acting.confirm(payout, payout.requires_action.number, answer)


@pytest.fixture
async def merchant(bench: Bench) -> AsyncIterator[Merchant]:
    """A twin by the bench's clock."""
    async with open_merchant(lambda: bench.clock.now().timestamp()) as opened:
        yield opened


async def test_a_restored_payout_that_was_paid_does_not_expire_as_unpaid(
    bench: Bench, merchant: Merchant, tmp_path: Path
) -> None:
    """S2: wrong code (reference 1); backup; right code (reference 2), paid; restore; adopt; a day passes.

    The lost call was made under a reference that the restored row does not look by. That reference 1 is
    absent proves nothing of it, and still `closed` says so: the payout ends by itself as failed/no.
    """
    async with aiohttp.ClientSession() as http:
        tools = Tools(http, bench.clock, bench.runtime.ids, offload, AssetRegistry())
        members = {
            **merchant.credentials,
            "base_url": merchant.root + "/v1",
            "timeout_s": 5,
            "device": DEVICE,
            "passcode_mode": "caller",
        }
        members = {
            name: each
            for name, each in members.items()
            if name in CardPasscodeSettings.model_fields and name != "passcode"
        }
        adapter = CardPasscode(CardPasscodeSettings.model_validate(members), tools)
        desk = Desk(bench, adapter)
        payout_id = await desk.accept("75.00")
        await desk.turn()
        assert (await bench.payout(payout_id)).sub_status == "requires_action"
        with pytest.raises(Refused, match="wrong"):
            await desk.confirm(payout_id, "wrong")
        copy = tmp_path / "copy.db"
        with closing(sqlite3.connect(bench.db._path)) as now, closing(sqlite3.connect(copy)) as then:
            now.backup(then)
        await desk.confirm(payout_id, merchant.passcode)
        merchant.twin.clock.advance(1000)
        assert len(await merchant.ledger()) == 1, "it was paid"
        # Restored, adopted, and left alone.
        async with Database(copy) as db:
            again = Bench(db, bench.clock, bench.runtime, adapter.capabilities)
            restored = Desk(again, adapter)
            state_file = StateFile(tmp_path / "state", copy, bench.clock.moment().clock_id)
            state_file.rewrite(10)
            adoption = Adoption(
                db=db,
                runtime=bench.runtime,
                payouts=again.payouts,
                custodians={"acme": restored.instance},
                state_file=state_file,
                operator="root",
            )
            await adoption.run(bench.clock.moment().wall)
            for _ in range(60):
                await bench.clock.advance(1800)
                await restored.turn()
            payout = await again.payout(payout_id)
            failure = payout.failure
            assert failure is None or failure.funds_moved is not FundsMoved.NO, (
                payout.status,
                payout.sub_status,
                failure,
            )
