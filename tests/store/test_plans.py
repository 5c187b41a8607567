"""How SQLite finds the rows of the statements that every payout needs: by a key, whatever is stored."""

from __future__ import annotations

import re
import sqlite3
from itertools import combinations
from pathlib import Path

import pytest

from gateway.model import Status
from gateway.store import (
    attention,
    batches,
    deliveries,
    durations,
    endpoints,
    erasure,
    events,
    funds,
    inbox,
    overview,
    payout_lists,
    payouts,
    quotes,
    receipts,
    returns,
    users,
)
from gateway.store.database import Query

_PENDING = "USING INDEX ix_deliveries_pending (endpoint_id=?"
_DELIVERY = "SEARCH deliveries USING PRIMARY KEY (position=? AND endpoint_id=?)"
#: A partial index, of the endpoints that are not deleted.
_EXISTING = "INDEX ix_endpoints_org_mode"
_BATCH = "ix_payouts_batch (batch_id=?)"
_REF = "(custodian=? AND kind=? AND value=?)"


@pytest.fixture
def db(path: Path) -> sqlite3.Connection:
    """Return an empty database."""
    return sqlite3.connect(path)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        pytest.param(payouts._REFS, [f"sqlite_autoindex_refs_1 {_REF}", f"PRIMARY KEY {_REF}"]),
        pytest.param(payouts._PAYOUTS_OF_REFS, [f"sqlite_autoindex_refs_1 {_REF}", "payouts"]),
        pytest.param(batches._REFERENCES, ["(org=? AND mode=? AND reference_key=?)"]),
        pytest.param(batches._CLASHES, ["(org=? AND mode=? AND reference_key=?)"]),
        pytest.param(batches._FAILED_UNSENT, [_BATCH]),
        pytest.param(funds._BATCH_NEEDS, [_BATCH]),
        pytest.param(funds._ENDED_ITEMS, ["ix_reservations_account (account_key=?", _BATCH]),
        pytest.param(durations._DELIVERED, ["ix_payouts_ended (updated_at>?)"]),
        pytest.param(inbox._WAKE, [f"PRIMARY KEY {_REF}", "(custodian=? AND dedup_key=?)"]),
        pytest.param(inbox._OLD_WEBHOOKS[False], ["ix_inbox_unmatched (settled_at<?)"]),
        pytest.param(inbox._OLD_WEBHOOKS[True], ["ix_inbox_settled (settled_at<?)"]),
        pytest.param(inbox._STILL_OLD[True], ["(custodian=? AND dedup_key=?)"]),
        pytest.param(inbox._DROPS[0], ["ix_inbox_refs_webhook (custodian=? AND dedup_key=?)"]),
        pytest.param(overview._TOLD, ["ix_payouts_org_mode_created (org=? AND mode=?"]),
        pytest.param(overview._OPEN_ATTENTION, ["payouts", "(id=?)"]),
        pytest.param(
            overview._WAITING, ["ix_payouts_org_mode_held (org=? AND mode=? AND sub_status=?)"]
        ),
        pytest.param(overview._LAGS, ["ix_events_org_mode_position (org=? AND mode=?"]),
        pytest.param(overview._NEXT_KIND, ["refs USING COVERING INDEX", "(custodian,kind)>(?,?)"]),
        pytest.param(overview._BY_HASH, ["(tx_hash=?)"]),
        pytest.param(overview._ACTS, ["(org=? AND number<?)"]),
        pytest.param(overview._PENDING, [_PENDING]),
        pytest.param(overview._search("reference"), ["ix_payouts_org_mode_reference_key"]),
        pytest.param(overview._search("external_ref"), ["ix_payouts_org_mode_external_ref"]),
        pytest.param(users._SESSION, ["sessions", "(digest=?)", "users", "(id=?)"]),
        pytest.param(quotes._PURGE, ["ix_quotes_unused (expires_at<?)"]),
        pytest.param(erasure._erasable(False, False), ["ix_payouts_ended (updated_at<?)"]),
        pytest.param(erasure._EVENTS, ["(payout_id=?)"]),
        pytest.param(erasure._SNIPPETS, ["(position=?)"]),
        pytest.param(erasure._BODIES, ["ix_inbox_payout (payout_id=?)"]),
        pytest.param(erasure._EXECUTIONS, ["ix_execution_items_payout (payout_id=?)"]),
        pytest.param(erasure._DETAILS_OF_ITEM, ["(execution_id=?)"]),
        pytest.param(erasure._WORDS_OF_RETURNS, ["ix_payout_returns_payout (payout_id=?)"]),
        pytest.param(
            returns._KNOWN,
            ["ix_payout_returns_payout (payout_id=?)", "(custodian=? AND custodian_id=?)"],
        ),
        pytest.param(returns._CLAIM, ["ix_delivered_looks_due (custodian=? AND due_at<?)"]),
        pytest.param(returns._NEXT, ["ix_delivered_looks_due (custodian=?)"]),
        pytest.param(returns._WAKE, ["ix_execution_items_payout (payout_id=?)"]),
        pytest.param(inbox._NEW, ["ix_inbox_new"]),
        pytest.param(payouts._counted(Status.PENDING), ["ix_payouts_status (status=?)"]),
        pytest.param(payouts._counted(Status.BROADCAST), ["ix_payouts_status (status=?)"]),
        pytest.param(deliveries._WITH_PENDING, [_PENDING]),
        pytest.param(deliveries._CLAIM, [f"{_PENDING} AND due_at<?)", "PRIMARY KEY (position=?)"]),
        pytest.param(deliveries._SKIP, [_PENDING]),
        pytest.param(
            deliveries._FAN_OUT,
            [
                "SEARCH events USING INTEGER PRIMARY KEY (rowid=?)",
                f"{_EXISTING} (org=? AND mode=?)",
            ],
        ),
        pytest.param(endpoints._COUNT, [f"{_EXISTING} (org=? AND mode=?)"]),
        pytest.param(deliveries._OLDEST_SKIPPED, ["ix_deliveries_skipped (endpoint_id=?)"]),
        pytest.param(deliveries._OLD_EVENTS, ["ix_events_created (created_at<?)"]),
        pytest.param(
            deliveries._OLD_ATTEMPTS,
            ["delivery_attempts_1 (position<?)", "ix_events_created (created_at<?)", _DELIVERY],
        ),
        pytest.param(deliveries._LOG_OF_ENDPOINT, ["(endpoint_id=? AND started_at<?)"]),
        pytest.param(deliveries._LOG_OF_EVENT, ["delivery_attempts_1 (position=?)"]),
        pytest.param(events._RANGE, [_DELIVERY]),
        pytest.param(events._END_OF_PASS, ["COVERING INDEX ix_events_org_mode_position"]),
        pytest.param(events._feed(("payout_id",), bounded=False), ["(payout_id=?)"]),
        pytest.param(events._feed(("payout_id", "type"), bounded=False), ["(payout_id=?)"]),
        pytest.param(
            events._feed(("type",), bounded=True),
            ["(org=? AND mode=? AND position>? AND position<?)"],
        ),
        pytest.param(attention._page(("code", "mode", "open", "org")), ["payouts", "(id=?)"]),
        pytest.param(attention._page(("mode", "open", "org")), ["payouts", "(id=?)"]),
        pytest.param(receipts._SETTLE, [_DELIVERY]),
    ],
)
def test_it_searches_by_a_key(db: sqlite3.Connection, query: Query, wanted: list[str]) -> None:
    """And scans nothing but the endpoints and what it is told."""
    text, fixed = query.compiled()
    lists = dict.fromkeys(("pairs", "tries", "ids", "positions", "reference_keys"), "[]")
    values = dict.fromkeys(re.findall(r":(\w+)", text), 1) | lists | fixed
    plan = [str(row[3]) for row in db.execute("EXPLAIN QUERY PLAN " + text, values)]
    db.close()
    for each in wanted:
        assert any(each in step for step in plan), plan
    scanned = {step for step in plan if step.startswith("SCAN")}
    assert not [
        step
        for step in scanned
        if not re.search(
            r"VIRTUAL TABLE|SCAN endpoints|ix_inbox_new|ix_attention_open|SCAN counted", step
        )
    ], plan


_OTHER_FILTERS = ("after_at", "custodian", "from", "status", "sub_status", "to")


@pytest.mark.parametrize("reference", [(), ("external_ref",), ("reference_key",)])
def test_a_page_of_the_list_is_read_in_its_order(
    db: sqlite3.Connection, reference: tuple[str, ...]
) -> None:
    """With any filters: from the index of the rarest one, and nothing is sorted."""
    for count in range(len(_OTHER_FILTERS) + 1):
        for others in combinations(_OTHER_FILTERS, count):
            for part in (
                ("open", "failed", None) if {"status", "sub_status"} & {*others} else (None,)
            ):
                names = tuple(sorted(("org", "mode", *reference, *others)))
                text, fixed = payout_lists._list_query(names, part).compiled()
                values = dict.fromkeys(re.findall(r":(\w+)", text), 1) | fixed
                first, *rest = (
                    str(row[3]) for row in db.execute("EXPLAIN QUERY PLAN " + text, values)
                )
                custodian = "custodian" if "custodian" in others else None
                by = reference[0] if reference else part or custodian or "created"
                assert f"INDEX ix_payouts_org_mode_{by} (org=? AND mode=?" in first, (names, part)
                assert not [step for step in rest if "TEMP" in step], (names, part)
    db.close()
