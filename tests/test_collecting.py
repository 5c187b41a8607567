"""When everything is collected: between requests, and regularly whatever they do."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from gateway import collecting
from gateway.calling import Calling
from gateway.collecting import EVERY_S, YOUNG_EVERY_S, collect
from tests.clock import SetClock


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_collected_once_a_request_has_ended() -> None:
    """It is due in the middle of one, and comes after it; then again a while later."""
    clock = SetClock()
    calling = Calling(clock)
    collected: list[int] = []
    task = asyncio.create_task(collect(clock, calling, collected.append))
    await _turns()
    for count in (1, 2):
        while clock.monotonic() < count * EVERY_S - YOUNG_EVERY_S:
            await clock.advance(YOUNG_EVERY_S)
        await clock.advance(YOUNG_EVERY_S - 0.01)
        with calling.request("a"):
            await clock.advance(0.01)
            assert collected.count(2) == count - 1
        await _turns()
        assert collected.count(2) == count
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_young_objects_are_collected_often_and_never_in_a_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The collector would come by itself: with more to do, and in the middle of a request."""
    clock = SetClock()
    calling = Calling(clock)
    collected: list[int] = []
    task = asyncio.create_task(collect(clock, calling, collected.append))
    await _turns()
    for _ in range(10):
        await clock.advance(YOUNG_EVERY_S)
        await _turns()
    assert collected == [1] * 10
    await clock.advance(YOUNG_EVERY_S - 0.01)
    with calling.request("a"):
        await clock.advance(0.01)
        assert len(collected) == 10
    await _turns()
    assert len(collected) == 11
    # No moment without a request: not at all.
    monkeypatch.setattr(collecting, "YOUNG_WAITS_S", 0.0)
    await clock.advance(YOUNG_EVERY_S - 0.01)
    with calling.request("a"):
        await clock.advance(0.01)
        await _turns()
        # The wait is over: the next one has begun.
        await clock.advance(0.01)
        assert len(collected) == 11
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
