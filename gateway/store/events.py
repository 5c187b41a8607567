"""Events and their deliveries, written in the transaction of the change that they tell of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from sqlalchemy import and_, bindparam, func, insert, select, update

from gateway.store.database import Query, Row, Tx
from gateway.store.schema import deliveries, delivery_attempts, endpoints, events

_ADD_EVENT = Query(
    insert(events),
    columns=("id", "org", "mode", "type", "payout_id", "sequence", "body", "created_at"),
)
_ADD_DELIVERY = Query(insert(deliveries))
_GET_EVENT = Query(
    select(events).where(
        and_(
            events.c.id == bindparam("event_id"),
            events.c.org == bindparam("org"),
            events.c.mode == bindparam("mode"),
        )
    )
)
_OF_PAYOUT = Query(
    select(events).where(events.c.payout_id == bindparam("payout_id")).order_by(events.c.sequence)
)
_CLAIM = Query(
    update(deliveries)
    .where(
        deliveries.c.id.in_(
            select(deliveries.c.id)
            .where(
                and_(
                    deliveries.c.state == "pending",
                    deliveries.c.due_at <= bindparam("now"),
                    deliveries.c.lease_until <= bindparam("now"),
                )
            )
            .order_by(deliveries.c.due_at)
            .limit(bindparam("limit"))
            .with_for_update(skip_locked=True)
        )
    )
    .values(lease_token=deliveries.c.lease_token + 1, lease_until=bindparam("until"))
    .returning(
        deliveries.c.id,
        deliveries.c.event_id,
        deliveries.c.endpoint_id,
        deliveries.c.attempts,
        deliveries.c.lease_token,
        deliveries.c.due_at,
    )
)
_TARGET = Query(
    select(
        endpoints.c.url,
        endpoints.c.secret,
        endpoints.c.status.label("endpoint_status"),
        endpoints.c.mode,
        events.c.body,
        events.c.type,
        events.c.org,
        events.c.payout_id,
    )
    .select_from(deliveries)
    .join(endpoints, endpoints.c.id == deliveries.c.endpoint_id)
    .join(events, events.c.id == deliveries.c.event_id)
    .where(deliveries.c.id == bindparam("delivery_id"))
)
_SETTLE = Query(
    update(deliveries)
    .where(
        and_(
            deliveries.c.id == bindparam("delivery_id"),
            deliveries.c.lease_token == bindparam("held_token"),
            deliveries.c.state == "pending",
        )
    )
    .values(
        state=bindparam("new_state"),
        attempts=deliveries.c.attempts + 1,
        due_at=bindparam("due"),
        lease_until=bindparam("free"),
        settled_at=bindparam("settled"),
    )
    .returning(deliveries.c.attempts)
)
_ADD_ATTEMPT = Query(insert(delivery_attempts))
_NEXT_DUE = Query(
    select(func.min(func.max(deliveries.c.due_at, deliveries.c.lease_until)).label("due")).where(
        deliveries.c.state == "pending"
    )
)
_OLDEST_DUE = Query(
    select(func.min(deliveries.c.due_at).label("due")).where(deliveries.c.state == "pending")
)
_SKIP_ENDPOINT = Query(
    update(deliveries)
    .where(
        and_(deliveries.c.endpoint_id == bindparam("endpoint_id"), deliveries.c.state == "pending")
    )
    .values(state="skipped", settled_at=bindparam("at"))
)
_DELIVERIES_OF_PAYOUT = Query(
    select(
        deliveries.c.id,
        deliveries.c.endpoint_id,
        deliveries.c.event_id,
        deliveries.c.state,
        deliveries.c.attempts,
        deliveries.c.due_at,
        events.c.type,
        events.c.sequence,
        endpoints.c.url,
    )
    .select_from(deliveries)
    .join(events, events.c.id == deliveries.c.event_id)
    .join(endpoints, endpoints.c.id == deliveries.c.endpoint_id)
    .where(events.c.payout_id == bindparam("payout_id"))
    .order_by(events.c.sequence, deliveries.c.id)
)
_ATTEMPTS = Query(
    select(delivery_attempts)
    .where(delivery_attempts.c.delivery_id == bindparam("delivery_id"))
    .order_by(delivery_attempts.c.attempt)
)


async def add_event(tx: Tx, **columns: object) -> None:
    """Store an event; one argument per column, without `position`."""
    await tx.all(_ADD_EVENT, **columns)


async def add_delivery(tx: Tx, delivery_id: str, event_id: str, endpoint_id: str, due: int) -> None:
    """Store that an event is to be delivered to an endpoint."""
    await tx.all(
        _ADD_DELIVERY,
        id=delivery_id,
        event_id=event_id,
        endpoint_id=endpoint_id,
        state="pending",
        attempts=0,
        due_at=due,
        lease_token=0,
        lease_until=0,
        settled_at=None,
    )


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


async def events_of(tx: Tx, payout_id: str) -> list[Row]:
    """Return the events of a payout in their order."""
    return await tx.all(_OF_PAYOUT, payout_id=payout_id)


async def claim_deliveries(tx: Tx, now: int, until: int, limit: int) -> list[Row]:
    """Lease due deliveries."""
    return await tx.all(_CLAIM, now=now, until=until, limit=limit)


async def delivery_target(tx: Tx, delivery_id: str) -> Row | None:
    """Return where a delivery goes and what it carries."""
    return await tx.one(_TARGET, delivery_id=delivery_id)


async def settle_delivery(  # noqa: PLR0913 - outcome and plan
    tx: Tx, delivery_id: str, token: int, state: str, due: int, settled: int | None
) -> int | None:
    """Write the outcome of a try; the number of tries made, or None where the lease is lost."""
    row = await tx.one(
        _SETTLE,
        delivery_id=delivery_id,
        held_token=token,
        new_state=state,
        due=due,
        free=0,
        settled=settled,
    )
    return None if row is None else row["attempts"]


async def add_delivery_attempt(tx: Tx, **columns: object) -> None:
    """Log one try of a delivery; one argument per column."""
    await tx.all(_ADD_ATTEMPT, **columns)


async def next_delivery_due(tx: Tx) -> int | None:
    """Return when the next delivery can be claimed."""
    row = await tx.one(_NEXT_DUE)
    return None if row is None else row["due"]


async def oldest_delivery_due(tx: Tx) -> int | None:
    """Return the time since when the longest waiting delivery is due."""
    row = await tx.one(_OLDEST_DUE)
    return None if row is None else row["due"]


async def skip_deliveries(tx: Tx, endpoint_id: str, at: int) -> None:
    """Stop the pending deliveries of an endpoint that is gone."""
    await tx.all(_SKIP_ENDPOINT, endpoint_id=endpoint_id, at=at)


async def deliveries_of(tx: Tx, payout_id: str) -> list[Row]:
    """Return the deliveries of a payout's events."""
    return await tx.all(_DELIVERIES_OF_PAYOUT, payout_id=payout_id)


async def delivery_attempts_of(tx: Tx, delivery_id: str) -> list[Row]:
    """Return the tries of a delivery."""
    return await tx.all(_ATTEMPTS, delivery_id=delivery_id)
