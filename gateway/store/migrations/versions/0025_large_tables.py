"""What large databases read as a whole: events by their age, and payouts by a status that nearly all have."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. PostgreSQL drops events by month, and knows from statistics which status is rare."""
    if op.get_context().dialect.name != "sqlite":
        return
    op.create_index("ix_events_created", "events", ["created_at"])
    op.drop_index("ix_payouts_status", "payouts")
    of_open = sa.text("status = 'pending' OR status = 'broadcast'")
    op.create_index("ix_payouts_status", "payouts", ["status"], sqlite_where=of_open)
