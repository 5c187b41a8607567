"""Batches and their items: one row each; what is done with many items is done in bounded pages."""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy import and_, bindparam, delete, exists, func, insert, or_, select, update

from gateway.store.database import Query, Row, Tx, listed
from gateway.store.dialects import json_at
from gateway.store.payouts import frees_reference
from gateway.store.schema import batches, execution_items, executions, payouts

_ADD = Query(insert(batches))
_NOTE_ENDED_ITEM = Query(
    update(batches)
    .where(batches.c.id == bindparam("at_id"))
    .values(updated_at=batches.c.updated_at + 1)
)
_ROW = Query(select(batches).where(batches.c.id == bindparam("batch_id")))
_FIND = Query(
    select(batches).where(
        and_(
            batches.c.id == bindparam("batch_id"),
            batches.c.org == bindparam("org"),
            batches.c.mode == bindparam("mode"),
            batches.c.state != "loading",
        )
    )
)
_OPEN = ("requested", "verifying", "awaiting_funds", "executing")
_ACTIVE = ("verifying", "awaiting_funds", "executing")
#: Batches with work to do: executed, to be canceled, or not executed in time.
_TO_DO = Query(
    select(batches.c.id)
    .where(
        and_(
            or_(*(batches.c.state == each for each in _OPEN)),
            or_(
                batches.c.executed_at.is_not(None),
                batches.c.cancel_at.is_not(None),
                batches.c.expires_at <= bindparam("now"),
            ),
        )
    )
    .order_by(batches.c.executed_at, batches.c.id)
    .limit(bindparam("limit"))
)
_STALE = Query(
    select(batches.c.id)
    .where(and_(batches.c.state == "loading", batches.c.created_at < bindparam("before")))
    .order_by(batches.c.created_at, batches.c.id)
    .limit(1)
)
_OTHER = batches.alias("other")
#: Whether another batch has the turn at the account, or has waited longer for it.
_BEFORE = Query(
    select(_OTHER.c.id)
    .select_from(batches)
    .join(
        _OTHER,
        and_(
            _OTHER.c.custodian == batches.c.custodian,
            _OTHER.c.account == batches.c.account,
            _OTHER.c.id != batches.c.id,
        ),
    )
    .where(
        and_(
            batches.c.id == bindparam("batch_id"),
            or_(
                *(_OTHER.c.state == each for each in _ACTIVE),
                and_(
                    _OTHER.c.state == "requested",
                    or_(
                        _OTHER.c.executed_at < batches.c.executed_at,
                        and_(
                            _OTHER.c.executed_at == batches.c.executed_at,
                            _OTHER.c.id < batches.c.id,
                        ),
                    ),
                ),
            ),
        )
    )
    .limit(1)
)
_ITEM = payouts.c.batch_id == bindparam("batch_id")
_PAGE = Query(
    select(payouts)
    .where(and_(_ITEM, payouts.c.batch_position > bindparam("after")))
    .order_by(payouts.c.batch_position)
    .limit(bindparam("limit"))
)
_RANGE = Query(
    select(payouts)
    .where(
        and_(
            _ITEM,
            payouts.c.batch_position >= bindparam("first_position"),
            payouts.c.batch_position <= bindparam("last_position"),
        )
    )
    .order_by(payouts.c.batch_position)
)
_COUNTS = Query(
    select(payouts.c.status, payouts.c.sub_status, func.count().label("n"))
    .where(_ITEM)
    .group_by(payouts.c.status, payouts.c.sub_status)
)
_COUNT = Query(select(func.count().label("n")).select_from(payouts).where(_ITEM))
_AMOUNT = json_at(payouts.c.terms, "amount")
_ASSET = json_at(payouts.c.terms, "asset")
#: The caller adds decimal texts: a database would add floats.
_AMOUNTS = Query(
    select(
        payouts.c.status,
        _ASSET.label("asset"),
        _AMOUNT.label("amount"),
        func.count().label("n"),
    )
    .where(_ITEM)
    .group_by(payouts.c.status, _ASSET, _AMOUNT)
)
_FAILED_UNSENT = Query(
    select(func.count().label("n")).where(
        and_(
            _ITEM,
            payouts.c.status == "failed",
            payouts.c.funds_moved == "no",
        )
    )
)
_ENDED = or_(payouts.c.status == "delivered", payouts.c.status == "failed")
#: Items that the engine has and that have not been sent yet.
_UNSENT_COUNT = Query(
    select(func.count().label("n"))
    .select_from(executions)
    .join(execution_items, execution_items.c.execution_id == executions.c.id)
    .join(payouts, payouts.c.id == execution_items.c.payout_id)
    .where(
        and_(
            executions.c.batch_id == bindparam("batch_id"),
            executions.c.ended_at.is_(None),
            or_(
                *(payouts.c.sub_status == each for each in ("created", "submitting", "queued")),
            ),
        )
    )
)
_UNHANDED = Query(
    select(payouts.c.id, payouts.c.batch_position)
    .where(
        and_(
            _ITEM,
            payouts.c.sub_status == "created",
            payouts.c.batch_position > bindparam("after"),
        )
    )
    .order_by(payouts.c.batch_position)
    .limit(bindparam("limit"))
)
#: Items that no open execution has: nothing that was sent can pay them.
_UNSENT = Query(
    select(payouts.c.id)
    .where(
        and_(
            _ITEM,
            payouts.c.status == "pending",
            ~exists().where(
                and_(execution_items.c.payout_id == payouts.c.id, execution_items.c.open == 1)
            ),
        )
    )
    .order_by(payouts.c.batch_position)
    .limit(bindparam("limit"))
)
_REFERENCES = Query(
    select(payouts.c.reference_key, payouts.c.id, payouts.c.batch_id)
    .select_from(payouts)
    .join(batches, batches.c.id == payouts.c.batch_id)
    .where(
        and_(
            payouts.c.org == bindparam("org"),
            payouts.c.mode == bindparam("mode"),
            payouts.c.reference_key.in_(listed("reference_keys")),
            ~frees_reference(payouts),
            batches.c.state != "loading",
        )
    )
)
_TWIN = payouts.alias("twin")
_ITS_BATCH = batches.alias("its_batch")
#: Items whose reference another batch has taken since it was checked.
_CLASHES = Query(
    select(
        payouts.c.batch_position,
        _TWIN.c.id.label("other_id"),
        _TWIN.c.batch_id.label("other_batch"),
    )
    .select_from(payouts)
    .join(
        _TWIN,
        and_(
            _TWIN.c.org == payouts.c.org,
            _TWIN.c.mode == payouts.c.mode,
            _TWIN.c.reference_key == payouts.c.reference_key,
            _TWIN.c.batch_id != payouts.c.batch_id,
            ~frees_reference(_TWIN),
        ),
    )
    .join(
        _ITS_BATCH,
        and_(_ITS_BATCH.c.id == _TWIN.c.batch_id, _ITS_BATCH.c.state != "loading"),
    )
    .where(_ITEM)
    .order_by(payouts.c.batch_position)
    .limit(bindparam("limit"))
)
_SOME_LOADED = select(payouts.c.id).where(_ITEM).limit(bindparam("limit"))
_DROP_ITEMS = Query(delete(payouts).where(payouts.c.id.in_(_SOME_LOADED)).returning(payouts.c.id))
_DROP = Query(delete(batches).where(batches.c.id == bindparam("batch_id")))


