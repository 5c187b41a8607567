"""What each outcome of an adapter's call does to execution, payout and next look."""

from __future__ import annotations

from dataclasses import replace
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
    Unsupported,
    WrongAnswer,
)
from gateway.errors import LeaseLost
from gateway.execution.alerts import MAX_UNKNOWN
from gateway.execution.proof import History, Kind, calls, closed
from gateway.execution.record import Recorded
from gateway.execution.state import Job, Verb
from gateway.store import executions, inbox
from gateway.store import payouts as rows
from gateway.store.rows import to_us
from tests.execution.conftest import LEASE_S, Bench

pytestmark = pytest.mark.both_stores

SENT = Report(SubStatus.SUBMITTED, "REQUESTED", refs=(Ref("payout", "c-1"),))
DONE = Report(SubStatus.DELIVERED, "COMPLETED")
ASKS = Report(SubStatus.REQUIRES_ACTION, "asks", action=Action())


async def test_the_whole_way(bench: Bench) -> None:
    """Submitted, seen broadcast, delivered: one event each, and the execution is closed."""
    payout_id = await bench.accept()
    job = await bench.begin()
    assert job.next_verb is Verb.SUBMIT
    await bench.submitted(job, SENT, moved=True)
    assert 8 <= await bench.due_in(payout_id) <= 12
    await bench.clock.advance(20)
    job = await bench.begin()
    assert job.next_verb is Verb.FETCH
    assert (await bench.fetched(job, DONE)).ended
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
    execution = await bench.execution(payout_id)
    assert execution["state"] == "closed"
    assert execution["ended_at"] is not None
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
    "refusal", [Rejected("used", "key already used"), OutcomeUnknown("502"), ValueError("bug")]
)
async def test_after_an_unknown_outcome_no_refusal_is_final(
    bench: Bench, refusal: Exception
) -> None:
    """The answer to a repeat says nothing about the first call: the outcome is still unknown."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), OutcomeUnknown("reset"), moved=True)
    await bench.prove_absence()
    job = await bench.begin()
    assert job.next_verb is Verb.SUBMIT
    await bench.submitted(job, refusal, moved=True)
    payout = await bench.payout(payout_id)
    assert (payout.status, payout.sub_status) == ("pending", "outcome_unknown")
    await bench.clock.advance(60)
    assert (await bench.begin()).next_verb is Verb.FETCH


async def test_a_repeat_that_was_not_sent_is_made_again(bench: Bench) -> None:
    """The proof about the first call stands: a 429 to its repeat opens no new question.

    The adapter vouches that the repeat did nothing, so nothing is unknown and no look is needed.
    """
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), OutcomeUnknown("reset"), moved=True)
    await bench.prove_absence()
    await bench.submitted(await bench.begin(), NotSent("429"), moved=True)
    assert (await bench.payout(payout_id)).sub_status == "submitting"
    await bench.clock.advance(60)
    assert (await bench.begin()).next_verb is Verb.SUBMIT


async def test_a_repeat_that_was_not_sent_proves_nothing_of_the_first_call(bench: Bench) -> None:
    """Without proof about the first call, a repeat that was not sent leaves the outcome unknown."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), OutcomeUnknown("reset"), moved=True)
    await bench.prove_absence()
    job = await bench.begin()
    await bench.submitted(job, OutcomeUnknown("reset"), moved=True)
    await bench.write(payout_id, state="prepared")
    await bench.clock.advance(60)
    job = await bench.begin()
    assert job.next_verb is Verb.SUBMIT
    with pytest.raises(NotSent, match="not_closed"):
        await bench.order(job).moving()
    await bench.submitted(job, NotSent("429"))
    assert (await bench.payout(payout_id)).sub_status == "outcome_unknown"
    await bench.clock.advance(60)
    assert (await bench.begin()).next_verb is Verb.FETCH


