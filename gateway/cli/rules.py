"""`rules`: shows and activates the limits and routes of a database's gateways."""

from __future__ import annotations

import json
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
    reading_store,
    say,
    settings_of,
    told_time,
    with_store,
)

if TYPE_CHECKING:
    from gateway.store.database import Database, Row

app = typer.Typer(
    help="The rules that guard money: limits, prices, routes and accounts.", no_args_is_help=True
)


@app.command()
def show(*, config: ConfigOption = Path(DEFAULT_CONFIG), as_json: JsonOption = False) -> None:
    """Show whether this configuration has the active rules, and what differs."""
    from gateway.rules import OwnRules
    from gateway.store.rules import active_rules

    own = OwnRules(settings_of(config))

    async def work(db: Database) -> Row | None:
        return await db.read(active_rules)

    told = _told(own.digest, own.text, reading_store(config, work))
    if as_json:
        print_json(told)
        return
    say(f"active: {told['active'] or 'none so far: the first gateway activates its own'}")
    if told["activated_at"]:
        say(f"  since {told['activated_at']}, by {told['activated_by']}")
    say(f"this configuration: {told['own']}{'' if told['changes'] else ' (the same)'}")
    for line in told["changes"]:
        say(f"  {line}")


@app.command()
def activate(
    *,
    reason: Annotated[str, typer.Option(help="Reason; kept in the audit log.")],
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Make the rules of this configuration the active ones, for every gateway of its database.

    A gateway with other rules sets no marks from then on. Nothing needs to be restarted.
    """
    from gateway.rules import OwnRules
    from gateway.runtime import real_runtime
    from gateway.store.rules import activate as make_active
    from gateway.store.rules import active_rules

    if not reason.strip():
        fail("--reason must say why", 2)
    own, runtime = OwnRules(settings_of(config)), real_runtime()

    async def work(db: Database) -> dict[str, Any]:
        told = _told(own.digest, own.text, await db.read(active_rules))
        at = runtime.clock.moment().wall
        names = own.digest, own.text, operator_name(), reason.strip()
        told["activated"] = await db.run(make_active, runtime.ids, at, *names)
        return told

    told = with_store(config, work, runtime)
    if as_json:
        print_json(told)
        return
    for line in told["changes"]:
        say(f"  {line}")
    say(f"{own.digest} is active" if told["activated"] else f"{own.digest} is active already")


def _told(digest: str, text: str, row: Row | None) -> dict[str, Any]:
    from gateway.rules import changes
    from gateway.store.rows import from_us

    active = {} if row is None else json.loads(row["document"])
    return {
        "own": digest,
        "active": None if row is None else row["digest"],
        "activated_at": None if row is None else told_time(from_us(row["activated_at"])),
        "activated_by": None if row is None else row["activated_by"],
        "changes": [] if row is None else changes(active, json.loads(text)),
    }
