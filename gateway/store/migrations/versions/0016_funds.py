"""Balances of accounts, what payouts have reserved of them, and executions that wait for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Nothing is reserved before an account is configured to."""
    op.create_table(
        "fund_accounts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("custodian", sa.Text(), nullable=False),
        sa.Column("account_type", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("supported", sa.Integer(), nullable=True),
        sa.Column("reserving", sa.Integer(), nullable=False),
        sa.Column("balances", sa.Text(), nullable=True),
        sa.Column("reserved", sa.Text(), nullable=False),
        sa.Column("waiting", sa.Text(), nullable=False),
        sa.Column("asked", sa.BigInteger(), nullable=False),
        sa.Column("read_number", sa.BigInteger(), nullable=False),
        sa.Column("read_clock_id", sa.Text(), nullable=True),
        sa.Column("read_elapsed", sa.BigInteger(), nullable=True),
        sa.Column("read_wall", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("fault", sa.Text(), nullable=True),
        sa.Column("blind_clock_id", sa.Text(), nullable=True),
        sa.Column("blind_elapsed", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "reservations",
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("asset", sa.Text(), nullable=False),
        sa.Column("network", sa.Text(), nullable=False),
        sa.Column("account_key", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.Column("fee", sa.Text(), nullable=False),
        sa.Column("released", sa.Text(), nullable=False),
        sa.Column("ended", sa.Text(), nullable=True),
        sa.Column("ended_clock_id", sa.Text(), nullable=True),
        sa.Column("ended_elapsed", sa.BigInteger(), nullable=True),
        sa.Column("visibility", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["account_key"], ["fund_accounts.id"]),
        sa.PrimaryKeyConstraint("owner_id", "asset", "network"),
    )
    op.create_index(
        "ix_reservations_account",
        "reservations",
        ["account_key", "state", "created_at", "owner_id"],
    )
    op.add_column(
        "executions",
        sa.Column("awaits_funds", sa.Integer(), nullable=False, server_default="0"),
    )
