"""Events, written in the transaction of the change that they tell of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import and_, bindparam, func, insert, select

from gateway.store.database import Query, Row, Tx, listed
from gateway.store.rows import to_json
from gateway.store.schema import deliveries, events

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


_COLUMNS = ("id", "org", "mode", "type", "payout_id", "sequence", "body", "created_at")
#: So many events are written by one statement that also returns their positions.
_FEW = 16
_ADD_MANY = Query(insert(events), columns=_COLUMNS, in_commit_order=True)
_POSITIONS = Query(select(events.c.id, events.c.position).where(events.c.id.in_(listed("ids"))))


@lru_cache(maxsize=_FEW)
def _add_few(count: int) -> Query:
    rows: list[dict[str, Any]] = [
        {name: bindparam(f"{name}_{at}") for name in _COLUMNS} for at in range(count)
    ]
    return Query(
        insert(events).values(rows).returning(events.c.id, events.c.position), in_commit_order=True
    )


async def add_events(tx: Tx, rows: Sequence[Mapping[str, object]]) -> list[int]:
    """Store events, one mapping of columns each; return their positions, in the same order."""
    if len(rows) <= _FEW:
        values = {f"{name}_{at}": row[name] for at, row in enumerate(rows) for name in _COLUMNS}
        written = await tx.all(_add_few(len(rows)), **values)
    else:
        await tx.many(_ADD_MANY, rows)
        written = await tx.all(_POSITIONS, ids=to_json([row["id"] for row in rows]))
    positions = {row["id"]: int(row["position"]) for row in written}
    return [positions[str(row["id"])] for row in rows]


async def find_event(tx: Tx, event_id: str, org: str, mode: str) -> Row | None:
    """Return an org's event."""
    return await tx.one(_GET_EVENT, event_id=event_id, org=org, mode=mode)


_FEED_FILTERS = {
    "type": events.c.type == bindparam("type"),
    "payout_id": events.c.payout_id == bindparam("payout_id"),
}
_OF_ORG = (events.c.org == bindparam("org"), events.c.mode == bindparam("mode"))
#: By the index of the payout, and not by that of the org, which has every event that there ever was.
_OF_ORG_TOO = (
    func.coalesce(events.c.org, "") == bindparam("org"),
    func.coalesce(events.c.mode, "") == bindparam("mode"),
)
_AFTER = events.c.position > bindparam("after")
#: Events of an org that are passed over for one page, at most.
_PASSED = 5000
_END_OF_PASS = Query(
    select(events.c.position)
    .where(*_OF_ORG, _AFTER)
    .order_by(events.c.position)
    .limit(1)
    .offset(bindparam("passed"))
)


@lru_cache(maxsize=8)
def _feed(names: tuple[str, ...], *, bounded: bool) -> Query:
    bounds = (events.c.position <= bindparam("end"),) if bounded else ()
    org = _OF_ORG_TOO if "payout_id" in names else _OF_ORG
    return Query(
        select(events)
        .where(*org, _AFTER, *bounds, *(_FEED_FILTERS[name] for name in names))
        .order_by(events.c.position)
        .limit(bindparam("limit"))
    )


async def feed(  # noqa: PLR0913 - the cursor and its scope
    tx: Tx, org: str, mode: str, after: int, limit: int, filters: Mapping[str, str]
) -> tuple[list[Row], int | None]:
    """Return an org's events after a position, oldest first, and where the list goes on. Filters: `type`, `payout_id`.

    Where it goes on is None if these are all. With a type there may be fewer events than `limit`, and even
    none, although it goes on: a type may be rare, and a page passes over a bounded number of others.
    """
    values = {"org": org, "mode": mode, "after": after}
    end = None
    if "type" in filters and "payout_id" not in filters:
        found = await tx.one(_END_OF_PASS, **values, passed=_PASSED - 1)
        end = None if found is None else int(found["position"])
    names = tuple(sorted(filters))
    bound = {} if end is None else {"end": end}
    rows = await tx.all(
        _feed(names, bounded=end is not None), **values, **bound, **filters, limit=limit + 1
    )
    if len(rows) > limit:
        return rows[:limit], int(rows[limit - 1]["position"])
    return rows, end


_RANGE = Query(
    select(
        events.c.type,
        events.c.position,
        deliveries.c.state,
        # Tried before, and not due yet. Of one that is being tried again right now the subscriber may get
        # a second copy, as with a resend.
        and_(
            deliveries.c.state == "pending",
            deliveries.c.attempts > deliveries.c.plan_from,
            deliveries.c.due_at > bindparam("now"),
        ).label("waits"),
    )
    .select_from(events)
    .outerjoin(
        deliveries,
        and_(
            deliveries.c.position == events.c.position,
            deliveries.c.endpoint_id == bindparam("endpoint_id"),
        ),
    )
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
    tx: Tx,
    org: str,
    mode: str,
    after: int,
    since: int,
    until: int,
    endpoint_id: str,
    now: int,
    limit: int,
) -> list[Row]:
    """Return an org's events of a span of time, after a position: `type`, `position`, `state`, `waits`.

    `state` is that of its delivery to the endpoint, null if there is none. `waits`: it was tried
    before, and waits for its next try. `now`: on the timeline.
    """
    return await tx.all(
        _RANGE,
        org=org,
        mode=mode,
        after=after,
        since=since,
        until=until,
        endpoint_id=endpoint_id,
        now=now,
        limit=limit,
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
