"""A payout that has ended stays as it is; that its money moves after all is for the operator."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from gateway.adapter import (
    Absent,
    BatchReport,
    CannotLook,
    Failure,
    FailureCode,
    FundsMoved,
    Ref,
    Report,
    SubStatus,
)
from gateway.execution.operator import Resolution, resolve
from gateway.execution.proof import Kind, Source
from gateway.store import payouts as rows
from tests.execution.conftest import Bench
from tests.execution.script import ABSENT, Desk, all_are, raises, says
from tests.execution.test_inbox import learnt, work_off

REF = (Ref("transfer", "t-1"),)


async def failed(
    bench: Bench, moved: FundsMoved, code: FailureCode = FailureCode.POLICY_REJECTED
) -> str:
    """Return a payout that has failed, whose id at the custodian is known."""
    payout_id = await learnt(bench)
    failure = Failure(code=code, message="no", funds_moved=moved)
    word = Report(SubStatus.FAILED, "FAILED", failure=failure, refs=REF)
    await bench.db.run(bench.recorder.news, payout_id, word, Source.WEBHOOK)
    assert (await bench.payout(payout_id)).status == "failed"
    return payout_id


async def told(bench: Bench, payout_id: str, sub_status: SubStatus, at: datetime | None) -> None:
    """Bring a webhook's word."""
    word = Report(sub_status, sub_status.upper(), observed_at=at)
    await bench.db.run(bench.recorder.news, payout_id, word, Source.WEBHOOK)


@pytest.mark.parametrize("moved", [FundsMoved.NO, FundsMoved.UNKNOWN])
async def test_money_that_moves_after_the_end_is_one_alert(bench: Bench, moved: FundsMoved) -> None:
    """Broadcast, confirming, delivered: one line, the words as evidence, and the status stays."""
    payout_id = await failed(bench, moved)
    events = await bench.events(payout_id)
    for word in (SubStatus.BROADCAST, SubStatus.CONFIRMING, SubStatus.DELIVERED):
        await bench.clock.advance(5)
        await told(bench, payout_id, word, bench.clock.now())
    payout = await bench.payout(payout_id)
    assert (payout.status, payout.failure and payout.failure.funds_moved) == ("failed", moved)
    assert await bench.events(payout_id) == events
    (line,) = await bench.db.read(rows.attention_of, payout_id)
    assert (line["code"], line["times"]) == ("contradiction", 3)
    assert ("funds_moved: no" in line["detail"]) is (moved is FundsMoved.NO)
    assert [each.item for each in await bench.evidence(payout_id) if each.kind is Kind.NEWS] == [
        payout_id
    ]


async def test_a_word_of_before_the_end_is_only_late(bench: Bench) -> None:
    """Webhooks overtake each other: "broadcast", made before "failed", contradicts nothing."""
    payout_id = await failed(bench, FundsMoved.UNKNOWN)
    before = bench.clock.now() - timedelta(seconds=9)
    await told(bench, payout_id, SubStatus.BROADCAST, before)
    await told(bench, payout_id, SubStatus.SUBMITTED, bench.clock.now())
    assert await bench.attention(payout_id) == []


@pytest.mark.parametrize(
    ("moved", "code"),
    [
        (FundsMoved.NO, FailureCode.POLICY_REJECTED),
        (FundsMoved.UNKNOWN, FailureCode.OPERATOR_DECISION),
    ],
)
async def test_not_paid_is_contradicted_by_any_word(
    bench: Bench, moved: FundsMoved, code: FailureCode
) -> None:
    """It was on its way before somebody said that it was not."""
    payout_id = await failed(bench, moved, code)
    await told(bench, payout_id, SubStatus.BROADCAST, bench.clock.now() - timedelta(seconds=9))
    assert await bench.attention(payout_id) == ["contradiction"]


async def test_another_payments_word_is_no_contradiction(bench: Bench) -> None:
    """A word by a reference that no call was made under is about another payout."""
    payout_id = await bench.accept()
    order = bench.order(await bench.begin())
    await order.moving(reference="ours")
    found = Resolution(delivered=False, evidence="seen")
    await bench.clock.advance(100)
    await bench.db.run(resolve, bench.recorder, bench.runtime, payout_id, found)
    word = Report(SubStatus.DELIVERED, "DONE", reference="theirs")
    await bench.db.run(bench.recorder.news, payout_id, word, Source.WEBHOOK)
    assert await bench.attention(payout_id) == ["foreign_ref"]


async def test_a_notice_without_a_status_asks_for_one_look(bench: Bench) -> None:
    """Only of what has failed: an open payout is looked at anyway, a delivered one has its end."""
    payout_id = await learnt(bench)
    asked: list[str] = []
    await work_off(bench, b"t-1|open", asked=asked)
    assert asked == []
    await work_off(bench, b"t-1|failed", asked=asked)
    assert (await bench.payout(payout_id)).status == "failed"
    assert asked == []
    await work_off(bench, b"t-1|sent", asked=asked)
    assert asked == []
    await work_off(bench, b"t-1|other", b"t-1|another", asked=asked)
    assert asked == [payout_id, payout_id]


@pytest.mark.parametrize(
    ("look", "heard"),
    [
        (all_are(SubStatus.BROADCAST), ["contradiction"]),
        (all_are(SubStatus.FAILED), []),
        (ABSENT, []),
        (says(BatchReport("W", {})), []),
        (says(CannotLook("no id")), ["cannot_look"]),
        (raises(TimeoutError()), ["custodian_unreachable"]),
    ],
)
async def test_what_the_one_look_shows(bench: Bench, look: Any, heard: list[str]) -> None:
    """Money that moves is a contradiction; a look that fails is told; no other look follows."""
    desk = Desk(bench)
    desk.ids = [await failed(bench, FundsMoved.NO)]
    desk.script.looks = [look]
    for _ in range(3):
        desk.engine.look_after_end(desk.ids[0])
    async with desk.running():
        await desk.until("failed")
        for _ in range(1000):
            if desk.script.story and not desk.engine._tasks:
                break
            await asyncio.sleep(0.005)
    assert desk.script.story == ["look"]
    assert await desk.attention() == heard


async def test_a_look_after_the_end_finds_nothing_of_an_open_payout(bench: Bench) -> None:
    """It is looked at by its engine."""
    payout_id = await learnt(bench)
    assert await bench.db.read(bench.recorder.last_ended_job, payout_id) is None
    await bench.db.run(bench.recorder.looked_after_end, payout_id, Absent("404"))
    assert await bench.attention(payout_id) == []
