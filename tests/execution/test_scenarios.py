"""What goes wrong in the world, one story each, with the real engine: never twice, and never stuck."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from itertools import pairwise

import pytest
from sqlalchemy import insert, update

from gateway.adapter import (
    Absent,
    Action,
    BatchReport,
    CannotLook,
    Capabilities,
    Echo,
    Failure,
    FailureCode,
    FundsMoved,
    KeySemantics,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Report,
    SubStatus,
)
from gateway.errors import LeaseLost
from gateway.execution.decide import FAILURES_ALERT, LOOKS_ALERT
from gateway.execution.gate import MarkRefused
from gateway.execution.proof import Answer, Kind, Source
from gateway.execution.state import Job, Verb
from gateway.store import account_turns, executions
from gateway.store.database import Query, Tx
from gateway.store.schema_executions import account_declarations, heartbeats, store_state
from tests.execution.conftest import LEASE_S, Bench
from tests.execution.script import ABSENT, DONE, TAKEN, Desk, Line, all_are, raises, says

HOUR = 3600.0
NO = Failure(code=FailureCode.POLICY_REJECTED, message="no", funds_moved=FundsMoved.NO)
LOST = raises(OutcomeUnknown("lost"))
BLIND = says(CannotLook("nothing to ask by"))
SAFE = says(CannotLook("nothing to ask by", repeat_is_safe=True))
CAN = Capabilities(
    frozenset({"custodian_account"}),
    batch=True,
    one_at_a_time=True,
    keys=KeySemantics(life_s=86_400),
    call_life_s=60,
    visibility_s=30,
    polling_s=(10, 20, 40, 80, 160),
)


@pytest.fixture
def capabilities() -> Capabilities:
    """A custodian that remembers keys for a day."""
    return CAN


@pytest.fixture(params=[1, 3], ids=["one", "many"])
async def desk(bench: Bench, request: pytest.FixtureRequest) -> Desk:
    """An execution that nothing was done with."""
    made = Desk(bench)
    await made.open(request.param)
    return made


@pytest.fixture
async def lost(desk: Desk) -> Desk:
    """An execution whose first call was lost; what is asked then answers "absent"."""
    desk.script.submits, desk.script.looks = [LOST, TAKEN], [ABSENT]
    await desk.turn()
    assert len(desk.script.moved) == 1
    return desk


async def failures(desk: Desk) -> set[tuple[str, str]]:
    """Return how the items have failed, and what is said of the money."""
    found = set()
    for each in desk.ids:
        payout = await desk.bench.payout(each)
        assert payout.failure is not None
        found.add((payout.failure.code.value, payout.failure.funds_moved.value))
    return found


# --- Clocks ---------------------------------------------------------------------------------------


async def test_a_clock_that_is_set_forward_proves_nothing(lost: Desk) -> None:
    """An hour by the wall clock, no time at all by any other: no second call."""
    for _ in range(5):
        lost.bench.clock.step(HOUR)
        await lost.turns(1, 12)
    assert lost.script.story.count("look") >= 3
    assert len(lost.script.moved) == 1
    assert (await lost.row())["state"] == "unknown"


async def test_a_clock_that_is_set_back_delays_nothing(lost: Desk) -> None:
    """What is due is done in time, and what was proven stays proven."""
    lost.bench.clock.step(-HOUR)
    assert 0 < await lost.due_in() <= 12
    await lost.prove_absence()
    await lost.turn()
    assert len(lost.script.moved) == 2
    assert set(await lost.stand()) == {"submitted"}


async def test_the_loop_goes_on_when_the_clock_is_set_back(lost: Desk) -> None:
    """It sleeps until work is due by elapsed time, however far away that is by the wall clock."""
    async with lost.running(), asyncio.timeout(20):
        lost.bench.clock.step(-HOUR)
        while len(lost.script.moved) == 1:
            await asyncio.sleep(0.001)
            if lost.bench.clock.sleepers and not lost.engine._tasks:
                await lost.bench.clock.advance(2)
        await lost.until("submitted")
    calls = [each.at.elapsed / 1e6 for each in await lost.rows() if each.kind is Kind.CALL]
    assert 90 <= calls[1] - calls[0] <= 200


async def test_a_dead_owners_lease_ends_whatever_the_wall_clock_says(desk: Desk) -> None:
    """Its successor takes over when the lease's length has passed, not an hour later."""
    (job,) = await desk.claim()
    assert isinstance(job, Job)
    await desk.script.move(desk.engine.order(job))
    desk.bench.clock.step(-HOUR)
    await desk.bench.clock.advance(LEASE_S - 1)
    assert not await desk.turn()
    await desk.bench.clock.advance(2)
    assert await desk.turn(desk.new_engine("two"))
    assert set(await desk.stand()) == {"outcome_unknown"}


