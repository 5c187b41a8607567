"""Pauses and the active rules have tables; attention is open until it is closed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. What is on the operator's list stays open."""
    op.create_table(
        "pauses",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("keep_accepting", sa.Integer(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("scope", "target", "owner", "mode"),
    )
    op.create_table(
        "money_rules",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("activated_at", sa.BigInteger(), nullable=False),
        sa.Column("activated_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    for column in ("closed_at", "told_at"):
        op.add_column("attention", sa.Column(column, sa.BigInteger(), nullable=True))
    op.add_column("attention", sa.Column("closed_by", sa.Text(), nullable=True))
    # The gate asks for pauses and for the active rules: a program that does not sets no marks.
    op.execute("UPDATE store_state SET gate_version = 2")
    # No event is sent now for what was already on the list.
    op.execute("UPDATE attention SET told_at = last_at")
    for name, column in (("open", "closed_at"), ("untold", "told_at")):
        where = sa.text(f"{column} IS NULL")
        op.create_index(
            f"ix_attention_{name}",
            "attention",
            ["first_at"],
            sqlite_where=where,
            postgresql_where=where,
        )
