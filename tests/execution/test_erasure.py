"""Erasing a recipient: nothing of the person is left in the file, and nothing else changes."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import pytest
from sqlalchemy import text

from gateway.adapter import Action, Failure, FailureCode, FundsMoved, Ref, Report, SubStatus
from gateway.erasure import ACT, ERASED, erase, erased_event, erased_terms
from gateway.execution.proof import Source
from gateway.metrics import Metrics
from gateway.model import Transaction
from gateway.planning import QuoteRequest
from gateway.store import batches, erasure, inbox
from gateway.store import payouts as rows
from gateway.store.audit import audit_rows
from gateway.store.database import Query, Tx
from gateway.store.rows import to_us
from gateway.text import reference_key
from tests.execution.conftest import Bench
from tests.execution.test_inbox import sweeper

#: What tells of the person, in every place that takes a text.
PERSON = "Zoe-Q-Doe"
DAY = 86_400.0
#: Ids that are kept, and tell of the person's case in the partner's own books only.
KEPT = {"external_ref": "user-4711", "reference": "inv-2026-1"}


async def paid(bench: Bench, end: Report | None = None) -> str:
    """Return a payout that has ended, with the person in every text that is stored about it."""
    request = QuoteRequest.model_validate(
        {
            **KEPT,
            "destination": {
                "type": "custodian_account",
                "account_type": "X",
                "id": f"wallet of {PERSON}",
            },
            "asset": "USDC",
            "amount": bench.amount,
            "metadata": {"payee": PERSON, f"{PERSON} again": "1"},
        }
    )
    quote, account = bench.quotes.draft(bench.caller, request)
    await bench.db.run(bench.quotes.store, bench.caller, quote, account)
    payout_id = (await bench.db.run(bench.payouts.accept, bench.caller, quote.quote_id)).id
    job = await bench.begin()
    order = bench.order(job)
    await order.remember(payout_id="p-1", body=f"to {PERSON}")
    asks = Report(
        SubStatus.REQUIRES_ACTION,
        "ASKS",
        action=Action(channel="sms", masked_target=f"+49 {PERSON}"),
        detail=f"asks {PERSON}",
    )
    await order.moving()
    await bench.submitted(job, asks)
    sent = Transaction(id="t-1", tx_hash="0xabc", status="SENT", at=bench.clock.now())
    at_custodian = Report(
        SubStatus.BROADCAST,
        f"SENT TO {PERSON}",
        refs=(Ref("transfer", "t-1"),),
        transactions=(sent,),
        detail=f"sent to {PERSON}",
        custodian_reference="p-1",
    )
    await bench.db.run(bench.recorder.news, payout_id, at_custodian, Source.WEBHOOK)
    ends = end or Report(SubStatus.DELIVERED, f"DONE {PERSON}", detail=f"delivered to {PERSON}")
    await bench.db.run(bench.payouts.apply, payout_id, ends)
    await bench.write(payout_id, due_at=0, lease_until=0)
    await bench.claim()

    async def around(tx: Tx) -> None:
        now = to_us(bench.clock.now())
        await rows.add_attention(tx, payout_id, "mismatch", f"ordered {PERSON}", now)
        await rows.add_attention(tx, payout_id, "mismatch", f"ordered {PERSON} again", now)
        body = json.dumps({"to": PERSON}).encode()
        await inbox.add_webhook(tx, "acme", "n-1", body, now, state="applied", payout_id=payout_id)
        await tx.all(
            Query(text("UPDATE payouts SET name = :name, first_answer = :name")), name=PERSON
        )
        await tx.all(Query(text("UPDATE executions SET outcome = :said")), said=f"said {PERSON}")
        await tx.all(Query(text("UPDATE evidence SET detail = :said")), said=f"said {PERSON}")
        await tx.all(
            Query(
                text(
                    "INSERT INTO endpoints (id, org, mode, url, event_types, secret, status, created_at) "
                    "VALUES ('whe_1', 'acme-org', 'live', 'https://x/', '[]', X'00', 'enabled', 1)"
                )
            )
        )
        await tx.all(
            Query(
                text(
                    "INSERT INTO deliveries SELECT position, 'whe_1', 'delivered', 1, 1, 1, 1, "
                    "'scheduled', 0 FROM events"
                )
            )
        )
        await tx.all(
            Query(
                text(
                    "INSERT INTO delivery_attempts SELECT position, 'whe_1', 1, 'succeeded', 200, "
                    ":said, 1, 1, NULL, 'scheduled' FROM events"
                )
            ),
            said=f"thanks {PERSON}",
        )

    await bench.db.run(around)
    return payout_id


async def _all_delivered(tx: Tx) -> None:
    await tx.all(Query(text("UPDATE deliveries SET state = 'delivered'")))


#: A batch that pays, or has ended.
_BATCH = (
    "INSERT INTO batches (id, org, mode, custodian, account, native, init_method, metadata, state, "
    "items, worked_off, created_at, updated_at, expires_at) VALUES ('bat_1', 'acme-org', 'live', "
    "'acme', '{}', 0, 'api', '{}', '%s', 1, 0, 1, 1, 1)"
)


async def put_away(bench: Bench, payout_id: str, actor: str = "ann") -> list[str]:
    """Erase a payout's personal data; return why not."""
    at = to_us(bench.clock.now())
    return await bench.db.run(erase, bench.runtime.ids, at, payout_id, actor)


