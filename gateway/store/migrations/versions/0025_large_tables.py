"""Indexes for what large databases read as a whole: filtered lists, old events, payouts by their status."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_OPEN = "status = 'pending' OR status = 'broadcast'"
_FAILED = "status = 'failed'"
_HELD = (
    "sub_status IN ('awaiting_approval', 'awaiting_funds', 'outcome_unknown', 'requires_action')"
)


def upgrade() -> None:
    """Apply. Half a minute or more for a million payouts on SQLite."""
    begin, end = ["org", "mode"], ["created_at", "id"]
    op.create_index("ix_payouts_org_mode_custodian", "payouts", [*begin, "custodian", *end])
    for column in ("external_ref", "reference_key"):
        op.drop_index(f"ix_payouts_org_mode_{column}", "payouts")
        op.create_index(f"ix_payouts_org_mode_{column}", "payouts", [*begin, column, *end])
    for name, columns, of in (
        ("open", [*begin, *end], _OPEN),
        ("failed", [*begin, *end], _FAILED),
        ("held", [*begin, "sub_status", *end], _HELD),
    ):
        where = sa.text(of)
        op.create_index(
            f"ix_payouts_org_mode_{name}",
            "payouts",
            columns,
            sqlite_where=where,
            postgresql_where=where,
        )
    if op.get_context().dialect.name == "sqlite":
        # PostgreSQL drops events by month, and knows from statistics which status is rare.
        op.create_index("ix_events_created", "events", ["created_at"])
        op.drop_index("ix_payouts_status", "payouts")
        op.create_index("ix_payouts_status", "payouts", ["status"], sqlite_where=sa.text(_OPEN))
