"""Reviewer's probe: a batch is canceled while its set is unknown; absence is proven; the set is sent again."""

from __future__ import annotations

import pytest

from gateway.adapter import Capabilities, KeySemantics, OutcomeUnknown
from gateway.store import executions
from gateway.store.database import Tx
from tests.execution.conftest import Bench
from tests.execution.script import ABSENT, TAKEN, Desk, raises


@pytest.fixture
def capabilities() -> Capabilities:
    """A custodian with sets."""
    return Capabilities(
        frozenset({"custodian_account"}),
        batch=True,
        keys=KeySemantics(life_s=86_400),
        call_life_s=60,
        visibility_s=30,
        polling_s=(10, 20, 40, 80, 160),
    )


async def test_a_set_that_is_proven_absent_is_taken_back_by_a_cancel(bench: Bench) -> None:
    """Not a payment twice: but what the partner canceled, and what certainly did not pay, is paid."""
    desk = Desk(bench)
    await desk.open(2)
    desk.script.submits = [raises(OutcomeUnknown("lost")), TAKEN]
    desk.script.looks = [ABSENT]
    await desk.turn()

    async def drop(tx: Tx) -> int:
        """As `BatchSteps._drop_unsent` does at every step of a canceled batch."""
        idle = await executions.idle_of_batch(tx, "bat_1", 50)
        for each in idle:
            await desk.engine.recorder.take_back(tx, each)
        return len(idle)

    for _ in range(4):
        await bench.db.run(drop)
        await desk.turns(1, 45)
    await bench.db.run(drop)
    await desk.turn()
    assert len(desk.script.moved) == 1
