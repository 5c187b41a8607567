"""Chaos: real processes of every role killed and stopped, the database restarted, backends terminated.

    python -m tests.chaos --store postgresql --kills 40 --restarts 3     (make chaos STORE=… KILLS=…)

Payouts go on meanwhile. Processes are killed at random and at failpoints, and stopped past their leases.
The second one of each role has a wall clock that is an hour ahead, and its NOTIFYs are lost. The custodian
loses replies, and its webhooks are doubled, late, lost and forged; the receiver fails for a while. At the
end the database, the twin's ledger and what the receiver got are compared, and the counts are printed; any
difference is an AssertionError.
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
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from gateway.runtime import Failpoint
from gateway.testing.processes import Process
from tests import postgres
from tests.e2e.stack import DUMMY, Stack, eventually, stack, subscribe

T = TypeVar("T")
_ROLES = ("api", "engine", "sender")
_EVENTS = {"payout.created", "payout.broadcast", "payout.delivered"}
#: Where a process of a role comes by.
_FAILPOINTS = {
    "api": (Failpoint.ACCEPT_BEGUN, Failpoint.ACCEPT_COMMITTED, Failpoint.INBOX_STORED),
    "engine": (
        Failpoint.CLAIMED,
        Failpoint.MOVING,
        Failpoint.MOVED,
        Failpoint.SUBMITTED,
        Failpoint.SETTLED,
        Failpoint.FETCHED,
        Failpoint.APPLIED,
        Failpoint.INBOX_APPLIED,
    ),
    "sender": (
        Failpoint.DELIVERY_CLAIMED,
        Failpoint.DELIVERY_SENT,
        Failpoint.DELIVERY_SETTLED,
    ),
}
#: What goes wrong at the custodian; nothing of it says that a payout was refused.
_FAULTS = (
    {"call": "transfer", "fault": "hang_after", "seconds": 5},
    {"call": "transfer", "fault": "drop_before"},
    {"call": "transfer", "fault": "lose_reply"},
    {"call": "transfer", "fault": "error_after"},
    {"call": "transfer", "fault": "half_response"},
    {"call": "status", "fault": "error_before"},
    {"call": "webhook", "fault": "duplicate"},
    {"call": "webhook", "fault": "delay", "seconds": 2},
    {"call": "webhook", "fault": "reorder", "seconds": 2},
    {"call": "webhook", "fault": "drop"},
    {"call": "webhook", "fault": "forge"},
)
_HOUR_S = 3600


class Chaos:
    """Processes on one database, and what is done to them."""

    def __init__(self, made: Stack, store: str, seed: int) -> None:
        self.made = made
        self.store = store
        self.chance = random.Random(seed)
        self.running: dict[tuple[str, int], Process] = {}
        self.counts: Counter[str] = Counter()
        self.payouts: list[str] = []
        self.clock = made.folder / "ahead"
        self.clock.write_text(str(_HOUR_S))
        #: when the receiver works again
        self.failing_until = 0.0

    async def start(self, role: str, number: int, *more: str) -> None:
        """Start a process; on SQLite each has every role. `more`: its further options."""
        # The first one keeps the port that the custodian's webhooks go to.
        port = () if number == 1 and role in {"api", "all"} else ("--port", "0")
        roles = () if role == "all" else ("--role", role)
        # On SQLite due times go by the clock that the processes of the machine share.
        odd = ("--clock", str(self.clock), "--mute") if number == 2 and roles else ()
        while True:
            try:
                self.running[role, number] = await self.made.start_gateway(
                    "--quick", *roles, *port, *odd, *more
                )
            except AssertionError:
                # The database is away just now: as a supervisor would, start it again. Or it came to its
                # failpoint too soon.
                self.counts["starts that failed"] += 1
                more = ()
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
        """Kill or stop a process, end its connections, or let others fail."""
        await self.replace_the_dead()
        kinds = {
            self._kill: 6,
            self._kill_at_a_failpoint: 4,
            self._stop: 1,
            self._terminate: 2,
            self._fault: 4,
            self._fail_receiving: 1,
        }
        (harm,) = self.chance.choices(list(kinds), list(kinds.values()))
        await harm()
        if self.failing_until and time.monotonic() > self.failing_until:
            self.made.receiver.answer, self.failing_until = 204, 0.0

    async def replace_the_dead(self) -> None:
        """Start again what has come to its failpoint."""
        for (role, number), process in list(self.running.items()):
            if process.exit_code is not None:
                self.counts["kills"] += 1
                self.counts["kills at failpoints"] += 1
                await self.start(role, number)

    def _victim(self) -> tuple[tuple[str, int], Process]:
        victim = self.chance.choice(list(self.running))
        return victim, self.running[victim]

    async def _kill(self, *more: str) -> None:
        victim, process = self._victim()
        process.kill()
        await process.died()
        self.counts["kills"] += 1
        await self.start(*victim, *more)

    async def _kill_at_a_failpoint(self) -> None:
        """Have a process killed at a failpoint: it is killed now, and started so that it dies there."""
        victim, process = self._victim()
        role = self.chance.choice(list(_FAILPOINTS)) if victim[0] == "all" else victim[0]
        failpoint = self.chance.choice(_FAILPOINTS[role])
        process.kill()
        await process.died()
        self.counts["kills"] += 1
        occurrence = str(self.chance.randint(1, 4))
        await self.start(*victim, "--at", str(failpoint), "--occurrence", occurrence)

    async def _stop(self) -> None:
        """Stop a process past its lease, which is 1.5 s here; then it goes on."""
        _, process = self._victim()
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGSTOP)
            await asyncio.sleep(2.5)
            os.kill(process.pid, signal.SIGCONT)
            self.counts["stops"] += 1

    async def _terminate(self) -> None:
        """End half of the connections to PostgreSQL, in whatever they do."""
        if self.store == "postgresql":
            self.counts["backends terminated"] += len(
                postgres.admin(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE random() < 0.5 "
                    "AND application_name LIKE 'payout-gateway%'"
                )
            )

    async def _fault(self) -> None:
        """Let something go wrong at the custodian, once."""
        await self.made.steer("POST", "faults", self.chance.choice(_FAULTS))
        self.counts["faults of the custodian"] += 1

    async def _fail_receiving(self) -> None:
        """Let the receiver refuse everything for a while."""
        self.made.receiver.answer = 500
        self.failing_until = time.monotonic() + 3
        self.counts["receiver failures"] += 1

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
            while not paying.done():
                # Whoever was to answer may have come to its failpoint.
                await self.replace_the_dead()
                await asyncio.wait([paying], timeout=0.1)
            await paying

    async def compare(self) -> None:
        """Compare rows, ledger and what was received."""
        made = self.made
        made.receiver.answer = 204
        await made.steer("DELETE", "faults")
        await self.replace_the_dead()

        async def all_ended() -> bool:
            await self.replace_the_dead()
            (row,) = made.rows(
                "SELECT count(*) AS n FROM payouts WHERE status NOT IN ('delivered', 'failed')"
            )
            return bool(row["n"] == 0)

        async def all_told() -> bool:
            await self.replace_the_dead()
            told: dict[str, set[str]] = {}
            for each in list(made.receiver.received):
                told.setdefault(each["data"]["id"], set()).add(each["type"])
            return all(told.get(each, set()) >= _EVENTS for each in self.payouts)

        async def all_settled() -> bool:
            # A sender that was killed after the receiver's answer: it is sent once more.
            await self.replace_the_dead()
            return not made.rows("SELECT 1 FROM deliveries WHERE state <> 'delivered' LIMIT 1")

        await eventually(all_ended, 120)
        await eventually(all_told, 120)
        await eventually(all_settled, 120)
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
        (state,) = made.rows("SELECT marks, frozen FROM store_state")
        assert (state["marks"], state["frozen"]) >= (max(row["mark"] for row in marks), None)
        (left,) = made.rows(
            "SELECT (SELECT count(*) FROM executions WHERE ended_at IS NULL) AS executions, "
            "(SELECT count(*) FROM account_locks) AS locks, "
            "(SELECT count(*) FROM deliveries WHERE state <> 'delivered') AS deliveries, "
            "(SELECT count(*) FROM quotes WHERE payout_id IS NOT NULL) AS used"
        )
        assert dict(left) == {"executions": 0, "locks": 0, "deliveries": 0, "used": len(rows)}, left
        log = (made.folder / "gateway.log").read_text(errors="replace")
        assert made.key not in log
        assert made.receiver.secret not in log
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
            # The clocks of the senders differ: signatures are checked, and not how old they are.
            made.receiver.any_age = True
            chaos = Chaos(made, options.store, options.seed)
            await chaos.start_all()
            await chaos.insist(lambda: subscribe(made))
            try:
                await chaos.run(options.kills, options.restarts)
                await chaos.compare()
            finally:
                for name, count in sorted(chaos.counts.items()):
                    print(f"{count:6} {name}")
    print(
        f"0 doubles, 0 lost, every event received, on {options.store}, {time.monotonic() - begin:.0f} s"
    )
    return chaos.counts


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