async def add_batch(tx: Tx, **columns: object) -> None:
    """Store a batch that has not been executed; one argument per column."""
    await tx.all(_ADD, queued_since=None, **columns)


async def batch_row(tx: Tx, batch_id: str) -> Row | None:
    """Return a batch of whatever org, being loaded or not."""
    return await tx.one(_ROW, batch_id=batch_id)


async def find_batch(tx: Tx, batch_id: str, org: str, mode: str) -> Row | None:
    """Return an org's batch."""
    return await tx.one(_FIND, batch_id=batch_id, org=org, mode=mode)


@lru_cache(maxsize=2)
def _list(after: bool) -> Query:  # noqa: FBT001 - part of the statement's shape
    query = select(batches).where(
        and_(
            batches.c.org == bindparam("org"),
            batches.c.mode == bindparam("mode"),
            batches.c.state != "loading",
        )
    )
    if after:
        query = query.where(batches.c.id < bindparam("after_id"))
    return Query(query.order_by(batches.c.id.desc()).limit(bindparam("limit")))


async def list_batches(tx: Tx, org: str, mode: str, after_id: str | None, limit: int) -> list[Row]:
    """Return an org's batches, newest first."""
    cursor = {} if after_id is None else {"after_id": after_id}
    return await tx.all(_list(after_id is not None), org=org, mode=mode, limit=limit, **cursor)


@lru_cache(maxsize=64)
def _update(names: tuple[str, ...]) -> Query:
    return Query(
        update(batches)
        .where(batches.c.id == bindparam("at_id"))
        .values({name: bindparam("set_" + name) for name in names})
    )


