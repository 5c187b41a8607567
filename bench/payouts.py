"""A payout from end to end: quoted, accepted, executed, its signed webhooks received.

32 callers quote and accept; the custodian (dummy's twin) tells each change by a webhook; two endpoints
get three events each. CPU is that of the gateway's process from the first quote until nothing is left
to do. The ceiling makes the same calls and writes the same rows in group commits, without the rules.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from ceiling import OF_PAYOUT
from harness import Child, Failed, Http, Load, Result, child, run_alone
from stack import Gateway, Stack, accept, pay, quote_body, running_stack, wait_ready

#: Payouts before those that are measured: statements are compiled, connections are open.
WARM = 60
ROUNDS = 2
ENDPOINTS = 2
_LIMIT_S = 180.0
_LOOK_S = 0.1


@dataclass(frozen=True)
class Run:
    """What some payouts took."""

    count: int
    seconds: float
    cpu_s: float
    load: Load
    statements: int = 0
    commits: int = 0

    @property
    def cpu_ms(self) -> float:
        """CPU of the process per payout, in ms."""
        return 1000 * self.cpu_s / self.count


def wait_until(done: Callable[[], bool], what: str) -> None:
    """Wait for something. Failed where it does not come in time."""
    end = time.monotonic() + _LIMIT_S
    while not done():
        if time.monotonic() > end:
            raise Failed(f"{what} took more than {_LIMIT_S:g} s")
        time.sleep(_LOOK_S)


def drive(port: int, key: str, count: int) -> Load:
    """Quote and accept payouts at whoever listens, with 32 callers."""

    async def run() -> Load:
        http = Http(port, key)
        try:
            return await pay(http, count)
        finally:
            http.close()

    return uvloop.run(run())


def ours(stack: Stack, gateway: Gateway, count: int) -> Run:
    """Make payouts at a gateway; wait until each has ended and every webhook was received."""
    stack.receiver.ask("forget")
    before, cpu_s, begun = gateway.counts(), gateway.process.cpu_s(), time.monotonic_ns()
    load = drive(gateway.port, gateway.key, count)
    wait_until(lambda: not gateway.unsettled(), "executing and delivering")
    after = gateway.counts()
    cpu_s = gateway.process.cpu_s() - cpu_s
    received = stack.received()
    if len(received) != 3 * ENDPOINTS * count:
        raise Failed(f"{len(received)} webhooks of {count} payouts were received")
    last = max(at for at, _ in received.values())
    statements, commits = after[0] - before[0], after[1] - before[1]
    return Run(count, (last - begun) / 1e9, cpu_s, load, statements, commits)


@contextmanager
def ceiling(stack: Stack, log: Path, **wanted: Any) -> Iterator[tuple[Child, int]]:
    """Run the ceiling; it listens where the gateway of the stack would."""
    bodies = {"quote": "{}", "payout": "{}", "page": "{}", **wanted.pop("bodies", {})}
    told = json.dumps({"port": stack.port, "bodies": bodies, **wanted})
    with child(log, "ceiling.py", told) as process:
        wait_ready(process, stack.port)
        yield process, stack.port


def bare(stack: Stack, source: Path, count: int, quote: str, payout: str) -> Run:
    """Make payouts at the ceiling, in two rounds; return the cheaper one."""
    twin = {"url": stack.config["custodians"]["dummy"]["base_url"]}
    twin["credentials"] = stack.config["custodians"]["dummy"]
    with ceiling(
        stack,
        stack.folder / "ceiling.log",
        bodies={"quote": quote, "payout": payout},
        source=str(source),
        database=str(stack.folder / "ceiling.db"),
        twin=twin,
        receivers=[f"{stack.receiver_url}/ok/{number}" for number in range(ENDPOINTS)],
    ) as (process, port):
        drive(port, "", WARM)
        wait_until(lambda: process.ask("ended") == WARM, "the ceiling's warming up")
        runs, ended = [], WARM
        for _ in range(ROUNDS):
            cpu_s, begun = process.cpu_s(), time.monotonic()
            load, ended = drive(port, "", count), ended + count
            wait_until(lambda ended=ended: process.ask("ended") == ended, "the ceiling")  # type: ignore[misc]
            seconds = time.monotonic() - begun
            runs.append(Run(count, seconds, process.cpu_s() - cpu_s, load))
        return min(runs, key=lambda run: run.cpu_s)


def rows_per_payout(database: Path) -> float:
    """Return how many rows a payout has, in all tables."""
    with closing(sqlite3.connect(database)) as db:
        rows = [db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in OF_PAYOUT]
        (payouts,) = db.execute("SELECT count(*) FROM payouts").fetchone()
    return float(sum(rows, payouts) / payouts)  # and the quote


def sample_bodies(gateway: Gateway) -> tuple[str, str]:
    """Return the answers to a quote and to a payout, as the ceiling gives them."""

    async def run() -> tuple[str, str]:
        http = gateway.http()
        quoted = (await quote_body(http)).decode()
        quote_id = json.loads(quoted)["quote_id"]
        payout = (await accept(http, quote_id)).decode()
        http.close()
        return quoted.replace(quote_id, "NUMBER"), payout

    return uvloop.run(run())


def measure(quick: bool) -> Result:  # noqa: FBT001 - as each benchmark is called
    """Measure."""
    count = 150 if quick else 500
    result = Result("payouts", "the same calls and rows in group commits, without the rules")
    with running_stack() as stack:
        database = stack.folder / "gateway.db"
        stack.prepare(database)
        with stack.gateway(database, ENDPOINTS) as gateway:
            ours(stack, gateway, WARM)
            # Whatever else runs makes CPU time longer and never shorter: the least is the truest.
            runs = [ours(stack, gateway, count) for _ in range(ROUNDS)]
            run = min(runs, key=lambda each: each.cpu_s)
            quote, payout = sample_bodies(gateway)
            wait_until(lambda: not gateway.unsettled(), "the last payout")
            memory = gateway.process.memory_mb("VmHWM")
        rows = rows_per_payout(database)
        least = bare(stack, database, count, quote, payout)
    result.add(
        "payouts a second",
        "1/s",
        "higher",
        run.count / run.seconds,
        least.count / least.seconds,
        target="≥ 250 on two cores",
    )
    result.add("CPU per payout", "ms", "lower", run.cpu_ms, least.cpu_ms, target="≤ 3 ms")
    result.add("statements per payout", "count", "lower", run.statements / count, target="≤ 30")
    result.add("commits per payout", "count", "lower", run.commits / count)
    result.add("highest memory", "MB", "lower", memory, target="< 150")
    result.notes.append(
        f"The better of {ROUNDS} rounds of {count} payouts, after {WARM} to warm up; 32 callers, {ENDPOINTS} endpoints, "
        f"{rows:.0f} rows each; twin, receiver and driver share the cores."
    )
    return result


if __name__ == "__main__":
    sys.exit(run_alone(measure))