async def test_a_clock_that_is_set_forward_ends_no_lease(desk: Desk) -> None:
    """Its owner works on; nobody takes over what is handled."""
    (job,) = await desk.claim()
    assert isinstance(job, Job)
    desk.bench.clock.step(HOUR)
    assert not await desk.turn(desk.new_engine("two"))
    desk.script.submits = [TAKEN]
    await desk.engine._work(job)
    assert set(await desk.stand()) == {"submitted"}


async def test_after_a_reboot_waiting_starts_anew(lost: Desk) -> None:
    """Another clock's elapsed time says nothing about the call, however far ahead it is."""
    await lost.turns(2, 25)
    lost.bench.clock.reboot()
    await lost.turns(1, 45)
    assert (await lost.row())["state"] == "unknown"
    # This look was the first row of the new clock: 90 s of it prove that the call is over.
    await lost.turns(2, 40)
    assert len(lost.script.moved) == 1
    await lost.turns(1, 25)
    await lost.turn()
    assert len(lost.script.moved) == 2


async def test_after_a_reboot_a_gateways_heartbeat_shortens_the_wait(lost: Desk) -> None:
    """One row per minute counts for every call that was made before it."""
    await lost.turns(2, 25)
    lost.bench.clock.reboot()
    now = lost.bench.clock.moment()
    beat = {
        "gateway_id": "gw_1",
        "clock_id": now.clock_id,
        "elapsed": now.elapsed,
        "wall": now.wall,
        "marks": 1,
    }

    async def put(tx: Tx) -> None:
        await tx.many(Query(insert(heartbeats), columns=tuple(beat)), [beat])

    await lost.bench.db.run(put)
    await lost.turns(1, 91)
    await lost.turn()
    assert len(lost.script.moved) == 2


async def test_a_look_counts_from_its_start(lost: Desk) -> None:
    """A look that started inside the call's life and was written much later is no proof.

    Its process was suspended between request and record, and the call arrived meanwhile.
    """
    bench = lost.bench
    await lost.turns(2, 25)
    await bench.clock.advance(30)
    (job,) = await lost.claim()
    assert isinstance(job, Job)
    order, started = lost.engine.order(job), bench.clock.moment()
    await bench.clock.advance(LEASE_S - 1)
    recorded = await lost.engine.record(
        job, Verb.FETCH, Absent("404"), order=order, started=started
    )
    assert not recorded.lost
    looks = [each.at.elapsed / 1e6 for each in await lost.rows() if each.kind is Kind.LOOK]
    assert looks == [25, 50, 80]
    assert bench.clock.monotonic() > 90
    assert (await lost.row())["state"] == "unknown"
    await lost.turns(1, 25)
    await lost.turn()
    assert len(lost.script.moved) == 2


# --- Calls, replies and words ---------------------------------------------------------------------


async def test_news_while_the_outcome_is_unknown(lost: Desk) -> None:
    """A webhook brings "broadcast": it is looked at from then on, whatever looks say."""
    bench = lost.bench
    await lost.turns(2, 45)
    sent = Report(SubStatus.BROADCAST, "SENT")
    await bench.db.run(bench.recorder.news, lost.ids[0], sent, Source.WEBHOOK)
    await lost.turns(6, 100)
    assert len(lost.script.moved) == 1
    assert "unresolved" not in await lost.attention()
    lost.script.looks = [DONE]
    await lost.turns(1, 200)
    assert set(await lost.stand()) == {"delivered"}


