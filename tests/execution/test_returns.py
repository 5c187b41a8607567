"""Money that comes back: recorded once, shown, and never a reason to pay again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import and_, bindparam, select

from gateway.adapter import (
    Absent,
    Echo,
    Failure,
    FailureCode,
    FundsMoved,
    Notice,
    OutcomeUnknown,
    Ref,
    Report,
    Returned,
    SubStatus,
)
from gateway.api.batch_reports import REPORT_COLUMNS, _row
from gateway.config.settings import EngineSettings
from gateway.erasure import erase
from gateway.execution.gate import MarkRefused
from gateway.execution.inbox import Inbox
from gateway.execution.operator import NotAllowedError, Resolution, resolve, retry
from gateway.metrics import Metrics
from gateway.store import events
from gateway.store import payouts as rows
from gateway.store.attention import note_told
from gateway.store.database import Query, Tx
from gateway.store.rows import to_us
from gateway.store.schema import payouts
from gateway.story import needing_attention, tell
from tests.execution.conftest import CAN, Bench

AT = datetime(2026, 3, 3, 9, tzinfo=UTC)
SENT = Report(SubStatus.SUBMITTED, "OK", refs=(Ref("transfer", "t-1"),))
DONE = Report(SubStatus.DELIVERED, "DONE")
NO = Failure(code=FailureCode.CHAIN_REJECTED, message="no", funds_moved=FundsMoved.NO)


def back(amount: str, name: str | None = "r-1", asset: str = "USDC") -> Returned:
    """Return money that came back."""
    return Returned(name, Decimal(amount), asset, AT, "RETURNED")


class Parser:
    """A custodian whose webhooks are `{"dedup": …, "ref": …, "returned": [[id, amount], …], "word": …}`."""

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Read one."""
        told = json.loads(body)
        word = told.get("word")
        report = None if word is None else Report(SubStatus(word), word.upper())
        return [
            Notice(
                (Ref("transfer", told["ref"]),),
                told["dedup"],
                observed_at=AT if "life_s" in told else None,
                report=report,
                believed_for_s=told.get("life_s"),
                returned=tuple(back(amount, name) for name, amount in told.get("returned", ())),
            )
        ]


async def webhook(
    bench: Bench, ref: str = "t-1", *, rings: list[str] | None = None, **members: Any
) -> None:
    """Receive a webhook; `rings` gets the bells that it rings."""
    inbox = Inbox(
        db=bench.db,
        runtime=bench.runtime,
        custodians={"acme": Parser()},
        recorders={"acme": bench.recorder},
        settings=EngineSettings(),
        metrics=Metrics(),
        wake=(lambda _: None) if rings is None else rings.append,
    )
    body = {"dedup": bench.runtime.ids.new("exe"), "ref": ref, **members}
    await inbox.receive("acme", json.dumps(body).encode())


async def delivered(bench: Bench, amount: str = "5", ref: str = "t-1") -> str:
    """Return a payout that was delivered."""
    payout_id = await bench.accept(amount)
    sent = replace(SENT, refs=(Ref("transfer", ref),))
    await bench.submitted(await bench.begin(), sent, moved=True)
    await bench.clock.advance(20)
    await bench.fetched(await bench.begin(), DONE)
    return payout_id


async def apply(bench: Bench, payout_id: str, *returned: Returned, **members: Any) -> None:
    """Bring a report with returns to a payout."""
    report = Report(SubStatus.DELIVERED, "DONE", returned=returned, **members)
    await bench.db.run(bench.payouts.apply, payout_id, report)


async def seen(bench: Bench, payout_id: str) -> tuple[str, str | None, int, list[str]]:
    """Return status, returned amount, number of `payout.returned`, and the operator's codes."""
    payout = await bench.payout(payout_id)
    told = [kind for _, kind in await bench.events(payout_id) if kind == "payout.returned"]
    total = None if payout.returned_amount is None else f"{payout.returned_amount:f}"
    return payout.status.value, total, len(told), sorted(set(await bench.attention(payout_id)))


