"""The tables of batches."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, Table, Text

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
    #: since when it waits for its turn: elapsed time by clock id, JSON; null: no clock has seen it wait
    Column("queued_since", Text),
    Index("ix_batches_org_mode_created", "org", "mode", "created_at", "id"),
    Index("ix_batches_state", "state", "executed_at"),
)
