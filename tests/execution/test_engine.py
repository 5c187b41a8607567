"""The engine with a scripted custodian: every rule holds for one payout and for a set of many."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.adapter import (
    BatchReport,
    CannotLook,
    Capabilities,
    KeySemantics,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Report,
    SubStatus,
)
from gateway.execution.alerts import MAX_UNKNOWN
from gateway.execution.proof import Answer, Kind
from gateway.execution.state import Job
from gateway.model import Status
from gateway.store import account_turns
from tests.execution.conftest import LEASE_S, Bench
from tests.execution.script import ABSENT, DONE, TAKEN, Desk, all_are, raises, says

pytestmark = pytest.mark.both_stores

CAN = Capabilities(
    frozenset({"custodian_account"}),
    batch=True,
    one_at_a_time=True,
    keys=KeySemantics(),
    call_life_s=60,
    visibility_s=30,
    polling_s=(10, 20),
)


@pytest.fixture
def capabilities() -> Capabilities:
    """A custodian whose keys say nothing about repeats."""
    return CAN


@pytest.fixture(params=[1, 3], ids=["one", "many"])
async def desk(bench: Bench, request: pytest.FixtureRequest) -> Desk:
    """An execution that nothing was done with."""
    made = Desk(bench)
    await made.open(request.param)
    return made


async def test_the_whole_way(desk: Desk) -> None:
    """Submitted once, looked at until every item has ended; the account is free then."""
    script, bench = desk.script, desk.bench
    script.submits, script.looks = [TAKEN], [all_are(SubStatus.BROADCAST), DONE]
    assert await desk.turn()
    assert set(await desk.stand()) == {"submitted"}
    assert (await desk.row())["state"] == "accepted"
    assert not await desk.turn()
    await desk.turns(2, 30)
    assert set(await desk.stand()) == {"delivered"}
    assert script.story == ["submit", "look", "look"]
    assert (await desk.row())["ended_at"] is not None
    await bench.clock.advance(1000)
    assert not await desk.turn()
    assert await bench.db.run(account_turns.acquire_account, "acme", "VAULT", "A", "exe_x", 1)


async def test_silence_is_unknown_and_never_submitted_again_unproven(desk: Desk) -> None:
    """Only looks follow; absence must be proven first, then the same order is submitted again."""
    script = desk.script
    script.submits, script.looks = [raises(OutcomeUnknown("silence")), TAKEN], [ABSENT]
    await desk.turn()
    assert set(await desk.stand()) == {"outcome_unknown"}
    began = desk.bench.clock.monotonic()
    while script.story.count("submit") == 1:
        await desk.turns(1, 10)
    assert desk.bench.clock.monotonic() - began >= 90
    assert script.story.count("look") >= CAN.absence_looks
    assert script.moved == [desk.ids, desk.ids]
    assert script.keys[0] == script.keys[1]
    assert (await desk.row())["state"] == "accepted"
    answers = [each.answer for each in await desk.rows() if each.kind is Kind.CALL]
    assert answers == [Answer.UNKNOWN, Answer.ACCEPTED]


async def test_a_refusal_after_silence_is_none(desk: Desk) -> None:
    """It may mean that the first call arrived; after a few such calls a person decides."""
    script = desk.script
    script.submits = [
        raises(OutcomeUnknown("silence")),
        raises(Rejected("submission_rejected", "already used")),
    ]
    script.looks = [ABSENT]
    await desk.turn()
    await desk.turns(60, 10)
    assert script.story.count("submit") == MAX_UNKNOWN
    assert set(await desk.stand()) == {"outcome_unknown"}
    assert await desk.bench.attention(desk.ids[0]) == ["unresolved"]


async def test_three_that_were_not_sent_and_one_that_was_lost(desk: Desk) -> None:
    """Calls that did nothing count for nothing: after proof about the lost one it goes on."""
    script = desk.script
    too_many = raises(NotSent("429", again_after_s=1))
    script.submits = [too_many, too_many, too_many, raises(OutcomeUnknown("lost")), TAKEN]
    script.looks = [ABSENT]
    await desk.turns(4, 25)
    assert set(await desk.stand()) == {"outcome_unknown"}
    await desk.prove_absence()
    assert await desk.attention() == []
    await desk.turn()
    assert set(await desk.stand()) == {"submitted"}
    assert len(script.moved) == 5


@pytest.mark.parametrize("moves", [True, False])
async def test_a_refusal_ends_every_item(desk: Desk, *, moves: bool) -> None:
    """Before anything moved, or on the first moving call: with the same words for each."""
    desk.script.submits = [raises(Rejected("destination_rejected", "unknown payee"))]
    desk.script.moves = moves
    await desk.turn()
    assert set(await desk.stand()) == {"rejected"}
    payout = await desk.bench.payout(desk.ids[-1])
    assert payout.failure is not None
    assert (payout.failure.code, payout.failure.funds_moved) == ("destination_rejected", "no")
    assert (await desk.row())["state"] == "closed"


async def test_a_worker_that_dies_with_the_mark_set(desk: Desk) -> None:
    """Its successor says so of every item, and only looks."""
    desk.script.looks = [DONE]
    (job,) = await desk.claim()
    assert isinstance(job, Job)
    await desk.script.move(desk.engine.order(job))
    assert (await desk.row())["state"] == "moving"
    await desk.bench.clock.advance(LEASE_S + 1)
    successor = desk.new_engine("two")
    await desk.turn(successor)
    assert set(await desk.stand()) == {"outcome_unknown"}
    assert (await desk.row())["state"] == "unknown"
    await desk.turn(successor)
    assert desk.script.story == ["look"]
    assert set(await desk.stand()) == {"delivered"}


async def test_a_stale_worker_writes_nothing(desk: Desk) -> None:
    """Taken over meanwhile: neither notes, nor mark, nor news."""
    (stale,) = await desk.claim()
    assert isinstance(stale, Job)
    await desk.bench.clock.advance(LEASE_S + 1)
    desk.script.submits, desk.script.looks = [TAKEN], [DONE]
    await desk.turn(desk.new_engine("two"))
    await desk.engine._work(stale)
    assert desk.script.story == ["submit", "submit"]
    assert desk.script.moved == [desk.ids]
    assert set(await desk.stand()) == {"submitted"}


async def test_a_lease_that_is_lost_after_the_mark_writes_nothing(desk: Desk) -> None:
    """The reply comes to a worker that was suspended meanwhile: only its successor's looks count."""
    (job,) = await desk.claim()
    assert isinstance(job, Job)
    order = desk.engine.order(job)
    await desk.script.move(order)
    await desk.bench.clock.advance(LEASE_S + 1)
    desk.script.looks = [ABSENT]
    successor = desk.new_engine("two")
    for _ in range(2):
        await desk.turn(successor)
    before = (tuple(await desk.row()), await desk.rows(), await desk.stand())
    started = desk.bench.clock.moment()
    for outcome in (TAKEN(order), Rejected("no"), NotSent("429"), OutcomeUnknown("x")):
        recorded = await desk.engine.record(
            job, job.next_verb, outcome, order=order, started=started
        )
        assert recorded.lost
    assert (tuple(await desk.row()), await desk.rows(), await desk.stand()) == before


