"""What only sets know: items that end one by one, news in pages, content that changes."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.adapter import (
    BatchReport,
    CannotLook,
    Capabilities,
    Failure,
    FailureCode,
    FundsMoved,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Report,
    SubStatus,
)
from gateway.batches.runner import BatchSteps, Handover
from gateway.batches.service import Batches
from gateway.execution.operator import Resolution, resolve
from gateway.execution.order import LiveOrder
from gateway.execution.proof import Source
from gateway.execution.record import PAGE, Recorded, Recorder
from gateway.execution.state import Job
from gateway.store import batches, executions, state
from gateway.store.database import Tx
from gateway.store.rows import to_us
from tests.execution.conftest import LEASE_S, Bench
from tests.execution.script import ABSENT, DONE, TAKEN, Desk, Outcome, all_are, raises, says
from tests.execution.test_engine import CAN

NO = Failure(code=FailureCode.POLICY_REJECTED, message="no", funds_moved=FundsMoved.NO)
MANY = 2 * PAGE + 10
CANNOT_LOOK = says(CannotLook("nothing to ask by", repeat_is_safe=True))


@pytest.fixture
def capabilities() -> Capabilities:
    """A custodian whose keys say nothing about repeats."""
    return CAN


@pytest.fixture
async def made(bench: Bench) -> Desk:
    """A set of three that nothing was done with."""
    desk = Desk(bench)
    await desk.open(3)
    return desk


@pytest.fixture
async def large(bench: Bench) -> Desk:
    """A set whose items are told in three pages."""
    desk = Desk(bench)
    await desk.open(MANY)
    return desk


async def not_paid(desk: Desk, payout_id: str) -> None:
    """Have an operator end an item: no money moved."""
    bench = desk.bench
    found = Resolution(delivered=False, evidence="console", funds_moved=FundsMoved.NO)
    assert (
        await bench.db.run(resolve, bench.recorder, bench.runtime, payout_id, found, lag=True)
        is None
    )


def steps_of(bench: Bench, *, configured: bool = True) -> BatchSteps:
    """Return the steps of batches at one custodian."""
    return BatchSteps(
        bench.runtime,
        bench.payouts,
        bench.quotes,
        Batches(bench.runtime, bench.quotes, frozenset({"acme"}), "https://gateway.example"),
        {"acme": Handover(set_size=3, window=1)},
        {"acme": bench.recorder} if configured else {},
    )


async def cancel(bench: Bench) -> None:
    """Cancel the batch, as its partner does."""
    now = to_us(bench.clock.now())

    async def ask(tx: Tx) -> None:
        await batches.update_batch(tx, "bat_1", cancel_at=now)

    await bench.db.run(ask)


def dies_at(monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """Have the process die before the transaction of a page, counted over all records from 1."""
    more, pages = Recorder.record_more, [1]

    async def dying(self: Recorder, *args: Any) -> Any:
        pages.append(1)
        if len(pages) == page:
            raise RuntimeError("killed")
        return await more(self, *args)

    monkeypatch.setattr(Recorder, "record_more", dying)


async def test_items_end_one_by_one(made: Desk) -> None:
    """The set goes on until the last of them; what contradicts an end is for the operator."""

    def some(order: LiveOrder) -> Outcome:
        first, second, third = order.items
        return BatchReport(
            "PARTLY",
            {
                first.payout_id: Report(SubStatus.DELIVERED, "W"),
                second.payout_id: Report(SubStatus.FAILED, "W", failure=NO),
                third.payout_id: Report(SubStatus.BROADCAST, "W"),
            },
        )

    made.script.submits, made.script.looks = [TAKEN], [some, DONE]
    await made.turn()
    await made.turns(1, 30)
    assert await made.stand() == ["delivered", "failed", "broadcast"]
    failed = await made.bench.payout(made.ids[1])
    assert failed.failure is not None
    assert failed.failure.funds_moved == "no"
    assert (await made.row())["ended_at"] is None
    await made.turns(1, 30)
    assert await made.stand() == ["delivered", "failed", "delivered"]
    assert await made.bench.attention(made.ids[1]) == ["contradiction"]


@pytest.mark.parametrize("page", [2, 3])
async def test_a_refusal_whose_teller_dies_is_told_by_the_next(
    large: Desk, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """Once one item has failed by it the set is never submitted again, whoever dies when."""
    large.script.submits = [raises(Rejected("destination_rejected", "unknown payee")), TAKEN]
    with monkeypatch.context() as patch:
        dies_at(patch, page)
        with pytest.raises(RuntimeError):
            await large.turn()
    assert (await large.stand()).count("rejected") == (page - 1) * PAGE
    await large.bench.clock.advance(LEASE_S + 1)
    await large.turn(large.new_engine("two"))
    assert set(await large.stand()) == {"rejected"}
    assert large.script.story == ["submit"]
    row = await large.row()
    assert (row["state"], row["refusal"]) == ("closed", None)


@pytest.mark.parametrize("by", ["news", "freezing"])
async def test_a_refusal_is_not_told_on_when_it_is_not_certain_any_more(
    large: Desk, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Between two pages our transfer is seen, or the database turns out to be an old copy.

    The items that are left are not ended as "not paid"; the set is looked up.
    """
    bench, last = large.bench, large.ids[-1]
    large.script.submits = [raises(Rejected("destination_rejected", "unknown payee")), TAKEN]
    large.script.looks = [all_are(SubStatus.BROADCAST)]
    more, pages = Recorder.record_more, list[int]()

    async def between(self: Recorder, tx: Tx, recorded: Recorded) -> Recorded:
        if not pages and by == "news":
            await self.news(tx, last, Report(SubStatus.BROADCAST, "SENT"), Source.WEBHOOK)
        elif not pages:
            await state.freeze(tx, bench.runtime.ids, 0, "a copy")
        pages.append(1)
        return await more(self, tx, recorded)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "record_more", between)
        await large.turn()
    found = await large.stand()
    assert found.count("rejected") == PAGE
    await large.turns(2, 70)
    assert (await large.stand()).count("rejected") == PAGE
    assert large.script.story.count("submit") == 1


