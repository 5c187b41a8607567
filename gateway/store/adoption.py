"""The statements of `db adopt`: what an older copy of the database does not know may have happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import and_, bindparam, exists, func, insert, null, or_, select, update

from gateway.runtime import Moment
from gateway.store.database import Query, Row, Tx
from gateway.store.schema import (
    api_keys,
    batches,
    evidence,
    execution_items,
    executions,
    payouts,
    quotes,
)

_LAST_CALL = Query(
    select(evidence).where(evidence.c.kind == "call").order_by(evidence.c.mark.desc()).limit(1)
)
_LONGEST_LIVES = Query(
    select(executions.c.custodian, func.max(evidence.c.call_life).label("life"))
    .select_from(evidence)
    .join(executions, executions.c.id == evidence.c.execution_id)
    .where(evidence.c.call_life.is_not(None))
    .group_by(executions.c.custodian)
)
#: When the newest of what partners and operators make was made.
_NEWEST = Query(
    select(
        *(
            select(func.max(table.c.created_at)).scalar_subquery().label(table.name)
            for table in (payouts, quotes, batches, api_keys)
        )
    )
)
#: Open executions without a call since the adoption began.
_UNTOUCHED = Query(
    select(executions)
    .where(
        and_(
            executions.c.ended_at.is_(None),
            ~exists().where(
                and_(
                    evidence.c.execution_id == executions.c.id,
                    evidence.c.kind == "call",
                    evidence.c.mark > bindparam("base"),
                )
            ),
        )
    )
    .order_by(executions.c.id)
    .limit(bindparam("limit"))
)
_PAYOUTS_OF = Query(
    select(execution_items.c.payout_id)
    .where(execution_items.c.execution_id == bindparam("execution_id"))
    .order_by(execution_items.c.position)
)
_ADD_EVIDENCE = Query(insert(evidence))
#: Why no mark is set: the payout may have ended after the copy was taken, and its partner may have
#: heard "not paid" and have paid it in another way.
BLOCKED = "adopted"
_MARK_UNKNOWN = Query(
    update(executions)
    .where(executions.c.id == bindparam("unknown_id"))
    .values(
        state="unknown",
        blocked=func.coalesce(executions.c.blocked, BLOCKED),
        rows=bindparam("new_rows"),
        open_calls=executions.c.open_calls + 1,
        looks=0,
        waiting_since=null(),
        lease_token=executions.c.lease_token + 1,
        lease_owner=null(),
        lease_until=0,
        due_at=bindparam("due"),
    )
)
#: Payouts that have not ended, that are visible, and that no open execution works on.
_WITHOUT_EXECUTION = Query(
    select(payouts)
    .outerjoin(batches, batches.c.id == payouts.c.batch_id)
    .where(
        and_(
            or_(payouts.c.status == "pending", payouts.c.status == "broadcast"),
            func.coalesce(batches.c.state, "") != "loading",
            ~exists().where(
                and_(execution_items.c.payout_id == payouts.c.id, execution_items.c.open == 1)
            ),
        )
    )
    .order_by(payouts.c.id)
    .limit(bindparam("limit"))
)
_EARLIER = Query(
    select(func.count().label("n"))
    .select_from(execution_items)
    .where(execution_items.c.payout_id == bindparam("payout_id"))
)
_ADD_EXECUTION = Query(insert(executions))
_ADD_ITEM = Query(insert(execution_items))
_VOID_QUOTES = Query(
    update(quotes)
    .where(and_(quotes.c.payout_id.is_(None), quotes.c.expires_at > 0))
    .values(expires_at=0)
    .returning(quotes.c.id)
)
#: The items of each have an execution now: nothing is left to be handed over.
_STOP_HANDING_OVER = Query(
    update(batches)
    .where(
        or_(
            *(
                batches.c.state == each
                for each in ("requested", "verifying", "awaiting_funds", "executing")
            )
        )
    )
    .values(
        state="executing",
        executed_at=func.coalesce(batches.c.executed_at, bindparam("at")),
        updated_at=bindparam("at"),
        worked_off=batches.c["items"] - 1,
        funds_until=null(),
    )
    .returning(batches.c.id)
)


async def last_call(tx: Tx) -> Row | None:
    """Return the call of the newest mark."""
    return await tx.one(_LAST_CALL)


async def longest_lives(tx: Tx) -> dict[str, int]:
    """Return how long the longest call of each custodian could be accepted, in microseconds."""
    return {row["custodian"]: int(row["life"]) for row in await tx.all(_LONGEST_LIVES)}


async def newest_creation(tx: Tx) -> int | None:
    """Return when the newest payout, quote, batch or key was created, by the wall clock of then."""
    row = await tx.one(_NEWEST)
    return None if row is None else max((each for each in tuple(row) if each), default=None)


async def untouched_executions(tx: Tx, base: int, limit: int) -> list[Row]:
    """Return open executions that have had no call with a mark above `base`."""
    return await tx.all(_UNTOUCHED, base=base, limit=limit)


async def payouts_of(tx: Tx, execution_id: str) -> list[str]:
    """Return the payouts of an execution, in order."""
    return [row["payout_id"] for row in await tx.all(_PAYOUTS_OF, execution_id=execution_id)]


async def add_unknown_calls(
    tx: Tx, rows: Sequence[Mapping[str, object]], calls: Sequence[Mapping[str, object]], due: int
) -> None:
    """Add a call of unknown outcome to each execution, and have it looked at: from now on it is unknown.

    `rows`: the executions; `calls`: one row of evidence each. Every holder of a lease loses it.
    """
    await tx.many(_ADD_EVIDENCE, calls)
    await tx.many(
        _MARK_UNKNOWN,
        [
            {"unknown_id": row["id"], "new_rows": call["number"], "due": due}
            for row, call in zip(rows, calls, strict=True)
        ],
    )


async def payouts_without_execution(tx: Tx, limit: int) -> list[Row]:
    """Return payouts that have not ended and that no execution works on: items that wait in a batch."""
    return await tx.all(_WITHOUT_EXECUTION, limit=limit)


async def open_unknown(  # noqa: PLR0913 - what an execution is made of
    tx: Tx, execution_id: str, payout: Row, call: Mapping[str, object], at: Moment, due: int
) -> None:
    """Open an execution with a call of unknown outcome for a payout that had none."""
    row = await tx.one(_EARLIER, payout_id=payout["id"])
    earlier = 0 if row is None else int(row["n"])
    await tx.all(
        _ADD_EXECUTION,
        id=execution_id,
        custodian=payout["custodian"],
        account=payout["account"],
        batch_id=payout["batch_id"],
        number=earlier + 1,
        key_seed=execution_id,
        state="unknown",
        notes="{}",
        rows=call["number"],
        open_calls=1,
        size=1,
        earlier=int(earlier > 0),
        repeat_is_safe=None,
        looks=0,
        failures=0,
        blocked=BLOCKED,
        outcome=None,
        refusal=None,
        waiting_since=None,
        rank=0 if payout["batch_id"] is None else 1,
        due_at=due,
        lease_token=0,
        lease_owner=None,
        lease_until=0,
        created_at=at.wall,
        created_clock_id=at.clock_id,
        created_elapsed=at.elapsed,
        ended_at=None,
        awaits_funds=0,
    )
    await tx.all(_ADD_ITEM, execution_id=execution_id, payout_id=payout["id"], position=0, open=1)
    await tx.all(_ADD_EVIDENCE, **call)


async def void_quotes(tx: Tx) -> int:
    """End every quote that was not used; return how many. No clock brings one back."""
    return len(await tx.all(_VOID_QUOTES))


async def stop_handing_over(tx: Tx, at: int) -> int:
    """Take every batch for executed and handed over; return how many."""
    return len(await tx.all(_STOP_HANDING_OVER, at=at))
