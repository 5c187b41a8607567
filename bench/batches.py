"""A batch: its lines accepted a second, what it does to single payouts meanwhile and while it is executed.

Accepting is one streamed request. The ceiling writes rows of the same size with the bare driver, of the
same file read by nobody who checks it. Then single payouts are made beside the batch that is loaded or
executed, and the time until the custodian has them is compared with that of before.
"""

from __future__ import annotations

import asyncio
import csv
import json
import secrets
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import uvloop
from harness import Failed, Http, Result, quantile, run_alone
from stack import Gateway, Stack, accept, quote, running_stack

from gateway.assets import checksummed

SINGLES = 25
#: How the amount of an item begins; that of single payouts begins otherwise.
AMOUNT = "3.75"
EXECUTED_S = 15
_WAITING = {"created", "queued", "submitting"}
_ENDS = {"finalized", "failed", "canceled"}
_AT_ONCE = 500


def write(path: Path, lines: int) -> None:
    """Write the file: each line has its own amount, payee and address, as in files of partners."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        columns = ["external_ref", "asset", "amount", "reference", "name"]
        rows.writerow([*columns, "destination_type", "network", "address"])
        for number in range(lines):
            amount = f"{AMOUNT}{number % 1000:03}"
            address = checksummed("0x" + sha256(str(number).encode()).hexdigest()[:40])
            cells = [f"u-{number}", "USDC", amount, f"r-{path.stem}-{number}", f"Payee {number}"]
            rows.writerow([*cells, "address", "EthereumSepolia", address])


def ceiling(path: Path, database: Path, raw: Path) -> float:
    """Return the lines a second of the bare driver: it reads the file, and writes the rows once more.

    The rows are those that the gateway has made of the file, in its own table with its indexes.
    """
    with closing(sqlite3.connect(database)) as db, closing(sqlite3.connect(raw)) as fresh:
        db.backup(fresh)
        first = "batch_id = (SELECT min(id) FROM batches)"
        rows = db.execute(f"SELECT * FROM payouts WHERE {first}").fetchall()
        fresh.execute("DELETE FROM payouts")
        fresh.commit()
    marks = ",".join("?" * len(rows[0]))
    with closing(sqlite3.connect(raw, isolation_level=None)) as db:
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            db.execute(f"PRAGMA {pragma}")
        begun = time.perf_counter()
        with path.open(newline="") as file:
            lines = sum(1 for _ in csv.reader(file)) - 1
        for at in range(0, len(rows), _AT_ONCE):
            db.execute("BEGIN IMMEDIATE")
            db.executemany(f"INSERT INTO payouts VALUES ({marks})", rows[at : at + _AT_ONCE])
            db.execute("COMMIT")
        took = time.perf_counter() - begun
    assert lines == len(rows), (lines, len(rows))
    return lines / took


async def single(http: Http) -> float:
    """Return the seconds from a payout's acceptance to the custodian having it."""
    quote_id = await quote(http)
    begun = time.perf_counter()
    payout = json.loads(await accept(http, quote_id))
    while payout["sub_status"] in _WAITING:
        await asyncio.sleep(0.005)
        payout = await http.json("GET", f"/payouts/{payout['id']}")
    return time.perf_counter() - begun


async def singles(http: Http, until: asyncio.Event | None = None) -> list[float]:
    """Return the times of some single payouts, one after the other, in s; of as many as come in time."""
    found: list[float] = []
    while len(found) < SINGLES and not (until is not None and until.is_set()):
        found.append(await single(http))
    return found


async def upload(http: Http, file: bytes) -> dict[str, Any]:
    """Create the batch."""
    query = "custodian=dummy&account_id=MAIN&account_type=ACCOUNT"
    fields = f"Content-Type: text/csv\r\nIdempotency-Key: {secrets.token_hex(8)}\r\n"
    told: dict[str, Any] = json.loads(
        await http.call("POST", f"/payout-batches?{query}", file, fields)
    )
    return told


