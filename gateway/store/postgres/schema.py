"""The schema on PostgreSQL: made at once at the newest revision, or upgraded by the same migrations.

Beside the tables of both stores there is what only PostgreSQL needs.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import cache

from sqlalchemy.schema import CreateIndex, CreateTable

from gateway.errors import SchemaMismatch, StoreUnusable
from gateway.model import GATE_VERSION
from gateway.store import migrate
from gateway.store.postgres.connection import Connection, Server
from gateway.store.postgres.errors import Conflict, ConnectionLost, Unavailable
from gateway.store.postgres.partition_tables import GUARD, first
from gateway.store.postgres_dialect import DIALECT
from gateway.store.schema import metadata

#: What names this very database: the cluster, its timeline (another one after each promotion and each
#: recovery to a point in time), the database in it, and its tables: a dump that is restored into the same
#: database makes them again.
IDENTITY = (
    "(SELECT system_identifier FROM pg_control_system())::text || '/' || "
    "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/' || "
    "(SELECT oid FROM pg_database WHERE datname = current_database())::text || '/' || "
    "coalesce(to_regclass('store_cluster')::oid::text, '')"
)
#: The standbys that the server waits for with each commit.
STANDBYS = "current_setting('synchronous_standby_names')"
#: Held while the schema is made, and while commands have the database alone.
LOCK = 7_812_730_952
_AT_ONE_TIME = f"SELECT pg_advisory_xact_lock({LOCK + 1})"
#: Held by an upgrade for as long as its connection is open.
_UPGRADING = f"SELECT pg_advisory_lock({LOCK + 2})"
_OF_POSTGRES = (
    *first(),
    *GUARD,
    # Locked as tables are, before a transaction takes its snapshot. They have no rows.
    "CREATE TABLE store_turn ()",
    "CREATE TABLE store_event_order ()",
    """CREATE TABLE store_writers (
        id TEXT PRIMARY KEY, token TEXT NOT NULL, at TIMESTAMPTZ NOT NULL DEFAULT now()
    )""",
    """CREATE TABLE store_cluster (
        id INTEGER PRIMARY KEY CHECK (id = 1), identity TEXT NOT NULL, standbys TEXT, standby_states TEXT
    )""",
    """CREATE TABLE store_vouched (
        gateway_id TEXT PRIMARY KEY, identity TEXT NOT NULL, remembers BOOLEAN NOT NULL
    )""",
    "CREATE TABLE alembic_version (version_num TEXT PRIMARY KEY)",
    """CREATE FUNCTION audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$""",
    """CREATE TRIGGER audit_log_no_change BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION audit_log_is_append_only()""",
    """CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only()""",
    f"""INSERT INTO store_state (id, marks, gate_version, frozen, accepting, witnessed)
    VALUES (1, 0, {GATE_VERSION}, NULL, 1, 0)""",  # noqa: S608 - a number of our own
    f"INSERT INTO store_schema (id, works_from) VALUES (1, '{migrate.WORKS_FROM}')",  # noqa: S608 - as above
)
_TABLES = (
    "SELECT c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname = current_schema()"
)
_REVISION = "SELECT version_num FROM alembic_version"
_WORKS_FROM = "SELECT works_from FROM store_schema WHERE id = 1"
_UPGRADED = "UPDATE alembic_version SET version_num = $1"
#: Of gateways that have not signed off, the oldest schema that one of them is made for.
_OLDEST_RUNNING = "SELECT min(schema_to) AS oldest FROM gateways WHERE stopped_at IS NULL"
#: The first revision of a PostgreSQL database.
FIRST = "0013"
#: A statement of an upgrade may take long on a large table. Waiting for a lock it is given up soon, and
#: retried: a transaction that waits for the lock would hold up all later ones.
_PATIENCE_S, _LOCK_S, _TRIES, _PAUSE_S = 3600.0, 2, 15, 1.0
#: A lock is not free, or its holder waits for one that the upgrade holds.
_LOCKED = ("55P03", "40P01")


@cache
def statements() -> tuple[str, ...]:
    """Return what makes the schema."""
    made: list[str] = []
    for table in metadata.sorted_tables:
        made.append(str(CreateTable(table).compile(dialect=DIALECT)))
        made += [
            str(CreateIndex(index).compile(dialect=DIALECT))
            for index in sorted(table.indexes, key=lambda each: str(each.name))
            if index.info.get("dialect", DIALECT.name) == DIALECT.name
        ]
    return (*made, *_OF_POSTGRES)


@dataclass(frozen=True)
class Found:
    """The schema of a database."""

    revision: str
    #: the oldest revision whose programs can work with it; None: it does not say
    works_from: str | None


async def look(server: Server) -> Found | None:
    """Return the schema of a database; None if it is empty. StoreUnusable, SchemaMismatch."""
    connection = Connection(server)
    try:
        await connection.open()
        return await _found(server, connection)
    except (Unavailable, ConnectionLost) as error:
        raise unusable(server, error) from error
    finally:
        await connection.close()


async def prepare(server: Server) -> tuple[str | None, str]:
    """Make the schema in an empty database; return the revision before and after.

    May be called by many processes at once. SchemaMismatch where the database has a schema that this
    program cannot work with, or tables of something else; StoreUnusable.
    """
    head = migrate.head_revision()
    connection = Connection(server)
    try:
        await connection.open()
        await connection.execute("BEGIN")
        await connection.rows(_AT_ONE_TIME)
        before = await _found(server, connection)
        if before is None:
            await _make(connection, head)
        await connection.commit()
    except (Unavailable, ConnectionLost, Conflict) as error:
        raise unusable(server, error) from error
    finally:
        await connection.close()
    if before is None:
        return None, head
    require_head(server, before)
    return before.revision, before.revision


async def upgrade(server: Server) -> tuple[str | None, str]:
    """Bring the schema to this program's; return the revision before and after.

    In one transaction, after what may take long: all of it is done or nothing. May be called twice, also by
    many processes at once. Reads and changes wait for a moment. SchemaMismatch, StoreUnusable.
    """
    patient = replace(server, statement_s=_PATIENCE_S)
    for left in reversed(range(_TRIES)):
        connection = Connection(patient)
        try:
            await connection.open()
            await _before(server, connection)
            # The revision is read once it is our turn, whatever level the database has by default.
            await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            await connection.rows(_AT_ONE_TIME)
            await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_S}s'")
            done = await _upgrade(server, connection)
            await connection.commit()
        except (Unavailable, ConnectionLost, Conflict) as error:
            if not left or getattr(error.__cause__, "sqlstate", None) not in _LOCKED:
                raise unusable(server, error) from error
        else:
            return done
        finally:
            await connection.close()
        await asyncio.sleep(_PAUSE_S)
    raise AssertionError


async def may_run_beside(server: Server) -> bool:
    """Whether every gateway that may run on a database can go on while it is upgraded."""
    connection = Connection(server)
    try:
        await connection.open()
        found = await _found(server, connection)
        if found is None or found.revision < migrate.WORKS_FROM:
            return False
        (row,) = await connection.rows(_OLDEST_RUNNING)
        return row["oldest"] is None or row["oldest"] >= migrate.WORKS_FROM
    except (Unavailable, ConnectionLost) as error:
        raise unusable(server, error) from error
    finally:
        await connection.close()


async def _make(connection: Connection, head: str) -> None:
    for text in statements():
        await connection.execute(text)
    await connection.rows("INSERT INTO alembic_version (version_num) VALUES ($1)", head)


async def _before(server: Server, connection: Connection) -> None:
    """Do what an upgrade needs first and what holds up nobody; one upgrade at a time until it disconnects."""
    await connection.rows(_UPGRADING)
    found = await _found(server, connection)
    if found is None or not _is_known(found):
        return
    await connection.execute(f"SET lock_timeout = '{_LOCK_S}s'")
    # Loads Alembic, which a gateway on a prepared database never needs.
    from gateway.store import upgrading  # noqa: PLC0415

    for text in upgrading.before_statements(found.revision, migrate.FOLDERS):
        await connection.execute(text)
    await connection.execute("RESET lock_timeout")


def _is_known(found: Found) -> bool:
    """Whether this program has the migrations from a revision on."""
    return found.revision >= FIRST and found.revision in migrate.known_revisions()


async def _upgrade(server: Server, connection: Connection) -> tuple[str | None, str]:
    found, head = await _found(server, connection), migrate.head_revision()
    if found is None:
        await _make(connection, head)
        return None, head
    if not _is_known(found):
        require_head(server, found)
        return found.revision, found.revision
    # Loads Alembic, as above.
    from gateway.store import upgrading  # noqa: PLC0415

    for text in upgrading.statements(DIALECT, found.revision, migrate.FOLDERS):
        await connection.execute(text)
    await connection.rows(_UPGRADED, head)
    return found.revision, head


def require_head(server: Server, found: Found) -> None:
    """Raise SchemaMismatch where a database's schema is not one that this program can work with."""
    head, revision = migrate.head_revision(), found.revision
    if migrate.is_usable(revision, found.works_from, head):
        return
    advice = (
        "Back it up, and run: payout-gateway db upgrade"
        if FIRST <= revision < head
        else "It is newer; run the program version it was made with."
        if revision > head
        else "This program does not know it."
    )
    raise SchemaMismatch(
        f"the database {server.label} has schema {revision}, this program needs {head}. {advice}"
    )


def unusable(server: Server, error: BaseException) -> StoreUnusable:
    """Return why a database cannot be used, in words."""
    words = str(error).removesuffix("; nothing was written") or "PostgreSQL cannot be reached"
    cause = error.__cause__
    told = f" ({cause})" if cause is not None and getattr(cause, "sqlstate", None) else ""
    return StoreUnusable(f"the database {server.label} cannot be used: {words}{told}")


async def _found(server: Server, connection: Connection) -> Found | None:
    names = {row["name"] for row in await connection.rows(_TABLES)}
    if not names:
        return None
    if "alembic_version" not in names or "store_turn" not in names:
        raise SchemaMismatch(
            f"the database {server.label} has tables, and they are not those of a payout-gateway; name an "
            "empty database"
        )
    rows = await connection.rows(_REVISION)
    works_from = await connection.rows(_WORKS_FROM) if "store_schema" in names else []
    return Found(
        str(rows[0]["version_num"]) if rows else "none",
        str(works_from[0]["works_from"]) if works_from else None,
    )
