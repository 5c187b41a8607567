"""`payouts`: shows the whole story of one, and lists many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.acknowledge import acknowledge
from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    print_json,
    print_rows,
    print_table,
    reading_store,
    told_time,
)
from gateway.cli.decisions import resolve, retry
from gateway.cli.erasure import erase
from gateway.cli.export import export
from gateway.cli.words import StatusWord

if TYPE_CHECKING:
    from gateway.model import Payout
    from gateway.store.database import Database

app = typer.Typer(help="Payouts, for operators.", no_args_is_help=True)
app.command()(resolve)
app.command()(retry)
app.command()(erase)
app.command()(acknowledge)
app.command()(export)


@app.command()
def show(
    payout_id: Annotated[str, typer.Argument(help="Payout id, or any id or hash at a custodian.")],
    *,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Show the full history of a payout from the store."""
    from gateway.story import tell

    async def work(db: Database) -> dict[str, Any] | None:
        return await db.scan(tell, payout_id)

    story = reading_store(config, work)
    if story is None:
        fail(f"there is no payout {payout_id}, and no payout with that id or hash at a custodian")
    if as_json:
        print_json(story)
        return
    from gateway.cli.story import print_story

    print_story(story)


@app.command(name="list")
def list_(  # noqa: PLR0913 - one argument per option
    *,
    status: Annotated[StatusWord | None, typer.Option(help="Only this status.")] = None,
    org: Annotated[str | None, typer.Option(help="Only this org.")] = None,
    attention: Annotated[
        bool, typer.Option("--attention", help="Only what an operator should look at.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of rows.")] = 50,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """List payouts, newest first."""
    from gateway.store.payout_lists import list_payouts
    from gateway.story import needing_attention

    if attention and (status or org):
        fail("--attention is the list of all orgs; give --status or --org without it", 2)
    wanted = {"status": status.value if status else None, "org": org}
    filters = {name: value for name, value in wanted.items() if value is not None}

    async def notable(db: Database) -> list[dict[str, Any]]:
        return await db.scan(needing_attention, limit)

    async def plain(db: Database) -> list[Payout]:
        return await db.scan(list_payouts, filters, limit)

    if attention:
        rows = reading_store(config, notable)
        columns = [
            "payout_id",
            "status",
            "sub_status",
            "custodian",
            "code",
            "detail",
            "times",
            "last_at",
        ]
    else:
        rows = [
            {
                "payout_id": each.id,
                "org": each.org,
                "status": each.status.value,
                "sub_status": each.sub_status.value,
                "amount": f"{each.terms.recipient_gets} {each.terms.recipient_asset}",
                "returned": None if each.returned_amount is None else f"{each.returned_amount:f}",
                "custodian": each.custodian,
                "created_at": told_time(each.created_at),
            }
            for each in reading_store(config, plain)
        ]
        columns = [
            "payout_id",
            "org",
            "status",
            "sub_status",
            "amount",
            "returned",
            "custodian",
            "created_at",
        ]
    print_rows("Payouts", columns, rows, as_json=as_json)


@app.command()
def collisions(
    *,
    limit: Annotated[
        int, typer.Option(min=1, max=100_000, help="Maximum number of references.")
    ] = 1000,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """List payouts whose references were written differently and now compare as equal.

    They were accepted before references were compared by their normal form. The command changes
    nothing: you have to find out whether a payee was paid twice. A new batch payout may not use any of
    these references.
    """
    from gateway.store.payouts import reference_collisions

    async def work(db: Database) -> list[dict[str, Any]]:
        return [
            {
                "org": row["org"],
                "mode": row["mode"],
                "reference": row["reference"],
                # Letters beyond ASCII are printed as escapes, so that two references that look alike
                # can be told apart.
                "written_as": ascii(row["reference"])[1:-1],
                "payout_id": row["id"],
                "status": row["status"],
                "batch_id": row["batch_id"],
            }
            for row in await db.scan(reference_collisions, limit)
        ]

    rows = reading_store(config, work)
    if as_json:
        print_json({"data": rows})
        return
    columns = ["org", "mode", "reference", "written_as", "payout_id", "status", "batch_id"]
    print_table("Collisions", columns, [[row[name] for name in columns] for row in rows])
