"""Delivered payouts are looked at for as long as the adapter declares: money may come back."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

import pytest
from sqlalchemy import text

from gateway.adapter import (
    Absent,
    Capabilities,
    Failure,
    FailureCode,
    FundsMoved,
    OutcomeUnknown,
    Ref,
    Returned,
    SubStatus,
)
from gateway.config.settings import EngineSettings
from gateway.erasure import erase
from gateway.execution.after_delivery import AfterDelivery, ClosedOrder
from gateway.execution.engine import Engine
from gateway.execution.order import LiveOrder
from gateway.execution.proof import Evidence, Kind, Source
from gateway.metrics import Metrics
from gateway.store import payouts as rows
from gateway.store.database import Query, Tx
from gateway.store.rows import to_us
from gateway.wakeup import looks_bell
from tests.execution.conftest import CAN, Bench
from tests.execution.script import DONE, Desk, all_are, raises, says
from tests.execution.test_returns import webhook

DAY = 86_400.0
BACK = all_are(
    SubStatus.DELIVERED,
    returned=(Returned("r-1", Decimal(2), "USDC", datetime(2026, 3, 3, tzinfo=UTC), "BACK"),),
)
SENT = all_are(SubStatus.SUBMITTED, refs=(Ref("transfer", "t-1"),))
LOST = Failure(code=FailureCode.CHAIN_REJECTED, message="no", funds_moved=FundsMoved.NO)


@pytest.fixture
def capabilities() -> Capabilities:
    """A custodian whose payouts may come back within a week."""
    return replace(CAN, looked_after_delivery_s=7 * DAY)


async def paid(bench: Bench, count: int = 1) -> tuple[Desk, AfterDelivery]:
    """Return a delivered execution, and what looks at it from then on."""
    desk = Desk(bench)
    await desk.open(count)
    desk.script.submits, desk.script.looks = [SENT], [DONE]
    await desk.turn()
    await desk.turns(1, 20)
    assert set(await desk.stand()) == {"delivered"}
    desk.script.story.clear()
    looks = AfterDelivery(
        db=bench.db,
        runtime=bench.runtime,
        payouts=bench.payouts,
        engine=desk.engine,
        settings=EngineSettings(),
    )
    return desk, looks


async def due(bench: Bench) -> list[Any]:
    """Return the looks that are to come."""

    async def find(tx: Tx) -> list[Any]:
        return await tx.all(Query(text("SELECT * FROM delivered_looks")))

    return await bench.db.read(find)


async def week(bench: Bench, looks: AfterDelivery, days: float = 8) -> None:
    """Let days pass, with a turn every 20 minutes."""
    for _ in range(int(days * 72)):
        await bench.clock.advance(1200)
        while await looks.turn():
            pass


async def test_a_look_finds_a_return_whose_webhook_was_lost(bench: Bench) -> None:
    """Once, however many looks show it; the looks grow rare and end with the declared time."""
    desk, looks = await paid(bench)
    assert not await looks.turn()
    await week(bench, looks, 3)
    assert (await bench.payout(desk.ids[0])).returned_amount is None
    desk.script.looks = [BACK]
    await week(bench, looks, 5)
    payout = await bench.payout(desk.ids[0])
    assert payout.status == "delivered"
    assert payout.returned_amount == 2
    assert [kind for _, kind in await bench.events(desk.ids[0])][-2:] == [
        "payout.delivered",
        "payout.returned",
    ]
    assert await due(bench) == []
    # From every 20 s to every day and a half.
    assert 20 < len(desk.script.story) < 40
    assert desk.script.moved == [desk.ids]


async def test_a_look_that_fails_or_finds_nothing_changes_nothing(bench: Bench) -> None:
    """And the next one comes: silence about a payout that was delivered means nothing."""
    desk, looks = await paid(bench)
    for line in (raises(OutcomeUnknown("reset")), raises(RuntimeError("bug")), says(Absent("404"))):
        before = await bench.db.read(rows.payout_row, desk.ids[0])
        evidence = await bench.evidence(desk.ids[0])
        desk.script.looks = [line]
        await bench.clock.advance(DAY)
        assert await looks.turn()
        assert dict(await bench.db.read(rows.payout_row, desk.ids[0]) or {}) == dict(before or {})
        assert await bench.evidence(desk.ids[0]) == evidence
    desk.script.looks = [BACK]
    await bench.clock.advance(2 * DAY)
    assert await looks.turn()
    assert (await bench.payout(desk.ids[0])).returned_amount == 2


async def test_a_look_moves_nothing(bench: Bench) -> None:
    """Its order refuses the mark, and so does the gate; what it remembers lives as long as the look."""
    desk, looks = await paid(bench)
    tried: list[object] = []

    async def greedy(order: LiveOrder) -> Any:
        assert isinstance(order, ClosedOrder)
        await order.remember(seen="x")
        assert order.notes["seen"] == "x"
        for mark in (order.moving, super(ClosedOrder, order).moving):
            with pytest.raises(Exception) as refused:  # noqa: PT011 - its type is looked at
                await mark()
            tried.append(type(refused.value).__name__)
        return BACK(order)

    desk.script.fetch = greedy  # type: ignore[method-assign]
    await bench.clock.advance(DAY)
    assert await looks.turn()
    assert tried == ["NotSent", "LeaseLost"]
    assert "seen" not in (await desk.row())["notes"]
    assert (await bench.payout(desk.ids[0])).returned_amount == 2


async def test_a_late_failure_is_a_contradiction(bench: Bench) -> None:
    """The custodian takes its word back: the operator hears of it, the payout stays delivered."""
    desk, looks = await paid(bench)
    desk.script.looks = [all_are(SubStatus.FAILED, LOST)]
    await bench.clock.advance(DAY)
    await looks.turn()
    payout = await bench.payout(desk.ids[0])
    assert (payout.status, payout.failure) == ("delivered", None)
    assert await bench.attention(desk.ids[0]) == ["contradiction"]
    assert await desk.claim() == []


async def test_a_webhook_that_says_nothing_brings_the_look_forward(bench: Bench) -> None:
    """Also after the declared time, for one look."""
    desk, looks = await paid(bench)
    await week(bench, looks)
    assert await due(bench) == []
    desk.script.looks = [BACK]
    rings = list[str]()
    await webhook(bench, rings=rings)
    assert looks_bell("acme") in rings
    assert await looks.turn()
    assert (await bench.payout(desk.ids[0])).returned_amount == 2
    assert await due(bench) == []


async def test_a_webhook_of_what_is_not_delivered_wakes_no_looks(bench: Bench) -> None:
    """It wakes the engine: there is nothing to look at afterwards yet."""
    desk, rings = Desk(bench), list[str]()
    await desk.open(1)
    desk.script.submits, desk.script.looks = [SENT], [SENT]
    await desk.turn()
    await webhook(bench, rings=rings)
    assert rings == ["acme"]


async def test_every_item_of_a_set_is_looked_at(bench: Bench) -> None:
    """By one look at the set; an id of a return is one payout's."""
    desk, looks = await paid(bench, 3)
    made = {
        each: Returned(f"r-{at}", Decimal(1), "USDC", datetime(2026, 3, 3, tzinfo=UTC))
        for at, each in enumerate(desk.ids)
    }

    def line(order: LiveOrder) -> Any:
        told = DONE(order)
        items = {
            key: replace(each, returned=(made[key],))
            for key, each in told.items.items()  # type: ignore[union-attr]
        }
        return replace(told, items=items)  # type: ignore[type-var]

    desk.script.looks = [line]
    await bench.clock.advance(DAY)
    await looks.turn()
    assert [(await bench.payout(each)).returned_amount for each in desk.ids] == [1, 1, 1]
    assert desk.script.story == ["look"]


