"""Payouts for bookkeeping: what was sent for which fee, by which references and executions.

Read page by page, so that years of payouts fit into memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from gateway.assets import EXACT
from gateway.model import Payout, format_amount, format_time
from gateway.spending_rules import destination_of
from gateway.store.database import Row, Tx
from gateway.store.export import executions_of_payouts, payouts_between, returns_of_payouts
from gateway.store.rows import from_us, payout_of

PAGE = 200
#: The columns of the CSV file, which JSON lines have as members as well.
COLUMNS = (
    "payout_id",
    "org",
    "mode",
    "created_at",
    "updated_at",
    "status",
    "sub_status",
    "funds_moved",
    "failure_code",
    "external_ref",
    "reference",
    "batch_id",
    "quote_id",
    "custodian",
    "account_type",
    "account_id",
    "custodian_reference",
    "destination_type",
    "destination",
    "network",
    "asset",
    "user_sends",
    "fee",
    "recipient_asset",
    "recipient_gets",
    "final_recipient_amount",
    "returned_amount",
    "fee_total_usd",
    "fees_paid_usd",
    "tx_hash",
    "executions",
)


async def export_page(
    tx: Tx, begin: int, end: int, after: tuple[int, str], org: str | None
) -> tuple[list[dict[str, Any]], tuple[int, str]]:
    """Return a page of payouts that were created in a time, oldest first, and where the next one begins.

    Store function. `begin` (included) and `end` (not included): wall clock, in microseconds. A page without
    rows is the last one.
    """
    rows = await payouts_between(tx, begin, end, after, org, PAGE)
    ids = [row["id"] for row in rows]
    executions: dict[str, list[Row]] = {}
    for each in await executions_of_payouts(tx, ids):
        executions.setdefault(each["payout_id"], []).append(each)
    returns: dict[str, list[Row]] = {}
    for each in await returns_of_payouts(tx, ids):
        returns.setdefault(each["payout_id"], []).append(each)
    page = [_record(row, executions.get(row["id"], ()), returns.get(row["id"], ())) for row in rows]
    return page, (rows[-1]["created_at"], rows[-1]["id"]) if rows else after


def _record(row: Row, executions: Sequence[Row], returns: Sequence[Row]) -> dict[str, Any]:
    """Return a payout as it is exported. Amounts are decimal texts, times are RFC 3339 in UTC."""
    payout = payout_of(row)
    terms, failure = payout.terms, payout.failure
    hashes = [each.tx_hash for each in payout.transactions if each.tx_hash]
    return {
        "payout_id": payout.id,
        "org": payout.org,
        "mode": "live" if payout.livemode else "test",
        "created_at": format_time(payout.created_at),
        "updated_at": format_time(payout.updated_at),
        "status": payout.status.value,
        "sub_status": payout.sub_status.value,
        "funds_moved": row["funds_moved"],
        "failure_code": failure.code.value if failure else None,
        "external_ref": payout.external_ref,
        "reference": payout.reference,
        "batch_id": payout.batch_id,
        "quote_id": row["quote_id"],
        "custodian": payout.custodian,
        "account_type": payout.account.type,
        "account_id": payout.account.id,
        "custodian_reference": payout.custodian_reference,
        "destination_type": terms.destination.type,
        "destination": destination_of(terms.destination),
        "network": terms.route.to_network,
        "asset": terms.send_asset,
        "user_sends": format_amount(terms.user_sends),
        "fee": _fee(payout),
        "recipient_asset": terms.recipient_asset,
        "recipient_gets": format_amount(terms.recipient_gets),
        "final_recipient_amount": _amount(payout.final_recipient_amount),
        "returned_amount": _amount(payout.returned_amount),
        "fee_total_usd": _amount(terms.fee_total_usd),
        "fees_paid_usd": _amount(payout.fees_paid_usd),
        "tx_hash": hashes[-1] if hashes else None,
        "transactions": [each.model_dump(mode="json") for each in payout.transactions],
        "returns": [
            {
                "custodian_id": each["custodian_id"],
                "amount": each["amount"],
                "asset": each["asset"],
                "returned_at": format_time(from_us(each["returned_at"])),
            }
            for each in returns
        ],
        "executions": [_execution(each) for each in executions],
    }


def _execution(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "number": row["number"],
        "custodian": row["custodian"],
        "account": json.loads(row["account"]),
        "state": row["state"],
        "outcome": row["outcome"],
        "calls": row["calls"],
        "created_at": format_time(from_us(row["created_at"])),
        "ended_at": None if row["ended_at"] is None else format_time(from_us(row["ended_at"])),
    }


def _fee(payout: Payout) -> str | None:
    """Return the fee in the asset that is sent; None if the recipient gets another one."""
    terms = payout.terms
    if terms.send_asset != terms.recipient_asset:
        return None
    return format_amount(EXACT.subtract(terms.user_sends, terms.recipient_gets))


def _amount(amount: Decimal | None) -> str | None:
    return None if amount is None else format_amount(amount)


def cells(record: Mapping[str, Any]) -> list[str]:
    """Return a payout as cells of a CSV file. Its executions are `number:custodian:state`, in order. Pure."""
    flat = dict(record)
    flat["executions"] = " ".join(
        f"{each['number']}:{each['custodian']}:{each['state']}" for each in record["executions"]
    )
    return ["" if flat[name] is None else str(flat[name]) for name in COLUMNS]
