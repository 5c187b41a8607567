"""Revision 0005 moves everything: histories into rows, deliveries and webhooks to their natural keys."""

from __future__ import annotations

import json
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command

from gateway.model import RequiredAction, Status, SubStatus, TimelineEntry, Transaction
from gateway.store import deliveries, inbox, migrate, upgrading
from gateway.store import payouts as rows
from gateway.store.database import Database, Tx
from gateway.store.rows import from_us
from gateway.webhooks.replay import NEWEST

_TERMS = json.dumps(
    {
        "quote_id": "quo_1",
        "expires_at": None,
        "destination": {"type": "address", "network": "Ethereum", "address": "0x1"},
        "asset": "USDC",
        "amount": "1",
        "user_sends": "1",
        "recipient_gets": "1",
        "send_asset": "USDC",
        "recipient_asset": "USDC",
        "fee_total_usd": None,
        "route": {
            "custodian": "c",
            "from_network": None,
            "to_network": None,
            "estimated_seconds": 60,
        },
    }
)
_ACTION = RequiredAction(
    number=2,
    open=False,
    type="enter_passcode",
    channel="sms",
    attempts_left=1,
    expires_at=datetime(2026, 3, 2, tzinfo=UTC),
)
_AT = 1_772_445_600_123_456
_FAILED = '{"code":"chain_rejected","message":"no","funds_moved":"%s"}'
#: id, status, sub_status, requires_action, failure
_PAYOUTS = [
    ("pay_plain", "pending", "created", None, None),
    ("pay_full", "delivered", "delivered", _ACTION.model_dump_json(), None),
    ("pay_no", "failed", "rejected", None, _FAILED % "no"),
    ("pay_yes", "failed", "failed", None, _FAILED % "yes"),
    ("pay_old", "failed", "failed", None, None),
]
_TIMELINE = [
    ("tle_1", "pay_plain", "pending", "created", None, None, _AT),
    ("tle_2", "pay_full", "pending", "created", None, None, _AT),
    ("tle_4", "pay_full", "delivered", "delivered", "0xb", 'a "quote" ✓ \n', _AT + 2),
    ("tle_3", "pay_full", "broadcast", "broadcast", None, None, _AT + 3),
]
_TRANSACTIONS = [
    ("pay_full", "2", "0xb", "Ethereum", "DONE", "https://e/0xb", _AT + 2),
    ("pay_full", "1", "0xa", "Ethereum", "REPLACED", None, _AT + 1),
    ("pay_full", "3", "", None, None, None, _AT + 3),
    ("pay_no", "1", "0xa", None, "X", None, _AT),
]
_REFS = [
    ("c", "payout", "p-1", "pay_full"),
    ("c", "hash", "0xb", "pay_full"),
    ("d", "payout", "p-1", "pay_no"),
]
#: id, event, endpoint, state, attempts, due_at, lease_token, lease_until, settled_at, trigger, plan_from
_DELIVERIES = [
    ("whd_1", "evt_1", "whe_1", "delivered", 2, 10, 3, 0, 11, "scheduled", 0),
    ("whd_2", "evt_1", "whe_2", "pending", 1, 500, 1, 0, None, "manual", 1),
    ("whd_3", "evt_2", "whe_1", "pending", 0, 20, 4, 900, None, "scheduled", 0),
    ("whd_4", "evt_2", "whe_2", "skipped", 0, 20, 0, 0, 21, "recover", 0),
    ("whd_5", "evt_3", "whe_1", "exhausted", 9, 30, 9, 0, 31, "scheduled", 3),
]
#: delivery, attempt, outcome, http_status, snippet, started_at, duration, next, trigger, endpoint
_ATTEMPTS = [
    ("whd_1", 1, "http_error", 500, "no ✗", 5, 7, 9, "scheduled", "whe_1"),
    ("whd_1", 2, "succeeded", 204, "", 10, 6, None, "manual", "whe_1"),
    ("whd_2", 1, "timeout", None, None, 8, 5, 500, "scheduled", None),
]
#: id, custodian, dedup_key, body, state, payout_id, received_at, settled_at
_INBOX = [
    ("inb_1", "c", "n-1", b"\x00\xff", "applied", "pay_full", 1, 2),
    ("inb_2", "c", "n-2", b"{}", "waiting", None, 3, 4),
    ("inb_3", "d", "n-1", b"{}", "new", None, 5, None),
    ("inb_4", "c", "sha256:x", b"?", "unreadable", None, 6, 7),
]

_ENDS = ("whe_1", "whe_2")


