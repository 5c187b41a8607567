"""An operator obeys the engine's rules: no retry without proof, no end without evidence."""

from __future__ import annotations

import pytest

from gateway.adapter import Absent, FundsMoved, OutcomeUnknown, Report, SubStatus
from gateway.recovery import MAX_MOVES, Next, next_step
from gateway.worker.rescue import NotAllowedError, resolve, retry
from tests.execution.conftest import CAN, LEASE_S, Bench


async def end(
    bench: Bench, payout_id: str, *, delivered: bool, moved: FundsMoved = FundsMoved.NO
) -> None:
    """Resolve a payout by hand."""
    await bench.db.run(
        resolve,
        bench.payouts,
        bench.runtime,
        payout_id,
        delivered=delivered,
        funds_moved=moved,
        evidence="console, 10:15, payout p-1",
    )


async def test_an_unresolved_payout_is_retried_only_with_proof(bench: Bench) -> None:
    """After the engine's last call: not before absence is proven, then with the same keys."""
    payout_id = await bench.accept()
    for number in range(MAX_MOVES):
        job = await bench.begin()
        await bench.submitted(job, OutcomeUnknown("reset"), moved=True)
        with pytest.raises(NotAllowedError, match="0 of 3 answers"):
            await bench.db.run(retry, bench.runtime, payout_id, CAN)
        for seconds in (70, 25, 25):
            await bench.clock.advance(seconds)
            await bench.fetched(await bench.begin(), Absent(""))
        if number < MAX_MOVES - 1:
            assert await bench.due_in(payout_id) == 0
    assert await bench.due_in(payout_id) > 0
    await bench.db.run(retry, bench.runtime, payout_id, CAN)
    again = await bench.begin()
    assert next_step(again.attempt) is Next.SUBMIT
    assert bench.order(again).key("execute") == bench.order(job).key("execute")


async def test_what_the_custodian_has_is_never_retried(bench: Bench) -> None:
    """Nor what is under way, final, unknown here, or going to be submitted anyway."""
    payout_id = await bench.accept()
    with pytest.raises(NotAllowedError, match="by itself"):
        await bench.db.run(retry, bench.runtime, payout_id, CAN)
    job = await bench.begin()
    with pytest.raises(NotAllowedError, match="in hand"):
        await bench.db.run(retry, bench.runtime, payout_id, CAN)
    await bench.submitted(job, Report(SubStatus.SUBMITTED, "OK"), moved=True)
    with pytest.raises(NotAllowedError, match="custodian has it"):
        await bench.db.run(retry, bench.runtime, payout_id, CAN)
    await end(bench, payout_id, delivered=True)
    for payout in (payout_id, "pay_nope"):
        with pytest.raises(NotAllowedError):
            await bench.db.run(retry, bench.runtime, payout, CAN)


async def test_a_parked_payout_may_go_on(bench: Bench) -> None:
    """Nothing has moved: a person who has looked may let it be submitted."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), Report(SubStatus.AWAITING_APPROVAL, "MISMATCH"))
    await bench.db.run(retry, bench.runtime, payout_id, CAN)
    assert next_step((await bench.begin()).attempt) is Next.SUBMIT


@pytest.mark.parametrize("delivered", [True, False])
async def test_an_end_by_hand_is_told_and_frees_the_account(
    bench: Bench, *, delivered: bool
) -> None:
    """Event, timeline with the evidence, the next payout's turn; a late worker writes nothing."""
    payout_id = await bench.accept()
    job = await bench.begin()
    await bench.clock.advance(1)
    waiting = await bench.accept()
    (lease,) = await bench.claim()
    assert await bench.db.run(bench.settlement.begin, lease) is None
    with pytest.raises(NotAllowedError, match="in hand"):
        await end(bench, payout_id, delivered=delivered)
    await bench.order(job).moving()
    await bench.clock.advance(LEASE_S + 1)
    await end(bench, payout_id, delivered=delivered)
    payout = await bench.payout(payout_id)
    assert payout.status == ("delivered" if delivered else "failed")
    assert payout.timeline[-1].detail == "resolved by an operator: console, 10:15, payout p-1"
    if not delivered:
        assert payout.failure is not None
        assert (payout.failure.code, payout.failure.funds_moved) == ("operator_decision", "no")
    assert len(await bench.events(payout_id)) == (3 if delivered else 2)
    assert await bench.due_in(waiting) <= 0
    settled = await bench.db.run(
        bench.settlement.submitted, job, moved_now=True, outcome=Report(SubStatus.SUBMITTED, "OK")
    )
    assert settled.applied is None
