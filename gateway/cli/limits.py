"""`limits`: shows how much of each limit is spent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    print_json,
    print_table,
    reading_store,
    settings_of,
)

if TYPE_CHECKING:
    from gateway.store.database import Database, Tx

app = typer.Typer(help="Limits on what is spent, for operators.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Limits on what is spent, for operators."""


@app.command()
def show(*, config: ConfigOption = Path(DEFAULT_CONFIG), as_json: JsonOption = False) -> None:
    """Show what is spent of each limit in the current windows, and the caps per payout."""
    from gateway.runtime import real_runtime
    from gateway.spending import counter_view
    from gateway.spending_rules import window_of
    from gateway.store.spending import all_counters

    spending = settings_of(config).spending
    now = real_runtime().clock.now()
    windows = {each: window_of(each, now)[0] for each in ("day", "month")}
    rules = {each.name: each for each in spending.limits}

    async def read(tx: Tx) -> list[dict[str, Any]]:
        found = []
        for row in await all_counters(tx):
            rule = rules.get(row["rule"])
            if rule is not None and row["window"] == windows.get(rule.per):
                most = None if rule.amount is None else f"{rule.amount:f} {rule.unit}"
                view = await counter_view(tx, row, rule.each)
                found.append({**view, "most": most, "most_count": rule.count})
        return found

    async def work(db: Database) -> list[dict[str, Any]]:
        return await db.scan(read)

    rows = reading_store(config, work)
    caps = {"payout_cap_usd": f"{spending.payout_cap_usd:f}"} | {
        f"asset_caps.{code}": f"{most:f}" for code, most in spending.asset_caps.items()
    }
    if as_json:
        print_json({"caps": caps, "data": rows})
        return
    print_table("Caps of every payout", ["cap", "most"], caps.items())
    columns = ["limit", "mode", "window", "subject", "count", "most_count", "amount", "most"]
    print_table("Spent", columns, [[row[name] for name in columns] for row in rows])
