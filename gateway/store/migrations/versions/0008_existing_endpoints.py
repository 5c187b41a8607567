"""The index of an org's endpoints leaves out those that are deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. No row changes. An org that creates and deletes endpoints slowed each of its events."""
    op.drop_index("ix_endpoints_org_mode", table_name="endpoints")
    existing = sa.text("deleted_at IS NULL")
    op.create_index(
        "ix_endpoints_org_mode",
        "endpoints",
        ["org", "mode"],
        unique=False,
        sqlite_where=existing,
        postgresql_where=existing,
    )
