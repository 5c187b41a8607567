"""Quotes: stored promises, consumed once."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, insert, select, update

from gateway.store.database import Query, Row, Tx
from gateway.store.schema import quotes

_INSERT = Query(insert(quotes))
_GET = Query(
    select(quotes).where(
        and_(
            quotes.c.id == bindparam("quote_id"),
            quotes.c.org == bindparam("org"),
            quotes.c.mode == bindparam("mode"),
        )
    )
)
_CONSUME = Query(
    update(quotes)
    .where(and_(quotes.c.id == bindparam("quote_id"), quotes.c.payout_id.is_(None)))
    .values(payout_id=bindparam("new_payout_id"))
    .returning(quotes.c.id)
)


async def insert_quote(tx: Tx, **columns: object) -> None:
    """Store a quote; one argument per column."""
    await tx.all(_INSERT, payout_id=None, **columns)


async def find_quote(tx: Tx, quote_id: str, org: str, mode: str) -> Row | None:
    """Return an org's quote; another org's is not found."""
    return await tx.one(_GET, quote_id=quote_id, org=org, mode=mode)


async def consume_quote(tx: Tx, quote_id: str, payout_id: str) -> bool:
    """Consume a quote for a payout; False where it was consumed before."""
    return await tx.one(_CONSUME, quote_id=quote_id, new_payout_id=payout_id) is not None
