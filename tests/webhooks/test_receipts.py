"""Tries in groups: each is durable when it is said so; a lost lease changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.store import deliveries as rows
from gateway.store.database import Database, Row, Tx
from gateway.store.receipts import Tried, settle_tries
from gateway.store.rows import to_us
from gateway.webhooks import receipts
from gateway.webhooks.receipts import Receipts
from gateway.webhooks.replay import NEWEST
from tests.execution.conftest import Bench
from tests.webhooks.test_worker import subscribe


async def claimed(bench: Bench, count: int) -> list[Tried]:
    """Return tries of so many claimed deliveries, all of them received."""
    endpoint = await subscribe(bench, "http://127.0.0.1:9/")
    for _ in range(count):
        await bench.accept()
    now, wall = bench.runtime.timeline.now(), to_us(bench.clock.now())
    found = await bench.db.run(rows.claim_deliveries, [(endpoint.id, count)], now, now + 10**9, 7)
    assert len(found) == count
    return [
        Tried(
            position=row["position"],
            endpoint_id=row["endpoint_id"],
            token=row["lease_token"],
            attempt=row["attempts"] + 1,
            trigger=row["trigger"],
            state="delivered",
            due=now,
            settled=wall,
            outcome="succeeded",
            http_status=200,
            snippet='a "quoted" ✓',
            started_at=wall,
            duration_ms=7,
            next_attempt_at=None,
        )
        for row, _ in found
    ]


async def logged(bench: Bench, tried: Tried) -> list[Row]:
    """Return what is logged of a delivery."""
    return await bench.db.read(
        lambda tx: rows.attempt_log(tx, position=tried.position, before=NEWEST, limit=9)
    )


async def held(tx: Tx, tries: Sequence[Tried]) -> list[bool]:
    """Store function: settle tries; whether each was held."""
    found = await settle_tries(tx, tries)
    return [each[:3] in found for each in tries]


async def test_many_tries_are_few_transactions(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are written, with what each met."""
    tries, groups = await claimed(bench, 40), list[int]()
    run = Database.run

    async def counting(db: Database, fn: object, *args: object, **kwargs: object) -> object:
        if fn is held:
            groups.append(len(args[0]))  # type: ignore[arg-type]
        return await run(db, fn, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Database, "run", counting)
    writer = Receipts(bench.db, held)
    assert await asyncio.gather(*(writer.settle(each) for each in tries)) == [True] * 40
    assert sum(groups) == 40
    assert len(groups) <= 3
    for each in tries:
        (row,) = await logged(bench, each)
        assert (row["attempt"], row["outcome"], row["http_status"]) == (1, "succeeded", 200)
        assert (row["response_snippet"], row["trigger"]) == (each.snippet, "scheduled")


async def test_a_lost_lease_writes_nothing(bench: Bench) -> None:
    """Neither state nor try; the others of the group are written."""
    first, second = await claimed(bench, 2)
    lost = first._replace(token=first.token + 1)
    assert await bench.db.run(held, [lost, second]) == [False, True]
    assert await logged(bench, first) == []
    assert len(await logged(bench, second)) == 1
    assert await bench.db.run(held, [second]) == [False]
    assert len(await logged(bench, second)) == 1


async def test_whoever_waits_hears_of_a_fault(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next tries are written again."""
    tries = await claimed(bench, 2)
    writer, run = Receipts(bench.db, held), Database.run

    async def full(*_: object, **__: object) -> object:
        raise OSError("disk full")

    monkeypatch.setattr(Database, "run", full)
    with pytest.raises(OSError, match="disk full"):
        await writer.settle(tries[0])
    monkeypatch.setattr(Database, "run", run)
    await writer.settle(tries[1])
    assert len(await logged(bench, tries[1])) == 1


async def test_a_pause_after_each_group_gathers_the_next_one(bench: Bench) -> None:
    """Tries that end during a pause are one transaction; none waits for more than its group and a pause."""
    tries = await claimed(bench, 6)
    groups: list[int] = []

    async def write(tx: Tx, group: Sequence[Tried]) -> list[bool]:
        groups.append(len(group))
        return await held(tx, group)

    made: Receipts[Tried, bool] = Receipts(bench.db, write, lambda: 0.5)
    assert await made.settle(tries[0])
    later = []
    for each in tries[1:]:
        later.append(asyncio.create_task(made.settle(each)))
        # Without the pause, this one would be written before the next one ends.
        await bench.db.run(held, [])
    assert all(await asyncio.gather(*later))
    assert groups == [1, 5]


class Groups:
    """Receipts that are written by the real store function, and the sizes of their groups."""

    def __init__(self, bench: Bench) -> None:
        self.sizes: list[int] = []
        self.receipts: Receipts[Tried, bool] = Receipts(bench.db, self._write)
        self.tasks: list[asyncio.Task[bool]] = []

    async def _write(self, tx: Tx, group: Sequence[Tried]) -> list[bool]:
        self.sizes.append(len(group))
        return await held(tx, group)

    async def settle(self, *tries: Tried, may_wait: bool = True) -> None:
        """Hand tries in, and let them wait for each other."""
        for each in tries:
            settling = self.receipts.settle(each, may_wait=may_wait)
            self.tasks.append(asyncio.create_task(settling))
        await asyncio.sleep(0)


async def test_receipts_wait_for_each_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction for four; never do more of them wait, which a kill would send again."""
    monkeypatch.setattr(receipts, "GATHER_S", 3600.0)
    tries, groups = await claimed(bench, 4), Groups(bench)
    await groups.settle(*tries[:2])
    # Another change is durable meanwhile, and none of them is.
    await bench.db.run(held, [])
    assert groups.sizes == []
    await groups.settle(tries[2])
    await asyncio.sleep(0.01)
    assert groups.sizes == []
    await groups.settle(tries[3])
    assert all(await asyncio.gather(*groups.tasks))
    assert groups.sizes == [4]


async def test_three_that_wait_share_the_commit_of_the_next_change(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes the change; all four are durable when it is."""
    monkeypatch.setattr(receipts, "GATHER_S", 3600.0)
    tries, groups = await claimed(bench, 4), Groups(bench)
    await groups.settle(*tries[:3])
    before = bench.db.commits
    assert await bench.db.run(held, [tries[3]]) == [True]
    assert (groups.sizes, bench.db.commits - before) == ([3], 1)
    assert all(await asyncio.gather(*groups.tasks))
    for each in tries:
        assert len(await logged(bench, each)) == 1


@pytest.mark.parametrize("how", ["hurry", "one that may not wait", "close", "the time is over"])
async def test_what_waits_is_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """At once where its place is needed, and at the latest after a moment."""
    monkeypatch.setattr(receipts, "GATHER_S", 0.05 if how == "the time is over" else 3600.0)
    tries, groups = await claimed(bench, 3), Groups(bench)
    await groups.settle(*tries[:2])
    if how == "hurry":
        groups.receipts.hurry()
    elif how == "close":
        groups.receipts.close()
        # Nothing waits from now on.
        await groups.settle(tries[2])
    elif how == "one that may not wait":
        await groups.settle(tries[2], may_wait=False)
    async with asyncio.timeout(10):
        assert all(await asyncio.gather(*groups.tasks))
    assert sum(groups.sizes) == len(groups.tasks)
    assert groups.sizes[0] >= 2
