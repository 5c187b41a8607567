"""The tables of the people who use the panel: users and their sessions."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, LargeBinary, Table, Text

from gateway.store.metadata import metadata

#: People who may sign in to the panel. A row stays when its user is removed: the audit log names it.
users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    #: none: every org
    Column("org", Text),
    #: viewer, operator or admin
    Column("role", Text, nullable=False),
    #: an Argon2id hash; none once the user is removed
    Column("password", Text),
    #: the secret of the one-time codes, sealed; none once the user is removed
    Column("totp", LargeBinary),
    #: the time step of the last code that was used: none is used twice
    Column("totp_step", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("signed_in_at", BigInteger),
    Column("removed_at", BigInteger),
)

#: Sessions, by the digest of a random token that only the browser has.
sessions = Table(
    "sessions",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    #: at most a minute old
    Column("seen_at", BigInteger, nullable=False),
    Index("ix_sessions_user", "user_id"),
    Index("ix_sessions_seen", "seen_at"),
)
