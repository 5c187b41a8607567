"""Endpoints that heal: rotation, headers, rate, disabling, recovery; what triggered a try."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ENDPOINT_COLUMNS = (
    sa.Column("headers", sa.Text(), nullable=False, server_default="{}"),
    sa.Column("sealed_headers", sa.LargeBinary(), nullable=True),
    sa.Column("rate_limit_per_second", sa.Integer(), nullable=False, server_default="10"),
    sa.Column("disabled_reason", sa.Text(), nullable=True),
    sa.Column("disabled_at", sa.BigInteger(), nullable=True),
    sa.Column("failing_since", sa.BigInteger(), nullable=True),
    sa.Column("failing_twice", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("exhausted", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("warned_at", sa.BigInteger(), nullable=True),
)


def upgrade() -> None:
    """Apply."""
    for column in _ENDPOINT_COLUMNS:
        op.add_column("endpoints", column)
    for table in ("deliveries", "delivery_attempts"):
        op.add_column(
            table, sa.Column("trigger", sa.Text(), nullable=False, server_default="scheduled")
        )
    op.add_column(
        "deliveries", sa.Column("plan_from", sa.Integer(), nullable=False, server_default="0")
    )
    op.add_column("delivery_attempts", sa.Column("endpoint_id", sa.Text(), nullable=True))
    op.execute(
        "UPDATE delivery_attempts SET endpoint_id = (SELECT endpoint_id FROM deliveries "
        "WHERE deliveries.id = delivery_attempts.delivery_id)"
    )
    op.create_index(
        "ix_delivery_attempts_endpoint", "delivery_attempts", ["endpoint_id", "started_at"]
    )
    op.drop_index("ix_deliveries_endpoint", "deliveries")
    op.create_index("ix_deliveries_endpoint", "deliveries", ["endpoint_id", "state", "due_at"])
    op.create_table(
        "previous_secrets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["endpoints.id"],
            name=op.f("fk_previous_secrets_endpoint_id_endpoints"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_previous_secrets")),
    )
    op.create_index("ix_previous_secrets_endpoint", "previous_secrets", ["endpoint_id"])
    op.create_table(
        "recoveries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("org", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("looked_at", sa.Integer(), nullable=False),
        sa.Column("recovered", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["endpoint_id"], ["endpoints.id"], name=op.f("fk_recoveries_endpoint_id_endpoints")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recoveries")),
    )
    op.create_index("ix_recoveries_state", "recoveries", ["state"])
