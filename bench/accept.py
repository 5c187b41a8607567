"""How many payouts a second are accepted durably, beside the ceiling of the same disk: `make bench`.

The ceiling writes the same rows with the standard library's driver, prepared ahead, in groups of the
same size: no rules, no checks, no model. The ratio is what the gateway's own work leaves of it.
Times are of this machine and this moment; only the ratio travels.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from gateway.adapter import Capabilities, Offer, Terms
from gateway.assets import AssetRegistry
from gateway.config import RouteSettings
from gateway.keys import Caller
from gateway.model import Account
from gateway.payouts import Payouts
from gateway.quotes import QuoteRequest, Quotes
from gateway.router import Instance, Router
from gateway.runtime import real_runtime
from gateway.store import migrate
from gateway.store.database import GROUP_LIMIT, Database
from gateway.vault import Vault

PAYOUTS = 3000
ROUNDS = 3
_TABLES = ("payouts", "executions", "execution_items", "events")


class _Pays:
    """A custodian that could pay anything."""

    def check(self, terms: Terms) -> str | None:
        """Find no fault."""

    async def offers(self, terms: Terms) -> Sequence[Offer]:
        """Offer nothing of its own."""
        return ()


async def ours(path: Path) -> tuple[float, list[float]]:
    """Accept every quote, many callers at once; return the seconds and the callers' latencies."""
    runtime = real_runtime()
    capabilities = Capabilities(frozenset({"custodian_account"}))
    route = RouteSettings(
        destination="custodian_account", custodian="acme", account=Account(id="A", type="VAULT")
    )
    quotes = Quotes(
        Router([Instance("acme", frozenset({"live"}), capabilities)], [route]),
        AssetRegistry(),
        runtime,
        {"acme": _Pays()},
    )
    payouts = Payouts(runtime, Vault(bytes(32), runtime.ids))
    caller = Caller("bench", "live", "key")
    request = QuoteRequest.model_validate(
        {
            "external_ref": "u",
            "destination": {"type": "custodian_account", "account_type": "X", "id": "p"},
            "asset": "USDC",
            "amount": Decimal(5),
        }
    )
    async with Database(path) as db:
        drafted = [quotes.draft(caller, request) for _ in range(PAYOUTS)]
        await asyncio.gather(
            *(db.run(quotes.store, caller, quote, account) for quote, account in drafted)
        )
        latencies: list[float] = []

        async def accept(quote_id: str) -> None:
            begun = time.perf_counter()
            await db.run(payouts.accept, caller, quote_id)
            latencies.append(time.perf_counter() - begun)

        waiting = asyncio.Semaphore(GROUP_LIMIT)

        async def one(quote_id: str) -> None:
            async with waiting:
                await accept(quote_id)

        begun = time.perf_counter()
        await asyncio.gather(*(one(quote.quote_id) for quote, _ in drafted))
        return time.perf_counter() - begun, latencies


def ceiling(accepted: Path, path: Path) -> float:
    """Write the very rows that `ours` wrote into a fresh database; return the seconds."""
    source = sqlite3.connect(accepted)
    rows = {
        name: source.execute(f"SELECT * FROM {name} LIMIT {PAYOUTS}").fetchall() for name in _TABLES
    }
    quotes = source.execute("SELECT * FROM quotes").fetchall()
    source.close()
    db = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        db.execute(f"PRAGMA {pragma}")
    marks = ",".join("?" * len(quotes[0]))
    db.executemany(f"INSERT INTO quotes VALUES ({marks})", [(*each[:-1], None) for each in quotes])
    begun = time.perf_counter()
    for at in range(0, PAYOUTS, GROUP_LIMIT):
        db.execute("BEGIN IMMEDIATE")
        group = quotes[at : at + GROUP_LIMIT]
        db.executemany(
            "UPDATE quotes SET payout_id = ? WHERE id = ?", [(each[-1], each[0]) for each in group]
        )
        for name in _TABLES:
            part = rows[name][at : at + GROUP_LIMIT]
            marks = ",".join("?" * len(part[0]))
            db.executemany(f"INSERT INTO {name} VALUES ({marks})", part)
        db.execute("COMMIT")
    took = time.perf_counter() - begun
    db.close()
    return took


def main() -> int:
    """Run both, in turn, and print the table."""
    ratios, lines = [], []
    with tempfile.TemporaryDirectory(prefix="payout-gateway-bench-") as name:
        for number in range(ROUNDS):
            mine, raw = Path(name) / f"mine-{number}.db", Path(name) / f"raw-{number}.db"
            migrate.prepare(mine)
            migrate.prepare(raw)
            took, latencies = asyncio.run(ours(mine))
            most = ceiling(mine, raw)
            ratios.append(most / took)
            p50, p99 = (statistics.quantiles(latencies, n=100)[each] * 1000 for each in (49, 98))
            lines.append((PAYOUTS / took, PAYOUTS / most, most / took, p50, p99))
    write = sys.stdout.write
    write(
        f"{PAYOUTS} payouts, {GROUP_LIMIT} callers, groups of at most {GROUP_LIMIT}, synchronous=FULL\n\n"
    )
    write("| accepted/s | ceiling/s | ratio | p50 ms | p99 ms |\n| --- | --- | --- | --- | --- |\n")
    for accepted, most, ratio, p50, p99 in lines:
        write(f"| {accepted:.0f} | {most:.0f} | {ratio:.2f} | {p50:.1f} | {p99:.1f} |\n")
    write(f"\nmedian ratio to the ceiling: {statistics.median(ratios):.2f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
