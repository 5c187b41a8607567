"""What people do to a payout, under the engine's own rules: answer what it asks for, cancel it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any, TypeVar

import pytest
from sqlalchemy import update

from gateway.adapter import (
    Action,
    BatchReport,
    Failure,
    FailureCode,
    FundsMoved,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Report,
    SubStatus,
    UnreadableAnswer,
    Unsupported,
    WrongAnswer,
)
from gateway.errors import Refused
from gateway.execution.actions import Actions
from gateway.execution.order import LiveOrder
from gateway.execution.proof import Kind, Source
from gateway.execution.state import Job
from gateway.metrics import Metrics
from gateway.model import Payout
from gateway.store import executions
from gateway.store.database import Query, Tx
from gateway.store.schema_executions import store_state
from tests.execution.conftest import LEASE_S, Bench
from tests.execution.script import ABSENT, TAKEN, Desk, Line, all_are, raises

T = TypeVar("T")
ANSWER = {"passcode": {"token": {"code": "S3CRET-77"}}}
ASKS = all_are(SubStatus.REQUIRES_ACTION, action=Action(attempts_left=3))
CANCELED = all_are(
    SubStatus.CANCELED,
    Failure(code=FailureCode.CANCELED, message="canceled there", funds_moved=FundsMoved.NO),
)
SENT = Report(SubStatus.BROADCAST, "SENT")


class Counter(Desk):
    """A desk with one payout, and somebody who acts on it."""

    def acting(self, *, configured: bool = True, named: Sequence[str] = ()) -> Actions:
        """Return what people act by. `named`: custodians of the configuration, loaded or not."""
        return Actions(
            db=self.bench.db,
            runtime=self.bench.runtime,
            engines={"acme": self.engine} if configured else {},
            owner="api",
            lease_s=LEASE_S,
            payouts=self.bench.payouts,
            metrics=Metrics(),
            wake=lambda _: None,
            configured=named,
        )

    @property
    def payout_id(self) -> str:
        """The payout."""
        return self.ids[0]

    async def payout(self) -> Payout:
        """Return the payout."""
        return await self.bench.payout(self.payout_id)

    async def confirm(self, action: int = 1, **options: Any) -> None:
        """Answer what the payout asks for."""
        await self.acting(**options).confirm(await self.payout(), action, ANSWER)

    async def cancel(self, **options: Any) -> None:
        """Cancel the payout."""
        await self.acting(**options).cancel(await self.payout())

    async def freeze(self) -> None:
        """Have the database be taken for an old copy."""

        async def put(tx: Tx) -> None:
            await tx.all(Query(update(store_state).values(frozen="an old copy")))

        await self.bench.db.run(put)

    async def work(self) -> Job:
        """Have a worker begin, and be busy with the payout."""
        (job,) = await self.claim()
        assert isinstance(job, Job)
        return job


@pytest.fixture
async def new(bench: Bench) -> Counter:
    """A payout that nothing was done with."""
    made = Counter(bench)
    await made.open(1)
    return made


async def ask(desk: Counter) -> None:
    """Have the payout ask for a passcode."""
    desk.script.moves = False
    desk.script.submits = [ASKS]
    await desk.turn()
    desk.script.moves = True
    assert await desk.stand() == ["requires_action"]


async def lose(desk: Counter) -> None:
    """Have the payout's call be lost."""
    desk.script.submits, desk.script.looks = [raises(OutcomeUnknown("lost"))], [ABSENT]
    await desk.turn()


@pytest.fixture
async def asking(new: Counter) -> Counter:
    """A payout that asks for a passcode."""
    await ask(new)
    return new


@pytest.fixture
async def lost(new: Counter) -> Counter:
    """A payout whose call was lost."""
    await lose(new)
    return new


async def refused(act: Awaitable[None]) -> Refused:
    """Return why an act is refused."""
    with pytest.raises(Refused) as caught:
        await act
    return caught.value


async def meanwhile(desk: Counter, act: Awaitable[T]) -> T:
    """Await an act that waits, while the clock goes on."""
    task = asyncio.ensure_future(act)
    while not task.done():
        await asyncio.sleep(0.001)
        if desk.bench.clock.sleepers:
            await desk.bench.clock.advance(0.1)
    return await task


# --- Confirm --------------------------------------------------------------------------------------