def dump(bench: Bench) -> dict[str, list[dict[str, Any]]]:
    """Return every row of every table."""
    connection = sqlite3.connect(bench.db._path)
    connection.row_factory = sqlite3.Row
    try:
        names = [
            row[0]
            for row in connection.execute("SELECT name FROM sqlite_schema WHERE type='table'")
        ]
        return {
            name: [dict(row) for row in connection.execute(f"SELECT * FROM {name}")]
            for name in names
            if not name.startswith("old_")
        }
    finally:
        connection.close()


def places(bench: Bench) -> set[str]:
    """Return the tables and columns in which the person is still named."""
    return {
        f"{table}.{column}"
        for table, found in dump(bench).items()
        for row in found
        for column, value in row.items()
        if PERSON.encode() in (value if isinstance(value, bytes) else str(value).encode())
    }


async def test_nothing_of_the_person_is_left(bench: Bench) -> None:
    """In no column of no table, nor in the file's free pages; the place of each is known before."""
    payout_id = await paid(bench)
    assert places(bench) == {
        "attention.detail",
        "delivery_attempts.response_snippet",
        "events.body",
        "evidence.detail",
        "executions.notes",
        "executions.outcome",
        "inbox.body",
        "payouts.custodian_word",
        "payouts.document",
        "payouts.first_answer",
        "payouts.metadata",
        "payouts.name",
        "payouts.terms",
        "quotes.metadata",
        "quotes.terms",
    }
    assert await put_away(bench, payout_id) == []
    assert places(bench) == set()
    with sqlite3.connect(bench.db._path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    assert PERSON.encode() not in bench.db._path.read_bytes()


async def test_the_reason_of_an_operators_act_stays(bench: Bench) -> None:
    """Whoever ended a payout by hand has to be able to say why, later, too."""
    payout_id = await paid(bench)

    async def by_hand(tx: Tx) -> None:
        await tx.all(
            Query(text("UPDATE evidence SET source = 'operator', detail = 'seen at noon'"))
        )

    await bench.db.run(by_hand)
    assert await put_away(bench, payout_id) == []
    assert {row["detail"] for row in dump(bench)["evidence"]} == {"seen at noon"}


async def test_everything_else_stays(bench: Bench) -> None:
    """Ids, references, amounts, statuses, times, hashes, proof; the payout and its events can be read."""
    payout_id = await paid(bench)
    before, view = dump(bench), await bench.payout(payout_id)
    evidence = await bench.evidence(payout_id)
    await put_away(bench, payout_id)
    after, now = dump(bench), await bench.payout(payout_id)
    assert {
        name: len(found) for name, found in after.items() if name not in {"audit_log", "attention"}
    } == {
        name: len(found) for name, found in before.items() if name not in {"audit_log", "attention"}
    }
    kept = {"terms", "metadata", "timeline", "requires_action"}
    assert now.model_dump(exclude=kept) == view.model_dump(exclude=kept)
    assert now.terms.model_dump(exclude={"destination"}) == view.terms.model_dump(
        exclude={"destination"}
    )
    assert now.terms.destination.model_dump() == {
        "type": "custodian_account",
        "account_type": "X",
        "id": ERASED,
    }
    assert [each.model_dump(exclude={"detail"}) for each in now.timeline] == [
        each.model_dump(exclude={"detail"}) for each in view.timeline
    ]
    assert await bench.evidence(payout_id) == evidence
    assert await bench.db.read(rows.payout_of_any_id, "0xabc") == payout_id
    assert await bench.db.read(rows.payout_of_any_id, "t-1") == payout_id
    for old, new in zip(before["events"], after["events"], strict=True):
        told, tells = json.loads(old["body"]), json.loads(new["body"])
        assert told.keys() == tells.keys()
        assert told["data"].keys() == tells["data"].keys()
        assert (told["data"]["reference"], told["data"]["sequence"]) == (
            tells["data"]["reference"],
            tells["data"]["sequence"],
        )
        assert told["data"]["quote"]["amount"] == tells["data"]["quote"]["amount"]
    (remark,) = after["attention"]
    assert (remark["code"], remark["detail"], remark["times"]) == ("mismatch", ERASED, 2)
    (act,) = await bench.db.read(audit_rows, ACT)
    assert (act["actor"], act["subject"]) == ("ann", payout_id)
    assert PERSON not in act["detail"]


async def test_a_reference_stays_taken(bench: Bench) -> None:
    """The rule that a reference is paid once reads ids, references and statuses only."""
    payout_id = await paid(bench)

    async def as_of_a_batch(tx: Tx) -> None:
        await tx.all(Query(text(_BATCH % "finalized")))
        await tx.all(Query(text("UPDATE payouts SET batch_id = 'bat_1', batch_position = 0")))

    await bench.db.run(as_of_a_batch)
    wanted = json.dumps([reference_key(KEPT["reference"])])
    sums = [dict(row) for row in await bench.db.read(batches.amounts, "bat_1")]
    assert await put_away(bench, payout_id) == []
    (taken,) = await bench.db.read(batches.used_references, "acme-org", "live", wanted)
    assert taken["id"] == payout_id
    assert [dict(row) for row in await bench.db.read(batches.amounts, "bat_1")] == sums


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE payouts SET status = 'broadcast'", "it has not ended"),
        ("UPDATE execution_items SET open = 1", "an execution still has it"),
        ("UPDATE deliveries SET state = 'pending'", "an event of it is still to be delivered"),
        ("UPDATE inbox SET state = 'new'", "a custodian's webhook about it is still to be read"),
        (_BATCH % "executing", "its batch has not ended"),
    ],
)
async def test_what_is_still_needed_is_kept(bench: Bench, statement: str, reason: str) -> None:
    """Open work, a set whose other payouts are compared with it, a delivery: nothing is changed."""
    payout_id = await paid(bench)

    async def change(tx: Tx) -> None:
        await tx.all(Query(text(statement)))
        if "batches" in statement:
            await tx.all(Query(text("UPDATE payouts SET batch_id = 'bat_1'")))

    await bench.db.run(change)
    before = dump(bench)
    assert await put_away(bench, payout_id) == [reason]
    assert dump(bench) == before
    assert await bench.db.read(erasure.erasable, 2**62, 10) == []


