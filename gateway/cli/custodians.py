"""`custodians`: declares that accounts are the same, and reads what they can pay."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    known_custodian,
    operator_name,
    print_json,
    print_result,
    print_table,
    say,
    settings_of,
    store_faults_told,
    with_store,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.config.settings import Settings
    from gateway.model import Account
    from gateway.runtime import Runtime
    from gateway.store.database import Database

app = typer.Typer(help="Custodian instances, for operators.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Custodian instances, for operators."""


@app.command(name="same-account")
def same_account(  # noqa: PLR0913 - one argument per option
    name: Annotated[str, typer.Argument(help="Name of the custodian instance.")],
    *,
    fingerprint: Annotated[
        str | None,
        typer.Option(
            help="The fingerprint that earlier calls carry; with --same-as, instead of the configured "
            "credentials."
        ),
    ] = None,
    same_as: Annotated[
        str | None, typer.Option(help="The fingerprint that looks carry now.")
    ] = None,
    evidence: Annotated[
        str | None,
        typer.Option(
            help="How you know that both are one account at the custodian; kept in the audit log. Needed "
            "where the custodian's own id cannot be read with both credentials."
        ),
    ] = None,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Declare that an account is the same after its credentials or address were changed.

    It reads the custodian's own id with the present credentials and with those in `previous`: if both
    read the same id, every account of the instance is declared. Looks made now then count for calls
    made before. If they are not one account, a payout may be paid twice.
    """
    from gateway.execution.proof import NO_ACCOUNT
    from gateway.runtime import real_runtime
    from gateway.store.accounts import declare_same_account

    words = (evidence or "").strip()
    if (fingerprint is None) != (same_as is None):
        fail("give --fingerprint and --same-as together, or neither", 2)
    if (evidence is not None or fingerprint is not None) and not words:
        fail("--evidence must say how you know", 2)
    if NO_ACCOUNT in {fingerprint, same_as}:
        fail(f"{NO_ACCOUNT!r} is no account: no look finds the calls that an adoption recorded", 2)
    settings, runtime = settings_of(config), real_runtime()
    known_custodian(settings, name)
    if fingerprint is None or same_as is None:
        _declare_configured(settings, runtime, name, words or None, as_json=as_json)
        return

    async def work(db: Database) -> bool:
        return await db.run(
            declare_same_account,
            runtime.ids,
            runtime.clock.moment().wall,
            operator_name(),
            custodian=name,
            fingerprint=fingerprint,
            same_as=same_as,
            evidence=words,
        )

    done = with_store(config, work)
    print_result(
        {"custodian": name, "identity": None, "declared": int(done)},
        "declared" if done else "both are declared the same account already",
        as_json=as_json,
    )


def _declare_configured(
    settings: Settings, runtime: Runtime, name: str, evidence: str | None, *, as_json: bool
) -> None:
    """Declare the accounts of an instance by its configured credentials, old and new."""
    from gateway import logs
    from gateway.app import open_gateway
    from gateway.credentials import Declared, NotDeclaredError, accounts_of, declare_credentials
    from gateway.errors import ConfigError
    from gateway.store.opening import refuse_absent

    wanted = settings.custodians[name]
    if wanted.previous is None:
        fail(
            f"custodians.{name}.previous is not set: put the old credentials there, or give "
            "--fingerprint and --same-as",
            2,
        )
    logs.configure(settings.log.format, "error")

    async def run() -> Declared:
        # Build the whole wiring without its loops, because the instances themselves read the ids.
        async with open_gateway(settings, runtime=runtime) as gateway:
            return await declare_credentials(
                gateway.db,
                runtime,
                gateway.instances[name],
                accounts_of(settings, name),
                operator=operator_name(),
                evidence=evidence,
            )

    try:
        with store_faults_told(settings.database):
            refuse_absent(settings)
            done = asyncio.run(run())
    except ConfigError as error:
        fail((f"config: {each}" for each in error.faults), 2)
    except NotDeclaredError as error:
        fail(f"not declared: {error}")
    if as_json:
        print_json({"custodian": name, "identity": done.identity, "declared": done.accounts})
        return
    if done.identity is not None:
        say(f"both credentials read the id {done.identity}")
    say(
        f"declared for {done.accounts} accounts and modes"
        if done.accounts
        else "nothing to declare: they are declared already, or what changes does not say whose "
        "account it is"
    )


@app.command()
def balances(
    name: Annotated[str, typer.Argument(help="Name of the custodian instance.")],
    *,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Ask a custodian what each configured account can pay now. Read-only.

    It shows the assets that the gateway knows; `pending` is what is on its way to the account, if the
    custodian reports it. Exit code 1 if an account could not be read; the others are shown.
    """
    from gateway import logs
    from gateway.credentials import accounts_of
    from gateway.errors import ConfigError

    settings = settings_of(config)
    known_custodian(settings, name)
    accounts = list(dict.fromkeys(accounts_of(settings, name)))
    if not accounts:
        fail(f"no account of {name} is configured: name one in [accounts] or in a route", 2)
    logs.configure(settings.log.format, "error")

    try:
        with store_faults_told(settings.database):
            found, faults = asyncio.run(_read_balances(settings, name, accounts))
    except ConfigError as error:
        fail("\n".join(f"config: {each}" for each in error.faults), 2)
    columns = ["account_type", "account", "asset", "network", "available", "pending", "as_of"]
    if as_json:
        print_json({"data": found, "faults": faults})
    elif found:
        print_table("Balances", columns, [[row[each] for each in columns] for row in found])
    if faults:
        fail("\n".join(dict.fromkeys(faults)))


async def _read_balances(
    settings: Settings, name: str, accounts: Sequence[Account]
) -> tuple[list[dict[str, str | None]], list[str]]:
    """Return the balances of accounts, and the errors of those that could not be read."""
    from gateway.app import open_gateway
    from gateway.errors import NotSent, Unsupported
    from gateway.model import format_amount, format_time

    found: list[dict[str, str | None]] = []
    faults: list[str] = []
    # Build the whole wiring without its loops, because the instance asks with its own credentials and
    # limits.
    async with open_gateway(settings) as gateway:
        for account in accounts:
            try:
                told = await gateway.instances[name].balances(account)
            except (Unsupported, NotSent) as error:
                faults.append(str(error))
                continue
            found += [
                {
                    "account_type": account.type,
                    "account": account.id,
                    "asset": each.asset,
                    "network": each.network,
                    "available": format_amount(each.available),
                    "pending": None if each.pending is None else format_amount(each.pending),
                    "as_of": format_time(each.as_of),
                }
                for each in told
            ]
    return found, faults