async def test_news_between_the_last_look_and_the_mark(lost: Desk) -> None:
    """Proven absent, due to be sent again, and then a webhook: the gate refuses, no call is made."""
    bench = lost.bench
    await lost.prove_absence()
    (job,) = await lost.claim()
    assert isinstance(job, Job)
    assert job.next_verb is Verb.SUBMIT
    sent = Report(SubStatus.SUBMITTED, "SENT")
    await bench.db.run(bench.recorder.news, lost.ids[0], sent, Source.WEBHOOK)
    await lost.engine._work(job)
    assert len(lost.script.moved) == 1
    row = await lost.row()
    assert (row["state"], row["outcome"]) == (
        "unknown",
        "MarkRefused: the gateway made no call (news)",
    )


async def test_a_late_failure_of_an_earlier_call(lost: Desk) -> None:
    """The webhook "failed" of call 1 comes while call 2 is unknown: nothing ends, nothing is said."""
    bench = lost.bench
    await lost.prove_absence()
    lost.script.submits = [LOST]
    await lost.turn()
    assert len(lost.script.moved) == 2
    for each in lost.ids:
        word = Report(SubStatus.FAILED, "FAILED", failure=NO)
        applied = await bench.db.run(bench.recorder.news, each, word, Source.WEBHOOK)
        assert applied is None
    assert set(await lost.stand()) == {"outcome_unknown"}
    # A look that starts after both calls are over speaks of both.
    lost.script.looks = [all_are(SubStatus.FAILED, NO)]
    await lost.turns(1, 25)
    assert set(await lost.stand()) == {"outcome_unknown"}
    while await lost.due_in() > 0:
        await bench.clock.advance(await lost.due_in())
        await lost.turn()
        if (await lost.row())["ended_at"] is not None:
            break
    assert await failures(lost) == {("policy_rejected", "no")}
    called = [each.at for each in await lost.rows() if each.kind is Kind.CALL][-1]
    assert bench.clock.moment().elapsed - called.elapsed >= 90e6


async def test_a_reply_that_the_only_call_failed(desk: Desk) -> None:
    """One call, and the custodian's own final word about it: there is nothing to wait for."""
    desk.script.submits = [all_are(SubStatus.FAILED, NO)]
    await desk.turn()
    assert await failures(desk) == {("policy_rejected", "no")}
    assert (await desk.row())["state"] == "closed"


async def test_a_refusal_in_between_that_may_be_about_the_first_call(lost: Desk) -> None:
    """A call that says "failed" after another one was lost ends nothing before both are over."""
    await lost.prove_absence()
    lost.script.submits = [all_are(SubStatus.FAILED, NO)]
    await lost.turn()
    assert set(await lost.stand()) == {"outcome_unknown"}
    lost.script.looks = [all_are(SubStatus.FAILED, NO)]
    await lost.turns(1, 91)
    assert await failures(lost) == {("policy_rejected", "no")}


async def test_a_late_refused_code_asks_a_person_again(desk: Desk) -> None:
    """Refused late, and certainly unpaid: another execution with keys of its own, and nothing is told."""
    script, bench = desk.script, desk.bench
    script.submits, script.looks = [TAKEN], [all_are(SubStatus.FAILED, NO, reopens=True)]
    await desk.turn()
    await desk.turns(1, 30)
    old, new = await bench.db.read(executions.executions_of, desk.ids[0])
    assert (old["state"], new["state"]) == ("closed", "prepared")
    assert (old["number"], new["number"], new["earlier"]) == (1, 2, 1)
    assert set(await desk.stand()) == {"submitted"}
    await desk.turn()
    assert script.moved == [desk.ids, desk.ids]
    assert script.keys[0] != script.keys[1]


async def test_a_late_refused_code_after_another_call_was_lost(lost: Desk) -> None:
    """It proves nothing about the lost call, so no other execution is opened before both are over."""
    await lost.prove_absence()
    late = all_are(SubStatus.FAILED, NO, reopens=True)
    lost.script.submits, lost.script.looks = [LOST, TAKEN], [late]
    await lost.turn()
    await lost.turns(1, 25)
    assert len(await lost.bench.db.read(executions.executions_of, lost.ids[0])) == 1
    await lost.turns(1, 91)
    assert len(await lost.bench.db.read(executions.executions_of, lost.ids[0])) == 2


