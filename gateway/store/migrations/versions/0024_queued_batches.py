"""Since when a batch waits for its turn at its account, by each clock that has seen it wait."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. The time of a batch that waits now begins when it is next looked at."""
    op.add_column("batches", sa.Column("queued_since", sa.Text(), nullable=True))
