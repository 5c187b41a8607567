"""The inbox and the sweeper on a real store."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from adapters.fireblocks import webhook
from gateway.adapter import (
    Absent,
    Failure,
    FailureCode,
    FundsMoved,
    Notice,
    NotSent,
    OutcomeUnknown,
    Ref,
    Report,
    SubStatus,
)
from gateway.config.settings import EngineSettings, RetentionSettings, WebhookSettings
from gateway.execution.alerts import LOOKS_ALERT
from gateway.execution.gate import MarkRefused
from gateway.execution.inbox import Inbox
from gateway.execution.proof import Kind, Source
from gateway.execution.state import Verb
from gateway.metrics import Metrics
from gateway.store import executions, inbox
from gateway.store.database import Query, Tx
from gateway.store.rows import to_us
from gateway.sweeper import Sweeper
from tests.execution.conftest import Bench

NO = Failure(code=FailureCode.POLICY_REJECTED, message="no", funds_moved=FundsMoved.NO)
REPORTS = {
    "sent": Report(SubStatus.BROADCAST, "SENT"),
    "failed": Report(SubStatus.FAILED, "FAILED", failure=NO),
    "late": Report(SubStatus.FAILED, "LATE", failure=NO, reopens=True),
}
SENT = Report(SubStatus.SUBMITTED, "OK", refs=(Ref("transfer", "t-1"),))


class Parser:
    """A custodian whose webhooks say `ref|word`."""

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Read one."""
        ref, _, word = body.decode().partition("|")
        if word == "broken":
            raise ValueError(word)
        if word == "bug":
            raise RuntimeError(word)
        refs = (Ref("transfer", ref),) if ref else ()
        told = {"word": word} if word == "told" else {}
        return [Notice(refs, body.decode(), None, REPORTS.get(word), told)]


async def work_off(
    bench: Bench, *bodies: bytes, custodian: str = "acme", asked: list[str] | None = None
) -> dict[bytes, str]:
    """Store webhooks, let the loop work them off, return what became of each.

    `asked` receives the payouts that are to be looked at after their end.
    """
    looks = [] if asked is None else asked
    loop = Inbox(
        db=bench.db,
        runtime=bench.runtime,
        custodians={"acme": Parser()},
        recorders={"acme": bench.recorder},
        settings=EngineSettings(idle_s=3600),
        metrics=Metrics(),
        wake=lambda _: None,
        look_after_end=lambda _, payout_id: looks.append(payout_id),
    )
    now = to_us(bench.clock.now())
    for body in bodies:
        await bench.db.run(inbox.add_webhook, custodian, body.decode(), body, now)
    # It sleeps once everybody has been notified; a row is settled in the database a moment before.
    asleep = asyncio.Event()

    async def sleep(_: float) -> None:
        asleep.set()
        await asyncio.Event().wait()

    loop.wakeup.sleep = sleep  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(loop.run())
    try:
        await asyncio.wait_for(asleep.wait(), 10)
        assert not _new(bench)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return {row[0]: row[1] for row in await _rows(bench, "SELECT body, state FROM inbox")}


async def test_news_finds_its_payout(bench: Bench) -> None:
    """Applied, and the next look comes at once; a double changes nothing."""
    payout_id = await bench.accept()
    await bench.submitted(await bench.begin(), SENT, moved=True)
    states = await work_off(
        bench, b"t-1|sent", b"t-1|other", b"unknown|sent", b"|x", b"t-1|broken", b"t-1|bug"
    )
    assert states == {
        b"t-1|sent": "applied",
        b"t-1|other": "applied",
        b"unknown|sent": "waiting",
        b"|x": "ignored",
        b"t-1|broken": "unreadable",
        b"t-1|bug": "failed",
    }
    assert (await bench.payout(payout_id)).status == "broadcast"
    assert await bench.due_in(payout_id) == 0
    assert len(await bench.events(payout_id)) == 2


async def test_news_before_its_id_waits(bench: Bench) -> None:
    """A webhook that came before our own call returned is applied when the id is learnt."""
    payout_id = await bench.accept()
    assert (await work_off(bench, b"t-9|sent"))[b"t-9|sent"] == "waiting"
    report = Report(SubStatus.SUBMITTED, "OK", refs=(Ref("transfer", "t-9"),))
    recorded = await bench.submitted(await bench.begin(), report, moved=True)
    assert [each.woke_inbox for each in recorded.applied] == [True]
    assert (await work_off(bench))[b"t-9|sent"] == "applied"
    assert (await bench.payout(payout_id)).status == "broadcast"