def made(path: Path) -> sqlite3.Connection:
    """Return a database of revision 0004 with rows of every kind."""
    command.upgrade(upgrading.config(path), "0004")
    db = sqlite3.connect(path)
    db.execute("PRAGMA foreign_keys=ON")

    def insert(table: str, found: list[tuple[Any, ...]], columns: str = "") -> None:
        marks = ",".join("?" * len(found[0]))
        db.executemany(f"INSERT INTO {table} {columns} VALUES ({marks})", found)

    insert(
        "payouts",
        [
            (
                name,
                "o",
                "live",
                status,
                sub,
                "u",
                "{}",
                _TERMS,
                "c",
                '{"id":"A","type":"V"}',
                action,
                failure,
                1,
                _AT,
                _AT,
            )
            for name, status, sub, action, failure in _PAYOUTS
        ],
        "(id, org, mode, status, sub_status, external_ref, metadata, terms, custodian, account, "
        "requires_action, failure, sequence, created_at, updated_at)",
    )
    insert("timeline", _TIMELINE)
    insert("transactions", _TRANSACTIONS)
    insert("refs", _REFS)
    insert("attention", [("pay_full", "mismatch", "x", 2, 1, 2)])
    insert(
        "events",
        [
            (position, f"evt_{number}", "o", "live", "payout.created", "pay_full", number, b"{}", 1)
            for number, position in ((1, 4), (2, 9), (3, 12))
        ],
    )
    insert(
        "endpoints",
        [(name, "o", "live", f"https://{name}", "[]", b"s", "enabled", 1, 0, 0) for name in _ENDS],
        "(id, org, mode, url, event_types, secret, status, created_at, failing_twice, exhausted)",
    )
    insert(
        "deliveries",
        _DELIVERIES,
        "(id, event_id, endpoint_id, state, attempts, due_at, lease_token, lease_until, settled_at, "
        '"trigger", plan_from)',
    )
    insert(
        "delivery_attempts",
        _ATTEMPTS,
        "(delivery_id, attempt, outcome, http_status, response_snippet, started_at, duration_ms, "
        'next_attempt_at, "trigger", endpoint_id)',
    )
    insert("inbox", _INBOX)
    insert("inbox_refs", [("inb_2", "c", "payout", "p-9"), ("inb_2", "c", "hash", "h-9")])
    db.commit()
    return db


