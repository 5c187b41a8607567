"""Failover: the primary is killed and its synchronous standby promoted, again and again, under load.

    python -m tests.failover --times 20         (make failover TIMES=20)

Two gateways go on meanwhile, and nobody tells them anything. At the end the database, the twin's ledger and
what the receiver got are compared; any difference is an AssertionError.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos import Chaos
from tests.e2e.stack import DUMMY, Stack, eventually, stack, subscribe
from tests.pg_pair import Pair, pair

_BEAT = ("--beat", "0.5")


async def fail_over(made: Stack, servers: Pair, chaos: Chaos) -> None:
    """Kill the primary under load, promote its standby, and have a new standby."""
    paying = asyncio.gather(*(chaos.pay() for _ in range(6)))
    await asyncio.sleep(chaos.chance.uniform(0, 1))
    await asyncio.to_thread(servers.fail_over)
    chaos.counts["failovers"] += 1
    # Nothing is taken in while it is frozen.
    await asyncio.wait_for(paying, 60)
    await asyncio.to_thread(servers.copy)
    await asyncio.to_thread(servers.synchronous)
    await all_know(made, servers)


async def all_know(made: Stack, servers: Pair) -> None:
    """Wait until every gateway has seen that the primary waits for its standby."""
    await eventually(lambda: _is_noted(made, servers), 30)
    before = _counters(made)

    async def have_beaten() -> bool:
        now = _counters(made)
        return all(now[each] >= before[each] + 2 for each in before)

    await eventually(have_beaten, 30)


def _counters(made: Stack) -> dict[str, int]:
    rows = made.rows("SELECT id, counter FROM gateways WHERE stopped_at IS NULL")
    return {row["id"]: row["counter"] for row in rows}


async def _is_noted(made: Stack, servers: Pair) -> bool:
    (row,) = made.rows("SELECT standbys, standby_states FROM store_cluster")
    name = servers.standby.name
    return (row["standbys"], row["standby_states"]) == (name, f"{name}=sync")


async def run(times: int, seed: int, folder: Path) -> Counter[str]:
    """Fail over so many times; return what happened."""
    with pair() as servers:
        async with stack(folder, rail=DUMMY, database=lambda: servers.url) as made:
            chaos = Chaos(made, "postgresql", seed)
            for number in (1, 2):
                await chaos.start("all", number, *_BEAT)
            await chaos.insist(lambda: subscribe(made))
            await all_know(made, servers)
            # A database without payouts has nothing to lose, and is never frozen.
            await chaos.pay()
            for _ in range(times):
                await fail_over(made, servers, chaos)
            await chaos.compare()
            acts = Counter(row["act"] for row in made.rows("SELECT act FROM audit_log"))
            chaos.counts["promotions in the audit log"] = acts["standby_promoted"]
            assert acts["standby_promoted"] == times
            assert chaos.counts["kills"] == 0
            return chaos.counts


async def main(arguments: list[Any] | None = None) -> None:
    """Run it; print the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = await run(options.times, options.seed, Path(folder))
    for name, count in sorted(counts.items()):
        print(f"{count:6} {name}")
    print(f"0 doubles, 0 lost, every event received, {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
