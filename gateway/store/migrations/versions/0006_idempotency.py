"""Idempotency keys are claimed by a row before their work begins."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Kept answers stay: they have an answer, so nobody takes them for open work."""
    with op.batch_alter_table("idempotency", recreate="always") as idempotency:
        idempotency.add_column(
            sa.Column("token", sa.BigInteger(), nullable=False, server_default="0")
        )
        idempotency.add_column(sa.Column("claimant", sa.Text(), nullable=True))
        idempotency.add_column(sa.Column("created_id", sa.Text(), nullable=True))
        idempotency.alter_column("answer", existing_type=sa.LargeBinary(), nullable=True)
        idempotency.alter_column("expires_at", existing_type=sa.BigInteger(), nullable=True)
