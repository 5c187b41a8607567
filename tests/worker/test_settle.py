"""What each outcome of an adapter's call does to attempt, payout and next look."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from gateway.adapter import (
    Absent,
    Action,
    CannotLook,
    Echo,
    Failure,
    FailureCode,
    FundsMoved,
    NotSent,
    OutcomeUnknown,
    Ref,
    Rejected,
    Report,
    SubStatus,
)
from gateway.errors import LeaseLost
from gateway.recovery import MAX_MOVES, Next, next_step
from gateway.store import inbox, work
from gateway.store import payouts as rows
from gateway.store.rows import to_us
from gateway.worker.settle import Job
from tests.worker.conftest import LEASE_S, Bench

SENT = Report(SubStatus.SUBMITTED, "REQUESTED", refs=(Ref("payout", "c-1"),))
DONE = Report(SubStatus.DELIVERED, "COMPLETED")
ASKS = Report(SubStatus.REQUIRES_ACTION, "asks", action=Action())


async def test_the_whole_way(bench: Bench) -> None:
    """Submitted, seen broadcast, delivered: one event each, the work row gone."""
    payout_id = await bench.accept()
    job = await bench.begin()
    assert next_step(job.attempt) is Next.SUBMIT
    await bench.submitted(job, SENT, moved=True)
    assert 8 <= await bench.due_in(payout_id) <= 12
    await bench.clock.advance(20)
    job = await bench.begin()
    assert next_step(job.attempt) is Next.FETCH
    assert (await bench.fetched(job, DONE)).due is None
    payout = await bench.payout(payout_id)
    assert payout.status == "delivered"
    assert [entry.sub_status for entry in payout.timeline] == [
        "created",
        "submitted",
        "broadcast",
        "delivered",
    ]
    assert await bench.events(payout_id) == [
        (1, "payout.created"),
        (2, "payout.broadcast"),
        (3, "payout.delivered"),
    ]
    assert (await bench.attempt(payout_id))["state"] == "ended"
    assert await bench.claim() == []


async def test_a_first_refusal_is_final(bench: Bench) -> None:
    """Refused on the first moving call: failed, and proven that nothing moved."""
    payout_id = await bench.accept()
    refusal = Rejected("destination_rejected", "unknown wallet", custodian_code="NOT_FOUND")
    await bench.submitted(await bench.begin(), refusal, moved=True)
    payout = await bench.payout(payout_id)
    assert (payout.status, payout.sub_status) == ("failed", "rejected")
    assert payout.failure == Failure(
        code=FailureCode.DESTINATION_REJECTED,
        message="unknown wallet",
        custodian_code="NOT_FOUND",
        funds_moved=FundsMoved.NO,
    )


@pytest.mark.parametrize(
    "refusal",
    [
        Rejected("used", "key already used"),
        NotSent("429"),
        OutcomeUnknown("502"),
        ValueError("bug"),
    ],
)
async def test_after_an_unknown_outcome_no_refusal_is_final(
    bench: Bench, refusal: Exception
) -> None:
    """What a repeat is told says nothing about the first call: still unknown."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), OutcomeUnknown("reset"), moved=True)
    await _prove_absence(bench)
    job = await bench.begin()
    assert next_step(job.attempt) is Next.SUBMIT
    await bench.submitted(job, refusal, moved=True)
    payout = await bench.payout(payout_id)
    assert (payout.status, payout.sub_status) == ("pending", "outcome_unknown")
    await bench.clock.advance(60)
    assert next_step((await bench.begin()).attempt) is Next.FETCH


@pytest.mark.parametrize(
    "error", [NotSent("refused"), TimeoutError(), OutcomeUnknown("x"), ValueError("bug")]
)
async def test_without_the_mark_nothing_has_moved(bench: Bench, error: Exception) -> None:
    """Any failure before the moving mark is tried again, with the notes."""
    payout_id = await bench.accept()
    job = await bench.begin()
    await bench.order(job).remember(payout_id="c-1")
    await bench.submitted(job, error)
    assert (await bench.payout(payout_id)).sub_status == "submitting"
    await bench.clock.advance(60)
    again = await bench.begin()
    assert next_step(again.attempt) is Next.SUBMIT
    assert again.notes == {"payout_id": "c-1"}
    assert bench.order(again).key("create") == bench.order(job).key("create")


