"""Payouts for bookkeeping, a page at a time. Store functions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

from sqlalchemy import and_, bindparam, func, or_, select

from gateway.store.database import Query, Row, Tx, listed
from gateway.store.schema import (
    evidence,
    execution_items,
    executions,
    payout_returns,
    payouts,
)

_IDS = listed("ids")
_CALLS = (
    select(func.count())
    .select_from(evidence)
    .where(and_(evidence.c.execution_id == executions.c.id, evidence.c.kind == "call"))
    .scalar_subquery()
)
_EXECUTIONS = Query(
    select(execution_items.c.payout_id, executions, _CALLS.label("calls"))
    .select_from(execution_items)
    .join(executions, executions.c.id == execution_items.c.execution_id)
    .where(execution_items.c.payout_id.in_(_IDS))
    .order_by(executions.c.created_at, executions.c.number)
)
_RETURNS = Query(
    select(payout_returns)
    .where(payout_returns.c.payout_id.in_(_IDS))
    .order_by(payout_returns.c.returned_at, payout_returns.c.id)
)


@lru_cache(maxsize=2)
def _between(*, one_org: bool) -> Query:
    wanted = [
        payouts.c.created_at >= bindparam("begin"),
        payouts.c.created_at < bindparam("end"),
        or_(
            payouts.c.created_at > bindparam("after_at"),
            and_(
                payouts.c.created_at == bindparam("after_at"), payouts.c.id > bindparam("after_id")
            ),
        ),
    ]
    if one_org:
        wanted.append(payouts.c.org == bindparam("org"))
    return Query(
        select(payouts)
        .where(*wanted)
        .order_by(payouts.c.created_at, payouts.c.id)
        .limit(bindparam("limit"))
    )


async def payouts_between(  # noqa: PLR0913 - the time, the place and the size of a page
    tx: Tx, begin: int, end: int, after: tuple[int, str], org: str | None, limit: int
) -> list[Row]:
    """Return payouts that were created in a time, oldest first, after a place in that order."""
    values = {"begin": begin, "end": end, "after_at": after[0], "after_id": after[1]}
    if org is None:
        return await tx.all(_between(one_org=False), **values, limit=limit)
    return await tx.all(_between(one_org=True), **values, org=org, limit=limit)


async def executions_of_payouts(tx: Tx, ids: Sequence[str]) -> list[Row]:
    """Return the executions of payouts, with `payout_id`, and `calls`: how many moving calls each made."""
    return await tx.all(_EXECUTIONS, ids=json.dumps(list(ids)))


async def returns_of_payouts(tx: Tx, ids: Sequence[str]) -> list[Row]:
    """Return what came back of payouts."""
    return await tx.all(_RETURNS, ids=json.dumps(list(ids)))
