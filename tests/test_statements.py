"""What the life of one payout costs in statements: a budget for each phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gateway.adapter import Notice, Ref, Report, SubStatus, Transaction
from gateway.config.settings import EngineSettings
from gateway.execution.inbox import Inbox
from gateway.metrics import Metrics
from gateway.planning import QuoteRequest
from gateway.store import deliveries
from gateway.store import payouts as rows
from gateway.store.database import Database, Row, Tx
from gateway.store.receipts import Tried, settle_tries
from gateway.store.rows import terms_of
from tests.execution.conftest import Bench, bench, capabilities, empty_database
from tests.marks import mark_call
from tests.statements import CountingTx, counted
from tests.webhooks.test_worker import delivering, endpoints_of, hook, subscribe, until

__all__ = ["bench", "capabilities", "empty_database"]

TRANSFER = Ref("transfer", "t-1")


class Parser:
    """A custodian whose webhooks only say that there is news."""

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Read one."""
        return [Notice((TRANSFER,), body.decode(), None, Report(SubStatus.BROADCAST, "SENT"))]


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Return the changes from now on: the name of the store function and its statements."""
    found, run = list[tuple[str, list[str]]](), Database.run

    async def counting(db: Database, fn: Any, *args: Any, **kwargs: Any) -> Any:
        async def work(tx: Tx) -> Any:
            counter = CountingTx(tx)
            result = await fn(counter, *args, **kwargs)
            found.append((getattr(fn, "__name__", ""), counter.texts))
            return result

        return await run(db, work)

    monkeypatch.setattr(Database, "run", counting)
    return found


@pytest.fixture
async def two_endpoints(bench: Bench) -> list[str]:
    """Return two endpoints that receive everything."""
    return [(await subscribe(bench, f"http://127.0.0.1:9/{n}")).id for n in range(2)]


async def accepted(bench: Bench) -> tuple[str, list[str]]:
    """Quote and accept; return the payout id and the statements of the accept."""
    request = QuoteRequest.model_validate_json(
        '{"external_ref": "u", "asset": "USDC", "amount": "5", "destination": '
        '{"type": "custodian_account", "account_type": "X", "id": "p"}}'
    )
    quote, account = bench.quotes.draft(bench.caller, request)
    _, texts = await counted(bench.db, bench.quotes.store, bench.caller, quote, account)
    assert len(texts) == 1
    payout, texts = await counted(bench.db, bench.payouts.accept, bench.caller, quote.quote_id)
    return payout.id, texts


async def test_from_the_quote_to_the_end(bench: Bench, two_endpoints: list[str]) -> None:
    """Accept, submitted with a new id, broadcast with a hash, delivered: each with its event."""
    assert len(two_endpoints) == 2
    # The quote, the payout, its execution and item; event, deliveries.
    payout_id, texts = await accepted(bench)
    assert len(texts) <= 6
    sent = Transaction(id="1", tx_hash="0x1", status="SENT", at=bench.clock.now())
    reports = (
        # The row is read; whose the id is, and the id; the row is written.
        (Report(SubStatus.SUBMITTED, "OK", refs=(TRANSFER,)), 4),
        # The same news costs the read.
        (Report(SubStatus.SUBMITTED, "OK", refs=(TRANSFER,)), 1),
        # Row, hash, row; event, deliveries.
        (Report(SubStatus.BROADCAST, "SENT", refs=(TRANSFER,), transactions=(sent,)), 5),
        # Row, row; event, deliveries.
        (Report(SubStatus.DELIVERED, "DONE", refs=(TRANSFER,), transactions=(sent,)), 4),
    )
    for report, most in reports:
        _, texts = await counted(bench.db, bench.payouts.apply, payout_id, report)
        assert len(texts) <= most, texts
    assert len(await bench.events(payout_id)) == 3


async def test_two_events_at_once_cost_no_more(bench: Bench, two_endpoints: list[str]) -> None:
    """A payout that is delivered between two looks."""
    assert len(two_endpoints) == 2
    payout_id, _ = await accepted(bench)
    _, texts = await counted(
        bench.db, bench.payouts.apply, payout_id, Report(SubStatus.DELIVERED, "DONE")
    )
    assert len(texts) <= 6, texts
    assert len(await bench.events(payout_id)) == 3


async def test_a_custodians_webhook(
    bench: Bench, two_endpoints: list[str], changes: list[tuple[str, list[str]]]
) -> None:
    """Matched, stored in its last state and applied, in one transaction; a double costs two."""
    assert len(two_endpoints) == 2
    payout_id, _ = await accepted(bench)
    submitted = Report(SubStatus.SUBMITTED, "OK", refs=(TRANSFER,))
    await mark_call(bench.db, bench.runtime, payout_id)
    await bench.db.run(bench.payouts.apply, payout_id, submitted)
    inbox = Inbox(
        db=bench.db,
        runtime=bench.runtime,
        custodians={"acme": Parser()},
        recorders={"acme": bench.recorder},
        settings=EngineSettings(idle_s=3600),
        metrics=Metrics(),
        wake=lambda _: None,
    )
    changes.clear()
    for body in (b"n-1", b"n-1", b"n-2"):
        await inbox.receive("acme", body)
    first, double, second = (len(texts) for _, texts in changes)
    # Match and insert; the execution with items and evidence; row, event, deliveries; the evidence of
    # our own transfer in two; one to wake the engine. Then no news.
    assert first <= 11
    # The payout of the id is known by now.
    assert double == 1
    assert second <= 7
    assert (await bench.payout(payout_id)).status == "broadcast"


@pytest.mark.parametrize("count", [1, 40])
async def test_deliveries_are_claimed_and_settled_in_groups(
    bench: Bench, two_endpoints: list[str], count: int
) -> None:
    """A claim for each endpoint and the bodies of all; two statements settle any number of tries."""
    for _ in range(count):
        await accepted(bench)
    now = bench.runtime.timeline.now()
    wanted = [(each, count) for each in two_endpoints]
    claimed, texts = await counted(bench.db, deliveries.claim_deliveries, wanted, now, now + 1, 1)
    assert (len(claimed), len(texts)) == (2 * count, 3)
    tries = [
        Tried(
            position=row["position"],
            endpoint_id=row["endpoint_id"],
            token=row["lease_token"],
            attempt=row["attempts"] + 1,
            trigger=row["trigger"],
            state="delivered",
            due=now,
            settled=now,
            outcome="succeeded",
            http_status=204,
            snippet="",
            started_at=now,
            duration_ms=1,
            next_attempt_at=None,
        )
        for row, _ in claimed
    ]
    held, texts = await counted(bench.db, settle_tries, tries)
    assert (len(held), len(texts)) == (2 * count, 2)
    _, texts = await counted(bench.db, endpoints_of(bench).targets, two_endpoints)
    assert len(texts) == 1


async def test_failed_tries_are_settled_in_groups(
    bench: Bench, changes: list[tuple[str, list[str]]]
) -> None:
    """The health of their endpoint is read and written once for all of a group."""
    async with hook() as made, delivering(bench) as loop:
        made.status = 500
        await subscribe(bench, made.url)
        payout_ids = [(await accepted(bench))[0] for _ in range(8)]
        loop.wakeup.ring()
        await until(lambda: len(made.tries) == 8)
    groups = [texts for name, texts in changes if name == "_settle"]
    assert groups
    assert {len(texts) for texts in groups} == {4}
    for payout_id in payout_ids:
        (row,) = await bench.db.read(deliveries.attempts_of_payout, payout_id)
        assert (row["outcome"], row["attempt"]) == ("http_error", 1)


async def test_a_page_of_items_is_announced_together(
    bench: Bench, two_endpoints: list[str]
) -> None:
    """However many there are: their rows, their events, their deliveries."""
    payout_id, _ = await accepted(bench)
    columns = dict(await payout_row(bench, payout_id))
    items = [{**columns, "id": f"pay_{n}", "quote_id": None, "sequence": 0} for n in range(10)]
    await bench.db.run(rows.insert_payouts, items)
    found = [await payout_row(bench, str(each["id"])) for each in items]
    told = [(row, terms_of(row["terms"])) for row in found]
    _, texts = await counted(bench.db, bench.payouts.announce, told)
    # The rows, their events, the deliveries.
    assert len(texts) == 3, texts
    for row in found:
        assert await bench.events(row["id"]) == [(1, "payout.created")]
        sent = await bench.db.read(deliveries.deliveries_of, row["id"])
        assert {each["endpoint_id"] for each in sent} == set(two_endpoints)


async def payout_row(bench: Bench, payout_id: str) -> Row:
    """Return a payout's row."""
    found = await bench.db.read(rows.payout_row, payout_id)
    assert found is not None
    return found
