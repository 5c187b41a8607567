"""Rows for tests of the store, and a runtime on a clock that the test sets."""

from __future__ import annotations

import itertools

from sqlalchemy import insert

from gateway.runtime import Clock, Ids, Moment, Runtime
from gateway.store.database import Query, Tx
from gateway.store.schema import evidence, execution_items, executions, payouts

_NUMBERS = itertools.count(1)
_TERMS = (
    '{"quote_id": null, "expires_at": null, "destination": {"type": "custodian_account", '
    '"account_type": "X", "id": "p"}, "asset": "USDC", "amount": "5", "user_sends": "5", '
    '"recipient_gets": "5", "send_asset": "USDC", "recipient_asset": "USDC", "fx_rate": null, '
    '"price": "firm", "fee_total_usd": "0", "route": {"custodian": "acme", "from_network": null, '
    '"to_network": null, "estimated_seconds": 1}}'
)


def runtime_of(clock: Clock) -> Runtime:
    """Return a runtime on a clock."""
    return Runtime(clock=clock, ids=Ids(clock))


async def add_payout(tx: Tx, status: str = "pending", batch_id: str | None = None) -> str:
    """Store function: add a payout; return its id."""
    payout_id = f"pay_{next(_NUMBERS)}"
    values: dict[str, object] = {
        column.name: None for column in payouts.columns if column.nullable
    } | {
        "id": payout_id,
        "org": "acme",
        "mode": "live",
        "status": status,
        "sub_status": "created" if status == "pending" else status,
        "external_ref": "u",
        "metadata": "{}",
        "terms": _TERMS,
        "document": "{}",
        "custodian": "acme",
        "account": '{"id": "A", "type": "VAULT"}',
        "sequence": 0 if batch_id else 1,
        "created_at": 0,
        "updated_at": 0,
        "batch_id": batch_id,
    }
    await tx.all(Query(insert(payouts)), **values)
    return payout_id


async def add_execution(
    tx: Tx, payout_id: str, *, notes: str = "{}", calls: tuple[int, ...] = (), at: Moment
) -> str:
    """Store function: add an open execution of one payout, with calls of these marks; return its id."""
    execution_id = f"exe_{next(_NUMBERS)}"
    values: dict[str, object] = {
        column.name: None if column.nullable else 0 for column in executions.columns
    } | {
        "id": execution_id,
        "custodian": "acme",
        "account": '{"id": "A", "type": "VAULT"}',
        "number": 1,
        "key_seed": execution_id,
        "state": "accepted" if calls else "prepared",
        "notes": notes,
        "rows": len(calls),
        "open_calls": len(calls),
        "lease_token": 3,
        "lease_owner": "gwy",
        "lease_until": 2**60,
        "created_clock_id": at.clock_id,
    }
    await tx.all(Query(insert(executions)), **values)
    item = {"execution_id": execution_id, "payout_id": payout_id, "position": 0, "open": 1}
    await tx.all(Query(insert(execution_items)), **item)
    for number, mark in enumerate(calls, 1):
        row: dict[str, object] = {
            column.name: None if column.nullable else 0 for column in evidence.columns
        } | {
            "execution_id": execution_id,
            "number": number,
            "kind": "call",
            "clock_id": at.clock_id,
            "elapsed": at.elapsed,
            "wall": at.wall,
            "fingerprint": "f",
            "answer": "accepted",
            "source": "reply",
            "mark": mark,
        }
        await tx.all(Query(insert(evidence)), **row)
    return execution_id
