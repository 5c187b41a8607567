"""Receipts of deliveries, many at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import and_, bindparam, func, insert, select, update
from sqlalchemy.sql import ColumnElement

from gateway.store.database import Query, Tx
from gateway.store.schema import deliveries, delivery_attempts

#: Many receipts in one statement, as one text: a call for each would cost more than what it writes.
_TOLD = func.json_each(bindparam("receipts")).table_valued("value", name="told")


def _told(position: int) -> ColumnElement[Any]:
    return func.json_extract(_TOLD.c.value, f"$[{position}]")


_HELD = and_(
    deliveries.c.id == _told(0),
    deliveries.c.lease_token == _told(1),
    # Not the bare column: by its index every pending delivery would be looked at for each receipt.
    func.coalesce(deliveries.c.state, "") == "pending",
)
_RECEIPT_ATTEMPTS = Query(
    insert(delivery_attempts).from_select(
        [
            "delivery_id",
            "attempt",
            "endpoint_id",
            "trigger",
            "outcome",
            "http_status",
            "response_snippet",
            "started_at",
            "duration_ms",
        ],
        select(
            deliveries.c.id,
            deliveries.c.attempts + 1,
            deliveries.c.endpoint_id,
            deliveries.c.trigger,
            *(_told(position) for position in range(3, 8)),
        )
        .select_from(_TOLD)
        .join(deliveries, _HELD),
    )
)
_RECEIPTS = Query(
    update(deliveries)
    .where(_HELD)
    .values(
        state="delivered",
        attempts=deliveries.c.attempts + 1,
        lease_until=0,
        settled_at=_told(2),
        due_at=_told(2),
        trigger="scheduled",
    )
)


class Receipt(NamedTuple):
    """A try that was received; the order of its members is the statements' own."""

    delivery_id: str
    token: int
    settled: int
    outcome: str
    http_status: int | None
    snippet: str | None
    started_at: int
    duration_ms: int


async def settle_receipts(tx: Tx, receipts: Sequence[Receipt]) -> None:
    """Write that deliveries were received, with their tries; those whose lease is lost stay as they are."""
    told = json.dumps(receipts, separators=(",", ":"))
    await tx.all(_RECEIPT_ATTEMPTS, receipts=told)
    await tx.all(_RECEIPTS, receipts=told)
