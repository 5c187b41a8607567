"""The operator's list: what is open on it, what was acknowledged, and what ended by itself. Store functions.

A row is open until an operator acknowledges it, or until its cause has ended. What an operator has
acknowledged stays so, however often it is noted again; what ended by itself opens again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import and_, bindparam, exists, func, or_, select, update

from gateway.model import Attention
from gateway.store.database import Query, Row, Tx, listed
from gateway.store.rows import to_json
from gateway.store.schema import attention, execution_items, executions, payouts

#: Who closes what has ended by itself.
BY_GATEWAY = "gateway"
#: Codes that apply only while a payout is in progress: they close with the payout.
_OVER_AT_END = (
    Attention.CANNOT_LOOK,
    Attention.UNRESOLVED,
    Attention.CUSTODIAN_UNREACHABLE,
    Attention.CLOCK_SKEW,
    Attention.KEY_LIFE,
    Attention.STATE_FILE,
    Attention.GATE_VERSION,
    Attention.ITEM_ENDED,
    Attention.ADOPTED,
    Attention.SAME_ACCOUNT,
    Attention.CUSTODIAN_MISCONFIGURED,
    Attention.CREDENTIALS_REFUSED,
    Attention.CUSTODIAN_REMOVED,
)
#: What a request that succeeds ends.
_OVER_AT_SUCCESS = (
    Attention.CUSTODIAN_UNREACHABLE,
    Attention.CLOCK_SKEW,
    Attention.STATE_FILE,
    Attention.GATE_VERSION,
    Attention.CUSTODIAN_MISCONFIGURED,
    Attention.CREDENTIALS_REFUSED,
)
_OPEN = attention.c.closed_at.is_(None)
_CLOSED = {"closed_at": bindparam("at"), "closed_by": BY_GATEWAY}


def _any_of(codes: Iterable[Attention]) -> Any:
    return or_(*(attention.c.code == each.value for each in codes))


_CLOSE_ENDED = Query(
    update(attention)
    .where(
        and_(
            _OPEN,
            _any_of(_OVER_AT_END),
            exists().where(
                and_(
                    payouts.c.id == attention.c.payout_id,
                    or_(payouts.c.status == "delivered", payouts.c.status == "failed"),
                    # What was noted after its end, such as a look in vain, is not over with it.
                    attention.c.last_at <= payouts.c.updated_at,
                )
            ),
        )
    )
    .values(_CLOSED)
    .returning(attention.c.code)
)
_CLOSE_OF_ENDED = Query(
    update(attention)
    .where(
        and_(_OPEN, _any_of(_OVER_AT_END), attention.c.payout_id == bindparam("of_payout")),
    )
    .values(_CLOSED)
)
_CLOSE_REACHED = Query(
    update(attention)
    .where(
        and_(
            _OPEN,
            _any_of(_OVER_AT_SUCCESS),
            exists().where(
                and_(
                    execution_items.c.payout_id == attention.c.payout_id,
                    execution_items.c.open == 1,
                    executions.c.id == execution_items.c.execution_id,
                    executions.c.failures == 0,
                )
            ),
        )
    )
    .values(_CLOSED)
    .returning(attention.c.code)
)
_CLOSE_ANSWERED = Query(
    update(attention)
    .where(and_(_OPEN, _any_of(_OVER_AT_SUCCESS), attention.c.payout_id.in_(listed("payout_ids"))))
    .values(_CLOSED)
)
_CLOSE_CONFIGURED = Query(
    update(attention)
    .where(
        and_(
            _OPEN,
            attention.c.code == Attention.CUSTODIAN_REMOVED.value,
            exists().where(
                and_(
                    payouts.c.id == attention.c.payout_id, payouts.c.custodian.in_(listed("names"))
                )
            ),
        )
    )
    .values(_CLOSED)
    .returning(attention.c.code)
)


@lru_cache(maxsize=2)
def _acknowledge(*, one: bool) -> Query:
    wanted = and_(_OPEN, attention.c.payout_id == bindparam("of_payout"))
    if one:
        wanted = and_(wanted, attention.c.code == bindparam("of_code"))
    return Query(
        update(attention)
        .where(wanted)
        .values(closed_at=bindparam("at"), closed_by=bindparam("by"))
        .returning(attention.c.code, attention.c.detail)
    )


_FILTERS = {
    "code": attention.c.code == bindparam("code"),
    # Not the bare columns: by their index every payout of the org would be read, and few are on the list.
    "org": func.coalesce(payouts.c.org, "") == bindparam("org"),
    "mode": func.coalesce(payouts.c.mode, "") == bindparam("mode"),
    "open": _OPEN,
}


@lru_cache(maxsize=16)
def _page(names: tuple[str, ...]) -> Query:
    return Query(
        select(
            attention,
            payouts.c.org,
            payouts.c.status,
            payouts.c.sub_status,
            payouts.c.custodian,
        )
        .join(payouts, payouts.c.id == attention.c.payout_id)
        .where(*(_FILTERS[name] for name in names))
        .order_by(
            attention.c.first_at.desc(),
            attention.c.payout_id.desc(),
            attention.c.code,
            attention.c.detail,
        )
        .limit(bindparam("limit"))
        .offset(bindparam("offset"))
    )


_UNTOLD = Query(
    select(attention.c.payout_id, attention.c.code, attention.c.detail)
    .where(attention.c.told_at.is_(None))
    .limit(bindparam("limit"))
)
_TELL = Query(
    update(attention)
    .where(
        and_(
            attention.c.payout_id == bindparam("of_payout"),
            attention.c.code == bindparam("of_code"),
            attention.c.detail == bindparam("of_detail"),
            attention.c.told_at.is_(None),
        )
    )
    .values(told_at=bindparam("at"))
    .returning(attention.c.first_at, attention.c.last_at)
)
_NEXT_SEQUENCE = Query(
    update(payouts)
    .where(payouts.c.id == bindparam("payout_id"))
    .values(sequence=payouts.c.sequence + 1)
    .returning(payouts)
)


async def close_ended(tx: Tx, at: int, custodians: Iterable[str]) -> int:
    """Close what has ended by itself; return how many rows. `custodians`: the configured ones."""
    closed = await tx.all(_CLOSE_ENDED, at=at)
    closed += await tx.all(_CLOSE_REACHED, at=at)
    closed += await tx.all(_CLOSE_CONFIGURED, at=at, names=to_json(sorted(custodians)))
    return len(closed)


async def close_of_ended(tx: Tx, payout_id: str, at: int) -> None:
    """Close what the end of a payout ends, in the transaction that ends it. May be called twice.

    The caller has just ended it. `close_ended` does the same later for payouts that are delivered as
    ordered: an update for each of them would cost more than it is worth.
    """
    await tx.all(_CLOSE_OF_ENDED, of_payout=payout_id, at=at)


async def close_answered(tx: Tx, payout_ids: Iterable[str], at: int) -> None:
    """Close what a request that succeeds ends, of the payouts that it was about."""
    await tx.all(_CLOSE_ANSWERED, at=at, payout_ids=to_json(sorted(payout_ids)))


async def acknowledge(tx: Tx, payout_id: str, code: str | None, at: int, by: str) -> list[Row]:
    """Close what is open of a payout, or of one code; return the rows: `code`, `detail`."""
    if code is None:
        return await tx.all(_acknowledge(one=False), of_payout=payout_id, at=at, by=by)
    return await tx.all(_acknowledge(one=True), of_payout=payout_id, of_code=code, at=at, by=by)


async def attention_page(
    tx: Tx, filters: Mapping[str, object], limit: int, offset: int = 0, *, everything: bool = False
) -> list[Row]:
    """Return rows with what they are about, newest first; only open ones, unless `everything`.

    `filters`: names of `_FILTERS`.
    """
    names = tuple(sorted({*filters, *(() if everything else ("open",))}))
    return await tx.all(_page(names), **filters, limit=limit, offset=offset)


async def untold(tx: Tx, limit: int) -> list[Row]:
    """Return rows that were not published yet: `payout_id`, `code`, `detail`."""
    return await tx.all(_UNTOLD, limit=limit)


async def note_told(tx: Tx, payout_id: str, code: str, detail: str, at: int) -> Row | None:
    """Record that a row was published; None if it already was. Returns `first_at`, `last_at`."""
    return await tx.one(_TELL, of_payout=payout_id, of_code=code, of_detail=detail, at=at)


async def next_sequence(tx: Tx, payout_id: str) -> Row | None:
    """Give a payout's next event its number; return the payout's row with it."""
    return await tx.one(_NEXT_SEQUENCE, payout_id=payout_id)
