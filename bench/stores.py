"""The same payouts on both stores: from quote to told, by whole processes over real sockets.

    .venv/bin/python -m bench.stores [payouts]

Prints a table: payouts a second and the gateway's CPU time for each payout, for SQLite and for PostgreSQL in
one run (compare the two, not the numbers of different days); what a payout costs the PostgreSQL server (CPU
time, transactions, log, rows); what idle processes cost; and one engine process against two, at a custodian
that takes its time, so that they do not share what the machine has of cores. It needs the packages of the
tests.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

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
_IDLE_S = 30
#: How long the slow custodian takes for each call. An engine has 16 under way.
_SLOW_S = 1.0
_PAYOUTS = 200


def _row(what: str, value: str) -> None:
    sys.stdout.write(f"| {what:<62} | {value:>24} |\n")
    sys.stdout.flush()


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


async def _cost(made: Stack, url: str, count: int) -> None:
    """Print what so many payouts cost the server."""
    execute(url, "VACUUM", "CHECKPOINT")
    # Its processes write their numbers down with some delay.
    await asyncio.sleep(2)
    before = _server(url)
    await _pay(made, count)
    await asyncio.sleep(2)
    after = _server(url)
    for name, n in before.items():
        _row(f"PostgreSQL: {name} for each payout", f"{(after[name] - n) / count:.2f}")


async def _idle(store: str, made: Stack, url: str | None) -> None:
    """Print what processes cost that have nothing to do."""
    # What was delivered is looked at for a while.
    await asyncio.sleep(5)
    transactions = (
        "SELECT xact_commit AS n FROM pg_stat_database WHERE datname = current_database()"
    )
    processes = [each for each in made.gateways if each.exit_code is None]
    seen = 0 if url is None else execute(url, transactions)[0]["n"]
    begin, cpu = time.perf_counter(), sum(map(_cpu_s, processes))
    await asyncio.sleep(_IDLE_S)
    took = time.perf_counter() - begin
    used = (sum(map(_cpu_s, processes)) - cpu) / len(processes) / took
    _row(f"{store}: % of a core for each of {len(processes)} idle processes", f"{100 * used:.2f}")
    if url is not None:
        # Its processes write their numbers down with some delay; the bench's own read is one of them.
        n = execute(url, transactions)[0]["n"] - seen - 1
        _row(f"{store}: transactions a minute for each", f"{60 * n / took / len(processes):.0f}")


async def _pay(made: Stack, count: int, callers: int = _CALLERS) -> None:
    turn = asyncio.Semaphore(callers)

    async def one() -> None:
        async with turn:
            await made.pay("5")

    await asyncio.gather(*(one() for _ in range(count)))

    async def told() -> bool:
        kinds = [each["type"] for each in made.receiver.received]
        return kinds.count("payout.delivered") >= count

    await eventually(told, 300)


async def _measure(store: str, count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        async with stack(Path(folder), rail=_RAIL, database=place_of(store)) as made:
            process = await made.start_gateway()
            await subscribe(made, rate_limit_per_second=500)
            await _pay(made, 20)
            made.receiver.received.clear()
            before, begin = _cpu_s(process), time.perf_counter()
            await _pay(made, count)
            took = time.perf_counter() - begin
            cpu = _cpu_s(process) - before
            assert len(await made.ledger()) == count + 20
            _row(f"{store}: payouts a second, one process", f"{count / took:.1f}")
            _row(f"{store}: ms CPU of the gateway for each payout", f"{1000 * cpu / count:.1f}")
            url = load(made.config, {}).postgres
            if url is not None:
                made.receiver.received.clear()
                await _cost(made, url.url, count)
            await _idle(store, made, None if url is None else url.url)
            return count / took


def _slowly(listeners: list[asyncio.Server]) -> Callable[[str], Awaitable[str]]:
    """Return what puts a slow way in front of a custodian: each request takes `_SLOW_S` longer."""

    async def begin(url: str) -> str:
        parts = urlsplit(url)
        assert parts.port is not None

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            up, down = await asyncio.open_connection("127.0.0.1", parts.port)

            async def there() -> None:
                while data := await reader.read(65536):
                    await asyncio.sleep(_SLOW_S)
                    down.write(data)
                down.close()

            async def back() -> None:
                while data := await up.read(65536):
                    writer.write(data)
                writer.close()

            with suppress(ConnectionError):
                await asyncio.gather(there(), back())

        listeners.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        port = listeners[-1].sockets[0].getsockname()[1]
        return parts._replace(netloc=f"127.0.0.1:{port}").geturl()

    return begin


@asynccontextmanager
async def _slow_stack() -> AsyncIterator[Stack]:
    listeners: list[asyncio.Server] = []
    rail = replace(_RAIL, settings={**_RAIL.settings, "timeout_s": 20})
    with tempfile.TemporaryDirectory() as folder:
        place = place_of("postgresql")
        way = _slowly(listeners)
        async with stack(Path(folder), rail=rail, database=place, through=way) as made:
            yield made
    for each in listeners:
        each.close()


async def _engines(count: int, engines: int) -> float:
    """Return the payouts a second of so many engine processes at a slow custodian."""
    async with _slow_stack() as made:
        await made.start_gateway("--role", "api", "--role", "sender")
        await subscribe(made, rate_limit_per_second=500)
        working = [
            await made.start_gateway("--role", "engine", "--port", "0") for _ in range(engines)
        ]
        await _pay(made, 20)
        made.receiver.received.clear()
        before, begin = sum(map(_cpu_s, working)), time.perf_counter()
        await _pay(made, count, callers=200)
        took = time.perf_counter() - begin
        used = (sum(map(_cpu_s, working)) - before) / engines / took
        what = f"postgresql: payouts a second, {engines} engine process{'es' * (engines > 1)}"
        _row(f"{what}, {_SLOW_S:.0f} s a call", f"{count / took:.1f}")
        _row("            % of a core that each of them used", f"{100 * used:.0f}")
        return count / took


async def main() -> None:
    """Measure, and print the ratios."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else _PAYOUTS
    sys.stdout.write(f"| {'':<62} | {'':>24} |\n| {'---':<62} | {'---:':>24} |\n")
    sqlite = await _measure("sqlite", count)
    postgres = await _measure("postgresql", count)
    _row("postgresql / sqlite (target: 0.7 or more)", f"{postgres / sqlite:.2f}")
    one = await _engines(count, 1)
    two = await _engines(count, 2)
    _row("two engine processes / one (target: 1.5 or more)", f"{two / one:.2f}")


if __name__ == "__main__":
    asyncio.run(main())
