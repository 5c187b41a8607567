"""What of a payout's rows is erased once it is over. Who may erase, and what a text becomes: `gateway.erasure`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from sqlalchemy import (
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal_column,
    not_,
    null,
    select,
    update,
)

from gateway.model import BATCH_ENDS
from gateway.store.database import Columns, Query, Row, Tx
from gateway.store.schema import (
    ENDED,
    attention,
    batches,
    deliveries,
    delivery_attempts,
    events,
    evidence,
    execution_items,
    executions,
    inbox,
    payout_returns,
    payouts,
    quotes,
)

_ITEM = execution_items.alias("item")
_HELD = exists().where(and_(_ITEM.c.payout_id == payouts.c.id, _ITEM.c.open == 1))
_IN_OPEN_BATCH = exists().where(
    and_(
        batches.c.id == payouts.c.batch_id,
        *(batches.c.state != literal_column(f"'{each}'") for each in sorted(BATCH_ENDS)),
    )
)
_UNDELIVERED = exists().where(
    and_(
        events.c.payout_id == payouts.c.id,
        deliveries.c.position == events.c.position,
        deliveries.c.state == literal_column("'pending'"),
    )
)
_UNREAD = exists().where(
    and_(inbox.c.payout_id == payouts.c.id, inbox.c.state == literal_column("'new'"))
)
#: Whether money may have moved although the payout failed: its data is needed to find that out.
_UNCERTAIN = and_(
    payouts.c.status == literal_column("'failed'"),
    func.coalesce(payouts.c.funds_moved, "unknown") == literal_column("'unknown'"),
)
_STANDING = Query(
    select(
        payouts,
        _HELD.label("held"),
        _IN_OPEN_BATCH.label("in_open_batch"),
        _UNDELIVERED.label("undelivered"),
        _UNREAD.label("unread"),
    ).where(payouts.c.id == bindparam("payout_id"))
)


@lru_cache(maxsize=4)
def _erasable(of_org: bool, count: bool) -> Query:  # noqa: FBT001 - parts of the statement's shape
    found = select(func.count().label("n") if count else payouts.c.id).select_from(payouts)
    found = found.where(
        and_(
            # As text: it has an index.
            ENDED,
            payouts.c.updated_at < bindparam("before"),
            *(not_(each) for each in (_UNCERTAIN, _HELD, _IN_OPEN_BATCH, _UNDELIVERED, _UNREAD)),
        )
    )
    if of_org:
        found = found.where(payouts.c.org == bindparam("org"))
    return Query(found if count else found.order_by(payouts.c.updated_at).limit(bindparam("limit")))


_WRITE = Query(
    update(payouts)
    .where(payouts.c.id == bindparam("payout_id"))
    .values(
        metadata="{}",
        name=null(),
        custodian_word=null(),
        first_answer=null(),
        terms=bindparam("new_terms"),
        document=bindparam("new_document"),
        failure=bindparam("new_failure"),
        erased_at=bindparam("at"),
    )
)
_QUOTE = Query(
    update(quotes)
    .where(quotes.c.id == bindparam("quote_id"))
    .values(metadata="{}", terms=bindparam("new_terms"))
)
_EVENTS = Query(
    select(events.c.position, events.c.body).where(events.c.payout_id == bindparam("payout_id"))
)
_EVENT = Query(
    update(events)
    .where(events.c.position == bindparam("at_position"))
    .values(body=bindparam("new_body"))
)
_SNIPPETS = Query(
    update(delivery_attempts)
    .where(
        delivery_attempts.c.position.in_(
            select(events.c.position).where(events.c.payout_id == bindparam("payout_id"))
        )
    )
    .values(response_snippet=null())
)
#: A body is the custodian's, with whatever it reports about the payee. The row stays, to recognise duplicates.
_BODIES = Query(
    update(inbox)
    .where(and_(inbox.c.payout_id == bindparam("payout_id"), inbox.c.state != "new"))
    .values(body=bindparam("nothing"))
)
_WORDS_OF_RETURNS = Query(
    update(payout_returns)
    .where(payout_returns.c.payout_id == bindparam("payout_id"))
    .values(word=null())
)
_REMARKS = Query(
    select(
        attention.c.code,
        func.sum(attention.c.times).label("times"),
        func.min(attention.c.first_at).label("first_at"),
        func.max(attention.c.last_at).label("last_at"),
        # Of one code: closed if everything is.
        *(
            case((func.count(attention.c.closed_at) == func.count(), func.max(each))).label(
                each.name
            )
            for each in (attention.c.closed_at, attention.c.closed_by)
        ),
        func.coalesce(func.max(attention.c.told_at), func.max(attention.c.last_at)).label(
            "told_at"
        ),
    )
    .where(attention.c.payout_id == bindparam("payout_id"))
    .group_by(attention.c.code)
)
_DROP_REMARKS = Query(delete(attention).where(attention.c.payout_id == bindparam("payout_id")))
_ADD_REMARK = Query(insert(attention))
_OTHER = execution_items.alias("other")
_OTHER_PAYOUT = payouts.alias("other_payout")
#: Executions none of whose payouts has any personal data left.
_EXECUTIONS = Query(
    select(executions.c.id, executions.c.notes)
    .select_from(execution_items)
    .join(executions, executions.c.id == execution_items.c.execution_id)
    .where(
        and_(
            execution_items.c.payout_id == bindparam("payout_id"),
            ~exists().where(
                and_(
                    _OTHER.c.execution_id == executions.c.id,
                    _OTHER_PAYOUT.c.id == _OTHER.c.payout_id,
                    _OTHER_PAYOUT.c.erased_at.is_(None),
                )
            ),
        )
    )
)
_EXECUTION = Query(
    update(executions)
    .where(executions.c.id == bindparam("execution_id"))
    .values(notes=bindparam("new_notes"), outcome=null(), refusal=null())
)
#: What an operator gave as the reason of an act stays, as acts do.
_SAID_BY_OTHERS = evidence.c.source != literal_column("'operator'")
_DETAILS = Query(
    update(evidence)
    .where(and_(evidence.c.execution_id == bindparam("execution_id"), _SAID_BY_OTHERS))
    .values(detail=null())
)
_DETAILS_OF_ITEM = Query(
    update(evidence)
    .where(
        and_(
            evidence.c.item == bindparam("payout_id"),
            _SAID_BY_OTHERS,
            evidence.c.execution_id.in_(
                select(execution_items.c.execution_id).where(
                    execution_items.c.payout_id == bindparam("payout_id")
                )
            ),
        )
    )
    .values(detail=null())
)


async def standing(tx: Tx, payout_id: str) -> Row | None:
    """Return a payout's row with what still needs it: `held`, `in_open_batch`, `undelivered`, `unread`."""
    return await tx.one(_STANDING, payout_id=payout_id)


