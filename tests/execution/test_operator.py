"""An operator obeys the engine's rules: no retry without proof, no end without evidence."""

from __future__ import annotations

import pytest

from gateway.adapter import (
    Action,
    CannotLook,
    Echo,
    FundsMoved,
    OutcomeUnknown,
    Ref,
    Report,
    SubStatus,
)
from gateway.execution.alerts import MAX_UNKNOWN
from gateway.execution.gate import MarkRefused
from gateway.execution.operator import (
    LookAsked,
    NotAllowedError,
    ProofMissingError,
    Resolution,
    resolve,
    retry,
)
from gateway.execution.proof import Source
from gateway.execution.record import Recorded
from gateway.execution.state import Verb
from gateway.store.audit import acts_on
from tests.execution.conftest import CAN, LEASE_S, Bench

pytestmark = pytest.mark.both_stores

SEEN = "console, 10:15, payout p-1"
SENT = Report(SubStatus.SUBMITTED, "OK", refs=(Ref("transfer", "t-1"),))


async def end(
    bench: Bench,
    payout_id: str,
    *,
    delivered: bool = False,
    moved: FundsMoved = FundsMoved.NO,
    transfer: str | None = None,
    looked: int | None = None,
    lag: bool = True,
) -> LookAsked | None:
    """Resolve a payout by hand."""
    found = Resolution(
        delivered=delivered, evidence=SEEN, funds_moved=moved, transfer=transfer, looked=looked
    )
    return await bench.db.run(resolve, bench.recorder, bench.runtime, payout_id, found, lag=lag)


async def again(bench: Bench, payout_id: str) -> None:
    """Have a payout submitted again by hand."""
    await bench.db.run(retry, bench.runtime, payout_id, CAN)


async def unknown(bench: Bench) -> str:
    """Return a payout whose only call has an unknown outcome."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), OutcomeUnknown("reset"), moved=True)
    return payout_id


async def test_an_unresolved_payout_is_retried_only_with_proof(bench: Bench) -> None:
    """After the engine's last call: not before absence is proven, then with the same keys."""
    payout_id = await bench.accept()
    for number in range(MAX_UNKNOWN):
        job = await bench.begin()
        await bench.submitted(job, OutcomeUnknown("reset"), moved=True)
        with pytest.raises(NotAllowedError, match=r"3 looks that did not find it.* at least 90 s"):
            await again(bench, payout_id)
        await bench.prove_absence()
        if number < MAX_UNKNOWN - 1:
            assert await bench.due_in(payout_id) == 0
    assert await bench.due_in(payout_id) > 0
    await again(bench, payout_id)
    # Refused ones are no acts.
    assert [row["act"] for row in await bench.db.read(acts_on, payout_id, 10)] == ["payout_retried"]
    repeat = await bench.begin()
    assert repeat.next_verb is Verb.SUBMIT
    assert bench.order(repeat).key("execute") == bench.order(job).key("execute")
    await bench.order(repeat).moving()


async def test_what_the_custodian_has_is_never_retried(bench: Bench) -> None:
    """Nor what a worker handles, what has ended, what is unknown here, or goes on by itself."""
    payout_id = await bench.accept()
    with pytest.raises(NotAllowedError, match="by itself"):
        await again(bench, payout_id)
    job = await bench.begin()
    with pytest.raises(NotAllowedError, match=r"a worker \(test\) handles it for up to 60 s"):
        await again(bench, payout_id)
    await bench.submitted(job, SENT, moved=True)
    with pytest.raises(NotAllowedError, match="custodian has it"):
        await again(bench, payout_id)
    await end(bench, payout_id, delivered=True, transfer="t-1")
    for payout in (payout_id, "pay_nope"):
        with pytest.raises(NotAllowedError) as refused:
            await again(bench, payout)
        assert not isinstance(refused.value, ProofMissingError)


async def test_what_asks_a_person_is_not_retried(bench: Bench) -> None:
    """A person has to answer: the engine submits nothing meanwhile."""
    payout_id = await bench.accept()
    asks = Report(SubStatus.REQUIRES_ACTION, "ASKS", action=Action())
    await bench.submitted(await bench.begin(), asks)
    with pytest.raises(ProofMissingError, match="answer of the person"):
        await again(bench, payout_id)
    assert (await bench.execution(payout_id))["state"] == "parked"


@pytest.mark.parametrize("account", ["acme/A", "acme/B"])
async def test_a_retry_asks_what_the_gate_asks(bench: Bench, account: str) -> None:
    """A safe repeat is one at the same account: what the gate would refuse is not promised."""
    bench.capabilities = bench.repeating()
    payout_id = await unknown(bench)
    repeat = bench.db.run(retry, bench.runtime, payout_id, bench.capabilities, account)
    if account == bench.fingerprint:
        await repeat
        assert (await bench.begin()).next_verb is Verb.SUBMIT
        return
    with pytest.raises(ProofMissingError, match="at another account"):
        await repeat
    assert (await bench.execution(payout_id))["state"] == "unknown"


