"""Limits: counters of what is spent in a window, and what each payout has added to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Payouts that were accepted before are counted nowhere."""
    op.create_table(
        "spending_counters",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("window", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_spending_counters_window", "spending_counters", ["window"])
    op.create_table(
        "spending_entries",
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("counter_id", sa.Text(), nullable=False),
        sa.Column("asset", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.Column("price", sa.Text(), nullable=True),
        sa.Column("counts_amount", sa.Integer(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["counter_id"], ["spending_counters.id"]),
        sa.PrimaryKeyConstraint("owner_id", "counter_id", "asset"),
    )
    op.create_index("ix_spending_entries_counter", "spending_entries", ["counter_id"])
