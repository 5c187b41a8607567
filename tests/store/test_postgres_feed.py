"""The feed of events on PostgreSQL: no reader passes an event that is committed after it looked."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
from sqlalchemy import func, select

from gateway.store import migrate
from gateway.store.database import Query, Tx
from gateway.store.events import add_events, events_between, feed
from gateway.store.months import Month
from gateway.store.postgres.connection import Connection, Server
from gateway.store.postgres.database import PostgresDatabase
from gateway.store.postgres.partitions import Partitions
from gateway.store.postgres.schema import IDENTITY
from tests import postgres
from tests.store.faulty import add

_NUMBERS = itertools.count(1)
#: March 2026
MARCH = 1_772_500_000_000_000


@pytest.fixture
def server() -> Iterator[Server]:
    """A database with every table and no row."""
    with postgres.fresh() as server:
        yield server


async def write(tx: Tx, count: int, before_s: float, after_s: float) -> list[int]:
    """Store function: some events, in a transaction that takes its time before and after."""
    await tx.all(Query(select(func.pg_sleep(before_s))))
    rows = [
        {
            "id": f"evt_{next(_NUMBERS):06}",
            "org": "acme",
            "mode": "live",
            "type": "payout.created",
            "payout_id": None,
            "sequence": None,
            "body": b"{}",
            "created_at": 5,
        }
        for _ in range(count)
    ]
    positions = await add_events(tx, rows)
    await tx.all(Query(select(func.pg_sleep(after_s))))
    return positions


async def _followed(
    server: Server, writers: int, beside: Callable[[asyncio.Event], Awaitable[None]] | None = None
) -> tuple[list[int], list[int], list[int]]:
    """Let transactions end out of order while readers follow; return what was written, and seen."""
    chance = random.Random(7)
    written: list[int] = []
    by_feed: list[int] = []
    by_range: list[int] = []
    done = asyncio.Event()
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(PostgresDatabase(server)) for _ in range(writers)]
        reader = stores[0]

        async def produce(db: PostgresDatabase) -> None:
            for _ in range(10):
                pause = chance.uniform(0, 0.02)
                written.extend(
                    await db.run(write, chance.randint(1, 5), pause, chance.uniform(0, 0.03))
                )

        async def follow() -> None:
            while True:
                ending = done.is_set()
                after = by_feed[-1] if by_feed else 0
                rows, _ = await reader.read(feed, "acme", "live", after, 3, {})
                by_feed.extend(row["position"] for row in rows)
                if ending and not rows:
                    return

        async def recover() -> None:
            while True:
                ending = done.is_set()
                after = by_range[-1] if by_range else 0
                rows = await reader.scan(
                    events_between, "acme", "live", after, 0, 10, "whe_none", 0, 3
                )
                by_range.extend(row["position"] for row in rows)
                if ending and not rows:
                    return

        readers = [asyncio.create_task(follow()), asyncio.create_task(recover())]
        if beside is not None:
            readers.append(asyncio.create_task(beside(done)))  # type: ignore[arg-type]
        await asyncio.gather(*(produce(db) for db in stores for _ in range(2)))
        done.set()
        await asyncio.gather(*readers)
    return sorted(written), by_feed, by_range


async def test_no_reader_passes_an_event(server: Server) -> None:
    """Three processes write, in transactions of every length; both readers see every event, in order."""
    written, by_feed, by_range = await _followed(server, 3)
    assert len(written) > 60
    assert by_feed == written
    assert by_range == written


async def test_no_reader_passes_an_event_at_the_border_of_months(server: Server) -> None:
    """As before, while one month after the other begins."""
    months = [Month.at(MARCH).after(number) for number in range(12)]
    partitions = Partitions(server, migrate.head_revision())
    postgres.execute(server.url, f"INSERT INTO store_cluster (id, identity) SELECT 1, {IDENTITY}")

    async def begin_months(done: asyncio.Event) -> None:
        for each in months:
            await partitions.sweep(each.ends_at - 1, 0, 0)
            if done.is_set():
                return
            await asyncio.sleep(0.02)

    written, by_feed, by_range = await _followed(server, 3, begin_months)
    assert by_feed == written
    assert by_range == written
    assert len({each // Month(1).first for each in written}) > 2


async def test_without_the_turn_events_are_passed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail: positions alone become visible out of order."""

    async def no_turn(_: Connection) -> None:
        """Take nothing."""

    monkeypatch.setattr(Connection, "take_order", no_turn)
    monkeypatch.setattr("gateway.store.postgres.writer._ORDERED", "")
    # It looks for the event's id, and transactions without turns would be in conflict about that.
    postgres.execute(server.url, "ALTER TABLE events DISABLE TRIGGER events_unique")
    try:
        written, by_feed, _ = await _followed(server, 3)
    finally:
        postgres.execute(server.url, "ALTER TABLE events ENABLE TRIGGER events_unique")
    assert set(by_feed) < set(written)


async def test_what_writes_no_event_does_not_wait(server: Server) -> None:
    """A transaction that keeps the turn for long holds up nobody who does not need it."""
    async with PostgresDatabase(server) as one, PostgresDatabase(server) as other:
        await one.run(write, 1, 0, 0)
        slow = asyncio.create_task(one.run(write, 1, 0, 1.5))
        await asyncio.sleep(0.2)
        await asyncio.gather(other.run(add, "a"), one.run(add, "b"))
        assert not slow.done()
        await slow
