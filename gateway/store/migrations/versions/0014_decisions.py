"""How the route of a quote was chosen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Nothing is known of quotes that were given before."""
    op.add_column("quotes", sa.Column("decision", sa.Text(), nullable=True))