async def test_older_news_never_steps_back(bench: Bench) -> None:
    """A webhook made before the last look does not bring back what was left behind."""
    payout_id = await bench.accept()
    for sub_status in (SubStatus.BROADCAST, SubStatus.SETTLING):
        await bench.clock.advance(10)
        await bench.db.run(bench.payouts.apply, payout_id, Report(sub_status, "W"))
    made = bench.clock.now().replace(microsecond=0)
    await bench.clock.advance(10)
    await bench.db.run(bench.payouts.apply, payout_id, Report(SubStatus.CONFIRMING, "W"))
    await bench.db.run(
        bench.payouts.apply, payout_id, Report(SubStatus.BROADCAST, "W", observed_at=made)
    )
    assert (await bench.payout(payout_id)).sub_status == "confirming"


async def test_news_of_our_transfer_closes_the_way_to_another_call(bench: Bench) -> None:
    """A webhook says "broadcast" while the outcome is unknown: from then on it is only looked at."""
    payout_id = await learnt(bench)
    await bench.clock.advance(30)
    assert (await work_off(bench, b"t-1|sent"))[b"t-1|sent"] == "applied"
    assert (await bench.payout(payout_id)).status == "broadcast"
    for _ in range(2):
        job = await bench.begin()
        assert job.next_verb is Verb.FETCH
        with pytest.raises(MarkRefused, match="news"):
            await bench.order(job).moving()
        # Whatever an older program has stored: the news is what counts.
        await bench.write(payout_id, state="prepared", lease_until=0, due_at=0)


async def test_news_while_nothing_seems_sent_is_looked_up(bench: Bench) -> None:
    """The adapter vouched that nothing was sent, and yet there is a transfer: no further submit.

    The order is looked up instead; if nobody can show the transfer, a person is asked.
    """
    payout_id = await bench.accept()
    await bench.submitted(
        await bench.begin(), Report(SubStatus.SUBMITTING, "W", refs=SENT.refs, again_after_s=1)
    )
    await bench.clock.advance(5)
    await bench.submitted(await bench.begin(), NotSent("429"), moved=True)
    await work_off(bench, b"t-1|sent")
    assert (await bench.payout(payout_id)).status == "broadcast"
    for _ in range(LOOKS_ALERT + 1):
        await bench.clock.advance(100)
        job = await bench.begin()
        assert job.next_verb is Verb.FETCH
        await bench.fetched(job, Absent("404"))
    assert await bench.attention(payout_id) == ["unresolved"]
    assert (await bench.payout(payout_id)).status == "broadcast"
    done = Report(SubStatus.DELIVERED, "DONE")
    await bench.clock.advance(100)
    await bench.fetched(await bench.begin(), done)
    assert (await bench.payout(payout_id)).status == "delivered"


async def test_a_transfer_of_another_payout_delivers_nothing(bench: Bench) -> None:
    """A webhook or a look that names another payout's transfer is for a person, and blocks."""
    first = await bench.accept()
    done = Report(SubStatus.DELIVERED, "DONE", refs=SENT.refs)
    await bench.submitted(await bench.begin(), done, moved=True)
    payout_id = await learnt(bench, "t-2")
    stranger = Report(SubStatus.DELIVERED, "DONE", refs=SENT.refs)
    await bench.db.run(bench.recorder.news, payout_id, stranger, Source.WEBHOOK)
    assert (await bench.payout(payout_id)).status == "pending"
    assert await bench.attention(payout_id) == ["foreign_ref"]
    assert (await bench.execution(payout_id))["blocked"] == "foreign_ref"
    await bench.clock.advance(30)
    await bench.fetched(await bench.begin(), stranger)
    assert (await bench.payout(payout_id)).status == "pending"
    assert await bench.attention(first) == []
    # What was seen of another payout is no news of this one.
    assert not [each for each in await bench.evidence(payout_id) if each.kind is Kind.NEWS]
    assert set(await bench.attention(payout_id)) == {"foreign_ref"}


async def test_a_look_that_shows_another_payouts_transfer_blocks(bench: Bench) -> None:
    """The custodian shows it first in a look: nothing is told, and nothing is sent any more."""
    first = await bench.accept()
    done = Report(SubStatus.DELIVERED, "DONE", refs=SENT.refs)
    await bench.submitted(await bench.begin(), done, moved=True)
    payout_id = await learnt(bench, "t-2")
    await bench.clock.advance(30)
    await bench.fetched(await bench.begin(), done)
    assert (await bench.payout(payout_id)).sub_status == "outcome_unknown"
    assert await bench.attention(payout_id) == ["foreign_ref"]
    assert (await bench.payout(first)).status == "delivered"
    execution = await bench.execution(payout_id)
    assert (execution["state"], execution["blocked"]) == ("unknown", "foreign_ref")
    await bench.prove_absence()
    with pytest.raises(MarkRefused, match="blocked"):
        await bench.order(await bench.begin()).moving()


