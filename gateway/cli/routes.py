"""`routes`: explains which route a payout would take, and why not the others."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    config_faults_told,
    fail,
    print_json,
    print_table,
    reading_store,
    say,
    settings_of,
)

if TYPE_CHECKING:
    from gateway.store.database import Database

app = typer.Typer(help="Routes, for operators.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Routes, for operators."""


@app.command()
def explain(  # noqa: PLR0913 - as a quote is asked for
    destination: Annotated[
        str, typer.Argument(help="An address, or a destination object as JSON, as in a quote.")
    ],
    *,
    org: Annotated[str, typer.Option(help="For which org.")],
    asset: Annotated[str, typer.Option(help="Asset code.")],
    amount: Annotated[str, typer.Option(help="Amount that is sent, as a decimal.")],
    mode: Annotated[str, typer.Option(help="`live` or `test`.")] = "live",
    network: Annotated[
        str | None, typer.Option(help="Network, if an address fits several.")
    ] = None,
    custodian: Annotated[
        str | None, typer.Option(help="The instance that is asked for, with --account.")
    ] = None,
    account: Annotated[
        str | None, typer.Option(help="The account that is asked for, as TYPE:ID.")
    ] = None,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Show which route a quote would use with this configuration, and the reason for each other one.

    This is a dry run: nothing is written and no custodian is called. Pauses and balances are read from
    the database. Only the running gateway knows whether custodians answer and how long deliveries took:
    ask it with `POST /routes/explain`. Exits with 1 if no quote would be given, or if its payout would
    be refused now by a limit or a balance.
    """
    from gateway.api.routes import explanation
    from gateway.app import routing_of
    from gateway.caller import Caller
    from gateway.errors import Refused
    from gateway.runtime import real_runtime
    from gateway.store.funds import all_accounts

    request = _request(destination, asset, amount, network, custodian, account)
    if mode not in {"live", "test"}:
        fail("--mode is live or test", 2)
    settings, runtime = settings_of(config), real_runtime()
    caller = Caller(org, "test" if mode == "test" else "live", "operator")

    async def work(db: Database) -> dict[str, Any]:
        known = await db.read(all_accounts)
        async with routing_of(settings, runtime, known) as quotes:
            return await db.read(explanation, quotes, caller, request, whole=True)

    try:
        with config_faults_told():
            view = reading_store(config, work, runtime)
    except Refused as refused:
        fail(refused.detail.replace("network_hint", "--network"), 1)
    if as_json:
        print_json(view)
    else:
        _print(view, asset)
    if view["code"] is not None:
        raise typer.Exit(1)


def _request(  # noqa: PLR0913 - as a quote is asked for
    destination: str,
    asset: str,
    amount: str,
    network: str | None,
    custodian: str | None,
    account: str | None,
) -> Any:
    """Return the request of a quote; exits with 2 if it is invalid."""
    import json

    from pydantic import ValidationError

    from gateway.faults import names_at, plain_faults, words_of
    from gateway.planning import QuoteRequest

    if (custodian is None) != (account is None):
        fail("give --custodian and --account together, or neither", 2)
    kind, _, account_id = (account or "").partition(":")
    members: dict[str, Any] = {
        "external_ref": "explain",
        "destination": destination,
        "asset": asset,
        "amount": amount,
        "network_hint": network,
    }
    if custodian is not None:
        members["route"] = {"custodian": custodian, "account": {"type": kind, "id": account_id}}
    try:
        if destination.lstrip().startswith("{"):
            members["destination"] = json.loads(destination)
        return QuoteRequest.model_validate_json(json.dumps(members))
    except ValidationError as error:
        lines = [
            f"{each['loc'][0] if each['loc'] else 'the request'} "
            f"{words_of(each, names_at(QuoteRequest, each['loc']))}"
            for each in plain_faults(error)
        ]
        fail(lines, 2)
    except ValueError:
        fail("the destination is no JSON object", 2)


def _print(view: dict[str, Any], asset: str) -> None:
    if view["candidates"]:
        rows = [
            [
                each["route"],
                each["custodian"],
                f"{each['account']['type']} {each['account']['id']}",
                each["network"],
                f"{Decimal(each['fee']):f} {asset.upper()}",
                f"{each['estimated_seconds']} s",
            ]
            for each in view["candidates"]
        ]
        columns = ["route", "custodian", "account", "network", "fee", "usually"]
        print_table(f"Could pay, the best one first ({view['policy']})", columns, rows)
    if view["left_out"]:
        rows = [
            [each["route"], each["custodian"], each["reason"], each["detail"]]
            for each in view["left_out"]
        ]
        print_table("Left out", ["route", "custodian", "reason", "detail"], rows)
    for each in view["candidates"]:
        if each["waits"] is not None:
            say(f"{each['route']}: {each['waits']}")
    short = view["insufficient_funds"]
    if short is not None and view["code"] is None:
        taken = view["candidates"][0]
        name = f"{taken['account']['type']} {taken['account']['id']}"
        say(f"{taken['route']}: {name} lacks {short['needed']} {short['asset']}")
    if view["balance_remark"] is not None:
        say(f"{view['candidates'][0]['route']}: {view['balance_remark']}")
    if view["code"] is not None:
        say(f"refused ({view['code']}): {view['detail']}")