async def test_a_takeover_is_told_to_every_item(
    large: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pages, at once; if the successor dies between two of them, the next one tells them all."""
    (job,) = await large.claim()
    assert isinstance(job, Job)
    await large.script.move(large.engine.order(job))
    await large.bench.clock.advance(LEASE_S + 1)
    with monkeypatch.context() as patch:
        dies_at(patch, 2)
        with pytest.raises(RuntimeError):
            await large.turn()
    assert (await large.stand()).count("outcome_unknown") == PAGE
    await large.bench.clock.advance(LEASE_S + 1)
    await large.turn()
    assert set(await large.stand()) == {"outcome_unknown"}
    assert await large.due_in() <= 0


async def test_a_teller_that_lost_its_lease_tells_nobody(
    large: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken over between two pages: the old worker writes nothing more; the next look tells the rest."""
    more = Recorder.record_more
    large.script.submits, large.script.looks = [TAKEN], [TAKEN]

    async def slow(self: Recorder, tx: Any, *args: Any) -> Any:
        row = await executions.open_execution_of(tx, large.ids[0])
        assert row is not None
        await executions.claim_one(tx, row["id"], "two", 2**62, 2**62)
        return await more(self, tx, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "record_more", slow)
        await large.turn()
    assert (await large.stand()).count("submitted") == PAGE
    await large.bench.write(large.ids[0], lease_until=0, due_at=0)
    await large.turn()
    assert set(await large.stand()) == {"submitted"}
    assert len(large.script.moved) == 1


async def test_the_loop_tells_what_a_takeover_has_left(large: Desk) -> None:
    """The engine's own loop tells every page at once: nothing waits for the end of a lease."""
    (job,) = await large.claim()
    assert isinstance(job, Job)
    await large.script.move(large.engine.order(job))
    await large.bench.clock.advance(LEASE_S + 1)
    large.script.looks = [ABSENT]
    async with large.running(large.new_engine("two")):
        await large.until("outcome_unknown")


async def test_an_item_that_had_ended_is_left_out(made: Desk) -> None:
    """Ended before anything was sent: the others are paid as another set, under other keys.

    Content that contains an ended item is never marked, so the execution is closed and a new one opened.
    """
    second = await made.bench.accept()
    await made.bench.write(second, batch_id="bat_1", number=2, due_at=2**62)
    await not_paid(made, made.ids[1])
    made.script.submits, made.script.looks = [TAKEN], [DONE]
    (before,) = await made.bench.db.read(executions.executions_of, made.ids[1])
    for _ in range(2):
        await made.turn()
    await made.turns(1, 30)
    assert made.script.moved == [[made.ids[0], made.ids[2]]]
    assert await made.stand() == ["delivered", "failed", "delivered"]
    old, new = await made.bench.db.read(executions.executions_of, made.ids[0])
    assert (old["id"], old["state"]) == (before["id"], "closed")
    # The batch has a second set already: every set of it has a number of its own.
    assert (new["state"], new["number"], new["batch_id"]) == ("closed", 3, "bat_1")
    assert old["key_seed"] != new["key_seed"]


async def test_an_item_that_ends_after_a_429_is_not_in_the_new_content(made: Desk) -> None:
    """Resolved as not paid while the set waits to be sent again: the next call is without it."""
    made.script.submits = [raises(NotSent("429", again_after_s=60)), TAKEN]
    await made.turn()
    await not_paid(made, made.ids[1])
    await made.turns(2, 61)
    assert made.script.moved == [made.ids, [made.ids[0], made.ids[2]]]
    assert made.script.keys[0] != made.script.keys[1]
    assert await made.stand() == ["submitted", "failed", "submitted"]


async def test_an_item_that_ends_after_a_lost_reply_is_not_in_the_new_content(made: Desk) -> None:
    """Resolved as not paid once absence is proven: the others go on as new content, under new keys."""
    made.script.submits = [raises(OutcomeUnknown("lost")), TAKEN]
    made.script.looks = [ABSENT]
    await made.turn()
    await made.prove_absence()
    await not_paid(made, made.ids[1])
    for _ in range(2):
        await made.turn()
    assert made.script.moved == [made.ids, [made.ids[0], made.ids[2]]]
    assert made.script.keys[0] != made.script.keys[1]
    assert await made.stand() == ["submitted", "failed", "submitted"]


async def test_an_item_that_ends_before_a_suspended_worker_moves(made: Desk) -> None:
    """Its worker holds the old content, and its lease is over: the old content is not marked any more."""
    (job,) = await made.claim()
    assert isinstance(job, Job)
    await made.bench.clock.advance(LEASE_S + 1)
    await not_paid(made, made.ids[1])
    made.script.submits = [TAKEN]
    await made.engine._work(job)
    assert made.script.moved == []
    assert await made.stand() == ["submitting", "failed", "submitting"]
    await made.turns(2, 30)
    assert made.script.moved == [[made.ids[0], made.ids[2]]]


async def test_an_item_that_ends_while_its_set_is_unknown(made: Desk) -> None:
    """Before proof the rest of the set is only looked at; after proof it goes on without the item."""
    bench = made.bench
    made.script.submits = [raises(OutcomeUnknown("lost")), TAKEN]
    made.script.looks = [ABSENT]
    await made.turn()
    found = Resolution(delivered=False, evidence="gave up", funds_moved=FundsMoved.UNKNOWN)
    await bench.db.run(resolve, bench.recorder, bench.runtime, made.ids[1], found)
    await made.turns(2, 25)
    assert len(made.script.moved) == 1
    await made.turns(2, 45)
    for _ in range(2):
        await made.turn()
    assert made.script.moved == [made.ids, [made.ids[0], made.ids[2]]]


async def test_a_harmless_repeat_is_not_made_without_an_ended_item(made: Desk) -> None:
    """Stored as prepared for a harmless repeat, then an item is ended: an operator decides.

    The old content is never sent again, and the rest under new keys might be paid twice.
    """
    bench = made.bench
    made.script.submits, made.script.looks = [raises(OutcomeUnknown("lost"))], [ABSENT]
    await made.turn()
    found = Resolution(delivered=False, evidence="gave up", funds_moved=FundsMoved.UNKNOWN)
    await bench.db.run(resolve, bench.recorder, bench.runtime, made.ids[1], found)
    await bench.write(made.ids[0], state="prepared", repeat_is_safe=1, due_at=0)
    await made.turn()
    row = await made.row()
    assert (row["state"], row["repeat_is_safe"]) == ("unknown", 1)
    assert await bench.attention(made.ids[0]) == ["item_ended"]
    assert len(made.script.moved) == 1


async def test_what_blocks_a_set_blocks_its_rest(made: Desk) -> None:
    """A set that shows another amount is not sent again as a smaller one: a person decides first."""
    bench = made.bench
    made.script.moves = False
    made.script.submits = [all_are(SubStatus.AWAITING_APPROVAL)]
    made.script.looks = [all_are(SubStatus.AWAITING_APPROVAL)]
    await made.turn()
    await bench.write(made.ids[0], blocked="mismatch")
    await not_paid(made, made.ids[1])
    made.script.moves, made.script.submits = True, [TAKEN]
    for _ in range(3):
        await made.turns(1, 100)
    assert made.script.moved == []
    (execution,) = await bench.db.read(executions.executions_of, made.ids[0])
    assert execution["ended_at"] is None
    assert await bench.attention(made.ids[0]) == ["item_ended"]


@pytest.mark.parametrize("canceled", [False, True])
async def test_a_batch_whose_custodian_is_not_configured_waits(
    made: Desk, *, canceled: bool
) -> None:
    """No step of it fails, or ends what was handed over, whatever was asked for; configured again, it goes on."""
    bench = made.bench
    if canceled:
        await cancel(bench)
    for configured in (False, True):
        steps = steps_of(bench, configured=configured)
        before = (tuple(await made.row()), await made.stand())
        while (await bench.db.run(steps.step, "bat_1")).more:
            assert configured
        if not configured:
            assert (tuple(await made.row()), await made.stand()) == before
    assert set(await made.stand()) == ({"canceled"} if canceled else {"created"})


@pytest.mark.parametrize("first", ["batch", "engine"])
async def test_a_canceled_set_that_is_proven_absent_is_not_sent_again(
    made: Desk, first: str
) -> None:
    """Its reply was lost, its batch is canceled, and then its absence is proven: it is taken back.

    Also where the engine comes before the batch: no call is begun for a batch that is canceled.
    """
    bench, steps = made.bench, steps_of(made.bench)
    made.script.submits = [raises(OutcomeUnknown("lost")), TAKEN]
    made.script.looks = [ABSENT]
    await made.turn()
    await cancel(bench)
    await bench.db.run(steps.step, "bat_1")
    assert set(await made.stand()) == {"outcome_unknown"}, "what may have arrived is not ended"
    await made.prove_absence()
    assert (await made.row())["state"] == "prepared"
    if first == "engine":
        await made.turn()
        assert made.script.story[-1] == "submit"
    while (await bench.db.run(steps.step, "bat_1")).more:
        pass
    assert set(await made.stand()) == {"canceled"}
    await made.turns(2, 40)
    assert len(made.script.moved) == 1


async def test_no_canceled_set_is_taken_from_a_worker_that_may_send_it(made: Desk) -> None:
    """A set that was sent once, and that a worker holds, is left to that worker."""
    bench, steps = made.bench, steps_of(made.bench)
    made.script.submits, made.script.looks = [raises(OutcomeUnknown("lost"))], [ABSENT]
    await made.turn()
    await made.prove_absence()
    (job,) = await made.claim()
    assert isinstance(job, Job)
    await cancel(bench)
    await bench.db.run(steps.step, "bat_1")
    assert (await made.row())["ended_at"] is None
    await bench.clock.advance(LEASE_S + 1)
    await bench.db.run(steps.step, "bat_1")
    assert (await made.row())["ended_at"] is not None


async def test_no_batch_goes_on_in_an_old_copy(made: Desk) -> None:
    """Canceled, it ends nothing: the copy may miss a call. It goes on once it is known to be the database."""
    bench, steps = made.bench, steps_of(made.bench)
    await cancel(bench)
    await bench.db.run(state.freeze, bench.runtime.ids, 0, "a copy")
    await bench.db.run(steps.step, "bat_1")
    assert set(await made.stand()) == {"created"}
    await bench.db.run(state.unfreeze)
    await bench.db.run(steps.step, "bat_1")
    assert set(await made.stand()) == {"canceled"}


async def test_a_harmless_repeat_goes_on_in_a_canceled_batch(bench: Bench) -> None:
    """What may have arrived was sent, and stays sent: only its repeat shows what became of it."""
    bench.capabilities = bench.repeating()
    desk = Desk(bench)
    await desk.open(2)
    desk.script.submits = [raises(OutcomeUnknown("lost")), TAKEN]
    desk.script.looks = [CANNOT_LOOK]
    await desk.turn()
    await cancel(bench)
    for _ in range(4):
        await bench.db.run(steps_of(bench).step, "bat_1")
        await desk.turns(1, 20)
    assert len(set(desk.script.keys)) == 1
    assert len(desk.script.moved) == 2
    assert set(await desk.stand()) == {"submitted"}
