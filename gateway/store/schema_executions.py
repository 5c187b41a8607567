"""The tables of executions: what is being paid, the evidence about it, and who is working.

`elapsed` is microseconds on the clock named beside it, `wall` is microseconds since 1970. `due_at` and
`lease_until` are microseconds of the gateway's timeline (`gateway.runtime.Timeline`).
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, Table, Text, UniqueConstraint

from gateway.store.metadata import metadata

#: One attempt to move money at one custodian account, for one payout or many. One row holds lease,
#: state and notes, so that a claim returns all that the engine needs.
executions = Table(
    "executions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("custodian", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("batch_id", Text, ForeignKey("batches.id")),
    #: from 1: the number among the executions of its payout, or among the sets of its batch
    Column("number", Integer, nullable=False),
    #: what the keys of its calls are derived from
    Column("key_seed", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("notes", Text, nullable=False),
    #: the number of the newest row of evidence
    Column("rows", Integer, nullable=False),
    #: calls that may have moved money
    Column("open_calls", Integer, nullable=False),
    #: how many payouts it has
    Column("size", Integer, nullable=False),
    #: 1 if one of its payouts was in an execution before this one
    Column("earlier", Integer, nullable=False),
    #: whether the adapter called a repeat of this execution safe; none: as declared
    Column("repeat_is_safe", Integer),
    Column("looks", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    #: why no mark may be set: a mismatch, a foreign reference
    Column("blocked", Text),
    Column("outcome", Text),
    #: a refusal of the whole execution, until it was applied to every item
    Column("refusal", Text),
    #: since when it waits for its turn at the account
    Column("waiting_since", BigInteger),
    #: lower goes first: single payouts before items of batches
    Column("rank", Integer, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("lease_token", BigInteger, nullable=False),
    Column("lease_owner", Text),
    Column("lease_until", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_clock_id", Text, nullable=False),
    Column("created_elapsed", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    #: 1 while its payout waits for the account to cover it
    Column("awaits_funds", Integer, nullable=False, server_default="0"),
    Index("ix_executions_batch", "batch_id", "number"),
)
Index(
    "ix_executions_due",
    executions.c.custodian,
    executions.c.due_at,
    sqlite_where=executions.c.ended_at.is_(None),
    postgresql_where=executions.c.ended_at.is_(None),
)

#: The payouts of an execution. A payout is in at most one open execution: the index enforces it.
execution_items = Table(
    "execution_items",
    metadata,
    Column("execution_id", Text, ForeignKey("executions.id"), primary_key=True),
    Column("payout_id", Text, ForeignKey("payouts.id"), primary_key=True),
    Column("position", Integer, nullable=False),
    #: 1 while the execution is open
    Column("open", Integer, nullable=False),
    Index("ix_execution_items_payout", "payout_id"),
)
Index(
    "uq_execution_items_open",
    execution_items.c.payout_id,
    unique=True,
    sqlite_where=execution_items.c.open == 1,
    postgresql_where=execution_items.c.open == 1,
)

#: Executions that paid something, while they are still looked at: money may come back. `begun_at`,
#: `until_at` and `due_at` are of the gateway's timeline.
delivered_looks = Table(
    "delivered_looks",
    metadata,
    Column("execution_id", Text, ForeignKey("executions.id"), primary_key=True),
    Column("custodian", Text, nullable=False),
    Column("begun_at", BigInteger, nullable=False),
    Column("until_at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Index("ix_delivered_looks_due", "custodian", "due_at"),
)

#: Every moving call and every look, with what is needed to say later what they prove. Append-only, but
#: for the answer of a call.
evidence = Table(
    "evidence",
    metadata,
    Column("execution_id", Text, ForeignKey("executions.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("seen", Integer, nullable=False),
    Column("clock_id", Text, nullable=False),
    Column("elapsed", BigInteger, nullable=False),
    Column("wall", BigInteger, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("answer", Text),
    Column("reference", Text),
    Column("item", Text),
    Column("source", Text, nullable=False),
    Column("mark", BigInteger, nullable=False),
    Column("call_life", BigInteger),
    Column("visibility", BigInteger, nullable=False),
    Column("absence_looks", Integer, nullable=False),
    Column("key_life", BigInteger),
    #: 1 where what failed under the call's key is never tried again under it
    Column("one_key", Integer, nullable=False),
    #: for people: what was said, or who said it
    Column("detail", Text),
)

#: One row: what every mark depends on.
store_state = Table(
    "store_state",
    metadata,
    Column("id", Integer, primary_key=True),
    #: the number of the newest mark
    Column("marks", BigInteger, nullable=False),
    #: the lowest gate version that may set marks
    Column("gate_version", Integer, nullable=False),
    #: why nothing may move: the database may be an old copy
    Column("frozen", Text),
    #: 0 after an adoption, until an operator lets new payouts in again
    Column("accepting", Integer, nullable=False),
    #: 1 once a mark was set under a state file: without the file the database is frozen from then on
    Column("witnessed", Integer, nullable=False),
)

#: The timeline's offset to the elapsed time of each clock that gateways ran by.
clocks = Table(
    "clocks",
    metadata,
    Column("clock_id", Text, primary_key=True),
    Column("offset", BigInteger, nullable=False),
    Column("first_at", BigInteger, nullable=False),
)

#: One row per gateway process. A counter that stands still says that it is gone.
gateways = Table(
    "gateways",
    metadata,
    Column("id", Text, primary_key=True),
    Column("counter", BigInteger, nullable=False),
    Column("clock_id", Text, nullable=False),
    Column("elapsed", BigInteger, nullable=False),
    Column("wall", BigInteger, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("config_digest", Text, nullable=False),
    #: the range of schema revisions that it knows
    Column("schema_from", Text, nullable=False),
    Column("schema_to", Text, nullable=False),
    Column("gate_version", Integer, nullable=False),
    #: the highest mark that it has seen
    Column("marks", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("stopped_at", BigInteger),
    #: where its counter stood when another gateway reported that this one is gone
    Column("gone_counter", BigInteger),
)

#: A row per minute and gateway: which marks were committed before it was dated. Kept until no call of
#: unknown outcome is older.
heartbeats = Table(
    "heartbeats",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("gateway_id", Text, nullable=False),
    Column("clock_id", Text, nullable=False),
    Column("elapsed", BigInteger, nullable=False),
    Column("wall", BigInteger, nullable=False),
    Column("marks", BigInteger, nullable=False),
    Index("ix_heartbeats_marks", "marks", "clock_id"),
    sqlite_autoincrement=True,
)

#: Fingerprints of one custodian account that an operator declared to be the same account.
account_declarations = Table(
    "account_declarations",
    metadata,
    Column("custodian", Text, primary_key=True),
    Column("fingerprint", Text, primary_key=True),
    Column("same_as", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

#: What people and keys did, append-only: triggers refuse every change (migration 0007; a migration that
#: recreates the table creates them again). One chain of hashes per org; the installation's has an empty org.
audit_log = Table(
    "audit_log",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("act", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("org", Text, nullable=False),
    #: from 1, without a gap in its chain
    Column("number", BigInteger, nullable=False),
    Column("before", Text),
    Column("after", Text),
    Column("request_id", Text),
    #: the hash of the row before it; empty for the first one
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
    UniqueConstraint("org", "number"),
    Index("ix_audit_log_subject", "subject", "id"),
)