async def test_a_worker_whose_token_is_old_cannot_move(desk: Desk) -> None:
    """A suspended worker that wakes up before its call: the mark is refused, so no call is made."""
    (job,) = await desk.claim()
    assert isinstance(job, Job)
    await desk.bench.clock.advance(LEASE_S + 1)
    desk.script.submits = [raises(NotSent("429", again_after_s=500))]
    await desk.turn(desk.new_engine("two"))
    desk.script.submits = [TAKEN]
    await desk.engine._work(job)
    assert len(desk.script.moved) == 1
    assert set(await desk.stand()) == {"submitting"}


async def test_not_sent_is_tried_again_and_an_operator_hears_of_it(desk: Desk) -> None:
    """Nothing moves; after five times an operator is told, once for the execution.

    Every item says now that it was not sent yet; of a set, only the set knew that before.
    """
    desk.script.moves = False
    desk.script.submits = [raises(NotSent("down", again_after_s=45))]
    for _ in range(6):
        assert await desk.turn()
        assert await desk.due_in() >= 45
        await desk.bench.clock.advance(46)
    assert (await desk.row())["state"] == "prepared"
    assert await desk.bench.attention(desk.ids[0]) == ["custodian_unreachable"]
    assert [await desk.bench.attention(each) for each in desk.ids[1:]] == [[]] * len(desk.ids[1:])
    assert set(await desk.stand()) == {"submitting"}


