"""References are compared by a normal form; what was kept long enough is found by an index.

No stored value is changed: references stay as they were written, and those that now have one key are
listed by `payout-gateway payouts collisions`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from gateway.text import reference_key

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

#: Payouts whose key is written by one statement: SQLite has no normal forms, so Python makes them.
_AT_ONCE = 1000

_PAYOUTS = sa.table(
    "payouts",
    sa.column("id", sa.Text()),
    sa.column("reference", sa.Text()),
    sa.column("reference_key", sa.Text()),
)


def upgrade() -> None:
    """Apply."""
    op.add_column("payouts", sa.Column("reference_key", sa.Text(), nullable=True))
    op.add_column("payouts", sa.Column("erased_at", sa.BigInteger(), nullable=True))
    _fill()
    op.drop_index("ix_payouts_org_mode_reference", "payouts")
    op.create_index(
        "ix_payouts_org_mode_reference_key", "payouts", ["org", "mode", "reference_key"]
    )
    ended = sa.text("status <> 'pending' AND status <> 'broadcast' AND erased_at IS NULL")
    op.create_index(
        "ix_payouts_ended", "payouts", ["updated_at"], sqlite_where=ended, postgresql_where=ended
    )
    unused = sa.text("payout_id IS NULL")
    op.create_index(
        "ix_quotes_unused", "quotes", ["expires_at"], sqlite_where=unused, postgresql_where=unused
    )
    for name, states in (
        ("ix_inbox_unmatched", "'waiting', 'ignored', 'unreadable', 'unconfigured'"),
        ("ix_inbox_settled", "'applied', 'failed'"),
    ):
        where = sa.text(f"state IN ({states})")
        op.create_index(name, "inbox", ["settled_at"], sqlite_where=where, postgresql_where=where)
    op.create_index("ix_inbox_refs_webhook", "inbox_refs", ["custodian", "dedup_key"])


def _fill() -> None:
    """Give every reference its key, a page at a time: the table may not fit into memory."""
    connection, after = op.get_bind(), ""
    page = (
        sa.select(_PAYOUTS.c.id, _PAYOUTS.c.reference)
        .where(_PAYOUTS.c.id > sa.bindparam("after"), _PAYOUTS.c.reference.is_not(None))
        .order_by(_PAYOUTS.c.id)
        .limit(_AT_ONCE)
    )
    write = (
        _PAYOUTS.update()
        .where(_PAYOUTS.c.id == sa.bindparam("of"))
        .values(reference_key=sa.bindparam("made"))
    )
    while rows := connection.execute(page, {"after": after}).all():
        connection.execute(
            write, [{"of": row.id, "made": reference_key(row.reference)} for row in rows]
        )
        after = rows[-1].id