@dataclass
class Seen:
    """What was seen."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    executed_s: float = 0.0
    before: list[float] = field(default_factory=list)
    beside_load: list[float] = field(default_factory=list)
    beside_run: list[float] = field(default_factory=list)
    memory_mb: tuple[float, float] = (0.0, 0.0)
    delivered: int = 0


async def run(gateway: Gateway, first: bytes, second: bytes) -> Seen:
    """Load a batch, load another one beside single payouts, execute the first beside single payouts."""
    http, seen = gateway.http(), Seen()
    seen.before = await singles(http)
    before_mb = gateway.process.memory_mb()
    begun, cpu_s = time.perf_counter(), gateway.process.cpu_s()
    batch = await upload(http, first)
    seen.seconds, seen.cpu_s = time.perf_counter() - begun, gateway.process.cpu_s() - cpu_s
    seen.memory_mb = before_mb, gateway.process.memory_mb("VmHWM")
    loaded = asyncio.Event()

    async def load() -> None:
        await upload(http, second)
        loaded.set()

    _, seen.beside_load = await asyncio.gather(load(), singles(http, loaded))
    await http.json("POST", f"/payout-batches/{batch['id']}/execute")
    while batch["state"] != "executing":
        await asyncio.sleep(0.1)
        batch = await http.json("GET", f"/payout-batches/{batch['id']}")
    begun = time.perf_counter()
    seen.beside_run = await singles(http)
    await asyncio.sleep(max(0.0, EXECUTED_S - (time.perf_counter() - begun)))
    batch = await http.json("GET", f"/payout-batches/{batch['id']}")
    seen.executed_s = batch["delivered_count"] / (time.perf_counter() - begun)
    await http.json("POST", f"/payout-batches/{batch['id']}/cancel")
    async with asyncio.timeout(120):
        while batch["state"] not in _ENDS:
            await asyncio.sleep(0.5)
            batch = await http.json("GET", f"/payout-batches/{batch['id']}")
    seen.delivered = batch["delivered_count"]
    http.close()
    return seen


async def transfers(stack: Stack) -> int:
    """Return how many of the batch's transfers are in the custodian's ledger."""
    http = Http(int(stack.control_url.rpartition(":")[2]))
    told = await http.json("GET", "/_twin/ledger")
    http.close()
    return sum(1 for each in told["transfers"] if each["amount"].startswith(AMOUNT))


def measure(quick: bool) -> Result:  # noqa: FBT001 - as each benchmark is called
    """Measure."""
    lines = 5_000 if quick else 20_000
    with running_stack() as stack:
        database = stack.folder / "gateway.db"
        first, second = stack.folder / "first.csv", stack.folder / "second.csv"
        write(first, lines)
        write(second, lines)
        first_kb = first.stat().st_size // 1024
        stack.prepare(database)
        with stack.gateway(database, endpoints=0) as gateway:
            seen = uvloop.run(run(gateway, first.read_bytes(), second.read_bytes()))
            paid = uvloop.run(transfers(stack))
        most = ceiling(first, database, stack.folder / "raw.db")
    if seen.delivered != paid:
        raise Failed(f"{seen.delivered} were delivered, {paid} transfers are in the ledger")
    result = Result("batches", "the same rows with the bare driver")
    result.add(
        "lines accepted a second", "1/s", "higher", lines / seen.seconds, most, target="≥ 20 000"
    )
    result.add("CPU per line", "ms", "lower", 1000 * seen.cpu_s / lines)
    idle = "beside nothing"
    for name, times in (("loaded", seen.beside_load), ("executed", seen.beside_run)):
        for percent in (50, 99):
            result.add(
                f"single payout beside a batch that is {name}, p{percent}",
                "ms",
                "lower",
                1000 * quantile(times, percent),
                1000 * quantile(seen.before, percent),
                against=idle,
            )
    result.add("memory that the batch takes", "MB", "lower", seen.memory_mb[1] - seen.memory_mb[0])
    result.notes.append(
        f"A file of {lines} lines, {first_kb} kB. {SINGLES} single payouts each, until the custodian has "
        f"them. Items of the batch executed: {seen.executed_s:.0f} a second, all of them in the ledger."
    )
    return result


if __name__ == "__main__":
    sys.exit(run_alone(measure))
