"""The rows that the writer keeps are those of the database, whoever writes it and whatever fails.

Every other test of this directory compares them after each change; see `conftest.exact_rows`.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, update

from gateway.adapter import Ref, Report, SubStatus
from gateway.execution.gate import MarkRefused, Refusal
from gateway.execution.mark import set_mark
from gateway.execution.record import Recorded
from gateway.execution.state import Job
from gateway.store import executions, live_rows
from gateway.store import payouts as rows
from gateway.store.database import Database, Query, Tx
from gateway.store.schema import executions as table
from gateway.store.schema import payouts
from tests.execution.conftest import Bench
from tests.live_rows import compared
from tests.statements import CountingTx, counted

SENT = Report(SubStatus.BROADCAST, "SENT", refs=(Ref("transfer", "t-1"),))
DONE = Report(SubStatus.DELIVERED, "COMPLETED", refs=(Ref("transfer", "t-1"),))
_ELSEWHERE = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1], isolation_level=None) as connection:
    connection.execute(sys.argv[2], sys.argv[3:])
"""


@pytest.fixture
async def job(bench: Bench) -> Job:
    """Return a claimed payout: its rows are kept."""
    await bench.accept()
    return await bench.begin()


async def elsewhere(path: Path, text: str, *values: str) -> None:
    """Write by another process, and wait until it has committed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _ELSEWHERE, str(path), text, *values
    )
    assert await process.wait() == 0


async def held(db: Database, job: Job) -> Any:
    """Return the execution and its payout as a change sees them; None where the lease is lost."""

    async def look(tx: Tx) -> Any:
        found = await executions.held_with_items(tx, job.lease.execution_id, job.lease.token)
        if found is None:
            return None
        names = {each.name for each in payouts.columns}
        return dict(found[0]), [{name: each[name] for name in names} for each in found[1]]

    return await db.run(look)


async def kept(db: Database) -> int:
    """Return how many rows are kept."""

    async def count(tx: Tx) -> int:
        assert tx.live is not None
        return sum(map(len, tx.live.tables.values()))

    return await db.run(count)


async def test_what_is_kept_is_not_read_again(bench: Bench, job: Job) -> None:
    """Otherwise no test here could fail."""
    lease = job.lease
    found, texts = await counted(
        bench.db, executions.held_with_items, lease.execution_id, lease.token
    )
    assert found is not None
    assert texts == []


async def test_news_wakes_the_kept_execution_alone(bench: Bench, job: Job) -> None:
    """By its id; by the payout where it is not kept, and none once it has ended."""
    payout_id = job.items[0].id
    now = bench.runtime.timeline.now()
    custodian, texts = await counted(bench.db, executions.wake, payout_id, now)
    assert custodian == "acme"
    assert ["execution_items" in each for each in texts] == [False]
    await elsewhere(bench.db.path, "UPDATE executions SET looks = 3 WHERE id <> ''")
    custodian, texts = await counted(bench.db, executions.wake, payout_id, now)
    assert custodian == "acme"
    assert ["execution_items" in each for each in texts] == [True]
    await bench.submitted(job, DONE, moved=True)
    assert await bench.db.run(executions.wake, payout_id, now) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("UPDATE executions SET lease_token = lease_token + 1 WHERE id = ?", "lease"),
        ("UPDATE executions SET blocked = 'mismatch' WHERE id = ?", "blocked"),
        ("DELETE FROM evidence WHERE execution_id <> ?", "untouched"),
    ],
)
async def test_another_process_commits_between_filling_and_using(
    bench: Bench, job: Job, text: str, name: str
) -> None:
    """What it wrote is what the next change sees: a lost lease, a block, and all else as before."""
    before = await held(bench.db, job)
    await elsewhere(bench.db.path, text, job.lease.execution_id)
    after = await held(bench.db, job)
    if name == "lease":
        assert after is None
        recorded = await bench.record(job, job.next_verb, SENT)
        assert recorded.lost
    elif name == "blocked":
        assert after[0]["blocked"] == "mismatch"
    else:
        assert after == before


async def test_the_payout_of_another_process(bench: Bench, job: Job) -> None:
    """A status that another process wrote is the one that news is judged by."""
    payout_id = job.items[0].id
    await elsewhere(
        bench.db.path, "UPDATE payouts SET external_ref = 'theirs' WHERE id = ?", payout_id
    )
    await bench.submitted(job, SENT, moved=True)
    assert (await bench.payout(payout_id)).external_ref == "theirs"
    assert (await bench.payout(payout_id)).status == "broadcast"


async def test_a_change_that_is_undone_leaves_no_row(bench: Bench, job: Job) -> None:
    """Neither its own rows, nor those that others had filled before in the same group."""
    lease = job.lease

    async def fails(tx: Tx) -> None:
        await executions.update_execution(tx, lease.execution_id, notes='{"a":1}')
        await rows.update_payout(tx, job.items[0].id, name="never")
        raise ZeroDivisionError

    before = await held(bench.db, job)
    other = asyncio.create_task(held(bench.db, job))
    with pytest.raises(ZeroDivisionError):
        await bench.db.run(fails)
    assert await other == before
    assert await held(bench.db, job) == before


async def test_a_commit_that_fails_leaves_no_row(
    bench: Bench, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that it wrote are gone, in the database and beside it."""
    before = await held(bench.db, job)
    writer = bench.db._writer

    def full(_: int | None) -> None:
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(writer, "_before_commit", full)
    with pytest.raises(sqlite3.OperationalError):
        await bench.write(job.items[0].id, notes='{"a":1}')
    monkeypatch.setattr(writer, "_before_commit", None)
    assert await kept(bench.db) == 0
    assert await held(bench.db, job) == before


