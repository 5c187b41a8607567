"""The timeline: all processes on one database agree about it, and it never goes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.runtime import Ids, Moment, Runtime
from gateway.store import clocks, gateways
from gateway.store.database import Database
from gateway.store.gateways import Identity
from gateway.store.opening import anchor_timeline
from tests.clock import SetClock

HOUR = 3_600.0
US = 1_000_000


@pytest.fixture
async def db(path: Path) -> AsyncIterator[Database]:
    """An open store."""
    async with Database(path) as db:
        yield db


def identity(name: str) -> Identity:
    """Return a gateway that reports itself."""
    return Identity(name, "host", 1, "0", "digest", "0001", "0001", 1)


async def test_it_begins_at_the_wall_clock(db: Database) -> None:
    """Of the first process; a second one on the same clock agrees, however late it comes."""
    clock = SetClock()
    first = Runtime(clock=clock, ids=Ids(clock))
    await anchor_timeline(db, first)
    assert first.timeline.now() == clock.moment().wall
    await clock.advance(60)
    for step in (-HOUR, 2 * HOUR):
        clock.step(step)
        late = Runtime(clock=clock, ids=Ids(clock))
        assert late.timeline.now() == clock.moment().wall
        await anchor_timeline(db, late)
        assert late.timeline.now() == first.timeline.now()


@pytest.mark.parametrize("step", [0, -HOUR, HOUR])
async def test_it_never_goes_back_at_a_boot(db: Database, step: float) -> None:
    """It goes on from the last sign of life of any gateway, or from a wall clock that is later."""
    clock = SetClock()
    runtime = Runtime(clock=clock, ids=Ids(clock))
    await anchor_timeline(db, runtime)
    await db.run(gateways.register, identity("gwy_1"), clock.moment(), runtime.timeline.now())
    await clock.advance(600)
    await db.run(gateways.raise_counter, "gwy_1", clock.moment())
    before = runtime.timeline.now()
    clock.step(step)
    clock.reboot()
    again = Runtime(clock=clock, ids=Ids(clock))
    await anchor_timeline(db, again)
    assert again.timeline.now() == max(before, clock.moment().wall)


async def test_heartbeats_and_commands_count_as_well(db: Database) -> None:
    """A row of a gateway that is gone, or a clock that only a command went by."""
    hour = int(HOUR) * US
    assert await db.run(clocks.anchor, Moment("a", 0, 5 * hour)) == 5 * hour
    await db.run(gateways.add_heartbeat, "gwy_gone", Moment("a", hour, 0), 0)
    assert await db.run(clocks.anchor, Moment("b", 0, hour)) == 6 * hour
    assert await db.run(clocks.anchor, Moment("c", 0, 8 * hour)) == 8 * hour
    assert await db.run(clocks.anchor, Moment("d", 7, 0)) == 8 * hour - 7


async def test_who_comes_second_reads_what_the_first_wrote(db: Database) -> None:
    """Two processes that start at once on one clock agree, whatever their wall clocks say."""
    first = await db.run(clocks.anchor, Moment("a", 10, 1000))
    assert await db.run(clocks.anchor, Moment("a", 20, 9_000_000)) == first
    assert await db.read(clocks.known_offset, "a") == first
    assert await db.read(clocks.known_offset, "b") is None
