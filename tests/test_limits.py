"""Token buckets, with a clock that the test sets."""

from __future__ import annotations

import pytest

from gateway import limits
from gateway.limits import Buckets
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
