"""Webhook endpoints of an org."""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy import and_, bindparam, insert, select, update

from gateway.store.database import Query, Row, Tx
from gateway.store.schema import endpoints

_ADD = Query(insert(endpoints))
_SCOPE = and_(
    endpoints.c.org == bindparam("org"),
    endpoints.c.mode == bindparam("mode"),
    endpoints.c.deleted_at.is_(None),
)
_GET = Query(select(endpoints).where(and_(_SCOPE, endpoints.c.id == bindparam("endpoint_id"))))
_DELETE = Query(
    update(endpoints)
    .where(and_(_SCOPE, endpoints.c.id == bindparam("endpoint_id")))
    .values(deleted_at=bindparam("at"), status="deleted")
    .returning(endpoints.c.id)
)
_SUBSCRIBED = Query(
    select(endpoints.c.id, endpoints.c.event_types).where(
        and_(_SCOPE, endpoints.c.status == "enabled")
    )
)


async def insert_endpoint(tx: Tx, **columns: object) -> None:
    """Store an endpoint; one argument per column."""
    await tx.all(_ADD, deleted_at=None, **columns)


async def find_endpoint(tx: Tx, endpoint_id: str, org: str, mode: str) -> Row | None:
    """Return an org's endpoint."""
    return await tx.one(_GET, endpoint_id=endpoint_id, org=org, mode=mode)


@lru_cache(maxsize=2)
def _page(after: bool) -> Query:  # noqa: FBT001 - part of the statement's shape
    query = select(endpoints).where(_SCOPE)
    if after:
        query = query.where(endpoints.c.id < bindparam("after_id"))
    return Query(query.order_by(endpoints.c.id.desc()).limit(bindparam("limit")))


async def list_endpoints(
    tx: Tx, org: str, mode: str, after_id: str | None, limit: int
) -> list[Row]:
    """Return an org's endpoints, newest first."""
    cursor = {} if after_id is None else {"after_id": after_id}
    return await tx.all(_page(after_id is not None), org=org, mode=mode, limit=limit, **cursor)


async def delete_endpoint(tx: Tx, endpoint_id: str, org: str, mode: str, at: int) -> bool:
    """Delete an endpoint; False where the org has none of that id."""
    return await tx.one(_DELETE, endpoint_id=endpoint_id, org=org, mode=mode, at=at) is not None


async def subscribed_endpoints(tx: Tx, org: str, mode: str) -> list[Row]:
    """Return the endpoints of an org that receive events now."""
    return await tx.all(_SUBSCRIBED, org=org, mode=mode)
