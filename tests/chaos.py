"""Chaos: real processes of every role killed and stopped, the database restarted, backends terminated.

    python -m tests.chaos --store postgresql --kills 40 --restarts 3     (make chaos STORE=… KILLS=…)
    python -m tests.chaos --payouts 10000 --every 8                      (make chaos PAYOUTS=10000)

With `--payouts`, one process of each role is killed every few seconds until so many payouts have ended, and
nothing else is done to them. Without, payouts go on meanwhile. Processes are killed at random and at failpoints, and stopped past their leases.
The second one of each role has a wall clock that is an hour ahead, and its NOTIFYs are lost. The custodian
loses replies, and its webhooks are doubled, late, lost and forged; the receiver fails for a while. At the
end the database, the twin's ledger and what the receiver got are compared (`tests/chaos_compare.py`), and
the counts are printed; any difference is an AssertionError.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from aiohttp import web

from gateway.runtime import Failpoint
from gateway.testing.processes import Process
from tests import postgres
from tests.chaos_compare import compare
from tests.chaos_load import pay_many
from tests.e2e.stack import DUMMY, Stack, stack, subscribe

T = TypeVar("T")
_ROLES = ("api", "engine", "sender")
#: Payouts reserve what they pay.
RAIL = replace(DUMMY, settings={**DUMMY.settings, "reserve": True, "balance_every_s": 2})
#: With the adapter's own waiting times: short ones are a hundred looks for each payout that is delivered.
#: A process that gives no sign of life for 3 s is gone, and so are its leases.
_UNHURRIED = replace(RAIL, gateway={"engine": {"lease_s": 10, "idle_s": 2, "sweep_s": 5}})
_UNHURRIED_PACE = ("--beat", "1")
#: Deliveries a second that the receiver takes.
_RATE = 500
#: One of so many payouts is one that the custodian refuses, and is sent again with the same key.
_REFUSED_ONE_OF, _REPEATED_ONE_OF = 50, 10
_REFUSED_AMOUNT = "5.000402"
#: How long a client calls again.
_INSIST_S = 300.0
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


class _Expired(Exception):
    """The quote has expired: by the other process's clock, or because it took too long."""