def failed(moved: FundsMoved) -> Report:
    """Return the end of a payout that failed."""
    failure = Failure(
        code=FailureCode.CHAIN_REJECTED,
        message=f"no {PERSON}",
        custodian_code="C-1",
        funds_moved=moved,
    )
    return Report(SubStatus.FAILED, "BAD", failure=failure)


@pytest.mark.parametrize("moved", list(FundsMoved))
async def test_a_failed_payout_is_erased_unless_money_may_have_moved(
    bench: Bench, moved: FundsMoved
) -> None:
    """By itself: an operator may still do it by name, as a person has a right to it."""
    payout_id = await paid(bench, failed(moved))
    await bench.clock.advance(10 * DAY)
    await sweeper(bench, Metrics(), [], personal_data_days=9).sweep()
    swept = PERSON not in str(dump(bench)["payouts"])
    assert swept is (moved is not FundsMoved.UNKNOWN)
    assert await put_away(bench, payout_id) == []
    assert places(bench) == set()
    payout = await bench.payout(payout_id)
    assert payout.failure is not None
    assert (payout.failure.code, payout.failure.custodian_code, payout.failure.funds_moved) == (
        "chain_rejected",
        "C-1",
        moved,
    )


async def test_the_setting_erases_after_its_days_and_not_before(bench: Bench) -> None:
    """Not set it erases nothing, however old; erased once, a payout is not found again."""
    payout_id = await paid(bench)
    await bench.clock.advance(400 * DAY)
    await sweeper(bench, Metrics(), []).sweep()
    assert places(bench) != set()
    await sweeper(bench, Metrics(), [], personal_data_days=401).sweep()
    assert places(bench) != set()
    await bench.clock.advance(2 * DAY)
    for _ in range(2):
        await sweeper(bench, Metrics(), [], personal_data_days=401).sweep()
    assert places(bench) == set()
    (act,) = await bench.db.read(audit_rows, ACT)
    assert (act["actor"], act["subject"]) == ("gateway", payout_id)


