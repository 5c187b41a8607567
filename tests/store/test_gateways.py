"""The registry: who is alive is told by counters that move, and never by a clock's time."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command

from gateway.runtime import Moment
from gateway.store import clocks, gateways, upgrading
from gateway.store.database import Database
from gateway.store.gateways import BEAT_S, STALE_S, Identity, Watch
from tests.clock import SetClock
from tests.store.rows import add_execution, add_payout

US = 1_000_000
DAY = 86_400 * US


@pytest.fixture
async def db(path: Path) -> AsyncIterator[Database]:
    """An open store."""
    async with Database(path) as db:
        yield db


async def register(db: Database, name: str, at: Moment) -> None:
    """Add a gateway."""
    identity = Identity(name, "host", 17, "0", "digest", "0001", "0001", 1)
    await db.run(gateways.register, identity, at, 0)


async def watched(path: Path, clock: SetClock) -> tuple[list[str], list[list[str]]]:
    """Watch a database while the clock goes on; return who is alive, and whom it told of."""
    told: list[list[str]] = []

    def tell(rows: Iterable[Mapping[str, Any]]) -> None:
        told.append([row["id"] for row in rows])

    task = asyncio.create_task(gateways.alive(path, clock, tell))
    while not task.done():
        await clock.advance(BEAT_S / 10)
        await asyncio.sleep(0.001)
    return [row["id"] for row in task.result()], told


def test_a_watch_measures_by_its_own_clock() -> None:
    """A counter that was not seen to move says nothing, until it has stood still for long enough."""
    watch = Watch()
    watch.look({"a": 5, "b": 9}, 0)
    assert watch.moved() == set()
    assert watch.stale(int(STALE_S * US) - 1) == set()
    watch.look({"a": 6, "b": 9}, int(BEAT_S * US))
    assert watch.moved() == {"a"}
    assert watch.stale(int(STALE_S * US)) == {"b"}
    watch.look({"a": 6}, 10**9)
    assert watch.stale(10**9) == {"a"}
    watch.look({"a": 7}, 10**9)
    assert watch.stale(10**9) == set()


async def test_one_of_many_notes_that_a_gateway_is_gone(db: Database) -> None:
    """Once for each value of its counter; not of one that raised it, or signed off, since it was judged."""
    await register(db, "gwy_1", Moment("c", 0, 0))

    async def reported(counter: int) -> bool:
        return await db.run(gateways.report_gone, "gwy_1", counter)

    assert [await reported(0), await reported(0)] == [True, False]
    await db.run(gateways.raise_counter, "gwy_1", Moment("c", 1, 0))
    assert [await reported(0), await reported(1), await reported(1)] == [False, True, False]
    await db.run(gateways.raise_counter, "gwy_1", Moment("c", 2, 0))
    await db.run(gateways.mark_stopped, "gwy_1", 3)
    assert not await reported(2)


async def test_nobody_is_waited_for_where_nobody_is(path: Path, db: Database) -> None:
    """No gateway, or all have signed off: the answer comes at once."""
    clock = SetClock()
    begun = clock.monotonic()
    assert await watched(path, clock) == ([], [])
    await register(db, "gwy_1", clock.moment())
    await db.run(gateways.mark_stopped, "gwy_1", 1)
    assert await watched(path, clock) == ([], [])
    assert clock.monotonic() - begun < STALE_S


@pytest.mark.parametrize("step", [0, -3600, 3600])
async def test_a_dead_gateway_is_waited_out(path: Path, db: Database, step: float) -> None:
    """Its row stays, with whatever times it has; only standing still for long enough counts."""
    clock = SetClock()
    await register(db, "gwy_1", clock.moment())
    await db.run(gateways.raise_counter, "gwy_1", clock.moment())
    clock.step(step)
    begun = clock.monotonic()
    assert await watched(path, clock) == ([], [["gwy_1"]])
    assert clock.monotonic() - begun >= STALE_S


async def test_a_moving_counter_is_alive(path: Path, db: Database) -> None:
    """Though its clock is another one, and its wall clock wrong."""
    clock = SetClock()
    await register(db, "gwy_dead", clock.moment())
    await register(db, "gwy_live", Moment("elsewhere", 3, 0))
    task = asyncio.create_task(gateways.alive(path, clock, lambda _: None))
    await clock.advance(BEAT_S)
    for elapsed in range(1000):
        await db.run(gateways.raise_counter, "gwy_live", Moment("elsewhere", elapsed, 0))
        await clock.advance(BEAT_S / 10)
        await asyncio.sleep(0.001)
        if task.done():
            break
    (found,) = task.result()
    assert (found["id"], found["pid"], found["host"]) == ("gwy_live", 17, "host")


async def test_a_schema_from_before_has_nobody(tmp_path: Path) -> None:
    """Nothing of this program's schema is expected; a missing database has nobody either."""
    path = tmp_path / "old.db"
    assert await watched(path, SetClock()) == ([], [])
    command.upgrade(upgrading.config(path), "0003")
    assert await watched(path, SetClock()) == ([], [])