async def test_a_person_who_is_asked_again_can_answer(desk: Desk) -> None:
    """An answer was lost and proven absent, the payout asks anew, and a look says so: it can be answered.

    That the custodian waits for an answer takes back no proof about the one that was lost.
    """
    script = desk.script
    asks = all_are(SubStatus.REQUIRES_ACTION, action=Action())
    script.submits, script.looks, script.moves = [asks], [ABSENT], False
    await desk.turn()
    await desk.turns(1, 200)
    (job,) = await answering(desk)
    order, started = desk.engine.order(job), desk.bench.clock.moment()
    await script.move(order)
    await desk.engine.record(
        job, Verb.CONFIRM, OutcomeUnknown("lost"), order=order, started=started
    )
    await desk.prove_absence()
    await desk.turn()
    assert set(await desk.stand()) == {"requires_action"}
    script.looks = [asks]
    await desk.turns(3, 200)
    assert (await desk.row())["state"] == "parked"
    (job,) = await answering(desk)
    await script.move(desk.engine.order(job))
    assert len(script.moved) == 2


async def answering(desk: Desk) -> list[Job]:
    """Lease the execution for a person's answer."""
    engine, execution = desk.engine, await desk.row()
    now = desk.bench.runtime.timeline.now()
    until = now + round(LEASE_S * 1e6)

    async def begin(tx: Tx) -> list[Job]:
        row = await executions.claim_one(tx, execution["id"], "api", now, until)
        assert row is not None
        begun = await engine.recorder.begin(tx, [row])
        return [each for each in begun if isinstance(each, Job)]

    return await desk.bench.db.run(begin)


async def test_an_adapter_that_waits_again_after_a_lost_call(lost: Desk) -> None:
    """Proven absent and submitted again; the adapter wants to wait before it moves: it is heard."""
    script = lost.script
    await lost.prove_absence()
    script.moves = False
    script.submits = [all_are(SubStatus.SUBMITTING, again_after_s=33), TAKEN]
    await lost.turn()
    assert ((await lost.row())["state"], await lost.due_in()) == ("prepared", 33)
    script.moves = True
    await lost.turns(1, 33)
    assert len(script.moved) == 2
    assert set(await lost.stand()) == {"submitted"}


async def test_what_is_blocked_opens_no_other_execution(desk: Desk) -> None:
    """The custodian showed another amount before: a person decides before anybody is asked again."""
    script, bench = desk.script, desk.bench
    script.submits = [TAKEN]
    await desk.turn()
    await bench.write(desk.ids[0], blocked="mismatch")
    script.looks = [all_are(SubStatus.FAILED, NO, reopens=True)]
    await desk.turns(3, 100)
    assert len(await bench.db.read(executions.executions_of, desk.ids[0])) == 1
    assert len(script.moved) == 1
    assert await desk.due_in() > 0


async def test_a_mismatch_blocks_every_further_mark(lost: Desk) -> None:
    """The custodian shows another amount: nothing is sent any more, proven or not."""
    bench = lost.bench
    await lost.prove_absence()
    (job,) = await lost.claim()
    assert isinstance(job, Job)
    odd = Report(None, "?", echo=Echo(amount=bench.amount + 1, ordered_amount=bench.amount))
    await bench.db.run(bench.recorder.news, lost.ids[0], odd, Source.WEBHOOK)
    await lost.engine._work(job)
    await lost.turns(FAILURES_ALERT + 2, 200)
    assert len(lost.script.moved) == 1
    # The custodian can be reached: it is the gateway that makes no call.
    assert await lost.attention() == ["mismatch", "unresolved"]


async def test_news_that_comes_while_a_refusal_is_on_its_way(desk: Desk) -> None:
    """A transfer was seen: that the custodian refuses the order now does not make it unpaid."""
    bench = desk.bench
    desk.script.moves = False

    (job,) = await desk.claim()
    assert isinstance(job, Job)
    order, started = desk.engine.order(job), bench.clock.moment()
    sent = Report(SubStatus.BROADCAST, "SENT")
    await bench.db.run(bench.recorder.news, desk.ids[0], sent, Source.WEBHOOK)
    await desk.engine.record(job, Verb.SUBMIT, Rejected("no"), order=order, started=started)
    assert (await bench.payout(desk.ids[0])).status == "broadcast"


# --- Harmless repeats -----------------------------------------------------------------------------