async def test_not_sent_after_the_mark_may_be_sent(bench: Bench) -> None:
    """The adapter vouches that the moving call never left: it is made again, soon."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), NotSent("refused", again_after_s=90), moved=True)
    assert await bench.due_in(payout_id) == 90
    await bench.clock.advance(90)
    job = await bench.begin()
    assert next_step(job.attempt) is Next.SUBMIT
    assert bench.order(job).moved


async def test_silence_never_fails(bench: Bench) -> None:
    """Unknown for days, whatever looks fail: never failed, and the operator knows."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), OutcomeUnknown("timeout"), moved=True)
    for _ in range(20):
        await bench.clock.advance(3600)
        await bench.fetched(await bench.begin(), OutcomeUnknown("look failed"))
    payout = await bench.payout(payout_id)
    assert (payout.status, payout.sub_status) == ("pending", "outcome_unknown")
    assert await bench.attention(payout_id) == ["custodian_unreachable"]
    assert await bench.events(payout_id) == [(1, "payout.created")]


async def test_a_repeat_needs_proven_absence(bench: Bench) -> None:
    """Not before the call's life, three looks, and the visibility window; then with the same keys."""
    payout_id = await bench.accept()
    first = await bench.begin()
    await bench.submitted(first, OutcomeUnknown("reset"), moved=True)
    steps = []
    for _ in range(8):
        await bench.clock.advance(25)
        job = await bench.begin()
        steps.append(next_step(job.attempt))
        if steps[-1] is Next.SUBMIT:
            break
        await bench.fetched(job, Absent("REQUESTED"))
    # Looks at 25, 50 do not count (life 60 s); 75, 100, 125 do and span 50 s.
    assert steps == [Next.FETCH] * 5 + [Next.SUBMIT]
    assert bench.order(job).key("execute") == bench.order(first).key("execute")
    assert (await bench.payout(payout_id)).sub_status == "outcome_unknown"


async def test_a_person_decides_at_last(bench: Bench) -> None:
    """After a bounded number of moving calls nothing is sent any more."""
    payout_id = await bench.accept()
    for _ in range(MAX_MOVES):
        job = await bench.begin()
        assert next_step(job.attempt) is Next.SUBMIT
        await bench.submitted(job, OutcomeUnknown("reset"), moved=True)
        await _prove_absence(bench)
    for _ in range(5):
        await bench.clock.advance(100)
        job = await bench.begin()
        assert next_step(job.attempt) is Next.FETCH
        await bench.fetched(job, Absent(""))
    assert "unresolved" in await bench.attention(payout_id)
    assert (await bench.payout(payout_id)).status == "pending"


async def test_nothing_to_look_by_is_for_the_operator(bench: Bench) -> None:
    """CannotLook proves nothing, however often."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), OutcomeUnknown("reset"), moved=True)
    for _ in range(10):
        await bench.clock.advance(100)
        job = await bench.begin()
        assert next_step(job.attempt) is Next.FETCH
        await bench.fetched(job, CannotLook("no id"))
    assert await bench.attention(payout_id) == ["cannot_look"]


async def test_a_report_settles_the_unknown(bench: Bench) -> None:
    """Once the custodian knows it, it is followed and never sent again."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), OutcomeUnknown("reset"), moved=True)
    await bench.clock.advance(100)
    await bench.fetched(await bench.begin(), SENT)
    for _ in range(10):
        await bench.clock.advance(100)
        job = await bench.begin()
        assert next_step(job.attempt) is Next.FETCH
        await bench.fetched(job, Absent(""))
    assert (await bench.payout(payout_id)).sub_status == "submitted"


async def test_a_taken_over_mark_is_unknown(bench: Bench) -> None:
    """Its process died between mark and outcome: looked at first, counted from the takeover."""
    payout_id = await bench.accept()
    await bench.order(await bench.begin()).moving()
    await bench.clock.advance(LEASE_S + 1)
    job = await bench.begin()
    assert next_step(job.attempt) is Next.FETCH
    assert (await bench.payout(payout_id)).sub_status == "outcome_unknown"
    assert job.attempt.last_call_at == bench.clock.now()


