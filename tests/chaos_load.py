"""So many payouts through two processes of each role, while one of each is killed every few seconds."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.chaos_compare import reserved_is_the_sum

if TYPE_CHECKING:
    from tests.chaos import Chaos

#: Payouts of a batch, and how many of ten payouts come in batches.
_BATCH, _IN_BATCHES = 100, 9
#: Callers at once, and how many payouts may be open before the next batch.
_CALLERS, _OPEN = 12, 600
_LOOK_S, _TELL_S = 5.0, 60.0


async def pay_many(chaos: Chaos, payouts: int, every_s: float) -> None:
    """Pay; meanwhile kill a process of each role, and start it again."""
    batches = payouts * _IN_BATCHES // 10 // _BATCH
    begin, over = time.monotonic(), asyncio.Event()
    tasks = [
        asyncio.create_task(each)
        for each in (
            _kill_every(chaos, every_s, over),
            _watch(chaos, payouts, over),
            _batches(chaos, batches // 2),
            _batches(chaos, batches - batches // 2),
            _singles(chaos, payouts - batches * _BATCH),
        )
    ]
    try:
        while await asyncio.to_thread(_ended, chaos) < payouts:
            for each in tasks:
                if each.done():
                    each.result()
            await asyncio.sleep(1)
        took = time.monotonic() - begin
    finally:
        # Whoever starts a process finishes that: nobody else would know of it.
        over.set()
        for each in tasks[2:]:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    chaos.counts["s until the last payout had ended"] = round(took)
    print(
        f"{payouts / took:.1f} payouts a second, from the first request to the last end", flush=True
    )


async def _singles(chaos: Chaos, count: int) -> None:
    turn = asyncio.Semaphore(_CALLERS)

    async def one() -> None:
        async with turn:
            await chaos.pay()

    await asyncio.gather(*(one() for _ in range(count)))


async def _batches(chaos: Chaos, count: int) -> None:
    for _ in range(count):
        while len(chaos.payouts) - await asyncio.to_thread(_ended, chaos) > _OPEN:
            await asyncio.sleep(0.5)
        await chaos.pay_batch(_BATCH)


def _ended(chaos: Chaos) -> int:
    query = "SELECT count(*) AS n FROM payouts WHERE status IN ('delivered', 'failed')"
    return int(chaos.made.rows(query)[0]["n"])


async def _kill_every(chaos: Chaos, every_s: float, over: asyncio.Event) -> None:
    """Kill one process of each role at once, which one is chance, and start them again."""
    roles = sorted({role for role, _ in chaos.running})
    while not await _waited(over, every_s):
        await chaos.replace_the_dead()
        victims = [(role, chaos.chance.choice((1, 2))) for role in roles]
        for each in victims:
            chaos.running[each].kill()
        for each in victims:
            await chaos.running[each].died()
            chaos.counts["kills"] += 1
        await asyncio.gather(*(chaos.start(*each) for each in victims))
        chaos.counts["times that one process of each role was killed"] += 1


async def _watch(chaos: Chaos, payouts: int, over: asyncio.Event) -> None:
    """Look at what holds at any moment, and say how far it is."""
    begin = told = time.monotonic()
    while not await _waited(over, _LOOK_S):
        await asyncio.to_thread(reserved_is_the_sum, chaos)
        if time.monotonic() - told >= _TELL_S:
            told = time.monotonic()
            ended = await asyncio.to_thread(_ended, chaos)
            accepted, now = len(chaos.payouts), time.monotonic() - begin
            print(
                f"{now:5.0f} s: {accepted} of {payouts} accepted, {ended} ended, "
                f"{chaos.counts['kills']} kills",
                flush=True,
            )


async def _waited(over: asyncio.Event, seconds: float) -> bool:
    """Wait so long, or until it is over; return whether it is."""
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(over.wait(), seconds)
    return over.is_set()
