"""Of a gateway that is gone, the registry says that it was reported: a process that starts does not again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Older programs go on: they do not name the column."""
    op.add_column("gateways", sa.Column("gone_counter", sa.BigInteger(), nullable=True))
