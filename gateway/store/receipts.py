"""The results of delivery tries, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Integer, Text, and_, bindparam, func, insert, update
from sqlalchemy.sql import ColumnElement

from gateway.store.database import Query, Tx
from gateway.store.dialects import json_at, json_items
from gateway.store.rows import to_json
from gateway.store.schema import deliveries, delivery_attempts

#: Many deliveries in one statement, as one text: an update that returns something has no `many`.
_TRIES = json_items(bindparam("tries"), "tried")


class Tried(NamedTuple):
    """A try under a lease and what follows from it; the statements know its members by their place."""

    position: int
    endpoint_id: str
    token: int
    #: which try it is, and what it began by: as they were read with the lease
    attempt: int
    trigger: str
    #: the delivery's state from now on, and when it is due
    state: str
    due: int
    settled: int | None
    #: what is logged of the try
    outcome: str
    http_status: int | None
    snippet: str | None
    started_at: int
    duration_ms: int
    next_attempt_at: int | None


_NUMBERS = frozenset({"position", "token", "attempt", "due", "settled"})
#: So many of its members, the first ones, are of the delivery.
_OF_DELIVERY = Tried._fields.index("settled") + 1


def _tried(member: str) -> ColumnElement[Any]:
    kind = Integer() if member in _NUMBERS else Text()
    return json_at(_TRIES.c.value, Tried._fields.index(member), kind)


_HELD = and_(
    deliveries.c.position == _tried("position"),
    deliveries.c.endpoint_id == _tried("endpoint_id"),
    deliveries.c.lease_token == _tried("token"),
    # Not the bare column: by its index every pending delivery would be looked at for each try.
    func.coalesce(deliveries.c.state, "") == "pending",
)
_ADD_ATTEMPT = Query(
    insert(delivery_attempts),
    columns=(
        "position",
        "endpoint_id",
        "attempt",
        "trigger",
        "outcome",
        "http_status",
        "response_snippet",
        "started_at",
        "duration_ms",
        "next_attempt_at",
    ),
)
_SETTLE = Query(
    update(deliveries)
    .where(_HELD)
    .values(
        state=_tried("state"),
        attempts=_tried("attempt"),
        due_at=_tried("due"),
        settled_at=_tried("settled"),
        trigger="scheduled",
        # Nobody holds it any more. Negative, and not 0: RETURNING can name no other table.
        lease_token=-deliveries.c.lease_token,
    )
    .returning(
        deliveries.c.position, deliveries.c.endpoint_id, (-deliveries.c.lease_token).label("token")
    )
)


async def settle_tries(tx: Tx, tries: Sequence[Tried]) -> set[tuple[int, str, int]]:
    """Log tries and settle their deliveries; return those that were held: position, endpoint, token.

    A delivery whose lease is lost stays as it is.
    """
    rows = await tx.all(_SETTLE, tries=to_json([each[:_OF_DELIVERY] for each in tries]))
    held = {(row["position"], row["endpoint_id"], row["token"]) for row in rows}
    # Plain inserts: of a delivery that is held nobody else has changed its count of tries, or its trigger.
    await tx.many(
        _ADD_ATTEMPT,
        [
            {
                "position": each.position,
                "endpoint_id": each.endpoint_id,
                "attempt": each.attempt,
                "trigger": each.trigger,
                "outcome": each.outcome,
                "http_status": each.http_status,
                "response_snippet": each.snippet,
                "started_at": each.started_at,
                "duration_ms": each.duration_ms,
                "next_attempt_at": each.next_attempt_at,
            }
            for each in tries
            if each[:3] in held
        ],
    )
    return held
