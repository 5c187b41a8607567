"""What the panel's overview and lists are drawn from. Reads by index, page by page; nothing is counted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import and_, bindparam, case, func, or_, select, text, tuple_

from gateway.model import Payout
from gateway.store.database import Query, Row, Tx, listed
from gateway.store.payout_lists import SEEN
from gateway.store.payouts import payout_of_ref
from gateway.store.rows import payout_of
from gateway.store.schema import (
    HELD,
    api_keys,
    attention,
    audit_log,
    deliveries,
    endpoints,
    events,
    payout_hashes,
    payouts,
    refs,
)
from gateway.store.schema_batches import batches

_OF_ORG = and_(payouts.c.org == bindparam("org"), payouts.c.mode == bindparam("mode"))
_TOLD = Query(
    select(
        payouts.c.id,
        payouts.c.status,
        payouts.c.custodian,
        payouts.c.terms,
        payouts.c.created_at,
        payouts.c.updated_at,
        payouts.c.returned_amount,
    )
    .where(
        and_(
            _OF_ORG,
            payouts.c.created_at >= bindparam("since"),
            or_(
                payouts.c.created_at < bindparam("before_at"),
                and_(
                    payouts.c.created_at == bindparam("before_at"),
                    payouts.c.id < bindparam("before_id"),
                ),
            ),
        )
    )
    .order_by(payouts.c.created_at.desc(), payouts.c.id.desc())
    .limit(bindparam("limit"))
)
_WAITING = Query(
    select(payouts)
    # The words of the index, which few payouts are in.
    .where(and_(_OF_ORG, payouts.c.sub_status == bindparam("sub_status"), text(HELD)))
    .order_by(payouts.c.updated_at)
    .limit(bindparam("limit"))
)
_LAGS = Query(
    select(
        events.c.position,
        events.c.created_at,
        deliveries.c.endpoint_id,
        deliveries.c.settled_at,
    )
    .join(deliveries, deliveries.c.position == events.c.position)
    .where(
        and_(
            events.c.org == bindparam("org"),
            events.c.mode == bindparam("mode"),
            events.c.position < bindparam("before"),
            events.c.created_at >= bindparam("since"),
            deliveries.c.state == "delivered",
            deliveries.c.trigger == "scheduled",
        )
    )
    .order_by(events.c.position.desc())
    .limit(bindparam("limit"))
)
_OPEN_ATTENTION = Query(
    select(attention.c.payout_id)
    .join(payouts, payouts.c.id == attention.c.payout_id)
    .where(
        and_(
            attention.c.closed_at.is_(None),
            # Not the bare columns: by their index every payout of the org would be read.
            func.coalesce(payouts.c.org, "") == bindparam("org"),
            func.coalesce(payouts.c.mode, "") == bindparam("mode"),
        )
    )
    .limit(bindparam("limit"))
)
#: The kinds of ids that there are, one after the other: an id is looked up by its whole key then. An index of
#: its value alone would cost every payout something, for a search that is rare.
_NEXT_KIND = Query(
    select(refs.c.custodian, refs.c.kind)
    .where(
        tuple_(refs.c.custodian, refs.c.kind)
        > tuple_(bindparam("after_custodian"), bindparam("after_kind"))
    )
    .order_by(refs.c.custodian, refs.c.kind)
    .limit(1)
)
_BY_HASH = Query(
    select(payout_hashes.c.payout_id)
    .where(payout_hashes.c.tx_hash == bindparam("value"))
    .limit(bindparam("limit"))
)
_ACTS = Query(
    select(audit_log)
    .where(and_(audit_log.c.org == bindparam("org"), audit_log.c.number < bindparam("before")))
    .order_by(audit_log.c.number.desc())
    .limit(bindparam("limit"))
)
#: By what an id begins with: the table that says in which mode it is. What was deleted is in none.
_MODES = {
    "pay": Query(select(payouts.c.id, payouts.c.mode).where(payouts.c.id.in_(listed("ids")))),
    "bat": Query(select(batches.c.id, batches.c.mode).where(batches.c.id.in_(listed("ids")))),
    "key": Query(select(api_keys.c.id, api_keys.c.mode).where(api_keys.c.id.in_(listed("ids")))),
    "whe": Query(
        select(endpoints.c.id, endpoints.c.mode).where(
            and_(endpoints.c.id.in_(listed("ids")), endpoints.c.deleted_at.is_(None))
        )
    ),
}
_ORGS = Query(
    select(api_keys.c.org).where(api_keys.c.org.is_not(None)).distinct().order_by(api_keys.c.org)
)
_KEYS = Query(
    select(api_keys)
    .where(and_(api_keys.c.org == bindparam("org"), api_keys.c.mode == bindparam("mode")))
    .order_by(api_keys.c.id.desc())
)


async def told_page(  # noqa: PLR0913 - the span and where to go on
    tx: Tx, org: str, mode: str, since: int, before: tuple[int, str], limit: int
) -> list[Row]:
    """Return payouts since a time and before a place (`created_at`, `id`), newest first, in a few columns."""
    return await tx.all(
        _TOLD,
        org=org,
        mode=mode,
        since=since,
        before_at=before[0],
        before_id=before[1],
        limit=limit,
    )


async def waiting(tx: Tx, org: str, mode: str, sub_status: str, limit: int) -> list[Payout]:
    """Return payouts that wait with a sub-status of `schema.HELD`, those that have waited longest first."""
    found = await tx.all(_WAITING, org=org, mode=mode, sub_status=sub_status, limit=limit)
    return [payout_of(row) for row in found]


async def delivered_events(  # noqa: PLR0913 - the span and where to go on
    tx: Tx, org: str, mode: str, since: int, before: int, limit: int
) -> list[Row]:
    """Return deliveries that have arrived, of events since a time, newest first.

    `position`, `created_at` (of the event), `endpoint_id`, `settled_at`.
    """
    return await tx.all(_LAGS, org=org, mode=mode, since=since, before=before, limit=limit)


async def open_attention(tx: Tx, org: str, mode: str, limit: int) -> list[str]:
    """Return the org's payouts that are open on the operator's list, one for each reason."""
    rows = await tx.all(_OPEN_ATTENTION, org=org, mode=mode, limit=limit)
    return [row["payout_id"] for row in rows]


_SEARCHES: Mapping[str, Any] = {
    "id": payouts.c.id == bindparam("value"),
    "quote_id": payouts.c.quote_id == bindparam("value"),
    "reference": payouts.c.reference_key == bindparam("value"),
    "external_ref": payouts.c.external_ref == bindparam("value"),
}


@lru_cache(maxsize=8)
def _search(by: str) -> Query:
    return Query(
        select(payouts)
        .where(_OF_ORG, _SEARCHES[by], SEEN)
        .order_by(payouts.c.id.desc())
        .limit(bindparam("limit"))
    )


async def search(  # noqa: PLR0913 - whose, by what, how many
    tx: Tx, org: str, mode: str, text: str, reference_key: str | None, limit: int
) -> list[Payout]:
    """Return the org's payouts that any id names: ours, its quote's, the partner's, a custodian's, a hash."""
    found: dict[str, Payout] = {}
    wanted = (
        ("id", text),
        ("quote_id", text),
        ("reference", reference_key),
        ("external_ref", text),
    )
    for by, value in wanted:
        if value is not None:
            for row in await tx.all(_search(by), org=org, mode=mode, value=value, limit=limit):
                found[row["id"]] = payout_of(row)
    named = [row["payout_id"] for row in await tx.all(_BY_HASH, value=text, limit=limit)]
    named += [each for each in await _by_ref(tx, text) if each is not None]
    for each in named:
        for row in await tx.all(_search("id"), org=org, mode=mode, value=each, limit=1):
            found[row["id"]] = payout_of(row)
    return sorted(found.values(), key=lambda each: (each.created_at, each.id), reverse=True)[:limit]


async def _by_ref(tx: Tx, value: str) -> list[str | None]:
    """Return the payouts that have an id of any kind at any custodian."""
    found: list[str | None] = []
    kind = await tx.one(_NEXT_KIND, after_custodian="", after_kind="")
    while kind is not None:
        found.append(await payout_of_ref(tx, kind["custodian"], kind["kind"], value))
        after = {"after_custodian": kind["custodian"], "after_kind": kind["kind"]}
        kind = await tx.one(_NEXT_KIND, **after)
    return found


async def acts_before(tx: Tx, org: str, before: int, limit: int) -> list[Row]:
    """Return the rows of an org's chain before a number, newest first."""
    return await tx.all(_ACTS, org=org, before=before, limit=limit)


