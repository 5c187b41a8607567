"""A day of payouts, written as a running gateway would have left them, for tests and pictures."""

from __future__ import annotations

import json
import math
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from gateway.adapter import Failure, FailureCode, FundsMoved, SubStatus, Transaction
from gateway.execution.proof import Answer, Finding, Kind
from gateway.execution.state import State
from gateway.keys import KeyTerms, Scope, mint_key
from gateway.store.rows import to_us
from tests.api.conftest import Api
from tests.pages.conftest import asks, tell

_ROUTES = (("acme_eu", "USDC", "Ethereum", 170), ("dfns_sol", "USDC", "Solana", 26))


def copies(api: Api, like: str, many: int, *, hours: float = 24, seed: int = 1) -> Sequence[str]:
    """Write copies of a payout over the last hours, each with an event and a delivery; return their ids.

    Straight into the file: as many as a year has, in a second.
    """
    chance = random.Random(seed)
    now = to_us(api.clock.now())
    with closing(sqlite3.connect(api.path)) as store, store:
        store.row_factory = sqlite3.Row
        base = dict(store.execute("SELECT * FROM payouts WHERE id = ?", (like,)).fetchone())
        endpoint = store.execute("SELECT id FROM endpoints LIMIT 1").fetchone()
        payouts, events, deliveries = [], [], []
        position = store.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0]
        for number in range(many):
            part = (number + chance.random()) / many
            # Busier in the middle of the span, as a working day is.
            part = part + 0.08 * math.sin(2 * math.pi * part)
            at = now - round((1 - part) * hours * 3.6e9)
            custodian, asset, network, usual = _ROUTES[chance.random() < 0.3]
            terms = json.loads(base["terms"])
            terms |= {
                "quote_id": None,
                "asset": asset,
                "recipient_asset": asset,
                "recipient_gets": f"{chance.randint(2_000, 90_000) / 100:.2f}",
            }
            terms["route"] |= {"custodian": custodian, "to_network": network}
            failed = chance.random() < (0.05 if 0.6 < part < 0.65 else 0.004)
            took = round(usual * chance.lognormvariate(0, 0.25) * 1e6)
            payouts.append(
                base
                | {
                    "id": f"pay_{number:026}",
                    "quote_id": None,
                    "terms": json.dumps(terms),
                    "custodian": custodian,
                    "reference": f"INV-{number:06}",
                    "reference_key": f"inv-{number:06}",
                    "external_ref": f"user-{number}",
                    "status": "failed" if failed else "delivered",
                    "sub_status": "rejected" if failed else "delivered",
                    "funds_moved": "no" if failed else None,
                    "created_at": at,
                    "updated_at": min(now, at + took),
                    "sequence": 1,
                }
            )
            if endpoint is not None:
                position += 1
                slow = 7 if 0.6 < part < 0.75 else 1
                lag = round(
                    chance.lognormvariate(-0.3, 0.4) * (slow if chance.random() < 0.1 else 1) * 1e6
                )
                events.append(
                    (position, f"evt_{number:026}", "acme", "live", "payout.created", b"{}", at)
                )
                deliveries.append((position, endpoint["id"], at, at + lag))
        names = list(base)
        store.executemany(
            f"INSERT INTO payouts ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
            [[each[name] for name in names] for each in payouts],
        )
        store.executemany(
            "INSERT INTO events (position, id, org, mode, type, body, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            events,
        )
        store.executemany(
            "INSERT INTO deliveries (position, endpoint_id, state, attempts, due_at, lease_token, "
            "settled_at, trigger, plan_from) VALUES (?, ?, 'delivered', 1, ?, 0, ?, 'scheduled', 0)",
            deliveries,
        )
    return [each["id"] for each in payouts]


async def unknown_call(api: Api, payout: dict[str, Any], looks: int = 0) -> None:
    """Write a moving call of unknown outcome and absent looks after it, as the engine would."""
    now = api.clock.moment()
    with closing(sqlite3.connect(api.path)) as store, store:
        (execution,) = store.execute(
            "SELECT execution_id FROM execution_items WHERE payout_id = ?", (payout["id"],)
        ).fetchone()
        (rows,) = store.execute("SELECT rows FROM executions WHERE id = ?", (execution,)).fetchone()
        for index in range(looks + 1):
            kind, answer = (Kind.CALL, Answer.UNKNOWN) if not index else (Kind.LOOK, Finding.ABSENT)
            store.execute(
                "INSERT INTO evidence (execution_id, number, kind, seen, clock_id, elapsed, wall, "
                "fingerprint, answer, reference, source, mark, call_life, visibility, absence_looks, "
                "one_key) VALUES (?, ?, ?, ?, ?, ?, ?, 'VAULT A1 True', ?, ?, 'look', ?, 120000000, "
                "60000000, 3, 0)",
                (
                    *(execution, rows + index + 1, kind.value, rows + index, now.clock_id),
                    *(
                        now.elapsed + index * 4_300_000,
                        now.wall + index * 4_300_000,
                        answer.value,
                        payout["id"],
                    ),
                    0 if index else 1,
                ),
            )
        store.execute(
            "UPDATE executions SET state = ?, open_calls = 1, rows = ? WHERE id = ?",
            (State.UNKNOWN.value, rows + looks + 1, execution),
        )
    await tell(api, payout, SubStatus.OUTCOME_UNKNOWN)