async def update_batch(tx: Tx, batch_id: str, **columns: object) -> None:
    """Change columns of a batch."""
    names = tuple(sorted(columns))
    values = {"set_" + name: value for name, value in columns.items()}
    await tx.all(_update(names), at_id=batch_id, **values)


async def note_ended_item(tx: Tx, batch_id: str) -> None:
    """Note that an item of a batch has ended by itself: what was read of its items before holds no more."""
    await tx.all(_NOTE_ENDED_ITEM, at_id=batch_id)


async def batches_to_do(tx: Tx, now: int, limit: int) -> list[str]:
    """Return the batches with work to do, in the order of their execution."""
    return [row["id"] for row in await tx.all(_TO_DO, now=now, limit=limit)]


async def waits_for_another(tx: Tx, batch_id: str) -> bool:
    """Whether another batch of its account is active, or comes first."""
    return await tx.one(_BEFORE, batch_id=batch_id) is not None


async def items_page(tx: Tx, batch_id: str, after: int, limit: int) -> list[Row]:
    """Return the bare rows of a batch's items after a position."""
    return await tx.all(_PAGE, batch_id=batch_id, after=after, limit=limit)


async def items_between(tx: Tx, batch_id: str, first: int, last: int) -> list[Row]:
    """Return the bare rows of a batch's items from one position to another."""
    return await tx.all(_RANGE, batch_id=batch_id, first_position=first, last_position=last)


async def counts(tx: Tx, batch_id: str) -> list[Row]:
    """Return how many items stand how: `status`, `sub_status`, `n`."""
    return await tx.all(_COUNTS, batch_id=batch_id)


async def count_items(tx: Tx, batch_id: str) -> int:
    """Return how many items a batch has."""
    row = await tx.one(_COUNT, batch_id=batch_id)
    return 0 if row is None else int(row["n"])


async def amounts(tx: Tx, batch_id: str) -> list[Row]:
    """Return how many items of each status, asset and amount there are: `status`, `asset`, `amount`, `n`."""
    return await tx.all(_AMOUNTS, batch_id=batch_id)


async def failed_unsent(tx: Tx, batch_id: str) -> int:
    """Return how many items failed without any money moving."""
    row = await tx.one(_FAILED_UNSENT, batch_id=batch_id)
    return 0 if row is None else int(row["n"])


async def unsent_count(tx: Tx, batch_id: str) -> int:
    """Return how many items the engine has and has not sent."""
    row = await tx.one(_UNSENT_COUNT, batch_id=batch_id)
    return 0 if row is None else int(row["n"])


async def unhanded_items(tx: Tx, batch_id: str, after: int, limit: int) -> list[Row]:
    """Return items that the engine has not been given: `id`, `batch_position`."""
    return await tx.all(_UNHANDED, batch_id=batch_id, after=after, limit=limit)


async def unsent_items(tx: Tx, batch_id: str, limit: int) -> list[str]:
    """Return pending items that no open execution has."""
    return [row["id"] for row in await tx.all(_UNSENT, batch_id=batch_id, limit=limit)]


async def used_references(tx: Tx, org: str, mode: str, reference_keys: str) -> list[Row]:
    """Return which references batches of an org have paid or will: `reference_key`, `id`, `batch_id`.

    `reference_keys` is a JSON list of `gateway.text.reference_key`.
    """
    return await tx.all(_REFERENCES, org=org, mode=mode, reference_keys=reference_keys)


async def clashes(tx: Tx, batch_id: str, limit: int) -> list[Row]:
    """Return items whose reference another batch has: `batch_position`, `other_id`, `other_batch`."""
    return await tx.all(_CLASHES, batch_id=batch_id, limit=limit)


async def stale_load(tx: Tx, before: int) -> str | None:
    """Return a batch whose loading was given up."""
    row = await tx.one(_STALE, before=before)
    return None if row is None else str(row["id"])


async def drop_loaded(tx: Tx, batch_id: str, limit: int) -> int:
    """Delete a bounded number of items of a batch that nobody ever saw; the batch after the last.

    A batch that has become visible stays: returns 0. May be called twice.
    """
    row = await batch_row(tx, batch_id)
    if row is None or row["state"] != "loading":
        return 0
    gone = len(await tx.all(_DROP_ITEMS, batch_id=batch_id, limit=limit))
    if gone < limit:
        await tx.all(_DROP, batch_id=batch_id)
    return gone