async def test_a_return_is_a_record_an_event_and_a_remark(bench: Bench) -> None:
    """By a webhook, however often it comes; the status, its timeline and its failure stay."""
    payout_id = await delivered(bench)
    before = await bench.payout(payout_id)
    for _ in range(3):
        await webhook(bench, returned=[["r-1", "2"]])
    assert await seen(bench, payout_id) == ("delivered", "2", 1, ["returned"])
    after = await bench.payout(payout_id)
    assert (after.timeline, after.failure) == (before.timeline, None)
    rows_ = await bench.db.read(events.events_of, payout_id)
    assert [row["sequence"] for row in rows_] == [1, 2, 3, 4]
    event = json.loads(rows_[-1]["body"])
    assert event["type"] == "payout.returned"
    assert event["data"]["status"] == event["data"]["previous_status"] == "delivered"
    assert event["data"]["returned_amount"] == "2"
    assert event["data"]["returned"] == {
        "id": "r-1",
        "amount": "2",
        "asset": "USDC",
        "at": "2026-03-03T09:00:00.000Z",
    }
    assert json.loads(rows_[-2]["body"])["data"]["returned"] is None
    story = await bench.db.scan(tell, payout_id)
    assert story is not None
    assert [(each["custodian_id"], each["amount"]) for each in story["returns"]] == [("r-1", "2")]
    assert story["payout"]["returned_amount"] == "2"
    (code, detail), at = ("returned", "2 USDC came back (r-1), 2 in all"), 1_772_532_000_000_000
    await bench.db.run(note_told, payout_id, code, detail, at)
    listed = await bench.db.scan(needing_attention, 10)
    assert [each["told_at"] for each in listed] == ["2026-03-03T10:00:00.000Z"]
    assert [(each["code"], each["detail"]) for each in listed] == [(code, detail)]


async def test_partial_returns_add_up_and_more_than_was_delivered_changes_nothing(
    bench: Bench,
) -> None:
    """To the whole amount, in whatever order and however often they are told."""
    payout_id = await delivered(bench)
    await apply(bench, payout_id, back("2"), back("1.5", "r-2"))
    await apply(bench, payout_id, back("1.5", "r-2"), back("2"))
    assert await seen(bench, payout_id) == ("delivered", "3.5", 2, ["returned"])
    await apply(bench, payout_id, back("1.500001", "r-3"))
    wrong = ("delivered", "3.5", 2, ["return_mismatch", "returned"])
    assert await seen(bench, payout_id) == wrong
    # What can be counted is counted, beside what cannot.
    await apply(bench, payout_id, back("9", "r-4"), back("1.5", "r-5"))
    assert (await seen(bench, payout_id))[:3] == ("delivered", "5", 3)


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(back("2", "r-2", "ETH"), id="another asset"),
        pytest.param(back("3"), id="the same id, another amount"),
        pytest.param(back("2", None), id="a total beside single returns, higher than their sum"),
        pytest.param(back("1", "other"), id="an id of another payout"),
    ],
)
async def test_what_cannot_be_is_an_alert_and_changes_nothing(bench: Bench, told: Returned) -> None:
    """Nothing is added up of things that do not fit."""
    other = await delivered(bench, ref="t-2")
    await apply(bench, other, back("1", "other"))
    payout_id = await delivered(bench)
    await apply(bench, payout_id, back("1"))
    before = await bench.db.read(rows.payout_row, payout_id)
    await apply(bench, payout_id, told)
    assert await seen(bench, payout_id) == ("delivered", "1", 1, ["return_mismatch", "returned"])
    assert dict(await bench.db.read(rows.payout_row, payout_id) or {}) == dict(before or {})
    assert (await seen(bench, other))[:3] == ("delivered", "1", 1)


async def test_of_totals_only_an_increase_counts(bench: Bench) -> None:
    """Where the custodian has no ids of returns."""
    payout_id = await delivered(bench)
    for total in ("1", "1", "3", "2", "3", "5", "6"):
        await apply(bench, payout_id, back(total, None))
    assert await seen(bench, payout_id) == ("delivered", "5", 3, ["return_mismatch", "returned"])


async def test_a_return_told_with_something_that_differs_from_the_order(bench: Bench) -> None:
    """It may be of another payment: an operator looks first."""
    payout_id = await delivered(bench)
    await apply(
        bench, payout_id, back("1"), echo=Echo(amount=Decimal(6), ordered_amount=Decimal(5))
    )
    assert await seen(bench, payout_id) == (
        "delivered",
        None,
        0,
        ["mismatch", "return_mismatch"],
    )
    # The same return, told with what was ordered, counts.
    await apply(bench, payout_id, back("1"))
    assert (await seen(bench, payout_id))[:3] == ("delivered", "1", 1)