@pytest.mark.parametrize("look", [SAFE, BLIND], ids=["said", "declared"])
@pytest.mark.parametrize("size", [1, 3])
async def test_a_harmless_repeat_comes_later_and_later(bench: Bench, look: Line, size: int) -> None:
    """Where a repeat cannot pay twice it is made without proof, by the polling curve; sets, too."""
    if look is BLIND:
        bench.capabilities = bench.repeating()
    desk = Desk(bench)
    await desk.open(size)
    desk.script.submits, desk.script.looks = [LOST], [look]
    at: list[float] = []
    while len(at) < 6:
        before = len(desk.script.moved)
        if not await desk.turn():
            await bench.clock.advance(1)
        if len(desk.script.moved) > before:
            at.append(bench.clock.monotonic())
    waits = [later - earlier for earlier, later in pairwise(at)]
    # A look each, then the curve with its jitter of a fifth.
    for wait, curve in zip(waits, CAN.polling_s, strict=True):
        assert 0.8 * (10 + curve) - 1 <= wait <= 1.2 * (10 + curve) + 2
    assert "unresolved" in await desk.attention()
    assert len(set(desk.script.keys)) == 1
    desk.script.submits = desk.script.looks = [DONE]
    await desk.turns(2, 200)
    assert set(await desk.stand()) == {"delivered"}


async def test_a_harmless_repeat_that_is_refused_for_now_does_not_become_a_storm(
    bench: Bench,
) -> None:
    """429 to every repeat: the custodian's own wish is heard, delays grow, an operator is told."""
    desk = Desk(bench)
    await desk.open(1)
    desk.script.submits = [LOST, raises(NotSent("429", again_after_s=50)), raises(NotSent("429"))]
    desk.script.looks = [SAFE]
    await desk.turn()
    while len(desk.script.moved) < 2:
        await desk.turns(1, 1)
    assert await desk.due_in() >= 50
    began, seconds = len(desk.script.moved), 1200
    for _ in range(seconds):
        await desk.turns(1, 1)
    assert len(desk.script.moved) - began <= 9
    assert set(await desk.stand()) == {"outcome_unknown"}
    assert "custodian_unreachable" in await desk.attention()


async def test_an_adapter_that_says_not_safe_is_believed_after_a_takeover(bench: Bench) -> None:
    """Declared safe, but of this order the adapter has said that it is not: that outlives a worker."""
    bench.capabilities = bench.repeating()
    desk = Desk(bench)
    await desk.open(1)
    unsafe = says(CannotLook("nothing to ask by", repeat_is_safe=False))
    desk.script.submits, desk.script.looks = [LOST, TAKEN], [unsafe, ABSENT]
    await desk.turn()
    await desk.turns(1, 15)
    await desk.prove_absence()
    (job,) = await desk.claim()
    assert isinstance(job, Job)
    await desk.script.move(desk.engine.order(job))
    await bench.clock.advance(LEASE_S + 1)
    for _ in range(3):
        await desk.turn(desk.new_engine("two"))
    await desk.turns(1, 25)
    assert len(desk.script.moved) == 2


async def test_a_stored_permission_does_not_outlive_the_key(lost: Desk) -> None:
    """Stored as prepared for a harmless repeat, then suspended for longer than the key is remembered."""
    bench = lost.bench
    lost.script.looks = [SAFE]
    await lost.turns(1, 12)
    assert (await lost.row())["state"] == "prepared"
    await bench.clock.advance(86_400)
    await lost.turn()
    assert len(lost.script.moved) == 1
    row = await lost.row()
    assert (row["state"], row["outcome"]) == (
        "unknown",
        "MarkRefused: the gateway made no call (key_life)",
    )
    assert await lost.attention() == ["key_life"]
    await lost.turns(10, 200)
    assert len(lost.script.moved) == 1


@pytest.mark.parametrize("seconds", [86_400.0, -86_400.0])
async def test_a_wall_clock_can_only_forbid_a_repeat(lost: Desk, seconds: float) -> None:
    """Set forward past the key's life it forbids; set back it allows nothing that elapsed time forbids."""
    bench = lost.bench
    lost.script.looks = [SAFE]
    await lost.turns(1, 12)
    if seconds < 0:
        await bench.clock.advance(86_400)
    bench.clock.step(seconds)
    await lost.turns(5, 30)
    assert len(lost.script.moved) == 1
    assert await lost.attention() == ["key_life"]


