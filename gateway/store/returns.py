"""Money that came back after payouts were delivered, and the looks that find it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import and_, bindparam, case, delete, func, insert, or_, select, update

from gateway.store.database import Later, Query, Row, Tx, listed, upsert
from gateway.store.rows import to_json
from gateway.store.schema import delivered_looks, execution_items, payout_returns

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
_BEGIN = Query(upsert(delivered_looks).on_conflict_do_nothing())
_CLAIM = Query(
    update(delivered_looks)
    .where(
        delivered_looks.c.execution_id.in_(
            select(delivered_looks.c.execution_id)
            .where(
                and_(
                    delivered_looks.c.custodian == bindparam("of_custodian"),
                    delivered_looks.c.due_at <= bindparam("now"),
                )
            )
            .order_by(delivered_looks.c.due_at)
            .limit(bindparam("limit"))
            .with_for_update(skip_locked=True)
        )
    )
    # If the process dies, another one looks then.
    .values(due_at=bindparam("until"))
    .returning(delivered_looks)
)
_NEXT = Query(
    select(func.min(delivered_looks.c.due_at).label("due")).where(
        delivered_looks.c.custodian == bindparam("of_custodian")
    )
)
_AGAIN = Query(
    update(delivered_looks)
    .where(
        and_(
            delivered_looks.c.execution_id == bindparam("of_execution"),
            # News that came meanwhile has lowered it: the next look comes at once.
            delivered_looks.c.due_at == bindparam("claimed_due"),
        )
    )
    .values(due_at=bindparam("due"))
)
_END = Query(
    delete(delivered_looks).where(
        and_(
            delivered_looks.c.execution_id == bindparam("of_execution"),
            delivered_looks.c.due_at == bindparam("claimed_due"),
        )
    )
)
_WAKE = Query(
    update(delivered_looks)
    .where(
        delivered_looks.c.execution_id.in_(
            select(execution_items.c.execution_id).where(
                execution_items.c.payout_id == bindparam("payout_id")
            )
        )
    )
    .values(
        due_at=case(
            (delivered_looks.c.due_at > bindparam("now"), bindparam("now")),
            else_=delivered_looks.c.due_at,
        )
    )
    .returning(delivered_looks.c.execution_id)
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


# --- Looks after the delivery ---------------------------------------------------------------------


async def begin_looks(  # noqa: PLR0913 - one argument per column
    tx: Tx, execution_id: str, custodian: str, *, begun: int, until: int, due: int
) -> None:
    """Have an execution that has ended looked at until a time. May be called twice."""
    look = {
        "execution_id": execution_id,
        "custodian": custodian,
        "begun_at": begun,
        "until_at": until,
        "due_at": due,
    }
    await tx.later(_BEGUN, [look])


async def _begin(tx: Tx, looks: Sequence[Mapping[str, object]]) -> None:
    await tx.many(_BEGIN, looks)


_BEGUN = Later(frozenset({"delivered_looks"}), _begin)


async def claim_looks(tx: Tx, custodian: str, now: int, until: int, limit: int) -> list[Row]:
    """Return due looks of a custodian. Each is due again at `until`, unless it is put off or ended."""
    return await tx.all(_CLAIM, of_custodian=custodian, now=now, until=until, limit=limit)


async def next_look_due(tx: Tx, custodian: str) -> int | None:
    """Return when the next look of a custodian is due."""
    row = await tx.one(_NEXT, of_custodian=custodian)
    return None if row is None else row["due"]


async def put_off_look(tx: Tx, execution_id: str, claimed_due: int, due: int) -> None:
    """Have the next look come later; at once where news came since it was claimed."""
    await tx.all(_AGAIN, of_execution=execution_id, claimed_due=claimed_due, due=due)


async def end_looks(tx: Tx, execution_id: str, claimed_due: int) -> None:
    """Look no more, unless news came since it was claimed."""
    await tx.all(_END, of_execution=execution_id, claimed_due=claimed_due)


async def wake_looks(tx: Tx, payout_id: str, now: int) -> bool:
    """Bring the next look at a delivered payout forward; whether there is one to come."""
    return bool(await tx.all(_WAKE, payout_id=payout_id, now=now))
