"""`db`: the schema of the store, and its copies."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli import copies
from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    fail,
    settings_of,
    store_faults_told,
    with_store,
)

if TYPE_CHECKING:
    from gateway.store.database import Database

app = typer.Typer(help="The database.", no_args_is_help=True)
#: Values per transaction: the gateway goes on meanwhile.
_AT_ONCE = 200


@app.callback()
def group() -> None:
    """The database."""


app.command()(copies.backup)
app.command()(copies.restore)
app.command()(copies.moved)
app.command()(copies.adopt)


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
) -> None:
    """Bring the database to this program's schema. Stop every gateway on it first, and back it up.

    Refused while a gateway runs on it.
    """
    from alembic.util.exc import CommandError

    from gateway.runtime import real_runtime
    from gateway.store import migrate

    settings = settings_of(config)
    path = settings.database
    refusal = f"the database {path} was not changed"
    with nullcontext() if force else copies.alone(settings, refusal, 2), store_faults_told(path):
        found = [] if force else copies.running(settings, real_runtime())
        if found:
            fail(
                f"{refusal}: {copies.STOP_FIRST}: {', '.join(found)}. "
                "Then back it up: payout-gateway db backup",
                2,
            )
        try:
            before, after = migrate.upgrade(path)
        except CommandError as error:
            fail(f"{refusal}: {error}", 2)
    # Opening it writes the first state file.
    with_store(config, _nothing)
    if before == after:
        typer.echo(f"{path} is up to date ({after})")
    else:
        typer.echo(f"{path}: {before or 'no schema'} -> {after}")


async def _nothing(_: Database) -> None:
    """Do nothing with the store."""


@app.command()
def reseal(config: ConfigOption = Path(DEFAULT_CONFIG)) -> None:
    """Seal every stored secret under the present server key. The gateway may run meanwhile.

    Every running gateway must know the new key already, and the one before as previous_server_key.
    """
    from gateway.errors import ConfigError
    from gateway.resealing import reseal_some
    from gateway.runtime import real_runtime
    from gateway.store.sealed import SEALED
    from gateway.vault import vault_of

    vault = vault_of(settings_of(config), real_runtime().ids)

    async def work(db: Database) -> dict[str, tuple[int, int]]:
        done = {}
        for what in SEALED:
            seen, changed, after = 0, 0, None
            while True:
                step = await db.run(reseal_some, vault, what, after, _AT_ONCE)
                seen, changed, after = seen + step.seen, changed + step.changed, step.last
                if after is None:
                    break
            done[what.name] = (seen, changed)
        return done

    try:
        done = with_store(config, work)
    except ConfigError as error:
        fail("\n".join(error.faults) + "; set previous_server_key to that one", 2)
    for name, (seen, changed) in done.items():
        typer.echo(f"{name}: {seen} sealed, {changed} of them anew")
    typer.echo("previous_server_key is needed for nothing stored any more")