async def test_a_stale_token_writes_nothing(bench: Bench) -> None:
    """The old owner wakes after a takeover: no note, no mark, no outcome of its is written."""
    payout_id = await bench.accept()
    old = await bench.begin()
    await bench.clock.advance(LEASE_S + 1)
    new = await bench.begin()
    before = (await bench.payout(payout_id), tuple(await bench.attempt(payout_id)))
    for write in (bench.order(old).remember(x=1), bench.order(old).moving()):
        with pytest.raises(LeaseLost):
            await write
    assert (
        await bench.db.run(bench.settlement.submitted, old, moved_now=False, outcome=DONE)
    ).applied is None
    assert (await bench.fetched(old, DONE)).applied is None
    assert (await bench.payout(payout_id), tuple(await bench.attempt(payout_id))) == before
    assert (await bench.submitted(new, SENT, moved=True)).applied is not None


async def test_an_ended_lease_cannot_move(bench: Bench) -> None:
    """Also where nobody has taken it over yet."""
    await bench.accept()
    order = bench.order(await bench.begin())
    await bench.clock.advance(LEASE_S)
    with pytest.raises(LeaseLost):
        await order.moving()


async def test_news_during_work_is_not_lost(bench: Bench) -> None:
    """A webhook that comes while the lease is held brings the next look to now."""
    payout_id = await bench.accept()
    job = await bench.begin()
    now = to_us(bench.clock.now())
    assert await bench.db.run(work.hasten_work, payout_id, now)
    await bench.submitted(job, SENT, moved=True)
    assert await bench.due_in(payout_id) == 0
    assert len(await bench.claim()) == 1


async def test_one_at_a_time_per_account(bench: Bench) -> None:
    """The second waits as queued, makes no attempt, and is due when the first ends."""
    first = await bench.accept()
    await bench.clock.advance(1)
    second = await bench.accept()
    leases = {lease.payout_id: lease for lease in await bench.claim()}
    job = await bench.db.run(bench.settlement.begin, leases[first])
    assert isinstance(job, Job)
    assert await bench.db.run(bench.settlement.begin, leases[second]) is None
    assert (await bench.payout(second)).sub_status == "queued"
    assert await bench.db.read(work.attempts_of, second) == []
    assert await bench.due_in(second) > 1
    await bench.submitted(job, DONE, moved=True)
    assert await bench.due_in(second) == 0
    assert next_step((await bench.begin()).attempt) is Next.SUBMIT


async def test_the_queue_is_not_overtaken(bench: Bench) -> None:
    """The turn is handed to the one that waited longest, whoever asks first."""
    first = await bench.accept()
    job = await bench.begin()
    await bench.clock.advance(1)
    waiting = await bench.accept()
    (lease,) = await bench.claim()
    assert await bench.db.run(bench.settlement.begin, lease) is None
    await bench.submitted(job, DONE, moved=True)
    assert (await bench.payout(first)).final
    late = await bench.accept()
    leases = {each.payout_id: each for each in await bench.claim()}
    assert await bench.db.run(bench.settlement.begin, leases[late]) is None
    assert await bench.db.run(bench.settlement.begin, leases[waiting]) is not None


async def test_a_parked_payout_keeps_no_turn(bench: Bench) -> None:
    """What waits for a person has moved nothing, and the account goes on paying others."""
    parked = await bench.accept()
    await bench.submitted(await bench.begin(), Report(SubStatus.AWAITING_APPROVAL, "MISMATCH"))
    other = await bench.accept()
    (lease,) = await bench.claim()
    assert lease.payout_id == other
    job = await bench.db.run(bench.settlement.begin, lease)
    assert job is not None
    await bench.clock.advance(40)
    looks = {each.payout_id: each for each in await bench.claim()}
    assert await bench.db.run(bench.settlement.begin, looks[parked]) is not None


async def test_again_means_submit_again(bench: Bench) -> None:
    """An adapter that waits before moving is asked again after so many seconds; else it is parked."""
    payout_id = await bench.accept()
    waits = Report(SubStatus.SUBMITTING, "AWAITING", again_after_s=33)
    await bench.submitted(await bench.begin(), waits)
    assert await bench.due_in(payout_id) == 33
    await bench.clock.advance(33)
    job = await bench.begin()
    assert next_step(job.attempt) is Next.SUBMIT
    await bench.submitted(job, Report(SubStatus.AWAITING_APPROVAL, "MISMATCH"))
    await bench.clock.advance(100)
    assert next_step((await bench.begin()).attempt) is Next.FETCH