async def test_a_parked_payout_may_go_on(bench: Bench) -> None:
    """Nothing has moved: a person who has looked may let it be submitted."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), Report(SubStatus.AWAITING_APPROVAL, "WAITS"))
    await again(bench, payout_id)
    assert (await bench.begin()).next_verb is Verb.SUBMIT


async def test_a_blocked_payout_is_not_retried(bench: Bench) -> None:
    """The custodian shows another amount: no retry lifts that, only an end by hand."""
    payout_id = await bench.accept()
    echo = Echo(amount=bench.amount + 1, ordered_amount=bench.amount)
    await bench.submitted(
        await bench.begin(), Report(SubStatus.AWAITING_APPROVAL, "MISMATCH", echo=echo)
    )
    with pytest.raises(NotAllowedError, match=r"what blocks it \(mismatch\)"):
        await again(bench, payout_id)
    await end(bench, payout_id)
    assert (await bench.payout(payout_id)).status == "failed"


async def test_what_was_seen_on_its_way_is_not_retried(bench: Bench) -> None:
    """A transfer of it was seen; that nothing was sent, as the adapter had said, counts no more."""
    payout_id = await bench.accept()
    sent = Report(SubStatus.SUBMITTED, "SENT")
    await bench.db.run(bench.recorder.news, payout_id, sent, Source.WEBHOOK)
    with pytest.raises(NotAllowedError, match="a transfer of it was seen"):
        await again(bench, payout_id)


async def test_a_retry_ends_no_failures(bench: Bench) -> None:
    """It is no answer of the custodian, and closes no row about one that cannot be reached."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), Report(SubStatus.AWAITING_APPROVAL, "WAITS"))
    for _ in range(5):
        await bench.clock.advance(3600)
        await bench.fetched(await bench.begin(), OutcomeUnknown("look failed"))
    assert await bench.attention(payout_id) == ["custodian_unreachable"]
    await again(bench, payout_id)
    assert (await bench.execution(payout_id))["failures"] == 5


async def test_a_retry_asks_the_gate_again(bench: Bench) -> None:
    """News that comes between the retry and the mark wins: the retry gave no right."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), Report(SubStatus.AWAITING_APPROVAL, "WAITS"))
    await again(bench, payout_id)
    job = await bench.begin()
    assert job.next_verb is Verb.SUBMIT
    sent = Report(SubStatus.SUBMITTED, "SENT")
    await bench.db.run(bench.recorder.news, payout_id, sent, Source.WEBHOOK)
    with pytest.raises(MarkRefused, match="news"):
        await bench.order(job).moving()


@pytest.mark.parametrize("delivered", [True, False])
async def test_an_end_by_hand_is_told_and_frees_the_account(
    bench: Bench, *, delivered: bool
) -> None:
    """Event, timeline with the evidence, the next payout's turn; a late worker writes nothing.

    "Not paid" needs more than the end of a lease now: the life of the call and the visibility window
    are over, and the operator looks after that, in a second step.
    """
    payout_id = await bench.accept()
    job = await bench.begin()
    await bench.clock.advance(1)
    waiting = await bench.accept()
    assert await bench.claim() == [Recorded()]
    transfer = "t-1" if delivered else None
    with pytest.raises(NotAllowedError, match=r"a worker \(test\) handles it"):
        await end(bench, payout_id, delivered=delivered, transfer=transfer)
    await bench.order(job).moving()
    await bench.clock.advance(LEASE_S + 1)
    if delivered:
        await end(bench, payout_id, delivered=True, transfer=transfer)
    else:
        with pytest.raises(NotAllowedError, match="may still arrive for 29 s"):
            await end(bench, payout_id)
        await bench.clock.advance(30)
        asked = await end(bench, payout_id)
        assert asked is not None
        assert (await bench.payout(payout_id)).status == "pending"
        assert await end(bench, payout_id, looked=asked.number) is None
    payout = await bench.payout(payout_id)
    assert payout.status == ("delivered" if delivered else "failed")
    assert payout.timeline[-1].detail == "resolved by an operator"
    acts = await bench.db.read(acts_on, payout_id, 10)
    asks = [] if delivered else ["payout_look_asked"]
    assert [row["act"] for row in acts] == [*asks, "payout_resolved"]
    assert {(row["actor"], row["detail"], row["org"]) for row in acts} == {
        ("operator", SEEN, "acme-org")
    }
    if not delivered:
        assert payout.failure is not None
        assert (payout.failure.code, payout.failure.funds_moved) == ("operator_decision", "no")
    assert len(await bench.events(payout_id)) == (3 if delivered else 2)
    assert await bench.due_in(waiting) <= 0
    assert (await bench.record(job, Verb.SUBMIT, SENT)).lost


async def test_what_was_never_sent_may_be_ended_at_once(bench: Bench) -> None:
    """No mark, no question."""
    payout_id = await bench.accept()
    assert await end(bench, payout_id) is None
    payout = await bench.payout(payout_id)
    assert payout.failure is not None
    assert payout.failure.funds_moved == "no"
    assert (await bench.execution(payout_id))["state"] == "closed"


async def test_what_is_proven_absent_may_be_ended_at_once(bench: Bench) -> None:
    """The gateway's own looks are proof: no operator has to look again."""
    payout_id = await unknown(bench)
    await bench.prove_absence()
    assert await end(bench, payout_id) is None
    payout = await bench.payout(payout_id)
    assert payout.failure is not None
    assert payout.failure.funds_moved == "no"


