"""Events, written in the transaction of the change that they tell of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from sqlalchemy import and_, bindparam, func, insert, select

from gateway.store.database import Query, Row, Tx
from gateway.store.schema import events

_ADD_EVENT = Query(
    insert(events),
    columns=("id", "org", "mode", "type", "payout_id", "sequence", "body", "created_at"),
)
_GET_EVENT = Query(
    select(events).where(
        and_(
            events.c.id == bindparam("event_id"),
            events.c.org == bindparam("org"),
            events.c.mode == bindparam("mode"),
        )
    )
)
_ANY_EVENT = Query(select(events).where(events.c.id == bindparam("event_id")))
_OF_PAYOUT = Query(
    select(events).where(events.c.payout_id == bindparam("payout_id")).order_by(events.c.sequence)
)


async def event_row(tx: Tx, event_id: str) -> Row | None:
    """Return an event of whatever org."""
    return await tx.one(_ANY_EVENT, event_id=event_id)


async def add_event(tx: Tx, **columns: object) -> None:
    """Store an event; one argument per column, without `position`."""
    await tx.all(_ADD_EVENT, **columns)


async def find_event(tx: Tx, event_id: str, org: str, mode: str) -> Row | None:
    """Return an org's event."""
    return await tx.one(_GET_EVENT, event_id=event_id, org=org, mode=mode)


_FEED_FILTERS = {
    "type": events.c.type == bindparam("type"),
    "payout_id": events.c.payout_id == bindparam("payout_id"),
}


@lru_cache(maxsize=8)
def _feed(names: tuple[str, ...]) -> Query:
    return Query(
        select(events)
        .where(
            events.c.org == bindparam("org"),
            events.c.mode == bindparam("mode"),
            events.c.position > bindparam("after"),
            *(_FEED_FILTERS[name] for name in names),
        )
        .order_by(events.c.position)
        .limit(bindparam("limit"))
    )


async def feed(  # noqa: PLR0913 - the cursor and its scope
    tx: Tx, org: str, mode: str, after: int, limit: int, filters: Mapping[str, str]
) -> list[Row]:
    """Return an org's events after a position, oldest first. Filters: `type`, `payout_id`."""
    return await tx.all(
        _feed(tuple(sorted(filters))), org=org, mode=mode, after=after, limit=limit, **filters
    )


_RANGE = Query(
    select(events.c.id, events.c.type, events.c.position, events.c.payout_id)
    .where(
        and_(
            events.c.org == bindparam("org"),
            events.c.mode == bindparam("mode"),
            events.c.position > bindparam("after"),
            events.c.created_at >= bindparam("since"),
            events.c.created_at < bindparam("until"),
        )
    )
    .order_by(events.c.position)
    .limit(bindparam("limit"))
)


async def events_between(  # noqa: PLR0913 - the range and its scope
    tx: Tx, org: str, mode: str, after: int, since: int, until: int, limit: int
) -> list[Row]:
    """Return an org's events of a span of time, after a position: `id`, `type`, `position`, `payout_id`."""
    return await tx.all(
        _RANGE, org=org, mode=mode, after=after, since=since, until=until, limit=limit
    )


_NEWEST = Query(
    select(func.max(events.c.position).label("position")).where(
        and_(events.c.org == bindparam("org"), events.c.mode == bindparam("mode"))
    )
)


async def newest_position(tx: Tx, org: str, mode: str) -> int:
    """Return the position of an org's newest event; 0 where it has none."""
    row = await tx.one(_NEWEST, org=org, mode=mode)
    return 0 if row is None or row["position"] is None else int(row["position"])


async def events_of(tx: Tx, payout_id: str) -> list[Row]:
    """Return the events of a payout in their order."""
    return await tx.all(_OF_PAYOUT, payout_id=payout_id)
