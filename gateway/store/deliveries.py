"""Deliveries: one row per event and subscribed endpoint, claimed in turns, settled under a lease.

`now`, `due` and `until` are of the gateway's timeline; `settled_at`, `started_at` and `next_attempt_at`
are microseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    null,
    or_,
    select,
    tuple_,
    update,
)

from gateway.store.database import Query, Row, Tx, listed, upsert
from gateway.store.dialects import json_at, json_items, json_length, json_texts, matches
from gateway.store.lanes import FREE, Handed, Held
from gateway.store.rows import to_json
from gateway.store.schema import deliveries, delivery_attempts, endpoints, events, payouts
from gateway.views import ATTENTION_EVENT

#: As text, and not as a value that is bound: the index of what is pending is used for nothing else.
_PENDING = deliveries.c.state == literal_column("'pending'")
#: For a delivery that is found by its key: that index would look at everything that is pending.
_IS_PENDING = func.coalesce(deliveries.c.state, "") == "pending"


_PATTERNS = json_texts(endpoints.c.event_types)
_ENABLED = endpoints.c.status == "enabled"
#: Those in whose lanes this process has room for the events.
_LEASED = and_(_ENABLED, endpoints.c.id.in_(listed("leased")))
#: A delivery of each event to each endpoint that subscribes, as `events.subscribes` says. GLOB reads `*`
#: as it does; a pattern has no other wildcard.
_FAN_OUT_INSERT = insert(deliveries).from_select(
    [
        "position",
        "endpoint_id",
        "state",
        "attempts",
        "due_at",
        "lease_token",
        "settled_at",
        "trigger",
        "plan_from",
    ],
    select(
        events.c.position,
        endpoints.c.id,
        case((_ENABLED, "pending"), else_="skipped"),
        literal(0),
        case(
            (_LEASED, bindparam("until", type_=BigInteger)),
            else_=bindparam("due", type_=BigInteger),
        ),
        case((_LEASED, bindparam("token", type_=BigInteger)), else_=literal(FREE, BigInteger)),
        case((_ENABLED, null()), else_=bindparam("skipped_at", type_=BigInteger)),
        literal("scheduled"),
        literal(0),
    )
    .select_from(events)
    .join(
        endpoints,
        and_(
            endpoints.c.org == bindparam("of_org"),
            endpoints.c.mode == bindparam("of_mode"),
            endpoints.c.deleted_at.is_(None),
        ),
    )
    .where(
        and_(
            events.c.position.in_(listed("positions", Integer)),
            endpoints.c.id != bindparam("but"),
            # Some types an endpoint has to name.
            or_(
                events.c.type != ATTENTION_EVENT,
                exists(
                    select(literal(1))
                    .select_from(_PATTERNS)
                    .where(_PATTERNS.c.value == events.c.type)
                ),
            ),
            or_(
                json_length(endpoints.c.event_types) == 0,
                exists(
                    select(literal(1))
                    .select_from(_PATTERNS)
                    .where(matches(events.c.type, _PATTERNS.c.value))
                ),
            ),
        )
    ),
)
_FAN_OUT = Query(_FAN_OUT_INSERT)
_FAN_OUT_HANDED = Query(
    _FAN_OUT_INSERT.returning(
        deliveries.c.position,
        deliveries.c.endpoint_id,
        deliveries.c.state,
        deliveries.c.lease_token,
    )
)
_INSERT = upsert(deliveries)
_AGAIN = Query(
    _INSERT.on_conflict_do_update(
        index_elements=["position", "endpoint_id"],
        set_={
            "state": "pending",
            "due_at": _INSERT.excluded.due_at,
            # A sender that still works on the old attempt records nothing.
            "lease_token": FREE,
            "settled_at": null(),
            "trigger": _INSERT.excluded.trigger,
            "plan_from": deliveries.c.attempts,
        },
    )
)
#: When the first delivery of an endpoint becomes due, is tried again, or loses its lease.
_FIRST_DUE = (
    select(func.min(deliveries.c.due_at))
    .where(and_(deliveries.c.endpoint_id == endpoints.c.id, _PENDING))
    .scalar_subquery()
)
_WAITING = (
    select(
        endpoints.c.id, endpoints.c.org, endpoints.c.rate_limit_per_second, _FIRST_DUE.label("due")
    )
    .where(endpoints.c.status == "enabled")
    .subquery("waiting")
)
_WITH_PENDING = Query(select(_WAITING).where(_WAITING.c.due.is_not(None)))
_OLDEST_DUE = Query(select(func.min(_WAITING.c.due).label("due")))


_CLAIM = Query(
    update(deliveries)
    .where(
        tuple_(deliveries.c.position, deliveries.c.endpoint_id).in_(
            select(deliveries.c.position, deliveries.c.endpoint_id)
            .where(
                and_(
                    deliveries.c.endpoint_id == bindparam("claimed_endpoint"),
                    _PENDING,
                    deliveries.c.due_at <= bindparam("now"),
                )
            )
            .order_by(deliveries.c.due_at)
            .limit(bindparam("limit"))
            .with_for_update(skip_locked=True)
        )
    )
    .values(lease_token=bindparam("token"), due_at=bindparam("until"))
    .returning(
        deliveries.c.position,
        deliveries.c.endpoint_id,
        deliveries.c.attempts,
        deliveries.c.lease_token,
        deliveries.c.trigger,
        deliveries.c.plan_from,
    )
)
_CLAIMED_EVENTS = Query(
    select(events.c.position, events.c.id, events.c.type, events.c.payout_id, events.c.body).where(
        events.c.position.in_(listed("positions", Integer))
    )
)
_IN_RANGE = and_(
    deliveries.c.lease_token.between(bindparam("first"), bindparam("last")),
    ~deliveries.c.lease_token.between(bindparam("own_first"), bindparam("own_last")),
)
_LEASED_BY = Query(
    select(deliveries.c.position, deliveries.c.endpoint_id)
    .where(and_(_PENDING, _IN_RANGE, deliveries.c.due_at < bindparam("ends_before")))
    # By the index of what is pending: otherwise the whole table would be read.
    .order_by(deliveries.c.endpoint_id, deliveries.c.due_at)
    .limit(bindparam("limit"))
)
_KEYS = json_items(bindparam("keys"), "held")
_FREE = Query(
    update(deliveries)
    .where(
        and_(
            deliveries.c.position == json_at(_KEYS.c.value, 0, Integer()),
            deliveries.c.endpoint_id == json_at(_KEYS.c.value, 1),
            _IS_PENDING,
            _IN_RANGE,
        )
    )
    .values(lease_token=FREE, due_at=bindparam("now"))
    .returning(deliveries.c.position)
)
_LAG = Query(
    select(
        deliveries.c.endpoint_id,
        func.min(deliveries.c.due_at).label("due"),
        func.count().label("waiting"),
    )
    .where(
        and_(
            _PENDING,
            deliveries.c.endpoint_id.in_(
                select(endpoints.c.id).where(endpoints.c.status == "enabled")
            ),
            deliveries.c.due_at <= bindparam("now"),
        )
    )
    .group_by(deliveries.c.endpoint_id)
    .order_by(func.min(deliveries.c.due_at))
    .limit(bindparam("limit"))
)
_NOT_RECEIVED = Query(
    select(
        deliveries.c.endpoint_id,
        func.count().label("waiting"),
        func.min(events.c.created_at).label("since"),
    )
    .join_from(deliveries, events, deliveries.c.position == events.c.position)
    .where(and_(_PENDING, deliveries.c.endpoint_id.in_(listed("endpoint_ids", Text))))
    .group_by(deliveries.c.endpoint_id)
)
_SKIP = Query(
    update(deliveries)
    .where(
        tuple_(deliveries.c.position, deliveries.c.endpoint_id).in_(
            select(deliveries.c.position, deliveries.c.endpoint_id)
            .where(
                and_(
                    _PENDING,
                    deliveries.c.endpoint_id.in_(
                        select(endpoints.c.id).where(endpoints.c.status != "enabled")
                    ),
                )
            )
            .limit(bindparam("limit"))
        )
    )
    .values(state="skipped", settled_at=bindparam("at"))
    .returning(deliveries.c.position)
)
_DELIVERIES_OF_PAYOUT = Query(
    select(
        deliveries.c.position,
        deliveries.c.endpoint_id,
        deliveries.c.state,
        deliveries.c.attempts,
        deliveries.c.due_at,
        events.c.id.label("event_id"),
        events.c.type,
        events.c.sequence,
        endpoints.c.url,
    )
    .select_from(events)
    .join(deliveries, deliveries.c.position == events.c.position)
    .join(endpoints, endpoints.c.id == deliveries.c.endpoint_id)
    .where(events.c.payout_id == bindparam("payout_id"))
    .order_by(events.c.sequence, deliveries.c.endpoint_id)
)
_ATTEMPTS_OF_PAYOUT = Query(
    select(delivery_attempts)
    .select_from(events)
    .join(delivery_attempts, delivery_attempts.c.position == events.c.position)
    .where(events.c.payout_id == bindparam("payout_id"))
    .order_by(
        delivery_attempts.c.position, delivery_attempts.c.endpoint_id, delivery_attempts.c.attempt
    )
)
_BEFORE = tuple_(
    delivery_attempts.c.started_at, delivery_attempts.c.position, delivery_attempts.c.endpoint_id
) < tuple_(bindparam("before_at"), bindparam("before_position"), bindparam("before_endpoint"))
_LOG = (
    select(delivery_attempts, events.c.id.label("event_id"), events.c.type)
    .join(events, events.c.position == delivery_attempts.c.position)
    .where(_BEFORE)
    .order_by(
        delivery_attempts.c.started_at.desc(),
        delivery_attempts.c.position.desc(),
        delivery_attempts.c.endpoint_id.desc(),
    )
    .limit(bindparam("limit"))
)
_LOG_OF_ENDPOINT = Query(_LOG.where(delivery_attempts.c.endpoint_id == bindparam("endpoint_id")))
_LOG_OF_EVENT = Query(_LOG.where(delivery_attempts.c.position == bindparam("position")))
#: Deliveries that ended long enough ago.
_SETTLED = and_(~_IS_PENDING, deliveries.c.settled_at < bindparam("before"))
_HAS_ATTEMPTS = exists().where(
    and_(
        delivery_attempts.c.position == deliveries.c.position,
        delivery_attempts.c.endpoint_id == deliveries.c.endpoint_id,
    )
)


def _between(column: ColumnElement[int]) -> ColumnElement[bool]:
    return and_(column >= bindparam("first"), column < bindparam("end"))


#: The last event of before a time. Tries of later ones are younger still.
_LAST_OLD = (
    select(events.c.position)
    .where(events.c.created_at < bindparam("before"))
    .order_by(events.c.created_at.desc())
    .limit(1)
    .scalar_subquery()
)
#: In the order of their key, from the tries: most deliveries that old have none any more.
_OLD_ATTEMPTS = Query(
    select(delivery_attempts.c.position, delivery_attempts.c.endpoint_id)
    .where(
        and_(
            delivery_attempts.c.position <= _LAST_OLD,
            exists().where(
                and_(
                    deliveries.c.position == delivery_attempts.c.position,
                    deliveries.c.endpoint_id == delivery_attempts.c.endpoint_id,
                    _SETTLED,
                )
            ),
        )
    )
    .group_by(delivery_attempts.c.position, delivery_attempts.c.endpoint_id)
    .order_by(delivery_attempts.c.position, delivery_attempts.c.endpoint_id)
    .limit(bindparam("limit"))
)
_OLD_ATTEMPTS_OF = Query(
    select(deliveries.c.position, deliveries.c.endpoint_id)
    .where(and_(_SETTLED, _HAS_ATTEMPTS, _between(deliveries.c.position)))
    .limit(bindparam("limit"))
)
_PURGE_ATTEMPTS = Query(
    delete(delivery_attempts).where(
        and_(
            delivery_attempts.c.position == bindparam("position"),
            delivery_attempts.c.endpoint_id == bindparam("endpoint_id"),
            exists().where(
                and_(
                    deliveries.c.position == delivery_attempts.c.position,
                    deliveries.c.endpoint_id == delivery_attempts.c.endpoint_id,
                    _SETTLED,
                )
            ),
        )
    )
)
#: Events that were kept long enough: nothing of them is pending, and their payout has ended.
_KEPT = and_(
    events.c.created_at < bindparam("before"),
    ~exists().where(and_(deliveries.c.position == events.c.position, _IS_PENDING)),
    ~exists().where(
        and_(
            payouts.c.id == events.c.payout_id,
            payouts.c.status != "delivered",
            payouts.c.status != "failed",
        )
    ),
)
_SOME_OLD_EVENTS = select(events.c.position).where(_KEPT).limit(bindparam("limit"))
_OLD_EVENTS = Query(_SOME_OLD_EVENTS.order_by(events.c.created_at, events.c.position))
_OLD_EVENTS_OF = Query(
    _SOME_OLD_EVENTS.where(_between(events.c.position)).order_by(events.c.position)
)
_STILL_OLD = Query(
    select(events.c.position).where(
        and_(events.c.position.in_(listed("positions", Integer)), _KEPT)
    )
)
_DROPS = tuple(
    Query(delete(table).where(table.c.position.in_(listed("positions", Integer))))
    for table in (delivery_attempts, deliveries, events)
)
_OLDEST_SKIPPED = Query(
    select(func.min(events.c.created_at).label("at"))
    .select_from(deliveries)
    .join(events, events.c.position == deliveries.c.position)
    .where(
        and_(
            deliveries.c.endpoint_id == bindparam("endpoint_id"),
            # As text: it has an index.
            deliveries.c.state == literal_column("'skipped'"),
        )
    )
)


async def fan_out(  # noqa: PLR0913 - the events and their scope
    tx: Tx,
    events_: Mapping[int, Mapping[str, Any]],
    org: str,
    mode: str,
    *,
    due: int,
    now: int,
    but: str | None = None,
) -> None:
    """Store the deliveries of an org's new events: one statement, however many endpoints there are.

    `events_`: the columns of each, by its position. Each endpoint that subscribes gets one, except
    `but`. For a disabled endpoint it is stored as skipped at `now`, so that it can be recovered. As far
    as the sender of this process has room, they are leased to it and handed over after the commit.
    """
    values = {
        "positions": to_json(list(events_)),
        "of_org": org,
        "of_mode": mode,
        "due": due,
        "skipped_at": now,
        "but": but or "",
    }
    if tx.lanes is None:
        await tx.all(_FAN_OUT, leased="[]", token=FREE, until=due, **values)
        return
    room = tx.lanes.reserve(org, len(events_))
    # First of all: whatever fails from here on, the room is given back.
    tx.when_over(lambda committed: room.over(committed=committed))
    leased = to_json(list(room.endpoint_ids))
    rows = await tx.all(
        _FAN_OUT_HANDED, leased=leased, token=room.token, until=room.until, **values
    )
    room.take(
        [
            Handed(row["endpoint_id"], row["position"], events_[row["position"]])
            for row in rows
            if row["lease_token"] != FREE
        ],
        others=any(row["state"] == "pending" and row["lease_token"] == FREE for row in rows),
    )


async def leased_deliveries(
    tx: Tx, held: Held, ends_before: int, limit: int
) -> list[tuple[int, str]]:
    """Return deliveries under such leases, which end before a time: position and endpoint of each.

    A long read.
    """
    rows = await tx.all(_LEASED_BY, ends_before=ends_before, limit=limit, **held._asdict())
    return [(row["position"], row["endpoint_id"]) for row in rows]


async def free_deliveries(tx: Tx, found: Sequence[tuple[int, str]], held: Held, now: int) -> int:
    """End the leases of those of the deliveries that are still held so; return how many were.

    They are due now. A sender that still works on one of them records nothing: it may be sent twice.
    """
    keys = to_json([[position, endpoint_id] for position, endpoint_id in found])
    return len(await tx.all(_FREE, keys=keys, now=now, **held._asdict()))


async def deliver_again(tx: Tx, wanted: Sequence[tuple[int, str]], due: int, trigger: str) -> None:
    """Make deliveries (position of the event, endpoint) due now, whatever became of them so far."""
    rows = [
        {
            "position": position,
            "endpoint_id": endpoint_id,
            "state": "pending",
            "attempts": 0,
            "due_at": due,
            "lease_token": 0,
            "settled_at": None,
            "trigger": trigger,
            "plan_from": 0,
        }
        for position, endpoint_id in wanted
    ]
    await tx.many(_AGAIN, rows)


async def waiting_endpoints(tx: Tx) -> list[Row]:
    """Return the enabled endpoints with anything pending: `id`, `org`, `rate_limit_per_second`, `due`.

    `due` is when the first of it may be claimed.
    """
    return await tx.all(_WITH_PENDING)


async def claim_deliveries(
    tx: Tx, wanted: Sequence[tuple[str, int]], now: int, until: int, token: int
) -> list[tuple[Row, Row]]:
    """Lease due deliveries: for each endpoint so many at most; each with its event.

    `token`: a new one of this gateway.
    """
    claimed: list[Row] = []
    for endpoint_id, limit in wanted:
        claimed += await tx.all(
            _CLAIM, claimed_endpoint=endpoint_id, now=now, until=until, limit=limit, token=token
        )
    positions = to_json(list({row["position"] for row in claimed}))
    found = {
        row["position"]: row
        for row in (await tx.all(_CLAIMED_EVENTS, positions=positions) if claimed else ())
    }
    return [(row, found[row["position"]]) for row in claimed]


async def oldest_delivery_due(tx: Tx) -> int | None:
    """Return the time since when the longest waiting delivery is due."""
    row = await tx.one(_OLDEST_DUE)
    return None if row is None else row["due"]


async def lags(tx: Tx, now: int, limit: int) -> list[Row]:
    """Return the endpoints that have something due: `endpoint_id`, `due` (oldest), `waiting`."""
    return await tx.all(_LAG, now=now, limit=limit)


async def waiting_of(tx: Tx, endpoint_ids: Sequence[str]) -> list[Row]:
    """Return what each of the endpoints has not received yet: `endpoint_id`, `waiting`, `since`.

    Due or waiting for its next try; `since` is the time of the oldest such event. A long read.
    """
    return await tx.all(_NOT_RECEIVED, endpoint_ids=to_json(list(endpoint_ids)))


async def skip_deliveries(tx: Tx, at: int, limit: int) -> int:
    """Stop pending deliveries of endpoints that are disabled or gone, a bounded number."""
    return len(await tx.all(_SKIP, at=at, limit=limit))


async def oldest_skipped(tx: Tx, endpoint_id: str) -> int | None:
    """Return the time of the oldest event that an endpoint was not sent while it was disabled."""
    row = await tx.one(_OLDEST_SKIPPED, endpoint_id=endpoint_id)
    return None if row is None else row["at"]


async def deliveries_of(tx: Tx, payout_id: str) -> list[Row]:
    """Return the deliveries of a payout's events."""
    return await tx.all(_DELIVERIES_OF_PAYOUT, payout_id=payout_id)


