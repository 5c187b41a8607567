"""Scopes, owners and limits of API keys; the audit log becomes a chain of hashes per org."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

#: What every key could do until now, written out: later scopes are never implied by age.
_ALL_UNTIL_NOW = (
    "quotes:write",
    "payouts:read",
    "payouts:write",
    "batches:write",
    "webhooks:write",
    "events:read",
)
_OLD = ("id", "at", "actor", "act", "subject", "detail")


def upgrade() -> None:
    """Apply. Old keys keep what they can do, and old rows of the log become the installation's."""
    _keys()
    _audit()


def _keys() -> None:
    with op.batch_alter_table("api_keys", recreate="always") as keys:
        keys.alter_column("org", existing_type=sa.Text(), nullable=True)
        keys.add_column(sa.Column("name", sa.Text(), nullable=True))
        keys.add_column(sa.Column("owner", sa.Text(), nullable=True))
        keys.add_column(sa.Column("scopes", sa.Text(), nullable=False, server_default="[]"))
        keys.add_column(sa.Column("networks", sa.Text(), nullable=False, server_default="[]"))
        keys.add_column(sa.Column("expires_at", sa.BigInteger(), nullable=True))
        keys.add_column(sa.Column("last_used_at", sa.BigInteger(), nullable=True))
    op.execute(
        sa.text("UPDATE api_keys SET scopes = :scopes").bindparams(
            scopes=json.dumps(_ALL_UNTIL_NOW)
        )
    )


def _audit() -> None:
    connection = op.get_bind()
    columns = ", ".join(_OLD)
    old = connection.execute(sa.text(f"SELECT {columns} FROM audit_log ORDER BY id")).mappings()  # noqa: S608 - names of our own
    rows = _chained([dict(each) for each in old])
    op.drop_table("audit_log")
    log = op.create_table(
        "audit_log",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("act", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("org", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("previous", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
        sa.UniqueConstraint("org", "number", name=op.f("uq_audit_log_org_number")),
    )
    op.create_index("ix_audit_log_subject", "audit_log", ["subject", "id"], unique=False)
    if rows:
        op.bulk_insert(log, rows)
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_log_no_{verb.lower()} BEFORE {verb} ON audit_log "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        )
    # INSERT OR REPLACE deletes without the trigger above.
    op.execute(
        "CREATE TRIGGER audit_log_no_replace BEFORE INSERT ON audit_log "
        "WHEN EXISTS (SELECT 1 FROM audit_log WHERE id = NEW.id "
        "OR (org = NEW.org AND number = NEW.number)) "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
    )


def _chained(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows as one chain; the form of the hash is the one of `gateway.store.audit`."""
    chained: list[dict[str, Any]] = []
    previous = ""
    for number, row in enumerate(rows, 1):
        parts = [
            *(previous, "", number, row["id"], row["at"], row["actor"], row["act"]),
            *(row["subject"], row["detail"], None, None, None),
        ]
        text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        added = {"org": "", "number": number, "before": None, "after": None, "request_id": None}
        chained.append({**row, **added, "previous": previous, "hash": digest})
        previous = digest
    return chained
