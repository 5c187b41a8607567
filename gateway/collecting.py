"""Collects garbage between requests: a collection of everything takes as long as a request does."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.calling import Calling
from gateway.runtime import Clock

#: How often everything is collected, and how long that waits for the requests in progress, in seconds.
EVERY_S = 30.0
WAITS_S = 1.0


async def collect(
    clock: Clock, calling: Calling, everything: Callable[[], object] = gc.collect
) -> None:
    """Collect everything regularly until cancelled, while no request is in progress if that is possible."""
    while True:
        await clock.sleep(EVERY_S)
        await calling.quiet("", WAITS_S)
        everything()


@asynccontextmanager
async def collecting(clock: Clock, calling: Calling) -> AsyncIterator[None]:
    """Collect meanwhile."""
    task = asyncio.create_task(collect(clock, calling))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
