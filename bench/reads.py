"""Reads: one payout, and a page of the list, beside a bare Starlette route that answers the same bytes."""

from __future__ import annotations

import json
import sys

import uvloop
from harness import Child, Cost, Http, Result, closed_loop, cost, run_alone
from payouts import ceiling, ours
from stack import running_stack

CALLERS = 16
PAYOUTS = 200
PAGE = 20


async def read(process: Child, http: Http, ids: list[str], count: int) -> tuple[Cost, Cost]:
    """Read payouts, then pages; return what they cost."""

    async def one(number: int) -> None:
        await http.call("GET", f"/payouts/{ids[number % len(ids)]}")

    async def page(_: int) -> None:
        await http.call("GET", f"/payouts?limit={PAGE}")

    await closed_loop(CALLERS, count // 8, one)
    ones = await cost(process, CALLERS, count, one)
    await closed_loop(CALLERS, CALLERS, page)
    pages = await cost(process, CALLERS, count // 4, page)
    http.close()
    return ones, pages


def measure(quick: bool) -> Result:  # noqa: FBT001 - as each benchmark is called
    """Measure."""
    count = 1600 if quick else 6000
    with running_stack(step_s=0.0) as stack:
        database = stack.folder / "gateway.db"
        stack.prepare(database)
        with stack.gateway(database) as gateway:
            ours(stack, gateway, PAYOUTS)

            async def run() -> tuple[tuple[Cost, Cost], str, str]:
                http = gateway.http()
                page = await http.call("GET", f"/payouts?limit={PAGE}")
                listed = await http.json("GET", f"/payouts?limit={PAYOUTS // 2}")
                ids = [each["id"] for each in listed["data"]]
                payout = await http.call("GET", f"/payouts/{ids[0]}")
                return (
                    await read(gateway.process, http, ids, count),
                    payout.decode(),
                    page.decode(),
                )

            mine, payout, page = uvloop.run(run())
        bodies = {"payout": payout, "page": page}
        with ceiling(stack, stack.folder / "ceiling.log", bodies=bodies) as (process, port):
            ids = [json.loads(payout)["id"]]
            bare = uvloop.run(read(process, Http(port), ids, count))
    result = Result("reads", "a bare Starlette route that answers the same bytes")
    for what, a, b, target in (
        ("payout read", mine[0], bare[0], "≥ 0.6"),
        ("page", mine[1], bare[1], ""),
    ):
        per_s = (a.load.per_s, b.load.per_s)
        result.add(f"{what}s a second", "1/s", "higher", *per_s, target=target)
        result.add(f"CPU per {what}", "ms", "lower", a.cpu_ms, b.cpu_ms)
        result.add(f"{what}, p99", "ms", "lower", a.load.ms(99), b.load.ms(99))
    result.notes.append(f"{CALLERS} callers; a page has {PAGE} payouts.")
    return result


if __name__ == "__main__":
    sys.exit(run_alone(measure))
