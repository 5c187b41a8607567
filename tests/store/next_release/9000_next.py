"""A migration of a release to come, for tests of upgrades: it only adds, and raises the gate version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from gateway.store import migrate

revision = "9000"
# After the newest one of this release, whichever that is.
down_revision = max(path.name[:4] for path in migrate.FOLDERS[0].glob("0*.py"))
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("payouts", sa.Column("extra", sa.Text(), nullable=True))
    op.create_table(
        "extras",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("payout_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["payout_id"], ["payouts.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_extras_payout", "extras", ["payout_id"])
    op.execute("UPDATE store_state SET gate_version = gate_version + 1")
