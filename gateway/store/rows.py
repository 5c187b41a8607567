"""Between rows and values: times as microseconds, JSON as text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from pydantic import TypeAdapter

from gateway.model import (
    Account,
    Failure,
    Payout,
    QuoteTerms,
    RequiredAction,
    TimelineEntry,
    Transaction,
)
from gateway.store.database import Row

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TERMS: TypeAdapter[QuoteTerms] = TypeAdapter(QuoteTerms)


def to_us(at: datetime) -> int:
    """Return a time as microseconds since 1970."""
    return (at - _EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    """Return the time of so many microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=us)


def maybe_from_us(us: int | None) -> datetime | None:
    """Return the time, or None for None."""
    return None if us is None else from_us(us)


def to_json(value: Any) -> str:
    """Return compact JSON text."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def terms_of(text: str) -> QuoteTerms:
    """Return the quote terms stored in a column."""
    return _TERMS.validate_json(text)


def payout_of(row: Row, timeline: Iterable[Row] = (), transactions: Iterable[Row] = ()) -> Payout:
    """Return the payout of its row and the rows that belong to it."""
    terms = terms_of(row["terms"])
    return Payout(
        id=row["id"],
        org=row["org"],
        livemode=row["mode"] == "live",
        status=row["status"],
        sub_status=row["sub_status"],
        external_ref=row["external_ref"],
        reference=row["reference"],
        metadata=json.loads(row["metadata"]),
        terms=terms,
        custodian=row["custodian"],
        account=Account.model_validate_json(row["account"]),
        custodian_reference=row["custodian_reference"],
        batch_id=row["batch_id"],
        transactions=tuple(transaction_of(each) for each in transactions),
        requires_action=action_of(row),
        failure=Failure.model_validate_json(row["failure"]) if row["failure"] else None,
        timeline=tuple(entry_of(each) for each in timeline),
        fees_paid_usd=Decimal(row["fees_paid_usd"]) if row["fees_paid_usd"] else None,
        final_recipient_amount=terms.recipient_gets,
        sequence=row["sequence"],
        created_at=from_us(row["created_at"]),
        updated_at=from_us(row["updated_at"]),
    )


def entry_of(row: Row) -> TimelineEntry:
    """Return one timeline entry of its row."""
    return TimelineEntry(
        status=row["status"],
        sub_status=row["sub_status"],
        at=from_us(row["at"]),
        tx_hash=row["tx_hash"],
        detail=row["detail"],
    )


def transaction_of(row: Row) -> Transaction:
    """Return one transaction of its row; an empty hash means that none is known."""
    return Transaction(
        id=row["id"],
        tx_hash=row["tx_hash"] or None,
        network=row["network"],
        status=row["status"],
        explorer_url=row["explorer_url"],
        at=from_us(row["at"]),
    )


def action_of(row: Row) -> RequiredAction | None:
    """Return the last action that a payout asked for, answered or not."""
    stored = row["requires_action"]
    return RequiredAction.model_validate_json(stored) if stored else None