async def test_who_answers_is_written_before_the_custodian_hears_of_it(asking: Counter) -> None:
    """In a transaction of its own, because a call cannot be in one; a refused answer leaves no row."""
    noted: list[tuple[str, int]] = []

    async def note(_: Tx, detail: str) -> None:
        noted.append((detail, len(asking.script.moved)))

    acting, payout = asking.acting(), await asking.payout()
    before = len(asking.script.moved)
    await acting.confirm(payout, 1, ANSWER, note=note)
    assert noted == [("action 1 was answered", before)]
    assert (await refused(acting.confirm(payout, 1, ANSWER, note=note))).code == (
        "action_not_required"
    )
    assert len(noted) == 1


async def test_an_act_that_cannot_be_written_is_not_carried_out(asking: Counter) -> None:
    """A full disk: nothing is sent, and the payout can be answered again at once."""

    async def fails(_: Tx, __: str) -> None:
        raise sqlite3.OperationalError("disk full")

    before = len(asking.script.moved)
    with pytest.raises(sqlite3.OperationalError):
        await asking.acting().confirm(await asking.payout(), 1, ANSWER, note=fails)
    assert len(asking.script.moved) == before
    assert await asking.stand() == ["requires_action"]
    await asking.confirm()
    assert len(asking.script.moved) == before + 1


async def test_who_cancels_is_written_with_the_end(new: Counter) -> None:
    """In the same transaction: without the row the payout goes on."""

    async def fails(_: Tx, __: str) -> None:
        raise sqlite3.OperationalError("disk full")

    with pytest.raises(sqlite3.OperationalError):
        await new.acting().cancel(await new.payout(), note=fails)
    assert (await new.payout()).status == "pending"
    noted: list[str] = []

    async def note(_: Tx, detail: str) -> None:
        noted.append(detail)

    await new.bench.clock.advance(LEASE_S + 1)
    await new.acting().cancel(await new.payout(), note=note)
    assert noted == ["nothing was sent; it ended as canceled"]
    assert (await new.payout()).status == "failed"


async def test_who_cancels_is_written_before_the_custodian_is_asked(lost: Counter) -> None:
    """Whatever it answers then."""
    noted: list[str] = []

    async def note(_: Tx, detail: str) -> None:
        noted.append(detail)
        assert "cancel" not in lost.script.story

    lost.script.cancels = [raises(NotSent("down"))]
    await refused(lost.acting().cancel(await lost.payout(), note=note))
    assert noted == ["the custodian was asked to cancel"]


async def test_an_answer_is_carried_out_at_once(asking: Counter) -> None:
    """One moving call under the execution's lease; what the custodian says is written."""
    asking.script.confirms = [TAKEN]
    await asking.confirm()
    payout = await asking.payout()
    assert (payout.sub_status, payout.requires_action and payout.requires_action.open) == (
        "submitted",
        False,
    )
    assert asking.script.moved == [asking.ids]
    row = await asking.row()
    assert (row["state"], row["lease_until"]) == ("accepted", 0)
    assert (await refused(asking.confirm())).code == "action_not_required"


async def test_an_answer_is_kept_nowhere(asking: Counter) -> None:
    """Whatever becomes of it: only what the gateway itself has filled in is remembered."""
    answers: list[Line] = [
        raises(WrongAnswer("wrong", 2)),
        raises(NotSent("down")),
        raises(OutcomeUnknown("lost")),
    ]
    asking.script.confirms = answers
    for _ in range(3):
        payout = await asking.payout()
        with suppress(Refused):
            await asking.acting().confirm(payout, 1, ANSWER, ["device.client_ip"])
    assert await asking.stand() == ["outcome_unknown"]
    assert (await asking.row())["notes"] == '{"filled_by_gateway":["device.client_ip"]}'
    assert "S3CRET" not in dump(asking.bench)


async def test_a_wrong_answer_leaves_it_asking(asking: Counter) -> None:
    """With the attempts that are left; the last one lets the engine ask anew."""
    asking.script.confirms = [raises(WrongAnswer("wrong", 2)), raises(WrongAnswer("wrong", 0))]
    first = await refused(asking.confirm())
    assert (first.code, first.members) == ("wrong_answer", {"attempts_left": 2})
    payout = await asking.payout()
    assert payout.requires_action is not None
    assert (payout.sub_status, payout.requires_action.attempts_left) == ("requires_action", 2)
    assert (await asking.row())["state"] == "parked"
    assert (await refused(asking.confirm())).members == {"attempts_left": 0}
    asking.script.moves = False
    await asking.turn()
    payout = await asking.payout()
    assert payout.requires_action is not None
    assert (payout.requires_action.number, payout.requires_action.attempts_left) == (2, 3)