async def test_a_late_failure_of_an_earlier_call_ends_nothing(bench: Bench) -> None:
    """Call 1 failed, says a webhook that comes while call 2 is on its way: only the next look is earlier."""
    payout_id = await learnt(bench)
    await bench.prove_absence()
    await bench.submitted(await bench.begin(), OutcomeUnknown("reset"), moved=True)
    assert await bench.due_in(payout_id) > 0
    assert (await work_off(bench, b"t-1|failed"))[b"t-1|failed"] == "applied"
    assert (await bench.payout(payout_id)).sub_status == "outcome_unknown"
    assert await bench.due_in(payout_id) == 0
    # A look that starts when no call can arrive any more speaks of both of them.
    await bench.clock.advance(91)
    await bench.fetched(await bench.begin(), REPORTS["failed"])
    payout = await bench.payout(payout_id)
    assert payout.failure is not None
    assert payout.failure.funds_moved == "no"


async def test_a_failure_of_the_only_call_ends_the_payout(bench: Bench) -> None:
    """There is nothing else that the word could speak of."""
    payout_id = await learnt(bench)
    await work_off(bench, b"t-1|failed")
    payout = await bench.payout(payout_id)
    assert payout.failure is not None
    assert payout.failure.funds_moved == "no"
    assert (await bench.execution(payout_id))["state"] == "closed"


async def test_a_late_refusal_by_webhook_is_left_to_the_next_look(bench: Bench) -> None:
    """A code that was refused late asks a person again: only the engine opens another execution."""
    payout_id = await learnt(bench)
    await work_off(bench, b"t-1|late")
    assert (await bench.payout(payout_id)).status == "pending"
    assert await bench.due_in(payout_id) == 0
    recorded = await bench.fetched(await bench.begin(), REPORTS["late"])
    assert recorded.ended
    old, new = await bench.db.read(executions.executions_of, payout_id)
    assert (old["state"], new["state"], new["number"]) == ("closed", "prepared", 2)
    assert old["key_seed"] != new["key_seed"]
    job = await bench.begin()
    assert job.next_verb is Verb.SUBMIT
    await bench.order(job).moving()


async def test_what_a_webhook_told_is_kept_with_the_execution(bench: Bench) -> None:
    """Beside the notes, for the adapter to compare; the next look comes at once."""
    payout_id = await learnt(bench)
    await work_off(bench, b"t-1|told")
    assert await bench.due_in(payout_id) == 0
    assert (await bench.begin()).notes["told"] == {"word": ["told"]}


class FireblocksParser:
    """The webhooks of Fireblocks, whose word holds for 15 minutes."""

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Read one."""
        return webhook.parse(body, lambda _: "Ethereum", believed_for_s=900)


def of_fireblocks(bench: Bench, *, made_ago: timedelta | None, number: int = 1) -> bytes:
    """Return a webhook about transaction `t-1` that was made so long ago; None: it does not say when."""
    told: dict[str, Any] = {
        "id": f"n-{number}",
        "eventType": "transaction.status.updated",
        "data": {"id": "t-1", "status": "BROADCASTING", "assetId": "USDC", "txHash": "0xab"},
    }
    if made_ago is not None:
        told["createdAt"] = round((bench.clock.now() - made_ago).timestamp() * 1000)
    return json.dumps(told).encode()


def door(bench: Bench) -> Inbox:
    """Return the inbox behind Fireblocks' door."""
    return Inbox(
        db=bench.db,
        runtime=bench.runtime,
        custodians={"acme": FireblocksParser()},
        recorders={"acme": bench.recorder},
        settings=EngineSettings(idle_s=3600),
        metrics=Metrics(),
        wake=lambda _: None,
    )


async def sent_with(bench: Bench, kind: str = "transaction") -> str:
    """Return a payout that was submitted as transaction `t-1`, and whose next look is far away."""
    payout_id = await bench.accept()
    report = Report(SubStatus.SUBMITTED, "OK", refs=(Ref(kind, "t-1"),))
    await bench.submitted(await bench.begin(), report, moved=True)
    assert await bench.due_in(payout_id) > 0
    return payout_id


@pytest.mark.parametrize(
    ("made_ago", "believed"),
    [
        (timedelta(0), True),
        (timedelta(minutes=14), True),
        (timedelta(minutes=16), False),
        (timedelta(days=400), False),
        (timedelta(minutes=-16), False),
        (None, False),
    ],
)
async def test_an_old_webhook_only_brings_the_next_look_forward(
    bench: Bench, made_ago: timedelta | None, *, believed: bool
) -> None:
    """Genuine as it is, somebody may have kept it: the API is asked, and its word counts."""
    payout_id = await sent_with(bench)
    await door(bench).receive("acme", of_fireblocks(bench, made_ago=made_ago))
    payout = await bench.payout(payout_id)
    assert payout.status == ("broadcast" if believed else "pending")
    assert bool(payout.transactions) is believed
    assert await bench.due_in(payout_id) == 0
    assert await bench.claim() != []


