"""The tables. Times are microseconds since 1970 (UTC), JSON is text, money is decimal text.

Only integers, text and bytes are used, so that one set of statements serves SQLite and PostgreSQL.

On PostgreSQL events, deliveries and their tries are partitioned by position, a partition for each month
(`gateway.store.months`). A partition's rows are unique by constraints of its own, across partitions a trigger
of `events` checks them (migration 0022). Foreign keys between the three are SQLite's only: PostgreSQL would
look through the other table whenever a partition is dropped.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from gateway.store.metadata import metadata
from gateway.store.schema_batches import batches
from gateway.store.schema_control import money_rules, pauses, store_schema
from gateway.store.schema_executions import (
    account_declarations,
    audit_log,
    clocks,
    delivered_looks,
    evidence,
    execution_items,
    executions,
    gateways,
    heartbeats,
    store_state,
)
from gateway.store.schema_funds import fund_accounts, reservations
from gateway.store.schema_spending import spending_counters, spending_entries
from gateway.store.schema_users import sessions, users

#: Where constraints are that partitions have one by one.
_UNPARTITIONED = "sqlite"
_BY_POSITION = "RANGE (position)"

__all__ = [
    "account_declarations",
    "account_locks",
    "api_keys",
    "attention",
    "audit_log",
    "batches",
    "clocks",
    "delivered_looks",
    "deliveries",
    "delivery_attempts",
    "endpoints",
    "events",
    "evidence",
    "execution_items",
    "executions",
    "fund_accounts",
    "gateways",
    "heartbeats",
    "idempotency",
    "inbox",
    "inbox_refs",
    "metadata",
    "money_rules",
    "pauses",
    "payout_hashes",
    "payout_returns",
    "payouts",
    "previous_secrets",
    "quotes",
    "recoveries",
    "refs",
    "reservations",
    "sessions",
    "spending_counters",
    "spending_entries",
    "store_schema",
    "store_state",
    "users",
]

#: API keys: a digest only; the key itself is shown once and kept nowhere.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    #: none: a key of the operator
    Column("org", Text),
    Column("mode", Text, nullable=False),
    Column("digest", Text, nullable=False, unique=True),
    Column("hint", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("name", Text),
    #: who answers for it; none for keys of before owners were asked for
    Column("owner", Text),
    #: JSON lists: what it may do, and the networks that it may be used from (empty: any)
    Column("scopes", Text, nullable=False, server_default="[]"),
    Column("networks", Text, nullable=False, server_default="[]"),
    Column("expires_at", BigInteger),
    #: at most a minute old
    Column("last_used_at", BigInteger),
)

#: Quotes: a price promise; consumed once in live mode by `payout_id`.
quotes = Table(
    "quotes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("org", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("external_ref", Text, nullable=False),
    Column("reference", Text),
    Column("metadata", Text, nullable=False),
    Column("terms", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("payout_id", Text),
    #: how its route was chosen: JSON, for operators. None before release 0014
    Column("decision", Text),
)
Index(
    "ix_quotes_unused",
    quotes.c.expires_at,
    sqlite_where=quotes.c.payout_id.is_(None),
    postgresql_where=quotes.c.payout_id.is_(None),
)

#: As text: SQLite uses an index on a part of a table where a query says the same.
OPEN = "status = 'pending' OR status = 'broadcast'"
FAILED = "status = 'failed'"
HELD_WORDS = ("awaiting_approval", "awaiting_funds", "outcome_unknown", "requires_action")
HELD = f"sub_status IN {HELD_WORDS}"
_LISTED = ("org", "mode", "created_at", "id")

#: Payouts: one row each, the truth about its status.
payouts = Table(
    "payouts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("org", Text, nullable=False),
    Column("mode", Text, nullable=False),
    #: None for an item of a batch, which has no quote
    Column("quote_id", Text, ForeignKey("quotes.id"), unique=True),
    Column("status", Text, nullable=False),
    Column("sub_status", Text, nullable=False),
    Column("external_ref", Text, nullable=False),
    Column("reference", Text),
    Column("metadata", Text, nullable=False),
    Column("terms", Text, nullable=False),
    Column("custodian", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("custodian_reference", Text),
    Column("custodian_word", Text),
    #: timeline, transactions, the last action, ids at custodians (`gateway.store.rows.Document`)
    Column("document", Text, nullable=False),
    Column("failure", Text),
    #: whether money left the source; null unless it failed
    Column("funds_moved", Text),
    Column("fees_paid_usd", Text),
    Column("observed_at", BigInteger),
    Column("sequence", Integer, nullable=False),
    Column("first_answer", LargeBinary),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("batch_id", Text, ForeignKey("batches.id")),
    Column("batch_position", Integer),
    #: what the partner calls the payee, in its batch
    Column("name", Text),
    #: what `reference` is compared by (`gateway.text.reference_key`)
    Column("reference_key", Text),
    #: when the recipient's personal data was erased
    Column("erased_at", BigInteger),
    #: what came back after it was delivered: the sum of its `payout_returns`
    Column("returned_amount", Text),
    Index("ix_payouts_batch", "batch_id", "batch_position"),
    # Of each filter of the list, in the list's order: a page is read from the place where it begins.
    Index("ix_payouts_org_mode_created", *_LISTED),
    Index("ix_payouts_org_mode_custodian", "org", "mode", "custodian", "created_at", "id"),
    Index("ix_payouts_org_mode_external_ref", "org", "mode", "external_ref", "created_at", "id"),
    Index("ix_payouts_org_mode_reference_key", "org", "mode", "reference_key", "created_at", "id"),
    Index(
        "ix_payouts_org_mode_open", *_LISTED, sqlite_where=text(OPEN), postgresql_where=text(OPEN)
    ),
    Index(
        "ix_payouts_org_mode_failed",
        *_LISTED,
        sqlite_where=text(FAILED),
        postgresql_where=text(FAILED),
    ),
    # Few payouts come to these, so it costs the others nothing.
    Index(
        "ix_payouts_org_mode_held",
        "org",
        "mode",
        "sub_status",
        "created_at",
        "id",
        sqlite_where=text(HELD),
        postgresql_where=text(HELD),
    ),
    # Of open payouts alone. SQLite would take an index on every status for "delivered", too, and read nearly
    # all payouts by it.
    Index("ix_payouts_status", "status", sqlite_where=text(OPEN)),
)
#: Payouts that have ended and whose personal data is still there.
ENDED = text("status <> 'pending' AND status <> 'broadcast' AND erased_at IS NULL")
Index("ix_payouts_ended", payouts.c.updated_at, sqlite_where=ENDED, postgresql_where=ENDED)

#: Hashes of transactions, so that a payout is found by one.
payout_hashes = Table(
    "payout_hashes",
    metadata,
    Column("tx_hash", Text, primary_key=True),
    Column("payout_id", Text, ForeignKey("payouts.id"), primary_key=True),
    sqlite_with_rowid=False,
)

#: Money that came back after a payout was delivered, one row per return.
payout_returns = Table(
    "payout_returns",
    metadata,
    Column("id", Text, primary_key=True),
    Column("payout_id", Text, ForeignKey("payouts.id"), nullable=False),
    Column("custodian", Text, nullable=False),
    #: the custodian's own id of it; none where it tells totals alone
    Column("custodian_id", Text),
    Column("amount", Text, nullable=False),
    Column("asset", Text, nullable=False),
    #: when it came back, by the custodian
    Column("returned_at", BigInteger, nullable=False),
    Column("word", Text),
    Column("recorded_at", BigInteger, nullable=False),
    UniqueConstraint("custodian", "custodian_id"),
    Index("ix_payout_returns_payout", "payout_id"),
)

#: Who holds the turn at a source account that pays one at a time.
account_locks = Table(
    "account_locks",
    metadata,
    Column("custodian", Text, primary_key=True),
    Column("account_type", Text, primary_key=True),
    Column("account_id", Text, primary_key=True),
    Column("execution_id", Text, nullable=False),
    Column("taken_at", BigInteger, nullable=False),
    Index("ix_account_locks_execution", "execution_id"),
)

#: Ids at the custodians, so that news finds its payout.
refs = Table(
    "refs",
    metadata,
    Column("custodian", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("payout_id", Text, ForeignKey("payouts.id"), nullable=False),
    Index("ix_refs_payout", "payout_id"),
)

#: Webhooks of custodians, raw, once per delivery of theirs.
inbox = Table(
    "inbox",
    metadata,
    Column("custodian", Text, primary_key=True),
    Column("dedup_key", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("payout_id", Text),
    Column("received_at", BigInteger, nullable=False),
    Column("settled_at", BigInteger),
    Index("ix_inbox_payout", "payout_id"),
)
Index(
    "ix_inbox_new",
    inbox.c.received_at,
    sqlite_where=inbox.c.state == "new",
    postgresql_where=inbox.c.state == "new",
)

#: States of webhooks that match no payout, and of those that are done with; `new` is neither.
UNMATCHED = text("state IN ('waiting', 'ignored', 'unreadable', 'unconfigured')")
SETTLED = text("state IN ('applied', 'failed')")
for _name, _states in (("ix_inbox_unmatched", UNMATCHED), ("ix_inbox_settled", SETTLED)):
    Index(_name, inbox.c.settled_at, sqlite_where=_states, postgresql_where=_states)

#: The ids that inbox rows wait for, until a payout learns them.
inbox_refs = Table(
    "inbox_refs",
    metadata,
    Column("custodian", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("dedup_key", Text, primary_key=True),
    ForeignKeyConstraint(["custodian", "dedup_key"], ["inbox.custodian", "inbox.dedup_key"]),
    Index("ix_inbox_refs_webhook", "custodian", "dedup_key"),
    sqlite_with_rowid=False,
)

#: What an operator should look at; counted, not repeated.
attention = Table(
    "attention",
    metadata,
    Column("payout_id", Text, ForeignKey("payouts.id"), primary_key=True),
    Column("code", Text, primary_key=True),
    Column("detail", Text, primary_key=True),
    Column("times", Integer, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    #: none while it is open
    Column("closed_at", BigInteger),
    #: who acknowledged it, or `gateway`: its cause has ended
    Column("closed_by", Text),
    #: when subscribers were notified, if one subscribes to it
    Column("told_at", BigInteger),
)
Index(
    "ix_attention_open",
    attention.c.first_at,
    sqlite_where=attention.c.closed_at.is_(None),
    postgresql_where=attention.c.closed_at.is_(None),
)
Index(
    "ix_attention_untold",
    attention.c.first_at,
    sqlite_where=attention.c.told_at.is_(None),
    postgresql_where=attention.c.told_at.is_(None),
)

#: Events, their bodies frozen at the moment of the change. `position` orders the feed.
events = Table(
    "events",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False),
    Column("org", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("payout_id", Text),
    Column("sequence", Integer),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("id").ddl_if(dialect=_UNPARTITIONED),
    UniqueConstraint("payout_id", "sequence").ddl_if(dialect=_UNPARTITIONED),
    Index("ix_events_org_mode_position", "org", "mode", "position"),
    # Retention finds what is old by it. Where events have months, a month is dropped as a whole.
    Index("ix_events_created", "created_at", info={"dialect": _UNPARTITIONED}),
    sqlite_autoincrement=True,
    postgresql_partition_by=_BY_POSITION,
)

#: Subscriptions. The signing secret is sealed.
endpoints = Table(
    "endpoints",
    metadata,
    Column("id", Text, primary_key=True),
    Column("org", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("description", Text),
    Column("event_types", Text, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("deleted_at", BigInteger),
    Column("headers", Text, nullable=False, server_default="{}"),
    #: whether deliveries carry an Ed25519 signature, too
    Column("ed25519", Integer, nullable=False, server_default="0"),
    Column("sealed_headers", LargeBinary),
    Column("rate_limit_per_second", Integer, nullable=False, server_default="10"),
    Column("disabled_reason", Text),
    Column("disabled_at", BigInteger),
    Column("failing_since", BigInteger),
    Column("failing_twice", Integer, nullable=False, server_default="0"),
    Column("exhausted", Integer, nullable=False, server_default="0"),
    Column("warned_at", BigInteger),
)
#: Of those that exist: the deleted ones, of which there may be any number, slow nobody.
Index(
    "ix_endpoints_org_mode",
    endpoints.c.org,
    endpoints.c.mode,
    sqlite_where=endpoints.c.deleted_at.is_(None),
    postgresql_where=endpoints.c.deleted_at.is_(None),
)

#: Signing secrets that were rotated out and still sign for a while. Sealed.
previous_secrets = Table(
    "previous_secrets",
    metadata,
    Column("id", Text, primary_key=True),
    Column("endpoint_id", Text, ForeignKey("endpoints.id"), nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("ix_previous_secrets_endpoint", "endpoint_id"),
)

#: Jobs that send again what an endpoint missed. Resumed where they stopped.
recoveries = Table(
    "recoveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("org", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("endpoint_id", Text, ForeignKey("endpoints.id"), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("looked_at", Integer, nullable=False),
    Column("recovered", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Index("ix_recoveries_state", "state"),
)

#: One row per event and subscribed endpoint. `due_at` is of the gateway's timeline: when it may be
#: claimed; a claim moves it to the end of the lease.
deliveries = Table(
    "deliveries",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("endpoint_id", Text, ForeignKey("endpoints.id"), primary_key=True),
    #: pending, delivered, exhausted, or skipped: its endpoint was disabled
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("lease_token", BigInteger, nullable=False),
    Column("settled_at", BigInteger),
    Column("trigger", Text, nullable=False),
    #: the number of attempts when the retry plan began (again, after a resend or recovery)
    Column("plan_from", Integer, nullable=False),
    ForeignKeyConstraint(["position"], ["events.position"]).ddl_if(dialect=_UNPARTITIONED),
    sqlite_with_rowid=False,
    postgresql_partition_by=_BY_POSITION,
)
Index(
    "ix_deliveries_pending",
    deliveries.c.endpoint_id,
    deliveries.c.due_at,
    sqlite_where=deliveries.c.state == "pending",
    postgresql_where=deliveries.c.state == "pending",
)
Index(
    "ix_deliveries_skipped",
    deliveries.c.endpoint_id,
    sqlite_where=deliveries.c.state == "skipped",
    postgresql_where=deliveries.c.state == "skipped",
)

#: What each try of a delivery met.
delivery_attempts = Table(
    "delivery_attempts",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("endpoint_id", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("outcome", Text, nullable=False),
    Column("http_status", Integer),
    Column("response_snippet", Text),
    Column("started_at", BigInteger, nullable=False),
    Column("duration_ms", Integer, nullable=False),
    Column("next_attempt_at", BigInteger),
    Column("trigger", Text, nullable=False),
    ForeignKeyConstraint(
        ["position", "endpoint_id"], ["deliveries.position", "deliveries.endpoint_id"]
    ).ddl_if(dialect=_UNPARTITIONED),
    Index("ix_delivery_attempts_endpoint", "endpoint_id", "started_at"),
    postgresql_partition_by=_BY_POSITION,
)

#: Idempotency keys: one row per key, from its claim on. Without an answer its work is open, and the row
#: does not expire. The answer is sealed.
idempotency = Table(
    "idempotency",
    metadata,
    Column("org", Text, primary_key=True),
    Column("mode", Text, primary_key=True),
    Column("route", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    #: fences writes: a takeover raises it, and a claimant with an older token writes nothing
    Column("token", BigInteger, nullable=False, server_default="0"),
    #: the gateway that does the work or did it; none in rows of before gateways had ids
    Column("claimant", Text),
    #: the id of what the request creates; nobody sees that object before the answer is written
    Column("created_id", Text),
    Column("answer", LargeBinary),
    Column("expires_at", BigInteger),
    Index("ix_idempotency_expires", "expires_at"),
)
