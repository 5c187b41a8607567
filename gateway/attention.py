"""Closing attention entries, by an operator or automatically, and publishing them to subscribers."""

from __future__ import annotations

import json

from gateway.events import Event, publish, subscribes
from gateway.model import Attention, Status
from gateway.runtime import Runtime
from gateway.store import attention as rows
from gateway.store.audit import Act, add_audit
from gateway.store.database import Row, Tx
from gateway.store.endpoints import subscribed_endpoints
from gateway.store.payouts import payout_row
from gateway.store.rows import from_us, payout_of, to_us
from gateway.views import ATTENTION_EVENT, AttentionNote, event_body

#: The act in the audit log.
ACKNOWLEDGED = "attention_acknowledged"


async def acknowledge(  # noqa: PLR0913 - what, why and by whom
    tx: Tx, runtime: Runtime, payout_id: str, code: str | None, reason: str, act: Act
) -> list[Row] | None:
    """Close what is open of a payout on the operator's list. Store function. None: there is no such payout.

    This records that a person took care of it, and permits nothing. Returns the rows that were closed.
    """
    payout = await payout_row(tx, payout_id)
    if payout is None:
        return None
    at = to_us(runtime.clock.now())
    closed = await rows.acknowledge(tx, payout_id, code, at, act.actor)
    if closed:
        await add_audit(
            tx,
            runtime.ids,
            runtime.clock.moment().wall,
            actor=act.actor,
            act=ACKNOWLEDGED,
            subject=payout_id,
            org=payout["org"],
            detail=reason,
            after={"codes": sorted({row["code"] for row in closed})},
            request_id=act.request_id,
        )
    return closed


async def tell(tx: Tx, runtime: Runtime, payout_id: str, code: str, detail: str) -> bool:
    """Publish `payout.attention` for a row, once. Store function; whether there is a delivery.

    For endpoints that name the type, and no others: without one there is no event. Nothing of the detail
    is in it, which may name other orgs' payouts.
    """
    now = runtime.clock.now()
    found = await rows.note_told(tx, payout_id, code, detail, to_us(now))
    payout = None if found is None else await payout_row(tx, payout_id)
    if found is None or payout is None:
        return False
    endpoints = await subscribed_endpoints(tx, payout["org"], payout["mode"])
    if not any(subscribes(json.loads(each["event_types"]), ATTENTION_EVENT) for each in endpoints):
        return False
    row = await rows.next_sequence(tx, payout_id)
    assert row is not None  # noqa: S101 - it was read in this transaction
    note = AttentionNote(code=Attention(code), since=from_us(found["first_at"]))
    told = payout_of(row)
    body = event_body(told, Status(row["status"]), now, ATTENTION_EVENT, attention=note)
    event = Event(ATTENTION_EVENT, body, payout_id, row["sequence"])
    await publish(tx, runtime, row["org"], row["mode"], now, [event])
    return True
