"""Words, refusals and transfers that are about something else do not decide about a payout's money."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from gateway.adapter import (
    BatchReport,
    Capabilities,
    Echo,
    Failure,
    FailureCode,
    FundsMoved,
    KeySemantics,
    OutcomeUnknown,
    Ref,
    Report,
    SubStatus,
)
from gateway.errors import Refused, Unsupported
from gateway.execution.actions import Actions
from gateway.execution.operator import NotAllowedError, Resolution, resolve
from gateway.execution.order import LiveOrder
from gateway.execution.proof import Answer, Kind, Source, closed, lost_call
from gateway.execution.state import Verb
from gateway.metrics import Metrics
from tests.execution.conftest import LEASE_S, Bench
from tests.execution.rows import at, rows, word
from tests.execution.script import ABSENT, TAKEN, Desk, Line, all_are, raises

NO = Failure(code=FailureCode.POLICY_REJECTED, message="no", funds_moved=FundsMoved.NO)
LOST = raises(OutcomeUnknown("lost"))
CAN = Capabilities(
    frozenset({"custodian_account"}),
    keys=KeySemantics(life_s=86_400),
    call_life_s=60,
    visibility_s=30,
    polling_s=(10, 20, 40, 80, 160),
)


@pytest.fixture
def capabilities() -> Capabilities:
    """A custodian that remembers keys for a day."""
    return CAN


@pytest.fixture
async def desk(bench: Bench) -> Desk:
    """An execution of one payout that nothing was done with."""
    made = Desk(bench)
    await made.open(1)
    return made


def acting(desk: Desk) -> Actions:
    """Return what people act by."""
    return Actions(
        db=desk.bench.db,
        runtime=desk.bench.runtime,
        engines={"acme": desk.engine},
        owner="api",
        lease_s=LEASE_S,
        payouts=desk.bench.payouts,
        metrics=Metrics(),
        wake=lambda _: None,
    )


async def says_unpaid(desk: Desk) -> bool:
    """Whether the payout is told as failed with `funds_moved: no`."""
    payout = await desk.bench.payout(desk.ids[0])
    return (
        payout.status == "failed"
        and payout.failure is not None
        and payout.failure.funds_moved is FundsMoved.NO
    )


# --- A second mark that the gate refuses -----------------------------------------------------------


@pytest.mark.parametrize("same_request", [True, False], ids=["same bytes", "a second call"])
async def test_a_refused_second_mark_says_nothing_of_the_first_call(
    desk: Desk, *, same_request: bool
) -> None:
    """Call 1 is sent and lost; the mark of a second send is refused, and the adapter raises that on.

    The refusal is about the second send. Call 1 stays a call of unknown outcome.
    """

    def twice(order: LiveOrder) -> BatchReport:
        raise AssertionError("replaced below")

    sent: list[str] = []

    class Twice(type(desk.script)):  # type: ignore[misc]
        async def submit(self, order: LiveOrder) -> BatchReport:
            await order.moving()
            sent.append(order.key("create"))  # ... and its answer is lost
            if len(sent) == 1:
                # News of whatever else blocks: the gate says no to the second send.
                await desk.bench.write(desk.ids[0], blocked="pause")
                await order.moving(same_request=same_request)
            return TAKEN(order)  # type: ignore[return-value]

    desk.script.__class__ = Twice
    desk.script.submits = [twice]
    desk.script.looks = [ABSENT]
    desk.script.cancels = [raises(Unsupported("no"))]
    await desk.turn()
    call = next(each for each in await desk.rows() if each.kind is Kind.CALL)
    assert sent, "the first call was sent"
    state = (await desk.row())["state"]
    # The partner cancels: nothing may be said about the money, the first call is alive for 60 s.
    with suppress(Refused):
        await acting(desk).cancel(await desk.bench.payout(desk.ids[0]))
    assert call.answer != Answer.NOT_SENT, (call.answer, state)
    assert not await says_unpaid(desk)


async def test_a_refused_second_mark_lets_the_first_call_be_paid_twice(desk: Desk) -> None:
    """The gate refuses the second mark (`not_closed`); the first call must stay unknown, not "not sent"."""
    sent: list[str] = []

    class Twice(type(desk.script)):  # type: ignore[misc]
        async def submit(self, order: LiveOrder) -> BatchReport:
            await order.moving()
            sent.append("call")  # its answer is lost; the adapter tries once more by itself
            if len(sent) == 1:
                await order.moving()
                sent.append("call")
            return TAKEN(order)  # type: ignore[return-value]

    desk.script.__class__ = Twice
    desk.script.looks = [ABSENT]
    await desk.turn()
    await desk.turns(1, 15)  # far less than call_life + visibility (90 s), and no look at all
    assert len(sent) == 1, "a second moving call while the first one is alive"


# --- A failed word about another payout ------------------------------------------------------------


def mixed_up(desk: Desk, **members: object) -> Line:
    """A report about another payout's transfer, which failed: the echo names another reference."""
    echo = Echo(reference="key of another payout", ordered_reference="our key")
    return lambda order: BatchReport(
        "REFUSED",
        {
            each.payout_id: Report(
                SubStatus.FAILED,
                "REFUSED",
                refs=(Ref("transfer", "transfer of another payout"),),
                failure=NO,
                echo=echo,
                **members,  # type: ignore[arg-type]
            )
            for each in order.items
        },
    )


