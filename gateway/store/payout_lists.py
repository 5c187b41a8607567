"""Lists of payouts: each filter has an index in the order of the list, so a page costs the same, however many payouts there are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import and_, bindparam, exists, func, or_, select, text

from gateway.model import Payout, Status, SubStatus
from gateway.states import STATUS_OF
from gateway.store.database import Query, Row, Tx
from gateway.store.rows import payout_of
from gateway.store.schema import FAILED, HELD, HELD_WORDS, OPEN, batches, payouts

#: A batch that is being loaded is not there yet.
SEEN = or_(
    payouts.c.batch_id.is_(None),
    exists().where(and_(batches.c.id == payouts.c.batch_id, batches.c.state != "loading")),
)
#: Filters of the list, each a condition on a bound value.
_FILTERS = {
    "external_ref": payouts.c.external_ref == bindparam("external_ref"),
    "status": payouts.c.status == bindparam("status"),
    "custodian": payouts.c.custodian == bindparam("custodian"),
    "reference_key": payouts.c.reference_key == bindparam("reference_key"),
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
_CUSTODIAN = func.coalesce(payouts.c.custodian, "") == bindparam("custodian")
#: What follows from a filter, in the words of an index on a part of the table.
_PARTS = {"open": text(f"({OPEN})"), "failed": text(FAILED), "held": text(HELD)}


@lru_cache(maxsize=256)
def _list_query(names: tuple[str, ...], part: str | None) -> Query:
    conditions: dict[str, Any] = {name: _FILTERS[name] for name in names}
    if part is not None:
        conditions["part"] = _PARTS[part]
        if "custodian" in conditions:
            # Not by its index, which has nearly all payouts that ended well.
            conditions["custodian"] = _CUSTODIAN
    query = select(payouts).where(*conditions.values(), SEEN)
    return Query(
        query.order_by(payouts.c.created_at.desc(), payouts.c.id.desc()).limit(bindparam("limit"))
    )


def _part_of(filters: Mapping[str, Any]) -> str | None:
    """Return which part of the payouts the filters leave: that of a rare word, those open, or those that failed."""
    if filters.get("sub_status") in HELD_WORDS:
        return "held"
    statuses = {Status(filters["status"])} if "status" in filters else set(Status)
    if "sub_status" in filters:
        statuses &= {STATUS_OF[SubStatus(filters["sub_status"])]}
    if statuses <= {Status.PENDING, Status.BROADCAST}:
        return "open"
    return "failed" if statuses == {Status.FAILED} else None


async def list_rows(tx: Tx, filters: Mapping[str, Any], limit: int) -> list[Row]:
    """Return rows of payouts, newest first; as `list_payouts` does."""
    names = tuple(sorted(name for name in filters if name in _FILTERS))
    return await tx.all(_list_query(names, _part_of(filters)), **filters, limit=limit)


async def list_payouts(tx: Tx, filters: Mapping[str, Any], limit: int) -> list[Payout]:
    """Return payouts, newest first. `filters`: names of `_FILTERS`, with `after_id` beside `after_at`."""
    return [payout_of(row) for row in await list_rows(tx, filters, limit)]