async def test_a_statement_that_says_nothing_drops_everything(bench: Bench, job: Job) -> None:
    """Whatever is written past the store functions."""
    assert await kept(bench.db) > 0
    query = Query(
        update(table).where(table.c.id == bindparam("at")).values(outcome=bindparam("word"))
    )

    async def write(tx: Tx) -> None:
        await tx.all(query, at=job.lease.execution_id, word="by hand")

    await bench.db.run(write)
    assert await kept(bench.db) == 0
    assert (await held(bench.db, job))[0]["outcome"] == "by hand"


async def test_who_has_a_row_keeps_it(bench: Bench, job: Job) -> None:
    """A change that writes a row it has read before still sees the old one."""

    async def change(tx: Tx) -> tuple[str, str]:
        row = await executions.held(tx, job.lease.execution_id, job.lease.token)
        assert row is not None
        await executions.update_execution(tx, row["id"], notes='{"a":1}')
        now = await executions.held(tx, job.lease.execution_id, job.lease.token)
        assert now is not None
        return row["notes"], now["notes"]

    assert await bench.db.run(change) == ("{}", '{"a":1}')


async def test_the_gate_reads_its_rows(
    bench: Bench, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a mark may be set is not answered from what is kept: evidence, execution, items."""
    texts: list[str] = []

    async def marking(tx: Tx, *args: Any) -> Any:
        counting = CountingTx(tx)
        result = await set_mark(counting, *args)
        texts.extend(counting.texts)
        return result

    monkeypatch.setattr("gateway.execution.order.set_mark", marking)
    await bench.order(job).moving()
    reads = [each for each in texts if each.startswith("SELECT")]
    assert any("FROM evidence" in each for each in reads)
    assert any("FROM executions" in each for each in reads)
    assert any("payouts.status" in each for each in reads)


async def test_evidence_of_another_process_reaches_the_gate(bench: Bench, job: Job) -> None:
    """News that another process wrote forbids the mark, as it does without anything kept."""
    await elsewhere(
        bench.db.path,
        "INSERT INTO evidence (execution_id, number, kind, seen, clock_id, elapsed, wall, fingerprint,"
        " answer, reference, item, source, mark, call_life, visibility, absence_looks, key_life, one_key)"
        " VALUES (?, 1, 'news', 0, 'c', 0, 0, 'acme/A', 'moving', NULL, ?, 'webhook', 0, NULL, 0, 3, NULL, 0)",
        job.lease.execution_id,
        job.items[0].id,
    )
    with pytest.raises(MarkRefused) as refused:
        await bench.order(job).moving()
    assert refused.value.refusal is Refusal.NEWS


async def test_reads_have_none(bench: Bench, job: Job) -> None:
    """They have a state of the database of their own."""

    async def look(tx: Tx) -> bool:
        return tx.live is None

    assert await bench.db.read(look)
    assert await bench.db.scan(look)


async def test_it_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many open executions do not fill the memory, and what is kept stays exact."""
    monkeypatch.setattr(live_rows, "MOST", 3)
    bench.capabilities = replace(bench.capabilities, one_at_a_time=False)
    bench.recorder = type(bench.recorder)(bench.runtime, bench.payouts, "acme", bench.capabilities)
    with compared(monkeypatch) as counts:
        for _ in range(8):
            await bench.accept()
        begun = await bench.claim(8)
        for each in begun:
            assert isinstance(each, Job)
            await bench.submitted(each, replace(DONE, refs=()), moved=True)
    assert len(begun) == 8
    assert 0 < max(counts) <= 5 * 3


async def test_a_payout_that_ends_is_dropped(bench: Bench, job: Job) -> None:
    """Its rows are of no use any more."""
    recorded = await bench.submitted(job, DONE, moved=True)
    assert isinstance(recorded, Recorded)
    assert recorded.ended
    assert await kept(bench.db) == 0
