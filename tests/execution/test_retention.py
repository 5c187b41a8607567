"""What is over is kept so long, and then goes; what belongs to open work stays."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta
from typing import Any

import pytest

from gateway.adapter import Ref, Report, SubStatus
from gateway.errors import Refused
from gateway.metrics import Metrics
from gateway.store import idempotency, inbox
from gateway.store import quotes as quote_rows
from gateway.store.database import Tx
from gateway.store.idempotency import KeyScope
from gateway.store.rows import to_us
from gateway.store.state import freeze
from tests.execution.conftest import Bench
from tests.execution.test_inbox import SENT, learnt, sweeper, work_off

DAY = 86_400.0


async def sweep(bench: Bench, **options: Any) -> None:
    """Sweep once."""
    await sweeper(bench, Metrics(), [], **options).sweep()


def stored(bench: Bench, query: str) -> list[Any]:
    """Return what a query finds, each row's first column, in order."""
    connection = sqlite3.connect(bench.db._path)
    try:
        return sorted(row[0] for row in connection.execute(query))
    finally:
        connection.close()


def kept(bench: Bench) -> list[str]:
    """Return the webhooks that are still there."""
    return stored(bench, "SELECT dedup_key FROM inbox")


async def test_a_webhook_that_matches_nothing_is_kept_for_30_days(bench: Bench) -> None:
    """Waiting, ignored, unreadable, of a custodian that is gone: then they go, with what they wait for."""
    await work_off(bench, b"nobody|sent", b"|x", b"nobody|broken")
    await work_off(bench, b"gone|sent", custodian="gone")
    await bench.clock.advance(29.9 * DAY)
    await sweep(bench)
    assert kept(bench) == ["gone|sent", "nobody|broken", "nobody|sent", "|x"]
    await work_off(bench, b"young|sent")
    await bench.clock.advance(0.2 * DAY)
    await sweep(bench)
    assert kept(bench) == ["young|sent"]
    assert stored(bench, "SELECT value FROM inbox_refs") == ["young"]


async def test_a_webhook_that_is_to_be_processed_never_goes(bench: Bench) -> None:
    """However old it is: the loop may have been down."""
    await bench.db.run(inbox.add_webhook, "acme", "k", b"b", to_us(bench.clock.now()))
    await bench.clock.advance(400 * DAY)
    await sweep(bench)
    assert kept(bench) == ["k"]


async def test_webhooks_of_ended_payouts_go_and_those_of_open_ones_stay(bench: Bench) -> None:
    """They are the operator's evidence while the payout is open."""
    ended = await learnt(bench, "t-1")
    await work_off(bench, b"t-1|sent")
    await bench.db.run(bench.payouts.apply, ended, Report(SubStatus.DELIVERED, "DONE"))
    await bench.clock.advance(100)
    await bench.claim()
    await learnt(bench, "t-2")
    await work_off(bench, b"t-2|sent", b"t-2|bug")
    await bench.clock.advance(89 * DAY)
    await sweep(bench)
    assert kept(bench) == ["t-1|sent", "t-2|bug", "t-2|sent"]
    await bench.clock.advance(2 * DAY)
    await sweep(bench)
    assert kept(bench) == ["t-2|sent"]


async def test_unused_quotes_go_and_used_ones_stay_with_their_payout(bench: Bench) -> None:
    """A second use is told which payout it has become, for ever: 409 and never 404."""
    used, unused = await bench.quote(), await bench.quote()
    payout = await bench.db.run(bench.payouts.accept, bench.caller, used)
    await bench.clock.advance(29 * DAY)
    await sweep(bench)
    with pytest.raises(Refused) as refused:
        await bench.db.run(bench.payouts.accept, bench.caller, unused)
    assert refused.value.code == "quote_expired"
    await bench.db.run(bench.payouts.apply, payout.id, Report(SubStatus.DELIVERED, "DONE"))
    await bench.clock.advance(1000 * DAY)
    await sweep(bench, personal_data_days=1)
    with pytest.raises(Refused) as refused:
        await bench.db.run(bench.payouts.accept, bench.caller, unused)
    assert refused.value.code == "quote_not_found"
    with pytest.raises(Refused) as refused:
        await bench.db.run(bench.payouts.accept, bench.caller, used)
    assert refused.value.code == "quote_already_used"
    assert refused.value.members["payout_id"] == payout.id