async def test_a_strangers_failure_does_not_let_a_payout_be_canceled(desk: Desk) -> None:
    """The reply of our call is that of another payout's, which failed; ours pays. Then: cancel."""
    desk.script.submits = [mixed_up(desk)]
    desk.script.looks = [ABSENT]
    desk.script.cancels = [raises(Unsupported("no"))]
    await desk.turn()
    assert len(desk.script.moved) == 1
    assert "mismatch" in await desk.attention()
    with suppress(Refused):
        await acting(desk).cancel(await desk.bench.payout(desk.ids[0]))
    assert not await says_unpaid(desk), "canceled as not paid; its call was accepted a moment ago"


async def test_a_strangers_failure_does_not_let_an_operator_say_not_paid(desk: Desk) -> None:
    """There is no proof, and nobody has looked at the console; there is only a stranger's failed word."""
    desk.script.submits = [mixed_up(desk)]
    await desk.turn()
    found = Resolution(delivered=False, evidence="x", funds_moved=FundsMoved.NO)
    bench = desk.bench
    with pytest.raises(NotAllowedError):
        await bench.db.run(
            resolve, desk.engine.recorder, bench.runtime, desk.ids[0], found, lag=True
        )
    assert not await says_unpaid(desk)


async def test_a_strangers_late_refusal_opens_no_second_execution(desk: Desk) -> None:
    """The look shows another payout's execution, refused late: a new execution pays at once."""
    desk.script.submits = [LOST, TAKEN]
    desk.script.looks = [mixed_up(desk, reopens=True), ABSENT]
    await desk.turn()
    await desk.turns(3, 12)
    assert len(desk.script.moved) == 1, "two moving calls within 40 s; the first lives for 60 s"


# --- What the custodian answers to a cancel --------------------------------------------------------


async def test_a_cancel_hears_that_the_money_is_on_its_way(desk: Desk) -> None:
    """What was prepared was confirmed at the custodian's console; our cancel is answered so."""

    class Prepares(type(desk.script)):  # type: ignore[misc]
        async def submit(self, order: LiveOrder) -> BatchReport:
            await order.remember(payout_id="p-1")
            return all_are(SubStatus.AWAITING_APPROVAL)(order)  # type: ignore[return-value]

    desk.script.__class__ = Prepares
    desk.script.looks = [ABSENT]
    desk.script.cancels = [all_are(SubStatus.BROADCAST)]
    await desk.turn()
    assert (await desk.row())["state"] == "parked"
    with suppress(Refused):
        await acting(desk).cancel(await desk.bench.payout(desk.ids[0]))
    assert desk.script.story[-1] == "cancel"
    assert not await says_unpaid(desk), "the custodian had just answered: broadcast"


# --- One transfer delivers one payout --------------------------------------------------------------


async def test_one_transfer_delivers_one_payout(bench: Bench) -> None:
    """An operator names the same transfer for two payouts."""
    ids = [await bench.accept(), await bench.accept()]
    for job in await bench.claim():
        await bench.submitted(job, OutcomeUnknown("reset"), moved=True)  # type: ignore[arg-type]
    found = Resolution(delivered=True, evidence="console", transfer="t-1")
    await bench.db.run(resolve, bench.recorder, bench.runtime, ids[0], found, lag=True)
    with pytest.raises(NotAllowedError, match="belongs to"):
        await bench.db.run(resolve, bench.recorder, bench.runtime, ids[1], found, lag=True)
    assert [(await bench.payout(each)).status.value for each in ids] == ["delivered", "pending"]


async def test_an_operators_transfer_is_not_another_payouts_later(bench: Bench) -> None:
    """The custodian shows the operator's transfer as that of another payout, too."""
    ids = [await bench.accept(), await bench.accept()]
    jobs = await bench.claim()
    await bench.submitted(jobs[0], OutcomeUnknown("reset"), moved=True)  # type: ignore[arg-type]
    found = Resolution(delivered=True, evidence="console", transfer="t-1")
    await bench.db.run(resolve, bench.recorder, bench.runtime, ids[0], found, lag=True)
    done = Report(SubStatus.DELIVERED, "DONE", refs=(Ref("transfer", "t-1"),))
    await bench.submitted(jobs[1], done, moved=True)  # type: ignore[arg-type]
    assert [(await bench.payout(each)).status.value for each in ids] == ["delivered", "pending"]


# --- A call that names no account ------------------------------------------------------------------


async def test_a_call_from_before_the_upgrade_is_not_absent_at_another_account(desk: Desk) -> None:
    """As migration 0004 and `db adopt` write it: fingerprint ''. Then the instance is pointed elsewhere.

    One look at the configured account showed nothing yet; the instance is changed; the other account
    answers "not found": proven, and paid again there.
    """
    desk.script.account = ""
    desk.script.submits, desk.script.looks = [LOST, TAKEN], [ABSENT]
    await desk.turn()
    desk.script.account = "acme/A"  # the account that was configured all the time
    await desk.turns(1, 20)
    desk.script.account = "acme/B"
    await desk.turns(4, 45)
    assert len(desk.script.moved) == 1, "proven absent at acme/B, where it was never made"