async def test_an_unknown_word_changes_no_status(bench: Bench) -> None:
    """Kept raw and shown to the operator."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), SENT, moved=True)
    await bench.clock.advance(100)
    before = await bench.payout(payout_id)
    await bench.fetched(await bench.begin(), Report(None, "LIMBO", unknown_words=("LIMBO",)))
    after = await bench.payout(payout_id)
    assert (after.status, after.sub_status, after.timeline) == (
        before.status,
        before.sub_status,
        before.timeline,
    )
    assert await bench.attention(payout_id) == ["unknown_word"]
    row = await bench.db.read(rows.payout_row, payout_id)
    assert row is not None
    assert row["custodian_word"] == "LIMBO"


async def test_another_amount_changes_no_status(bench: Bench) -> None:
    """A custodian that says it paid something else does not deliver; both values are shown."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), SENT, moved=True)
    await bench.clock.advance(100)
    echo = Echo(amount=Decimal(6), ordered_amount=Decimal(5), asset="USDC", ordered_asset="USDC")
    await bench.fetched(await bench.begin(), Report(SubStatus.DELIVERED, "COMPLETED", echo=echo))
    assert (await bench.payout(payout_id)).status == "pending"
    (row,) = await bench.db.read(rows.attention_of, payout_id)
    assert (row["code"], row["detail"]) == ("mismatch", "amount: ordered 5, custodian says 6")


async def test_a_contradiction_is_for_the_operator(bench: Bench) -> None:
    """After delivered a failure changes nothing and is told."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), DONE, moved=True)
    await bench.db.run(bench.payouts.apply, payout_id, Report(SubStatus.FAILED, "FAILED"))
    assert (await bench.payout(payout_id)).status == "delivered"
    assert await bench.attention(payout_id) == ["contradiction"]


async def test_an_id_of_another_payout_is_not_taken(bench: Bench) -> None:
    """One id at a custodian belongs to one payout."""
    first, second = await bench.accept(), await bench.accept()
    for payout_id in (first, second):
        await bench.db.run(bench.payouts.apply, payout_id, SENT)
    assert await bench.attention(second) == ["foreign_ref"]
    assert await bench.db.read(rows.payout_of_ref, "acme", "payout", "c-1") == first


async def test_an_early_webhook_is_woken_by_its_id(bench: Bench) -> None:
    """A webhook that waits for an id becomes new again when a report brings the id."""
    payout_id = await bench.accept()
    now = to_us(bench.clock.now())
    assert await bench.db.run(inbox.add_webhook, "acme", "n-1", b"{}", now, state="waiting")
    await bench.db.run(inbox.wait_for_refs, "acme", "n-1", [("payout", "c-1")])
    assert await bench.db.read(inbox.new_webhooks, 10) == []
    applied = await bench.db.run(bench.payouts.apply, payout_id, SENT)
    assert applied.woke_inbox
    assert [row["dedup_key"] for row in await bench.db.read(inbox.new_webhooks, 10)] == ["n-1"]


async def _prove_absence(bench: Bench) -> None:
    """Advance and look until absence is proven: the next step is a submit again."""
    for seconds in (70, 25, 25):
        await bench.clock.advance(seconds)
        await bench.fetched(await bench.begin(), Absent(""))


@pytest.mark.parametrize("outcome", [Absent("404"), CannotLook("nothing to ask by"), ASKS])
async def test_time_is_over_after_an_unknown_outcome(bench: Bench, outcome: Any) -> None:
    """Where a call was once unknown, nobody's silence ends the payout before a look has said no."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), OutcomeUnknown("silence"), moved=True)
    await bench.clock.advance(20)
    await bench.fetched(await bench.begin(), ASKS)
    await bench.clock.advance(100_000)
    await bench.fetched(await bench.begin(), NotSent("the custodian is down"))
    payout = await bench.payout(payout_id)
    assert payout.sub_status is SubStatus.REQUIRES_ACTION
    assert await bench.due_in(payout_id) > 0
    await bench.clock.advance(100)
    await bench.fetched(await bench.begin(), outcome)
    payout = await bench.payout(payout_id)
    assert payout.failure is not None
    assert (payout.failure.code, payout.failure.funds_moved) == (
        FailureCode.AUTHENTICATION_EXPIRED,
        FundsMoved.NO,
    )


async def test_money_found_when_the_time_is_over_is_told(bench: Bench) -> None:
    """The last look finds the payment that an unknown call made: it is delivered, not expired."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), OutcomeUnknown("silence"), moved=True)
    await bench.clock.advance(20)
    await bench.fetched(await bench.begin(), ASKS)
    await bench.clock.advance(100_000)
    await bench.fetched(await bench.begin(), DONE)
    assert (await bench.payout(payout_id)).status == "delivered"
