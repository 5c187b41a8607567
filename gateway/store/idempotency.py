"""Kept answers for repeated requests, scoped by org, mode and route."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, delete, select

from gateway.store.database import Query, Row, Tx, upsert
from gateway.store.schema import idempotency

_SCOPE = and_(
    idempotency.c.org == bindparam("org"),
    idempotency.c.mode == bindparam("mode"),
    idempotency.c.route == bindparam("route"),
    idempotency.c.key == bindparam("key"),
)
_GET = Query(select(idempotency).where(and_(_SCOPE, idempotency.c.expires_at > bindparam("now"))))
_INSERT = upsert(idempotency)
_PUT = Query(
    _INSERT.on_conflict_do_update(
        index_elements=["org", "mode", "route", "key"],
        set_={name: _INSERT.excluded[name] for name in ("fingerprint", "answer", "expires_at")},
    )
)
_PURGE = Query(
    delete(idempotency)
    .where(
        idempotency.c.expires_at.in_(
            select(idempotency.c.expires_at)
            .where(idempotency.c.expires_at <= bindparam("now"))
            .limit(bindparam("limit"))
        )
    )
    .returning(idempotency.c.key)
)


async def kept_answer(  # noqa: PLR0913 - the key has four parts
    tx: Tx, *, org: str, mode: str, route: str, key: str, now: int
) -> Row | None:
    """Return what was answered to this key, unless it has ended."""
    return await tx.one(_GET, org=org, mode=mode, route=route, key=key, now=now)


async def keep_answer(tx: Tx, **columns: object) -> None:
    """Keep an answer; an ended one of the same key is replaced. One argument per column."""
    await tx.all(_PUT, **columns)


async def purge_answers(tx: Tx, now: int, limit: int) -> int:
    """Delete ended answers, a bounded number; return how many went."""
    return len(await tx.all(_PURGE, now=now, limit=limit))
