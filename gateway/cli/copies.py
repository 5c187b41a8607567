"""`db backup`, `db restore`, `db moved`, `db promoted`, `db adopt`: copies of the database, and which of them continues."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    microseconds_of,
    operator_name,
    print_json,
    print_result,
    say,
    settings_of,
    store_faults_told,
)

if TYPE_CHECKING:
    from gateway.adoption import Adopted
    from gateway.config.settings import Settings
    from gateway.runtime import Runtime
    from gateway.store.backup import Operator
    from gateway.store.database import Database
    from gateway.store.state_file import StateFile


T = TypeVar("T")
STOP_FIRST = "stop every gateway on it first"


def _operator(runtime: Runtime) -> Operator:
    from gateway.store.backup import Operator

    return Operator(operator_name(), runtime.clock.moment().wall, runtime.ids)


def running(settings: Settings, runtime: Runtime) -> list[str]:
    """Return the gateways that run on the configured database; print a notice while it waits."""
    from gateway.store.gateways import STALE_S, alive

    def tell(rows: Iterable[Mapping[str, Any]]) -> None:
        say(
            f"these gateways have not signed off; waiting up to {STALE_S:g} s to see whether one of "
            f"them runs: {', '.join(_label(row) for row in rows)}",
            err=True,
        )

    if settings.postgres is not None:
        # A running gateway holds a lock in the database, which `alone` detects.
        return []
    with store_faults_told(settings.database):
        found = asyncio.run(alive(settings.database, runtime.clock, tell))
    return [_label(row) for row in found]


@contextmanager
def alone(settings: Settings, refusal: str, code: int = 1) -> Iterator[None]:
    """Take exclusive use of the configured database; if others use it, exit and name the processes to stop.

    These include processes with an open database file that was moved away.
    """
    from gateway.errors import InUse
    from gateway.store import in_use
    from gateway.store.postgres import opening as postgres

    with store_faults_told(settings.database):
        try:
            with (
                in_use.alone(settings.database)
                if settings.postgres is None
                else postgres.alone(settings.postgres)
            ):
                yield
        except InUse as error:
            fail(f"{refusal}: {STOP_FIRST}: {error.holders}", code)


def _refuse_postgres(settings: Settings, instead: str) -> None:
    """Exit with a message if the database is not a file."""
    if settings.postgres is not None:
        fail(f"{settings.database} is a PostgreSQL database: {instead}", 2)


def _label(row: Mapping[str, Any]) -> str:
    return f"{row['id']} (process {row['pid']} on {row['host']})"


def backup(
    to: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    *,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Copy the database to a file, while the gateway runs. The copy is checked."""
    from gateway.runtime import real_runtime
    from gateway.store.backup import BackupError, back_up

    settings, runtime = settings_of(config), real_runtime()
    _refuse_postgres(settings, "back it up with its own means, such as pg_basebackup or pg_dump")
    if to.exists():
        fail(f"{to} exists already; name another file", 2)
    try:
        copy = back_up(settings.database, to, _operator(runtime))
    except BackupError as error:
        fail(str(error))
    print_result(
        {"path": str(to), "schema": copy.revision, "mark": copy.marks},
        f"{to}: schema {copy.revision or 'none'}, newest mark {copy.marks}",
        as_json=as_json,
    )