async def test_an_answer_that_was_not_sent_may_be_given_again_at_once(asking: Counter) -> None:
    """The payout asks as before, and nothing is waited for."""
    asking.script.confirms = [raises(NotSent("down")), raises(ValueError("bug")), TAKEN]
    refusal = await refused(asking.confirm())
    assert (refusal.code, refusal.headers) == ("confirm_not_sent", {"Retry-After": "5"})
    asking.script.moves = False
    assert (await refused(asking.confirm())).code == "confirm_not_sent"
    assert await asking.stand() == ["requires_action"]
    asking.script.moves = True
    await asking.confirm()
    assert await asking.stand() == ["submitted"]


@pytest.mark.parametrize("error", [OutcomeUnknown("lost"), TimeoutError(), ValueError("bug")])
async def test_an_answer_of_unknown_outcome_is_found_out(asking: Counter, error: Exception) -> None:
    """It may have paid: no further answer is taken before it is looked up."""
    asking.script.confirms, asking.script.looks = [raises(error)], [ABSENT]
    await asking.confirm()
    assert await asking.stand() == ["outcome_unknown"]
    assert (await refused(asking.confirm())).code == "action_not_required"
    await asking.prove_absence()
    asking.script.moves = False
    await asking.turn()
    payout = await asking.payout()
    assert payout.requires_action is not None
    assert (payout.sub_status, payout.requires_action.number) == ("requires_action", 2)
    assert (await refused(asking.confirm(1))).code == "action_not_required"


async def test_a_refusal_of_the_answered_order_ends_it(asking: Counter) -> None:
    """The first moving call is refused finally: nothing moved."""
    asking.script.confirms = [raises(Rejected("destination_rejected", "unknown payee"))]
    await asking.confirm()
    payout = await asking.payout()
    assert payout.failure is not None
    assert (payout.failure.code, payout.failure.funds_moved) == ("destination_rejected", "no")


async def test_an_answer_that_cannot_be_used(asking: Counter) -> None:
    """The fields are named, without any value; nothing is sent."""
    asking.script.moves = False
    asking.script.confirms = [raises(UnreadableAnswer(["passcode.token.code"]))]
    refusal = await refused(asking.confirm())
    assert refusal.code == "invalid_request"
    assert [each["pointer"] for each in refusal.errors] == ["/passcode/token/code"]
    asking.script.confirms = [raises(Unsupported("no such verb"))]
    assert (await refused(asking.confirm())).code == "action_not_required"
    assert await asking.stand() == ["requires_action"]
    assert await asking.rows() == ()


@pytest.mark.parametrize("reason", ["blocked", "news", "frozen"])
async def test_the_gate_is_asked_for_an_answer_too(asking: Counter, reason: str) -> None:
    """What no submit may do no person may do: no call is made."""
    bench = asking.bench
    asking.script.confirms = [TAKEN]
    if reason == "blocked":
        await bench.write(asking.payout_id, blocked="mismatch")
    elif reason == "frozen":
        await asking.freeze()
    else:

        async def confirm(order: LiveOrder, answer: Mapping[str, Any]) -> BatchReport:
            await bench.db.run(bench.recorder.news, asking.payout_id, SENT, Source.WEBHOOK)
            await order.moving()
            raise AssertionError("the mark was set")

        asking.script.confirm = confirm  # type: ignore[method-assign]
    assert (await refused(asking.confirm())).code == "confirm_not_sent"
    assert asking.script.moved == []
    assert not [each for each in await asking.rows() if each.kind is Kind.CALL]


async def test_an_answer_waits_for_a_look_and_not_for_long(asking: Counter) -> None:
    """A worker looks at the payout: the answer waits a little, then it is refused for now."""
    asking.script.confirms = [TAKEN]
    await asking.bench.clock.advance(30)
    job = await asking.work()
    refusal = await refused(meanwhile(asking, asking.confirm()))
    assert (refusal.code, refusal.headers) == ("confirm_in_progress", {"Retry-After": "1"})
    answering = asyncio.ensure_future(asking.confirm())
    await asyncio.sleep(0.05)
    await asking.engine.record(
        job,
        job.next_verb,
        OutcomeUnknown("down"),
        order=asking.engine.order(job),
        started=asking.bench.clock.moment(),
    )
    await meanwhile(asking, answering)
    assert await asking.stand() == ["submitted"]


async def test_an_answer_whose_lease_is_lost_writes_nothing(asking: Counter) -> None:
    """Taken over before the mark: no call is made, and the person may answer again."""
    bench = asking.bench

    async def late(order: LiveOrder, answer: Mapping[str, Any]) -> BatchReport:
        await bench.clock.advance(LEASE_S + 1)
        (job,) = await asking.claim(asking.new_engine("two"))
        assert isinstance(job, Job)
        await order.moving()
        raise AssertionError("the mark was set")

    asking.script.confirm = late  # type: ignore[method-assign]
    assert (await refused(asking.confirm())).code == "confirm_in_progress"
    assert await asking.rows() == ()


