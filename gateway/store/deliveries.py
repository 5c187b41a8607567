"""Deliveries: one row per event and subscribed endpoint, claimed in turns, settled under a lease."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import (
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    null,
    or_,
    select,
    update,
)

from gateway.store.database import Query, Row, Tx, listed
from gateway.store.schema import deliveries, delivery_attempts, endpoints, events, payouts

_ADD = Query(insert(deliveries))
_CLAIMABLE = and_(
    deliveries.c.state == "pending",
    deliveries.c.due_at <= bindparam("now"),
    deliveries.c.lease_until <= bindparam("now"),
)
_READY = Query(
    select(endpoints.c.id, endpoints.c.org, endpoints.c.rate_limit_per_second).where(
        and_(
            endpoints.c.status == "enabled",
            exists().where(and_(deliveries.c.endpoint_id == endpoints.c.id, _CLAIMABLE)),
        )
    )
)
_BODY = select(events.c.body).where(events.c.id == deliveries.c.event_id).scalar_subquery()
_TYPE = select(events.c.type).where(events.c.id == deliveries.c.event_id).scalar_subquery()
_PAYOUT = select(events.c.payout_id).where(events.c.id == deliveries.c.event_id).scalar_subquery()
_CLAIM = Query(
    update(deliveries)
    .where(
        deliveries.c.id.in_(
            select(deliveries.c.id)
            .where(and_(deliveries.c.endpoint_id == bindparam("claimed_endpoint"), _CLAIMABLE))
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
        deliveries.c.trigger,
        deliveries.c.plan_from,
        _TYPE.label("type"),
        _PAYOUT.label("payout_id"),
        _BODY.label("body"),
    )
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
        trigger=bindparam("scheduled"),
    )
    .returning(deliveries.c.attempts)
)
_ADD_ATTEMPT = Query(insert(delivery_attempts))
_ENABLED = exists().where(
    and_(endpoints.c.id == deliveries.c.endpoint_id, endpoints.c.status == "enabled")
)
_NEXT_DUE = Query(
    select(deliveries.c.due_at.label("due"))
    .where(and_(deliveries.c.state == "pending", deliveries.c.due_at > bindparam("now")))
    .order_by(deliveries.c.due_at)
    .limit(1)
)
_OLDEST_DUE = Query(
    select(func.min(deliveries.c.due_at).label("due")).where(
        and_(deliveries.c.state == "pending", _ENABLED)
    )
)
_LAG = Query(
    select(
        deliveries.c.endpoint_id,
        func.min(deliveries.c.due_at).label("due"),
        func.count().label("waiting"),
    )
    .where(and_(deliveries.c.state == "pending", _ENABLED, deliveries.c.due_at <= bindparam("now")))
    .group_by(deliveries.c.endpoint_id)
    .order_by(func.min(deliveries.c.due_at))
    .limit(bindparam("limit"))
)
_SKIP = Query(
    update(deliveries)
    .where(
        deliveries.c.id.in_(
            select(deliveries.c.id)
            .where(
                and_(
                    deliveries.c.state == "pending",
                    # Not a join: by the index of the state every pending delivery would be looked at.
                    deliveries.c.endpoint_id.in_(
                        select(endpoints.c.id).where(endpoints.c.status != "enabled")
                    ),
                )
            )
            .limit(bindparam("limit"))
        )
    )
    .values(state="skipped", settled_at=bindparam("at"))
    .returning(deliveries.c.id)
)
_AGAIN = Query(
    update(deliveries)
    .where(
        and_(
            deliveries.c.event_id == bindparam("event_id"),
            deliveries.c.endpoint_id == bindparam("endpoint_id"),
        )
    )
    .values(
        state="pending",
        due_at=bindparam("due"),
        lease_until=0,
        # Whoever still sends the old try settles nothing.
        lease_token=deliveries.c.lease_token + 1,
        settled_at=null(),
        trigger=bindparam("why"),
        plan_from=deliveries.c.attempts,
    )
    .returning(deliveries.c.id)
)
_OF = Query(
    select(deliveries).where(
        and_(
            deliveries.c.event_id == bindparam("event_id"),
            deliveries.c.endpoint_id == bindparam("endpoint_id"),
        )
    )
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
_ATTEMPTS_OF = Query(
    select(delivery_attempts)
    .where(delivery_attempts.c.delivery_id == bindparam("delivery_id"))
    .order_by(delivery_attempts.c.attempt)
)
_LOG = (
    select(
        delivery_attempts,
        deliveries.c.event_id,
        events.c.type,
    )
    .join(deliveries, deliveries.c.id == delivery_attempts.c.delivery_id)
    .join(events, events.c.id == deliveries.c.event_id)
    .where(
        or_(
            delivery_attempts.c.started_at < bindparam("before_at"),
            and_(
                delivery_attempts.c.started_at == bindparam("before_at"),
                delivery_attempts.c.delivery_id < bindparam("before_id"),
            ),
        )
    )
    .order_by(delivery_attempts.c.started_at.desc(), delivery_attempts.c.delivery_id.desc())
    .limit(bindparam("limit"))
)
_LOG_OF_ENDPOINT = Query(_LOG.where(delivery_attempts.c.endpoint_id == bindparam("endpoint_id")))
_LOG_OF_EVENT = Query(_LOG.where(deliveries.c.event_id == bindparam("event_id")))
#: Deliveries that ended long enough ago.
_SETTLED = and_(deliveries.c.state != "pending", deliveries.c.settled_at < bindparam("before"))
_OLD_ATTEMPTS = Query(
    select(deliveries.c.id)
    .where(and_(_SETTLED, exists().where(delivery_attempts.c.delivery_id == deliveries.c.id)))
    .limit(bindparam("limit"))
)
_PURGE_ATTEMPTS = Query(
    delete(delivery_attempts)
    .where(
        delivery_attempts.c.delivery_id.in_(
            select(deliveries.c.id).where(and_(deliveries.c.id.in_(listed("ids")), _SETTLED))
        )
    )
    .returning(delivery_attempts.c.delivery_id)
)
#: Events that were kept long enough: nothing of them is pending, and their payout has ended.
_KEPT = and_(
    events.c.created_at < bindparam("before"),
    ~exists().where(
        and_(
            deliveries.c.event_id == events.c.id,
            # Not the bare column: by its index every pending delivery would be looked at.
            func.coalesce(deliveries.c.state, "") == "pending",
        )
    ),
    ~exists().where(
        and_(
            payouts.c.id == events.c.payout_id,
            payouts.c.status != "delivered",
            payouts.c.status != "failed",
        )
    ),
)
_OLD_EVENTS = Query(
    select(events.c.id).where(_KEPT).order_by(events.c.position).limit(bindparam("limit"))
)
_STILL_OLD = Query(select(events.c.id).where(and_(events.c.id.in_(listed("ids")), _KEPT)))
_OLDEST_SKIPPED = Query(
    select(func.min(events.c.created_at).label("at"))
    .select_from(deliveries)
    .join(events, events.c.id == deliveries.c.event_id)
    .where(
        and_(deliveries.c.endpoint_id == bindparam("endpoint_id"), deliveries.c.state == "skipped")
    )
)
_DROP_ATTEMPTS = Query(
    delete(delivery_attempts).where(
        delivery_attempts.c.delivery_id.in_(
            select(deliveries.c.id).where(deliveries.c.event_id == bindparam("event_id"))
        )
    )
)
_DROP_DELIVERIES = Query(delete(deliveries).where(deliveries.c.event_id == bindparam("event_id")))
_DROP_EVENT = Query(delete(events).where(events.c.id == bindparam("event_id")))


async def add_delivery(  # noqa: PLR0913 - one argument per column
    tx: Tx,
    delivery_id: str,
    event_id: str,
    endpoint_id: str,
    due: int,
    *,
    skipped: bool = False,
    trigger: str = "scheduled",
) -> None:
    """Store that an event is to be delivered to an endpoint; or would have been, were it enabled."""
    await tx.all(
        _ADD,
        id=delivery_id,
        event_id=event_id,
        endpoint_id=endpoint_id,
        state="skipped" if skipped else "pending",
        attempts=0,
        due_at=due,
        lease_token=0,
        lease_until=0,
        settled_at=due if skipped else None,
        trigger=trigger,
        plan_from=0,
    )


async def ready_endpoints(tx: Tx, now: int) -> list[Row]:
    """Return the enabled endpoints with something due: `id`, `org`, `rate_limit_per_second`."""
    return await tx.all(_READY, now=now)


async def claim_deliveries(
    tx: Tx, wanted: Sequence[tuple[str, int]], now: int, until: int
) -> list[Row]:
    """Lease due deliveries: for each endpoint so many at most."""
    claimed: list[Row] = []
    for endpoint_id, limit in wanted:
        claimed += await tx.all(
            _CLAIM, claimed_endpoint=endpoint_id, now=now, until=until, limit=limit
        )
    return claimed


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
        scheduled="scheduled",
    )
    return None if row is None else row["attempts"]


async def add_delivery_attempt(tx: Tx, **columns: object) -> None:
    """Log one try of a delivery; one argument per column."""
    await tx.all(_ADD_ATTEMPT, **columns)


async def next_delivery_due(tx: Tx, now: int) -> int | None:
    """Return when the next delivery becomes due that is not due yet."""
    row = await tx.one(_NEXT_DUE, now=now)
    return None if row is None else row["due"]


async def oldest_delivery_due(tx: Tx) -> int | None:
    """Return the time since when the longest waiting delivery is due."""
    row = await tx.one(_OLDEST_DUE)
    return None if row is None else row["due"]


async def lags(tx: Tx, now: int, limit: int) -> list[Row]:
    """Return the endpoints that have something due: `endpoint_id`, `due` (oldest), `waiting`."""
    return await tx.all(_LAG, now=now, limit=limit)


async def skip_deliveries(tx: Tx, at: int, limit: int) -> int:
    """Stop pending deliveries of endpoints that are disabled or gone, a bounded number."""
    return len(await tx.all(_SKIP, at=at, limit=limit))


async def oldest_skipped(tx: Tx, endpoint_id: str) -> int | None:
    """Return the time of the oldest event that an endpoint was not sent while it was disabled."""
    row = await tx.one(_OLDEST_SKIPPED, endpoint_id=endpoint_id)
    return None if row is None else row["at"]


async def deliver_again(tx: Tx, event_id: str, endpoint_id: str, due: int, why: str) -> bool:
    """Make a delivery due now, whatever became of it; False where there is none."""
    row = await tx.one(_AGAIN, event_id=event_id, endpoint_id=endpoint_id, due=due, why=why)
    return row is not None


async def delivery_of(tx: Tx, event_id: str, endpoint_id: str) -> Row | None:
    """Return the delivery of an event to an endpoint."""
    return await tx.one(_OF, event_id=event_id, endpoint_id=endpoint_id)


async def deliveries_of(tx: Tx, payout_id: str) -> list[Row]:
    """Return the deliveries of a payout's events."""
    return await tx.all(_DELIVERIES_OF_PAYOUT, payout_id=payout_id)