async def test_what_was_erased_does_not_come_again(bench: Bench) -> None:
    """Only what came back is taken from a look at a payout whose personal data was erased."""
    desk, looks = await paid(bench)
    at = to_us(bench.clock.now())
    assert await bench.db.run(erase, bench.runtime.ids, at, desk.ids[0], "test") == []
    desk.script.looks = [BACK]
    await bench.clock.advance(DAY)
    await looks.turn()
    row = await bench.db.read(rows.payout_row, desk.ids[0])
    assert row is not None
    assert (row["returned_amount"], row["custodian_word"]) == ("2", None)


async def test_an_execution_that_paid_nothing_is_not_looked_at(bench: Bench) -> None:
    """Refused ones are over."""
    desk = Desk(bench)
    await desk.open(1)
    desk.script.submits = [all_are(SubStatus.FAILED, LOST)]
    await desk.turn()
    await desk.turns(2, 200)
    assert set(await desk.stand()) == {"failed"}
    assert await due(bench) == []


async def test_two_gateways_share_the_looks_and_the_loop_wakes_by_itself(bench: Bench) -> None:
    """Who claims a look has it for the length of a lease."""
    desk, looks = await paid(bench)
    other = AfterDelivery(
        db=bench.db,
        runtime=bench.runtime,
        payouts=bench.payouts,
        engine=desk.new_engine("two"),
        settings=EngineSettings(),
    )
    await bench.clock.advance(DAY)
    assert sorted([await looks.turn(), await other.turn()]) == [False, True]
    desk.script.looks = [BACK]
    loop = asyncio.create_task(other.run())
    await bench.clock.advance(2 * DAY)
    async with asyncio.timeout(20):
        while (await bench.payout(desk.ids[0])).returned_amount is None:
            other.wakeup.ring()
            await asyncio.sleep(0.005)
    loop.cancel()
    with suppress(asyncio.CancelledError):
        await loop