@pytest.mark.parametrize(
    "error",
    [
        NotSent("refused"),
        TimeoutError(),
        OutcomeUnknown("x"),
        ValueError("bug"),
        WrongAnswer("nobody was asked", 2),
        Unsupported("no such verb"),
    ],
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
    assert again.next_verb is Verb.SUBMIT
    assert again.notes == {"payout_id": "c-1"}
    assert bench.order(again).key("create") == bench.order(job).key("create")


async def test_not_sent_after_the_mark_may_be_sent(bench: Bench) -> None:
    """The adapter vouches that the moving call never left: it is made again when it asked for it."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), NotSent("refused", again_after_s=90), moved=True)
    assert await bench.due_in(payout_id) == 90
    await bench.clock.advance(90)
    job = await bench.begin()
    assert job.next_verb is Verb.SUBMIT
    assert not bench.order(job).moved


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
    """Three looks, the last one after the call's life and the visibility window; then the same keys.

    Looks inside the call's life count, too: only the last one has to be late.
    """
    payout_id = await bench.accept()
    first = await bench.begin()
    await bench.submitted(first, OutcomeUnknown("reset"), moved=True)
    verbs = []
    for _ in range(8):
        await bench.clock.advance(25)
        job = await bench.begin()
        verbs.append(job.next_verb)
        if job.next_verb is Verb.SUBMIT:
            break
        await bench.fetched(job, Absent("REQUESTED"))
    # Life 60 s and visibility 30 s: of the looks at 25, 50, 75 and 100 s the last one is late enough.
    assert verbs == [Verb.FETCH] * 4 + [Verb.SUBMIT]
    assert bench.order(job).key("execute") == bench.order(first).key("execute")
    assert (await bench.payout(payout_id)).sub_status == "outcome_unknown"


async def test_one_late_look_is_not_enough(bench: Bench) -> None:
    """A first look long after everything is over proves nothing: absence must be seen three times."""
    await bench.accept()
    await bench.submitted(await bench.begin(), OutcomeUnknown("reset"), moved=True)
    for _ in range(3):
        await bench.clock.advance(1000)
        job = await bench.begin()
        assert job.next_verb is Verb.FETCH
        await bench.fetched(job, Absent(""))
    assert (await bench.begin()).next_verb is Verb.SUBMIT


async def test_a_person_decides_at_last(bench: Bench) -> None:
    """After a bounded number of calls of unknown outcome nothing is sent any more."""
    payout_id = await bench.accept()
    for _ in range(MAX_UNKNOWN):
        job = await bench.begin()
        assert job.next_verb is Verb.SUBMIT
        await bench.submitted(job, OutcomeUnknown("reset"), moved=True)
        await bench.prove_absence()
    for _ in range(5):
        await bench.clock.advance(100)
        job = await bench.begin()
        assert job.next_verb is Verb.FETCH
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
        assert job.next_verb is Verb.FETCH
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
        assert job.next_verb is Verb.FETCH
        await bench.fetched(job, Absent(""))
    assert (await bench.payout(payout_id)).sub_status == "submitted"


async def test_a_taken_over_mark_is_unknown(bench: Bench) -> None:
    """Its process died between mark and outcome: the outcome is unknown, and it is looked up first.

    Waiting counts from the mark, not from the takeover: the request was signed before the mark, so that
    it dies `call_life` after it however long its process was suspended.
    """
    payout_id = await bench.accept()
    order = bench.order(await bench.begin())
    marked_at = bench.clock.moment()
    await order.moving()
    await bench.clock.advance(LEASE_S + 1)
    job = await bench.begin()
    assert job.next_verb is Verb.FETCH
    payout = await bench.payout(payout_id)
    assert payout.sub_status == "outcome_unknown"
    assert payout.timeline[-1].detail is not None
    assert "worker stopped" in payout.timeline[-1].detail
    assert [(each.at, each.answer) for each in calls(job.history)] == [(marked_at, None)]


async def test_a_stale_token_writes_nothing(bench: Bench) -> None:
    """The old owner wakes after a takeover: no note, no mark, no outcome of its is written."""
    payout_id = await bench.accept()
    old = await bench.begin()
    await bench.clock.advance(LEASE_S + 1)
    new = await bench.begin()
    before = (await bench.payout(payout_id), tuple(await bench.execution(payout_id)))
    for write in (bench.order(old).remember(x=1), bench.order(old).moving()):
        with pytest.raises(LeaseLost):
            await write
    assert (await bench.submitted(old, DONE)).lost
    assert (await bench.fetched(old, DONE)).lost
    assert (await bench.payout(payout_id), tuple(await bench.execution(payout_id))) == before
    assert not (await bench.submitted(new, SENT, moved=True)).lost


async def test_only_the_token_says_who_may_move(bench: Bench) -> None:
    """An ended lease that nobody has taken over may still set its mark, and prolongs itself by it.

    Lease times may end early or late and are no evidence; whoever takes over raises the token.
    """
    payout_id = await bench.accept()
    order = bench.order(await bench.begin())
    await bench.clock.advance(LEASE_S)
    await order.moving()
    assert await bench.claim() == []
    execution = await bench.execution(payout_id)
    assert execution["state"] == "moving"
    assert execution["lease_until"] == bench.runtime.timeline.now() + LEASE_S * 1e6


async def test_news_during_work_is_not_lost(bench: Bench) -> None:
    """A webhook that comes while the lease is held brings the next look to now."""
    payout_id = await bench.accept()
    job = await bench.begin()
    assert await bench.db.run(executions.wake, payout_id, bench.runtime.timeline.now()) == "acme"
    await bench.submitted(job, SENT, moved=True)
    assert await bench.due_in(payout_id) == 0
    assert len(await bench.claim()) == 1


async def test_one_at_a_time_per_account(bench: Bench) -> None:
    """The second waits as queued, calls nobody, and is due when the first ends."""
    first = await bench.accept()
    await bench.clock.advance(1)
    second = await bench.accept()
    job, waits = await bench.claim()
    assert isinstance(job, Job)
    assert job.items[0].id == first
    assert waits == Recorded()
    assert (await bench.payout(second)).sub_status == "queued"
    assert (await bench.execution(second))["waiting_since"] is not None
    assert await bench.due_in(second) > 1
    await bench.submitted(job, DONE, moved=True)
    assert await bench.due_in(second) == 0
    assert (await bench.begin()).next_verb is Verb.SUBMIT
    assert (await bench.execution(second))["waiting_since"] is None


async def test_the_queue_is_not_overtaken(bench: Bench) -> None:
    """The turn is handed to the one that has waited longest, whoever asks first."""
    first = await bench.accept()
    job = await bench.begin()
    await bench.clock.advance(1)
    waiting = await bench.accept()
    assert await bench.claim() == [Recorded()]
    await bench.submitted(job, DONE, moved=True)
    assert (await bench.payout(first)).final
    late = await bench.accept()
    begun = await bench.claim()
    assert [each.items[0].id for each in begun if isinstance(each, Job)] == [waiting]
    assert (await bench.payout(late)).sub_status == "queued"


async def test_a_parked_payout_keeps_no_turn(bench: Bench) -> None:
    """What waits for a person has moved nothing, and the account goes on paying others."""
    parked = await bench.accept()
    await bench.submitted(await bench.begin(), Report(SubStatus.AWAITING_APPROVAL, "MISMATCH"))
    other = await bench.accept()
    assert (await bench.begin()).items[0].id == other
    await bench.clock.advance(40)
    look = await bench.begin()
    assert (look.items[0].id, look.next_verb) == (parked, Verb.FETCH)


async def test_again_means_submit_again(bench: Bench) -> None:
    """An adapter that waits before moving is asked again after so many seconds; else it is parked."""
    payout_id = await bench.accept()
    waits = Report(SubStatus.SUBMITTING, "AWAITING", again_after_s=33)
    await bench.submitted(await bench.begin(), waits)
    assert await bench.due_in(payout_id) == 33
    await bench.clock.advance(33)
    job = await bench.begin()
    assert job.next_verb is Verb.SUBMIT
    await bench.submitted(job, Report(SubStatus.AWAITING_APPROVAL, "MISMATCH"))
    await bench.clock.advance(100)
    assert (await bench.begin()).next_verb is Verb.FETCH


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
    """A custodian that says it paid something else does not deliver; both values are shown.

    Nothing is sent for it any more: a person decides.
    """
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), SENT, moved=True)
    await bench.clock.advance(100)
    echo = Echo(amount=Decimal(6), ordered_amount=Decimal(5), asset="USDC", ordered_asset="USDC")
    await bench.fetched(await bench.begin(), Report(SubStatus.DELIVERED, "COMPLETED", echo=echo))
    assert (await bench.payout(payout_id)).status == "pending"
    (row,) = await bench.db.read(rows.attention_of, payout_id)
    assert (row["code"], row["detail"]) == ("mismatch", "amount: ordered 5, custodian says 6")
    assert (await bench.execution(payout_id))["blocked"] == "mismatch"


async def test_a_contradiction_is_for_the_operator(bench: Bench) -> None:
    """After delivered a failure changes nothing and is told."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), DONE, moved=True)
    await bench.db.run(bench.payouts.apply, payout_id, Report(SubStatus.FAILED, "FAILED"))
    assert (await bench.payout(payout_id)).status == "delivered"
    assert await bench.attention(payout_id) == ["contradiction"]


async def test_an_id_of_another_payout_is_not_taken(bench: Bench) -> None:
    """One id at a custodian belongs to one payout; nothing of a report that names it is kept.

    Another id in it may be that other payout's, too: it is not taken either, and no status changes.
    """
    first, second = await bench.accept(), await bench.accept()
    await bench.db.run(bench.payouts.apply, first, SENT)
    odd = replace(SENT, refs=(*SENT.refs, Ref("hash", "0x1")), custodian_reference="c-1")
    before = await bench.payout(second)
    applied = await bench.db.run(bench.payouts.apply, second, odd)
    assert (applied.changed, applied.attention) == (False, ("foreign_ref",))
    assert await bench.attention(second) == ["foreign_ref"]
    assert await bench.payout(second) == before
    assert await bench.db.read(rows.payout_of_ref, "acme", "payout", "c-1") == first
    assert await bench.db.read(rows.payout_of_ref, "acme", "hash", "0x1") is None


async def test_a_failed_word_with_an_id_of_another_payout_is_no_evidence(bench: Bench) -> None:
    """A mixed-up look must not close a call that may still arrive: no row says that it failed."""
    await bench.accept()
    await bench.submitted(await bench.begin(), replace(DONE, refs=SENT.refs), moved=True)
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), OutcomeUnknown("lost"), moved=True)
    await bench.clock.advance(30)
    failure = Failure(code=FailureCode.POLICY_REJECTED, message="no", funds_moved=FundsMoved.NO)
    word = Report(SubStatus.FAILED, "REJECTED", failure=failure, refs=SENT.refs)
    await bench.fetched(await bench.begin(), word)
    found = await bench.evidence(payout_id)
    assert [each.kind for each in found] == [Kind.CALL, Kind.LOOK]
    assert not closed(History(found), payout_id)
    assert (await bench.payout(payout_id)).status == "pending"
    assert await bench.attention(payout_id) == ["foreign_ref"]


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


