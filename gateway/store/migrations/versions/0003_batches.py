"""Batches and their sets; Ed25519 signatures of webhooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "batches",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("org", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("custodian", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("native", sa.Integer(), nullable=False),
        sa.Column("init_method", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("items", sa.Integer(), nullable=False),
        sa.Column("worked_off", sa.Integer(), nullable=False),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("executed_at", sa.BigInteger(), nullable=True),
        sa.Column("cancel_at", sa.BigInteger(), nullable=True),
        sa.Column("funds_until", sa.BigInteger(), nullable=True),
        sa.Column("finalized_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_index("ix_batches_org_mode_created", "batches", ["org", "mode", "created_at", "id"])
    op.create_index("ix_batches_state", "batches", ["state", "executed_at"])
    op.create_table(
        "batch_sets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("custodian", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("first_position", sa.Integer(), nullable=False),
        sa.Column("last_position", sa.Integer(), nullable=False),
        sa.Column("left_out", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("notes", sa.Text(), nullable=False),
        sa.Column("moves", sa.Integer(), nullable=False),
        sa.Column("ever_unknown", sa.Integer(), nullable=False),
        sa.Column("absences", sa.Integer(), nullable=False),
        sa.Column("looks", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last_call_at", sa.BigInteger(), nullable=True),
        sa.Column("first_absence_at", sa.BigInteger(), nullable=True),
        sa.Column("last_absence_at", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("waiting_since", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_batch_sets_batch_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batch_sets")),
        sa.UniqueConstraint("batch_id", "number", name=op.f("uq_batch_sets_batch_id_number")),
    )
    op.create_index("ix_batch_sets_custodian_due", "batch_sets", ["custodian", "due_at"])
    with op.batch_alter_table("payouts", recreate="always") as payouts:
        payouts.alter_column("quote_id", existing_type=sa.Text(), nullable=True)
        payouts.add_column(sa.Column("batch_id", sa.Text(), nullable=True))
        payouts.add_column(sa.Column("batch_position", sa.Integer(), nullable=True))
        payouts.add_column(sa.Column("name", sa.Text(), nullable=True))
        payouts.create_foreign_key(op.f("fk_payouts_batch_id"), "batches", ["batch_id"], ["id"])
    op.add_column(
        "endpoints", sa.Column("ed25519", sa.Integer(), nullable=False, server_default="0")
    )
    op.add_column("work", sa.Column("rank", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("ix_payouts_batch", "payouts", ["batch_id", "batch_position"])
    with op.batch_alter_table("account_locks", recreate="always") as locks:
        locks.drop_constraint(op.f("fk_account_locks_payout_id"), type_="foreignkey")
