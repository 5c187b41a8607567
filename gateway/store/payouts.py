"""Payouts, their timeline, transactions, refs and attention rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import and_, bindparam, delete, exists, func, insert, or_, select, update

from gateway.model import Payout, Transaction
from gateway.store.database import Query, Row, Tx, listed, upsert
from gateway.store.rows import payout_of, to_us
from gateway.store.schema import (
    attention,
    batches,
    execution_items,
    payouts,
    refs,
    timeline,
    transactions,
)

#: Beside a batch nothing of it is known.
_NO_BATCH = {"batch_id": None, "batch_position": None, "name": None}
_INSERT = Query(insert(payouts))
_GET = Query(select(payouts).where(payouts.c.id == bindparam("payout_id")))
_BY_QUOTE = Query(select(payouts).where(payouts.c.quote_id == bindparam("quote_id")))
_TIMELINE = Query(
    select(timeline).where(timeline.c.payout_id == bindparam("payout_id")).order_by(timeline.c.id)
)
_TRANSACTIONS = Query(
    select(transactions)
    .where(transactions.c.payout_id == bindparam("payout_id"))
    .order_by(transactions.c.at, transactions.c.id)
)
_TIMELINES = Query(
    select(timeline).where(timeline.c.payout_id.in_(listed("ids"))).order_by(timeline.c.id)
)
_ALL_TRANSACTIONS = Query(
    select(transactions)
    .where(transactions.c.payout_id.in_(listed("ids")))
    .order_by(transactions.c.at, transactions.c.id)
)
_ADD_ENTRY = Query(insert(timeline))
_INSERT_TRANSACTION = upsert(transactions)
_ADD_TRANSACTION = Query(
    _INSERT_TRANSACTION.on_conflict_do_update(
        index_elements=["payout_id", "id", "tx_hash"],
        set_={name: _INSERT_TRANSACTION.excluded[name] for name in ("status", "network")},
    )
)
_ADD_REF = Query(upsert(refs).on_conflict_do_nothing().returning(refs.c.payout_id))
_REF = Query(
    select(refs.c.payout_id).where(
        and_(
            refs.c.custodian == bindparam("custodian"),
            refs.c.kind == bindparam("kind"),
            refs.c.value == bindparam("value"),
        )
    )
)
_ANY_REF = Query(select(refs.c.payout_id).where(refs.c.value == bindparam("value")).limit(1))
_ANY_HASH = Query(
    select(transactions.c.payout_id).where(transactions.c.tx_hash == bindparam("value")).limit(1)
)
_REFS_OF = Query(
    select(refs).where(refs.c.payout_id == bindparam("payout_id")).order_by(refs.c.kind)
)
_OF_TRANSACTION = and_(
    transactions.c.payout_id == bindparam("payout_id"),
    transactions.c.id == bindparam("transaction_id"),
)
_DROP_HASHLESS = Query(
    delete(transactions).where(and_(_OF_TRANSACTION, transactions.c.tx_hash == ""))
)
_TOUCH_TRANSACTION = Query(
    update(transactions)
    .where(_OF_TRANSACTION)
    .values(status=bindparam("new_status"))
    .returning(transactions.c.id)
)
_INSERT_ATTENTION = upsert(attention)
_ADD_ATTENTION = Query(
    _INSERT_ATTENTION.on_conflict_do_update(
        index_elements=["payout_id", "code", "detail"],
        set_={"times": attention.c.times + 1, "last_at": _INSERT_ATTENTION.excluded.last_at},
    )
)
_ATTENTION_OF = Query(
    select(attention)
    .where(attention.c.payout_id == bindparam("payout_id"))
    .order_by(attention.c.first_at)
)
_ATTENTION = Query(
    select(attention, payouts.c.status, payouts.c.sub_status, payouts.c.custodian)
    .join(payouts, payouts.c.id == attention.c.payout_id)
    .order_by(attention.c.last_at.desc())
    .limit(bindparam("limit"))
)
_ATTENTION_COUNT = Query(
    select(attention.c.code, func.count().label("rows")).group_by(attention.c.code)
)
_FIRST_ANSWER = Query(
    update(payouts)
    .where(payouts.c.id == bindparam("payout_id"))
    .values(first_answer=bindparam("answer"))
)
_UNOWNED = Query(
    select(payouts.c.id, payouts.c.custodian)
    .where(
        and_(
            or_(payouts.c.status == "pending", payouts.c.status == "broadcast"),
            # What belongs to a batch is handed to the engine by it. Not the bare column: by its
            # index every single payout that there ever was would be looked at.
            func.coalesce(payouts.c.batch_id, "") == "",
            ~exists().where(
                and_(execution_items.c.payout_id == payouts.c.id, execution_items.c.open == 1)
            ),
        )
    )
    .limit(bindparam("limit"))
)


async def insert_payout(tx: Tx, **columns: object) -> None:
    """Store a payout; one argument per column."""
    await tx.all(_INSERT, **{**_NO_BATCH, **columns})


async def insert_payouts(
    tx: Tx, rows: Sequence[Mapping[str, object]], entries: Sequence[Mapping[str, object]]
) -> None:
    """Store many payouts, one mapping of columns each, with their first timeline entries."""
    await tx.many(_INSERT, rows)
    await tx.many(_ADD_ENTRY, entries)


async def payout_row(tx: Tx, payout_id: str) -> Row | None:
    """Return the bare row of a payout."""
    return await tx.one(_GET, payout_id=payout_id)


async def find_payout(tx: Tx, payout_id: str) -> Payout | None:
    """Return a payout with its timeline and transactions."""
    row = await payout_row(tx, payout_id)
    return None if row is None else await _whole(tx, row)


async def payout_by_quote(tx: Tx, quote_id: str) -> Row | None:
    """Return the row of the payout that a quote became."""
    return await tx.one(_BY_QUOTE, quote_id=quote_id)


async def _whole(tx: Tx, row: Row) -> Payout:
    entries = await tx.all(_TIMELINE, payout_id=row["id"])
    return payout_of(row, entries, await tx.all(_TRANSACTIONS, payout_id=row["id"]))


#: A batch that is being loaded is not there yet.
_SEEN = or_(
    payouts.c.batch_id.is_(None),
    exists().where(and_(batches.c.id == payouts.c.batch_id, batches.c.state != "loading")),
)
#: Filters of the list, each a condition on a bound value.
_FILTERS = {
    "external_ref": payouts.c.external_ref == bindparam("external_ref"),
    "status": payouts.c.status == bindparam("status"),
    "custodian": payouts.c.custodian == bindparam("custodian"),
    "reference": payouts.c.reference == bindparam("reference"),
    "sub_status": payouts.c.sub_status == bindparam("sub_status"),
    "from": payouts.c.created_at >= bindparam("from"),
    "to": payouts.c.created_at <= bindparam("to"),
    "org": payouts.c.org == bindparam("org"),
    "mode": payouts.c.mode == bindparam("mode"),
    "after_at": or_(
        payouts.c.created_at < bindparam("after_at"),
        and_(payouts.c.created_at == bindparam("after_at"), payouts.c.id < bindparam("after_id")),
    ),
}


@lru_cache(maxsize=256)
def _list_query(names: tuple[str, ...]) -> Query:
    return Query(
        select(payouts)
        .where(*(_FILTERS[name] for name in names), _SEEN)
        .order_by(payouts.c.created_at.desc(), payouts.c.id.desc())
        .limit(bindparam("limit"))
    )


async def list_payouts(tx: Tx, filters: Mapping[str, Any], limit: int) -> list[Payout]:
    """Return payouts, newest first. `filters`: names of `_FILTERS`, with `after_id` beside `after_at`."""
    names = tuple(sorted(name for name in filters if name in _FILTERS))
    return await whole_payouts(tx, await tx.all(_list_query(names), **filters, limit=limit))


async def whole_payouts(tx: Tx, rows: Sequence[Row]) -> list[Payout]:
    """Return the payouts of bare rows, with timelines and transactions."""
    ids = json.dumps([row["id"] for row in rows])
    entries = _grouped(await tx.all(_TIMELINES, ids=ids))
    moves = _grouped(await tx.all(_ALL_TRANSACTIONS, ids=ids))
    return [payout_of(row, entries.get(row["id"], ()), moves.get(row["id"], ())) for row in rows]


def _grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["payout_id"], []).append(row)
    return grouped


@lru_cache(maxsize=64)
def _update_query(names: tuple[str, ...]) -> Query:
    return Query(
        update(payouts)
        .where(payouts.c.id == bindparam("payout_id"))
        .values({name: bindparam("set_" + name) for name in names})
    )


async def update_payout(tx: Tx, payout_id: str, **columns: object) -> None:
    """Change columns of a payout."""
    names = tuple(sorted(columns))
    values = {"set_" + name: value for name, value in columns.items()}
    await tx.all(_update_query(names), payout_id=payout_id, **values)


async def set_first_answer(tx: Tx, payout_id: str, answer: bytes) -> None:
    """Keep the first answer of a test-mode payout, sealed, to repeat it byte for byte."""
    await tx.all(_FIRST_ANSWER, payout_id=payout_id, answer=answer)


async def add_entry(tx: Tx, **columns: object) -> None:
    """Append a timeline entry; one argument per column."""
    await tx.all(_ADD_ENTRY, **columns)


async def add_transaction(tx: Tx, payout_id: str, transaction: Transaction) -> None:
    """Add a transaction or bring its status up to date.

    A first hash completes the row, another hash is a row of its own: the history of a replacement.
    """
    if transaction.tx_hash:
        await tx.all(_DROP_HASHLESS, payout_id=payout_id, transaction_id=transaction.id)
    elif await tx.all(
        _TOUCH_TRANSACTION,
        payout_id=payout_id,
        transaction_id=transaction.id,
        new_status=transaction.status,
    ):
        return
    await tx.all(
        _ADD_TRANSACTION,
        payout_id=payout_id,
        id=transaction.id,
        tx_hash=transaction.tx_hash or "",
        network=transaction.network,
        status=transaction.status,
        explorer_url=transaction.explorer_url,
        at=to_us(transaction.at),
    )


async def add_ref(tx: Tx, custodian: str, kind: str, value: str, payout_id: str) -> str:
    """Claim an id at a custodian for a payout; return whose it is: this payout's, or another's."""
    row = await tx.one(_ADD_REF, custodian=custodian, kind=kind, value=value, payout_id=payout_id)
    if row is not None:
        return payout_id
    return await payout_of_ref(tx, custodian, kind, value) or payout_id


async def payout_of_ref(tx: Tx, custodian: str, kind: str, value: str) -> str | None:
    """Return the payout that an id at a custodian belongs to."""
    row = await tx.one(_REF, custodian=custodian, kind=kind, value=value)
    return None if row is None else str(row["payout_id"])


async def payout_of_any_id(tx: Tx, value: str) -> str | None:
    """Return the payout that has this id or hash at whichever custodian."""
    row = await tx.one(_ANY_REF, value=value) or await tx.one(_ANY_HASH, value=value)
    return None if row is None else str(row["payout_id"])


async def refs_of(tx: Tx, payout_id: str) -> list[Row]:
    """Return a payout's ids at custodians."""
    return await tx.all(_REFS_OF, payout_id=payout_id)


async def add_attention(tx: Tx, payout_id: str, code: str, detail: str, at: int) -> None:
    """Put a payout on the operator's list, or count it there once more."""
    await tx.all(
        _ADD_ATTENTION,
        payout_id=payout_id,
        code=code,
        detail=detail,
        times=1,
        first_at=at,
        last_at=at,
    )


async def attention_of(tx: Tx, payout_id: str) -> list[Row]:
    """Return what an operator should know of one payout."""
    return await tx.all(_ATTENTION_OF, payout_id=payout_id)


async def attention_list(tx: Tx, limit: int) -> list[Row]:
    """Return the operator's list, newest first."""
    return await tx.all(_ATTENTION, limit=limit)


async def attention_counts(tx: Tx) -> Sequence[Row]:
    """Return how many rows the operator's list has per code."""
    return await tx.all(_ATTENTION_COUNT)


async def unowned_payouts(tx: Tx, limit: int) -> list[Row]:
    """Return payouts that are not final and that nobody would ever work on."""
    return await tx.all(_UNOWNED, limit=limit)