async def test_a_return_with_an_id_of_another_payout_is_not_believed(bench: Bench) -> None:
    """Foreign references bring nothing."""
    await delivered(bench, ref="t-2")
    payout_id = await delivered(bench)
    await apply(bench, payout_id, back("1"), refs=(Ref("transfer", "t-2"),))
    assert await seen(bench, payout_id) == ("delivered", None, 0, ["foreign_ref"])


async def test_a_return_that_overtakes_the_delivery_waits_for_it(bench: Bench) -> None:
    """Webhooks are reordered: it counts behind `payout.delivered`, in one transaction."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), SENT, moved=True)
    for _ in range(2):
        await webhook(bench, returned=[["r-1", "2"]])
    assert await seen(bench, payout_id) == ("pending", None, 0, [])
    await webhook(bench, word="delivered")
    assert await seen(bench, payout_id) == ("delivered", "2", 1, ["returned"])
    assert [kind for _, kind in await bench.events(payout_id)][-2:] == [
        "payout.delivered",
        "payout.returned",
    ]
    await webhook(bench, returned=[["r-1", "2"]])
    assert (await seen(bench, payout_id))[1:3] == ("2", 1)


async def test_an_old_webhook_brings_no_return(bench: Bench) -> None:
    """One that is too old to be believed is not believed about returns either."""
    payout_id = await delivered(bench)
    await webhook(bench, returned=[["r-1", "2"]], life_s=60)
    assert await seen(bench, payout_id) == ("delivered", None, 0, [])


async def test_a_report_of_a_set_brings_returns_of_its_items(bench: Bench) -> None:
    """By a look, while other items are open; each payout has its own."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), SENT, moved=True)
    await bench.clock.advance(20)
    await bench.fetched(await bench.begin(), replace(DONE, returned=(back("5"),)))
    assert await seen(bench, payout_id) == ("delivered", "5", 1, ["returned"])


# --- Never a reason to pay again ----------------------------------------------------------------------


async def test_what_came_back_is_never_paid_again(bench: Bench) -> None:
    """An outcome is unknown, the money comes back, and everything that could pay again is tried."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), replace(SENT, sub_status=None), moved=True)
    await webhook(bench, returned=[["r-1", "5"]])
    await webhook(bench, returned=[["r-1", "5"]])
    job = await bench.begin()
    with pytest.raises(MarkRefused, match="news"):
        await bench.order(job).moving()
    # The custodian says that nothing moved: it had, and came back.
    await bench.fetched(job, Absent("404"))
    await bench.prove_absence()
    with pytest.raises(NotAllowedError):
        await bench.db.run(retry, bench.runtime, payout_id, CAN)
    unpaid = Resolution(delivered=False, evidence="console", funds_moved=FundsMoved.NO)
    with pytest.raises(NotAllowedError, match="money of this payout was seen"):
        await bench.db.run(resolve, bench.recorder, bench.runtime, payout_id, unpaid)
    await bench.clock.advance(1000)
    failed = Report(SubStatus.FAILED, "FAILED", failure=NO)
    await bench.fetched(await bench.begin(), failed)
    payout = await bench.payout(payout_id)
    assert payout.status == "failed"
    assert payout.failure is not None
    assert payout.failure.funds_moved == "unknown"
    assert await _carries_reference(bench, payout_id)
    assert await bench.claim() == []


async def test_one_report_of_failure_and_return_never_says_unpaid(bench: Bench) -> None:
    """Nor does it open another execution, whatever the adapter wishes."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), SENT, moved=True)
    await bench.clock.advance(1000)
    failed = Report(SubStatus.FAILED, "RETURNED", failure=NO, reopens=True, returned=(back("5"),))
    await bench.fetched(await bench.begin(), failed)
    payout = await bench.payout(payout_id)
    assert payout.failure is not None
    assert (payout.status, payout.failure.funds_moved) == ("failed", "unknown")
    assert payout.returned_amount is None
    assert await bench.claim() == []
    assert "contradiction" in await bench.attention(payout_id)


