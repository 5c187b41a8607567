"""Tests of a twin's clock."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from adapters.twin.clock import TwinClock

_START = datetime(2026, 3, 2, 23, 59, 58, tzinfo=UTC).timestamp()


class _Base:
    """A base time that stands still until told."""

    def __init__(self) -> None:
        self.at = _START

    def __call__(self) -> float:
        return self.at


async def test_timers_run_each_at_its_own_moment() -> None:
    """Advancing runs a chain of timers as if time had passed, and canceled ones never."""
    clock, seen = TwinClock(_Base()), list[float]()

    def again() -> None:
        seen.append(clock.now() - _START)
        if len(seen) < 4:
            clock.call_later(10, again)

    clock.call_later(10, again)
    clock.call_later(5, lambda: seen.append(-1)).cancel()
    clock.advance(35)
    assert seen == [10, 20, 30]
    assert clock.now() == _START + 35
    assert clock.shared() == _START
    clock.advance(5)
    assert seen == [10, 20, 30, 40]


async def test_timers_of_one_moment_keep_their_order() -> None:
    """Ties run in the order in which they were set."""
    clock, seen = TwinClock(_Base()), list[int]()
    for number in range(5):
        clock.call_later(1, lambda number=number: seen.append(number))  # type: ignore[misc]
    clock.advance(1)
    assert seen == [0, 1, 2, 3, 4]


async def test_timers_run_with_the_base_time_too() -> None:
    """Without advancing, a timer runs when the base time gets there, and not before."""
    base = _Base()
    clock, rung = TwinClock(base), asyncio.Event()
    clock.call_later(0.01, rung.set)
    await asyncio.sleep(0.05)
    assert not rung.is_set()
    base.at += 1
    await asyncio.wait_for(rung.wait(), 5)
    clock.reset()


async def test_midnight_is_strictly_later() -> None:
    """At midnight itself the next one is a day away."""
    clock = TwinClock(_Base())
    midnight = clock.next_midnight()
    assert midnight == _START + 2
    clock.advance(2)
    assert clock.next_midnight() == midnight + 86_400


async def test_reset_wakes_sleepers_and_forgets_timers() -> None:
    """A reset ends what hangs, drops the offset, and no timer set before it runs."""
    clock, seen = TwinClock(_Base()), list[int]()
    clock.call_later(1, lambda: seen.append(1))
    sleeping = asyncio.create_task(clock.sleep(1000))
    await asyncio.sleep(0)
    clock.reset()
    await asyncio.wait_for(sleeping, 5)
    clock.advance(5000)
    assert seen == []
    assert clock.now() == _START + 5000
