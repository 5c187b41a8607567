"""A batch of 10 000 lines, and what it does to single payouts: part of `make bench`.

A whole stack: gateway and twins as processes of their own. Accepting is one streamed request; the
ceiling is the same file read and checked by nobody, written to the same disk with the bare driver.
Executing goes through the twin of a custodian that takes one payout each; meanwhile single payouts
are made, and the time until the custodian has them is compared with that of before.
"""

from __future__ import annotations

import asyncio
import csv
import secrets
import sqlite3
import statistics
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import aiohttp

from gateway.demo.stack import Stack, running_stack

LINES = 10_000
SINGLES = 25
EXECUTED_S = 20
_ADDRESS = "0x52908400098527886E0F7030069857D2E4169EE7"
_LIMIT = "requests_per_minute"
_DESTINATION = {"type": "address", "network": "EthereumSepolia", "address": _ADDRESS}


def write(path: Path) -> None:
    """Write the file."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        columns = ["external_ref", "asset", "amount", "reference", "name"]
        rows.writerow([*columns, "destination_type", "network", "address"])
        for number in range(LINES):
            cells = [f"u-{number}", "USDC", "1.25", f"r-{number}", f"Payee {number}"]
            rows.writerow([*cells, "address", "EthereumSepolia", _ADDRESS])


def ceiling(path: Path, database: Path) -> float:
    """Return the seconds that the bare driver needs for rows of the same size."""
    with path.open(newline="") as file:
        rows = [
            (f"pay_{number:026}", "x" * 700, ",".join(row))
            for number, row in enumerate(csv.reader(file))
        ]
    db = sqlite3.connect(database, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        db.execute(f"PRAGMA {pragma}")
    db.execute("CREATE TABLE items (id TEXT PRIMARY KEY, terms TEXT, line TEXT)")
    db.execute("CREATE TABLE timeline (id TEXT PRIMARY KEY, item TEXT)")
    begun = time.perf_counter()
    for at in range(0, len(rows), 500):
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO items VALUES (?, ?, ?)", rows[at : at + 500])
        db.executemany(
            "INSERT INTO timeline VALUES (?, ?)", [(row[0], row[0]) for row in rows[at : at + 500]]
        )
        db.execute("COMMIT")
    took = time.perf_counter() - begun
    db.close()
    return took


def memory_mb(pid: int, what: str) -> float:
    """Return what the system says of a process's memory, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    return 0.0


async def single(stack: Stack) -> float:
    """Return the seconds from a payout's acceptance to the custodian having it."""
    quote = await stack.call(
        "POST",
        "/payouts/quote",
        {"external_ref": "s", "asset": "USDC", "amount": "1", "destination": _DESTINATION},
        **{"Idempotency-Key": secrets.token_hex(8)},
    )
    begun = time.perf_counter()
    payout = await stack.call("POST", "/payouts", {"quote_id": quote["quote_id"]})
    while payout["sub_status"] in {"created", "queued", "submitting"}:
        await asyncio.sleep(0.01)
        payout = await stack.call("GET", f"/payouts/{payout['id']}")
    return time.perf_counter() - begun


async def singles(stack: Stack) -> list[float]:
    """Return the times of some single payouts, one after the other, in ms."""
    return [1000 * await single(stack) for _ in range(SINGLES)]


async def upload(stack: Stack, path: Path, source: dict[str, Any]) -> dict[str, Any]:
    """Create the batch."""
    query = {
        "custodian": source["custodian"],
        "account_id": source["account"]["id"],
        "account_type": source["account"]["type"],
    }
    headers = {
        "Authorization": f"Bearer {stack.key}",
        "Content-Type": "text/csv",
        "Idempotency-Key": secrets.token_hex(8),
    }
    timeout = aiohttp.ClientTimeout(total=300)
    with path.open("rb") as body:
        async with stack.http.post(
            stack.url + "/payout-batches", params=query, headers=headers, data=body, timeout=timeout
        ) as answer:
            told: dict[str, Any] = await answer.json(content_type=None)
            if answer.status != 201:  # noqa: PLR2004
                raise SystemExit(f"refused: {told}")
            return told


async def run(folder: Path) -> int:
    """Measure, and print the tables."""
    path = folder / "batch.csv"
    write(path)
    most = ceiling(path, folder / "raw.db")
    async with running_stack(folder) as stack:
        routes = tomllib.loads(stack.config.read_text())["routes"]
        route = next(each for each in routes if each["destination"] == "address")
        source = {"custodian": route["custodian"], "account": route["account"]}
        # The custodian's own rate limit is not what is measured.
        control = stack.twins[route["custodian"]]["control_url"]
        async with stack.http.put(control + "/_twin/settings", json={_LIMIT: 1_000_000}) as answer:
            answer.raise_for_status()
        quiet = await singles(stack)
        before = memory_mb(stack.pid, "VmRSS")
        begun = time.perf_counter()
        batch = await upload(stack, path, source)
        took = time.perf_counter() - begun
        peak = memory_mb(stack.pid, "VmHWM")
        await stack.call("POST", f"/payout-batches/{batch['id']}/execute", {})
        while batch["state"] != "executing":
            await asyncio.sleep(0.2)
            batch = await stack.call("GET", f"/payout-batches/{batch['id']}")
        begun = time.perf_counter()
        busy = await singles(stack)
        left = EXECUTED_S - (time.perf_counter() - begun)
        await asyncio.sleep(max(0.0, left))
        batch = await stack.call("GET", f"/payout-batches/{batch['id']}")
        executed = batch["delivered_count"] / (time.perf_counter() - begun)
        await stack.call("POST", f"/payout-batches/{batch['id']}/cancel", {})
        while batch["state"] not in {"finalized", "failed", "canceled"}:
            await asyncio.sleep(0.5)
            batch = await stack.call("GET", f"/payout-batches/{batch['id']}")
        paid = [each for each in await stack.transfers() if each["amount"].startswith("1.25")]
    write_ = sys.stdout.write
    write_(f"a batch of {LINES} lines, one file of {path.stat().st_size // 1024} kB\n\n")
    write_("| accepted items/s | bare driver items/s | ratio | memory before MB | peak MB |\n")
    write_("| --- | --- | --- | --- | --- |\n")
    write_(
        f"| {LINES / took:.0f} | {LINES / most:.0f} | {most / took:.3f} | {before:.0f} | {peak:.0f} |\n\n"
    )
    write_("| single payouts until the custodian has them | p50 ms | worst ms |\n")
    write_("| --- | --- | --- |\n")
    for name, times in (("beside nothing", quiet), ("beside the batch", busy)):
        write_(f"| {name} | {statistics.median(times):.0f} | {max(times):.0f} |\n")
    write_(f"\nexecuted meanwhile: {executed:.1f} items/s; then canceled\n")
    delivered, transfers = batch["delivered_count"], len(paid)
    write_(f"delivered {delivered}, transfers in the custodian's ledger {transfers}\n")
    return 0 if delivered == transfers else 1


def main() -> int:
    """Run it in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="payout-gateway-bench-") as name:
        return asyncio.run(run(Path(name)))


if __name__ == "__main__":
    sys.exit(main())
