"""The engine's store functions on a real SQLite file, with a clock that the test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.adapter import Capabilities, KeySemantics, Report
from gateway.assets import AssetRegistry
from gateway.config import RouteSettings
from gateway.keys import Caller
from gateway.model import Account, Payout
from gateway.payouts import Payouts
from gateway.quotes import QuoteRequest, Quotes
from gateway.router import Instance, Router
from gateway.runtime import Ids, Runtime, real_runtime
from gateway.store import events, migrate, work
from gateway.store import payouts as rows
from gateway.store.database import Database, Row
from gateway.store.rows import to_us
from gateway.vault import Vault
from gateway.worker.order import Lease, LiveOrder
from gateway.worker.settle import Job, Settled, Settlement
from tests.clock import SetClock
from tests.pricing import TakesEverything

CAN = Capabilities(
    frozenset({"custodian_account"}),
    one_at_a_time=True,
    keys=KeySemantics(life_s=86_400),
    call_life_s=60,
    visibility_s=30,
    polling_s=(10, 20),
)
LEASE_S = 60.0


class Bench:
    """One custodian's settlement, and what a test needs around it."""

    def __init__(
        self, db: Database, clock: SetClock, runtime: Runtime, capabilities: Capabilities
    ) -> None:
        self.db = db
        self.clock = clock
        self.runtime = runtime
        self.payouts = Payouts(runtime, Vault(bytes(32), runtime.ids))
        self.settlement = Settlement(runtime, self.payouts, "acme", capabilities)
        self.caller = Caller("acme-org", "live", "key_1")
        route = RouteSettings(
            destination="custodian_account", custodian="acme", account=Account(id="A", type="VAULT")
        )
        router = Router([Instance("acme", frozenset({"live"}), capabilities)], [route])
        self.quotes = Quotes(router, AssetRegistry(), runtime, {"acme": TakesEverything()})

    async def accept(self, amount: str = "5") -> str:
        """Quote and accept a payout; return its id."""
        request = QuoteRequest.model_validate(
            {
                "external_ref": "u",
                "destination": {"type": "custodian_account", "account_type": "X", "id": "p"},
                "asset": "USDC",
                "amount": Decimal(amount),
            }
        )
        quote, account = self.quotes.draft(self.caller, request)
        await self.db.run(self.quotes.store, self.caller, quote, account)
        return (await self.db.run(self.payouts.accept, self.caller, quote.quote_id)).id

    async def claim(self, limit: int = 10) -> list[Lease]:
        """Lease what is due."""
        now = self.clock.now()
        until = to_us(now + timedelta(seconds=LEASE_S))
        claimed = await self.db.run(work.claim_work, "acme", "test", to_us(now), until, limit)
        return [Lease(row["payout_id"], row["lease_token"], row["due_at"]) for row in claimed]

    async def begin(self) -> Job:
        """Claim and begin the one payout that is due."""
        (lease,) = await self.claim()
        job = await self.db.run(self.settlement.begin, lease)
        assert isinstance(job, Job)
        return job

    def order(self, job: Job) -> LiveOrder:
        """Return the order that the adapter would see."""
        return LiveOrder(
            db=self.db,
            runtime=self.runtime,
            lease=job.lease,
            lease_s=LEASE_S,
            payout=job.payout,
            attempt=job.attempt,
            notes=job.notes,
            decimals=6,
        )

    async def submitted(
        self, job: Job, outcome: Report | Exception, *, moved: bool = False
    ) -> Settled:
        """Settle a submit; with `moved` its mark is set first."""
        if moved:
            await self.order(job).moving()
        return await self.db.run(self.settlement.submitted, job, moved_now=moved, outcome=outcome)

    async def fetched(self, job: Job, outcome: Any) -> Settled:
        """Settle a fetch."""
        return await self.db.run(self.settlement.fetched, job, outcome)

    async def payout(self, payout_id: str) -> Payout:
        """Return a payout."""
        found = await self.db.read(rows.find_payout, payout_id)
        assert found is not None
        return found

    async def attempt(self, payout_id: str) -> Row:
        """Return the newest attempt's row."""
        found = await self.db.read(work.last_attempt, payout_id)
        assert found is not None
        return found

    async def attention(self, payout_id: str) -> list[str]:
        """Return the codes on the operator's list."""
        return [row["code"] for row in await self.db.read(rows.attention_of, payout_id)]

    async def events(self, payout_id: str) -> list[tuple[int, str]]:
        """Return sequence and type of a payout's events."""
        return [
            (row["sequence"], row["type"])
            for row in await self.db.read(events.events_of, payout_id)
        ]

    async def due_in(self, payout_id: str) -> float:
        """Return in how many seconds the next look is due."""
        row = await self.db.read(work.work_row, payout_id)
        assert row is not None
        return float(row["due_at"] - to_us(self.clock.now())) / 1e6


@pytest.fixture
def capabilities() -> Capabilities:
    """What the custodian can do; a test module may override it."""
    return CAN


@pytest.fixture
async def bench(tmp_path: Path, capabilities: Capabilities) -> AsyncIterator[Bench]:
    """A bench on a fresh database."""
    path = tmp_path / "bench.db"
    migrate.prepare(path)
    clock = SetClock()
    runtime = replace(real_runtime(), clock=clock, ids=Ids(clock))
    async with Database(path) as db:
        yield Bench(db, clock, runtime, capabilities)
