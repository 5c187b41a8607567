"""The tables by which the owner of the gateway stays in control: pauses, the active rules, the schema."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Table, Text, UniqueConstraint

from gateway.store.metadata import metadata

#: What is paused now; a row goes when it is resumed, and the audit log keeps both.
pauses = Table(
    "pauses",
    metadata,
    Column("id", Text, primary_key=True),
    #: all, custodian, account, asset or org
    Column("scope", Text, nullable=False),
    Column("target", Text, nullable=False),
    #: the org that paused itself; empty: the operator
    Column("owner", Text, nullable=False),
    #: live or test; empty: both
    Column("mode", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    #: 1 where new quotes are given meanwhile
    Column("keep_accepting", Integer, nullable=False),
    #: wall clock, in microseconds
    Column("since", BigInteger, nullable=False),
    UniqueConstraint("scope", "target", "owner", "mode"),
)

#: One row: the rules that guard money (limits, prices, routes) which every gateway has to go by.
money_rules = Table(
    "money_rules",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", Text, nullable=False),
    #: JSON, without secrets: for people who compare
    Column("document", Text, nullable=False),
    #: wall clock, in microseconds
    Column("activated_at", BigInteger, nullable=False),
    Column("activated_by", Text, nullable=False),
)

#: One row: the oldest revision whose programs can work with this schema; see decision 0033.
store_schema = Table(
    "store_schema",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("works_from", Text, nullable=False),
)