async def attempts_of_payout(tx: Tx, payout_id: str) -> list[Row]:
    """Return the tries of all deliveries of a payout's events, each delivery's in their order."""
    return await tx.all(_ATTEMPTS_OF_PAYOUT, payout_id=payout_id)


async def attempt_log(
    tx: Tx,
    *,
    endpoint_id: str | None = None,
    position: int | None = None,
    before: tuple[int, int, str],
    limit: int,
) -> list[Row]:
    """Return the tries at an endpoint or of an event, newest first.

    `before` is the place of the last one that was seen: `started_at`, `position`, `endpoint_id`.
    """
    cursor = dict(zip(("before_at", "before_position", "before_endpoint"), before, strict=True))
    if endpoint_id is not None:
        return await tx.all(_LOG_OF_ENDPOINT, endpoint_id=endpoint_id, limit=limit, **cursor)
    return await tx.all(_LOG_OF_EVENT, position=position, limit=limit, **cursor)


async def old_attempts(
    tx: Tx, before: int, limit: int, span: tuple[int, int] | None = None
) -> list[tuple[int, str]]:
    """Return deliveries that ended before a time and whose tries are still there. A long read.

    `span`: between which positions, the second one not included; None: of all.
    """
    if span is None:
        rows = await tx.all(_OLD_ATTEMPTS, before=before, limit=limit)
    else:
        first, end = span
        rows = await tx.all(_OLD_ATTEMPTS_OF, before=before, limit=limit, first=first, end=end)
    return [(row["position"], row["endpoint_id"]) for row in rows]


