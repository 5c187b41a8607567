"""The tables of batches."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, Table, Text, UniqueConstraint

from gateway.store.metadata import metadata

#: Batches: many payouts out of one source account, executed once.
batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    Column("org", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("custodian", Text, nullable=False),
    Column("account", Text, nullable=False),
    #: whether the custodian is given sets of payouts, and not one payout each
    Column("native", Integer, nullable=False),
    Column("init_method", Text, nullable=False),
    Column("reference", Text),
    Column("metadata", Text, nullable=False),
    #: `loading` is before `requested`: nobody sees the batch until all of its items are stored
    Column("state", Text, nullable=False),
    Column("items", Integer, nullable=False),
    #: the position of the last item that the present stage has worked off
    Column("worked_off", Integer, nullable=False),
    Column("failure", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    #: not executed by then: canceled
    Column("expires_at", BigInteger, nullable=False),
    Column("executed_at", BigInteger),
    Column("cancel_at", BigInteger),
    #: until when items that were not handed over wait for funds
    Column("funds_until", BigInteger),
    Column("finalized_at", BigInteger),
    Index("ix_batches_org_mode_created", "org", "mode", "created_at", "id"),
    Index("ix_batches_state", "state", "executed_at"),
)

#: Sets: parts of a batch as a custodian is given them. Intent, attempt and lease of one set.
batch_sets = Table(
    "batch_sets",
    metadata,
    Column("id", Text, primary_key=True),
    Column("batch_id", Text, ForeignKey("batches.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("custodian", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("first_position", Integer, nullable=False),
    Column("last_position", Integer, nullable=False),
    #: ids of items in its span that had ended before it was made (JSON)
    Column("left_out", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("notes", Text, nullable=False),
    Column("moves", Integer, nullable=False),
    Column("ever_unknown", Integer, nullable=False),
    Column("absences", Integer, nullable=False),
    Column("looks", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("last_call_at", BigInteger),
    Column("first_absence_at", BigInteger),
    Column("last_absence_at", BigInteger),
    Column("outcome", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    #: since when it waits for its turn at the account
    Column("waiting_since", BigInteger),
    Column("due_at", BigInteger, nullable=False),
    Column("lease_token", BigInteger, nullable=False),
    Column("lease_owner", Text),
    Column("lease_until", BigInteger, nullable=False),
    UniqueConstraint("batch_id", "number"),
    Index("ix_batch_sets_custodian_due", "custodian", "due_at"),
)