# --- References, operators and stamps --------------------------------------------------------------


async def test_a_reference_of_another_payouts_call_delivers_nothing(bench: Bench) -> None:
    """The report names the reference under which another payout's call was made, and nothing else."""
    ids = [await bench.accept(), await bench.accept()]
    jobs = await bench.claim()
    orders = [bench.order(job) for job in jobs]  # type: ignore[arg-type]
    for number, order in enumerate(orders):
        await order.moving(reference=f"ref-{number}")
    done = Report(SubStatus.DELIVERED, "DONE", reference="ref-1")
    await bench.record(jobs[0], Verb.SUBMIT, done, order=orders[0])  # type: ignore[arg-type]
    assert (await bench.payout(orders[0].payout_id)).status == "pending", ids


async def test_an_operator_cannot_say_not_paid_of_what_was_broadcast(desk: Desk) -> None:
    """Our transfer was seen on its way: nobody can know that it did not arrive by not seeing it."""
    desk.script.submits, desk.script.looks = [all_are(SubStatus.BROADCAST)], [ABSENT]
    await desk.turn()
    bench = desk.bench
    await bench.clock.advance(200)
    found = Resolution(delivered=False, evidence="x", funds_moved=FundsMoved.NO)
    with pytest.raises(NotAllowedError, match="seen on its way"):
        await bench.db.run(
            resolve, desk.engine.recorder, bench.runtime, desk.ids[0], found, lag=True
        )
    assert not await says_unpaid(desk)


async def test_a_look_that_was_asked_for_before_the_news_does_not_count(desk: Desk) -> None:
    """An operator was asked to look; then our transfer is seen; then the operator says "not paid"."""
    desk.script.submits = [LOST]
    await desk.turn()
    bench = desk.bench
    await bench.clock.advance(200)
    found = Resolution(delivered=False, evidence="x", funds_moved=FundsMoved.NO)
    asked = await bench.db.run(
        resolve, desk.engine.recorder, bench.runtime, desk.ids[0], found, lag=True
    )
    assert asked is not None
    seen = Report(SubStatus.BROADCAST, "SENT")
    await bench.db.run(desk.engine.recorder.news, desk.ids[0], seen, Source.WEBHOOK)
    looked = replace(found, looked=asked.number)
    with pytest.raises(NotAllowedError, match="seen on its way"):
        await bench.db.run(
            resolve, desk.engine.recorder, bench.runtime, desk.ids[0], looked, lag=True
        )
    assert not await says_unpaid(desk)


async def test_a_stamp_counts_no_time_from_before_it_was_made(bench: Bench) -> None:
    """A row of another clock that was written after the claim and before the stamp starts its wait.

    The webhook was taken by a gateway with another clock (a time namespace of its own).
    """
    await bench.accept()
    job = await bench.begin()
    mine = bench.clock.moment().clock_id
    bench.clock.reboot()  # the other gateway's clock: its elapsed time goes on from the same number
    sent = Report(SubStatus.SUBMITTED, "SENT")
    await bench.db.run(bench.recorder.news, job.items[0].id, sent, Source.WEBHOOK)
    theirs = bench.clock._clock_id
    await bench.clock.advance(600)
    bench.clock._clock_id = mine
    order = bench.order(job)
    stamp = order.stamp()
    await order.remember(stamp=stamp)
    bench.clock._clock_id = theirs
    await bench.clock.advance(LEASE_S + 1)
    later = bench.order(await bench.begin())
    assert later.passed_s(stamp) <= LEASE_S + 1


@pytest.mark.parametrize("account", ["", "adopted"], ids=["configured", "nowhere"])
def test_no_word_is_about_a_lost_call(account: str) -> None:
    """Nobody knows under which reference it was made, so a word without a reference is not about it."""
    lost = lost_call(1, 1, at(0), account=account, call_life=120, visibility=60, absence_looks=1)
    assert not closed(rows(lost, word(2, 1, reference=None)), "pay_1")


async def test_a_call_from_before_the_upgrade_is_not_repeated_at_another_account(
    bench: Bench,
) -> None:
    """Keys make repeats harmless, at the account that has seen the key; at another one it pays."""
    bench.capabilities = bench.repeating()
    desk = Desk(bench)
    await desk.open(1)
    desk.script.account = ""  # as migration 0004 writes it
    desk.script.submits, desk.script.looks = [LOST, TAKEN], [ABSENT]
    await desk.turn()
    desk.script.account = "acme/A"
    await desk.turns(1, 13)
    assert "look" in [each.kind for each in await desk.rows()]
    desk.script.account = "acme/B"
    await desk.turns(3, 20)
    calls = [each for each in await desk.rows() if each.kind is Kind.CALL]
    assert [each.fingerprint for each in calls] == [""], "the key was used again at acme/B"
