"""Growth: what accepting, reading, listing and a whole payout cost with many payouts stored, and with many open.

CPU of the gateway's process, as a multiple of its value at 1 000 stored payouts. `--million` adds a
database of 10^6 payouts (some minutes).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop
from fill import fill
from harness import PARTS, Result, closed_loop, cost, run_alone
from payouts import drive, ours, wait_until
from stack import Gateway, Stack, accept, make_quotes, running_stack

FEW = 1000
_TEMPLATES = 60
_CALLERS = 16
#: Of the calls that only read: a part of 40 pages takes 10 ms, and 4 such parts differ by half from run to run.
_READ_PARTS = 16
#: Filters of the list that find nothing: each payout that is stored would be looked at if none had an index.
_RARE = ("status=failed", "external_ref=nobody", "reference=nothing", "sub_status=outcome_unknown")


@dataclass(frozen=True)
class Costs:
    """What things cost on one database."""

    accept_ms: float
    read_ms: float
    list_ms: float
    filtered_ms: float
    payout_ms: float
    statements: float
    start_s: float


def costs(stack: Stack, database: Path, ids: Sequence[str], count: int) -> Costs:
    """Measure one database."""
    with stack.gateway(database) as gateway:
        ours(stack, gateway, 40)

        async def calls() -> tuple[float, float, float, float]:
            http, process = gateway.http(), gateway.process

            async def one(number: int) -> None:
                await http.call("GET", f"/payouts/{ids[number * 7 % len(ids)]}")

            async def page(_: int) -> None:
                await http.call("GET", "/payouts?limit=20")

            async def rare(number: int) -> None:
                await http.call("GET", f"/payouts?{_RARE[number % len(_RARE)]}")

            await closed_loop(_CALLERS, count, one)
            read_ = await cost(process, _CALLERS, 16 * count, one, _READ_PARTS)
            await closed_loop(_CALLERS, count, page)
            list_ = await cost(process, _CALLERS, 8 * count, page, _READ_PARTS)
            await closed_loop(_CALLERS, count, rare)
            filtered = await cost(process, _CALLERS, 8 * count, rare, _READ_PARTS)
            quotes = iter(await make_quotes(http, 2 * count))

            async def take(_: int) -> None:
                await accept(http, next(quotes))

            # The custodian does not answer: accepting is measured, and not executing.
            stack.twin.pause()
            await closed_loop(_CALLERS, count - PARTS * _CALLERS // 2, take)
            accepted = await cost(process, _CALLERS, count, take)
            stack.twin.resume()
            http.close()
            return read_.cpu_ms, list_.cpu_ms, filtered.cpu_ms, accepted.cpu_ms

        read_ms, list_ms, filtered_ms, accept_ms = uvloop.run(calls())
        wait_until(lambda: not gateway.unsettled(), "what was accepted")
        runs = [ours(stack, gateway, count // 2) for _ in range(3)]
        statements = sum(each.statements for each in runs) / sum(each.count for each in runs)
        payout_ms = min(each.cpu_ms for each in runs)
        return Costs(
            accept_ms, read_ms, list_ms, filtered_ms, payout_ms, statements, gateway.start_s
        )


def pay_and_leave(gateway: Gateway) -> None:
    """Make payouts that the custodian has accepted, and will not end."""
    drive(gateway.port, gateway.key, _TEMPLATES)
    wait_until(lambda: gateway.submitted() == _TEMPLATES, "submitting")


def measure(quick: bool, million: bool = False) -> Result:  # noqa: FBT001, FBT002 - as each is called
    """Measure."""
    count, many = (80, 10_000) if quick else (160, 100_000)
    with running_stack(step_s=0.0) as stack:
        base = stack.folder / "base.db"
        stack.prepare(base)
        with stack.gateway(base) as gateway:
            ours(stack, gateway, _TEMPLATES)
        found: dict[str, Costs] = {}

        def on_copy(name: str, of: Path, payouts: int, *, still_open: bool = False) -> None:
            database = stack.folder / "copy.db"
            stack.copy(of, database)
            ids = fill(database, payouts, still_open=still_open)
            # Otherwise the disk would still write the copies while calls wait for their own commits.
            os.sync()
            found[name] = costs(stack, database, ids, count)
            for each in stack.folder.glob("copy.db*"):
                each.unlink()

        on_copy("few", base, FEW)
        on_copy(f"{many:,} stored".replace(",", " "), base, many)
        if million:
            on_copy("1 000 000 stored", base, 1_000_000)
        stack.set_step(86_400)
        with stack.gateway(base) as gateway:
            pay_and_leave(gateway)
        stack.set_step(0.0)
        on_copy(f"{many:,} open".replace(",", " "), base, many, still_open=True)
    few = found.pop("few")
    result = Result("growth", f"the same with {FEW} stored payouts")
    for name, each in found.items():
        for what, now, then in (
            ("acceptance", each.accept_ms, few.accept_ms),
            ("payout read", each.read_ms, few.read_ms),
            ("page of the list", each.list_ms, few.list_ms),
            ("page of a filter that finds nothing", each.filtered_ms, few.filtered_ms),
            ("payout, end to end", each.payout_ms, few.payout_ms),
        ):
            result.add(f"CPU per {what}, {name}", "ms", "lower", now, then, target="≤ 1.2")
        result.add(
            f"statements per payout, {name}", "count", "lower", each.statements, few.statements
        )
        result.add(f"start until ready, {name}", "s", "lower", each.start_s, few.start_s)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--million", action="store_true", help="10^6 stored payouts, too")
    sys.exit(run_alone(measure, parser))