async def test_it_waits_for_its_turn(desk: Desk) -> None:
    """Another execution has the account; handed over, this one begins at once."""
    bench, script = desk.bench, desk.script
    await bench.db.run(account_turns.acquire_account, "acme", "VAULT", "A", "exe_other", 1)
    script.submits = [TAKEN]
    assert await desk.turn()
    assert script.story == []
    row = await desk.row()
    assert row["waiting_since"] is not None
    assert not await desk.turn()
    await bench.db.run(
        account_turns.release_account,
        "exe_other",
        "acme",
        row["account"],
        2,
        bench.runtime.timeline.now(),
    )
    assert await desk.turn()
    assert script.story == ["submit"]


async def test_what_is_unknown_is_looked_at_whoever_has_the_turn(desk: Desk) -> None:
    """Only what is about to be submitted waits for its turn at the account.

    A person's answer may have been sent while another execution has the turn: its outcome is looked up.
    """
    script, bench = desk.script, desk.bench
    script.moves = False
    script.submits = [all_are(SubStatus.AWAITING_APPROVAL)]
    await desk.turn()
    await bench.db.run(account_turns.acquire_account, "acme", "VAULT", "A", "exe_other", 1)
    await bench.clock.advance(30)
    (job,) = await desk.claim()
    assert isinstance(job, Job)
    await desk.script.move(desk.engine.order(job))
    await bench.clock.advance(LEASE_S + 1)
    script.looks = [TAKEN]
    for _ in range(2):
        await desk.turn()
    assert script.story == ["submit", "look"]
    assert set(await desk.stand()) == {"submitted"}


async def test_what_is_parked_frees_the_account(desk: Desk) -> None:
    """What the custodian made of it is not as ordered: an operator looks; others go on."""
    script, bench = desk.script, desk.bench
    script.moves = False
    script.submits = [all_are(SubStatus.AWAITING_APPROVAL)]
    script.looks = [says(CannotLook("nothing is remembered"))]
    await desk.turn()
    assert (await desk.row())["state"] == "parked"
    assert await bench.db.run(account_turns.acquire_account, "acme", "VAULT", "A", "exe_x", 1)
    await desk.turns(1, 100)
    assert script.story == ["submit", "look"]


async def test_what_was_taken_back_is_not_submitted(desk: Desk) -> None:
    """Closed by a cancel while a worker handles it: the mark cannot be set any more."""
    bench, script = desk.bench, desk.script
    (job,) = await desk.claim()
    assert isinstance(job, Job)
    assert await bench.db.run(bench.recorder.take_back, await desk.row())
    script.submits = [TAKEN]
    await desk.engine._work(job)
    assert script.moved == []
    assert set(await desk.stand()) == {"created"}