async def test_a_repeat_at_another_account_is_another_payment(lost: Desk) -> None:
    """The same key at another account is a new order there: a harmless repeat ends with the account."""
    lost.script.looks = [SAFE]
    await lost.turns(1, 12)
    assert (await lost.row())["state"] == "prepared"
    lost.script.account = "acme/B"
    await lost.turns(6, 200)
    assert len(lost.script.moved) == 1
    assert "same_account" in await lost.attention()


# --- Accounts and configuration -------------------------------------------------------------------


async def test_another_account_proves_nothing(lost: Desk) -> None:
    """The instance was pointed at another account, where nobody knows the order: no look counts."""
    lost.script.account = "acme/B"
    await lost.turns(LOOKS_ALERT, 100)
    assert len(lost.script.moved) == 1
    assert await lost.attention() == ["same_account"]
    assert (await lost.row())["state"] == "unknown"
    # Looks that prove nothing become rare.
    await lost.turns(1, 200)
    assert await lost.due_in() > 100


async def declare(bench: Bench) -> None:
    """Declare that the new credentials are of the account of the old ones."""
    declared = {
        "custodian": "acme",
        "fingerprint": "acme/B",
        "same_as": "acme/A",
        "evidence": "rotated",
        "at": 1,
    }

    async def put(tx: Tx) -> None:
        await tx.many(Query(insert(account_declarations), columns=tuple(declared)), [declared])

    await bench.db.run(put)


@pytest.mark.parametrize("shared", [True, False], ids=["of-the-account", "of-the-credentials"])
@pytest.mark.parametrize("look", [SAFE, BLIND], ids=["said", "declared"])
async def test_keys_may_belong_to_the_credentials(bench: Bench, look: Line, shared: bool) -> None:
    """A repeat under new credentials is the same call only where every credential meets the same keys.

    Where it is not, nothing is sent, for as long as it takes; an operator is told.
    """
    if look is BLIND:
        bench.capabilities = bench.repeating()
    keys = replace(bench.capabilities.keys, shared_by_credentials=shared)
    bench.capabilities = replace(bench.capabilities, keys=keys)
    desk = Desk(bench)
    await desk.open(1)
    desk.script.submits, desk.script.looks = [LOST, TAKEN], [look]
    await desk.turn()
    desk.script.account = "acme/B"
    await declare(bench)
    await desk.turns(12, 300)
    assert len(desk.script.moved) == (2 if shared else 1)
    if not shared:
        assert await desk.attention() != []
        assert (await desk.row())["state"] == "unknown"


async def test_a_declared_account_counts(lost: Desk) -> None:
    """An operator has declared that it is the same account under new credentials: its looks count."""
    lost.script.account = "acme/B"
    await declare(lost.bench)
    await lost.prove_absence()
    await lost.turn()
    assert len(lost.script.moved) == 2
    assert await lost.attention() == []


async def test_an_account_that_changes_back(lost: Desk) -> None:
    """Looks at the right account count again, those at the other one never did."""
    lost.script.account = "acme/B"
    await lost.turns(3, 45)
    lost.script.account = "acme/A"
    await lost.turns(2, 45)
    assert len(lost.script.moved) == 1
    await lost.turns(1, 45)
    await lost.turn()
    assert len(lost.script.moved) == 2


# --- The gate -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value", "code"),
    [("frozen", "an old copy", "database_frozen"), ("gate_version", 99, "gate_version")],
)
async def test_a_database_that_must_not_be_marked(
    desk: Desk, column: str, value: object, code: str
) -> None:
    """It may be an old copy, or a newer release knows a condition that this one does not: no call."""

    async def put(tx: Tx) -> None:
        await tx.all(Query(update(store_state).values({column: value})))

    await desk.bench.db.run(put)
    desk.script.submits = [TAKEN]
    await desk.turns(FAILURES_ALERT, 200)
    assert desk.script.moved == []
    assert set(await desk.stand()) == {"submitting"}
    assert (await desk.row())["outcome"] == f"MarkRefused: the gateway made no call ({code})"
    assert "custodian_unreachable" not in await desk.attention()
    assert await desk.attention() == ["gate_version" if code == "gate_version" else "unresolved"]