async def test_a_gateway_of_the_schema_before_is_found(tmp_path: Path) -> None:
    """Its row has none of the columns that were added since: `db upgrade` sees that it may still run."""
    path = tmp_path / "old.db"
    command.upgrade(upgrading.config(path), "0022")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "INSERT INTO gateways (id, counter, clock_id, elapsed, wall, host, pid, version, config_digest, "
            "schema_from, schema_to, gate_version, marks, started_at) "
            "VALUES ('gwy_1', 1, 'c', 0, 0, 'host', 17, '0', 'd', '0022', '0022', 1, 0, 0)"
        )
        connection.commit()
    assert await watched(path, SetClock()) == ([], [["gwy_1"]])


async def test_heartbeats_stay_as_long_as_a_call_needs_them(db: Database) -> None:
    """Those before the oldest call of a payout that has not ended go, a day later."""
    at = Moment("a", 0, 0)
    await db.run(clocks.anchor, at)
    delivered, pending = [await db.run(add_payout, each) for each in ("delivered", "pending")]
    await db.run(add_execution, delivered, calls=(2,), at=at)
    await db.run(add_execution, pending, calls=(5, 7), at=at)
    for mark in range(1, 9):
        await db.run(gateways.add_heartbeat, "gwy_1", Moment("a", mark, 0), mark)
    await db.run(gateways.add_heartbeat, "gwy_1", Moment("a", 2 * DAY, 0), 4)

    async def kept() -> list[tuple[int, int]]:
        with closing(sqlite3.connect(db._path)) as connection:
            rows = connection.execute("SELECT marks, elapsed FROM heartbeats ORDER BY id")
            return [tuple(row) for row in rows]

    oldest = await db.read(gateways.oldest_call)
    assert oldest == 5
    await db.run(gateways.purge, oldest, "a", 0, 0)
    assert len(await kept()) == 9
    await db.run(gateways.purge, oldest, "a", DAY, 0)
    assert await kept() == [(5, 5), (6, 6), (7, 7), (8, 8), (4, 2 * DAY)]


async def test_without_open_calls_old_heartbeats_go(db: Database) -> None:
    """Nothing needs them any more; so do gateways and clocks that are long gone, but not our own."""
    for name in ("a", "b", "c"):
        await db.run(clocks.anchor, Moment(name, 0, 0))
    await register(db, "gwy_old", Moment("b", 5, 0))
    await register(db, "gwy_new", Moment("c", 20, 0))
    await db.run(gateways.add_heartbeat, "gwy_old", Moment("b", 5, 0), 0)
    await db.run(gateways.purge, await db.read(gateways.oldest_call), "a", 10, 10)
    rows = await db.read(gateways.all_gateways)
    assert [row["id"] for row in rows] == ["gwy_new"]
    with closing(sqlite3.connect(db._path)) as connection:
        assert connection.execute("SELECT count(*) FROM heartbeats").fetchone() == (0,)
        names = connection.execute("SELECT clock_id FROM clocks ORDER BY clock_id").fetchall()
    assert names == [("a",), ("c",)]
