"""What a piece of news does to a payout's row, and what it must never do."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from gateway.adapter import (
    Action,
    Echo,
    Failure,
    FailureCode,
    FundsMoved,
    Ref,
    Report,
    SubStatus,
    Transaction,
)
from gateway.model import Attention
from gateway.states import Kind
from gateway.store import payouts as rows
from gateway.store.database import Row
from gateway.store.payout_lists import list_payouts
from gateway.store.state import state_row
from tests.execution.conftest import Bench, bench, capabilities, empty_database
from tests.statements import counted
from tests.webhooks.test_worker import subscribe

__all__ = ["bench", "capabilities", "empty_database"]

OURS, THEIRS = Ref("transfer", "t-ours"), Ref("transfer", "t-theirs")
OTHER = Echo(asset="USDC", ordered_asset="USDC", amount=Decimal(6), ordered_amount=Decimal(5))
FAILED = Failure(code=FailureCode.CHAIN_REJECTED, message="", funds_moved=FundsMoved.UNKNOWN)
#: News of every kind that would move a payout that was submitted.
MOVES = [
    SubStatus.AWAITING_APPROVAL,
    SubStatus.REQUIRES_ACTION,
    SubStatus.OUTCOME_UNKNOWN,
    SubStatus.BROADCAST,
    SubStatus.CONFIRMING,
    SubStatus.DELIVERED,
    SubStatus.FAILED,
    SubStatus.REJECTED,
]


def transaction(bench: Bench, tx_hash: str | None, transaction_id: str = "1") -> Transaction:
    """Return a transaction."""
    return Transaction(
        id=transaction_id, tx_hash=tx_hash, network="Ethereum", status="SENT", at=bench.clock.now()
    )


async def row_of(bench: Bench, payout_id: str) -> Row:
    """Return a payout's row."""
    found = await bench.db.read(rows.payout_row, payout_id)
    assert found is not None
    return found


async def submitted(bench: Bench, *refs: Ref) -> str:
    """Return a payout that the custodian has taken, with ids."""
    payout_id = await bench.accept()
    report = Report(SubStatus.SUBMITTED, "OK", refs=refs, custodian_reference="c-1")
    await bench.db.run(bench.payouts.apply, payout_id, report)
    return payout_id


def full(bench: Bench, sub_status: SubStatus, **members: Any) -> Report:
    """Return a report that says everything a report can say."""
    return Report(
        sub_status,
        "WORD",
        transactions=(transaction(bench, "0xabc"),),
        custodian_reference="c-other",
        failure=FAILED if sub_status in {SubStatus.FAILED, SubStatus.REJECTED} else None,
        action=Action() if sub_status is SubStatus.REQUIRES_ACTION else None,
        fees_paid_usd=Decimal(1),
        unknown_words=("LIMBO",),
        **members,
    )


@pytest.mark.parametrize("sub_status", MOVES)
@pytest.mark.parametrize("refs", [(THEIRS,), (Ref("transfer", "t-new"), THEIRS), (OURS, THEIRS)])
async def test_a_report_with_an_id_of_another_payout_is_not_believed(
    bench: Bench, refs: tuple[Ref, ...], sub_status: SubStatus
) -> None:
    """Not its status, words, reference or transactions; not its other ids. An operator is told."""
    await submitted(bench, THEIRS)
    payout_id = await submitted(bench, OURS)
    before = tuple(await row_of(bench, payout_id))
    report = full(bench, sub_status, refs=refs)
    applied = await bench.db.run(bench.payouts.apply, payout_id, report)
    assert applied.attention == (Attention.FOREIGN_REF,)
    assert (applied.final, applied.changed, applied.reached) == (False, False, ())
    assert tuple(await row_of(bench, payout_id)) == before
    assert await bench.attention(payout_id) == ["foreign_ref"]
    assert await bench.db.read(rows.payout_of_ref, "acme", "transfer", "t-new") is None
    assert await bench.db.read(rows.payout_of_any_id, "0xabc") is None
    assert len(await bench.events(payout_id)) == 1
    # The same news without the id of the other is believed.
    applied = await bench.db.run(bench.payouts.apply, payout_id, full(bench, sub_status))
    assert applied.changed