async def test_a_return_of_a_payout_that_ended_unpaid_is_a_contradiction(bench: Bench) -> None:
    """Its word stands, and the operator hears of it."""
    payout_id = await bench.accept()
    sent = replace(SENT, sub_status=SubStatus.SUBMITTED)
    await bench.submitted(await bench.begin(), sent, moved=True)
    await bench.clock.advance(1000)
    await bench.fetched(await bench.begin(), Report(SubStatus.FAILED, "FAILED", failure=NO))
    payout = await bench.payout(payout_id)
    assert payout.failure is not None
    assert payout.failure.funds_moved == "no"
    await webhook(bench, returned=[["r-1", "5"]])
    assert await seen(bench, payout_id) == ("failed", None, 0, ["contradiction"])


async def test_a_return_after_the_delivery_frees_nothing(bench: Bench) -> None:
    """The reference stays taken, nothing is claimed, retried, or ended as failed."""
    payout_id = await delivered(bench)
    await apply(bench, payout_id, back("5"))
    await bench.clock.advance(100_000)
    assert await bench.claim() == []
    with pytest.raises(NotAllowedError):
        await bench.db.run(retry, bench.runtime, payout_id, CAN)
    unpaid = Resolution(delivered=False, evidence="console", funds_moved=FundsMoved.NO)
    with pytest.raises(NotAllowedError):
        await bench.db.run(resolve, bench.recorder, bench.runtime, payout_id, unpaid)
    assert not await bench.db.run(bench.recorder.own, payout_id)
    failed = Report(SubStatus.FAILED, "FAILED", failure=NO, returned=(back("5"),))
    await bench.db.run(bench.payouts.apply, payout_id, failed)
    assert (await seen(bench, payout_id))[:3] == ("delivered", "5", 1)
    assert await _carries_reference(bench, payout_id)


async def _carries_reference(bench: Bench, payout_id: str) -> bool:
    """Whether the payout's reference may not be paid again."""

    async def free(tx: Tx) -> bool:
        return await tx.one(_FREE, payout_id=payout_id) is not None

    return not await bench.db.read(free)


_FREE = Query(
    select(payouts.c.id).where(and_(payouts.c.id == bindparam("payout_id"), rows.frees_reference()))
)


# --- Where else it is seen ----------------------------------------------------------------------------


async def test_a_batch_report_has_what_came_back(bench: Bench) -> None:
    """In its last column, which older readers do not look at."""
    payout_id = await delivered(bench)
    await apply(bench, payout_id, back("2"), back("1.25", "r-2"))
    assert REPORT_COLUMNS[-1] == "returned_amount"
    row: Mapping[str, Any] = {"batch_position": 0, "name": None}
    assert _row(row, await bench.payout(payout_id), "api")[-1] == "3.25"


async def test_the_custodians_words_are_erased_with_the_payout(bench: Bench) -> None:
    """Amounts, times and ids stay."""
    payout_id = await delivered(bench)
    await apply(bench, payout_id, back("2"))
    at = to_us(bench.clock.now())
    assert await bench.db.run(erase, bench.runtime.ids, at, payout_id, "test") == []
    story = await bench.db.scan(tell, payout_id)
    assert story is not None
    assert [(each["word"], each["amount"]) for each in story["returns"]] == [(None, "2")]
    assert (
        json.loads((await bench.db.read(events.events_of, payout_id))[-1]["body"])["data"][
            "returned"
        ]["amount"]
        == "2"
    )


async def test_an_unknown_outcome_stays_unknown_by_a_return_alone(bench: Bench) -> None:
    """A return says that money moved, not that the payout was delivered."""
    payout_id = await bench.accept()
    job = await bench.begin()
    order = bench.order(job)
    await order.moving()
    await bench.record(job, job.next_verb, OutcomeUnknown("reset"), order=order)
    await bench.clock.advance(20)
    await bench.fetched(await bench.begin(), Report(None, "BACK", returned=(back("5"),)))
    assert (await seen(bench, payout_id))[:3] == ("pending", None, 0)
    assert [each.answer for each in await bench.evidence(payout_id) if each.kind == "news"] == [
        "came_back"
    ]


async def test_the_payout_itself_never_says_unpaid_of_what_came_back(bench: Bench) -> None:
    """Whoever brings the news: the last door before the store looks once more."""
    payout_id = await bench.accept()
    failed = Report(SubStatus.FAILED, "FAILED", failure=NO, returned=(back("5"),))
    await bench.db.run(bench.payouts.apply, payout_id, failed)
    payout = await bench.payout(payout_id)
    assert payout.failure is not None
    assert payout.failure.funds_moved == "unknown"
    assert await _carries_reference(bench, payout_id)