class Chaos:
    """Processes on one database, and what is done to them."""

    def __init__(self, made: Stack, store: str, seed: int) -> None:
        self.made = made
        self.store = store
        self.chance = random.Random(seed)
        #: of the clients, so that what is done to the processes depends on the seed alone
        self.client = random.Random(seed)
        #: how processes are started
        self.pace: tuple[str, ...] = ("--quick",)
        self.running: dict[tuple[str, int], Process] = {}
        self.counts: Counter[str] = Counter()
        #: what was acknowledged, and how it ends
        self.payouts: dict[str, str] = {}
        #: requests to where the receiver's redirects point
        self.tripped = 0
        self.tripwire = ""
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
        until = time.monotonic() + _INSIST_S
        while True:
            try:
                self.running[role, number] = await self.made.start_gateway(
                    *self.pace, *roles, *port, *odd, *more
                )
            except AssertionError:
                if time.monotonic() > until:
                    raise
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
        until = time.monotonic() + _INSIST_S
        while True:
            try:
                async with asyncio.timeout(20):
                    return await call()
            except (aiohttp.ClientError, AssertionError, TimeoutError) as error:
                self.counts["calls repeated"] += 1
                if time.monotonic() > until:
                    raise AssertionError(f"no answer in {_INSIST_S} s: {error!r}") from error
                await asyncio.sleep(0.1)

    async def call(self, number: int, path: str, body: Any, key: str) -> tuple[int, Any]:
        """Post to one of the processes that have an API."""
        (process,) = (
            each
            for (role, own), each in self.running.items()
            if own == number and role in {"api", "all"}
        )
        self.made.url = process.line.strip()
        return await self.made.call("POST", path, body, idempotency_key=key)

    async def pay(self) -> None:
        """Quote and pay, whatever happens meanwhile."""
        refused = self.client.randrange(_REFUSED_ONE_OF) == 0
        amount, end = (_REFUSED_AMOUNT, "failed") if refused else ("5", "delivered")
        while True:
            # A quote's life is judged by the clock of the process that is asked: stay with one.
            number = self.client.choice((1, 2))
            with suppress(_Expired):
                payout_id = await self._pay_at(number, amount)
                assert payout_id not in self.payouts, payout_id
                self.payouts[payout_id] = end
                return
            self.counts["quotes expired"] += 1

    async def _pay_at(self, number: int, amount: str) -> str:
        wanted = {"external_ref": "user-1", "asset": self.made.rail.asset, "amount": amount}
        destination = self.made.rail.destination
        quote_key, key = secrets.token_hex(8), secrets.token_hex(8)

        async def quote() -> dict[str, str]:
            status, told = await self.call(
                number, "/payouts/quote", {**wanted, "destination": destination}, quote_key
            )
            assert status == 200, told
            return {"quote_id": told["quote_id"]}

        body = await self.insist(quote)

        async def pay(where: int = number) -> str:
            status, told = await self.call(where, "/payouts", body, key)
            if told.get("code") == "quote_expired":
                raise _Expired
            assert status == 201, told
            return str(told["id"])

        async def another() -> None:
            other = {"quote_id": "quo_01h455vb4pex5vsknk084sn02q"}
            status, told = await self.call(number, "/payouts", other, key)
            assert (status, told.get("code")) == (422, "idempotency_key_reused"), told

        payout_id = await self.insist(pay)
        if self.client.randrange(_REPEATED_ONE_OF) == 0:
            again = await asyncio.gather(
                *(self.insist(partial(pay, where)) for where in (1, 2, 1, 2))
            )
            assert set(again) == {payout_id}, (again, payout_id)
            await self.insist(another)
            self.counts["I3 requests sent again: the same answer, another body refused"] += 5
        return payout_id

    async def pay_batch(self, size: int) -> None:
        """Pay a batch, whatever happens meanwhile."""
        number, key = self.client.choice((1, 2)), secrets.token_hex(8)
        item: dict[str, Any] = {"external_ref": "user-1", "asset": self.made.rail.asset}
        item |= {"amount": "5", "destination": dict(self.made.rail.destination)}
        source = {"custodian": self.made.rail.name, "account": {"id": "MAIN", "type": "ACCOUNT"}}

        async def create() -> str:
            body = {"source": source, "payouts": [item] * size}
            status, told = await self.call(number, "/payout-batches", body, key)
            assert status == 201, told
            return str(told["id"])

        batch_id = await self.insist(create)

        async def execute() -> None:
            status, told = await self.call(
                number, f"/payout-batches/{batch_id}/execute", {}, f"{key}-execute"
            )
            assert status == 202 or told["code"] == "batch_already_executed", told

        await self.insist(execute)
        query = "SELECT id FROM payouts WHERE batch_id = "
        items = await asyncio.to_thread(self.made.rows, f"{query}'{batch_id}'")
        assert len(items) == size, (batch_id, len(items))
        self.payouts.update({row["id"]: "delivered" for row in items})
        self.counts["batches"] += 1

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
            self.made.receiver.headers.clear()

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
        """Let the receiver refuse everything for a while, or point elsewhere."""
        self.made.receiver.answer = self.chance.choice((500, 302))
        self.made.receiver.headers["location"] = self.tripwire
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
        await self.replace_the_dead()
        await compare(self)

    @asynccontextmanager
    async def with_a_tripwire(self) -> AsyncIterator[None]:
        """Have a listener that nobody should come to, meanwhile."""

        async def tripped(_: web.Request) -> web.Response:
            self.tripped += 1
            return web.Response(status=204)

        application = web.Application()
        application.router.add_route("*", "/{anything:.*}", tripped)
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.tripwire = f"http://127.0.0.1:{runner.addresses[0][1]}/"
            yield
        finally:
            await runner.cleanup()


async def main(arguments: list[Any] | None = None) -> Counter[str]:
    """Run it; print and return the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", choices=["sqlite", "postgresql"], default="postgresql")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--payouts", type=int, help="pay so many, and only kill meanwhile")
    parser.add_argument("--every", type=float, default=8, help="seconds between two times of that")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = postgres.place_of(options.store)
        rail = _UNHURRIED if options.payouts else RAIL
        async with stack(Path(folder), rail=rail, database=place) as made:
            # The clocks of the senders differ: signatures are checked, and not how old they are.
            made.receiver.any_age = True
            chaos = Chaos(made, options.store, options.seed)
            if options.payouts:
                chaos.pace = _UNHURRIED_PACE
            async with chaos.with_a_tripwire():
                await chaos.start_all()
                await chaos.insist(lambda: subscribe(made, rate_limit_per_second=_RATE))
                try:
                    if options.payouts:
                        await pay_many(chaos, options.payouts, options.every)
                    else:
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