async def test_a_webhook_that_waits_for_its_payout_does_not_grow_old(bench: Bench) -> None:
    """Its age is that of when it was received, not of when its payout was known."""
    loop = door(bench)
    await loop.receive("acme", of_fireblocks(bench, made_ago=timedelta(minutes=1)))
    await bench.clock.advance(3600)
    payout_id = await bench.accept()
    report = Report(SubStatus.SUBMITTED, "OK", refs=(Ref("transaction", "t-1"),))
    await bench.submitted(await bench.begin(), report, moved=True)
    (row,) = await bench.db.read(inbox.new_webhooks, 10)
    await loop._one(row)
    assert (await bench.payout(payout_id)).status == "broadcast"


async def test_a_custodian_that_is_not_configured_keeps_its_webhooks(bench: Bench) -> None:
    """Its webhooks wait for an operator, and those of the others are worked off."""
    payout_id = await learnt(bench)
    states = await work_off(bench, b"gone|sent", custodian="gone")
    assert states == {b"gone|sent": "unconfigured"}
    assert (await work_off(bench, b"t-1|sent"))[b"t-1|sent"] == "applied"
    assert (await bench.payout(payout_id)).status == "broadcast"


async def test_the_sweeper_finds_what_nobody_owns(bench: Bench) -> None:
    """A payout without an execution is worked on again, and counted."""
    payout_id = await bench.accept()
    await disown(bench)
    assert await bench.claim() == []
    metrics, woken = Metrics(), list[str]()
    for _ in range(2):
        await sweeper(bench, metrics, woken).sweep()
    assert woken == ["acme"]
    assert (await bench.begin()).items[0].id == payout_id
    assert metrics.registry.get_sample_value("payout_gateway_unowned_rows_total") == 1


async def test_the_sweeper_gives_nothing_back_that_may_have_been_paid(bench: Bench) -> None:
    """Its last execution was closed, by whatever fault, while a call was unknown: a person decides."""
    payout_id = await learnt(bench)
    await bench.write(payout_id, state="closed", ended_at=1)
    await bench.db.run(_close_items)
    woken = list[str]()
    await sweeper(bench, Metrics(), woken).sweep()
    assert woken == []
    assert await bench.claim() == []
    assert await bench.attention(payout_id) == ["unresolved"]


async def test_the_sweeper_leaves_what_is_not_configured(bench: Bench) -> None:
    """A payout of a custodian that is gone from the configuration waits for it."""
    await bench.accept()
    await disown(bench)
    woken = list[str]()
    await sweeper(bench, Metrics(), woken, configured=False).sweep()
    assert woken == []


def sweeper(
    bench: Bench,
    metrics: Metrics,
    woken: list[str],
    *,
    configured: bool = True,
    personal_data_days: float | None = None,
) -> Sweeper:
    """Return a sweeper."""
    return Sweeper(
        db=bench.db,
        runtime=bench.runtime,
        settings=EngineSettings(),
        webhooks=WebhookSettings(),
        retention=RetentionSettings(personal_data_days=personal_data_days),
        metrics=metrics,
        wake=woken.append,
        recorders={"acme": bench.recorder} if configured else {},
    )


async def learnt(bench: Bench, ref: str = "t-1") -> str:
    """Return a payout of unknown outcome whose id at the custodian is known."""
    payout_id = await bench.accept()
    job = await bench.begin()
    told = Report(None, "", refs=(Ref("transfer", ref),))
    await bench.db.run(bench.payouts.apply, payout_id, told)
    await bench.submitted(job, OutcomeUnknown("reset"), moved=True)
    return payout_id


async def disown(bench: Bench) -> None:
    """Delete every execution, as nothing in the gateway does."""

    async def delete(tx: Tx) -> None:
        for table in ("execution_items", "executions"):
            await tx.all(Query(text(f"DELETE FROM {table}")))

    await bench.db.run(delete)


async def _close_items(tx: Tx) -> None:
    await tx.all(Query(text("UPDATE execution_items SET open = 0")))


async def _rows(bench: Bench, text: str) -> list[Any]:
    async def read(tx: Any) -> list[Any]:
        return list(tx._connection.execute(text))

    return await bench.db.read(read)


def _new(bench: Bench) -> bool:
    """Whether a webhook still waits to be worked off; asked through a connection of its own."""
    connection = sqlite3.connect(bench.db._path)
    try:
        return bool(
            connection.execute("SELECT count(*) FROM inbox WHERE state = 'new'").fetchone()[0]
        )
    finally:
        connection.close()
