"""One org's burst at a shared account delays no other org by more than a turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from gateway.adapter import Report, SubStatus
from gateway.caller import Caller
from gateway.execution.record import Recorder
from gateway.execution.state import Job
from gateway.store import executions, schema
from gateway.store.database import Query, Row, Tx
from gateway.store.due import next_due
from tests.execution.conftest import Bench

DONE = Report(SubStatus.DELIVERED, "COMPLETED")
BURST = 50


@contextmanager
def acting(bench: Bench, org: str) -> Iterator[None]:
    """Have the bench's payouts belong to an org."""
    before, bench.caller = bench.caller, Caller(org, "live", "key_1")
    yield
    bench.caller = before


async def accept(bench: Bench, org: str, count: int = 1) -> None:
    """Accept payouts of an org, one after the other."""
    with acting(bench, org):
        for _ in range(count):
            await bench.accept()
            await bench.clock.advance(0.001)


async def claimed(bench: Bench, limit: int = 10) -> list[Job]:
    """Claim until nothing is due; return what may be worked on."""
    found = []
    for _ in range(200):
        begun = await bench.claim(limit)
        found += [each for each in begun if isinstance(each, Job)]
        if not begun:
            return found
    raise AssertionError("there is no end")


async def paid(bench: Bench, most: int) -> list[str]:
    """Pay one after the other at an account that pays one at a time; return the orgs in order."""
    order: list[str] = []
    while len(order) < most and (jobs := await claimed(bench)):
        (job,) = jobs
        order.append(job.items[0].org)
        await bench.submitted(job, DONE, moved=True)
    return order


async def test_a_burst_at_an_account_delays_nobody(bench: Bench) -> None:
    """The single payout of another org goes out second or third, not after the whole burst."""
    await accept(bench, "alpha", BURST)
    first = await claimed(bench)
    assert len(first) == 1
    await accept(bench, "beta")
    order = ["alpha"]
    await bench.submitted(first[0], DONE, moved=True)
    order += await paid(bench, BURST)
    assert order.index("beta") in {1, 2}
    assert order.count("alpha") == BURST


async def test_orgs_take_turns_at_an_account(bench: Bench) -> None:
    """Each org with something queued gets one turn in each round; nobody is left out."""
    for org in ("beta", "alpha", "gamma"):
        await accept(bench, org, 4)
    order = await paid(bench, 12)
    assert len(order) == 12
    for at in range(0, 12, 3):
        assert set(order[at : at + 3]) == {"alpha", "beta", "gamma"}, order


async def test_within_an_org_the_first_one_goes_first(bench: Bench) -> None:
    """The order of its own queue stays; its single payouts go before the items of its batches."""
    await accept(bench, "alpha")
    (job,) = await claimed(bench)
    with acting(bench, "alpha"):
        item = await bench.accept()
        await bench.write(item, rank=1)
        await bench.clock.advance(1)
        earlier = await bench.accept()
        await bench.clock.advance(1)
        later = await bench.accept()
    assert await claimed(bench) == []
    order = []
    while True:
        await bench.submitted(job, DONE, moved=True)
        jobs = await claimed(bench)
        if not jobs:
            break
        (job,) = jobs
        order.append(job.items[0].id)
    assert order == [earlier, later, item]


@pytest.mark.parametrize("limit", [1, 2])
async def test_a_burst_that_is_due_delays_nobody(bench: Bench, limit: int) -> None:
    """The room of a custodian that takes several at once is shared in the same way."""
    bench.capabilities = replace(bench.capabilities, one_at_a_time=False)
    bench.recorder = Recorder(bench.runtime, bench.payouts, "acme", bench.capabilities)
    await accept(bench, "alpha", BURST)
    await accept(bench, "beta", 2)
    order: list[str] = []
    while len(order) < 6:
        begun = await bench.claim(limit)
        order += [each.items[0].org for each in begun if isinstance(each, Job)]
    assert order[:4].count("beta") == 2
    assert order[4:] == ["alpha", "alpha"]


async def test_single_payouts_still_go_before_batches(bench: Bench) -> None:
    """The rank comes first, whosever turn it is."""
    bench.capabilities = replace(bench.capabilities, one_at_a_time=False)
    bench.recorder = Recorder(bench.runtime, bench.payouts, "acme", bench.capabilities)
    with acting(bench, "beta"):
        await bench.write(await bench.accept(), rank=1)
    await bench.clock.advance(1)
    await accept(bench, "alpha", 3)
    order = []
    for _ in range(4):
        (job,) = await bench.claim(1)
        assert isinstance(job, Job)
        order.append(job.items[0].org)
    assert order == ["alpha"] * 3 + ["beta"]


async def test_the_order_is_kept_for_one_round(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long queue is put in order once a round; an org that comes meanwhile waits for its end at most."""
    bench.capabilities = replace(bench.capabilities, one_at_a_time=False, in_flight=8)
    bench.recorder = Recorder(bench.runtime, bench.payouts, "acme", bench.capabilities)
    await accept(bench, "alpha", BURST)
    ordered = 0
    look_up = executions.next_in_turn

    async def counted(*args: Any) -> list[str]:
        nonlocal ordered
        ordered += 1
        return await look_up(*args)

    monkeypatch.setattr(executions, "next_in_turn", counted)
    order: list[str] = []
    for number in range(20):
        if number == 2:
            await accept(bench, "beta")
        begun = await bench.claim(2)
        assert len(begun) == 2
        order += [each.items[0].org for each in begun if isinstance(each, Job)]
    assert ordered <= 5
    assert order.index("beta") <= 4 + 8


async def test_what_came_first_may_be_gone_when_its_turn_comes(bench: Bench) -> None:
    """The kept order claims nothing: what another process has, or what is not due any more, is passed over."""
    bench.capabilities = replace(bench.capabilities, one_at_a_time=False, in_flight=8)
    bench.recorder = Recorder(bench.runtime, bench.payouts, "acme", bench.capabilities)
    other = Recorder(bench.runtime, bench.payouts, "acme", bench.capabilities)
    await accept(bench, "alpha", 20)
    until = bench.runtime.timeline.now() + 60_000_000
    seen: list[str] = []
    for recorder, limit in (
        (bench.recorder, 2),
        (bench.recorder, 2),
        (other, 10),
        (bench.recorder, 10),
    ):
        begun = await bench.db.run(recorder.claim, "test", until, limit)
        seen += [each.lease.execution_id for each in begun if each.lease is not None]
    assert len(seen) == len(set(seen)) == 20


async def test_the_next_one_is_found_behind_many_that_are_leased(bench: Bench) -> None:
    """News makes leased executions due; when one can be claimed is still answered."""
    bench.capabilities = replace(bench.capabilities, one_at_a_time=False)
    bench.recorder = Recorder(bench.runtime, bench.payouts, "acme", bench.capabilities)
    await accept(bench, "alpha", 70)
    now = bench.runtime.timeline.now()
    assert len(await bench.claim(70)) == 70
    await accept(bench, "alpha")
    (last,) = await bench.claim(1)
    assert last.lease is not None
    execution_id, later = last.lease.execution_id, now + 5_000_000

    async def wake_all(tx: Tx) -> None:
        for row in await open_rows(tx):
            await executions.update_execution(tx, row["id"], due_at=now)
        await executions.update_execution(tx, execution_id, lease_until=0, due_at=later)

    async def open_rows(tx: Tx) -> list[Row]:
        return await tx.all(Query(select(schema.executions.c.id)))

    await bench.db.run(wake_all)
    assert await bench.db.read(next_due, "acme") == later
