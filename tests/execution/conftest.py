"""The recorder on a real SQLite file, with a clock that the test sets."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.adapter import Absent, BatchReport, Capabilities, KeySemantics, Report
from gateway.assets import AssetRegistry
from gateway.caller import Caller
from gateway.config.routes import RouteSettings
from gateway.execution.history import history_of
from gateway.execution.order import LiveOrder
from gateway.execution.proof import Evidence
from gateway.execution.record import Recorded, Recorder
from gateway.execution.state import Job, Verb
from gateway.model import Account, Payout
from gateway.payouts import Payouts
from gateway.planning import QuoteRequest
from gateway.quotes import Quotes
from gateway.routing.router import Instance, Router
from gateway.runtime import Ids, Runtime, real_runtime
from gateway.store import events, executions
from gateway.store import payouts as rows
from gateway.store.database import Database, Row, Tx
from gateway.store.postgres.database import PostgresDatabase
from gateway.vault import Vault
from tests import postgres
from tests.clock import SetClock
from tests.databases import make_database
from tests.live_rows import compared
from tests.routing.pricing import TakesEverything

CAN = Capabilities(
    frozenset({"custodian_account"}),
    one_at_a_time=True,
    keys=KeySemantics(life_s=86_400),
    call_life_s=60,
    visibility_s=30,
    polling_s=(10, 20),
)
LEASE_S = 60.0


@pytest.fixture(autouse=True)
def exact_rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compare the writer's live rows with the database after every change of every test here."""
    with compared(monkeypatch):
        yield


