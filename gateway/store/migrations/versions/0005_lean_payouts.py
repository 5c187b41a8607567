"""One row per payout with its history; deliveries and custodians' webhooks under natural keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

#: A JSON list of what a query returns, in its order; null where that is nothing. LIMIT keeps the order.
_LIST = "json(nullif((SELECT json_group_array({each}) FROM ({rows} LIMIT -1)), '[]'))"
_TIMELINE = _LIST.format(
    each="json_patch('{}', json_object('status', status, 'sub_status', sub_status, 'at', at, "
    "'tx_hash', tx_hash, 'detail', detail))",
    rows="SELECT * FROM timeline WHERE payout_id = payouts.id ORDER BY id",
)
_TRANSACTIONS = _LIST.format(
    each="json_patch('{}', json_object('id', id, 'tx_hash', nullif(tx_hash, ''), 'network', network, "
    "'status', status, 'explorer_url', explorer_url, 'at', at))",
    rows="SELECT * FROM transactions WHERE payout_id = payouts.id ORDER BY at, id",
)
_REFS = _LIST.format(
    each="json_array(custodian, kind, value)",
    rows="SELECT * FROM refs WHERE payout_id = payouts.id ORDER BY custodian, kind, value",
)
#: json_patch leaves out what is null.
_DOCUMENT = (
    "json_patch('{}', json_object("
    f"'timeline', {_TIMELINE}, 'transactions', {_TRANSACTIONS}, "
    f"'action', json(requires_action), 'refs', {_REFS}))"
)


def upgrade() -> None:
    """Apply."""
    _payouts()
    _deliveries()
    _inbox()


def _payouts() -> None:
    op.create_table(
        "payout_hashes",
        sa.Column("tx_hash", sa.Text(), nullable=False),
        sa.Column("payout_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["payout_id"], ["payouts.id"], name=op.f("fk_payout_hashes_payout_id")
        ),
        sa.PrimaryKeyConstraint("tx_hash", "payout_id", name=op.f("pk_payout_hashes")),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO payout_hashes (tx_hash, payout_id) "
        "SELECT DISTINCT tx_hash, payout_id FROM transactions WHERE tx_hash <> ''"
    )
    op.add_column("payouts", sa.Column("document", sa.Text(), nullable=True))
    op.add_column("payouts", sa.Column("funds_moved", sa.Text(), nullable=True))
    payouts = sa.table("payouts", sa.column("document"), sa.column("funds_moved"))
    funds_moved = "CASE status WHEN 'failed' THEN coalesce(json_extract(failure, '$.funds_moved'), 'unknown') END"
    op.execute(
        payouts.update().values(
            document=sa.literal_column(_DOCUMENT), funds_moved=sa.literal_column(funds_moved)
        )
    )
    with op.batch_alter_table("payouts", recreate="always") as table:
        table.alter_column("document", existing_type=sa.Text(), nullable=False)
        table.drop_column("requires_action")
    op.drop_table("timeline")
    op.drop_table("transactions")


def _deliveries() -> None:
    for name in ("deliveries", "delivery_attempts"):
        op.rename_table(name, f"old_{name}")
    op.drop_index("ix_delivery_attempts_endpoint", "old_delivery_attempts")
    op.create_table(
        "deliveries",
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("settled_at", sa.BigInteger(), nullable=True),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("plan_from", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["endpoint_id"], ["endpoints.id"], name=op.f("fk_deliveries_endpoint_id")
        ),
        sa.ForeignKeyConstraint(
            ["position"], ["events.position"], name=op.f("fk_deliveries_position")
        ),
        sa.PrimaryKeyConstraint("position", "endpoint_id", name=op.f("pk_deliveries")),
        sqlite_with_rowid=False,
    )
    # What is under lease is due when the lease ends.
    op.execute(
        "INSERT INTO deliveries (position, endpoint_id, state, attempts, due_at, lease_token, "
        'settled_at, "trigger", plan_from) '
        "SELECT events.position, old.endpoint_id, old.state, old.attempts, "
        "max(old.due_at, old.lease_until), old.lease_token, old.settled_at, "
        'old."trigger", old.plan_from '
        "FROM old_deliveries AS old JOIN events ON events.id = old.event_id "
        "ORDER BY events.position, old.endpoint_id"
    )
    for state in ("pending", "skipped"):
        op.create_index(
            f"ix_deliveries_{state}",
            "deliveries",
            ["endpoint_id", "due_at"] if state == "pending" else ["endpoint_id"],
            sqlite_where=sa.text(f"state = '{state}'"),
            postgresql_where=sa.text(f"state = '{state}'"),
        )
    op.create_table(
        "delivery_attempts",
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("response_snippet", sa.Text(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger(), nullable=True),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["position", "endpoint_id"],
            ["deliveries.position", "deliveries.endpoint_id"],
            name=op.f("fk_delivery_attempts_position_endpoint_id"),
        ),
        sa.PrimaryKeyConstraint(
            "position", "endpoint_id", "attempt", name=op.f("pk_delivery_attempts")
        ),
    )
    op.execute(
        "INSERT INTO delivery_attempts (position, endpoint_id, attempt, outcome, http_status, "
        'response_snippet, started_at, duration_ms, next_attempt_at, "trigger") '
        "SELECT events.position, delivery.endpoint_id, old.attempt, old.outcome, old.http_status, "
        "old.response_snippet, old.started_at, old.duration_ms, old.next_attempt_at, "
        'old."trigger" '
        "FROM old_delivery_attempts AS old "
        "JOIN old_deliveries AS delivery ON delivery.id = old.delivery_id "
        "JOIN events ON events.id = delivery.event_id "
        "ORDER BY events.position, delivery.endpoint_id, old.attempt"
    )
    op.create_index(
        "ix_delivery_attempts_endpoint", "delivery_attempts", ["endpoint_id", "started_at"]
    )
    op.drop_table("old_delivery_attempts")
    op.drop_table("old_deliveries")


def _inbox() -> None:
    for name in ("inbox", "inbox_refs"):
        op.rename_table(name, f"old_{name}")
    op.drop_index("ix_inbox_payout", "old_inbox")
    op.create_table(
        "inbox",
        sa.Column("custodian", sa.Text(), nullable=False),
        sa.Column("dedup_key", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("payout_id", sa.Text(), nullable=True),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("settled_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("custodian", "dedup_key", name=op.f("pk_inbox")),
    )
    op.execute(
        "INSERT INTO inbox "
        "(custodian, dedup_key, body, state, payout_id, received_at, settled_at) "
        "SELECT custodian, dedup_key, body, state, payout_id, received_at, settled_at "
        "FROM old_inbox ORDER BY id"
    )
    op.create_index("ix_inbox_payout", "inbox", ["payout_id"])
    op.create_index(
        "ix_inbox_new",
        "inbox",
        ["received_at"],
        sqlite_where=sa.text("state = 'new'"),
        postgresql_where=sa.text("state = 'new'"),
    )
    op.create_table(
        "inbox_refs",
        sa.Column("custodian", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("dedup_key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["custodian", "dedup_key"],
            ["inbox.custodian", "inbox.dedup_key"],
            name=op.f("fk_inbox_refs_custodian_dedup_key"),
        ),
        sa.PrimaryKeyConstraint(
            "custodian", "kind", "value", "dedup_key", name=op.f("pk_inbox_refs")
        ),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO inbox_refs (custodian, kind, value, dedup_key) "
        "SELECT old_inbox.custodian, old.kind, old.value, old_inbox.dedup_key "
        "FROM old_inbox_refs AS old JOIN old_inbox ON old_inbox.id = old.inbox_id"
    )
    op.drop_table("old_inbox_refs")
    op.drop_table("old_inbox")
