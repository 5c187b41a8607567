"""Breaker open at execution: nothing is prepared or marked, nothing is said of an outcome, looks go on."""

from __future__ import annotations

import pytest

from gateway.adapter import BatchReport, Capabilities, OutcomeUnknown
from gateway.config.settings import EngineSettings
from gateway.custodians.breaker import Breaker
from gateway.execution.engine import Engine
from gateway.execution.order import LiveOrder
from gateway.execution.proof import Kind
from gateway.metrics import Metrics
from tests.execution.conftest import LEASE_S, Bench
from tests.execution.script import DONE, TAKEN, Desk, Script, raises
from tests.execution.test_engine import CAN

OPEN_S = 30.0


@pytest.fixture
def capabilities() -> Capabilities:
    """A custodian whose keys say nothing about repeats."""
    return CAN


class Watched(Desk):
    """A desk whose engine asks the breaker of its custodian."""

    def __init__(self, bench: Bench, script: Script | None = None) -> None:
        self.breaker = Breaker(bench.clock, faults=1, open_s=OPEN_S)
        super().__init__(bench)
        if script is not None:
            self.script = self.custodian = script
        self.engine = Engine(
            db=bench.db,
            runtime=bench.runtime,
            payouts=bench.payouts,
            assets=bench.assets,
            custodian=self.custodian,
            settings=EngineSettings(lease_s=LEASE_S),
            owner="one",
            metrics=Metrics(),
            wake=lambda _: None,
            health=self.breaker,
        )


async def test_nothing_is_prepared_while_it_is_open(bench: Bench) -> None:
    """The adapter is not called, no call is marked, and the payout waits until a read may decide."""
    desk = Watched(bench)
    await desk.open(1)
    desk.breaker.fault("unreachable")
    await desk.turn()
    assert desk.script.story == []
    assert await desk.rows() == ()
    payout = await bench.payout(desk.ids[0])
    assert (payout.status, payout.failure) == ("pending", None)
    assert OPEN_S - 1 <= await desk.due_in() <= OPEN_S + 1
    # Half open: a read decides, no payout does.
    await desk.turns(1, OPEN_S + 1)
    assert desk.script.story == []
    desk.breaker.answered()
    desk.script.submits = [TAKEN]
    await desk.turns(1, 600)
    assert desk.script.story == ["submit"]
    assert await desk.stand() == ["submitted"]


async def test_a_breaker_that_opens_before_the_mark_refuses_it(bench: Bench) -> None:
    """Between the preparation and the call: not sent, and the custodian hears nothing of it."""

    class Falls(Script):
        async def submit(self, order: LiveOrder) -> BatchReport:
            desk.breaker.fault("failing")
            return await super().submit(order)

    script = Falls(bench.capabilities, submits=[TAKEN])
    desk = Watched(bench, script)
    await desk.open(1)
    await desk.turn()
    assert script.moved == []
    assert [each.kind for each in await desk.rows()] == []
    assert (await bench.payout(desk.ids[0])).status == "pending"
    assert (await desk.row())["state"] == "prepared"


async def test_looks_go_on_and_an_unknown_outcome_stays_one(bench: Bench) -> None:
    """That the custodian does not answer says nothing of a call that may have arrived."""
    desk = Watched(bench)
    await desk.open(1)
    desk.script.submits = [raises(OutcomeUnknown("lost"))]
    await desk.turn()
    assert [each.kind for each in await desk.rows()] == [Kind.CALL]
    desk.breaker.fault("unreachable")
    desk.script.looks = [raises(OutcomeUnknown("no answer")), DONE]
    await desk.turns(1, 20)
    assert await desk.stand() == ["outcome_unknown"]
    await desk.turns(1, 60)
    assert desk.script.story == ["submit", "look", "look"]
    assert await desk.stand() == ["delivered"]