class Bench:
    """One custodian's recorder, and what a test needs around it."""

    def __init__(
        self, db: Database, clock: SetClock, runtime: Runtime, capabilities: Capabilities
    ) -> None:
        self.db = db
        self.clock = clock
        self.runtime = runtime
        self.capabilities = capabilities
        self.payouts = Payouts(runtime, Vault(bytes(32), runtime.ids))
        self.recorder = Recorder(runtime, self.payouts, "acme", capabilities)
        self.caller = Caller("acme-org", "live", "key_1")
        route = RouteSettings(
            destination="custodian_account", custodian="acme", account=Account(id="A", type="VAULT")
        )
        router = Router([Instance("acme", frozenset({"live"}), capabilities)], [route])
        self.assets = AssetRegistry()
        self.quotes = Quotes(router, self.assets, runtime, {"acme": TakesEverything()})
        #: the account that calls and looks are made at
        self.fingerprint = "acme/A"
        #: what a payout of `accept` pays
        self.amount = Decimal(5)

    async def accept(self, amount: str = "5") -> str:
        """Quote and accept a payout; return its id."""
        quote_id = await self.quote(amount)
        return (await self.db.run(self.payouts.accept, self.caller, quote_id)).id

    async def quote(self, amount: str = "5") -> str:
        """Store a quote; return its id."""
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
        return quote.quote_id

    def without_call_life(self) -> Capabilities:
        """Return the capabilities of a custodian that accepts a signed request for ever."""
        return replace(self.capabilities, call_life_s=None)

    def repeating(self) -> Capabilities:
        """Return the capabilities of a custodian whose keys make every repeat harmless."""
        keys = replace(self.capabilities.keys, repeat_is_safe=True)
        return replace(self.capabilities, keys=keys)

    async def claim(self, limit: int = 10) -> list[Job | Recorded]:
        """Claim what is due, and begin work on it."""
        until = self.runtime.timeline.now() + round(LEASE_S * 1e6)
        return await self.db.run(self.recorder.claim, "test", until, limit)

    async def begin(self) -> Job:
        """Claim and begin the one execution that is due."""
        (job,) = await self.claim()
        if isinstance(job, Recorded) and not job.lost and not job.ended:
            # A takeover was recorded: what follows is due at once.
            (job,) = await self.claim()
        assert isinstance(job, Job)
        return job

    def order(self, job: Job) -> LiveOrder:
        """Return the order that the adapter would see."""

        async def no_check() -> None:
            pass

        return LiveOrder(
            db=self.db,
            runtime=self.runtime,
            job=job,
            lease_s=LEASE_S,
            assets=self.assets,
            capabilities=self.capabilities,
            fingerprint=self.fingerprint,
            before_mark=no_check,
        )

    async def record(
        self, job: Job, verb: Verb, outcome: Any, *, order: LiveOrder | None = None
    ) -> Recorded:
        """Record an outcome whose request starts now."""
        if isinstance(outcome, Report):
            outcome = BatchReport(outcome.custodian_word, {job.items[0].id: outcome})
        return await self.db.run(
            self.recorder.record,
            job,
            verb,
            outcome,
            started=self.clock.moment(),
            fingerprint=self.fingerprint,
            seen=job.history.last_number,
            call=None if order is None else order.call,
        )

    async def submitted(
        self, job: Job, outcome: Any, *, moved: bool = False, verb: Verb = Verb.SUBMIT
    ) -> Recorded:
        """Record a submit; with `moved` its mark is set first."""
        order = self.order(job)
        if moved:
            await order.moving()
        return await self.record(job, verb, outcome, order=order)

    async def confirmed(self, job: Job, outcome: Any, *, moved: bool = False) -> Recorded:
        """Record a confirm."""
        return await self.submitted(job, outcome, moved=moved, verb=Verb.CONFIRM)

    async def fetched(self, job: Job, outcome: Any) -> Recorded:
        """Record a fetch."""
        return await self.record(job, Verb.FETCH, outcome)

    async def prove_absence(self) -> None:
        """Advance the clock and look until absence is proven; the payout is due at once then."""
        for seconds in (70, 25, 25):
            await self.clock.advance(seconds)
            await self.fetched(await self.begin(), Absent(""))

    async def payout(self, payout_id: str) -> Payout:
        """Return a payout."""
        found = await self.db.read(rows.find_payout, payout_id)
        assert found is not None
        return found

    async def execution(self, payout_id: str) -> Row:
        """Return the newest execution's row."""
        return (await self.db.read(executions.executions_of, payout_id))[-1]

    async def write(self, payout_id: str, **columns: object) -> None:
        """Write columns of a payout's open execution, as an older program may have left them."""

        async def put(tx: Tx) -> None:
            row = await executions.open_execution_of(tx, payout_id)
            assert row is not None
            await executions.update_execution(tx, row["id"], **columns)

        await self.db.run(put)

    async def evidence(self, payout_id: str) -> tuple[Evidence, ...]:
        """Return the rows of evidence of a payout's newest execution."""
        execution = await self.execution(payout_id)
        found = await self.db.read(history_of, execution, self.clock.moment())
        return found.rows

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
        row = await self.db.read(executions.open_execution_of, payout_id)
        assert row is not None
        return float(row["due_at"] - self.runtime.timeline.now()) / 1e6


@pytest.fixture
def capabilities() -> Capabilities:
    """What the custodian can do; a test module may override it."""
    return CAN


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with every migration, to be copied: migrating takes longer than a test."""
    return make_database(tmp_path_factory.mktemp("empty") / "empty.db")


@pytest.fixture
async def bench(
    tmp_path: Path, capabilities: Capabilities, empty_database: Path, store: str
) -> AsyncIterator[Bench]:
    """A bench on a fresh database."""
    clock = SetClock()
    runtime = replace(real_runtime(), clock=clock, ids=Ids(clock))
    if store == "postgresql":
        with postgres.fresh() as server:
            async with PostgresDatabase(server) as db:
                yield Bench(db, clock, runtime, capabilities)
        return
    path = tmp_path / "bench.db"
    shutil.copy(empty_database, path)
    async with Database(path) as db:
        yield Bench(db, clock, runtime, capabilities)