async def erasable(tx: Tx, before: int, limit: int, org: str | None = None) -> list[str]:
    """Return payouts that ended before a time, that nothing needs any more and that are not erased.

    Those that failed while money may have moved are left out. Oldest first. A long read.
    """
    scope = {} if org is None else {"org": org}
    query = _erasable(org is not None, count=False)
    return [row["id"] for row in await tx.all(query, before=before, limit=limit, **scope)]


async def erasable_count(tx: Tx, before: int, org: str | None = None) -> int:
    """Return how many payouts `erasable` would return in all. A long read."""
    scope = {} if org is None else {"org": org}
    row = await tx.one(_erasable(org is not None, count=True), before=before, **scope)
    return 0 if row is None else int(row["n"])


async def write_erased(  # noqa: PLR0913 - the columns that are rewritten
    tx: Tx,
    payout_id: str,
    at: int,
    *,
    quote_id: str | None,
    terms: str,
    document: str,
    failure: str | None,
) -> None:
    """Write a payout's row and its quote's without personal data."""
    await tx.all(
        _WRITE,
        payout_id=payout_id,
        new_terms=terms,
        new_document=document,
        new_failure=failure,
        at=at,
    )
    if quote_id is not None:
        await tx.all(_QUOTE, quote_id=quote_id, new_terms=terms)


async def event_bodies(tx: Tx, payout_id: str) -> list[Row]:
    """Return the events of a payout: `position`, `body`."""
    return await tx.all(_EVENTS, payout_id=payout_id)


async def write_bodies(tx: Tx, bodies: Sequence[tuple[int, bytes]]) -> None:
    """Replace the bodies of events, each given by its position."""
    await tx.many(_EVENT, [{"at_position": at, "new_body": body} for at, body in bodies])


async def erase_around(tx: Tx, payout_id: str, word: str) -> None:
    """Erase what receivers, custodians and operators wrote about a payout; `word` stands in its place.

    The rows stay: what was delivered when, which webhooks came, how often a remark was made.
    """
    await tx.all(_SNIPPETS, payout_id=payout_id)
    await tx.all(_BODIES, payout_id=payout_id, nothing=b"")
    await tx.all(_WORDS_OF_RETURNS, payout_id=payout_id)
    remarks = await tx.all(_REMARKS, payout_id=payout_id)
    await tx.all(_DROP_REMARKS, payout_id=payout_id)
    await tx.many(
        _ADD_REMARK,
        [{**dict(row), "payout_id": payout_id, "detail": word} for row in remarks],
    )
    await tx.all(_DETAILS_OF_ITEM, payout_id=payout_id)


async def erased_executions(tx: Tx, payout_id: str) -> list[Row]:
    """Return the executions of a payout all of whose payouts are erased: `id`, `notes`."""
    return await tx.all(_EXECUTIONS, payout_id=payout_id)


async def write_execution(tx: Tx, execution_id: str, notes: str) -> None:
    """Replace the notes of an execution that has ended; erase its outcome and its evidence's details.

    What the evidence proves is kept: kinds, answers, times, references.
    """
    await tx.all(_EXECUTION, execution_id=execution_id, new_notes=notes)
    await tx.all(_DETAILS, execution_id=execution_id)


def needs_of(row: Columns) -> list[str]:
    """Return why a payout's data is still needed, from its `standing`; empty if it is not."""
    reasons = (
        (row["status"] not in {"delivered", "failed"}, "it has not ended"),
        (bool(row["held"]), "an execution still has it"),
        (bool(row["in_open_batch"]), "its batch has not ended"),
        (bool(row["undelivered"]), "an event of it is still to be delivered"),
        (bool(row["unread"]), "a custodian's webhook about it is still to be read"),
    )
    return [reason for needed, reason in reasons if needed]
