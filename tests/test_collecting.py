"""When everything is collected: between requests, and regularly whatever they do."""

from __future__ import annotations

import asyncio
import contextlib

from gateway.calling import Calling
from gateway.collecting import EVERY_S, collect
from tests.clock import SetClock


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_collected_once_a_request_has_ended() -> None:
    """It is due in the middle of one, and comes after it; then again a while later."""
    clock = SetClock()
    calling = Calling(clock)
    collected: list[float] = []
    task = asyncio.create_task(collect(clock, calling, lambda: collected.append(clock.monotonic())))
    await _turns()
    with calling.request("a"):
        await clock.advance(EVERY_S - 0.01)
    with calling.request("a"):
        await clock.advance(0.01)
        await _turns()
        assert not collected
    await _turns()
    assert len(collected) == 1
    await clock.advance(EVERY_S)
    await _turns()
    assert len(collected) == 2
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
