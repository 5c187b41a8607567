"""An id that the custodian will tell back is registered before the call that makes it known there."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from gateway.adapter import (
    Capabilities,
    Failure,
    FailureCode,
    FundsMoved,
    LeaseLost,
    NotSent,
    OutcomeUnknown,
    Ref,
    Report,
    Returned,
    SubStatus,
)
from gateway.errors import AdapterFault
from gateway.execution.expected import expect_refs
from gateway.execution.gate import MarkRefused
from gateway.execution.operator import Resolution, resolve
from gateway.execution.order import LiveOrder
from gateway.execution.state import Job
from gateway.store import inbox
from gateway.store import payouts as rows
from tests.execution.conftest import CAN, Bench
from tests.execution.script import Desk
from tests.execution.test_returns import webhook
from tests.statements import counted

KEY = Ref("transfer", "our-key")


@pytest.fixture
def capabilities() -> Capabilities:
    """A custodian that pays several payouts of an account at once."""
    return replace(CAN, one_at_a_time=False)


async def expecting(bench: Bench, *refs: Ref) -> tuple[str, Job, LiveOrder]:
    """Return a payout and its order, with expected ids."""
    payout_id = await bench.accept()
    job = await bench.begin()
    order = bench.order(job)
    await order.expect(*(refs or (KEY,)))
    return payout_id, job, order


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("our-key", "expect(…) is given a str; give Ref(kind, value)"),
        (Ref("transfer", 5), "expect(Ref): its value is an int; give str"),  # type: ignore[arg-type]
        (Ref("transfer", ""), "expect(Ref): its value is empty; give the id that webhooks name"),
    ],
)
async def test_what_no_webhook_could_match_is_not_expected(
    bench: Bench, wrong: Any, message: str
) -> None:
    """The author reads what to fix; nothing is registered."""
    await bench.accept()
    order = bench.order(await bench.begin())
    with pytest.raises(AdapterFault) as raised:
        await order.expect(KEY, wrong)
    assert str(raised.value) == message
    await order.expect(KEY)


async def stored(bench: Bench) -> list[str]:
    """Return the states of the custodian's webhooks."""

    async def find(tx: Any) -> list[str]:
        return [row["state"] for row in await tx.all(inbox._NEW, limit=100)]

    return await bench.db.read(find)


async def test_a_webhook_that_overtakes_the_reply_finds_its_payout(bench: Bench) -> None:
    """After the mark it is ours: it is applied at once, and the reply that follows changes nothing."""
    payout_id, job, order = await expecting(bench)
    await order.moving()
    await webhook(bench, "our-key", word="broadcast")
    assert (await bench.payout(payout_id)).status == "broadcast"
    reply = Report(SubStatus.SUBMITTED, "OK", refs=(KEY, Ref("transfer", "t-9")))
    await bench.record(job, job.next_verb, reply, order=order)
    assert (await bench.payout(payout_id)).status == "broadcast"
    assert await bench.attention(payout_id) == []
    assert [kind for _, kind in await bench.events(payout_id)] == [
        "payout.created",
        "payout.broadcast",
    ]


async def test_it_costs_no_turn_of_the_engine(bench: Bench) -> None:
    """Registered, marked and sent in one `submit`; the refs are the payout's from then on."""
    desk = Desk(bench)
    await desk.open(1)

    async def submit(order: LiveOrder) -> Any:
        await order.expect(KEY)
        await order.expect(KEY)
        await order.moving()
        await webhook(bench, "our-key", word="submitted")
        raise OutcomeUnknown("the reply was lost")

    desk.script.submit = submit  # type: ignore[method-assign]
    assert await desk.turn()
    assert await bench.db.read(rows.payout_of_ref, "acme", "transfer", "our-key") == desk.ids[0]
    assert [each.kind.value for each in await desk.rows()] == ["call", "news"]


@pytest.mark.parametrize("word", ["submitted", "broadcast", "delivered"])
async def test_news_before_the_mark_blocks_and_never_advances(bench: Bench, word: str) -> None:
    """It is not of our call: another copy of the database made it. Recorded, and for the operator."""
    payout_id, job, order = await expecting(bench)
    await webhook(bench, "our-key", word=word)
    assert (await bench.payout(payout_id)).sub_status == "created"
    assert [each.kind.value for each in await bench.evidence(payout_id)] == ["news"]
    assert await bench.attention(payout_id) == ["early_news"]
    with pytest.raises(MarkRefused):
        await order.moving()
    refused = NotSent("refused")
    await bench.record(job, job.next_verb, refused, order=order)
    for seconds in (10, 1000, 100_000):
        await bench.clock.advance(seconds)
        job = await bench.begin()
        with pytest.raises(MarkRefused):
            await bench.order(job).moving()
        told = Report(SubStatus.DELIVERED, "DONE", refs=(KEY,))
        await bench.fetched(job, told)
        assert (await bench.payout(payout_id)).status == "pending"
        assert await bench.attention(payout_id) == ["early_news"]
    found = Resolution(delivered=True, evidence="console", transfer="our-key")
    await bench.db.run(resolve, bench.recorder, bench.runtime, payout_id, found)
    assert (await bench.payout(payout_id)).status == "delivered"


async def test_early_news_after_a_look_that_found_the_same_is_listed_once(bench: Bench) -> None:
    """The look has blocked the payout and told the operator; the webhook is kept, and adds no line."""
    payout_id, job, order = await expecting(bench)
    await bench.record(job, job.next_verb, NotSent("refused"), order=order)
    await bench.clock.advance(1000)
    job = await bench.begin()
    await bench.fetched(job, Report(SubStatus.BROADCAST, "SENT", refs=(KEY,)))
    assert await bench.attention(payout_id) == ["adapter_error"]
    await webhook(bench, "our-key", word="broadcast")
    assert await bench.attention(payout_id) == ["adapter_error"]
    assert (await bench.payout(payout_id)).status == "pending"
    await bench.clock.advance(100_000)
    with pytest.raises(MarkRefused):
        await bench.order(await bench.begin()).moving()