async def test_a_suspended_worker_can_neither_mark_nor_record(lost: Desk) -> None:
    """It wakes up after another one has proven absence and sent the order again."""
    bench = lost.bench
    await bench.clock.advance(12)
    (asleep,) = await lost.claim()
    assert isinstance(asleep, Job)
    order, started = lost.engine.order(asleep), bench.clock.moment()
    await bench.clock.advance(LEASE_S + 1)
    other = lost.new_engine("two")
    await lost.turns(4, 45, other)
    assert len(lost.script.moved) == 2
    with pytest.raises(LeaseLost):
        await order.moving()
    with pytest.raises(LeaseLost):
        await order.remember(payout_id="c-1")
    before = (tuple(await lost.row()), await lost.rows(), await lost.stand())
    for outcome in (Absent("404"), CannotLook(""), OutcomeUnknown("x"), all_told(lost)):
        recorded = await lost.engine.record(
            asleep, Verb.FETCH, outcome, order=order, started=started
        )
        assert recorded.lost
    assert (tuple(await lost.row()), await lost.rows(), await lost.stand()) == before


async def test_a_worker_that_dies_is_succeeded_by_a_look(lost: Desk) -> None:
    """Killed between the second mark and its reply: two unknown calls, and proof must cover both."""
    await lost.prove_absence()
    (job,) = await lost.claim()
    assert isinstance(job, Job)
    await lost.script.move(lost.engine.order(job))
    await lost.bench.clock.advance(LEASE_S + 1)
    await lost.turn(lost.new_engine("two"))
    answers = [each.answer for each in await lost.rows() if each.kind is Kind.CALL]
    assert answers == [Answer.UNKNOWN, None]
    await lost.turns(2, 25)
    assert len(lost.script.moved) == 2
    await lost.turns(1, 25)
    await lost.turn()
    assert len(lost.script.moved) == 3


async def test_an_item_in_an_open_execution_is_in_no_other(desk: Desk) -> None:
    """The schema itself refuses a second open execution."""
    moment = desk.bench.clock.moment()
    with pytest.raises(sqlite3.IntegrityError):
        await desk.bench.db.run(
            executions.open_execution,
            execution_id="exe_second",
            custodian="acme",
            account="{}",
            items=[desk.ids[0]],
            at=moment,
            due=0,
        )


async def opened_anew(desk: Desk) -> None:
    """Have the execution be closed by a fault while its call is unknown, and another one be opened."""
    bench = desk.bench
    desk.script.submits = [LOST]
    await desk.turn()
    (old,) = await bench.db.read(executions.executions_of, desk.ids[0])
    moment = bench.clock.moment()

    async def fault(tx: Tx) -> None:
        await executions.close(tx, old["id"], 1)
        await executions.open_execution(
            tx,
            execution_id="exe_second",
            custodian="acme",
            account=old["account"],
            items=desk.ids,
            at=moment,
            due=bench.runtime.timeline.now(),
        )
        await account_turns.release_account(tx, old["id"], "acme", old["account"], 1, 0)

    await bench.db.run(fault)


async def test_an_earlier_execution_that_may_have_paid_holds_its_items(desk: Desk) -> None:
    """Another execution may not move money, and may not say that none moved."""
    await opened_anew(desk)
    assert not await desk.bench.db.run(desk.bench.recorder.take_back, await desk.row())
    (job,) = await desk.claim()
    assert isinstance(job, Job)
    with pytest.raises(MarkRefused, match="not_closed"):
        await desk.engine.order(job).moving()
    started = desk.bench.clock.moment()
    await desk.engine.record(
        job, Verb.SUBMIT, Rejected("no"), order=desk.engine.order(job), started=started
    )
    assert set(await desk.stand()) == {"outcome_unknown"}
    desk.script.looks = [all_are(SubStatus.FAILED, NO)]
    await desk.turns(1, 100)
    assert await failures(desk) == {("policy_rejected", "unknown")}


async def test_an_earlier_execution_that_may_have_paid_lets_nothing_expire(desk: Desk) -> None:
    """Nobody answers in time: that is no proof about the call of the earlier execution."""
    await opened_anew(desk)
    desk.script.moves = False
    asks = all_are(SubStatus.REQUIRES_ACTION, action=Action())
    desk.script.submits = desk.script.looks = [asks]
    await desk.turn()
    await desk.turns(3, 100_000)
    assert set(await desk.stand()) == {"requires_action"}


def all_told(desk: Desk) -> BatchReport:
    """Return the end of every item."""
    return BatchReport("DONE", {each: Report(SubStatus.DELIVERED, "DONE") for each in desk.ids})