async def test_time_is_over_after_an_unknown_outcome(bench: Bench) -> None:
    """Where a call was once unknown, nobody's silence ends the payout before absence is proven."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), OutcomeUnknown("silence"), moved=True)
    await bench.clock.advance(20)
    await bench.fetched(await bench.begin(), ASKS)
    await bench.clock.advance(100_000)
    await bench.fetched(await bench.begin(), NotSent("the custodian is down"))
    payout = await bench.payout(payout_id)
    assert payout.sub_status is SubStatus.REQUIRES_ACTION
    assert await bench.due_in(payout_id) > 0
    for _ in range(3):
        assert not (await bench.payout(payout_id)).final
        await bench.clock.advance(100)
        await bench.fetched(await bench.begin(), Absent("404"))
    payout = await bench.payout(payout_id)
    assert payout.failure is not None
    assert (payout.failure.code, payout.failure.funds_moved) == (
        FailureCode.AUTHENTICATION_EXPIRED,
        FundsMoved.NO,
    )


@pytest.mark.parametrize("outcome", [CannotLook("nothing to ask by"), ASKS])
async def test_time_that_is_over_proves_nothing(bench: Bench, outcome: Any) -> None:
    """The unknown call may have paid: what proves no absence ends no payout; a person is asked.

    That the custodian asks again says nothing about the call: only absence that was seen often and late
    enough does.
    """
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), OutcomeUnknown("silence"), moved=True)
    await bench.clock.advance(20)
    await bench.fetched(await bench.begin(), ASKS)
    await bench.clock.advance(100_000)
    for _ in range(12):
        await bench.clock.advance(100)
        job = await bench.begin()
        assert job.next_verb is Verb.FETCH
        await bench.fetched(job, outcome)
    assert (await bench.payout(payout_id)).sub_status is SubStatus.REQUIRES_ACTION
    attention = await bench.attention(payout_id)
    assert attention == ["cannot_look" if isinstance(outcome, CannotLook) else "unresolved"]


async def test_money_found_when_the_time_is_over_is_told(bench: Bench) -> None:
    """The last look finds the payment that an unknown call made: it is delivered, not expired."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), OutcomeUnknown("silence"), moved=True)
    await bench.clock.advance(20)
    await bench.fetched(await bench.begin(), ASKS)
    await bench.clock.advance(100_000)
    await bench.fetched(await bench.begin(), DONE)
    assert (await bench.payout(payout_id)).status == "delivered"