@pytest.mark.parametrize("sub_status", MOVES)
async def test_what_differs_from_the_order_moves_nothing(
    bench: Bench, sub_status: SubStatus
) -> None:
    """Neither status nor sub-status, no event, nobody is asked; an operator is told."""
    payout_id = await submitted(bench, OURS)
    before = await bench.payout(payout_id)
    report = full(bench, sub_status, echo=OTHER, refs=(OURS,))
    applied = await bench.db.run(bench.payouts.apply, payout_id, report)
    assert Attention.MISMATCH in applied.attention
    assert (applied.final, applied.changed, applied.reached) == (False, False, ())
    after = await bench.payout(payout_id)
    assert (after.status, after.sub_status, after.timeline, after.requires_action) == (
        before.status,
        before.sub_status,
        before.timeline,
        None,
    )
    assert after.failure is None
    assert len(await bench.events(payout_id)) == 1
    assert set(await bench.attention(payout_id)) == {"mismatch", "unknown_word"}


@pytest.mark.parametrize("end", [SubStatus.DELIVERED, SubStatus.FAILED, SubStatus.CANCELED])
async def test_an_end_never_changes(bench: Bench, end: SubStatus) -> None:
    """Whatever comes after it, with or without an echo or ids of others."""
    await submitted(bench, THEIRS)
    payout_id = await submitted(bench, OURS)
    await bench.db.run(bench.payouts.apply, payout_id, full(bench, end))
    before = await bench.payout(payout_id)
    assert before.final
    for sub_status in (*MOVES, SubStatus.CANCELED):
        for more in ({}, {"refs": (THEIRS,)}, {"echo": OTHER}):
            report = full(bench, sub_status, **more)
            applied = await bench.db.run(bench.payouts.apply, payout_id, report)
            assert applied.final
            assert not applied.changed
    after = await bench.payout(payout_id)
    assert (after.status, after.sub_status, after.failure, after.timeline) == (
        before.status,
        before.sub_status,
        before.failure,
        before.timeline,
    )


@pytest.mark.parametrize(
    ("report", "moved"),
    [
        (Report(SubStatus.DELIVERED, "DONE"), None),
        (Report(SubStatus.FAILED, "FAILED"), "unknown"),
        (Report(SubStatus.FAILED, "FAILED", failure=FAILED), "unknown"),
        (
            Report(
                SubStatus.FAILED,
                "FAILED",
                failure=FAILED.model_copy(update={"funds_moved": FundsMoved.NO}),
            ),
            "no",
        ),
        (
            Report(
                SubStatus.CANCELED,
                "",
                failure=FAILED.model_copy(update={"funds_moved": FundsMoved.YES}),
            ),
            "yes",
        ),
    ],
)
async def test_whether_money_moved_has_a_column(
    bench: Bench, report: Report, moved: str | None
) -> None:
    """Null unless the payout failed; never `no` where the adapter did not say so."""
    payout_id = await bench.accept()
    assert (await row_of(bench, payout_id))["funds_moved"] is None
    await bench.db.run(bench.payouts.apply, payout_id, report)
    assert (await row_of(bench, payout_id))["funds_moved"] == moved


async def test_the_history_of_transactions(bench: Bench) -> None:
    """A first hash completes an entry, another hash is one of its own; each is found by its hash."""
    payout_id = await bench.accept()

    async def say(status: str, tx_hash: str | None, transaction_id: str = "1") -> None:
        told = transaction(bench, tx_hash, transaction_id).model_copy(update={"status": status})
        report = Report(SubStatus.SUBMITTED, "OK", transactions=(told,))
        await bench.db.run(bench.payouts.apply, payout_id, report)
        await bench.clock.advance(1)

    for status, tx_hash, transaction_id in (
        ("A", None, "1"),
        ("B", None, "1"),
        ("C", "0x1", "1"),
        ("D", None, "2"),
        ("E", "0x2", "1"),
        ("F", "0x1", "1"),
        ("G", None, "1"),
    ):
        await say(status, tx_hash, transaction_id)
    seen = [
        (each.id, each.tx_hash, each.status)
        for each in (await bench.payout(payout_id)).transactions
    ]
    assert seen == [("1", "0x1", "G"), ("2", None, "D"), ("1", "0x2", "G")]
    for tx_hash in ("0x1", "0x2"):
        assert await bench.db.read(rows.payout_of_any_id, tx_hash) == payout_id
    assert await bench.db.read(rows.payout_of_any_id, "0x3") is None


async def test_two_payouts_of_one_transaction(bench: Bench) -> None:
    """A batched transfer has one hash: each keeps it, and one of them is found."""
    both = [await bench.accept(), await bench.accept()]
    for payout_id in both:
        report = Report(SubStatus.BROADCAST, "", transactions=(transaction(bench, "0x1"),))
        await bench.db.run(bench.payouts.apply, payout_id, report)
    assert await bench.db.read(rows.payout_of_any_id, "0x1") in both


