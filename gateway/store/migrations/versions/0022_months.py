"""PostgreSQL: events, deliveries and their tries are partitioned by position; no row is copied.

The tables become the first partition of new ones with the same names. Older programs go on: their statements
are the same, and the sequence of a payout's events is kept by a trigger.
"""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

#: Positions from here on are of months; before, no database has given so many.
_FIRST_END = 1 << 40
_TABLES = ("events", "deliveries", "delivery_attempts")

#: Run before the upgrade's transaction, each in one of its own: a validated constraint spares `ATTACH` the
#: look at every row while nobody can write. The look of `VALIDATE` holds up no read and no write.
BEFORE_ON_POSTGRES = tuple(
    text
    for table in _TABLES
    for text in (
        f"""DO $$ BEGIN
        IF NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = 'ck_{table}_first_position'
            AND connamespace = current_schema()::regnamespace) THEN
            ALTER TABLE {table} ADD CONSTRAINT ck_{table}_first_position
                CHECK (position < {_FIRST_END}) NOT VALID;
        END IF; END $$""",  # noqa: S608 - names and a number of our own
        f"ALTER TABLE {table} VALIDATE CONSTRAINT ck_{table}_first_position",
    )
)

_MOVED = (
    "LOCK TABLE endpoints IN SHARE ROW EXCLUSIVE MODE",
    "LOCK TABLE events, deliveries, delivery_attempts IN ACCESS EXCLUSIVE MODE",
    "ALTER TABLE delivery_attempts DROP CONSTRAINT fk_delivery_attempts_position_endpoint_id",
    "ALTER TABLE deliveries DROP CONSTRAINT fk_deliveries_position",
    *(f"ALTER TABLE {table} RENAME TO {table}_first" for table in _TABLES),
    *(
        f"ALTER TABLE {table}_first RENAME CONSTRAINT pk_{table} TO pk_{table}_first"
        for table in _TABLES
    ),
    "ALTER TABLE events_first RENAME CONSTRAINT uq_events_id TO uq_events_first_id",
    (
        "ALTER TABLE events_first RENAME CONSTRAINT uq_events_payout_id_sequence "
        "TO uq_events_first_payout_id_sequence"
    ),
    "ALTER INDEX ix_events_org_mode_position RENAME TO ix_events_first_org_mode_position",
    "ALTER INDEX ix_deliveries_pending RENAME TO ix_deliveries_first_pending",
    "ALTER INDEX ix_deliveries_skipped RENAME TO ix_deliveries_first_skipped",
    "ALTER INDEX ix_delivery_attempts_endpoint RENAME TO ix_delivery_attempts_first_endpoint",
)
_MADE = (
    """CREATE TABLE events (
        position BIGINT NOT NULL DEFAULT nextval('events_position_seq'), id TEXT COLLATE "C" NOT NULL,
        org TEXT COLLATE "C" NOT NULL, mode TEXT COLLATE "C" NOT NULL, type TEXT COLLATE "C" NOT NULL,
        payout_id TEXT COLLATE "C", sequence BIGINT, body BYTEA NOT NULL, created_at BIGINT NOT NULL,
        CONSTRAINT pk_events PRIMARY KEY (position)
    ) PARTITION BY RANGE (position)""",
    "ALTER SEQUENCE events_position_seq OWNED BY events.position",
    "CREATE INDEX ix_events_org_mode_position ON events (org, mode, position)",
    """CREATE TABLE deliveries (
        position BIGINT NOT NULL, endpoint_id TEXT COLLATE "C" NOT NULL, state TEXT COLLATE "C" NOT NULL,
        attempts BIGINT NOT NULL, due_at BIGINT NOT NULL, lease_token BIGINT NOT NULL, settled_at BIGINT,
        trigger TEXT COLLATE "C" NOT NULL, plan_from BIGINT NOT NULL,
        CONSTRAINT pk_deliveries PRIMARY KEY (position, endpoint_id),
        CONSTRAINT fk_deliveries_endpoint_id FOREIGN KEY (endpoint_id) REFERENCES endpoints (id)
    ) PARTITION BY RANGE (position)""",
    "CREATE INDEX ix_deliveries_pending ON deliveries (endpoint_id, due_at) WHERE state = 'pending'",
    "CREATE INDEX ix_deliveries_skipped ON deliveries (endpoint_id) WHERE state = 'skipped'",
    """CREATE TABLE delivery_attempts (
        position BIGINT NOT NULL, endpoint_id TEXT COLLATE "C" NOT NULL, attempt BIGINT NOT NULL,
        outcome TEXT COLLATE "C" NOT NULL, http_status BIGINT, response_snippet TEXT COLLATE "C",
        started_at BIGINT NOT NULL, duration_ms BIGINT NOT NULL, next_attempt_at BIGINT,
        trigger TEXT COLLATE "C" NOT NULL,
        CONSTRAINT pk_delivery_attempts PRIMARY KEY (position, endpoint_id, attempt)
    ) PARTITION BY RANGE (position)""",
    "CREATE INDEX ix_delivery_attempts_endpoint ON delivery_attempts (endpoint_id, started_at)",
    *(
        f"ALTER TABLE {table} ATTACH PARTITION {table}_first "
        f"FOR VALUES FROM (MINVALUE) TO ({_FIRST_END})"
        for table in _TABLES
    ),
)
_GUARDED = (
    """CREATE TABLE store_event_sequences (
        payout_id TEXT COLLATE "C" PRIMARY KEY, sequence BIGINT NOT NULL
    ) WITH (fillfactor = 70)""",
    """CREATE FUNCTION events_are_unique() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS
    $$ BEGIN
        IF EXISTS (SELECT 1 FROM events WHERE id = NEW.id) THEN
            RAISE unique_violation USING MESSAGE = 'there is an event with this id';
        END IF;
        IF NEW.payout_id IS NULL OR NEW.sequence IS NULL THEN
            RETURN NEW;
        END IF;
        UPDATE store_event_sequences SET sequence = NEW.sequence
            WHERE payout_id = NEW.payout_id AND sequence < NEW.sequence;
        IF NOT FOUND THEN
            -- The first one of a payout, or of one from before this table.
            IF EXISTS (SELECT 1 FROM events
                WHERE payout_id = NEW.payout_id AND sequence >= NEW.sequence) THEN
                RAISE unique_violation USING MESSAGE = 'the payout has an event with this number or a later one';
            END IF;
            INSERT INTO store_event_sequences (payout_id, sequence) VALUES (NEW.payout_id, NEW.sequence);
        END IF;
        RETURN NEW;
    END $$""",
    """CREATE TRIGGER events_unique BEFORE INSERT ON events
    FOR EACH ROW EXECUTE FUNCTION events_are_unique()""",
)


def upgrade() -> None:
    """Apply. Nothing changes on SQLite."""
    if op.get_context().dialect.name == "postgresql":
        for text in (*_MOVED, *_MADE, *_GUARDED):
            op.execute(text)
