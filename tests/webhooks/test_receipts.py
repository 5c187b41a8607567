"""Receipts in groups: each is durable when it is said so; a lost lease changes nothing."""

from __future__ import annotations

import asyncio

import pytest

from gateway.store import deliveries as rows
from gateway.store.database import Database
from gateway.store.receipts import Receipt, settle_receipts
from gateway.store.rows import to_us
from gateway.webhooks.receipts import Receipts
from tests.execution.conftest import Bench
from tests.webhooks.test_worker import subscribe


async def claimed(bench: Bench, count: int) -> list[Receipt]:
    """Return the receipts of so many claimed deliveries."""
    endpoint = await subscribe(bench, "http://127.0.0.1:9/")
    for _ in range(count):
        await bench.accept()
    now = to_us(bench.clock.now())
    found = await bench.db.run(rows.claim_deliveries, [(endpoint.id, count)], now, now + 10**9)
    assert len(found) == count
    return [
        Receipt(row["id"], row["lease_token"], now, "succeeded", 200, 'a "quoted" ✓', now, 7)
        for row in found
    ]


async def test_many_receipts_are_few_transactions(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are written, with what each try met."""
    receipts, groups = await claimed(bench, 40), list[int]()
    run = Database.run

    async def counting(db: Database, fn: object, *args: object, **kwargs: object) -> object:
        if fn is settle_receipts:
            groups.append(len(args[0]))  # type: ignore[arg-type]
        return await run(db, fn, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Database, "run", counting)
    writer = Receipts(bench.db)
    await asyncio.gather(*(writer.settle(each) for each in receipts))
    assert sum(groups) == 40
    assert len(groups) <= 3
    for each in receipts:
        (row,) = await bench.db.read(rows.delivery_attempts_of, each.delivery_id)
        assert (row["attempt"], row["outcome"], row["http_status"]) == (1, "succeeded", 200)
        assert (row["response_snippet"], row["trigger"]) == ('a "quoted" ✓', "scheduled")


async def test_a_lost_lease_writes_nothing(bench: Bench) -> None:
    """Neither state nor try; the others of the group are written."""
    first, second = await claimed(bench, 2)
    await bench.db.run(settle_receipts, [first._replace(token=first.token + 1), second])
    assert await bench.db.read(rows.delivery_attempts_of, first.delivery_id) == []
    assert len(await bench.db.read(rows.delivery_attempts_of, second.delivery_id)) == 1
    await bench.db.run(settle_receipts, [second])
    assert len(await bench.db.read(rows.delivery_attempts_of, second.delivery_id)) == 1


async def test_whoever_waits_hears_of_a_fault(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next receipts are written again."""
    receipts = await claimed(bench, 2)
    writer, run = Receipts(bench.db), Database.run

    async def full(*_: object, **__: object) -> object:
        raise OSError("disk full")

    monkeypatch.setattr(Database, "run", full)
    with pytest.raises(OSError, match="disk full"):
        await writer.settle(receipts[0])
    monkeypatch.setattr(Database, "run", run)
    await writer.settle(receipts[1])
    assert len(await bench.db.read(rows.delivery_attempts_of, receipts[1].delivery_id)) == 1
