"""Webhooks of custodians: stored raw and once, then worked off; early ones wait for their refs."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, func, select, update

from gateway.store.database import Query, Row, Tx, upsert
from gateway.store.schema import inbox, inbox_refs

_ADD = Query(upsert(inbox).on_conflict_do_nothing().returning(inbox.c.id))
_NEW = Query(
    select(inbox).where(inbox.c.state == "new").order_by(inbox.c.id).limit(bindparam("limit"))
)
_SETTLE = Query(
    update(inbox)
    .where(inbox.c.id == bindparam("inbox_id"))
    .values(
        state=bindparam("new_state"),
        payout_id=bindparam("new_payout_id"),
        settled_at=bindparam("at"),
    )
)
_WAIT = Query(upsert(inbox_refs).on_conflict_do_nothing())
_WAKE = Query(
    update(inbox)
    .where(
        and_(
            inbox.c.state == "waiting",
            inbox.c.id.in_(
                select(inbox_refs.c.inbox_id).where(
                    and_(
                        inbox_refs.c.custodian == bindparam("ref_custodian"),
                        inbox_refs.c.kind == bindparam("ref_kind"),
                        inbox_refs.c.value == bindparam("ref_value"),
                    )
                )
            ),
        )
    )
    .values(state="new")
    .returning(inbox.c.id)
)
_OF_PAYOUT = Query(
    select(inbox).where(inbox.c.payout_id == bindparam("payout_id")).order_by(inbox.c.id)
)
_COUNTS = Query(
    select(inbox.c.custodian, inbox.c.state, func.count().label("rows")).group_by(
        inbox.c.custodian, inbox.c.state
    )
)


async def store_webhook(  # noqa: PLR0913 - one argument per column
    tx: Tx, inbox_id: str, custodian: str, dedup_key: str, body: bytes, at: int
) -> bool:
    """Store a verified webhook; False where this delivery is already stored."""
    row = await tx.one(
        _ADD,
        id=inbox_id,
        custodian=custodian,
        dedup_key=dedup_key,
        body=body,
        state="new",
        payout_id=None,
        received_at=at,
        settled_at=None,
    )
    return row is not None


async def new_webhooks(tx: Tx, limit: int) -> list[Row]:
    """Return webhooks that nobody has worked off, oldest first."""
    return await tx.all(_NEW, limit=limit)


async def settle_webhook(tx: Tx, inbox_id: str, state: str, payout_id: str | None, at: int) -> None:
    """Note what became of a webhook: `applied`, `waiting` or `unreadable`."""
    await tx.all(_SETTLE, inbox_id=inbox_id, new_state=state, new_payout_id=payout_id, at=at)


async def wait_for_ref(tx: Tx, inbox_id: str, custodian: str, kind: str, value: str) -> None:
    """Note that a webhook waits for a payout to learn this id."""
    await tx.all(_WAIT, inbox_id=inbox_id, custodian=custodian, kind=kind, value=value)


async def wake_webhooks(tx: Tx, custodian: str, kind: str, value: str) -> bool:
    """Bring back the webhooks that waited for an id; whether there were any."""
    return bool(await tx.all(_WAKE, ref_custodian=custodian, ref_kind=kind, ref_value=value))


async def webhooks_of(tx: Tx, payout_id: str) -> list[Row]:
    """Return the webhooks that spoke of a payout."""
    return await tx.all(_OF_PAYOUT, payout_id=payout_id)


async def inbox_counts(tx: Tx) -> list[Row]:
    """Return how many webhooks are in which state, per custodian."""
    return await tx.all(_COUNTS)
