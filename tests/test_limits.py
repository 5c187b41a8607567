"""Token buckets, with a clock that the test sets."""

from __future__ import annotations

import asyncio

import pytest

from gateway import limits
from gateway.config.rates import LimitSettings
from gateway.limits import Buckets, Refusals
from tests.clock import SetClock


async def test_a_bucket_empties_and_fills() -> None:
    """A burst, then as many a second; what it says about itself is right."""
    clock = SetClock()
    buckets = Buckets("b", clock, per_s=2, burst=5)
    assert buckets.window_s == 3
    taken = [buckets.take("a") for _ in range(7)]
    assert [each.allowed for each in taken] == [True] * 5 + [False] * 2
    assert [each.left for each in taken] == [4, 3, 2, 1, 0, 0, 0]
    assert [each.retry_s for each in taken] == [0, 0, 0, 0, 1, 1, 1]
    assert [each.full_s for each in taken][-1] == 3
    await clock.advance(1)
    assert [buckets.take("a").allowed for _ in range(3)] == [True, True, False]
    await clock.advance(1000)
    assert [buckets.take("a").allowed for _ in range(6)] == [True] * 5 + [False]


async def test_a_refusal_costs_nothing_and_slow_rates_say_when() -> None:
    """Whoever is told to wait so long is let in afterwards, however often it asked meanwhile."""
    clock = SetClock()
    buckets = Buckets("b", clock, per_s=0.1, burst=1)
    assert buckets.take("a").allowed
    for _ in range(9):
        assert buckets.take("a").retry_s <= 10
        await clock.advance(1)
    assert not buckets.take("a").allowed
    await clock.advance(1)
    assert buckets.take("a").allowed


def test_buckets_are_separate_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One's flood is not another's; 10,000 strangers do not fill the memory."""
    monkeypatch.setattr(limits, "_MOST", 100)
    buckets = Buckets("b", SetClock(), per_s=1, burst=1)
    assert buckets.take("a").allowed
    assert not buckets.take("a").allowed
    for number in range(10_000):
        assert buckets.take(str(number)).allowed
    assert len(buckets._kept) == 100


def refusals(clock: SetClock, **settings: float) -> Refusals:
    """Return paced refusals: two at once, then two a second, for three seconds at most."""
    rate = {"refusals_per_s": 2, "refusals_burst": 2, "refusals_held_s": 3, "refusals_held": 100}
    return Refusals(clock, LimitSettings.model_validate(rate | settings))


async def test_refusals_of_a_caller_have_a_rate() -> None:
    """A burst at once, then one every half second in order; what would wait too long does not wait."""
    clock = SetClock()
    paced = refusals(clock)
    waits = [paced.wait_s("a") for _ in range(10)]
    assert waits == [0, 0, 0.5, 1, 1.5, 2, 2.5, 3, None, None]
    assert paced.wait_s("b") == 0
    await clock.advance(1)
    # What was not held has taken no turn.
    assert [paced.wait_s("a") for _ in range(3)] == [2.5, 3, None]
    await clock.advance(3)
    assert [paced.wait_s("a") for _ in range(2)] == [0.5, 1]
    await clock.advance(1000)
    assert [paced.wait_s("a") for _ in range(3)] == [0, 0, 0.5]


async def test_whoever_waits_as_told_never_waits_for_a_refusal() -> None:
    """One refusal a second, for an hour."""
    clock = SetClock()
    paced = refusals(clock)
    for _ in range(3600):
        assert paced.wait_s("a") == 0
        await clock.advance(1)


async def test_few_refusals_are_held_in_total(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it nobody's waits; one that need not wait is not counted; callers are forgotten."""
    monkeypatch.setattr(limits, "_MOST", 100)
    clock = SetClock()
    paced = refusals(clock, refusals_held=1, refusals_burst=1)
    assert paced.wait_s("a") == 0
    wait_s = paced.wait_s("a")
    assert wait_s == 0.5
    holding = asyncio.create_task(paced.hold(wait_s))
    await asyncio.sleep(0)
    assert paced.held == 1
    assert [paced.wait_s("a"), paced.wait_s("b"), paced.wait_s("b")] == [None, 0, None]
    await clock.advance(0.5)
    await holding
    assert paced.held == 0
    assert paced.wait_s("a") == 0.5
    for number in range(1000):
        assert paced.wait_s(str(number)) == 0
    assert len(paced._last) == 100