async def test_not_paid_is_refused_while_a_mark_has_no_outcome(bench: Bench) -> None:
    """A process that died between mark and call may have sent it, whoever finds the mark."""
    payout_id = await bench.accept()
    await bench.order(await bench.begin()).moving()
    await bench.clock.advance(LEASE_S + 1)
    with pytest.raises(NotAllowedError, match="may still arrive"):
        await end(bench, payout_id)
    assert (await bench.payout(payout_id)).status == "pending"
    assert (await bench.execution(payout_id))["state"] == "moving"


async def test_an_operators_look_replaces_no_waiting(bench: Bench) -> None:
    """A number that was not asked for, or that is older than the last call, does not count."""
    payout_id = await unknown(bench)
    for looked in (1, 2, 99):
        with pytest.raises(NotAllowedError, match="does not count"):
            await end(bench, payout_id, looked=looked)
    await bench.clock.advance(91)
    asked = await end(bench, payout_id)
    assert asked is not None
    await bench.prove_absence()
    await bench.submitted(await bench.begin(), OutcomeUnknown("reset"), moved=True)
    await bench.clock.advance(LEASE_S + 1)
    with pytest.raises(NotAllowedError, match=f"look {asked.number} does not count"):
        await end(bench, payout_id, looked=asked.number)
    assert (await bench.payout(payout_id)).status == "pending"


async def test_an_operator_waits_less_where_the_console_does_not_lag(bench: Bench) -> None:
    """The visibility window is the gateway's own: a console that shows everything needs none."""
    payout_id = await unknown(bench)
    await bench.clock.advance(61)
    with pytest.raises(NotAllowedError, match="29 s"):
        await end(bench, payout_id)
    assert isinstance(await end(bench, payout_id, lag=False), LookAsked)


async def test_unknown_may_be_said_at_any_time(bench: Bench) -> None:
    """An operator who gives up claims nothing about the money, and needs no proof for that."""
    payout_id = await unknown(bench)
    assert await end(bench, payout_id, moved=FundsMoved.UNKNOWN) is None
    payout = await bench.payout(payout_id)
    assert payout.failure is not None
    assert payout.failure.funds_moved == "unknown"


async def test_a_call_that_never_dies_is_never_not_paid(bench: Bench) -> None:
    """Where a signed request can be accepted for ever, nobody can know that it will not be paid."""
    payout_id = await bench.accept()
    job = await bench.begin()
    bench.capabilities = bench.without_call_life()
    await bench.submitted(job, OutcomeUnknown("reset"), moved=True)
    await bench.clock.advance(1_000_000)
    await bench.fetched(await bench.begin(), CannotLook("no id"))
    with pytest.raises(NotAllowedError, match="never stops being acceptable"):
        await end(bench, payout_id)


async def test_delivered_needs_its_transfer(bench: Bench) -> None:
    """Its id or hash, and not one that belongs to another payout."""
    first = await bench.accept()
    await bench.submitted(await bench.begin(), SENT, moved=True)
    await end(bench, first, delivered=True, transfer="t-1")
    payout_id = await unknown(bench)
    with pytest.raises(NotAllowedError, match="name the transfer"):
        await end(bench, payout_id, delivered=True)
    with pytest.raises(NotAllowedError, match=f"belongs to {first}"):
        await end(bench, payout_id, delivered=True, transfer="t-1")
    await end(bench, payout_id, delivered=True, transfer="t-2")
    payout = await bench.payout(payout_id)
    assert (payout.status, payout.custodian_reference) == ("delivered", "t-2")