async def delivery_attempts_of(tx: Tx, delivery_id: str) -> list[Row]:
    """Return the tries of a delivery."""
    return await tx.all(_ATTEMPTS_OF, delivery_id=delivery_id)


async def attempt_log(  # noqa: PLR0913 - the cursor and its scope
    tx: Tx,
    *,
    endpoint_id: str | None = None,
    event_id: str | None = None,
    before_at: int,
    before_id: str,
    limit: int,
) -> list[Row]:
    """Return the tries of an endpoint or of an event, newest first."""
    cursor = {"before_at": before_at, "before_id": before_id, "limit": limit}
    if endpoint_id is not None:
        return await tx.all(_LOG_OF_ENDPOINT, endpoint_id=endpoint_id, **cursor)
    return await tx.all(_LOG_OF_EVENT, event_id=event_id, **cursor)


async def old_attempts(tx: Tx, before: int, limit: int) -> list[str]:
    """Return deliveries that ended before a time and whose tries are still there. A long read."""
    return [row["id"] for row in await tx.all(_OLD_ATTEMPTS, before=before, limit=limit)]


async def purge_attempts(tx: Tx, delivery_ids: Sequence[str], before: int) -> int:
    """Delete the tries of those of the deliveries that ended before a time; return how many."""
    return len(await tx.all(_PURGE_ATTEMPTS, ids=json.dumps(delivery_ids), before=before))


async def old_events(tx: Tx, before: int, limit: int) -> list[str]:
    """Return events of before a time, oldest first. A long read.

    Those with a pending delivery are left out, and so are those of payouts that have not ended.
    """
    return [row["id"] for row in await tx.all(_OLD_EVENTS, before=before, limit=limit)]


async def purge_events(tx: Tx, event_ids: Sequence[str], before: int) -> int:
    """Delete those of the events that `old_events` would still return, with their deliveries."""
    old = [row["id"] for row in await tx.all(_STILL_OLD, ids=json.dumps(event_ids), before=before)]
    for event_id in old:
        for statement in (_DROP_ATTEMPTS, _DROP_DELIVERIES, _DROP_EVENT):
            await tx.all(statement, event_id=event_id)
    return len(old)
