"""API keys: minted, listed, revoked, looked up by digest."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, insert, or_, select, update

from gateway.store.database import Query, Row, Tx
from gateway.store.schema import api_keys

_INSERT = Query(insert(api_keys))
_BY_DIGEST = Query(
    select(api_keys).where(api_keys.c.digest == bindparam("digest")), remembered=True
)
_BY_ID = Query(select(api_keys).where(api_keys.c.id == bindparam("key_id")))
_ALL = Query(select(api_keys).order_by(api_keys.c.id))
_REVOKE = Query(
    update(api_keys)
    .where(and_(api_keys.c.id == bindparam("key_id"), api_keys.c.revoked_at.is_(None)))
    .values(revoked_at=bindparam("at"))
    .returning(api_keys.c.id)
)
_END = Query(
    update(api_keys)
    .where(
        and_(
            api_keys.c.id == bindparam("key_id"),
            api_keys.c.revoked_at.is_(None),
            or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > bindparam("at")),
        )
    )
    .values(expires_at=bindparam("at"))
    .returning(api_keys.c.id)
)
_NOTE_USE = Query(
    update(api_keys)
    .where(
        and_(
            api_keys.c.id == bindparam("key_id"),
            or_(
                api_keys.c.last_used_at.is_(None),
                api_keys.c.last_used_at <= bindparam("not_after"),
            ),
        )
    )
    .values(last_used_at=bindparam("at"))
)


async def insert_key(  # noqa: PLR0913 - one argument per column
    tx: Tx,
    *,
    key_id: str,
    org: str | None,
    mode: str,
    digest: str,
    hint: str,
    at: int,
    name: str | None = None,
    owner: str | None = None,
    scopes: str = "[]",
    networks: str = "[]",
    expires_at: int | None = None,
) -> None:
    """Store a key's digest, and what it may do. `scopes` and `networks` are JSON lists."""
    await tx.all(
        _INSERT,
        id=key_id,
        org=org,
        mode=mode,
        digest=digest,
        hint=hint,
        created_at=at,
        revoked_at=None,
        name=name,
        owner=owner,
        scopes=scopes,
        networks=networks,
        expires_at=expires_at,
        last_used_at=None,
    )


async def key_by_digest(tx: Tx, digest: str) -> Row | None:
    """Return the key of a digest, revoked ones too."""
    return await tx.one(_BY_DIGEST, digest=digest)


async def key_by_id(tx: Tx, key_id: str) -> Row | None:
    """Return a key, revoked ones too."""
    return await tx.one(_BY_ID, key_id=key_id)


async def all_keys(tx: Tx) -> list[Row]:
    """Return every key, oldest first."""
    return await tx.all(_ALL)


async def revoke_key(tx: Tx, key_id: str, at: int) -> bool:
    """Revoke a key; False if it is unknown or already revoked."""
    return await tx.one(_REVOKE, key_id=key_id, at=at) is not None


async def end_key(tx: Tx, key_id: str, at: int) -> bool:
    """Have a key end at a time; False if it is unknown, revoked, or ends sooner."""
    return await tx.one(_END, key_id=key_id, at=at) is not None


async def note_use(tx: Tx, key_id: str, at: int, not_after: int) -> None:
    """Write when a key was used, unless a use later than `not_after` is written. May be called twice."""
    await tx.all(_NOTE_USE, key_id=key_id, at=at, not_after=not_after)
