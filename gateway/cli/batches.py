"""`batches`: pay many people from a file, over the partner API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gateway.cli.common import (
    JsonOption,
    fail,
    print_json,
    print_result,
    print_table,
    say,
)
from gateway.cli.exits import NOT_ALL_DELIVERED

if TYPE_CHECKING:
    from gateway.cli.batch_client import BatchClient

T = TypeVar("T")
app = typer.Typer(help="Batches of payouts, over the API.", no_args_is_help=True)

GatewayOption = Annotated[
    str, typer.Option(envvar="PAYOUT_GATEWAY_URL", help="Base URL of the gateway.")
]
KeyOption = Annotated[
    str,
    typer.Option(envvar="PAYOUT_GATEWAY_API_KEY", help="API key; better set in the environment."),
]
BatchArgument = Annotated[str, typer.Argument(help="Batch id (bat_...).")]
_URL = "http://127.0.0.1:8080"


@app.command()
def create(  # noqa: PLR0913 - one argument per option
    file: Annotated[Path, typer.Argument(help="CSV file; the API's page names its columns.")],
    *,
    custodian: Annotated[str, typer.Option(help="The custodian that pays.")],
    account_id: Annotated[str, typer.Option(help="Id of the account that pays.")],
    account_type: Annotated[str, typer.Option(help="Its type.")],
    reference: Annotated[str, typer.Option(help="Your own reference for the batch.")] = "",
    key: Annotated[
        str,
        typer.Option(help="Idempotency key. Not given: derived from the file's content."),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only.")] = False,
    execute_now: Annotated[bool, typer.Option("--execute", help="Execute it, too.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="With --watch: write the report here at the end.")
    ] = None,
    gateway: GatewayOption = _URL,
    api_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Create a batch from a CSV file; the whole file is accepted, or nothing.

    Running it again with the same file gives the same batch: nothing is paid twice. With --watch the exit code is
    0 only if every payout was delivered, and 3 if the batch ended otherwise.
    """
    _must_read(file)
    if report is not None and not watch:
        fail("--report goes with --watch; `batches report` writes one at any time", 2)
    source = {"custodian": custodian, "account_id": account_id, "account_type": account_type}

    async def work(client: BatchClient) -> dict[str, Any]:
        batch = await client.create(file, source, reference=reference, key=key, dry_run=dry_run)
        if execute_now and not dry_run:
            batch = await client.execute(batch["id"])
        if watch and not dry_run:
            batch = await client.watch(batch["id"], quiet=as_json)
            if report is not None:
                await client.report(batch["id"], report)
        return batch

    batch = _run(work, gateway, api_key)
    if as_json:
        print_json(batch)
    elif dry_run:
        totals = ", ".join(f"{amount} {asset}" for asset, amount in batch["totals"].items())
        count = batch["item_count"]
        say(f"{count} payout{'' if count == 1 else 's'} could be paid: {totals}")
    else:
        _print(batch)
        if report is not None and watch:
            say(f"report: {report}")
    if watch and not dry_run:
        _end_by(batch)


@app.command()
def execute(
    batch_id: BatchArgument,
    *,
    gateway: GatewayOption = _URL,
    api_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Execute a batch, once."""
    _print(_run(lambda client: client.execute(batch_id), gateway, api_key), as_json=as_json)


@app.command()
def cancel(
    batch_id: BatchArgument,
    *,
    gateway: GatewayOption = _URL,
    api_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Cancel the unsent payouts of a batch."""
    _print(_run(lambda client: client.cancel(batch_id), gateway, api_key), as_json=as_json)


@app.command()
def show(
    batch_id: BatchArgument,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    gateway: GatewayOption = _URL,
    api_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show a batch with its totals.

    With --watch the exit code is 0 only if every payout was delivered, and 3 if the batch ended otherwise.
    """

    async def work(client: BatchClient) -> dict[str, Any]:
        if watch:
            return await client.watch(batch_id, quiet=as_json)
        return await client.get(batch_id)

    batch = _run(work, gateway, api_key)
    _print(batch, as_json=as_json)
    if watch:
        _end_by(batch)


@app.command()
def report(
    batch_id: BatchArgument,
    into: Annotated[Path, typer.Argument(help="The CSV file to write.")],
    *,
    gateway: GatewayOption = _URL,
    api_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Write the report of a batch as CSV."""
    final = _run(lambda client: client.report(batch_id, into), gateway, api_key)
    print_result(
        {"batch_id": batch_id, "path": str(into), "final": final},
        f"{into}: {'final' if final else 'not final yet: payouts are under way'}",
        as_json=as_json,
    )


def _run(work: Callable[[BatchClient], Awaitable[T]], gateway: str, api_key: str) -> T:
    import asyncio

    from gateway.cli.batch_client import BatchClient, CallError

    if not api_key:
        fail("give an API key: set PAYOUT_GATEWAY_API_KEY", 2)

    async def run() -> T:
        async with BatchClient(gateway, api_key) as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except CallError as error:
        fail(error.lines)
    except ConnectionError as error:
        fail(str(error))


def _must_read(file: Path) -> None:
    """End with 2 if a file cannot be read."""
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}", 2)


def _end_by(batch: dict[str, Any]) -> None:
    """End with 3 unless every payout of a batch that was followed to its end was delivered."""
    if batch["state"] != "finalized" or batch["delivered_count"] != batch["item_count"]:
        raise typer.Exit(NOT_ALL_DELIVERED)


def _print(batch: dict[str, Any], *, as_json: bool = False) -> None:
    if as_json:
        print_json(batch)
        return
    say(f"{batch['id']} is {batch['state']}")
    rows = [
        [total["asset"], status, stands["count"], stands["amount"]]
        for total in batch["totals"]
        for status, stands in total["by_status"].items()
    ]
    print_table("Payouts", ["asset", "status", "count", "amount"], rows)
    if batch["failure"]:
        say(f"{batch['failure']['code']}: {batch['failure']['message']}")
