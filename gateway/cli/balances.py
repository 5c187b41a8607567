"""`balances`: shows what accounts can pay, and releases reservations that only an operator can end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    operator_name,
    print_json,
    print_result,
    print_table,
    reading_store,
    say,
    settings_of,
    with_store,
)

if TYPE_CHECKING:
    from gateway.config.settings import Settings
    from gateway.funds.reservations import Funds
    from gateway.runtime import Runtime
    from gateway.store.database import Database, Tx

app = typer.Typer(
    help="What accounts can pay, for operators: `balances` alone shows it.",
    invoke_without_command=True,
)
_COLUMNS = (
    *("custodian", "account_type", "account", "state", "age_seconds", "asset", "network"),
    *("balance", "reserved", "waiting", "available"),
)


def _funds(settings: Settings, runtime: Runtime) -> Funds:
    """Return the rules of every account; the adapters' declarations are not needed here."""
    from gateway.funds.reservations import Funds, account_rules

    return Funds(runtime, account_rules(settings, dict.fromkeys(settings.custodians, 0.0)))


@app.callback()
def show(
    context: typer.Context,
    *,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Show the balances that the gateway has read, and the reservations of payouts.

    `available` is what the next payout may need. `custodians balances NAME` asks a custodian now.
    """
    if context.invoked_subcommand is not None:
        return
    from gateway.funds.balances import account_view
    from gateway.runtime import real_runtime
    from gateway.store.funds import all_accounts

    runtime = real_runtime()
    funds = _funds(settings_of(config), runtime)

    async def work(db: Database) -> list[dict[str, Any]]:
        now = runtime.clock.moment()
        return [
            account_view(funds, funds.rules[row["id"]], row, now)
            for row in await db.read(all_accounts)
            if row["id"] in funds.rules
        ]

    found = [_printable(each) for each in reading_store(config, work)]
    if as_json:
        print_json({"data": found})
        return
    lines = []
    for each in found:
        for line in each["balances"] or [{}]:
            whole = {**each, **line, "account": each["account"]["id"]}
            whole["account_type"] = each["account"]["type"]
            lines.append([whole.get(name) for name in _COLUMNS])
    if lines:
        print_table("Balances", list(_COLUMNS), lines)
    else:
        say("no balance was read yet: a gateway with the role engine reads them")


def _printable(view: dict[str, Any]) -> dict[str, Any]:
    from gateway.api.balances import AccountBalances

    shown: dict[str, Any] = AccountBalances.model_validate(view).model_dump(mode="json")
    return shown


@app.command()
def release(
    payout_id: Annotated[str, typer.Argument(help="Payout id.")],
    *,
    evidence: Annotated[
        str,
        typer.Option(
            help="How you know that it was not paid, or that the balance shows it; kept in the audit log."
        ),
    ],
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Release the reservation of a payout that failed with `funds_moved: unknown`.

    Only an operator can: the gateway does not know whether its money has left the account, or still will.
    """
    from gateway.runtime import real_runtime
    from gateway.store.audit import add_audit
    from gateway.store.payouts import payout_row

    if not evidence.strip():
        fail("--evidence must say how you know", 2)
    runtime = real_runtime()
    funds = _funds(settings_of(config), runtime)

    async def released(tx: Tx) -> str | None:
        row = await payout_row(tx, payout_id)
        if row is None:
            return "there is no such payout"
        refused = await funds.release(tx, row)
        if refused is None:
            await add_audit(
                tx,
                runtime.ids,
                runtime.clock.moment().wall,
                actor=operator_name(),
                act="reservation_released",
                subject=payout_id,
                detail=evidence.strip(),
                org=row["org"],
            )
        return refused

    async def work(db: Database) -> str | None:
        return await db.run(released)

    refused = with_store(config, work, runtime)
    if refused is not None:
        fail(f"{payout_id}: {refused}")
    print_result(
        {"payout_id": payout_id, "released": True},
        f"released what {payout_id} had reserved",
        as_json=as_json,
    )
