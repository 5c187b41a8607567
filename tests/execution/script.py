"""A custodian that says what the test wrote down, and an engine that works on one execution there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import text

from gateway.adapter import (
    Absent,
    BatchReport,
    CannotLook,
    Capabilities,
    Failure,
    Report,
    SubStatus,
)
from gateway.config.settings import EngineSettings
from gateway.execution.engine import Custodian, Engine
from gateway.execution.order import LiveOrder
from gateway.execution.proof import Evidence
from gateway.execution.record import Recorded
from gateway.execution.state import Job
from gateway.metrics import Metrics
from gateway.model import Account
from gateway.store import batches, executions
from gateway.store import payouts as rows
from gateway.store.database import Query, Row, Tx
from gateway.store.rows import to_us
from tests.execution.conftest import LEASE_S, Bench

ACCOUNT = '{"id":"A","type":"VAULT"}'
Outcome = BatchReport | Absent | CannotLook | Exception
#: What is said of an order; the last line of a script is said again and again.
Line = Callable[[LiveOrder], Outcome]


@dataclass
class Script:
    """A custodian instance that says what the test wrote down, in its order."""

    capabilities: Capabilities
    name: str = "acme"
    #: whether `submit` sets its mark before it answers
    moves: bool = True
    #: the account that calls and looks are made at
    account: str = "acme/A"
    submits: list[Line] = field(default_factory=list)
    looks: list[Line] = field(default_factory=list)
    confirms: list[Line] = field(default_factory=list)
    cancels: list[Line] = field(default_factory=list)
    #: the verbs that were called
    story: list[str] = field(default_factory=list)
    #: the payouts of each moving call that was made
    moved: list[list[str]] = field(default_factory=list)
    #: the keys of these calls
    keys: list[str] = field(default_factory=list)

    def fingerprint(self, account: Account, *, livemode: bool) -> str:
        """Name the account."""
        return self.account

    async def check_clock(self) -> None:
        """Trust the clock."""

    async def submit(self, order: LiveOrder) -> BatchReport:
        """Set the mark and answer."""
        self.story.append("submit")
        if self.moves:
            await self.move(order)
        return cast("BatchReport", _say(self.submits, order))

    async def fetch(self, order: LiveOrder) -> BatchReport | Absent | CannotLook:
        """Answer a look."""
        self.story.append("look")
        return _say(self.looks, order)

    async def confirm(self, order: LiveOrder, answer: Mapping[str, Any]) -> BatchReport:
        """Set the mark and answer."""
        self.story.append("confirm")
        if self.moves:
            await self.move(order)
        return cast("BatchReport", _say(self.confirms, order))

    async def cancel(self, order: LiveOrder) -> BatchReport:
        """Answer a cancel."""
        self.story.append("cancel")
        return cast("BatchReport", _say(self.cancels, order))

    async def move(self, order: LiveOrder) -> None:
        """Make a moving call: its mark is durable, and the request leaves."""
        await order.moving()
        self.moved.append([each.payout_id for each in order.items])
        self.keys.append(order.key("create"))


def _say(lines: list[Line], order: LiveOrder) -> BatchReport | Absent | CannotLook:
    said = (lines.pop(0) if len(lines) > 1 else lines[0])(order)
    if isinstance(said, Exception):
        raise said
    return said


def all_are(sub_status: SubStatus, failure: Failure | None = None, **members: Any) -> Line:
    """Say the same of every item."""
    return lambda order: BatchReport(
        sub_status.value.upper(),
        {
            each.payout_id: Report(sub_status, "W", failure=failure, **members)
            for each in order.items
        },
    )


def raises(error: Exception) -> Line:
    """Fail."""
    return lambda _: error


def says(outcome: Outcome) -> Line:
    """Say this of whatever order."""
    return lambda _: outcome


TAKEN = all_are(SubStatus.SUBMITTED)
DONE = all_are(SubStatus.DELIVERED)
ABSENT = says(Absent("404"))


class Desk:
    """One execution of some payouts, and the engines that work on it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.script = Script(bench.capabilities)
        self.custodian: Custodian = self.script
        self.ids: list[str] = []
        self.engine = self.new_engine("one")

    def new_engine(self, owner: str) -> Engine:
        """Return an engine, as another process would have it."""
        return Engine(
            db=self.bench.db,
            runtime=self.bench.runtime,
            payouts=self.bench.payouts,
            assets=self.bench.assets,
            custodian=self.custodian,
            settings=EngineSettings(lease_s=LEASE_S),
            owner=owner,
            metrics=Metrics(),
            wake=lambda _: None,
        )

    async def open(self, count: int) -> None:
        """Open the execution of one payout, or of many as one set of a batch."""
        self.ids = [await self.bench.accept() for _ in range(count)]
        if count > 1:
            await self.bench.db.run(as_set, self.bench, self.ids, "bat_1")

    async def claim(self, engine: Engine | None = None) -> list[Job | Recorded]:
        """Claim what is due."""
        return await (engine or self.engine)._claim(10)

    async def turn(self, engine: Engine | None = None) -> bool:
        """Claim what is due and work on it once; whether there was something."""
        engine = engine or self.engine
        begun = await self.claim(engine)
        for each in begun:
            if isinstance(each, Job):
                await engine._work(each)
            else:
                await engine.tell(each)
        return bool(begun)

    @asynccontextmanager
    async def running(self, engine: Engine | None = None) -> AsyncIterator[None]:
        """Let the engine's own loop work meanwhile."""
        engine = engine or self.engine
        loop = asyncio.create_task(engine.run())
        try:
            yield
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            await engine.finish(5)

    async def until(self, *words: str) -> None:
        """Wait until the items stand like this; no time passes by the clock that the test sets."""
        async with asyncio.timeout(20):
            while set(await self.stand()) != set(words):
                await asyncio.sleep(0.005)

    async def turns(self, count: int, every_s: float, engine: Engine | None = None) -> None:
        """Work so many times, with time in between."""
        for _ in range(count):
            await self.bench.clock.advance(every_s)
            await self.turn(engine)

    async def prove_absence(self) -> None:
        """Look until absence is proven; the script's looks must say so."""
        await self.turns(3, 45)

    async def row(self) -> Row:
        """Return the newest execution's row."""
        return await self.bench.execution(self.ids[-1])

    async def stand(self) -> list[str]:
        """Return the sub-status of each item."""
        return [(await self.bench.payout(each)).sub_status.value for each in self.ids]

    async def rows(self) -> tuple[Evidence, ...]:
        """Return the evidence of the newest execution."""
        return await self.bench.evidence(self.ids[-1])

    async def due_in(self) -> float:
        """Return in how many seconds the next look is due."""
        return await self.bench.due_in(self.ids[-1])

    async def attention(self) -> list[str]:
        """Return the codes on the operator's list, of all items."""
        found = [await self.bench.attention(each) for each in self.ids]
        return sorted({code for codes in found for code in codes})