async def test_an_answer_to_what_is_not_asked(asking: Counter) -> None:
    """Another action's number, and an action whose time is over."""
    assert (await refused(asking.confirm(2))).code == "action_not_required"
    await asking.bench.clock.advance(25 * 3600)
    assert (await refused(asking.confirm())).code == "action_expired"
    assert asking.script.story == ["submit"]
    await asking.turn()
    payout = await asking.payout()
    assert payout.failure is not None
    assert (payout.failure.code, payout.failure.funds_moved) == ("authentication_expired", "no")


# --- Cancel ---------------------------------------------------------------------------------------


async def test_what_was_not_sent_is_canceled_here(new: Counter) -> None:
    """It ends, nobody has to be told of it, and its account is free."""
    await new.cancel()
    payout = await new.payout()
    assert payout.failure is not None
    assert (payout.failure.code, payout.failure.funds_moved) == ("canceled", "no")
    assert new.script.story == []
    assert (await new.row())["state"] == "closed"
    assert (await refused(new.cancel())).code == "cancel_too_late"


@pytest.mark.parametrize("word", [CANCELED, raises(OutcomeUnknown("down"))])
async def test_what_was_prepared_there_is_told_of_the_cancel(asking: Counter, word: Line) -> None:
    """Whatever the custodian answers: nothing has moved."""
    await asking.bench.write(asking.payout_id, notes='{"payout_id":"c-1"}')
    asking.script.cancels = [word]
    await asking.cancel()
    assert asking.script.story == ["submit", "cancel"]
    assert await asking.stand() == ["canceled"]


async def test_what_may_have_been_sent_only_the_custodian_can_cancel(lost: Counter) -> None:
    """It is asked; where it cannot or will not, the payout stays as it is and work goes on at once."""
    lost.script.cancels = [raises(Unsupported("")), raises(NotSent("down")), CANCELED]
    assert (await refused(lost.cancel())).code == "cancel_unsupported"
    assert (await refused(lost.cancel())).code == "cancel_too_late"
    assert await lost.stand() == ["outcome_unknown"]
    assert ((await lost.row())["lease_until"], await lost.due_in()) == (0, 0)
    await lost.cancel()
    payout = await lost.payout()
    assert payout.failure is not None
    assert (payout.failure.code, payout.failure.funds_moved) == ("canceled", "no")


async def test_a_cancel_that_speaks_of_one_of_two_calls_ends_nothing(lost: Counter) -> None:
    """The word may be about the first call while the second one is on its way."""
    await lost.prove_absence()
    await lost.turn()
    assert len(lost.script.moved) == 2
    lost.script.cancels = [CANCELED]
    await lost.cancel()
    assert await lost.stand() == ["outcome_unknown"]


async def test_what_is_proven_absent_is_canceled_here(lost: Counter) -> None:
    """Due to be sent again, and taken back before it was."""
    await lost.prove_absence()
    await lost.cancel()
    assert await lost.stand() == ["canceled"]
    assert len(lost.script.moved) == 1


async def test_news_that_comes_while_a_cancel_is_under_way(asking: Counter) -> None:
    """The transfer was seen: the payout is not canceled, whatever was true a moment before."""
    bench = asking.bench
    await bench.write(asking.payout_id, notes='{"payout_id":"c-1"}')

    async def cancel(order: LiveOrder) -> BatchReport:
        await bench.db.run(bench.recorder.news, asking.payout_id, SENT, Source.WEBHOOK)
        raise OutcomeUnknown("down")

    asking.script.cancel = cancel  # type: ignore[method-assign]
    assert (await refused(asking.cancel())).code == "cancel_too_late"
    # No call of ours was marked: somebody else has released it, or it is another payout's.
    assert await asking.stand() == ["requires_action"]
    assert (await asking.row())["blocked"] == "adapter_error"
    assert (await asking.row())["lease_until"] == 0


@pytest.mark.parametrize("begin", [ask, lose])
async def test_a_frozen_database_cancels_nothing(
    new: Counter, begin: Callable[[Counter], Awaitable[None]]
) -> None:
    """It may be an old copy: neither here nor at the custodian, and no lease is left behind."""
    await begin(new)
    await new.bench.write(new.payout_id, notes='{"payout_id":"c-1"}')
    await new.freeze()
    before = (list(new.script.story), await new.stand())
    assert (await refused(new.cancel())).code == "database_frozen"
    assert (list(new.script.story), await new.stand()) == before
    assert (await new.row())["lease_until"] == 0


