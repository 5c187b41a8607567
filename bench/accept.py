"""Payouts accepted durably: `POST /payouts`, as fast as it goes and at steady rates.

The custodian does not answer meanwhile, so that accepting is measured and not executing. Three ceilings:
a bare Starlette route with the same validation, the same rows in group commits with the bare driver, and
both together, which is what the latencies are compared with.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from ceiling import GroupCommits, Stored
from harness import PARTS, Child, Http, Load, Result, closed_loop, cost, open_loop, run_alone
from payouts import ceiling, sample_bodies
from stack import accept, make_quotes, running_stack

CALLERS = 64
RATES = (100, 300, 500)
WARM = 200


@dataclass
class Accepted:
    """What some acceptances took."""

    closed: Load = field(default_factory=Load)
    cpu_ms: float = 0.0
    paced: dict[int, Load] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How many are accepted: as fast as the callers can, and at each of the rates."""

    count: int
    rates: Sequence[int]
    seconds: int

    @property
    def total(self) -> int:
        """All of them."""
        return WARM + self.count + PARTS + sum(self.rates) * self.seconds


async def drive(process: Child, http: Http, quotes: Sequence[str], plan: Plan) -> Accepted:
    """Accept quotes."""
    ids, found, count = iter(quotes), Accepted(), plan.count

    async def one(_: int) -> None:
        await accept(http, next(ids))

    await closed_loop(CALLERS, WARM, one)
    closed = await cost(process, CALLERS, count, one)
    found.closed, found.cpu_ms = closed.load, closed.cpu_ms
    for rate in plan.rates:
        found.paced[rate] = await open_loop(rate, rate * plan.seconds, one)
    http.close()
    return found


def raw_commits(source: Path, path: Path, count: int) -> float:
    """Return how many acceptances a second the bare driver writes, in groups as large as the callers."""
    stored = Stored(source, path)
    commits = GroupCommits(path)
    with closing(sqlite3.connect(path)) as db:
        db.executemany(*merged_quotes(stored, count))
        db.commit()
    begun = time.perf_counter()
    for at in range(0, count, CALLERS):
        commits.commit([stored.accepted(number) for number in range(at, min(count, at + CALLERS))])
    return count / (time.perf_counter() - begun)


def merged_quotes(stored: Stored, count: int) -> tuple[str, list[Sequence[object]]]:
    """Return the statement that stores unused quotes, and its rows."""
    found: list[Sequence[object]] = []
    for number in range(count):
        text, rows = stored.quote(number)[0]
        found += rows
    return text, found


def measure(quick: bool) -> Result:  # noqa: FBT001 - as each benchmark is called
    """Measure."""
    plan = Plan(800, RATES[:1], 3) if quick else Plan(2000, RATES, 5)
    with running_stack() as stack:
        database = stack.folder / "gateway.db"
        stack.prepare(database)
        with stack.gateway(database, endpoints=0) as gateway:
            quote, payout = sample_bodies(gateway)
            stack.twin.pause()

            async def run() -> Accepted:
                http = gateway.http()
                quotes = await make_quotes(http, plan.total)
                return await drive(gateway.process, http, quotes, plan)

            mine = uvloop.run(run())
            stack.twin.resume()
        bodies = {"quote": quote, "payout": payout}
        ids = ["quote"] * plan.total

        def bare(source: Path | None) -> Accepted:
            stored = {"source": str(source), "database": str(stack.folder / "ceiling.db")}
            with ceiling(
                stack, stack.folder / "ceiling.log", bodies=bodies, **(stored if source else {})
            ) as (process, port):
                return uvloop.run(drive(process, Http(port), ids, plan))

        route, both = bare(None), bare(database)
        raw = raw_commits(database, stack.folder / "raw.db", plan.count)
    result = Result("accept", "the same rows in group commits behind a bare route")
    per_s = mine.closed.per_s
    result.add("accepted a second", "1/s", "higher", per_s, both.closed.per_s)
    result.add(
        "accepted a second, to the route",
        "1/s",
        "higher",
        per_s,
        route.closed.per_s,
        against="bare route, nothing stored",
    )
    result.add(
        "accepted a second, to the rows",
        "1/s",
        "higher",
        per_s,
        raw,
        against="bare driver, no HTTP",
    )
    result.add("CPU per acceptance", "ms", "lower", mine.cpu_ms, both.cpu_ms)
    for rate in plan.rates:
        ours, bare_ = mine.paced[rate], both.paced[rate]
        target = "< 15 ms" if rate == 300 else ""  # noqa: PLR2004 - as the target is worded
        result.add(f"p50 at {rate}/s", "ms", "lower", ours.ms(50), bare_.ms(50))
        result.add(f"p99 at {rate}/s", "ms", "lower", ours.ms(99), bare_.ms(99), target=target)
    result.notes.append(
        f"{plan.count} acceptances by {CALLERS} callers; then {plan.seconds} s at each rate, open loop: a latency "
        "runs from when the call was due."
    )
    return result


if __name__ == "__main__":
    sys.exit(run_alone(measure))
