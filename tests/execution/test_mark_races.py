"""What another process commits between the gate's reads and its mark, on PostgreSQL.

A serializable order of the two always exists where only one of them wrote what the other one has read: the
mark is then said to have come first, although it is committed later. An emergency stop needs more than that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import NotSent, OutcomeUnknown
from gateway.execution.gate import Refusal
from gateway.execution.order import LiveOrder
from gateway.execution.proof import Kind
from gateway.execution.state import Verb
from gateway.pause import PauseScope
from gateway.pausing import Wanted, pause
from gateway.rules import OwnRules
from gateway.runtime import Ids, real_runtime
from gateway.store import executions
from gateway.store.audit import Act
from gateway.store.database import Database, Query
from gateway.store.postgres.cluster import Cluster
from gateway.store.postgres.connection import Connection
from gateway.store.postgres.database import PostgresDatabase
from gateway.store.rules import activate
from gateway.store.state import advance, freeze
from tests import postgres
from tests.clock import SetClock
from tests.execution.conftest import CAN, Bench
from tests.test_rules import settings

BY = Act("ann")
Race = Callable[[Bench, Database], Awaitable[object]]


@pytest.fixture
async def races() -> AsyncIterator[tuple[Bench, Database]]:
    """A bench, and the store of another process on the same database."""
    clock = SetClock()
    runtime = replace(real_runtime(), clock=clock, ids=Ids(clock))
    with postgres.fresh() as server:
        async with PostgresDatabase(server) as db, PostgresDatabase(server) as other:
            yield Bench(db, clock, runtime, CAN), other


async def paused(bench: Bench, other: Database) -> None:
    """An operator pauses everything."""
    await other.run(pause, bench.runtime, Wanted(PauseScope.ALL), "fraud?", BY)


async def frozen(bench: Bench, other: Database) -> None:
    """The database is found to be an old copy."""
    await other.run(freeze, bench.runtime.ids, bench.clock.moment().wall, "an old copy")


async def activated(bench: Bench, other: Database) -> None:
    """An operator activates other limits and routes."""
    rules, at = OwnRules(settings(routes=[])), bench.clock.moment().wall
    await other.run(activate, bench.runtime.ids, at, rules.digest, rules.text, "ann", "why")


@contextmanager
def after_the_reads(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Awaitable[object]]) -> Any:
    """Do something right after the gate has read what a mark depends on, once."""
    query, left = Connection.query, [work]

    async def then(connection: Connection, asked: Query, values: Mapping[str, Any]) -> Any:
        rows = await query(connection, asked, values)
        if asked is executions._MAY_MARK and left:
            await left.pop()()
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "query", then)
        yield
    assert not left


async def test_a_mark_of_the_other_connection_freezes_nothing(
    races: tuple[Bench, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process commits on two connections: what one has just committed the other one's snapshot lacks.

    That is no older copy of the database: the gate looks again.
    """
    bench, other = races
    order = await order_of(bench)
    cluster = Cluster("pg", bench.runtime)
    order._witness = cluster

    async def ended() -> None:
        # As a payout that ends without money: its mark is told once it is committed.
        cluster.record(await other.run(advance))

    with after_the_reads(monkeypatch, ended):
        await order.moving()
    (call,) = await bench.evidence(order.items[0].payout_id)
    assert call.mark == 2
    cluster.record(3)
    await bench.record(order._job, Verb.SUBMIT, NotSent("busy"), order=order)
    await bench.clock.advance(60)
    again = bench.order(await bench.begin())
    again._witness = cluster
    with pytest.raises(NotSent, match=str(Refusal.FROZEN)):
        await again.moving()


async def order_of(bench: Bench) -> LiveOrder:
    """Return the order of a claimed payout, at a gateway whose rules are the active ones."""
    own, at = OwnRules(settings(Path("g.db"))), bench.clock.moment().wall
    await bench.db.run(activate, bench.runtime.ids, at, own.digest, own.text, "ann", "first")
    await bench.accept()
    order = bench.order(await bench.begin())
    order._rules = own.digest
    return order


@pytest.mark.parametrize(
    ("race", "refusal"),
    [(paused, Refusal.PAUSED), (frozen, Refusal.FROZEN), (activated, Refusal.RULES)],
)
@pytest.mark.parametrize("again", [False, True])
async def test_no_mark_is_committed_after_it(
    races: tuple[Bench, Database],
    monkeypatch: pytest.MonkeyPatch,
    race: Race,
    refusal: Refusal,
    again: bool,
) -> None:
    """It returned before the mark was committed: so there is no mark, and the same bytes are not sent again."""
    bench, other = races
    order = await order_of(bench)
    if again:
        await order.moving()
    with (
        after_the_reads(monkeypatch, lambda: race(bench, other)),
        pytest.raises(NotSent if not again else OutcomeUnknown, match=str(refusal)),
    ):
        await order.moving(same_request=again)
    (payout_id,) = [each.id for each in order._job.items]
    calls = [each for each in await bench.evidence(payout_id) if each.kind is Kind.CALL]
    assert len(calls) == int(again)
