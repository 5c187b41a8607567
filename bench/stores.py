"""The same payouts on both stores: from quote to told, by whole processes over real sockets.

    .venv/bin/python -m bench.stores [payouts] [engines]

Prints payouts a second and the gateway's CPU time for each payout, for SQLite and for PostgreSQL in one
run: compare the two, not the numbers of different days. For PostgreSQL also what a payout costs the server
(CPU time, transactions, log, rows), and what an idle process costs. It needs the packages of the tests.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gateway.config.settings import load
from gateway.testing.processes import Process
from tests.e2e.stack import DUMMY, Stack, eventually, stack, subscribe
from tests.postgres import execute, place_of

_CALLERS = 16
#: With the waiting times of a real configuration.
_RAIL = replace(DUMMY, gateway={"engine": {}})
_TICKS = os.sysconf("SC_CLK_TCK")


def _cpu_s(process: Process) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


#: How long idle processes are watched.
_IDLE_S = 20


def _server_cpu_s() -> float:
    """Return the CPU time of every process of the PostgreSQL server that still runs."""
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if (folder / "comm").read_text().startswith("postgres"):
                    fields = (folder / "stat").read_text().rsplit(") ", 1)[1].split()
                    total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def _server(url: str) -> dict[str, float]:
    """Return what the server has done so far, and how large the tables are."""
    texts = {
        "transactions": "SELECT xact_commit AS n FROM pg_stat_database WHERE datname = current_database()",
        "KB of log": "SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn) / 1024 AS n",
        "KB of tables": """SELECT sum(pg_table_size(oid)) / 1024 AS n FROM pg_class
            WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace""",
        "KB of indexes": """SELECT sum(pg_indexes_size(oid)) / 1024 AS n FROM pg_class
            WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace""",
        "rows": "SELECT sum(n_tup_ins - n_tup_del) AS n FROM pg_stat_user_tables",
    }
    found = {name: float(execute(url, text)[0]["n"] or 0) for name, text in texts.items()}
    return {**found, "ms CPU of the server": 1000 * _server_cpu_s()}


async def _told_cost(made: Stack, url: str, count: int) -> None:
    """Print what so many payouts cost the server, and what idle processes cost."""
    execute(url, "VACUUM", "CHECKPOINT")
    # Its processes write their numbers down with some delay.
    await asyncio.sleep(2)
    before = _server(url)
    await _pay(made, count)
    await asyncio.sleep(2)
    after = _server(url)
    for name, n in before.items():
        sys.stdout.write(f"{'':>12}{(after[name] - n) / count:8.2f} {name} for each payout\n")
    processes = [each for each in made.gateways if each.exit_code is None]
    begin, cpu = time.perf_counter(), sum(map(_cpu_s, processes))
    await asyncio.sleep(_IDLE_S)
    used = (sum(map(_cpu_s, processes)) - cpu) / len(processes) / (time.perf_counter() - begin)
    sys.stdout.write(f"{'':>12}{100 * used:8.2f} % of a core for each idle process\n")


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
        async with stack(Path(folder), rail=_RAIL, database=place_of(store)) as made:
            processes = [await made.start_gateway()]
            await subscribe(made)
            processes += [await made.start_gateway("--role", "engine") for _ in range(engines - 1)]
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
            url = load(made.config, {}).postgres
            if url is not None:
                made.receiver.received.clear()
                await _told_cost(made, url.url, count)
            return count / took


async def main() -> None:
    """Measure both, and print the ratio."""
    count, engines = [int(each) for each in (*sys.argv[1:3], *("200", "1")[len(sys.argv) - 1 :])]
    sqlite = await _measure("sqlite", count, 1)
    postgres = await _measure("postgresql", count, engines)
    sys.stdout.write(f"postgresql / sqlite: {postgres / sqlite:.2f}\n")


if __name__ == "__main__":
    asyncio.run(main())
