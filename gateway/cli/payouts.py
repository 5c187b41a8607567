"""`payouts`: the whole story of one, and lists of many."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.acknowledge import acknowledge
from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    frozen_reason,
    operator_name,
    print_json,
    print_table,
    reading_store,
    say,
    settings_of,
    told_time,
    with_store,
)
from gateway.cli.erasure import erase
from gateway.cli.export import export
from gateway.cli.words import FundsMovedWord, StatusWord

if TYPE_CHECKING:
    from gateway.capabilities import Capabilities
    from gateway.config import Settings
    from gateway.model import Payout
    from gateway.store.database import Database

app = typer.Typer(help="Payouts, for operators.", no_args_is_help=True)
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
    """Tell the whole story of a payout from the store."""
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
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """List payouts, newest first."""
    from gateway.store.payouts import list_payouts
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
    if as_json:
        print_json({"data": rows})
        return
    print_table("Payouts", columns, [[row.get(name) for name in columns] for row in rows])


class Ending(StrEnum):
    """How an operator has found a payout to have ended."""

    DELIVERED = "delivered"
    FAILED = "failed"


@app.command()
def resolve(  # noqa: PLR0913 - one argument per option
    payout_id: Annotated[str, typer.Argument(help="Payout id.")],
    *,
    ending: Annotated[Ending, typer.Option("--as", help="What the custodian's own records say.")],
    evidence: Annotated[
        str,
        typer.Option(
            help="What you saw, where and when; kept in the audit log, not shown to the partner."
        ),
    ],
    funds_moved: Annotated[
        FundsMovedWord,
        typer.Option(help="With --as failed: whether money left the source account."),
    ] = FundsMovedWord.UNKNOWN,
    transfer: Annotated[
        str | None,
        typer.Option(help="With --as delivered: id or hash of the transfer that delivered it."),
    ] = None,
    looked: Annotated[
        int | None,
        typer.Option(help="With --funds-moved no: the number of the look that you were asked for."),
    ] = None,
    config: ConfigOption = Path(DEFAULT_CONFIG),
) -> None:
    """End a payout by hand, with evidence. Subscribers are notified as of any other end.

    `--as failed --funds-moved no` needs proof that nothing was paid: that nothing was sent, the gateway's
    own looks, or yours after no call could arrive any more. You are asked to look when that time has come.
    """
    from gateway.execution.operator import LookAsked, NotAllowedError, Resolution
    from gateway.execution.operator import resolve as end
    from gateway.execution.record import Recorder
    from gateway.model import FundsMoved
    from gateway.payouts import Payouts
    from gateway.runtime import real_runtime
    from gateway.vault import vault_of

    if not evidence.strip():
        fail("--evidence must say what you saw", 2)
    runtime, settings = real_runtime(), settings_of(config)
    payouts = Payouts(runtime, vault_of(settings, runtime.ids))
    found = Resolution(
        delivered=ending is Ending.DELIVERED,
        evidence=evidence.strip(),
        funds_moved=FundsMoved(funds_moved.value),
        transfer=transfer,
        looked=looked,
    )

    async def work(db: Database) -> LookAsked | None:
        reason = await frozen_reason(db)
        if reason is not None:
            raise NotAllowedError(reason)
        name, capabilities = await _custodian_of(db, settings, payout_id)
        recorder = Recorder(runtime, payouts, name, capabilities)
        lag = capabilities.console_lags
        return await db.run(end, recorder, runtime, payout_id, found, lag=lag, by=operator_name())

    try:
        asked = with_store(config, work, runtime)
    except NotAllowedError as error:
        fail(f"not resolved: {error}")
    if asked is not None:
        fail(
            "not resolved yet: no call can arrive any more. Look at the custodian's own records now; if "
            f"they show no payment, run the command again with --looked {asked.number}"
        )
    say(f"{payout_id} is {ending}")


@app.command()
def retry(
    payout_id: Annotated[str, typer.Argument(help="Payout id.")],
    config: ConfigOption = Path(DEFAULT_CONFIG),
) -> None:
    """Submit a payout again, with the same keys, where it is proven that it did not pay."""
    from gateway.app import custodian_of
    from gateway.errors import ConfigError
    from gateway.execution.operator import NotAllowedError, ProofMissingError
    from gateway.execution.operator import retry as again
    from gateway.runtime import real_runtime
    from gateway.store.payouts import find_payout

    settings, runtime = settings_of(config), real_runtime()

    async def work(db: Database) -> None:
        reason = await frozen_reason(db)
        if reason is not None:
            raise NotAllowedError(reason)
        payout = await db.read(find_payout, payout_id)
        if payout is None:
            raise NotAllowedError(f"there is no payout {payout_id}")
        if payout.custodian not in settings.custodians:
            raise NotAllowedError(f"the custodian {payout.custodian} is not configured here")
        # The instance and not its class: what it declares may depend on its settings.
        async with custodian_of(settings, payout.custodian, runtime) as custodian:
            asked = custodian.fingerprint(payout.account, livemode=payout.livemode)
            await db.run(
                again, runtime, payout_id, custodian.capabilities, asked, by=operator_name()
            )

    try:
        with_store(config, work, runtime)
    except ProofMissingError as error:
        fail(f"not retried; missing: {error}")
    except NotAllowedError as error:
        fail(f"not retried: {error}")
    except ConfigError as error:
        fail((f"config: {each}" for each in error.faults), 2)
    say(f"{payout_id} will be submitted again at once, if nothing has changed by then")


@app.command()
def collisions(
    *,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="References at most.")] = 1000,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """List payouts whose references were written differently, and are compared as one now.

    They were accepted before references were compared by their normal form. Nothing is changed: whether
    somebody was paid twice is for people to find out. A new payout of a batch may have none of these
    references.
    """
    from gateway.store.payouts import reference_collisions

    async def work(db: Database) -> list[dict[str, Any]]:
        return [
            {
                "org": row["org"],
                "mode": row["mode"],
                "reference": row["reference"],
                # With letters beyond ASCII as escapes: two that look alike are told apart by them.
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


async def _custodian_of(
    db: Database, settings: Settings, payout_id: str
) -> tuple[str, Capabilities]:
    """Return name and capabilities of the custodian instance of a payout. Raises NotAllowedError."""
    from gateway.custodians.registry import BrokenAdapter, find_adapters
    from gateway.execution.operator import NotAllowedError
    from gateway.store.payouts import payout_row

    row = await db.read(payout_row, payout_id)
    if row is None:
        raise NotAllowedError(f"there is no payout {payout_id}")
    instance = settings.custodians.get(row["custodian"])
    adapter = None if instance is None else find_adapters().get(instance.adapter)
    if adapter is None or isinstance(adapter, BrokenAdapter):
        raise NotAllowedError(f"the custodian {row['custodian']} is not configured here")
    return row["custodian"], adapter.capabilities