def restore(
    source: Annotated[Path, typer.Argument(help="A file of `db backup`.")],
    *,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Replace an existing database; it is kept beside the new one."
        ),
    ] = False,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Put a backup in the database's place. Stop every gateway first.

    Unless nothing can be missing from it, the database is then frozen until `db adopt`.
    """
    from gateway.errors import StateFileError
    from gateway.runtime import real_runtime
    from gateway.store.backup import BackupError
    from gateway.store.backup import restore as put
    from gateway.store.opening import state_file_of

    settings, runtime = settings_of(config), real_runtime()
    _refuse_postgres(settings, "restore it with its own means, then: payout-gateway db adopt")
    with store_faults_told(source), alone(settings, "not restored"):
        found = running(settings, runtime)
        if found:
            fail(f"not restored: {STOP_FIRST}: {', '.join(found)}")
        try:
            done = put(
                source,
                settings.database,
                state_file_of(settings, runtime),
                _operator(runtime),
                clock_id=runtime.clock.moment().clock_id,
                replace=force,
            )
        except (BackupError, StateFileError) as error:
            fail(f"not restored: {error}")
    if as_json:
        kept = None if done.kept is None else str(done.kept)
        told = {"path": str(settings.database), "schema": done.copy.revision}
        print_json({**told, "mark": done.copy.marks, "kept": kept, "frozen": done.frozen})
        return
    say(f"{settings.database}: schema {done.copy.revision}, newest mark {done.copy.marks}")
    if done.kept is not None:
        say(f"the database that was there is kept as {done.kept}")
    if done.frozen is not None:
        say(f"it is frozen: {done.frozen}")
        say("next: payout-gateway db adopt (docs: Back up and restore)")


def move(
    source: Annotated[str, typer.Argument(help="`sqlite:PATH`: the configured database.")],
    target: Annotated[str, typer.Argument(help="`postgresql://…`: an empty database.")],
    *,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Move the SQLite database to PostgreSQL. Stop every gateway first.

    Every row is copied in one transaction and compared; then the file is frozen. If anything fails, the
    target stays empty; run the command again. Name the new database in the configuration afterwards.
    """
    from gateway.database_url import PostgresUrl
    from gateway.errors import StateFileError
    from gateway.runtime import real_runtime
    from gateway.store.opening import refuse_absent, state_file_of
    from gateway.store.postgres.move import Moved, NotMovedError
    from gateway.store.postgres.move import move as copy_rows
    from gateway.store.postgres.opening import server_of

    settings, runtime = settings_of(config), real_runtime()
    path = Path(source.removeprefix("sqlite:"))
    if settings.postgres is not None or path.absolute() != settings.database.absolute():
        fail(f"the configuration names another database than {path}: {settings.database}", 2)
    try:
        server = server_of(PostgresUrl.parse(target))
    except ValueError as error:
        fail(f"{error}", 2)

    def tell(each: Moved) -> None:
        if not as_json:
            say(f"{each.table}: {each.rows} rows, SHA-256 {each.digest[:16]}…")

    with alone(settings, "not moved"), store_faults_told(settings.database):
        refuse_absent(settings)
        found = running(settings, runtime)
        if found:
            fail(f"not moved: {STOP_FIRST}: {', '.join(found)}")
        work = copy_rows(
            path,
            server,
            state_file_of(settings, runtime),
            operator=operator_name(),
            ids=runtime.ids,
            at=runtime.clock.moment().wall,
            tell=tell,
        )
        try:
            done = asyncio.run(work)
        except (NotMovedError, StateFileError) as error:
            fail(f"not moved: {error}")
    if as_json:
        tables = [{"table": each.table, "rows": each.rows, "sha256": each.digest} for each in done]
        print_json({"source": str(path), "target": server.label, "tables": tables})
        return
    say(f"{sum(each.rows for each in done)} rows are in {server.label}; {path} is frozen")
    say("next: set `database` to it in the configuration, and start the gateway")


def moved(*, config: ConfigOption = Path(DEFAULT_CONFIG), as_json: JsonOption = False) -> None:
    """Confirm that the database file was moved unchanged, and that no other copy of it is in use.

    Stop every gateway first. It is also needed after its state file was missing for a while. Refused if
    a mark may be missing.
    """
    from gateway.adoption import move

    async def work(db: Database, runtime: Runtime, state_file: StateFile) -> str | None:
        return await move(db, runtime, state_file, operator_name())

    settings = settings_of(config)
    _refuse_postgres(settings, "payout-gateway db adopt goes on with a copy of it")
    with alone(settings, "nothing was changed"):
        reason = _with_state_file(config, work)
    if reason is not None:
        fail(f"nothing was changed: {reason}")
    print_result({"frozen": None}, "the database is not frozen any more", as_json=as_json)


