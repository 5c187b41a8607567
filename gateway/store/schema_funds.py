"""The tables of balances: what each account holds, and what accepted payouts have reserved of it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, Table, Text

from gateway.store.metadata import metadata

#: One row per account at a custodian: its balances as they were last read, and the sums of its
#: reservations. A transaction that reserves or releases reads this row under a lock and writes it.
fund_accounts = Table(
    "fund_accounts",
    metadata,
    #: a JSON list: custodian instance, account type, account id
    Column("id", Text, primary_key=True),
    Column("custodian", Text, nullable=False),
    Column("account_type", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    #: 1: it has balances; 0: its adapter does not report any; none: not read yet
    Column("supported", Integer),
    #: 1 while payouts reserve from it
    Column("reserving", Integer, nullable=False),
    #: JSON: `[{asset, network, available, pending, as_of}]`; none: not known
    Column("balances", Text),
    #: JSON: asset, network ("" where it is not known), sum of what is reserved, and of what waits
    Column("reserved", Text, nullable=False),
    Column("waiting", Text, nullable=False),
    #: the number of the newest read that was begun, and of the one whose balances these are
    Column("asked", BigInteger, nullable=False),
    Column("read_number", BigInteger, nullable=False),
    #: when the read was begun; `wall` is for people
    Column("read_clock_id", Text),
    Column("read_elapsed", BigInteger),
    Column("read_wall", BigInteger),
    #: when it is read next, on the timeline
    Column("due_at", BigInteger, nullable=False),
    #: why the last read failed; none: it did not
    Column("fault", Text),
    #: since when reads say nothing about reservations, until one begins `visibility` later
    Column("blind_clock_id", Text),
    Column("blind_elapsed", BigInteger),
)

#: What a payout, or what is left of a batch, keeps of an account's balance.
reservations = Table(
    "reservations",
    metadata,
    #: a payout, or a batch
    Column("owner_id", Text, primary_key=True),
    Column("asset", Text, primary_key=True),
    Column("network", Text, primary_key=True),
    Column("account_key", Text, ForeignKey("fund_accounts.id"), nullable=False),
    #: `held` or `waiting`: accepted before the account covers it
    Column("state", Text, nullable=False),
    #: decimal text; what it was made with, less what was given back because it is certainly unpaid
    Column("amount", Text, nullable=False),
    Column("fee", Text, nullable=False),
    #: how much of amount and fee was released, because a balance shows it
    Column("released", Text, nullable=False),
    #: how much has ended with money that moved, and when that was noted; none: nothing
    Column("ended", Text),
    Column("ended_clock_id", Text),
    Column("ended_elapsed", BigInteger),
    #: how long a done thing may stay invisible at the custodian, in microseconds
    Column("visibility", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_reservations_account", "account_key", "state", "created_at", "owner_id"),
)
