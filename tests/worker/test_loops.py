"""The inbox and the sweeper on a real store."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from gateway.adapter import Notice, Ref, Report, SubStatus
from gateway.config import EngineSettings, WebhookSettings
from gateway.execution.inbox import Inbox
from gateway.metrics import Metrics
from gateway.store import inbox, work
from gateway.store.rows import to_us
from gateway.sweeper import Sweeper
from tests.worker.conftest import Bench

BROADCAST = Report(SubStatus.BROADCAST, "SENT")


class Parser:
    """A custodian whose webhooks say `ref|word`."""

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Read one."""
        ref, _, word = body.decode().partition("|")
        if word == "broken":
            raise ValueError(word)
        if word == "bug":
            raise RuntimeError(word)
        report = BROADCAST if word == "sent" else None
        return [Notice((Ref("transfer", ref),) if ref else (), body.decode(), None, report)]


async def work_off(bench: Bench, *bodies: bytes) -> dict[bytes, str]:
    """Store webhooks, let the loop work them off, return what became of each."""
    metrics = Metrics()
    loop = Inbox(
        db=bench.db,
        runtime=bench.runtime,
        payouts=bench.payouts,
        custodians={"acme": Parser()},
        settings=EngineSettings(idle_s=3600),
        metrics=metrics,
        wake=lambda _: None,
    )
    now = to_us(bench.clock.now())
    for body in bodies:
        await bench.db.run(inbox.add_webhook, "acme", body.decode(), body, now)
    task = asyncio.create_task(loop.run())
    try:
        await _until(lambda: not _new(bench))
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return {row[0]: row[1] for row in await _rows(bench, "SELECT body, state FROM inbox")}


async def test_news_finds_its_payout(bench: Bench) -> None:
    """Applied, and the next look comes at once; a double changes nothing."""
    payout_id = await bench.accept()
    await bench.submitted(
        await bench.begin(),
        Report(SubStatus.SUBMITTED, "OK", refs=(Ref("transfer", "t-1"),)),
        moved=True,
    )
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
    settled = await bench.submitted(await bench.begin(), report, moved=True)
    assert settled.applied is not None
    assert settled.applied.woke_inbox
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


async def test_the_sweeper_finds_what_nobody_owns(bench: Bench) -> None:
    """A payout without a work row is worked on again, and counted."""
    payout_id = await bench.accept()
    await bench.db.run(work.drop_work, payout_id)
    assert await bench.claim() == []
    metrics, woken = Metrics(), list[str]()
    sweeper = Sweeper(
        db=bench.db,
        runtime=bench.runtime,
        settings=EngineSettings(),
        webhooks=WebhookSettings(),
        metrics=metrics,
        wake=woken.append,
    )
    for _ in range(2):
        await sweeper.sweep()
    assert woken == ["acme"]
    assert [lease.payout_id for lease in await bench.claim()] == [payout_id]
    assert metrics.registry.get_sample_value("payout_gateway_unowned_rows_total") == 1


async def _rows(bench: Bench, text: str) -> list[Any]:
    async def read(tx: Any) -> list[Any]:
        return list(await tx._connection.execute_fetchall(text))

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


async def _until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not look():
            await asyncio.sleep(0.01)
