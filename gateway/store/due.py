"""When the next open execution is due. Store functions."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, func, select

from gateway.store.database import Query, Tx
from gateway.store.dialects import greatest
from gateway.store.schema import executions

_OPEN = executions.c.ended_at.is_(None)
_NEXT_DUE = Query(
    select(func.min(greatest(executions.c.due_at, executions.c.lease_until)).label("due")).where(
        and_(executions.c.custodian == bindparam("custodian"), _OPEN)
    )
)
#: Of how many the next one is looked for before all are: those with a lease are due later than they say.
_LOOKED_AT_NEXT = 64
_FIRST_DUE = Query(
    select(executions.c.due_at, executions.c.lease_until)
    .where(and_(executions.c.custodian == bindparam("custodian"), _OPEN))
    .order_by(executions.c.due_at)
    .limit(_LOOKED_AT_NEXT)
)
_OLDEST_DUE = Query(select(func.min(executions.c.due_at).label("due")).where(_OPEN))


async def next_due(tx: Tx, custodian: str) -> int | None:
    """Return when the next execution of a custodian can be claimed."""
    first = await tx.all(_FIRST_DUE, custodian=custodian)
    due = min((max(row["due_at"], row["lease_until"]) for row in first), default=None)
    if due is None or len(first) < _LOOKED_AT_NEXT or due <= first[-1]["due_at"]:
        return due
    row = await tx.one(_NEXT_DUE, custodian=custodian)
    return None if row is None else row["due"]


async def oldest_due(tx: Tx) -> int | None:
    """Return the time since when the execution that waits longest is due."""
    row = await tx.one(_OLDEST_DUE)
    return None if row is None else row["due"]