async def purge_attempts(tx: Tx, found: Sequence[tuple[int, str]], before: int) -> None:
    """Delete the tries of those of the deliveries that ended before a time."""
    await tx.many(
        _PURGE_ATTEMPTS,
        [
            {"position": position, "endpoint_id": endpoint_id, "before": before}
            for position, endpoint_id in found
        ],
    )


async def old_events(
    tx: Tx, before: int, limit: int, span: tuple[int, int] | None = None
) -> list[int]:
    """Return the positions of events of before a time, oldest first. A long read.

    Those with a pending delivery are left out, and so are those of payouts that have not ended. `span`: as
    for `old_attempts`.
    """
    if span is None:
        rows = await tx.all(_OLD_EVENTS, before=before, limit=limit)
    else:
        first, end = span
        rows = await tx.all(_OLD_EVENTS_OF, before=before, limit=limit, first=first, end=end)
    return [row["position"] for row in rows]


async def purge_events(tx: Tx, positions: Sequence[int], before: int) -> int:
    """Delete those of the events that `old_events` would still return, with their deliveries."""
    found = await tx.all(_STILL_OLD, positions=to_json(positions), before=before)
    old = to_json([row["position"] for row in found])
    for statement in _DROPS:
        await tx.all(statement, positions=old)
    return len(found)
