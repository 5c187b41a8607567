"""How long payouts took that were delivered lately."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import and_, bindparam, select

from gateway.model import Status, route_key
from gateway.store.database import Query, Row, Tx
from gateway.store.schema import ENDED, payouts

_DELIVERED = Query(
    select(
        payouts.c.custodian,
        payouts.c.terms,
        payouts.c.document,
        payouts.c.created_at,
        payouts.c.updated_at,
    )
    .where(
        and_(
            # As text: it has an index.
            ENDED,
            payouts.c.status == "delivered",
            payouts.c.updated_at > bindparam("since"),
        )
    )
    .order_by(payouts.c.updated_at.desc())
    .limit(bindparam("limit"))
)
_SECOND = 1_000_000


@dataclass(frozen=True)
class Measured:
    """A delivery: which way it went, how long it took, and when its row was written last."""

    route: str
    seconds: int
    at: int


async def delivered_since(tx: Tx, since: int, limit: int) -> list[Measured]:
    """Return the newest deliveries after a time (microseconds), the oldest one first. A long read.

    From when a payout was accepted until it was delivered. One that went another way than its quote says
    measures neither.
    """
    rows = await tx.all(_DELIVERED, since=since, limit=limit)
    found = (_measured(each) for each in reversed(rows))
    return [each for each in found if each is not None]


def _measured(row: Row) -> Measured | None:
    # Not as their models: a thousand of them would push what is being paid out of the cache.
    terms, document = json.loads(row["terms"]), json.loads(row["document"])
    timeline = document.get("timeline", ())
    ends = [each["at"] for each in timeline if each["status"] == Status.DELIVERED]
    route = terms["route"]
    if not ends or route["custodian"] != row["custodian"]:
        return None
    took = max(0, ends[0] - row["created_at"])
    key = route_key(route["custodian"], terms["destination"]["type"], route["to_network"])
    return Measured(key, -(-took // _SECOND), row["updated_at"])