async def as_set(tx: Tx, bench: Bench, ids: list[str], batch_id: str) -> None:
    """Store function: make payouts the items of a batch that was handed over as one set."""
    moment = bench.clock.moment()
    now = to_us(bench.clock.now())
    await batches.add_batch(
        tx,
        id=batch_id,
        org="acme-org",
        mode="live",
        custodian="acme",
        account=ACCOUNT,
        native=1,
        init_method="api",
        reference=None,
        metadata="{}",
        state="verifying",
        items=len(ids),
        worked_off=len(ids) - 1,
        failure=None,
        created_at=now,
        updated_at=now,
        expires_at=now,
        executed_at=now,
        cancel_at=None,
        funds_until=None,
        finalized_at=None,
    )
    for position, each in enumerate(ids):
        # Items of a batch have no execution of their own.
        own = await executions.open_execution_of(tx, each)
        assert own is not None
        await tx.all(_DROP_ITEMS, execution_id=own["id"])
        await tx.all(_DROP, execution_id=own["id"])
        await rows.update_payout(tx, each, batch_id=batch_id, batch_position=position)
    await executions.open_execution(
        tx,
        execution_id=bench.runtime.ids.new("exe"),
        custodian="acme",
        account=ACCOUNT,
        items=ids,
        at=moment,
        due=bench.runtime.timeline.now(),
        batch_id=batch_id,
        rank=1,
        fresh=True,
    )


_DROP_ITEMS = Query(text("DELETE FROM execution_items WHERE execution_id = :execution_id"))
_DROP = Query(text("DELETE FROM executions WHERE id = :execution_id"))
