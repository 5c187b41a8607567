"""Reads: one payout, and a page of the list, beside a bare Starlette route that answers the same bytes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import uvloop
from harness import Child, Http, Load, Result, closed_loop, run_alone
from payouts import ceiling, ours
from stack import running_stack

CALLERS = 16
PAYOUTS = 200
PAGE = 20


@dataclass
class Reads:
    """What some reads took, and what was read."""

    one: Load
    one_cpu_ms: float
    page: Load
    page_cpu_ms: float


async def read(process: Child, http: Http, ids: list[str], count: int) -> Reads:
    """Read payouts, then pages."""

    async def one(number: int) -> None:
        await http.call("GET", f"/payouts/{ids[number % len(ids)]}")

    async def page(_: int) -> None:
        await http.call("GET", f"/payouts?limit={PAGE}")

    await closed_loop(CALLERS, count // 4, one)
    cpu_s = process.cpu_s()
    ones = await closed_loop(CALLERS, count, one)
    one_ms = 1000 * (process.cpu_s() - cpu_s) / count
    await closed_loop(CALLERS, count // 20, page)
    cpu_s = process.cpu_s()
    pages = await closed_loop(CALLERS, count // 4, page)
    page_ms = 1000 * (process.cpu_s() - cpu_s) / (count // 4)
    http.close()
    return Reads(ones, one_ms, pages, page_ms)


def measure(quick: bool) -> Result:  # noqa: FBT001 - as each benchmark is called
    """Measure."""
    count = 2000 if quick else 6000
    with running_stack(step_s=0.0) as stack:
        database = stack.folder / "gateway.db"
        stack.prepare(database)
        with stack.gateway(database) as gateway:
            ours(stack, gateway, PAYOUTS)

            async def run() -> tuple[Reads, str, str]:
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
    result.add(
        "payouts read a second", "1/s", "higher", mine.one.per_s, bare.one.per_s, target="≥ 0.6"
    )
    result.add("CPU per payout read", "ms", "lower", mine.one_cpu_ms, bare.one_cpu_ms)
    result.add("payout read, p99", "ms", "lower", mine.one.ms(99), bare.one.ms(99))
    result.add("pages a second", "1/s", "higher", mine.page.per_s, bare.page.per_s)
    result.add("CPU per page", "ms", "lower", mine.page_cpu_ms, bare.page_cpu_ms)
    result.add("page, p99", "ms", "lower", mine.page.ms(99), bare.page.ms(99))
    result.notes.append(f"{CALLERS} callers; a page has {PAGE} payouts.")
    return result


if __name__ == "__main__":
    sys.exit(run_alone(measure))
