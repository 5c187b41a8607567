"""`db`: the schema of the store."""

from __future__ import annotations

from pathlib import Path

import typer

from gateway.cli.common import DEFAULT_CONFIG, ConfigOption, fail, settings_of, store_faults_told

app = typer.Typer(help="The database.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The database."""


@app.command()
def upgrade(config: ConfigOption = Path(DEFAULT_CONFIG)) -> None:
    """Bring the database to this program's schema. Stop every gateway on it first, and back it up."""
    from alembic.util.exc import CommandError

    from gateway.store import migrate

    path = settings_of(config).database
    with store_faults_told(path):
        try:
            before, after = migrate.upgrade(path)
        except CommandError as error:
            fail(f"the database {path} was not changed: {error}", 2)
    if before == after:
        typer.echo(f"{path} is up to date ({after})")
    else:
        typer.echo(f"{path}: {before or 'no schema'} -> {after}")
