"""Money that came back after payouts were delivered: one row per return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import and_, bindparam, insert, or_, select

from gateway.store.database import Query, Row, Tx, listed
from gateway.store.rows import to_json
from gateway.store.schema import payout_returns

_ADD = Query(insert(payout_returns))
_KNOWN = Query(
    select(payout_returns)
    .where(
        or_(
            payout_returns.c.payout_id == bindparam("payout_id"),
            and_(
                payout_returns.c.custodian == bindparam("custodian"),
                payout_returns.c.custodian_id.in_(listed("ids")),
            ),
        )
    )
    .order_by(payout_returns.c.recorded_at, payout_returns.c.id)
)
_OF_PAYOUT = Query(
    select(payout_returns)
    .where(payout_returns.c.payout_id == bindparam("payout_id"))
    .order_by(payout_returns.c.recorded_at, payout_returns.c.id)
)


async def known_returns(
    tx: Tx, payout_id: str, custodian: str, custodian_ids: Sequence[str]
) -> list[Row]:
    """Return the returns of a payout, and those of any payout that have one of these ids."""
    return await tx.all(
        _KNOWN, payout_id=payout_id, custodian=custodian, ids=to_json(list(custodian_ids))
    )


async def add_returns(tx: Tx, rows: Sequence[Mapping[str, object]]) -> None:
    """Store returns, one mapping of columns each."""
    await tx.many(_ADD, rows)


async def returns_of(tx: Tx, payout_id: str) -> list[Row]:
    """Return what came back of a payout, oldest first."""
    return await tx.all(_OF_PAYOUT, payout_id=payout_id)
