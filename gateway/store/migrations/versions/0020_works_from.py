"""The database says which programs can work with its schema: an upgrade needs no stop from here on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Programs from before do not know the table, and stop."""
    schema = op.create_table(
        "store_schema",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("works_from", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute(sa.insert(schema).values(id=1, works_from=revision))
