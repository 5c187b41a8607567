"""Reviewer's reproduction (red): after restore and adopt, a cancel of an off-ramp says "never created".

Real engine, adapter, twin and `Adoption`: nothing that a person does is wrong here.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from adapters.dfns.adapter import Dfns
from adapters.dfns.settings import DfnsSettings
from adapters.dfns.twin.world import EUR_BANK_ACCOUNT, EVM_WALLET
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
from tests.adapters.dfns.organisation import open_organisation
from tests.adapters.dfns.rig import WALLETS
from tests.execution.conftest import LEASE_S, Bench
from tests.pricing import TakesEverything


@pytest.fixture
def capabilities() -> Capabilities:
    """As the adapter declares."""
    return Dfns.capabilities


class Desk:
    """An engine for Dfns on a bench."""

    def __init__(self, bench: Bench, adapter: Dfns) -> None:
        self.bench = bench
        self.instance = CustodianInstance(
            "acme",
            "dfns",
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
            destination="bank_account",
            custodian="acme",
            account=Account(id=EVM_WALLET, type="WALLET"),
        )
        router = Router([Instance("acme", frozenset({"live"}), adapter.capabilities)], [route])
        bench.quotes = Quotes(router, bench.assets, bench.runtime, {"acme": TakesEverything()})

    async def accept(self, amount: str) -> str:
        """Accept an off-ramp payout."""
        request = QuoteRequest.model_validate(
            {
                "external_ref": "u",
                "destination": {
                    "type": "bank_account",
                    "payment_instructions_id": EUR_BANK_ACCOUNT,
                    "country": "DE",
                    "fiat_currency": "EUR",
                    "purpose": "salary payment",
                },
                "asset": "USDC",
                "network_hint": "EthereumSepolia",
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

    async def cancel(self, payout_id: str) -> None:
        """The partner cancels."""
        acting = Actions(
            db=self.bench.db,
            runtime=self.bench.runtime,
            engines={"acme": self.engine},
            owner="api",
            lease_s=LEASE_S,
        )
        await acting.cancel(await self.bench.payout(payout_id))


async def test_a_restored_off_ramp_that_was_paid_is_not_canceled_as_unpaid(
    bench: Bench, tmp_path: Path
) -> None:
    """S2, N2: backup before create; created, confirmed, paid; restore; adopt; the partner cancels.

    The adapter says "canceled, nothing moved" of an order of which it remembers no payout; the lost call
    (reference `adopted`) is the only one, so that the word counts for it (`only_call`).
    """

    def base() -> float:
        return bench.clock.now().timestamp()

    async with open_organisation(base) as org, aiohttp.ClientSession() as http:
        tools = Tools(http, bench.clock, bench.runtime.ids, offload, AssetRegistry())
        members: dict[str, Any] = {
            **org.twin.credentials(org.root),
            "base_url": org.root,
            "wallets": WALLETS,
            "timeout_s": 5,
        }
        members = {name: each for name, each in members.items() if name in DfnsSettings.model_fields}
        adapter = Dfns(DfnsSettings.model_validate(members), tools)
        desk = Desk(bench, adapter)
        payout_id = await desk.accept("43")
        copy = tmp_path / "copy.db"
        with closing(sqlite3.connect(bench.db._path)) as now, closing(sqlite3.connect(copy)) as then:
            now.backup(then)
        for _ in range(12):
            await desk.turn()
            await bench.clock.advance(60)
            org.twin.clock.advance(100)
        assert len(await org.ledger()) == 1, (await bench.payout(payout_id)).sub_status
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
            with suppress(Refused):
                await restored.cancel(payout_id)
            payout = await again.payout(payout_id)
            failure = payout.failure
            assert failure is None or failure.funds_moved is not FundsMoved.NO, (
                payout.status,
                payout.sub_status,
                failure,
            )