async def test_the_row_is_written_once(bench: Bench) -> None:
    """Whatever the news brings; the same news again writes nothing and reads only the row."""
    await subscribe(bench, "http://127.0.0.1:9/")
    payout_id = await submitted(bench, OURS)
    news = full(bench, SubStatus.DELIVERED, refs=(OURS, Ref("hash", "h-1")))
    applied, texts = await counted(bench.db, bench.payouts.apply, payout_id, news)
    assert applied.changed
    assert [each.name for each in applied.reached] == ["BROADCAST", "DELIVERED"]
    assert len([text for text in texts if text.startswith("UPDATE payouts")]) == 1
    again = Report(SubStatus.DELIVERED, "WORD", refs=news.refs, transactions=news.transactions)
    applied, texts = await counted(bench.db, bench.payouts.apply, payout_id, again)
    assert applied.kind is Kind.SAME
    assert len(texts) == 1


async def test_a_row_that_was_read_is_not_read_again(bench: Bench) -> None:
    """News without anything new costs no statement then; new ids cost the same as ever."""
    payout_id = await submitted(bench, OURS)
    row = await row_of(bench, payout_id)
    report = Report(SubStatus.SUBMITTED, "OK", refs=(OURS,), custodian_reference="c-1")
    _, texts = await counted(bench.db, bench.payouts.apply, payout_id, report, row)
    assert texts == []
    report = Report(SubStatus.SUBMITTED, "OK", refs=(Ref("payout", "p-1"), OURS))
    _, texts = await counted(bench.db, bench.payouts.apply, payout_id, report, row)
    assert len(texts) == 3
    assert await bench.db.read(rows.payout_of_ref, "acme", "payout", "p-1") == payout_id


async def test_an_action_survives_its_row(bench: Bench) -> None:
    """Asked, asked again with fewer attempts, locked, asked with a new action, answered."""
    payout_id = await submitted(bench, OURS)
    ends = bench.clock.now() + timedelta(minutes=5)
    numbers = []
    for left in (3, 2, 0, 3):
        action = Action(channel="sms", attempts_left=left, expires_at=ends)
        report = Report(SubStatus.REQUIRES_ACTION, "asks", action=action)
        await bench.db.run(bench.payouts.apply, payout_id, report)
        asked = (await bench.payout(payout_id)).requires_action
        assert asked is not None
        assert (asked.attempts_left, asked.open, asked.expires_at) == (left, True, ends)
        numbers.append(asked.number)
    assert numbers == [1, 1, 1, 2]
    await bench.db.run(bench.payouts.apply, payout_id, Report(SubStatus.SUBMITTED, "OK"))
    asked = (await bench.payout(payout_id)).requires_action
    assert asked is not None
    assert (asked.number, asked.open) == (2, False)
    assert [kind for _, kind in await bench.events(payout_id)] == [
        "payout.created",
        "payout.requires_action",
        "payout.requires_action",
    ]


async def test_lists_need_one_statement(bench: Bench) -> None:
    """However many payouts there are, each with its whole history."""
    for number in range(5):
        await submitted(bench, Ref("transfer", str(number)))
    found, texts = await counted(bench.db, list_payouts, {"org": "acme-org"}, 10)
    assert len(texts) == 1
    assert [len(each.timeline) for each in found] == [2] * 5


async def test_the_promise_that_nothing_was_paid_counts_as_a_mark(bench: Bench) -> None:
    """Whatever makes it, even a canceled batch: an older copy, which would still pay, is recognised."""

    async def marks() -> int:
        return int((await bench.db.read(state_row))["marks"])

    payout_id = await bench.accept()
    before = await marks()
    unpaid = FAILED.model_copy(update={"funds_moved": FundsMoved.NO})
    await bench.db.run(
        bench.payouts.apply, payout_id, Report(SubStatus.FAILED, "NO", failure=unpaid)
    )
    assert await marks() == before + 1
    await bench.db.run(
        bench.payouts.apply, payout_id, Report(SubStatus.FAILED, "NO", failure=unpaid)
    )
    assert await marks() == before + 1
    other = await bench.accept()
    await bench.db.run(bench.payouts.apply, other, Report(SubStatus.FAILED, "NO", failure=FAILED))
    assert await marks() == before + 1
