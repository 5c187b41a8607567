"""The commands and their groups. Each imports what it needs only when it runs, so that help is fast."""

from __future__ import annotations

import io
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli import (
    adapters,
    audit,
    balances,
    batches,
    custodians,
    db,
    keys,
    limits,
    pause,
    payouts,
    routes,
    rules,
    users,
    webhooks,
)
from gateway.cli import doctor as doctors
from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    print_json,
    say,
    settings_of,
    store_faults_told,
)


class Group(typer.core.TyperGroup):
    """The commands; argument errors are reported in the gateway's own words."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = _words_of_argument(error)
            raise


def _words_of_argument(error: typer.BadParameter) -> str:
    from pydantic import ValidationError

    from gateway.faults import words_of

    if isinstance(error.__cause__, ValidationError):
        return "; ".join(words_of(each) for each in error.__cause__.errors(include_url=False))
    return str(error.message)


app = typer.Typer(
    name="payout-gateway",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(keys.app, name="keys")
app.add_typer(payouts.app, name="payouts")
app.add_typer(batches.app, name="batches")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(custodians.app, name="custodians")
app.add_typer(users.app, name="users")
app.add_typer(db.app, name="db")
app.add_typer(adapters.app, name="adapters")
app.add_typer(audit.app, name="audit")
app.add_typer(limits.app, name="limits")
app.add_typer(routes.app, name="routes")
app.add_typer(balances.app, name="balances")
app.add_typer(rules.app, name="rules")
app.add_typer(pause.pause_app, name="pause")
app.add_typer(pause.resume_app, name="resume")


app.command()(doctors.doctor)


class ServeRole(StrEnum):
    """The role of a process."""

    ALL = "all"
    API = "api"
    ENGINE = "engine"
    SENDER = "sender"


@app.command()
def serve(  # noqa: PLR0913 - the options of the command
    *,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port instead of listen.port.")
    ] = None,
    role: Annotated[
        ServeRole,
        typer.Option(
            help="What this process does: `api` takes requests, `engine` talks to custodians, `sender` "
            "delivers webhooks. Any number of processes of each may share one PostgreSQL database."
        ),
    ] = ServeRole.ALL,
    allow_removed: Annotated[
        bool,
        typer.Option(
            "--allow-removed",
            help="Start even if a custodian that is no longer "
            "configured has open payouts or batches; they are parked.",
        ),
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            max=64,
            help="Number of processes on a PostgreSQL database, all "
            "with this role and on one port. One that dies is restarted.",
        ),
    ] = 1,
    part: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the gateway: API and workers, until SIGTERM."""
    from gateway import logs
    from gateway.app import ALL_ROLES, Role
    from gateway.errors import ConfigError, StoreUnusable
    from gateway.server import Part, run
    from gateway.store import in_use, migrate

    settings = settings_of(config)
    if workers > 1 and settings.postgres is None:
        fail(
            "--workers: several processes need a PostgreSQL database (docs: Run on PostgreSQL); on one file "
            "they would only wait for each other",
            2,
        )
    logs.configure(settings.log.format, settings.log.level)
    # Only an error while opening the store is a setup error; later errors keep their traceback.
    with store_faults_told(settings.database):
        if settings.postgres is not None:
            from gateway.store.postgres.opening import prepare

            prepare(settings.postgres)
        else:
            with in_use.shared(settings.database):
                migrate.prepare(settings.database)
    try:
        roles = ALL_ROLES if role is ServeRole.ALL else frozenset({Role(role)})
        if workers > 1:
            from gateway import supervisor

            code = supervisor.run(
                settings,
                config,
                workers=workers,
                role=role,
                listens=Role.API in roles,
                port=port,
                allow_removed=allow_removed,
            )
        else:
            own = None if part is None else Part.of(part)
            code = run(settings, port=port, roles=roles, allow_removed=allow_removed, part=own)
    except ConfigError as error:
        fail((f"config: {each}" for each in error.faults), 2)
    except StoreUnusable as error:
        fail(str(error), 2)
    raise typer.Exit(code)


@app.command()
def sandbox(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON once every twin answers.")
    ] = False,
    config_out: Annotated[
        Path | None, typer.Option(help="Write a complete configuration for the twins here.")
    ] = None,
    with_dummy: Annotated[
        bool, typer.Option("--with-dummy", help="Start the dummy custodian, too.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Start only the twin of this adapter; may be given several times."),
    ] = None,
    step_s: Annotated[
        float, typer.Option(min=0, help="Seconds per life-cycle step of the twins.")
    ] = 0.5,
) -> None:
    """Run simulated custodians on loopback until SIGTERM."""
    from gateway.sandbox import run

    raise typer.Exit(
        run(
            as_json=as_json,
            config_out=config_out,
            with_dummy=with_dummy,
            step_s=step_s,
            only=only or (),
        )
    )


@app.command()
def demo(
    *,
    keep: Annotated[
        bool, typer.Option("--serve", help="Keep the stack up and print a session to paste.")
    ] = False,
    refusing: Annotated[
        bool,
        typer.Option(
            "--refusing",
            help="Instead: two custodians of which the first one refuses. What was proven unpaid goes on at the "
            "second one; what is in doubt, or was refused later, does not.",
        ),
    ] = False,
) -> None:
    """Pay seven payees from quote to delivered on this machine, and verify every webhook."""
    from gateway.demo.case import run

    if keep and refusing:
        fail("give --serve or --refusing, not both", 2)
    raise typer.Exit(run(keep=keep, refuses=refusing))


@app.command()
def init(*, config: ConfigOption = Path(DEFAULT_CONFIG), as_json: JsonOption = False) -> None:
    """Write a commented configuration and a new server key; nothing is overwritten."""
    from gateway.cli.init import write

    write(config, as_json=as_json)


@app.command()
def version(*, as_json: JsonOption = False) -> None:
    """Print the version."""
    from gateway import __version__

    if as_json:
        print_json({"version": __version__})
        return
    say(__version__)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - as typer calls it
    if wanted:
        from gateway import __version__

        say(__version__)
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """One model, one API and signed webhooks in front of several custodians."""


def main() -> None:
    """Run the command line. Errors that a user can cause end with a message and an exit code, not a traceback."""
    # Files that a command writes, including reports and logs, are readable for its user only.
    os.umask(0o077)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its escape, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for argument in sys.argv[1:]:
        if not _is_utf8(argument):
            say(f"the argument {argument!a} is not valid UTF-8", err=True)
            sys.exit(2)
    try:
        app()
    except Exception as error:
        message = None if "serve" in sys.argv[1:2] else _words_of(error)
        if message is None:
            raise
        say(*message, err=True)
        sys.exit(2)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _words_of(error: Exception) -> list[str] | None:
    """Return the message for an error that no command has handled; None for a bug."""
    from gateway.errors import ConfigError, GatewayError

    if isinstance(error, ConfigError):
        return [f"config: {each}" for each in error.faults]
    if isinstance(error, GatewayError):
        return [str(error)]
    if isinstance(error, OSError) and error.strerror:
        return [f"{error.filename}: {error.strerror}" if error.filename else error.strerror]
    return None