def migrated(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """Return rows of the migrated database."""
    db = sqlite3.connect(path)
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


async def test_payouts_keep_their_history(tmp_path: Path) -> None:
    """Timeline, transactions, action, ids, and whether money moved: the same to the microsecond."""
    path = tmp_path / "store.db"
    made(path).close()
    assert migrate.upgrade(path) == ("0004", migrate.head_revision())
    assert migrated(path, "PRAGMA foreign_key_check") == []
    assert migrated(path, "PRAGMA integrity_check") == [("ok",)]
    async with Database(path) as db:
        plain = await db.read(rows.find_payout, "pay_plain")
        full = await db.read(rows.find_payout, "pay_full")
        row = await db.read(rows.payout_row, "pay_full")
        for value, payout_id in (("0xb", "pay_full"), ("p-1", "pay_full"), ("0xa", "pay_full")):
            assert await db.read(rows.payout_of_any_id, value) == payout_id
    assert plain is not None
    assert full is not None
    assert row is not None
    assert plain.timeline == (
        TimelineEntry(status=Status.PENDING, sub_status=SubStatus.CREATED, at=from_us(_AT)),
    )
    assert (plain.transactions, plain.requires_action) == ((), None)
    assert full.timeline == tuple(
        TimelineEntry(
            status=Status(status),
            sub_status=SubStatus(sub_status),
            at=from_us(at),
            tx_hash=tx_hash,
            detail=detail,
        )
        for _, _, status, sub_status, tx_hash, detail, at in sorted(_TIMELINE[1:])
    )
    assert full.transactions == tuple(
        Transaction(
            id=name,
            tx_hash=tx_hash or None,
            network=network,
            status=status,
            explorer_url=url,
            at=from_us(at),
        )
        for _, name, tx_hash, network, status, url, at in (
            _TRANSACTIONS[1],
            _TRANSACTIONS[0],
            _TRANSACTIONS[2],
        )
    )
    assert full.requires_action == _ACTION
    assert json.loads(row["document"])["refs"] == [["c", "hash", "0xb"], ["c", "payout", "p-1"]]
    moved = dict(migrated(path, "SELECT id, funds_moved FROM payouts"))
    assert moved == {
        "pay_plain": None,
        "pay_full": None,
        "pay_no": "no",
        "pay_yes": "yes",
        "pay_old": "unknown",
    }
    assert migrated(path, "SELECT payout_id, times FROM attention") == [("pay_full", 2)]


async def test_deliveries_keep_their_place(tmp_path: Path) -> None:
    """Each with its state, plan, lease and tries."""
    path = tmp_path / "store.db"
    made(path).close()
    migrate.upgrade(path)
    positions = {"evt_1": 4, "evt_2": 9, "evt_3": 12}
    found = migrated(
        path,
        "SELECT position, endpoint_id, state, attempts, due_at, lease_token, settled_at, "
        '"trigger", plan_from FROM deliveries ORDER BY 1, 2',
    )
    # What is under lease is due when the lease ends.
    assert found == [
        (positions[event], endpoint, state, tries, max(due, until), token, settled, why, plan)
        for _, event, endpoint, state, tries, due, token, until, settled, why, plan in _DELIVERIES
    ]
    found = migrated(
        path,
        "SELECT position, endpoint_id, attempt, outcome, http_status, response_snippet, "
        'started_at, duration_ms, next_attempt_at, "trigger" FROM delivery_attempts',
    )
    assert sorted(found) == sorted(
        (positions[event], endpoint, *attempt[1:9])
        for attempt in _ATTEMPTS
        for name, event, endpoint, *_ in _DELIVERIES
        if name == attempt[0]
    )

    async def look(tx: Tx) -> list[tuple[str, int]]:
        log = await deliveries.attempt_log(tx, endpoint_id="whe_1", before=NEWEST, limit=9)
        return [(row["event_id"], row["attempt"]) for row in log]

    async with Database(path) as db:
        assert await db.read(look) == [("evt_1", 2), ("evt_1", 1)]
        claimed = await db.run(
            deliveries.claim_deliveries, [("whe_1", 9), ("whe_2", 9)], 600, 999, 7
        )
        assert [(row["position"], row["lease_token"]) for row, _ in claimed] == [(4, 7)]


async def test_webhooks_of_custodians_keep_waiting(tmp_path: Path) -> None:
    """Under the custodian's own key, with what they wait for."""
    path = tmp_path / "store.db"
    made(path).close()
    migrate.upgrade(path)
    columns = "custodian, dedup_key, body, state, payout_id, received_at, settled_at"
    assert migrated(path, f"SELECT {columns} FROM inbox ORDER BY received_at") == [
        each[1:] for each in _INBOX
    ]
    async with Database(path) as db:
        assert not await db.run(inbox.add_webhook, "c", "n-1", b"", 9)
        assert await db.run(inbox.wake_webhooks, "c", [("hash", "h-9"), ("hash", "other")])
        new = await db.read(inbox.new_webhooks, 9)
        assert [(row["custodian"], row["dedup_key"]) for row in new] == [("c", "n-2"), ("d", "n-1")]


def test_ten_thousand_payouts_are_moved_quickly(tmp_path: Path) -> None:
    """With four entries and two transactions each, and as many deliveries, tries and webhooks."""
    path = tmp_path / "store.db"
    db = made(path)
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) "
    columns = (
        "org, mode, status, sub_status, external_ref, metadata, terms, custodian, account, sequence, "
        "created_at, updated_at"
    )
    for statement in (
        (
            f"INSERT INTO payouts (id, {columns}) SELECT 'pay_' || i, {columns} FROM n, payouts "
            "WHERE payouts.id = 'pay_plain'"
        ),
        (
            "INSERT INTO timeline SELECT 'tle_' || i || s.value, 'pay_' || i, 'pending', 'created', NULL, "
            '\'a detail\', i FROM n, json_each(\'["a","b","c","d"]\') AS s'
        ),
        (
            "INSERT INTO transactions SELECT 'pay_' || i, s.value, '0x' || i, 'E', 'S', NULL, i "
            'FROM n, json_each(\'["a","b"]\') AS s'
        ),
        "INSERT INTO refs SELECT 'c', 'transfer', i, 'pay_' || i FROM n",
        (
            "INSERT INTO events (id, org, mode, type, payout_id, sequence, body, created_at) "
            "SELECT 'evt_n' || i, 'o', 'live', 't', 'pay_' || i, 1, x'7b7d', i FROM n"
        ),
        (
            "INSERT INTO deliveries (id, event_id, endpoint_id, state, attempts, due_at, lease_token, "
            "lease_until) SELECT 'whd_n' || i, 'evt_n' || i, 'whe_1', 'delivered', 1, i, 1, 0 FROM n"
        ),
        (
            "INSERT INTO delivery_attempts (delivery_id, attempt, outcome, started_at, duration_ms) "
            "SELECT 'whd_n' || i, 1, 'succeeded', i, 1 FROM n"
        ),
        (
            "INSERT INTO inbox SELECT 'inb_n' || i, 'c', 'k-' || i, x'7b7d', 'applied', 'pay_' || i, i, i "
            "FROM n"
        ),
    ):
        at = statement.index("SELECT")
        db.execute(statement[:at] + numbers + statement[at:])
    db.commit()
    db.close()
    begun = time.monotonic()
    migrate.upgrade(path)
    assert time.monotonic() - begun < 10
    assert migrated(
        path,
        "SELECT count(*), sum(json_array_length(document, '$.timeline')), "
        "sum(json_array_length(document, '$.transactions')) FROM payouts WHERE id GLOB 'pay_[0-9]*'",
    ) == [(10_000, 40_000, 20_000)]
    for table in ("payout_hashes", "deliveries", "delivery_attempts", "inbox"):
        ((count,),) = migrated(path, f"SELECT count(*) FROM {table}")
        assert count >= 10_000
