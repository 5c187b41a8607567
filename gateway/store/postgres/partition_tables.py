"""What partitions are made of: the tables of a range of positions, and the guard across all of them."""

from __future__ import annotations

from gateway.store.months import FIRST_END, Month

#: The partitioned tables. Locks are taken in this order.
TABLES = ("events", "deliveries", "delivery_attempts")
#: The partition of what was written before there were months. It is never dropped.
FIRST = "first"


def of_month(month: Month) -> tuple[str, ...]:
    """Return what makes the partitions of a month."""
    return _parts(month.name, f"({month.first}) TO ({month.end})")


def first() -> tuple[str, ...]:
    """Return what makes the first partitions, as migration 0022 leaves them."""
    constraints = (
        f"ALTER TABLE {table} ADD CONSTRAINT ck_{table}_position CHECK (position < {FIRST_END})"
        for table in (f"{table}_{FIRST}" for table in TABLES)
    )
    made = _parts(FIRST, f"(MINVALUE) TO ({FIRST_END})")
    return (*made[: len(TABLES)], *constraints, *made[len(TABLES) :])


def _parts(name: str, values: str) -> tuple[str, ...]:
    """Return what makes partitions. `ATTACH`, and not `PARTITION OF`: that would lock the whole tables."""
    return (
        *(f"CREATE TABLE {table}_{name} (LIKE {table} INCLUDING DEFAULTS)" for table in TABLES),
        (
            f"ALTER TABLE events_{name} ADD CONSTRAINT pk_events_{name} PRIMARY KEY (position), "
            f"ADD CONSTRAINT uq_events_{name}_id UNIQUE (id), "
            f"ADD CONSTRAINT uq_events_{name}_payout_id_sequence UNIQUE (payout_id, sequence)"
        ),
        f"CREATE INDEX ix_events_{name}_org_mode_position ON events_{name} (org, mode, position)",
        (
            f"ALTER TABLE deliveries_{name} "
            f"ADD CONSTRAINT pk_deliveries_{name} PRIMARY KEY (position, endpoint_id)"
        ),
        (
            f"CREATE INDEX ix_deliveries_{name}_pending ON deliveries_{name} (endpoint_id, due_at) "
            "WHERE state = 'pending'"
        ),
        (
            f"CREATE INDEX ix_deliveries_{name}_skipped ON deliveries_{name} (endpoint_id) "
            "WHERE state = 'skipped'"
        ),
        (
            f"ALTER TABLE delivery_attempts_{name} "
            f"ADD CONSTRAINT pk_delivery_attempts_{name} PRIMARY KEY (position, endpoint_id, attempt)"
        ),
        (
            f"CREATE INDEX ix_delivery_attempts_{name}_endpoint "
            f"ON delivery_attempts_{name} (endpoint_id, started_at)"
        ),
        *(
            f"ALTER TABLE {table} ATTACH PARTITION {table}_{name} FOR VALUES FROM {values}"
            for table in TABLES
        ),
    )


#: Across partitions: an event's id is unique, and the numbers of a payout's events rise. By a trigger, so that
#: an insert is one statement, and that programs from before do the same.
GUARD = (
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
