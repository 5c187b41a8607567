"""Counters of limits, and what payouts have added to them. Store functions.

A counter is locked while it is read, in the order of the ids, and then written: two callers that reach a
limit at the same time are served one after the other. On SQLite there is one writer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from sqlalchemy import and_, bindparam, delete, exists, insert, select, update

from gateway.model import format_amount
from gateway.spending_rules import Claim, Counter
from gateway.store.database import Query, Row, Tx, listed, upsert
from gateway.store.schema_spending import spending_counters, spending_entries

_IDS = listed("ids")
_LOCK = Query(
    select(spending_counters)
    .where(spending_counters.c.id.in_(_IDS))
    .order_by(spending_counters.c.id)
    .with_for_update()
)
_READ = Query(select(spending_counters).where(spending_counters.c.id.in_(_IDS)))
_INSERT = upsert(spending_counters)
_TAKE = Query(
    _INSERT.on_conflict_do_update(
        index_elements=["id"],
        set_={
            "count": _INSERT.excluded["count"],
            "amount": _INSERT.excluded["amount"],
            "version": spending_counters.c.version + 1,
        },
    )
)
_WRITE = Query(
    update(spending_counters)
    .where(spending_counters.c.id == bindparam("counter_id"))
    .values(
        count=bindparam("new_count"),
        amount=bindparam("new_amount"),
        version=spending_counters.c.version + 1,
    )
)
_ADD_ENTRY = Query(insert(spending_entries))
_ENTRIES = Query(
    select(spending_entries)
    .where(spending_entries.c.owner_id.in_(_IDS))
    .order_by(spending_entries.c.counter_id)
)
_OWNERS = Query(
    select(spending_entries.c.owner_id)
    .where(spending_entries.c.counter_id == bindparam("counter_id"))
    .order_by(spending_entries.c.owner_id.desc())
    .limit(bindparam("limit"))
)
_DROP_ENTRIES = Query(
    delete(spending_entries).where(spending_entries.c.owner_id == bindparam("owner_id"))
)
_ALL = Query(select(spending_counters).order_by(spending_counters.c.id))
#: Windows that ended long ago, and nothing can be given back to.
_OLD = (
    select(spending_counters.c.id)
    .where(spending_counters.c.window < bindparam("before"))
    .limit(bindparam("limit"))
)
_PURGE_ENTRIES = Query(delete(spending_entries).where(spending_entries.c.counter_id.in_(_OLD)))
_PURGE = Query(
    delete(spending_counters)
    .where(
        and_(
            spending_counters.c.id.in_(_OLD),
            ~exists().where(spending_entries.c.counter_id == spending_counters.c.id),
        )
    )
    .returning(spending_counters.c.id)
)


async def lock_counters(tx: Tx, ids: Iterable[str]) -> dict[str, Counter]:
    """Return counters as they are, locked until the commit; one that nothing was added to is not there."""
    rows = await tx.all(_LOCK, ids=json.dumps(sorted(set(ids))))
    return {row["id"]: Counter(row["count"], Decimal(row["amount"])) for row in rows}


async def read_counters(tx: Tx, ids: Iterable[str]) -> dict[str, Counter]:
    """Return counters as they are now, not locked: for a dry run."""
    rows = await tx.all(_READ, ids=json.dumps(sorted(set(ids))))
    return {row["id"]: Counter(row["count"], Decimal(row["amount"])) for row in rows}


async def take_counters(tx: Tx, counters: Mapping[str, Counter], claims: Sequence[Claim]) -> None:
    """Write the counters of claims, which are locked, and make those that are not there."""
    fresh = {each.counter: each for each in claims}
    await tx.many(
        _TAKE,
        [
            {
                "id": counter,
                "rule": fresh[counter].rule.name,
                "mode": fresh[counter].spend.mode,
                "window": fresh[counter].window,
                "count": counters[counter].count,
                "amount": format_amount(counters[counter].amount),
                "version": 0,
            }
            for counter in sorted(fresh)
        ],
    )


async def write_counters(tx: Tx, counters: Mapping[str, Counter]) -> None:
    """Write counters that are there, and locked."""
    await tx.many(
        _WRITE,
        [
            {
                "counter_id": each,
                "new_count": counters[each].count,
                "new_amount": format_amount(counters[each].amount),
            }
            for each in sorted(counters)
        ],
    )


async def add_entries(tx: Tx, owner_id: str, claims: Sequence[Claim]) -> None:
    """Keep what a payout or a batch has added to counters."""
    await tx.many(
        _ADD_ENTRY,
        [
            {
                "owner_id": owner_id,
                "counter_id": each.counter,
                "asset": each.spend.asset,
                "count": each.count,
                "amount": format_amount(each.amount),
                "price": None if each.price is None else format_amount(each.price),
                "counts_amount": int(each.rule.amount is not None),
                "destination": each.destination,
            }
            for each in claims
        ],
    )


async def entries_of(tx: Tx, owner_ids: Iterable[str]) -> list[Row]:
    """Return what payouts and batches have added to counters."""
    return await tx.all(_ENTRIES, ids=json.dumps(list(owner_ids)))


async def owners_of(tx: Tx, counter_id: str, limit: int) -> list[str]:
    """Return payouts and batches that a counter has counted, newest first."""
    rows = await tx.all(_OWNERS, counter_id=counter_id, limit=limit)
    return [row["owner_id"] for row in rows]


async def drop_entries(tx: Tx, owner_id: str) -> None:
    """Forget what a payout has added: it was given back."""
    await tx.all(_DROP_ENTRIES, owner_id=owner_id)


async def all_counters(tx: Tx) -> list[Row]:
    """Return every counter. A long read."""
    return await tx.all(_ALL)


async def purge_counters(tx: Tx, before: str, limit: int) -> int:
    """Delete counters of windows from before a month (`2026-03`) or day; return how many went."""
    await tx.all(_PURGE_ENTRIES, before=before, limit=limit)
    return len(await tx.all(_PURGE, before=before, limit=limit))
