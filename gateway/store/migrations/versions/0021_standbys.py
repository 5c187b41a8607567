"""PostgreSQL: which standbys the server waits for, and who vouches for one that was promoted."""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_POSTGRES = (
    "ALTER TABLE store_cluster ADD COLUMN standbys TEXT, ADD COLUMN standby_states TEXT",
    """CREATE TABLE store_vouched (
        gateway_id TEXT PRIMARY KEY, identity TEXT NOT NULL, remembers BOOLEAN NOT NULL
    )""",
)


def upgrade() -> None:
    """Apply. Nothing changes on SQLite."""
    if op.get_context().dialect.name == "postgresql":
        for text in _POSTGRES:
            op.execute(text)
