"""Users of the panel and their sessions. Store functions."""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy import and_, bindparam, delete, insert, or_, select, update

from gateway.store.database import Query, Row, Tx
from gateway.store.schema import sessions, users

_INSERT = Query(insert(users))
_BY_NAME = Query(select(users).where(users.c.name == bindparam("name")))
_ALL = Query(select(users).order_by(users.c.name))
_SIGNED_IN = Query(
    update(users)
    .where(
        and_(
            users.c.id == bindparam("user_id"),
            users.c.removed_at.is_(None),
            users.c.totp_step < bindparam("step"),
        )
    )
    .values(totp_step=bindparam("step"), signed_in_at=bindparam("at"))
    .returning(users.c.id)
)
_ADD_SESSION = Query(insert(sessions))
_SESSION = Query(
    select(
        users.c.id,
        users.c.name,
        users.c.org,
        users.c.role,
        sessions.c.created_at.label("since"),
        sessions.c.seen_at,
    )
    .join(users, users.c.id == sessions.c.user_id)
    .where(
        and_(
            sessions.c.digest == bindparam("digest"),
            sessions.c.created_at > bindparam("created_after"),
            sessions.c.seen_at > bindparam("seen_after"),
            users.c.removed_at.is_(None),
        )
    )
)
_SEEN = Query(
    update(sessions)
    .where(and_(sessions.c.digest == bindparam("of_digest"), sessions.c.seen_at < bindparam("at")))
    .values(seen_at=bindparam("at"))
)
_END = Query(delete(sessions).where(sessions.c.digest == bindparam("digest")))
_END_ALL = Query(delete(sessions).where(sessions.c.user_id == bindparam("user_id")))
_END_OLD = Query(
    delete(sessions).where(
        or_(
            sessions.c.seen_at <= bindparam("seen_until"),
            sessions.c.created_at <= bindparam("created_until"),
        )
    )
)


async def insert_user(tx: Tx, **columns: object) -> None:
    """Store a user; a value for each column."""
    await tx.all(_INSERT, **columns)


async def user_by_name(tx: Tx, name: str) -> Row | None:
    """Return a user, removed ones too."""
    return await tx.one(_BY_NAME, name=name)


async def all_users(tx: Tx) -> list[Row]:
    """Return every user by name, removed ones too."""
    return await tx.all(_ALL)


@lru_cache(maxsize=8)
def _update(names: tuple[str, ...]) -> Query:
    statement = update(users).where(users.c.id == bindparam("user_id"))
    return Query(statement.values({name: bindparam("set_" + name) for name in names}))


async def update_user(tx: Tx, user_id: str, **columns: object) -> None:
    """Change columns of a user."""
    values = {"set_" + name: value for name, value in columns.items()}
    await tx.all(_update(tuple(sorted(columns))), user_id=user_id, **values)


async def use_code(tx: Tx, user_id: str, step: int, at: int) -> bool:
    """Use the one-time code of a time step; False if it, or a later one, was used, or the user is gone."""
    return await tx.one(_SIGNED_IN, user_id=user_id, step=step, at=at) is not None


async def add_session(tx: Tx, digest: str, user_id: str, at: int) -> None:
    """Begin a session."""
    await tx.all(_ADD_SESSION, digest=digest, user_id=user_id, created_at=at, seen_at=at)


async def session_user(tx: Tx, digest: str, created_after: int, seen_after: int) -> Row | None:
    """Return the user of a session that is not over: `id`, `name`, `org`, `role`, `since`, `seen_at`."""
    return await tx.one(_SESSION, digest=digest, created_after=created_after, seen_after=seen_after)


async def note_seen(tx: Tx, digest: str, at: int) -> None:
    """Write when a session was used. May be called twice."""
    await tx.all(_SEEN, of_digest=digest, at=at)


async def end_session(tx: Tx, digest: str) -> None:
    """End a session. May be called twice."""
    await tx.all(_END, digest=digest)


async def end_sessions_of(tx: Tx, user_id: str) -> None:
    """End every session of a user. May be called twice."""
    await tx.all(_END_ALL, user_id=user_id)


async def end_old_sessions(tx: Tx, seen_until: int, created_until: int) -> None:
    """Delete sessions that are over. May be called twice."""
    await tx.all(_END_OLD, seen_until=seen_until, created_until=created_until)
