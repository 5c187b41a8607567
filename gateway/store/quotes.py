"""Quotes: stored promises, consumed once."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, delete, exists, insert, null, select, update

from gateway.store.database import Query, Row, Tx
from gateway.store.schema import payouts, quotes, store_state
from gateway.store.schema_control import money_rules

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
_DECISION = Query(
    select(quotes.c.decision)
    .select_from(payouts)
    .join(quotes, quotes.c.id == payouts.c.quote_id)
    .where(payouts.c.id == bindparam("payout_id"))
)
_USE = Query(
    update(quotes)
    .where(
        and_(
            quotes.c.id == bindparam("quote_id"),
            quotes.c.org == bindparam("used_org"),
            quotes.c.mode == bindparam("used_mode"),
            quotes.c.payout_id.is_(None),
            quotes.c.expires_at > bindparam("now"),
            # In the same statement: nothing new while the database may be an old copy.
            exists().where(and_(store_state.c.frozen.is_(None), store_state.c.accepting == 1)),
            # Nor by other rules than the active ones: a gateway that has those would pay it.
            ~exists().where(money_rules.c.digest != bindparam("own_rules")),
        )
    )
    .values(payout_id=bindparam("new_payout_id"))
    .returning(quotes)
)


_RELEASE = Query(
    update(quotes).where(quotes.c.id == bindparam("quote_id")).values(payout_id=null())
)
#: A used quote stays with its payout: the response to a second use names the payout.
_PURGE = Query(
    delete(quotes)
    .where(
        quotes.c.id.in_(
            select(quotes.c.id)
            .where(and_(quotes.c.payout_id.is_(None), quotes.c.expires_at < bindparam("before")))
            .order_by(quotes.c.expires_at)
            .limit(bindparam("limit"))
        )
    )
    .returning(quotes.c.id)
)


async def insert_quote(tx: Tx, **columns: object) -> None:
    """Store a quote; one argument per column, the decision where there is one."""
    await tx.all(_INSERT, payout_id=None, **{"decision": None, **columns})


async def decision_of(tx: Tx, payout_id: str) -> str | None:
    """Return how the route of a payout's quote was chosen: JSON; None if nothing is kept of it."""
    row = await tx.one(_DECISION, payout_id=payout_id)
    return None if row is None or row["decision"] is None else str(row["decision"])


async def find_quote(tx: Tx, quote_id: str, org: str, mode: str) -> Row | None:
    """Return an org's quote; another org's is not found."""
    return await tx.one(_GET, quote_id=quote_id, org=org, mode=mode)


async def use_quote(  # noqa: PLR0913 - the quote, its scope, its use
    tx: Tx,
    quote_id: str,
    org: str,
    mode: str,
    *,
    payout_id: str,
    now: int,
    rules: str | None = None,
) -> Row | None:
    """Use an org's quote for a payout and return it.

    `rules`: the digest of the limits and routes of this process; None: it has none. None if the quote
    is unknown, used or expired, or where nothing new is accepted now.
    """
    return await tx.one(
        _USE,
        quote_id=quote_id,
        used_org=org,
        used_mode=mode,
        new_payout_id=payout_id,
        now=now,
        own_rules=rules,
    )


async def release_quote(tx: Tx, quote_id: str) -> None:
    """Make a quote that was used in this transaction free again."""
    await tx.all(_RELEASE, quote_id=quote_id)


async def purge_quotes(tx: Tx, before: int, limit: int) -> int:
    """Delete unused quotes that expired before a time, a bounded number; return how many went."""
    return len(await tx.all(_PURGE, before=before, limit=limit))