async def test_early_news_keeps_what_came_back_by_a_look(bench: Bench) -> None:
    """The look's status is not believed; the return counts once an operator has decided."""
    payout_id, job, order = await expecting(bench)
    await webhook(bench, "our-key", word="broadcast")
    await bench.record(job, job.next_verb, NotSent("refused"), order=order)
    await bench.clock.advance(1000)
    at = bench.clock.now()
    back = Returned("r-1", Decimal(5), "USDC", at)
    told = Report(SubStatus.DELIVERED, "DONE", refs=(KEY,), returned=(back,))
    await bench.fetched(await bench.begin(), told)
    assert (await bench.payout(payout_id)).status == "pending"
    assert await bench.attention(payout_id) == ["early_news"]
    found = Resolution(delivered=True, evidence="console", transfer="our-key")
    await bench.db.run(resolve, bench.recorder, bench.runtime, payout_id, found)
    assert (await bench.payout(payout_id)).returned_amount == 5


async def test_money_that_came_back_before_the_mark_blocks_too(bench: Bench) -> None:
    """It had moved for somebody. Where an operator finds that it was ours, the return counts."""
    payout_id, job, order = await expecting(bench)
    await webhook(bench, "our-key", returned=[["r-1", "5"]])
    assert await bench.attention(payout_id) == ["early_news"]
    with pytest.raises(MarkRefused):
        await order.moving()
    await bench.record(job, job.next_verb, NotSent("refused"), order=order)
    assert (await bench.payout(payout_id)).returned_amount is None
    found = Resolution(delivered=True, evidence="console", transfer="our-key")
    await bench.db.run(resolve, bench.recorder, bench.runtime, payout_id, found)
    assert (await bench.payout(payout_id)).returned_amount == 5


async def test_after_early_news_no_word_ends_the_payout_as_unpaid(bench: Bench) -> None:
    """The custodian says that it failed: whose call that was is not known."""
    payout_id, job, order = await expecting(bench)
    await webhook(bench, "our-key", word="broadcast")
    await bench.record(job, job.next_verb, NotSent("refused"), order=order)
    await bench.clock.advance(1000)
    no = Failure(code=FailureCode.CHAIN_REJECTED, message="no", funds_moved=FundsMoved.NO)
    await bench.fetched(await bench.begin(), Report(SubStatus.FAILED, "FAILED", failure=no))
    assert (await bench.payout(payout_id)).status == "pending"


async def test_an_id_of_another_payout_is_refused_before_the_call(bench: Bench) -> None:
    """Nothing is registered, and the call is not made."""
    first, _, _ = await expecting(bench, Ref("transfer", "t-2"))
    payout_id = await bench.accept()
    order = bench.order(await bench.begin())
    assert order.payout_id == payout_id
    with pytest.raises(NotSent, match=f"already belongs to {first}") as refused:
        await order.expect(Ref("transfer", "fresh"), Ref("transfer", "t-2"))
    assert refused.value.alert == "foreign_ref"
    assert await bench.db.read(rows.payout_of_ref, "acme", "transfer", "fresh") is None


async def test_a_lost_lease_registers_nothing(bench: Bench) -> None:
    """Another worker owns the execution."""
    payout_id = await bench.accept()
    order = bench.order(await bench.begin())
    await bench.write(payout_id, lease_token=99)
    with pytest.raises(LeaseLost):
        await order.expect(KEY)
    assert await bench.db.read(rows.payout_of_ref, "acme", "transfer", "our-key") is None


async def test_a_webhook_that_waits_for_the_id_is_read_again(bench: Bench) -> None:
    """It came before anybody expected it: it is early news, and blocks."""
    payout_id = await bench.accept()
    await webhook(bench, "our-key", word="broadcast")
    assert await stored(bench) == []
    order = bench.order(await bench.begin())
    await order.expect(KEY)
    assert await stored(bench) == ["new"]
    assert await bench.attention(payout_id) == ["early_news"]


async def test_in_a_set_the_payout_is_named(bench: Bench) -> None:
    """Each id is one payout's."""
    desk = Desk(bench)
    await desk.open(2)

    async def submit(order: LiveOrder) -> Any:
        with pytest.raises(AdapterFault, match=r"give payout_id=item\.payout_id"):
            await order.expect(KEY)
        with pytest.raises(AdapterFault, match=r"give payout_id=item\.payout_id"):
            await order.expect(KEY, payout_id="pay_other")
        for each in order.items:
            await order.expect(Ref("instruction", each.key), payout_id=each.payout_id)
        raise NotSent("enough")

    desk.script.submit = submit  # type: ignore[method-assign]
    await desk.turn()
    for each in desk.ids:
        assert len(await bench.db.read(rows.refs_of, each)) == 1


async def test_what_is_expected_again_costs_nothing(bench: Bench) -> None:
    """A repeat of the verb registers nothing anew, and all that it asks for is known."""
    _, job, _ = await expecting(bench)
    lease = job.lease
    _, texts = await counted(
        bench.db,
        expect_refs,
        lease.execution_id,
        lease.token,
        job.items[0].id,
        "acme",
        [(KEY.kind, KEY.value)],
        bench.clock.moment().wall,
    )
    assert texts == []
