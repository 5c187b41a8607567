"""Collects garbage between requests: a collection of everything takes as long as a request does.

So does one of the young objects alone where much was made since the last one, by whatever client. The
collector makes it by itself, in the middle of a request as likely as not. It finds less to do where the
young objects were collected shortly before, between two requests.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.calling import Calling
from gateway.runtime import Clock

_YOUNG, _EVERYTHING = 1, 2
#: How often everything is collected, and how long that waits for the requests in progress, in seconds.
EVERY_S = 30.0
WAITS_S = 1.0
#: How often the young objects are, if there is a moment without a request within so many seconds.
YOUNG_EVERY_S = 0.5
YOUNG_WAITS_S = 0.25


async def collect(
    clock: Clock, calling: Calling, collect_up_to: Callable[[int], object] = gc.collect
) -> None:
    """Collect regularly until cancelled: everything, while no request is in progress if that is possible.

    Young objects only while none is: where one always is, the collector's own thresholds say when.
    `collect_up_to` collects a generation and the younger ones.
    """
    everything_at = clock.monotonic() + EVERY_S
    while True:
        await clock.sleep(min(YOUNG_EVERY_S, everything_at - clock.monotonic()))
        if clock.monotonic() >= everything_at:
            await calling.quiet("", WAITS_S)
            collect_up_to(_EVERYTHING)
            everything_at = clock.monotonic() + EVERY_S
            continue
        await calling.quiet("", YOUNG_WAITS_S)
        if not calling.anybody_now():
            collect_up_to(_YOUNG)


@asynccontextmanager
async def collecting(clock: Clock, calling: Calling) -> AsyncIterator[None]:
    """Collect meanwhile."""
    task = asyncio.create_task(collect(clock, calling))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