@pytest.mark.parametrize(("idle_s", "rung"), [(10, False), (60, True)])
async def test_an_end_wakes_the_looks_only_where_the_first_one_is_soon(
    bench: Bench, idle_s: float, rung: bool
) -> None:
    """Otherwise the loop of the looks wakes by itself before it: no read for each payout."""
    desk, rings = Desk(bench), list[str]()
    desk.engine = Engine(
        db=bench.db,
        runtime=bench.runtime,
        payouts=bench.payouts,
        assets=bench.assets,
        custodian=desk.custodian,
        settings=EngineSettings(idle_s=idle_s),
        owner="one",
        metrics=Metrics(),
        wake=rings.append,
    )
    await desk.open(1)
    desk.script.submits, desk.script.looks = [SENT], [DONE]
    await desk.turn()
    await desk.turns(1, 20)
    assert set(await desk.stand()) == {"delivered"}
    assert desk.script.name in rings
    assert (looks_bell(desk.script.name) in rings) is rung
    (look,) = await due(bench)
    wait_s = (look["due_at"] - bench.runtime.timeline.now()) / 1e6
    assert (wait_s < idle_s) is rung


async def test_what_is_said_of_calls_that_did_not_pay_is_no_news(bench: Bench) -> None:
    """An item of a set that the set refused and another execution paid: the set's word is about the set."""
    desk, looks = await paid(bench, 2)
    refused, other = desk.ids
    job = await bench.db.read(desk.engine.recorder.ended_job, (await desk.row())["id"])
    assert job is not None
    word = Evidence(
        number=99,
        kind=Kind.WORD,
        seen=98,
        at=bench.clock.moment(),
        answer=FundsMoved.NO,
        item=refused,
        source=Source.LOOK,
    )
    job = replace(job, history=job.history.having(word))
    (look,) = await due(bench)
    told = cast("Any", all_are(SubStatus.FAILED, LOST)(desk.engine.order(job)))
    await bench.db.run(looks._record, look, job, told)
    assert await bench.attention(refused) == []
    assert "contradiction" in await bench.attention(other)
