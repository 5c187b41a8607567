"""The vendor's documented bodies, in our words: each is read as the vendor means it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from adapters.fireblocks.client import Answer
from adapters.fireblocks.webhook import parse
from gateway.adapter import Absent, FailureCode, FundsMoved, Ref, Report, SubStatus
from tests.adapters.fireblocks.rig import answering, fetch, order

PAYLOADS = Path(__file__).parent / "payloads"
INSTRUCTION = "5b0c1d7e-2f64-4c55-9a0f-6f1f3f1d0a01"
TRANSACTION = "d1f0a6c2-0000-4000-8000-0000000000a1"


def load(name: str) -> Any:
    """Return a body."""
    return json.loads((PAYLOADS / f"{name}.json").read_text("utf-8"))


async def read(payout: str, transaction: str | None) -> Report | Absent:
    """Return what the adapter says of an order whose set looks like this."""
    told = load(payout)
    answers = {
        "status": (200, told),
        "transaction": (404, "") if transaction is None else (200, load(transaction)),
    }
    async with answering(answers) as (adapter, _):
        mine = order()
        await mine.remember(payout_id=told["payoutId"], instruction_id=INSTRUCTION)
        found = await fetch(adapter, mine)
        assert isinstance(found, Report | Absent)
        return found


@pytest.mark.parametrize("name", ["payout_created", "payout_created_without_status"])
async def test_registered_only(name: str) -> None:
    """Not executed, also where the vendor's own sample leaves the status out."""
    assert isinstance(await read(name, None), Absent)


@pytest.mark.parametrize(
    ("name", "transaction", "expected"),
    [
        ("payout_translated", None, SubStatus.SUBMITTED),
        ("payout_insufficient_balance", None, SubStatus.AWAITING_FUNDS),
        ("payout_awaiting_approval", None, SubStatus.AWAITING_APPROVAL),
        ("payout_confirming", "transaction_confirming", SubStatus.CONFIRMING),
        ("payout_finalized", "transaction_completed", SubStatus.DELIVERED),
        ("payout_failed_beside_us", "transaction_completed", SubStatus.DELIVERED),
        ("payout_failed_still_running", None, SubStatus.OUTCOME_UNKNOWN),
    ],
)
async def test_on_the_way_and_delivered(
    name: str, transaction: str | None, expected: SubStatus
) -> None:
    """Labels are ignored, blanks stripped; a failed set may hold our completed instruction."""
    found = await read(name, transaction)
    assert isinstance(found, Report)
    assert (found.sub_status, found.failure) == (expected, None)
    assert found.echo is not None
    assert found.echo.differences() == ()
    if transaction is not None:
        assert Ref("transaction", TRANSACTION) in found.refs
        assert [each.tx_hash for each in found.transactions] == ["0x5a1e"]
        # What the exchange deducted did not arrive.
        delivered = found.sub_status is SubStatus.DELIVERED
        assert found.final_recipient_amount == (Decimal("42.99") if delivered else None)


@pytest.mark.parametrize(
    ("name", "transaction", "code", "moved"),
    [
        ("payout_failed_at_midnight", None, FailureCode.INSUFFICIENT_FUNDS, FundsMoved.NO),
        ("payout_translation_error", None, FailureCode.DESTINATION_REJECTED, FundsMoved.NO),
        ("payout_skipped", None, FailureCode.UNKNOWN_REASON, FundsMoved.NO),
        (
            "payout_failed_with_us",
            "transaction_rejected",
            FailureCode.POLICY_REJECTED,
            FundsMoved.NO,
        ),
        (
            "payout_finalized",
            "transaction_not_credited",
            FailureCode.THIRD_PARTY_FAILED,
            FundsMoved.YES,
        ),
    ],
)
async def test_failed(
    name: str, transaction: str | None, code: FailureCode, moved: FundsMoved
) -> None:
    """By the instruction's own word, with our code and the truth about the money."""
    found = await read(name, transaction)
    assert isinstance(found, Report)
    assert found.sub_status is SubStatus.FAILED
    assert found.failure is not None
    assert (found.failure.code, found.failure.funds_moved) == (code, moved)


@pytest.mark.parametrize("name", ["webhook_v2", "webhook_v1"])
def test_webhooks(name: str) -> None:
    """Both envelopes name the transaction, bring its hash, and end nothing."""
    body = (PAYLOADS / f"{name}.json").read_bytes()
    (notice,) = parse(body, {"USDC": "Ethereum"}.get)
    assert notice.refs == (Ref("transaction", TRANSACTION),)
    assert notice.dedup_key == parse(body, lambda _: None)[0].dedup_key
    assert notice.report is not None
    assert notice.report.sub_status is SubStatus.CONFIRMING
    assert [each.tx_hash for each in notice.report.transactions] == ["0x5a1e"]
    assert notice.observed_at is not None
    assert notice.observed_at.isoformat() == "2026-09-21T14:14:50.123000+00:00"


def test_errors() -> None:
    """Type and message, or message and code."""
    payments, classic = Answer(400, load("error_payments")), Answer(401, load("error_gateway"))
    assert (payments.kind, payments.refusal) == ("VALIDATION", True)
    assert (classic.kind, classic.refusal) == ("-10", False)
    assert payments.message
    assert classic.message


def test_every_payload_is_read() -> None:
    """None lies there unused."""
    text = Path(__file__).read_text("utf-8")
    for path in PAYLOADS.glob("*.json"):
        assert f'"{path.stem}"' in text