async def modes_of(tx: Tx, ids: Iterable[str]) -> dict[str, str]:
    """Return in which mode payouts, batches, keys and endpoints are, by their ids; none for others."""
    kinds: dict[str, set[str]] = {}
    for each in ids:
        kinds.setdefault(each.partition("_")[0], set()).add(each)
    found: dict[str, str] = {}
    for kind in kinds.keys() & _MODES.keys():
        rows = await tx.all(_MODES[kind], ids=json.dumps(sorted(kinds[kind])))
        found |= {row["id"]: row["mode"] for row in rows}
    return found


async def orgs_with_keys(tx: Tx) -> list[str]:
    """Return the orgs that have a key."""
    return [row["org"] for row in await tx.all(_ORGS)]


async def keys_of(tx: Tx, org: str, mode: str) -> list[Row]:
    """Return an org's keys in a mode, newest first."""
    return await tx.all(_KEYS, org=org, mode=mode)


_ITEMS = Query(
    select(payouts)
    .where(payouts.c.batch_id == bindparam("batch_id"))
    .order_by(
        case(
            (payouts.c.status == "failed", 0),
            (payouts.c.sub_status == "outcome_unknown", 1),
            (payouts.c.sub_status == "requires_action", 2),
            (payouts.c.status == "broadcast", 3),
            (payouts.c.status == "pending", 4),
            else_=5,
        ),
        payouts.c.batch_position,
    )
    .limit(bindparam("limit"))
)


async def batch_items(tx: Tx, batch_id: str, limit: int) -> list[Row]:
    """Return payouts of a batch: what failed first, then what is unclear, what is under way, and the rest."""
    return await tx.all(_ITEMS, batch_id=batch_id, limit=limit)


_PENDING = Query(
    select(deliveries.c.due_at, events.c.created_at)
    .join(events, events.c.position == deliveries.c.position)
    .where(
        and_(deliveries.c.endpoint_id == bindparam("endpoint_id"), deliveries.c.state == "pending")
    )
    .order_by(deliveries.c.due_at)
    .limit(bindparam("limit"))
)


async def pending_of(tx: Tx, endpoint_id: str, limit: int) -> tuple[int, int | None]:
    """Return how many events wait for an endpoint, at most `limit`, and since when the oldest of them does."""
    found = await tx.all(_PENDING, endpoint_id=endpoint_id, limit=limit)
    return len(found), min((row["created_at"] for row in found), default=None)
