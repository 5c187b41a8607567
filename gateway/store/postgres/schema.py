"""The schema on PostgreSQL: made at once at the newest revision, beside what only PostgreSQL needs."""

from __future__ import annotations

from functools import cache

from sqlalchemy.schema import CreateIndex, CreateTable

from gateway.errors import SchemaMismatch, StoreUnusable
from gateway.model import GATE_VERSION
from gateway.store import migrate
from gateway.store.postgres.connection import Connection, Server
from gateway.store.postgres.errors import Conflict, ConnectionLost, Unavailable
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
#: Held while the schema is made, and while commands have the database alone.
LOCK = 7_812_730_952
_AT_ONE_TIME = f"SELECT pg_advisory_xact_lock({LOCK + 1})"
_OF_POSTGRES = (
    # Locked as tables are, before a transaction takes its snapshot. They have no rows.
    "CREATE TABLE store_turn ()",
    "CREATE TABLE store_event_order ()",
    """CREATE TABLE store_writers (
        id TEXT PRIMARY KEY, token TEXT NOT NULL, at TIMESTAMPTZ NOT NULL DEFAULT now()
    )""",
    "CREATE TABLE store_cluster (id INTEGER PRIMARY KEY CHECK (id = 1), identity TEXT NOT NULL)",
    "CREATE TABLE alembic_version (version_num TEXT PRIMARY KEY)",
    """CREATE FUNCTION audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$""",
    """CREATE TRIGGER audit_log_no_change BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION audit_log_is_append_only()""",
    """CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only()""",
    f"""INSERT INTO store_state (id, marks, gate_version, frozen, accepting, witnessed)
    VALUES (1, 0, {GATE_VERSION}, NULL, 1, 0)""",  # noqa: S608 - a number of our own
)
_TABLES = (
    "SELECT c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname = current_schema()"
)
_REVISION = "SELECT version_num FROM alembic_version"


@cache
def statements() -> tuple[str, ...]:
    """Return what makes the schema."""
    made: list[str] = []
    for table in metadata.sorted_tables:
        text = str(CreateTable(table).compile(dialect=DIALECT))
        made.append(text.replace(" SERIAL ", " BIGSERIAL "))
        made += [
            str(CreateIndex(index).compile(dialect=DIALECT))
            for index in sorted(table.indexes, key=lambda each: str(each.name))
        ]
    return (*made, *_OF_POSTGRES)


async def current_revision(server: Server) -> str | None:
    """Return the revision of a database; None where it is empty. StoreUnusable, SchemaMismatch."""
    connection = Connection(server)
    try:
        await connection.open()
        return await _revision(server, connection)
    except (Unavailable, ConnectionLost) as error:
        raise unusable(server, error) from error
    finally:
        await connection.close()


async def prepare(server: Server) -> tuple[str | None, str]:
    """Make the schema in an empty database; return the revision before and after.

    May be called by many processes at once. SchemaMismatch where the database has another schema, or
    tables of something else; StoreUnusable.
    """
    head = migrate.head_revision()
    connection = Connection(server)
    try:
        await connection.open()
        await connection.execute("BEGIN")
        await connection.rows(_AT_ONE_TIME)
        before = await _revision(server, connection)
        if before is None:
            for text in statements():
                await connection.execute(text)
            await connection.rows("INSERT INTO alembic_version (version_num) VALUES ($1)", head)
        await connection.commit()
    except (Unavailable, ConnectionLost, Conflict) as error:
        raise unusable(server, error) from error
    finally:
        await connection.close()
    require_head(server, before or head)
    return before, head


def require_head(server: Server, revision: str) -> None:
    """Raise SchemaMismatch where a database's revision is not the one that this program needs."""
    head = migrate.head_revision()
    if revision == head:
        return
    advice = (
        "Stop every gateway on it, back it up, and run: payout-gateway db upgrade"
        if revision < head
        else "It is newer; run the program version it was made with."
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


async def _revision(server: Server, connection: Connection) -> str | None:
    names = {row["name"] for row in await connection.rows(_TABLES)}
    if not names:
        return None
    if "alembic_version" not in names or "store_turn" not in names:
        raise SchemaMismatch(
            f"the database {server.label} has tables, and they are not those of a payout-gateway; name an "
            "empty database"
        )
    rows = await connection.rows(_REVISION)
    return str(rows[0]["version_num"]) if rows else "none"