async def test_what_may_have_arrived_is_not_taken_back(desk: Desk) -> None:
    """Nor while its mark has no outcome; after proof it may be."""
    bench, script = desk.bench, desk.script
    (job,) = await desk.claim()
    assert isinstance(job, Job)
    await script.move(desk.engine.order(job))
    assert not await bench.db.run(bench.recorder.take_back, await desk.row())
    await bench.clock.advance(LEASE_S + 1)
    script.looks = [ABSENT]
    await desk.turn()
    assert not await bench.db.run(bench.recorder.take_back, await desk.row())
    await desk.prove_absence()
    assert await bench.db.run(bench.recorder.take_back, await desk.row())


async def test_a_turn_that_a_later_one_waits_for(desk: Desk) -> None:
    """A payout that was accepted later is queued until every item has ended."""
    script, bench = desk.script, desk.bench
    script.submits, script.looks = [TAKEN], [DONE]
    await desk.turn()
    late = await bench.accept()
    await desk.turn()
    assert (await bench.payout(late)).sub_status is SubStatus.QUEUED
    await desk.turns(1, 30)
    assert set(await desk.stand()) == {"delivered"}
    await desk.turn()
    assert (await bench.payout(late)).status is Status.PENDING
    assert script.moved == [desk.ids, [late]]


async def test_a_report_that_names_no_item_settles_nothing(desk: Desk) -> None:
    """The custodian answers, and says nothing of any payout: the outcome is as unknown as before."""
    script = desk.script
    script.submits = [raises(OutcomeUnknown("silence"))]
    script.looks = [says(BatchReport("RUNNING", {}))]
    await desk.turn()
    await desk.turns(5, 100)
    assert (await desk.row())["state"] == "unknown"
    assert len(script.moved) == 1
    assert set(await desk.stand()) == {"outcome_unknown"}


async def test_a_stranger_in_a_report_is_nobodys_news(desk: Desk) -> None:
    """A report that names a payout of no concern changes that payout in no way."""
    script, bench = desk.script, desk.bench
    other = await bench.accept()
    script.submits = [
        lambda order: BatchReport(
            "DONE",
            {
                **{each.payout_id: Report(SubStatus.SUBMITTED, "W") for each in order.items},
                other: Report(SubStatus.DELIVERED, "W"),
            },
        )
    ]
    (job,) = [each for each in await desk.claim() if isinstance(each, Job)]
    assert [each.id for each in job.items] == desk.ids
    await desk.engine._work(job)
    assert set(await desk.stand()) == {"submitted"}
    assert (await bench.payout(other)).status is Status.PENDING


async def test_an_engine_with_other_settings_goes_by_the_calls_own(desk: Desk) -> None:
    """Lives that were lowered since the call prove nothing: those stored with it count."""
    script = desk.script
    script.submits, script.looks = [raises(OutcomeUnknown("silence")), TAKEN], [ABSENT]
    await desk.turn()
    script.capabilities = replace(CAN, call_life_s=1, visibility_s=1, absence_looks=1)
    hasty = desk.new_engine("two")
    await desk.turns(3, 25, hasty)
    assert script.story == ["submit", "look", "look", "look"]
    await desk.turns(1, 25, hasty)
    await desk.turn(hasty)
    assert script.story[3:] == ["look", "look", "submit"]


async def test_a_look_with_a_wrong_clock_is_told_at_once(desk: Desk) -> None:
    """Not as a custodian that is out of reach after a while."""
    desk.script.submits = [TAKEN]
    desk.script.looks = [raises(NotSent("our clock is off", alert="clock_skew"))]
    await desk.turn()
    await desk.turns(7, 100)
    assert await desk.attention() == ["clock_skew"]


async def test_the_last_outcome_is_that_of_the_end(desk: Desk) -> None:
    """Not that of a look which did not find it before."""
    desk.script.submits = [raises(OutcomeUnknown("reset"))]
    desk.script.looks = [ABSENT, DONE]
    await desk.turns(4, 60)
    assert set(await desk.stand()) == {"delivered"}
    assert (await desk.row())["outcome"] == "DELIVERED"
