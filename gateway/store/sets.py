"""Sets of batches: the same leases, notes and marks as payouts have, for a part of a batch at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import and_, bindparam, case, func, insert, select, update

from gateway.store.database import Query, Row, Tx
from gateway.store.rows import to_json
from gateway.store.schema import batch_sets as sets
from gateway.store.schema import payouts

_ADD = Query(insert(sets))
_ROW = Query(select(sets).where(sets.c.id == bindparam("set_id")))
_OF = Query(select(sets).where(sets.c.batch_id == bindparam("batch_id")).order_by(sets.c.number))
_CLAIM = Query(
    update(sets)
    .where(
        sets.c.id.in_(
            select(sets.c.id)
            .where(
                and_(
                    sets.c.custodian == bindparam("claimed_custodian"),
                    sets.c.due_at <= bindparam("now"),
                    sets.c.lease_until <= bindparam("now"),
                    sets.c.ended_at.is_(None),
                )
            )
            .order_by(sets.c.due_at)
            .limit(bindparam("limit"))
            .with_for_update(skip_locked=True)
        )
    )
    .values(
        lease_token=sets.c.lease_token + 1,
        lease_owner=bindparam("owner"),
        lease_until=bindparam("until"),
        due_at=bindparam("until"),
    )
    .returning(sets.c.id, sets.c.lease_token, sets.c.due_at)
)
_HELD = and_(
    sets.c.id == bindparam("held_id"),
    sets.c.lease_token == bindparam("held_token"),
    sets.c.ended_at.is_(None),
)
_CHECK = Query(select(sets.c.id).where(_HELD))
_EXTEND = Query(
    update(sets)
    .where(and_(_HELD, sets.c.lease_until > bindparam("now")))
    .values(lease_until=bindparam("until"))
    .returning(sets.c.id)
)
_RELEASE = Query(
    update(sets)
    .where(_HELD)
    .values(
        due_at=case(
            (sets.c.due_at == bindparam("claimed_due"), bindparam("due")), else_=sets.c.due_at
        ),
        lease_until=0,
    )
)
_NEXT_DUE = Query(
    select(func.min(func.max(sets.c.due_at, sets.c.lease_until)).label("due")).where(
        and_(sets.c.custodian == bindparam("custodian"), sets.c.ended_at.is_(None))
    )
)
#: The set that an item is in.
_ITS = sets.alias("its")
_OF_ITEM = (
    select(_ITS.c.id)
    .select_from(payouts)
    .join(
        _ITS,
        and_(
            payouts.c.batch_id == _ITS.c.batch_id,
            payouts.c.batch_position >= _ITS.c.first_position,
            payouts.c.batch_position <= _ITS.c.last_position,
        ),
    )
    .where(payouts.c.id == bindparam("item_id"))
)
_SET_OF_ITEM = Query(select(sets).where(sets.c.id.in_(_OF_ITEM)))
_HASTEN = Query(
    update(sets)
    .where(
        and_(
            sets.c.id.in_(_OF_ITEM),
            sets.c.due_at > bindparam("now"),
            sets.c.ended_at.is_(None),
        )
    )
    .values(due_at=bindparam("now"), looks=0)
    .returning(sets.c.custodian)
)
_HASTEN_SET = Query(
    update(sets)
    .where(and_(sets.c.id == bindparam("hastened_id"), sets.c.due_at > bindparam("now")))
    .values(due_at=bindparam("now"))
)
_WAITING = Query(
    select(sets.c.id, sets.c.waiting_since)
    .where(
        and_(
            sets.c.custodian == bindparam("custodian"),
            sets.c.account == bindparam("account"),
            sets.c.waiting_since.is_not(None),
            sets.c.ended_at.is_(None),
        )
    )
    .order_by(sets.c.waiting_since, sets.c.id)
    .limit(1)
)


async def add_set(tx: Tx, **columns: object) -> None:
    """Store a set that nothing was done with yet."""
    fresh: dict[str, object] = {
        "state": "prepared",
        "notes": "{}",
        "moves": 0,
        "ever_unknown": 0,
        "absences": 0,
        "looks": 0,
        "failures": 0,
        "last_call_at": None,
        "first_absence_at": None,
        "last_absence_at": None,
        "outcome": None,
        "ended_at": None,
        "waiting_since": None,
        "lease_token": 0,
        "lease_owner": None,
        "lease_until": 0,
    }
    await tx.all(_ADD, **{**fresh, **columns})


async def set_row(tx: Tx, set_id: str) -> Row | None:
    """Return a set."""
    return await tx.one(_ROW, set_id=set_id)


async def sets_of(tx: Tx, batch_id: str) -> list[Row]:
    """Return the sets of a batch, in order."""
    return await tx.all(_OF, batch_id=batch_id)


async def set_of_item(tx: Tx, payout_id: str) -> Row | None:
    """Return the set that an item of a batch is in."""
    return await tx.one(_SET_OF_ITEM, item_id=payout_id)


async def claim_sets(  # noqa: PLR0913 - the terms of a lease
    tx: Tx, custodian: str, owner: str, now: int, until: int, limit: int
) -> list[Row]:
    """Lease due sets of one custodian: rows with `id`, `lease_token`, `due_at`."""
    return await tx.all(
        _CLAIM, claimed_custodian=custodian, owner=owner, now=now, until=until, limit=limit
    )


async def holds_set(tx: Tx, set_id: str, token: int) -> bool:
    """Whether the lease is still ours and the set has not ended."""
    return await tx.one(_CHECK, held_id=set_id, held_token=token) is not None


async def extend_set(tx: Tx, set_id: str, token: int, now: int, until: int) -> bool:
    """Prolong a lease that has not ended; False where it is lost."""
    row = await tx.one(_EXTEND, held_id=set_id, held_token=token, now=now, until=until)
    return row is not None


async def release_set(tx: Tx, set_id: str, token: int, claimed_due: int, due: int) -> None:
    """Give a lease back, with the time of the next look; earlier where news came meanwhile."""
    await tx.all(_RELEASE, held_id=set_id, held_token=token, claimed_due=claimed_due, due=due)


async def next_set_due(tx: Tx, custodian: str) -> int | None:
    """Return when the next set of a custodian can be claimed."""
    row = await tx.one(_NEXT_DUE, custodian=custodian)
    return None if row is None else row["due"]


async def hasten_set_of(tx: Tx, payout_id: str, now: int) -> str | None:
    """Bring the next look at the set of an item forward; the custodian, where there is such a set."""
    row = await tx.one(_HASTEN, item_id=payout_id, now=now)
    return None if row is None else str(row["custodian"])


async def hasten_set(tx: Tx, set_id: str, now: int) -> None:
    """Bring the next look at a set forward."""
    await tx.all(_HASTEN_SET, hastened_id=set_id, now=now)


async def waiting_set(tx: Tx, custodian: str, account: str) -> Row | None:
    """Return the set that has waited longest for its turn at an account: `id`, `waiting_since`."""
    return await tx.one(_WAITING, custodian=custodian, account=account)


@lru_cache(maxsize=64)
def _update(names: tuple[str, ...]) -> Query:
    return Query(
        update(sets)
        .where(sets.c.id == bindparam("at_id"))
        .values({name: bindparam("set_" + name) for name in names})
    )


async def update_set(tx: Tx, set_id: str, **columns: object) -> None:
    """Change columns of a set."""
    names = tuple(sorted(columns))
    values = {"set_" + name: value for name, value in columns.items()}
    await tx.all(_update(names), at_id=set_id, **values)


async def add_set_notes(tx: Tx, set_id: str, notes: Mapping[str, object]) -> dict[str, Any]:
    """Add to the notes of a set; return all of them."""
    row = await set_row(tx, set_id)
    assert row is not None  # noqa: S101 - its lease is held
    merged: dict[str, Any] = {**json.loads(row["notes"]), **notes}
    await update_set(tx, set_id, notes=to_json(merged))
    return merged
