"""`db`: upgrades the schema of the store, and handles its copies."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli import copies
from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    operator_name,
    print_json,
    say,
    settings_of,
    store_faults_told,
    with_store,
)

if TYPE_CHECKING:
    from gateway.store.database import Database, Tx

app = typer.Typer(help="The database.", no_args_is_help=True)
#: Values per transaction; they are few, because the gateway runs meanwhile.
_AT_ONCE = 200


@app.callback()
def group() -> None:
    """The database."""


app.command()(copies.backup)
app.command()(copies.restore)
app.command()(copies.moved)
app.command()(copies.promoted)
app.command()(copies.adopt)
app.command()(copies.move)


@app.command()
def upgrade(
    *,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Upgrade although a gateway runs. It stops before its next write; a payout that it is "
            "handing over at that moment gets an unknown outcome.",
        ),
    ] = False,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Migrate the database to this program's schema. Stop every gateway on it first, and back it up.

    Refused while a gateway runs on it, unless it is a PostgreSQL database and the gateway can continue
    with the new schema.
    """
    from alembic.util.exc import CommandError

    from gateway.runtime import real_runtime
    from gateway.store import migrate
    from gateway.store.postgres import opening as postgres

    settings = settings_of(config)
    path = settings.database
    refusal = f"the database {path} was not changed"
    if settings.postgres is not None and not force:
        with store_faults_told(path):
            force = postgres.may_run_beside(settings.postgres)
    with nullcontext() if force else copies.alone(settings, refusal, 2), store_faults_told(path):
        found = [] if force else copies.running(settings, real_runtime())
        if found:
            fail(
                f"{refusal}: {copies.STOP_FIRST}: {', '.join(found)}. "
                "Then back it up: payout-gateway db backup",
                2,
            )
        try:
            if settings.postgres is not None:
                before, after = postgres.upgrade(settings.postgres)
            else:
                before, after = migrate.upgrade(path)
        except CommandError as error:
            fail(f"{refusal}: {error}", 2)
    # Opening the database writes the first state file.
    colliding = with_store(config, _some_collide if before != after else _nothing, creates=True)
    if as_json:
        print_json({"before": before, "after": after, "collisions": colliding})
        return
    if before == after:
        say(f"{path} is up to date ({after})")
    else:
        say(f"{path}: {before or 'no schema'} -> {after}")
    if colliding:
        say(
            "payouts have references that were written differently and are compared as one now; "
            "nothing was changed. List them: payout-gateway payouts collisions"
        )


async def _nothing(_: Database) -> bool:
    """Do nothing with the store."""
    return False


async def _some_collide(db: Database) -> bool:
    """Whether references that used to differ are equal now."""
    from gateway.store.payouts import reference_collisions

    return bool(await db.scan(reference_collisions, 1))


@app.command()
def reseal(*, config: ConfigOption = Path(DEFAULT_CONFIG), as_json: JsonOption = False) -> None:
    """Seal every stored secret under the present server key. The gateway may run meanwhile.

    Every running gateway must already have the new key, and the old one as previous_server_key.
    """
    from gateway.errors import ConfigError
    from gateway.resealing import note_server_key, reseal_some
    from gateway.runtime import real_runtime
    from gateway.store.audit import add_audit
    from gateway.store.sealed import SEALED
    from gateway.store.state import DATABASE
    from gateway.vault import vault_of

    runtime = real_runtime()
    vault = vault_of(settings_of(config), runtime.ids)

    async def note(tx: Tx, act: str, counts: dict[str, tuple[int, int]]) -> None:
        await add_audit(
            tx,
            runtime.ids,
            runtime.clock.moment().wall,
            actor=operator_name(),
            act=act,
            subject=DATABASE,
            after={name: {"seen": seen, "anew": anew} for name, (seen, anew) in counts.items()},
        )

    async def work(db: Database) -> dict[str, tuple[int, int]]:
        done: dict[str, tuple[int, int]] = {}
        # Write two rows, because the command may be stopped in between and run again.
        await db.run(note, "reseal_begun", done)
        for what in SEALED:
            seen, changed, after = 0, 0, None
            while True:
                step = await db.run(reseal_some, vault, what, after, _AT_ONCE)
                seen, changed, after = seen + step.seen, changed + step.changed, step.last
                if after is None:
                    break
            done[what.name] = (seen, changed)
        await db.run(note_server_key, runtime, vault)
        await db.run(note, "resealed", done)
        return done

    try:
        done = with_store(config, work)
    except ConfigError as error:
        fail((*error.faults, "set previous_server_key to the key that they were sealed with"), 2)
    if as_json:
        counts = {name: {"sealed": seen, "anew": anew} for name, (seen, anew) in done.items()}
        print_json({"resealed": counts})
        return
    for name, (seen, changed) in done.items():
        say(f"{name}: {seen} sealed, {changed} of them resealed")
    say("previous_server_key is needed for nothing stored any more")
