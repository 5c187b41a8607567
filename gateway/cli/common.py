"""What the commands share: they find the configuration, report errors and print results."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from gateway.cli.printing import (
    console,
    print_json,
    print_records,
    print_result,
    print_rows,
    print_table,
    say,
)

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.config.settings import Settings
    from gateway.runtime import Runtime
    from gateway.store.database import Database

__all__ = [
    "DEFAULT_CONFIG",
    "ConfigOption",
    "JsonOption",
    "OperatorOption",
    "YesOption",
    "config_faults_told",
    "confirmed",
    "console",
    "fail",
    "frozen_reason",
    "known_custodian",
    "microseconds_of",
    "operator_name",
    "print_json",
    "print_records",
    "print_result",
    "print_rows",
    "print_table",
    "reading_store",
    "say",
    "settings_of",
    "store_faults_told",
    "told_time",
    "with_store",
]

T = TypeVar("T")
DEFAULT_CONFIG = "payout-gateway.toml"

ConfigOption = Annotated[
    Path, typer.Option("--config", envvar="PAYOUT_GATEWAY_CONFIG", help="The configuration file.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
OperatorOption = Annotated[
    str | None,
    typer.Option(
        "--operator",
        envvar="PAYOUT_GATEWAY_OPERATOR",
        help="Your name for the audit log, beside the system user's. Not given: only the system user.",
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation. For scripts.")]
#: The longest name of an operator.
_NAME_CHARS = 100


def fail(message: str | Iterable[str], code: int = 1) -> NoReturn:
    """Exit with a message on stderr: with code 1 for "no such thing", 2 for a faulty setup.

    `message` is one line or several.
    """
    say(*([message] if isinstance(message, str) else message), err=True)
    raise typer.Exit(code)


def settings_of(config: Path) -> Settings:
    """Read the configuration; if it is faulty, print all errors and exit with 2."""
    from gateway.config import settings as configuration
    from gateway.errors import ConfigError

    try:
        return configuration.load(config)
    except ConfigError as error:
        fail((f"config: {each}" for each in error.faults), 2)


def known_custodian(settings: Settings, name: str) -> None:
    """Exit with 2 if no custodian instance has this name, so that a misspelt name is noticed."""
    if name not in settings.custodians:
        known = ", ".join(sorted(settings.custodians)) or "none"
        fail(f"there is no custodian {name}; custodians: {known}", 2)


def microseconds_of(option: str, text: str, *, dates: bool = False) -> int:
    """Return a time with a zone in microseconds; `dates` also allows a date, which means its midnight in UTC.

    Exits with 2 if it is neither.
    """
    from datetime import UTC, datetime

    from gateway.store.rows import to_us

    try:
        at = datetime.fromisoformat(text)
        if dates and len(text) == len("2026-03-02"):
            at = at.replace(tzinfo=UTC)
        return to_us(at)
    except (ValueError, TypeError, OverflowError):
        form = "a date such as 2026-03-02, or a time with a zone" if dates else "a time with a zone"
        fail(f"{option} is {form}, such as 2026-03-02T10:00:00Z", 2)


@contextmanager
def store_faults_told(database: Path) -> Iterator[None]:
    """Exit with 2 and a message if the database has another schema or cannot be used at all."""
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.errors import SchemaMismatch, StoreUnusable
    from gateway.store.unusable import why

    try:
        yield
    except BrokenPipeError:
        # The reader of the output has closed it; the database is fine.
        raise
    except (SchemaMismatch, StoreUnusable) as error:
        fail(str(error), 2)
    except (sqlite3.Error, SQLAlchemyError, OSError) as error:
        fail(why(database, error), 2)


def with_store(
    config: Path,
    work: Callable[[Database], Awaitable[T]],
    runtime: Runtime | None = None,
    *,
    creates: bool = False,
) -> T:
    """Open the configured store, do the work, and close it. `runtime` uses the store's timeline.

    Exits with 2 if the server key is not the database's, or if there is no database, unless the command
    `creates` one.
    """
    from gateway.resealing import compare_server_key
    from gateway.runtime import real_runtime
    from gateway.store.opening import open_database, refuse_absent
    from gateway.store.state import frozen
    from gateway.vault import vault_of

    settings, runtime = settings_of(config), runtime or real_runtime()
    _log_to_stderr()

    async def run() -> T:
        async with open_database(settings, runtime) as db:
            with config_faults_told():
                await compare_server_key(db, runtime, vault_of(settings, runtime.ids))
            _warn_if_frozen(await db.read(frozen))
            return await work(db)

    with store_faults_told(settings.database):
        if not creates:
            refuse_absent(settings)
        return asyncio.run(run())


def reading_store(
    config: Path,
    work: Callable[[Database], Awaitable[T]],
    runtime: Runtime | None = None,
    *,
    warns: bool = True,
) -> T:
    """Open the configured store for reading, do the work, and close it. No file is changed.

    `runtime` uses the store's timeline. With `warns` it prints a warning if the database is frozen.
    Exits with 2 if there is no database.
    """
    from gateway.runtime import real_runtime
    from gateway.store.opening import frozen_or_older, open_to_read, state_file_of

    settings, runtime = settings_of(config), runtime or real_runtime()
    _log_to_stderr()

    async def run() -> T:
        async with open_to_read(settings, runtime) as db:
            if warns:
                state_file = state_file_of(settings, runtime)
                _warn_if_frozen(await frozen_or_older(db, state_file))
            return await work(db)

    with store_faults_told(settings.database):
        return asyncio.run(run())


def _log_to_stderr() -> None:
    """Send log lines to stderr, because programs read a command's output as its result."""
    from gateway import logs

    logs.configure("console", "warning")


def _warn_if_frozen(reason: str | None) -> None:
    if reason is not None:
        say(f"warning: the database is frozen: {reason}", err=True)


@contextmanager
def config_faults_told() -> Iterator[None]:
    """If the configuration is faulty, print all errors and exit with 2."""
    from gateway.errors import ConfigError

    try:
        yield
    except ConfigError as error:
        fail((f"config: {each}" for each in error.faults), 2)


async def frozen_reason(db: Database) -> str | None:
    """Return why an operator must not end or repeat anything now, or None."""
    from gateway.store.state import frozen

    reason = await db.read(frozen)
    return None if reason is None else f"the database is frozen: {reason}; see `db adopt`"


def operator_name(given: str | None = None) -> str:
    """Return the operator who runs this command, for the audit log.

    A name that is given (or set as PAYOUT_GATEWAY_OPERATOR) is only a claim, so the system user is
    added to it. Exits with 2 if it is not a valid name.
    """
    import os
    import pwd

    from gateway.text import has_controls

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = f"uid {os.getuid()}"
    name = os.environ.get("PAYOUT_GATEWAY_OPERATOR") if given is None else given
    if name is None or name == user:
        return user
    if not name.strip() or len(name) > _NAME_CHARS or has_controls(name):
        fail(f"--operator is a name of 1 to {_NAME_CHARS} characters on one line", 2)
    return f"{name.strip()} (system user {user})"


def confirmed(question: str, *, yes: bool) -> None:
    """Ask on the terminal; exit with 1 unless the answer is yes. With `yes` nothing is asked."""
    if yes:
        return
    say(f"{question} [y/N]", err=True)
    try:
        answer = input()
    except EOFError:
        fail("not confirmed: nothing was changed. Scripts give --yes")
    if answer.strip().lower() not in {"y", "yes"}:
        fail("not confirmed: nothing was changed")


def told_time(at: datetime | None) -> str | None:
    """Return a time as the API writes it."""
    from gateway.model import format_time

    return None if at is None else format_time(at)