async def test_answers_go_after_their_time_and_open_claims_never(bench: Bench) -> None:
    """An open claim is work of which nobody knows yet how it ends."""

    def scope(key: str) -> KeyScope:
        return KeyScope("acme-org", "live", "POST /payouts", key)

    async def claims(tx: Tx) -> None:
        now = to_us(bench.clock.now())
        for key in ("answered", "open"):
            await idempotency.claim_key(
                tx, scope(key), fingerprint="f", token=1, claimant="gwy_1", now=now
            )
        until = now + round(DAY * 1e6)
        await idempotency.answer_key(
            tx, scope("answered"), 1, answer=b"a", created_id=None, expires_at=until
        )

    await bench.db.run(claims)
    await bench.clock.advance(DAY - 1)
    await sweep(bench)
    assert stored(bench, "SELECT key FROM idempotency") == ["answered", "open"]
    await bench.clock.advance(400 * DAY)
    await sweep(bench)
    assert stored(bench, "SELECT key FROM idempotency") == ["open"]


async def test_a_frozen_database_keeps_everything(bench: Bench) -> None:
    """It may be an old copy, and what it knows is evidence."""
    quote_id = await bench.quote()
    await work_off(bench, b"nobody|sent")
    payout_id = await bench.accept()
    report = Report(SubStatus.DELIVERED, "DONE", refs=(Ref("transfer", "t-9"),))
    await bench.db.run(bench.payouts.apply, payout_id, report)
    await bench.db.run(freeze, bench.runtime.ids, 1, "an older copy")
    await bench.clock.advance(400 * DAY)
    await sweep(bench, personal_data_days=1)
    assert kept(bench) == ["nobody|sent"]
    assert await bench.db.read(quote_rows.find_quote, quote_id, "acme-org", "live") is not None
    assert stored(bench, "SELECT count(*) FROM payouts WHERE erased_at IS NOT NULL") == [0]


async def test_a_webhook_comes_again_after_its_row_went(bench: Bench) -> None:
    """The double is not known any more; the payout has ended, and its end never changes."""
    payout_id = await learnt(bench)
    await work_off(bench, b"t-1|failed")
    before = await bench.payout(payout_id)
    assert before.status == "failed"
    await bench.clock.advance(timedelta(days=91).total_seconds())
    await sweep(bench)
    assert kept(bench) == []
    assert await work_off(bench, b"t-1|sent") == {b"t-1|sent": "applied"}
    after = await bench.payout(payout_id)
    assert (after.status, after.failure) == (before.status, before.failure)
    assert SENT.refs


async def test_what_is_old_is_looked_for_seldom_where_there_is_nothing(bench: Bench) -> None:
    """Every tenth sweep. Where something was deleted, the next sweep goes on."""
    await work_off(bench, b"nobody|sent")
    made = sweeper(bench, Metrics(), [])
    forgot: list[int] = []
    forget, measure = made._forget, made._measure
    sweeps = 0

    async def forgets() -> None:
        forgot.append(sweeps)
        await forget()

    async def measures() -> None:
        nonlocal sweeps
        await measure()
        sweeps += 1

    made._forget, made._measure = forgets, measures  # type: ignore[method-assign]
    await bench.clock.advance(31 * DAY)
    running = asyncio.create_task(made.run())
    async with asyncio.timeout(20):
        while sweeps < 13:
            await bench.clock.advance(1)
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert kept(bench) == []
    # Something was deleted by sweep 0, nothing by sweep 1.
    assert forgot == [0, 1, 11]
