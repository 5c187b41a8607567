"""Opening the store on PostgreSQL: schema, server, timeline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

from gateway.database_url import PostgresUrl
from gateway.errors import InUse, StoreEmpty
from gateway.runtime import Runtime
from gateway.store import clocks, migrate
from gateway.store.postgres import schema
from gateway.store.postgres.cluster import Cluster, database_time
from gateway.store.postgres.connection import Connection, Server
from gateway.store.postgres.database import PostgresDatabase
from gateway.store.postgres.errors import ConnectionLost, OutcomeUnknown, Unavailable
from gateway.store.state import note_witnessed, state_row
from gateway.store.statements import Row

#: How long commands that want the database alone wait for others that have it for a moment.
_ALONE_WAIT_S, _LOOK_S = 2.0, 0.05
_TAKE_ALONE = f"SELECT pg_try_advisory_lock({schema.LOCK}) AS taken"
#: Databases that this process wants alone.
_alone: set[str] = set()


def server_of(url: PostgresUrl) -> Server:
    """Return the server of a URL."""
    return Server(url.url, url.label)


def prepare(url: PostgresUrl) -> tuple[str | None, str]:
    """Make the tables of an empty database; return its revision before and after.

    SchemaMismatch where it has others; StoreUnusable.
    """
    return asyncio.run(schema.prepare(server_of(url)))


def upgrade(url: PostgresUrl) -> tuple[str | None, str]:
    """Bring a database to this program's schema; return its revision before and after.

    SchemaMismatch where it has another program's tables; StoreUnusable; InUse where it is wanted alone.
    """

    async def work() -> tuple[str | None, str]:
        server = server_of(url)
        async with _taken(server, own=url.label in _alone):
            return await schema.upgrade(server)

    return asyncio.run(work())


def may_run_beside(url: PostgresUrl) -> bool:
    """Whether every gateway that may run on a database can go on while it is upgraded."""
    return asyncio.run(schema.may_run_beside(server_of(url)))


@contextmanager
def alone(url: PostgresUrl) -> Iterator[None]:
    """Have what this process opens meanwhile alone: InUse, when it opens it, where another one has it."""
    _alone.add(url.label)
    try:
        yield
    finally:
        _alone.discard(url.label)


@asynccontextmanager
async def open_postgres(
    url: PostgresUrl, runtime: Runtime, cluster: Cluster
) -> AsyncIterator[PostgresDatabase]:
    """Open the store. An empty database gets its tables; one of another schema is refused.

    The runtime's timeline goes by the store from then on. Where the server is not the one that the
    database was used on, it is frozen. Raises SchemaMismatch, StoreUnusable, InUse.
    """
    server = server_of(url)
    own = url.label in _alone
    async with _taken(server, own=own):
        await schema.prepare(server)
        db = PostgresDatabase(
            server,
            marked=cluster.record,
            revision=migrate.head_revision(),
            check_identity=cluster.check_identity,
            guard=cluster.guard,
            alone=own,
        )
        with told(server):
            async with db:
                await anchor_timeline(db, runtime)
                await compare(db, cluster)
                yield db


@asynccontextmanager
async def open_postgres_to_read(
    url: PostgresUrl, runtime: Runtime | None
) -> AsyncIterator[PostgresDatabase]:
    """Open the store to be read: nothing is made, upgraded, frozen or compared."""
    server = server_of(url)
    found = await schema.look(server)
    if found is None:
        raise StoreEmpty(
            f"the database {server.label} is empty; `payout-gateway db upgrade` makes its tables"
        )
    schema.require_head(server, found)
    with told(server):
        async with PostgresDatabase(server, untouched=True) as db:
            if runtime is not None:
                offset = await db.read(clocks.known_offset, runtime.clock.moment().clock_id)
                if offset is not None:
                    runtime.timeline.anchor(offset)
            yield db


async def anchor_timeline(db: PostgresDatabase, runtime: Runtime) -> None:
    """Anchor the timeline at the database's clock: all processes agree, whatever their own clocks say."""
    moment = runtime.clock.moment()
    offset = await db.read(clocks.known_offset, moment.clock_id)
    if offset is None:
        at = await db.read(database_time)
        offset = await db.run(clocks.anchor, replace(runtime.clock.moment(), wall=at))
    runtime.timeline.anchor(offset)


async def compare(db: PostgresDatabase, cluster: Cluster) -> Row:
    """Compare the server with the one that is known; freeze the database where it is another one.

    Return the store's state. May be called at any time.
    """
    known, here = await db.read(cluster.look)
    if known != replace(here, name=""):
        await db.run(cluster.meet)
        known, here = await db.read(cluster.look)
    if known is not None and known.identity == here.identity:
        cluster.met(known, here)
    row = await db.read(state_row)
    if not row["witnessed"]:
        await db.run(note_witnessed)
    cluster.seen.note(row["marks"])
    return await db.read(state_row)


@contextmanager
def told(server: Server) -> Iterator[None]:
    """Raise StoreUnusable, in words, where PostgreSQL cannot be used."""
    try:
        yield
    except (Unavailable, OutcomeUnknown, ConnectionLost) as error:
        raise schema.unusable(server, error) from error


@asynccontextmanager
async def _taken(server: Server, *, own: bool) -> AsyncIterator[None]:
    """Have the database alone, if that is wanted."""
    if not own:
        yield
        return
    connection = Connection(server)
    loop = asyncio.get_running_loop()
    until = loop.time() + _ALONE_WAIT_S
    try:
        with told(server):
            await connection.open()
            while not (await connection.rows(_TAKE_ALONE))[0]["taken"]:
                if loop.time() >= until:
                    raise InUse(server.label, ["another process"])
                await asyncio.sleep(_LOOK_S)
        yield
    finally:
        await connection.close()


__all__ = [
    "alone",
    "compare",
    "may_run_beside",
    "open_postgres",
    "open_postgres_to_read",
    "prepare",
    "upgrade",
]
