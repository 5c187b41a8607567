"""Opening the store that is configured: schema, timeline, state file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path

from gateway.config.settings import Settings
from gateway.errors import StateFileError, StoreEmpty
from gateway.runtime import Runtime, real_runtime
from gateway.store import clocks, in_use, migrate
from gateway.store.database import Database, Row, Tx
from gateway.store.files import beside, close_to_others
from gateway.store.pinned import PinnedFile
from gateway.store.postgres.cluster import Cluster
from gateway.store.postgres.database import PostgresDatabase
from gateway.store.postgres.opening import compare as compare_cluster
from gateway.store.postgres.opening import open_postgres, open_postgres_to_read
from gateway.store.state import freeze, note_witnessed, state_row
from gateway.store.state_file import FileId, Judgement, Recorded, StateFile, judge
from gateway.store.unusable import told


def state_file_of(settings: Settings, runtime: Runtime) -> StateFile:
    """Return the state file of the configured database."""
    if settings.postgres is not None:
        return Cluster(settings.postgres.label, runtime)
    clock_id = runtime.clock.moment().clock_id
    return StateFile(settings.state_path, settings.database, clock_id)


@asynccontextmanager
async def open_database(
    settings: Settings, runtime: Runtime | None = None, state_file: StateFile | None = None
) -> AsyncIterator[Database]:
    """Open the store. A fresh one is made; one of another schema is refused.

    The runtime's timeline goes by the store from then on. The database is compared with its state
    file, and frozen where it is an older copy. Nobody can have it alone meanwhile, and nothing is
    written to it once it is not the file at its path. Raises SchemaMismatch, which says what to run;
    StoreUnusable, which says why; InUse.
    """
    runtime = runtime or real_runtime()
    if settings.postgres is not None:
        cluster = state_file or state_file_of(settings, runtime)
        assert isinstance(cluster, Cluster)  # noqa: S101 - as `state_file_of` makes it
        async with open_postgres(settings.postgres, runtime, cluster) as store:
            yield store
        return
    close_to_others((*beside(settings.database), settings.state_path))
    witness = state_file or state_file_of(settings, runtime)
    with ExitStack() as held:
        alone = await asyncio.to_thread(held.enter_context, in_use.shared(settings.database))
        migrate.prepare(settings.database)
        file = held.enter_context(closing(PinnedFile(settings.database)))
        witness.pin(file)
        held.callback(witness.pin, None)
        async with AsyncExitStack() as opened:
            with told(settings.database):
                db = await opened.enter_async_context(
                    Database(
                        settings.database,
                        witness=witness,
                        verify=file.check,
                        before_commit=witness.before_commit,
                        on_schema_change=migrate.check_schema,
                        alone=alone,
                    )
                )
                await anchor_timeline(db, runtime)
                await compare(db, runtime, witness)
            yield db


@asynccontextmanager
async def open_to_read(
    settings: Settings, runtime: Runtime | None = None
) -> AsyncIterator[Database]:
    """Open the store to be read, and change no file: nothing is made, upgraded, frozen or compared.

    The runtime's timeline goes by the store where one has run on this machine's clock. Raises
    StoreUnusable (StoreEmpty if there is none yet), SchemaMismatch. Beside a gateway that starts in the same moment a file without a log
    may be read in the middle of a change; repeat it then.
    """
    if settings.postgres is not None:
        async with open_postgres_to_read(settings.postgres, runtime) as store:
            yield store
        return
    refuse_missing(settings.database)
    async with AsyncExitStack() as opened:
        with told(settings.database):
            db = await opened.enter_async_context(Database(settings.database, untouched=True))
            found, works_from = await db.read(migrate.revision), await db.read(migrate.works_from)
            migrate.require_head(settings.database, found, works_from)
            if runtime is not None:
                offset = await db.read(clocks.known_offset, runtime.clock.moment().clock_id)
                if offset is not None:
                    runtime.timeline.anchor(offset)
        yield db


def refuse_absent(settings: Settings) -> None:
    """Raise StoreEmpty if the configured database is a file that is not there."""
    if settings.postgres is None:
        refuse_missing(settings.database)


def refuse_missing(database: Path) -> None:
    """Raise StoreEmpty if there is no database. For whatever must not make an empty one."""
    if not database.exists():
        raise StoreEmpty(
            f"there is no database {database}: look at `database` in the configuration; "
            "`payout-gateway db upgrade` makes an empty one"
        )


async def anchor_timeline(db: Database, runtime: Runtime) -> None:
    """Anchor the timeline: all processes on one database agree about the time."""
    moment = runtime.clock.moment()
    offset = await db.read(clocks.known_offset, moment.clock_id)
    if offset is None:
        offset = await db.run(clocks.anchor, moment)
    runtime.timeline.anchor(offset)


async def compare(db: Database, runtime: Runtime, state_file: StateFile) -> Row:
    """Compare the database with its state file; freeze it where it is older. Return the store's state.

    May be called at any time. Where the file cannot be read or written nothing is concluded from it:
    `state_file.failing` says so, and no mark is recorded.
    """
    if isinstance(db, PostgresDatabase) and isinstance(state_file, Cluster):
        return await compare_cluster(db, state_file)
    # The file first: what it holds was committed before, so that a healthy database is never behind.
    try:
        recorded = await runtime.offload(state_file.read)
        row = await db.read(state_row)
        if recorded is None and row["witnessed"]:
            # Another process may have written the first file in between.
            recorded = await runtime.offload(state_file.read)
            row = await db.read(state_row)
        here = state_file.database_file()
    except StateFileError:
        return await db.read(state_row)
    judgement = _judge(recorded, here, row)
    if judgement.frozen is not None:
        if row["frozen"] is None:
            await db.run(_freeze_if_older, runtime, state_file)
            row = await db.read(state_row)
    elif judgement.write:
        with suppress(StateFileError):
            await runtime.offload(lambda: state_file.catch_up(recorded, row["marks"], here))
    if not row["witnessed"] and (recorded is not None or state_file.failing is None):
        await db.run(note_witnessed)
    state_file.seen.note(row["marks"])
    return row


async def frozen_or_older(db: Database, state_file: StateFile) -> str | None:
    """Return why the database is frozen, or would be once a gateway opens it. Changes nothing."""
    row = await db.read(state_row)
    if row["frozen"] is not None or isinstance(state_file, Cluster):
        return None if row["frozen"] is None else str(row["frozen"])
    try:
        recorded, here = state_file.read(), state_file.database_file()
    except StateFileError:
        return None
    return _judge(recorded, here, row).frozen


async def _freeze_if_older(tx: Tx, runtime: Runtime, state_file: StateFile) -> None:
    """Store function: compare again, and freeze.

    The file is read inside the transaction: between the look before and this one an operator may
    have adopted the database, which writes the file and then takes the freeze away.
    """
    try:
        recorded, here = state_file.read(), state_file.database_file()
    except StateFileError:
        return
    judgement = _judge(recorded, here, await state_row(tx))
    if judgement.frozen is not None:
        await freeze(tx, runtime.ids, runtime.clock.moment().wall, judgement.frozen)


def _judge(recorded: Recorded | None, here: FileId, row: Row) -> Judgement:
    return judge(
        recorded, here, row["marks"], witnessed=bool(row["witnessed"]), used=bool(row["used"])
    )
