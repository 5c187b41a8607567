"""The results of delivery tries, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Integer, Text, and_, bindparam, func, insert, select, update
from sqlalchemy.sql import ColumnElement

from gateway.store.database import Query, Tx
from gateway.store.dialects import json_at, json_items
from gateway.store.rows import to_json
from gateway.store.schema import deliveries, delivery_attempts

#: Many tries in one statement, as one text: a call for each would cost more than what it writes.
_TRIES = json_items(bindparam("tries"), "tried")


class Tried(NamedTuple):
    """A try under a lease and what follows from it; the statements know its members by their place."""

    position: int
    endpoint_id: str
    token: int
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


_NUMBERS = frozenset(
    {"position", "token", "due", "settled", "http_status", "started_at", "duration_ms"}
) | {"next_attempt_at"}


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
_LOGGED = ("outcome", "http_status", "started_at", "duration_ms", "next_attempt_at")
_ADD_ATTEMPTS = Query(
    insert(delivery_attempts).from_select(
        ["position", "endpoint_id", "attempt", "trigger", "response_snippet", *_LOGGED],
        select(
            deliveries.c.position,
            deliveries.c.endpoint_id,
            deliveries.c.attempts + 1,
            deliveries.c.trigger,
            _tried("snippet"),
            *(_tried(name) for name in _LOGGED),
        )
        .select_from(_TRIES)
        .join(deliveries, _HELD),
    )
)
_SETTLE = Query(
    update(deliveries)
    .where(_HELD)
    .values(
        state=_tried("state"),
        attempts=deliveries.c.attempts + 1,
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
    listed = to_json(tries)
    await tx.all(_ADD_ATTEMPTS, tries=listed)
    rows = await tx.all(_SETTLE, tries=listed)
    return {(row["position"], row["endpoint_id"], row["token"]) for row in rows}
