"""The whole story of a payout, read from the store alone, for operators."""

from __future__ import annotations

import json
from typing import Any

from gateway.model import Payout, SubStatus, format_time
from gateway.store import audit, deliveries, events, executions, inbox, returns
from gateway.store import evidence as stored
from gateway.store import payouts as rows
from gateway.store.account_turns import account_holder
from gateway.store.database import Row, Tx
from gateway.store.payout_lists import list_payouts
from gateway.store.quotes import decision_of
from gateway.store.rows import from_us, payout_of
from gateway.views import payout_json

_MOST_ACTS = 100


#: The times of a row of the operator's list.
_NOTED = ("first_at", "last_at", "closed_at", "told_at")


async def tell(tx: Tx, wanted: str) -> dict[str, Any] | None:
    """Return everything that is stored about a payout, found by its id or any id at a custodian.

    Store function. No secret is among it: keys are digests, notes never hold secrets.
    """
    row = await _find(tx, wanted)
    if row is None:
        return None
    payout = payout_of(row)
    owned = await executions.open_execution_of(tx, payout.id)
    attention = await rows.attention_of(tx, payout.id)
    decision = await decision_of(tx, payout.id)
    return {
        "payout": payout_json(payout),
        "org": payout.org,
        "account": payout.account.model_dump(),
        "custodian_word": row["custodian_word"],
        "erased_at": _at(row["erased_at"]),
        "next_look_at": None if owned is None else _at(owned["due_at"]),
        "lease": None if owned is None else _lease(owned),
        "blocked": None if owned is None else owned["blocked"],
        "queued_behind": await _behind(tx, payout),
        "attention": [_times(each, *_NOTED) for each in attention],
        # As it is stored: the operator may see more than the partner.
        "timeline": [each.model_dump(mode="json") for each in payout.timeline],
        "acts": [
            {name: each[name] for name in ("actor", "act", "detail", "after", "request_id")}
            | {"at": _at(each["at"])}
            for each in await audit.acts_on(tx, payout.id, _MOST_ACTS)
        ],
        # By which route, and why not by another one: of a payout of a batch nothing is kept.
        "decision": None if decision is None else json.loads(decision),
        "executions": [
            await _execution(tx, each) for each in await executions.executions_of(tx, payout.id)
        ],
        "refs": [dict(each) for each in await rows.refs_of(tx, payout.id)],
        "returns": [
            _times(each, "returned_at", "recorded_at")
            for each in await returns.returns_of(tx, payout.id)
        ],
        "custodian_webhooks": [
            {
                "id": f"{each['custodian']}/{each['dedup_key']}",
                "dedup_key": each["dedup_key"],
                "state": each["state"],
                "received_at": _at(each["received_at"]),
            }
            for each in await inbox.webhooks_of(tx, payout.id)
        ],
        "events": [
            {
                "id": each["id"],
                "type": each["type"],
                "sequence": each["sequence"],
                "at": _at(each["created_at"]),
            }
            for each in await events.events_of(tx, payout.id)
        ],
        "deliveries": await _deliveries(tx, payout.id),
    }


async def _behind(tx: Tx, payout: Payout) -> str | None:
    """Return the payout that has the turn at the account that a payout is queued at."""
    if payout.sub_status is not SubStatus.QUEUED:
        return None
    names = payout.custodian, payout.account.type, payout.account.id
    holder = await account_holder(tx, *names)
    return None if holder == payout.id else holder


async def _execution(tx: Tx, row: Row) -> dict[str, Any]:
    """Return an execution and its evidence."""
    evidence = await stored.evidence_rows(tx, [row["id"]])
    names = (
        "id",
        "number",
        "custodian",
        "batch_id",
        "size",
        "state",
        "open_calls",
        "failures",
        "outcome",
    )
    return {
        **{name: row[name] for name in names},
        "account": json.loads(row["account"]),
        "notes": json.loads(row["notes"]),
        "blocked": row["blocked"],
        "created_at": _at(row["created_at"]),
        "ended_at": _at(row["ended_at"]),
        "evidence": [_evidence(each) for each in evidence.get(row["id"], ())],
    }


def _evidence(row: Row) -> dict[str, Any]:
    names = ("number", "kind", "answer", "source", "reference", "item", "seen", "mark", "detail")
    return {**{name: row[name] for name in names}, "at": _at(row["wall"])}


async def needing_attention(tx: Tx, limit: int) -> list[dict[str, Any]]:
    """Return the operator's list, newest first, outcomes that are unknown now included."""
    found = [_times(each, *_NOTED) for each in await rows.attention_list(tx, limit)]
    told = {each["payout_id"] for each in found}
    unknown = await list_payouts(tx, {"sub_status": "outcome_unknown"}, limit)
    found += [
        {
            "payout_id": payout.id,
            "status": payout.status.value,
            "sub_status": payout.sub_status.value,
            "custodian": payout.custodian,
            "code": "outcome_unknown",
            "detail": payout.timeline[-1].detail,
            "times": 1,
            "last_at": format_time(payout.updated_at),
        }
        for payout in unknown
        if payout.id not in told
    ]
    # Cut after both are one list: many old remarks must not hide an outcome that is unknown now.
    return sorted(found, key=lambda each: each["last_at"], reverse=True)[:limit]


async def _find(tx: Tx, wanted: str) -> Row | None:
    row = await rows.payout_row(tx, wanted)
    if row is None:
        payout_id = await rows.payout_of_any_id(tx, wanted)
        row = None if payout_id is None else await rows.payout_row(tx, payout_id)
    return row


async def _deliveries(tx: Tx, payout_id: str) -> list[dict[str, Any]]:
    """Return a line per try, and one per delivery that was not tried yet."""
    tries: dict[tuple[int, str], list[Row]] = {}
    for each in await deliveries.attempts_of_payout(tx, payout_id):
        tries.setdefault((each["position"], each["endpoint_id"]), []).append(each)
    lines: list[dict[str, Any]] = []
    for delivery in await deliveries.deliveries_of(tx, payout_id):
        head = {
            name: delivery[name] for name in ("event_id", "endpoint_id", "type", "url", "state")
        }
        made = tries.get((delivery["position"], delivery["endpoint_id"]), [])
        lines += [
            {
                **head,
                **{
                    name: each[name]
                    for name in ("attempt", "outcome", "http_status", "duration_ms")
                },
                "started_at": _at(each["started_at"]),
                "next_attempt_at": _at(each["next_attempt_at"]),
            }
            for each in made
        ]
        if not made:
            lines.append({**head, "attempt": 0, "next_attempt_at": _at(delivery["due_at"])})
    return lines


def _times(row: Row, *names: str) -> dict[str, Any]:
    return {**dict(row), **{name: _at(row[name]) for name in names}}


def _lease(row: Row) -> str | None:
    if not row["lease_until"]:
        return None
    return f"{row['lease_owner']} until {_at(row['lease_until'])} (token {row['lease_token']})"


def _at(us: int | None) -> str | None:
    return None if us is None else format_time(from_us(us))
