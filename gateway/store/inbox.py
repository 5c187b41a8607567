"""Webhooks of custodians, stored raw and once; early ones wait until a payout learns their ids."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import (
    ColumnElement,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)

from gateway.store.database import Query, Row, Tx, upsert
from gateway.store.dialects import json_at, json_items
from gateway.store.rows import to_json
from gateway.store.schema import SETTLED, UNMATCHED, inbox, inbox_refs, payouts

_ADD = Query(upsert(inbox).on_conflict_do_nothing().returning(inbox.c.received_at))
_NEW = Query(
    select(inbox)
    # As text, and not as a value that is bound: it has an index.
    .where(inbox.c.state == literal_column("'new'"))
    .order_by(inbox.c.received_at)
    .limit(bindparam("limit"))
)
_SETTLE = Query(
    update(inbox)
    .where(
        and_(
            inbox.c.custodian == bindparam("of_custodian"),
            inbox.c.dedup_key == bindparam("of_dedup_key"),
        )
    )
    .values(
        state=bindparam("new_state"),
        payout_id=bindparam("new_payout_id"),
        settled_at=bindparam("at"),
    )
)
_WAIT = Query(upsert(inbox_refs).on_conflict_do_nothing())


def listed_refs(table: Table) -> ColumnElement[bool]:
    """Return whether a row is of a listed id: `at_custodian`, and `pairs`, a JSON list of kind and value.

    A subquery, and not a join: it must be read first, or every id at the custodian would be looked at.
    """
    pairs = json_items(bindparam("pairs"))
    pair = (json_at(pairs.c.value, at) for at in (0, 1))
    return and_(
        table.c.custodian == bindparam("at_custodian"),
        tuple_(table.c.kind, table.c.value).in_(select(*pair)),
    )


_WAKE = Query(
    update(inbox)
    .where(
        and_(
            inbox.c.state == "waiting",
            tuple_(inbox.c.custodian, inbox.c.dedup_key).in_(
                select(inbox_refs.c.custodian, inbox_refs.c.dedup_key).where(
                    listed_refs(inbox_refs)
                )
            ),
        )
    )
    .values(state="new")
    .returning(inbox.c.dedup_key)
)
_OF_PAYOUT = Query(
    select(inbox).where(inbox.c.payout_id == bindparam("payout_id")).order_by(inbox.c.received_at)
)


_ENDED_PAYOUT = exists().where(
    and_(
        payouts.c.id == inbox.c.payout_id,
        or_(payouts.c.status == "delivered", payouts.c.status == "failed"),
    )
)
_OLD = {
    # As text: each has an index of its own.
    False: and_(UNMATCHED, inbox.c.settled_at < bindparam("before")),
    True: and_(
        SETTLED,
        inbox.c.settled_at < bindparam("before"),
        or_(inbox.c.payout_id.is_(None), _ENDED_PAYOUT),
    ),
}
_OLD_WEBHOOKS = {
    matched: Query(
        select(inbox.c.custodian, inbox.c.dedup_key)
        .where(condition)
        .order_by(inbox.c.settled_at)
        .limit(bindparam("limit"))
    )
    for matched, condition in _OLD.items()
}
_STILL_OLD = {
    matched: Query(
        select(inbox.c.custodian, inbox.c.dedup_key).where(
            and_(
                inbox.c.custodian == bindparam("of_custodian"),
                inbox.c.dedup_key == bindparam("of_dedup_key"),
                condition,
            )
        )
    )
    for matched, condition in _OLD.items()
}
_DROPS = tuple(
    Query(
        delete(table).where(
            and_(
                table.c.custodian == bindparam("of_custodian"),
                table.c.dedup_key == bindparam("of_dedup_key"),
            )
        )
    )
    for table in (inbox_refs, inbox)
)


async def add_webhook(  # noqa: PLR0913 - one argument per column
    tx: Tx,
    custodian: str,
    dedup_key: str,
    body: bytes,
    at: int,
    *,
    state: str = "new",
    payout_id: str | None = None,
) -> bool:
    """Store a verified webhook, `new` or in its final state; False if this delivery is already stored."""
    row = await tx.one(
        _ADD,
        custodian=custodian,
        dedup_key=dedup_key,
        body=body,
        state=state,
        payout_id=payout_id,
        received_at=at,
        settled_at=None if state == "new" else at,
    )
    return row is not None


async def new_webhooks(tx: Tx, limit: int) -> list[Row]:
    """Return webhooks that are still to be processed, oldest first."""
    return await tx.all(_NEW, limit=limit)


async def settle_webhook(  # noqa: PLR0913 - the row and what became of it
    tx: Tx, custodian: str, dedup_key: str, state: str, payout_id: str | None, at: int
) -> None:
    """Write the final state of a webhook that was `new`."""
    await tx.all(
        _SETTLE,
        of_custodian=custodian,
        of_dedup_key=dedup_key,
        new_state=state,
        new_payout_id=payout_id,
        at=at,
    )


async def wait_for_refs(
    tx: Tx, custodian: str, dedup_key: str, pairs: Sequence[tuple[str, str]]
) -> None:
    """Let a webhook wait until a payout learns one of these ids (kind, value)."""
    await tx.many(
        _WAIT,
        [
            {"custodian": custodian, "kind": kind, "value": value, "dedup_key": dedup_key}
            for kind, value in pairs
        ],
    )


async def wake_webhooks(tx: Tx, custodian: str, pairs: Sequence[tuple[str, str]]) -> bool:
    """Make the webhooks `new` again that waited for one of these ids (kind, value); whether any did."""
    return bool(await tx.all(_WAKE, at_custodian=custodian, pairs=to_json(pairs)))


async def webhooks_of(tx: Tx, payout_id: str) -> list[Row]:
    """Return the webhooks about a payout."""
    return await tx.all(_OF_PAYOUT, payout_id=payout_id)


async def old_webhooks(tx: Tx, before: int, limit: int, *, matched: bool) -> list[tuple[str, str]]:
    """Return webhooks (custodian, dedup_key) that were settled before a time. A long read.

    `matched`: those that were applied and whose payout has ended, with those that failed; else those that
    match no payout or cannot be read. What is still to be processed is in neither.
    """
    rows = await tx.all(_OLD_WEBHOOKS[matched], before=before, limit=limit)
    return [(row["custodian"], row["dedup_key"]) for row in rows]


async def purge_webhooks(
    tx: Tx, found: Sequence[tuple[str, str]], before: int, *, matched: bool
) -> int:
    """Delete those of the webhooks that `old_webhooks` would still return; return how many went."""
    gone = []
    for custodian, dedup_key in found:
        key = {"of_custodian": custodian, "of_dedup_key": dedup_key}
        if await tx.one(_STILL_OLD[matched], before=before, **key) is not None:
            gone.append(key)
    for statement in _DROPS:
        await tx.many(statement, gone)
    return len(gone)
