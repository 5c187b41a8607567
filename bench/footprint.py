"""What a gateway takes when nothing or little happens: idle CPU and statements, start-up time, memory.

`--minutes N` sets how long the load lasts under which the memory is watched: half a minute if not given,
an hour by hand.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import uvloop
from harness import Load, Result, open_loop, run_alone
from payouts import ceiling, ours, wait_until
from stack import Gateway, Stack, accept, quote, running_stack

PAYOUTS = 100
RATE = 20
_SETTLE_S = 3.0
_PART_S = 10.0


def idle(gateway: Gateway, seconds: float) -> tuple[float, float]:
    """Return the percentage of a core that an idle gateway uses, and its statements a minute."""
    time.sleep(_SETTLE_S)
    cpu_s, statements, begun = gateway.process.fine_cpu_s(), gateway.counts()[0], time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - begun
    cpu_s, statements = gateway.process.fine_cpu_s() - cpu_s, gateway.counts()[0] - statements
    return 100 * cpu_s / took, 60 * statements / took


def memory(gateway: Gateway, minutes: float) -> tuple[float, float, int]:
    """Return the memory after a tenth of a steady load and at its end, in MB, and its payouts."""
    parts = max(2, round(60 * minutes / _PART_S))
    seen, payouts = [], 0

    async def part() -> Load:
        http = gateway.http()

        async def one(_: int) -> None:
            await accept(http, await quote(http))

        load = await open_loop(RATE, round(RATE * _PART_S), one)
        http.close()
        return load

    for _ in range(parts):
        payouts += len(uvloop.run(part()).latencies_s)
        seen.append(gateway.process.memory_mb())
    wait_until(lambda: not gateway.unsettled(), "the load")
    return seen[len(seen) // 10], gateway.process.memory_mb(), payouts


def starts(stack: Stack, times: int) -> tuple[float, float]:
    """Return how long a gateway, and a bare Starlette application, take until they are ready, in s."""
    ours_, bare = [], []
    for _ in range(times):
        with stack.gateway(stack.folder / "gateway.db") as gateway:
            ours_.append(gateway.start_s)
        begun = time.perf_counter()
        with ceiling(stack, stack.folder / "ceiling.log"):
            bare.append(time.perf_counter() - begun)
    return statistics.median(ours_), statistics.median(bare)


def measure(quick: bool, minutes: float = 0.5) -> Result:  # noqa: FBT001 - as each benchmark is called
    """Measure."""
    # Most loops look once a minute: one minute has more of these looks than the next.
    seconds = 15.0 if quick else 120.0
    with running_stack() as stack:
        database = stack.folder / "gateway.db"
        stack.prepare(database)
        with stack.gateway(database) as gateway:
            ours(stack, gateway, PAYOUTS)
            percent, statements = idle(gateway, seconds)
            early, late, payouts = memory(gateway, 1 / 3 if quick else minutes)
            peak = gateway.process.memory_mb("VmHWM")
        start_s, bare_s = starts(stack, 2 if quick else 5)
    result = Result("footprint", "a bare Starlette application that imports the same models")
    result.add("start until ready", "s", "lower", start_s, bare_s, target="< 1.5 s")
    result.add("idle, of a core", "%", "lower", percent, target="< 0.5")
    result.add("idle, statements a minute", "count", "lower", statements, target="< 60")
    result.add(
        "memory at the end of a load",
        "MB",
        "lower",
        late,
        early,
        against="after a tenth of it",
        target="flat",
    )
    result.add("highest memory", "MB", "lower", peak, target="< 150")
    result.notes.append(
        f"Idle for {seconds:g} s after {PAYOUTS} payouts, two endpoints; a load of {RATE} payouts a second, "
        f"{payouts} in all."
    )
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=0.5, help="how long the load lasts")
    sys.exit(run_alone(measure, parser))