async def endpoint(
    api: Api, url: str = "https://hooks.northwind.example/payouts"
) -> dict[str, Any]:
    """Create a webhook endpoint over the API."""
    status, made = await api.call("POST", "/webhook-endpoints", body={"url": url})
    assert status == 201, made
    return dict(made)


async def fill(api: Api, many: int = 1200) -> dict[str, str]:
    """Return the ids of what there is then: an endpoint, a day of payouts, and one in each state."""
    hook = await endpoint(api)
    like = await api.pay(amount="1250", reference="INV-2040")
    await api.clock.advance(90_000)
    copies(api, like["id"], many)
    sent = Transaction(
        id="t1", tx_hash="0x9a3f" + "c" * 56 + "77e1", network="Ethereum", at=api.clock.now()
    )
    await tell(api, like, SubStatus.BROADCAST, transactions=(sent,))
    await tell(api, like, SubStatus.DELIVERED)
    failed = await api.pay(amount="210", reference="INV-2041")
    kept = Failure(
        code=FailureCode.DESTINATION_REJECTED,
        message="The account does not take this asset.",
        custodian_code="DEST_BLOCKED",
        funds_moved=FundsMoved.NO,
    )
    await tell(api, failed, SubStatus.FAILED, failure=kept)
    code = await api.pay(amount="165", reference="INV-2042")
    await tell(api, code, SubStatus.REQUIRES_ACTION, action=asks(api))
    await api.clock.advance(600)
    unknown = await api.pay(amount="4423", reference="INV-2044")
    await api.clock.advance(1)
    await tell(api, unknown, SubStatus.SUBMITTING)
    await api.clock.advance(2)
    await unknown_call(api, unknown, looks=2)
    _tries(api, hook["id"])
    await api.clock.advance(100)
    names = {"unknown": unknown, "failed": failed, "code": code, "delivered": like, "hook": hook}
    return {name: str(each["id"]) for name, each in names.items()}


def _tries(api: Api, endpoint_id: str) -> None:
    """Write that what waits for an endpoint was tried: delivered, or refused and to be tried again."""
    at = to_us(api.clock.now())
    with closing(sqlite3.connect(api.path)) as store, store:
        waiting = store.execute(
            "SELECT position FROM deliveries WHERE endpoint_id = ? AND state = 'pending' "
            "ORDER BY position",
            (endpoint_id,),
        ).fetchall()
        for index, (position,) in enumerate(waiting):
            last = index == len(waiting) - 1
            store.execute(
                "INSERT INTO delivery_attempts (position, endpoint_id, attempt, outcome, http_status, "
                "started_at, duration_ms, next_attempt_at, trigger) "
                "VALUES (?, ?, 1, ?, ?, ?, ?, ?, 'scheduled')",
                (
                    *(position, endpoint_id, "http_error" if last else "succeeded"),
                    *(503 if last else 204, at + index, 118 + 7 * index, at if last else None),
                ),
            )
            if not last:
                store.execute(
                    "UPDATE deliveries SET state = 'delivered', attempts = 1, settled_at = 800000 + "
                    "(SELECT created_at FROM events WHERE events.position = deliveries.position) "
                    "WHERE position = ? AND endpoint_id = ?",
                    (position, endpoint_id),
                )


async def more(api: Api) -> dict[str, str]:
    """Return the ids of further things: keys, and a batch half of which is paid."""
    runtime = api.context.runtime
    terms = KeyTerms(scopes=(Scope.PAYOUTS_READ,), name="ledger-sync", owner="ada")
    key = await api.context.db.run(mint_key, runtime, "acme", "live", terms, actor="ada")
    head = "external_ref,destination_type,account_type,id,asset,amount,reference\n"
    rows = "".join(
        f"u-{n},custodian_account,EXTERNAL_WALLET,w-{n},USDC,{80 + 2 * n},PAY-{n:04}\n"
        for n in range(120)
    )
    query = "custodian=acme_eu&account_type=VAULT&account_id=A1&reference=November%20payroll"
    answer, raw = await api.send(
        "POST",
        f"/payout-batches?{query}",
        data=(head + rows).encode(),
        content_type="text/csv",
        idempotency_key="sample",
    )
    assert answer.status == 201, raw
    batch_id = json.loads(raw)["id"]
    status, _ = await api.call("POST", f"/payout-batches/{batch_id}/execute")
    assert status == 202
    states = (
        *[("delivered", "delivered")] * 81,
        *[("broadcast", "confirming")] * 24,
        *[("pending", "outcome_unknown")] * 2,
        *[("failed", "rejected")] * 3,
    )
    with closing(sqlite3.connect(api.path)) as store, store:
        store.execute("UPDATE batches SET state = 'executing' WHERE id = ?", (batch_id,))
        for position, state in enumerate(states):
            store.execute(
                "UPDATE payouts SET status = ?, sub_status = ? "
                "WHERE batch_id = ? AND batch_position = ?",
                (*state, batch_id, position),
            )
    return {"key": key.id, "batch": str(batch_id)}
