"""The same payouts on both stores: from quote to told, by whole processes over real sockets.

    .venv/bin/python bench/stores.py [payouts] [engines]

Prints payouts a second and the gateway's CPU time for each payout, for SQLite and for PostgreSQL in one
run: compare the two, not the numbers of different days. It needs the packages of the tests.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from gateway.testing.processes import Process
from tests.e2e.stack import DUMMY, Stack, eventually, stack, subscribe
from tests.postgres import place_of

_CALLERS = 16
_TICKS = os.sysconf("SC_CLK_TCK")


def _cpu_s(process: Process) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


async def _pay(made: Stack, count: int) -> None:
    turn = asyncio.Semaphore(_CALLERS)

    async def one() -> None:
        async with turn:
            await made.pay("5")

    await asyncio.gather(*(one() for _ in range(count)))

    async def told() -> bool:
        kinds = [each["type"] for each in made.receiver.received]
        return kinds.count("payout.delivered") >= count

    await eventually(told, 300)


async def _measure(store: str, count: int, engines: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        async with stack(Path(folder), rail=DUMMY, database=place_of(store)) as made:
            processes = [await made.start_gateway("--quick")]
            await subscribe(made)
            processes += [
                await made.start_gateway("--quick", "--role", "engine") for _ in range(engines - 1)
            ]
            await _pay(made, 20)
            made.receiver.received.clear()
            before, begin = [_cpu_s(each) for each in processes], time.perf_counter()
            await _pay(made, count)
            took = time.perf_counter() - begin
            cpu = sum(_cpu_s(each) for each in processes) - sum(before)
            assert len(await made.ledger()) == count + 20
            sys.stdout.write(
                f"{store:>10}: {count / took:6.1f} payouts/s, {1000 * cpu / count:5.1f} ms CPU each, "
                f"{engines} process{'es' if engines > 1 else ''}\n"
            )
            return count / took


async def main() -> None:
    """Measure both, and print the ratio."""
    count, engines = [int(each) for each in (*sys.argv[1:3], *("200", "1")[len(sys.argv) - 1 :])]
    sqlite = await _measure("sqlite", count, 1)
    postgres = await _measure("postgresql", count, engines)
    sys.stdout.write(f"postgresql / sqlite: {postgres / sqlite:.2f}\n")


if __name__ == "__main__":
    asyncio.run(main())
