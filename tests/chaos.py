"""Chaos: real processes of every role killed and stopped, the database restarted, backends terminated.

    python -m tests.chaos --store postgresql --kills 40 --restarts 3     (make chaos STORE=… KILLS=…)

Payouts go on meanwhile. At the end the database, the twin's ledger and what the receiver got are compared,
and the counts are printed; any difference is an AssertionError.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from gateway.testing.processes import Process
from tests import postgres
from tests.e2e.stack import DUMMY, Stack, eventually, stack, subscribe

T = TypeVar("T")
_ROLES = ("api", "engine", "sender")
_EVENTS = {"payout.created", "payout.broadcast", "payout.delivered"}


class Chaos:
    """Processes on one database, and what is done to them."""

    def __init__(self, made: Stack, store: str, seed: int) -> None:
        self.made = made
        self.store = store
        self.chance = random.Random(seed)
        self.running: dict[tuple[str, int], Process] = {}
        self.counts: Counter[str] = Counter()
        self.payouts: list[str] = []

    async def start(self, role: str, number: int) -> None:
        """Start a process; on SQLite each has every role."""
        # The first one keeps the port that the custodian's webhooks go to.
        port = () if number == 1 and role in {"api", "all"} else ("--port", "0")
        roles = () if role == "all" else ("--role", role)
        while True:
            try:
                self.running[role, number] = await self.made.start_gateway("--quick", *roles, *port)
            except AssertionError:
                # The database is away just now: as a supervisor would, start it again.
                self.counts["starts that failed"] += 1
                await asyncio.sleep(0.5)
            else:
                return

    async def start_all(self) -> None:
        """Start two processes of each role."""
        for role in _ROLES if self.store == "postgresql" else ("all",):
            for number in (1, 2):
                await self.start(role, number)

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Do what a client does: call again until there is an answer."""
        while True:
            try:
                return await call()
            except (aiohttp.ClientError, AssertionError, TimeoutError):
                self.counts["calls repeated"] += 1
                await asyncio.sleep(0.1)

    async def pay(self) -> None:
        """Quote and pay, whatever happens meanwhile."""
        quote_id = await self.insist(lambda: asyncio.wait_for(self.made.quote(), 20))
        self.payouts.append(
            await self.insist(lambda: asyncio.wait_for(self.made.execute(quote_id), 20))
        )

    async def harm(self) -> None:
        """Kill or stop a process, or end its connections."""
        victim = self.chance.choice(list(self.running))
        process = self.running[victim]
        kind = self.chance.choice(["kill", "kill", "stop", "terminate"])
        if kind == "terminate" and self.store == "postgresql":
            self.counts["backends terminated"] += len(
                postgres.admin(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE random() < 0.5 "
                    "AND application_name LIKE 'payout-gateway%'"
                )
            )
        elif kind == "stop":
            # Past its lease, which is 1.5 s here; then it goes on.
            os.kill(process.pid, signal.SIGSTOP)
            await asyncio.sleep(2.5)
            os.kill(process.pid, signal.SIGCONT)
            self.counts["stops"] += 1
        else:
            process.kill()
            await process.died()
            self.counts["kills"] += 1
            await self.start(*victim)

    async def run(self, kills: int, restarts: int) -> None:
        """Pay and harm until so many processes were killed."""
        every = max(1, kills // (restarts + 1))
        due = [every * (number + 1) for number in range(restarts)]
        while self.counts["kills"] < kills:
            paying = asyncio.gather(*(self.pay() for _ in range(4)))
            await self.harm()
            if due and self.counts["kills"] >= due[0] and self.store == "postgresql":
                due.pop(0)
                await asyncio.to_thread(postgres.crash_and_restart)
                self.counts["database restarts"] += 1
            await paying

    async def compare(self) -> None:
        """Compare rows, ledger and what was received."""
        made = self.made

        async def all_ended() -> bool:
            (row,) = made.rows(
                "SELECT count(*) AS n FROM payouts WHERE status NOT IN ('delivered', 'failed')"
            )
            return bool(row["n"] == 0)

        async def all_told() -> bool:
            told: dict[str, set[str]] = {}
            for each in list(made.receiver.received):
                told.setdefault(each["data"]["id"], set()).add(each["type"])
            return all(told.get(each, set()) >= _EVENTS for each in self.payouts)

        await eventually(all_ended, 120)
        await eventually(all_told, 120)
        ledger = await made.ledger()
        paid = Counter(each["reference"] for each in ledger)
        doubles = {reference: n for reference, n in paid.items() if n > 1}
        assert not doubles, doubles
        rows = made.rows("SELECT id, status FROM payouts")
        assert {row["id"] for row in rows} == set(self.payouts)
        assert {row["status"] for row in rows} == {"delivered"}
        assert len(ledger) == len(rows), (len(ledger), len(rows))
        events = made.rows("SELECT payout_id, sequence FROM events ORDER BY position")
        for payout_id in self.payouts:
            numbers = [row["sequence"] for row in events if row["payout_id"] == payout_id]
            assert numbers == [1, 2, 3], (payout_id, numbers)
        marks = made.rows("SELECT mark FROM evidence WHERE kind = 'call'")
        assert len({row["mark"] for row in marks}) == len(marks)
        assert made.receiver.unverified == 0
        self.counts["payouts"] = len(rows)
        self.counts["transfers"] = len(ledger)
        self.counts["events"] = len(events)
        self.counts["deliveries received"] = len(made.receiver.received)
        self.counts["moving calls"] = len(marks)


async def main(arguments: list[Any] | None = None) -> Counter[str]:
    """Run it; print and return the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", choices=["sqlite", "postgresql"], default="postgresql")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = postgres.place_of(options.store)
        async with stack(Path(folder), rail=DUMMY, database=place) as made:
            chaos = Chaos(made, options.store, options.seed)
            await chaos.start_all()
            await chaos.insist(lambda: subscribe(made))
            await chaos.run(options.kills, options.restarts)
            await chaos.compare()
    for name, count in sorted(chaos.counts.items()):
        print(f"{count:6} {name}")
    print(
        f"0 doubles, 0 lost, every event received, on {options.store}, {time.monotonic() - begin:.0f} s"
    )
    return chaos.counts


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