def promoted(
    *,
    accept_async: Annotated[
        bool,
        typer.Option(
            "--accept-async",
            help="Continue even if the old primary did not wait for "
            "this server: a payout whose mark is missing is paid twice.",
        ),
    ] = False,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Continue with a PostgreSQL standby that was promoted, if no running gateway has confirmed it.

    Stop every gateway first, and the old primary for good. Refused if a mark may be missing.
    """
    from gateway.adoption import go_on_promoted
    from gateway.runtime import real_runtime
    from gateway.store.opening import open_database

    settings, runtime = settings_of(config), real_runtime()
    if settings.postgres is None:
        fail(
            f"{settings.database} is a file, and has no standby: payout-gateway db moved, db adopt",
            2,
        )

    async def run() -> str | None:
        async with open_database(settings, runtime) as db:
            return await go_on_promoted(db, runtime, operator_name(), accept_async=accept_async)

    with alone(settings, "nothing was changed"):
        reason = asyncio.run(run())
    if reason is not None:
        fail(f"nothing was changed: {reason}")
    print_result({"frozen": False}, "the database is not frozen any more", as_json=as_json)


def adopt(
    *,
    last_mark_at: Annotated[
        str | None,
        typer.Option(
            help="When the last payout may have been handed to a custodian that this database does not "
            "know of: the time the lost database was last in use, such as 2026-03-02T10:00:00Z."
        ),
    ] = None,
    accept_new: Annotated[
        bool,
        typer.Option("--accept-new", help="Accept new quotes, payouts and batches (again)."),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="With --accept-new: the references that it lists were checked."),
    ] = False,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Continue with a database that was restored, or that may be an older copy for another reason.

    Stop every gateway first (not for --accept-new alone). Every open payout counts as handed over just
    now, with an unknown outcome. Unused quotes end. New payouts are accepted only with --accept-new.
    """
    from gateway.runtime import real_runtime

    if last_mark_at is None and not accept_new:
        fail("give --last-mark-at, or --accept-new once the database is adopted", 2)
    runtime, done, told = real_runtime(), None, {}
    if last_mark_at is not None:
        done = _adopt(config, runtime, microseconds_of("--last-mark-at", last_mark_at))
        told = done.as_json()
    references: list[str] = []
    if accept_new:
        references = _accept_new(config, runtime, checked=yes)
    accepting = accept_new and (yes or not references)
    if as_json:
        print_json({**told, "accepting": accepting, "references": references})
    else:
        if done is not None:
            _print_adopted(told)
        for reference in references:
            say(f"no payout has the reference {reference}")
        say(
            "new quotes, payouts and batches are accepted"
            if accepting
            else "new quotes, payouts and batches are not accepted: payout-gateway db adopt --accept-new"
        )
    if accept_new and not accepting:
        fail("check these with the custodian, then give --yes as well")


def _adopt(config: Path, runtime: Runtime, until: int) -> Adopted:
    from gateway import logs
    from gateway.adoption import Adoption, NotAdoptedError
    from gateway.app import open_gateway
    from gateway.config.routes import FailoverPolicy
    from gateway.errors import ConfigError, StateFileError
    from gateway.store.opening import refuse_absent

    settings = settings_of(config)
    logs.configure(settings.log.format, "warning")

    async def run() -> Adopted:
        # Build the whole wiring without its loops, because the instances know what custodians declare.
        async with open_gateway(settings, runtime=runtime) as gateway:
            adoption = Adoption(
                db=gateway.db,
                runtime=runtime,
                payouts=gateway.context.payouts,
                custodians=gateway.context.custodians,
                state_file=gateway.context.state_file,
                operator=operator_name(),
                left=frozenset(
                    each.custodian
                    for each in settings.routes
                    if each.failover is not FailoverPolicy.NEVER
                ),
            )
            return await adoption.run(until)

    try:
        with alone(settings, "not adopted"):
            refuse_absent(settings)
            return asyncio.run(run())
    except ConfigError as error:
        fail((f"config: {each}" for each in error.faults), 2)
    except (NotAdoptedError, StateFileError) as error:
        fail(f"not adopted: {error}")


def _accept_new(config: Path, runtime: Runtime, *, checked: bool) -> list[str]:
    from gateway.adoption import NotAdoptedError, accept_again

    async def work(db: Database, *_: object) -> list[str]:
        return await db.run(accept_again, runtime, operator_name(), checked=checked)

    try:
        return _with_state_file(config, work)
    except NotAdoptedError as error:
        fail(str(error))


def _with_state_file(
    config: Path, work: Callable[[Database, Runtime, StateFile], Awaitable[T]]
) -> T:
    """Open the store, and do work with it and its state file."""
    from gateway.errors import StateFileError
    from gateway.runtime import real_runtime
    from gateway.store.opening import open_database, refuse_absent, state_file_of

    settings, runtime = settings_of(config), real_runtime()
    state_file = state_file_of(settings, runtime)

    async def run() -> T:
        async with open_database(settings, runtime, state_file) as db:
            return await work(db, runtime, state_file)

    with store_faults_told(settings.database):
        refuse_absent(settings)
        try:
            return asyncio.run(run())
        except StateFileError as error:
            fail(str(error))


def _print_adopted(told: Mapping[str, Any]) -> None:
    since = told["missing_from"] or "the beginning"
    say(f"payouts handed over between {since} and {told['missing_until']} may be missing")
    say(
        f"{told['executions']} open executions and {told['without_execution']} payouts without one "
        "have an unknown outcome now"
    )
    say(f"{told['attention']} payouts need an operator: payout-gateway payouts list --attention")
    say(
        f"{told['quotes']} unused quotes were ended; {told['batches']} batches hand nothing more over"
    )
    say(f"the newest mark is {told['marks']} now")