async def test_a_cancel_does_not_wait_for_a_moving_call(new: Counter) -> None:
    """A worker handles it, and its call may move money: try again in a moment."""
    job = await new.work()
    await new.script.move(new.engine.order(job))
    refusal = await refused(meanwhile(new, new.cancel()))
    assert (refusal.code, refusal.headers) == ("payout_busy", {"Retry-After": "1"})
    assert (await new.row())["state"] == "moving"


async def test_a_cancel_finds_a_mark_that_was_left_behind(new: Counter) -> None:
    """Its worker died between mark and call: it may have been sent, so only the custodian can cancel."""
    job = await new.work()
    await new.script.move(new.engine.order(job))
    await new.bench.clock.advance(LEASE_S + 1)
    new.script.cancels = [raises(Unsupported(""))]
    assert (await refused(meanwhile(new, new.cancel()))).code == "cancel_unsupported"
    assert await new.stand() == ["outcome_unknown"]


# --- Configuration --------------------------------------------------------------------------------


async def test_a_custodian_that_is_not_configured_here(asking: Counter) -> None:
    """Neither confirm nor cancel: it knows the payout, and cannot be asked. Nothing changes.

    Only an operator can help, unless it is the adapter alone that is missing.
    """
    before = (tuple(await asking.row()), await asking.stand())
    refusal = await refused(asking.confirm(configured=False))
    assert (refusal.code, refusal.headers) == ("custodian_removed", {})
    assert "operator" in refusal.detail
    refusal = await refused(asking.confirm(configured=False, named=["acme"]))
    assert (refusal.code, refusal.headers) == ("confirm_not_sent", {"Retry-After": "60"})
    refusal = await refused(asking.confirm(2, configured=False))
    assert refusal.code == "action_not_required"
    refusal = await refused(asking.cancel(configured=False))
    assert refusal.code == "cancel_unsupported"
    assert "payouts resolve" in refusal.detail
    assert (tuple(await asking.row()), await asking.stand()) == before
    assert await asking.bench.db.read(executions.open_execution_of, asking.payout_id) is not None


@pytest.mark.both_stores
async def test_what_no_custodian_knows_is_canceled_without_it(new: Counter) -> None:
    """Its custodian is not configured, and it has no mark: it ends, and no worker can send it."""
    notes = list[str]()

    async def note(_: Tx, detail: str) -> None:
        notes.append(detail)

    acting = new.acting(configured=False)
    await acting.cancel(await new.payout(), note=note)
    payout = await new.payout()
    assert payout.sub_status is SubStatus.CANCELED
    assert payout.failure is not None
    assert payout.failure.funds_moved is FundsMoved.NO
    assert notes == ["nothing was sent; it ended as canceled"]
    await new.turn()
    assert new.script.moved == []
    assert (await refused(acting.cancel(payout))).code == "cancel_too_late"


@pytest.mark.parametrize("left", ["mark", "call", "notes", "lease", "frozen"])
async def test_what_a_missing_custodian_may_know_is_not_canceled(new: Counter, left: str) -> None:
    """A mark, a call that is only in evidence, something prepared there, or a worker that has it now."""
    if left == "mark":
        await lose(new)
    elif left == "call":
        await lose(new)
        await new.bench.write(new.payout_id, state="prepared", notes="{}")
    elif left == "notes":
        await new.bench.write(new.payout_id, notes='{"payout_id":"c-1"}')
    elif left == "lease":
        await new.work()
    else:
        await new.freeze()
    before = await new.stand()
    codes = {"lease": "payout_busy", "frozen": "database_frozen"}
    refusal = await refused(new.cancel(configured=False))
    assert refusal.code == codes.get(left, "cancel_unsupported")
    assert await new.stand() == before
    assert (await new.row())["lease_until"] == 0 or left == "lease"


def dump(bench: Bench) -> str:
    """Return the whole database as text."""
    with closing(sqlite3.connect(bench.db._path)) as connection:
        return "\n".join(connection.iterdump())


async def test_a_payout_that_waits_for_its_turn_can_be_canceled(new: Counter) -> None:
    """At an account that pays one at a time, where another payout has the turn."""
    new.script.submits, new.script.looks = [TAKEN], [TAKEN]
    await new.turn()
    second = await new.bench.accept()
    await new.turn()
    assert (await new.bench.payout(second)).sub_status is SubStatus.QUEUED
    await new.acting().cancel(await new.bench.payout(second))
    assert (await new.bench.payout(second)).sub_status is SubStatus.CANCELED
