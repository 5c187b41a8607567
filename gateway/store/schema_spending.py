"""The tables of limits: how much of each window is spent, and by whom."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, Table, Text

from gateway.store.metadata import metadata

#: A row per limit, mode, window and subject. It is locked by raising `version`, and then written.
spending_counters = Table(
    "spending_counters",
    metadata,
    Column("id", Text, primary_key=True),
    Column("rule", Text, nullable=False),
    Column("mode", Text, nullable=False),
    #: `2026-03-02` or `2026-03`, in UTC
    Column("window", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
    #: decimal text, in the limit's unit
    Column("amount", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Index("ix_spending_counters_window", "window"),
)

#: What a payout, or a batch as a whole, has added to a counter: for what may be given back.
spending_entries = Table(
    "spending_entries",
    metadata,
    #: a payout or a batch
    Column("owner_id", Text, primary_key=True),
    Column("counter_id", Text, ForeignKey("spending_counters.id"), primary_key=True),
    #: what it was spent in: a batch may have several assets
    Column("asset", Text, primary_key=True),
    Column("count", Integer, nullable=False),
    Column("amount", Text, nullable=False),
    #: US dollars of a unit at that moment; none where the limit counts in the asset, or no amount
    Column("price", Text),
    #: 1 where the limit counts amounts
    Column("counts_amount", Integer, nullable=False),
    #: a digest, where the counter is of one payee
    Column("destination", Text),
    Index("ix_spending_entries_counter", "counter_id"),
)