async def test_what_comes_after_is_erased_by_asking_again(bench: Bench) -> None:
    """A late webhook brings the person back into the inbox; the command takes it out again."""
    payout_id = await paid(bench)
    await put_away(bench, payout_id)
    now = to_us(bench.clock.now())
    body = PERSON.encode()
    await bench.db.run(
        inbox.add_webhook, "acme", "n-2", body, now, state="applied", payout_id=payout_id
    )
    assert places(bench) == {"inbox.body"}
    assert await put_away(bench, payout_id) == []
    assert places(bench) == set()


async def test_a_payout_of_a_set_waits_for_the_others(bench: Bench) -> None:
    """The notes of a set go with its last payout; what names one payout goes with that one."""
    first = await paid(bench)
    second = await bench.accept()

    async def join(tx: Tx) -> None:
        await tx.all(
            Query(
                text(
                    "INSERT INTO execution_items SELECT execution_id, :second, 1, 0 FROM execution_items "
                    "WHERE payout_id = :first"
                )
            ),
            first=first,
            second=second,
        )

    await bench.db.run(join)
    assert await put_away(bench, first) == []
    assert "executions.notes" in places(bench)
    done = Report(SubStatus.DELIVERED, "DONE")
    await bench.db.run(bench.recorder.news, second, done, Source.OPERATOR)
    await bench.db.run(_all_delivered)
    assert await put_away(bench, second) == []
    assert places(bench) == set()
    (notes,) = {row["notes"] for row in dump(bench)["executions"] if row["notes"] != "{}"}
    assert json.loads(notes) == {"payout_id": "p-1"}


def test_erasing_is_pure_and_twice_is_as_once() -> None:
    """What tells how somebody was paid stays; events about other things are not touched."""
    terms = json.dumps(
        {"destination": {"type": "address", "network": "N", "address": "0x", "memo": None}}
    )
    once = erased_terms(terms)
    assert json.loads(once)["destination"] == {
        "type": "address",
        "network": "N",
        "address": ERASED,
        "memo": None,
    }
    assert erased_terms(once) == once
    other = b'{"type":"webhook_endpoint.disabled","data":{"id":"whe_1"}}'
    assert erased_event(other) == other
