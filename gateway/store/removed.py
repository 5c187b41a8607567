"""What is open, by custodian. Store functions."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, func, or_, select

from gateway.store.database import Query, Row, Tx
from gateway.store.schema import batches, payouts

_OPEN = or_(payouts.c.status == "pending", payouts.c.status == "broadcast")
_ACTIVE = or_(
    *(batches.c.state == each for each in ("requested", "verifying", "awaiting_funds", "executing"))
)
_PAYOUTS = Query(
    select(payouts.c.custodian, func.count().label("n")).where(_OPEN).group_by(payouts.c.custodian)
)
_BATCHES = Query(
    select(batches.c.custodian, func.count().label("n"))
    .where(_ACTIVE)
    .group_by(batches.c.custodian)
)
_SOME = Query(
    select(payouts.c.id)
    .where(
        and_(
            _OPEN,
            payouts.c.custodian == bindparam("custodian"),
            payouts.c.id > bindparam("after"),
        )
    )
    .order_by(payouts.c.id)
    .limit(bindparam("limit"))
)


async def open_payouts(tx: Tx) -> list[Row]:
    """Return how many payouts are open, by custodian: `custodian`, `n`."""
    return await tx.all(_PAYOUTS)


async def open_batches(tx: Tx) -> list[Row]:
    """Return how many batches have not ended, by custodian: `custodian`, `n`."""
    return await tx.all(_BATCHES)


async def some_open(tx: Tx, custodian: str, after: str, limit: int) -> list[str]:
    """Return the ids of open payouts of a custodian after an id, in their order."""
    rows = await tx.all(_SOME, custodian=custodian, after=after, limit=limit)
    return [str(row["id"]) for row in rows]
