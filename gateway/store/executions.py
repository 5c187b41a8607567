"""Executions: what they pay, their leases with fencing tokens, the moving mark.

A lease is taken by raising `lease_token`; who holds an older token writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    ScalarSelect,
    Select,
    and_,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    update,
)

from gateway.runtime import Moment
from gateway.store.database import Columns, Later, Query, Row, Tx, listed, wide
from gateway.store.dialects import json_pairs, number
from gateway.store.evidence import grouped
from gateway.store.later import write_changes
from gateway.store.pauses import pause_count
from gateway.store.rows import to_json
from gateway.store.rules import active_digest
from gateway.store.schema import (
    batches,
    execution_items,
    executions,
    payouts,
    store_state,
)

#: Of how many that are due the orgs take turns, at a claim.
LOOKED_AT = 512
_OPEN = executions.c.ended_at.is_(None)
_IDS = listed("ids")


def org_of(execution_id: Any) -> ScalarSelect[Any]:
    """Return the expression for the org of an execution: that of any of its payouts."""
    return (
        select(payouts.c.org)
        .select_from(execution_items)
        .join(payouts, payouts.c.id == execution_items.c.payout_id)
        .where(execution_items.c.execution_id == execution_id)
        .limit(1)
        .scalar_subquery()
    )


_ADD = Query(insert(executions), keeps=True)
_ADD_ITEM = Query(insert(execution_items), keeps=True)
_HAD_EARLIER = Query(
    select(execution_items.c.execution_id).where(execution_items.c.payout_id.in_(_IDS)).limit(1)
)
#: The turn at which each org was served last, by its name.
_SERVED = json_pairs(bindparam("served"))


def _in_turn(*which: ColumnElement[bool]) -> Select[Any]:
    """Return the ids of due executions, all of them or some; orgs take turns."""
    # Only what has been due longest is considered. To look up every org that has something due would
    # delay everybody where that is thousands.
    due = (
        select(executions.c.id, executions.c.rank, executions.c.due_at)
        .where(
            and_(
                executions.c.custodian == bindparam("claimed_custodian"),
                executions.c.due_at <= bindparam("now"),
                executions.c.lease_until <= bindparam("now"),
                _OPEN,
                *which,
            )
        )
        .order_by(executions.c.rank, executions.c.due_at)
        .limit(LOOKED_AT)
        .subquery()
    )
    # By a join: the org as a subquery of its own would be read twice, for the partition and the order.
    of_orgs = (
        select(due, payouts.c.org)
        .select_from(due)
        .outerjoin(
            execution_items,
            and_(execution_items.c.execution_id == due.c.id, execution_items.c.position == 0),
        )
        .outerjoin(payouts, payouts.c.id == execution_items.c.payout_id)
        .subquery()
    )
    in_turn = select(
        of_orgs,
        func.row_number()
        .over(partition_by=(of_orgs.c.rank, of_orgs.c.org), order_by=of_orgs.c.due_at)
        .label("turn"),
    ).subquery()
    return (
        select(in_turn.c.id)
        .select_from(in_turn)
        .outerjoin(_SERVED, _SERVED.c.key == in_turn.c.org)
        # Single payouts before items of batches; among them one of each org, then another one.
        .order_by(
            in_turn.c.rank,
            in_turn.c.turn,
            func.coalesce(number(_SERVED.c.value), 0),
            in_turn.c.due_at,
        )
        .limit(bindparam("limit"))
    )


def _claiming(*which: ColumnElement[bool]) -> Query:
    """Return the claim of some executions; each row with `pauses`: how many there are, of whatever."""
    claimed = (
        update(executions)
        .values(
            lease_token=executions.c.lease_token + 1,
            lease_owner=bindparam("owner"),
            lease_until=bindparam("until"),
            # News that arrives while the lease is held lowers this again, and so is not lost at release.
            due_at=bindparam("until"),
        )
        .returning(executions, pause_count().label("pauses"))
    )
    # Other engines claim at the same time: what one of them is just claiming is left to it.
    unlocked = (
        select(executions.c.id).where(*which).correlate(None).with_for_update(skip_locked=True)
    )
    return Query(
        claimed.where(*which),
        on_postgres=claimed.where(executions.c.id.in_(unlocked)),
        keeps=True,
    )


_FREE = and_(executions.c.lease_until <= bindparam("now"), _OPEN)
_DUE = and_(executions.c.due_at <= bindparam("now"), _FREE)
_CLAIM = _claiming(executions.c.id.in_(_in_turn()))
_CLAIM_MOVES = _claiming(executions.c.id.in_(_in_turn(executions.c.state == "prepared")))
_CLAIM_LOOKS = _claiming(executions.c.id.in_(_in_turn(executions.c.state != "prepared")))
_NEXT_IN_TURN = Query(_in_turn())
_CLAIM_LISTED = _claiming(executions.c.id.in_(_IDS), _DUE)
_CLAIM_ONE = _claiming(executions.c.id == bindparam("claimed_id"), _FREE)
_HELD = and_(
    executions.c.id == bindparam("held_id"),
    executions.c.lease_token == bindparam("held_token"),
    _OPEN,
)
_HELD_ROW = Query(select(executions).where(_HELD))
#: An execution under a lease and its payouts, in one read: its own columns are labelled `of_…`.
_HELD_WITH_ITEMS = Query(
    select(payouts, *(each.label(f"of_{each.name}") for each in executions.columns))
    .select_from(executions)
    .join(execution_items, execution_items.c.execution_id == executions.c.id)
    .join(payouts, payouts.c.id == execution_items.c.payout_id)
    .where(_HELD)
    .order_by(execution_items.c.position)
)
_EXTEND = Query(
    update(executions).where(_HELD).values(lease_until=bindparam("until")).returning(executions),
    keeps=True,
)
_RELEASE = Query(
    update(executions)
    .where(_HELD)
    .values(
        due_at=case(
            (executions.c.due_at == bindparam("claimed_due"), bindparam("due")),
            else_=executions.c.due_at,
        ),
        lease_until=0,
    )
    .returning(executions),
    keeps=True,
)
_ROW = Query(select(executions).where(executions.c.id == bindparam("execution_id")))
_OF_PAYOUT = Query(
    select(executions)
    .join(execution_items, execution_items.c.execution_id == executions.c.id)
    .where(execution_items.c.payout_id == bindparam("payout_id"))
    .order_by(executions.c.created_at, executions.c.number)
)
_OPEN_OF_PAYOUT = Query(
    select(executions)
    .join(execution_items, execution_items.c.execution_id == executions.c.id)
    .where(
        and_(
            execution_items.c.payout_id == bindparam("payout_id"),
            execution_items.c.open == 1,
        )
    )
)
_OF_BATCH = Query(
    select(executions)
    .where(executions.c.batch_id == bindparam("batch_id"))
    .order_by(executions.c.number, executions.c.id)
)
#: Those that may be taken back. Where a call may have arrived and no worker has it, the second gate decides
#: (`Recorder.take_back`): it may be proven that it never did.
_IDLE_OF_BATCH = Query(
    select(executions)
    .where(
        and_(
            executions.c.batch_id == bindparam("batch_id"),
            _OPEN,
            or_(executions.c.open_calls == 0, executions.c.lease_until <= bindparam("now")),
            or_(executions.c.state == "prepared", executions.c.state == "parked"),
        )
    )
    .order_by(executions.c.open_calls > 0, executions.c.number, executions.c.id)
    .limit(bindparam("limit"))
)
_ITEMS = Query(
    select(execution_items.c.execution_id, payouts)
    .select_from(execution_items)
    .join(payouts, payouts.c.id == execution_items.c.payout_id)
    .where(execution_items.c.execution_id.in_(_IDS))
    .order_by(execution_items.c.execution_id, execution_items.c.position)
)
_CLOSE_ITEMS = Query(
    update(execution_items)
    .where(execution_items.c.execution_id == bindparam("execution_id"))
    .values(open=0),
    keeps=True,
)

_WAKE = Query(
    update(executions)
    .where(
        and_(
            executions.c.id.in_(
                select(execution_items.c.execution_id).where(
                    and_(
                        execution_items.c.payout_id == bindparam("payout_id"),
                        execution_items.c.open == 1,
                    )
                )
            ),
            _OPEN,
        )
    )
    # There is news: the polling curve starts again.
    .values(
        due_at=case(
            (executions.c.due_at > bindparam("now"), bindparam("now")), else_=executions.c.due_at
        ),
        looks=0,
    )
    .returning(executions),
    keeps=True,
)
_EARLIER = Query(
    select(execution_items.c.execution_id, execution_items.c.payout_id).where(
        and_(
            execution_items.c.payout_id.in_(_IDS),
            execution_items.c.execution_id != bindparam("execution_id"),
        )
    )
)
_OPEN_ACCOUNTS = Query(
    select(executions.c.account)
    .where(and_(executions.c.custodian == bindparam("custodian"), _OPEN))
    .distinct()
)
_MAY_MARK = Query(
    select(
        executions,
        select(store_state.c.frozen).scalar_subquery().label("store_frozen"),
        select(store_state.c.gate_version).scalar_subquery().label("store_gate_version"),
        select(store_state.c.marks).scalar_subquery().label("store_marks"),
        select(batches.c.cancel_at)
        .where(batches.c.id == executions.c.batch_id)
        .scalar_subquery()
        .label("batch_cancel_at"),
        pause_count().label("pauses"),
        active_digest().label("rules_digest"),
        payouts.c.id.label("item_id"),
        payouts.c.status.label("item_status"),
    )
    .select_from(executions)
    .join(execution_items, execution_items.c.execution_id == executions.c.id)
    .join(payouts, payouts.c.id == execution_items.c.payout_id)
    .where(executions.c.id == bindparam("execution_id"))
)
_NEXT_MARK = Query(
    update(store_state)
    .where(store_state.c.id == 1)
    .values(marks=store_state.c.marks + 1)
    .returning(store_state.c.marks),
    keeps=True,
)
#: The one statement that writes the moving state.
_MARK = Query(
    update(executions)
    .where(_HELD)
    .values(
        state="moving",
        rows=bindparam("new_rows"),
        open_calls=executions.c.open_calls + 1,
        lease_until=bindparam("until"),
    )
    .returning(executions),
    keeps=True,
)


async def _write_items(tx: Tx, found: Sequence[Mapping[str, object] | str]) -> None:
    """Add items of new payouts, then close those of the executions that are named."""
    new = [each for each in found if not isinstance(each, str)]
    closed = [{"execution_id": each} for each in found if isinstance(each, str)]
    if new:
        await tx.many(_ADD_ITEM, new)
    if closed:
        await tx.many(_CLOSE_ITEMS, closed)


_NEW_AND_CLOSED: Later[Mapping[str, object] | str] = Later(
    frozenset({"execution_items"}), _write_items
)

# --- Opening and finding --------------------------------------------------------------------------


async def open_execution(  # noqa: PLR0913 - one argument per column
    tx: Tx,
    *,
    execution_id: str,
    custodian: str,
    account: str,
    items: Sequence[str],
    at: Moment,
    due: int,
    number: int = 1,
    batch_id: str | None = None,
    rank: int = 0,
    fresh: bool = False,
    awaits_funds: bool = False,
) -> None:
    """Open an execution for payouts. Raises IntegrityError where one of them is in an open one.

    The caller has checked that everything earlier is closed. `fresh`: the payouts were made in this
    transaction, so that they cannot have been in an execution before. `awaits_funds`: no mark is set
    before the account covers it.
    """
    earlier = not fresh and await tx.one(_HAD_EARLIER, ids=json.dumps(list(items))) is not None
    await tx.all(
        _ADD,
        id=execution_id,
        custodian=custodian,
        account=account,
        batch_id=batch_id,
        number=number,
        key_seed=execution_id,
        state="prepared",
        notes="{}",
        rows=0,
        open_calls=0,
        size=len(items),
        repeat_is_safe=None,
        earlier=int(earlier),
        looks=0,
        failures=0,
        blocked=None,
        outcome=None,
        refusal=None,
        waiting_since=None,
        rank=rank,
        due_at=due,
        lease_token=0,
        lease_owner=None,
        lease_until=0,
        created_at=at.wall,
        created_clock_id=at.clock_id,
        created_elapsed=at.elapsed,
        ended_at=None,
        awaits_funds=int(awaits_funds),
    )
    rows = [
        {"execution_id": execution_id, "payout_id": item, "position": position, "open": 1}
        for position, item in enumerate(items)
    ]
    if fresh:
        await tx.later(_NEW_AND_CLOSED, rows)
    else:
        # At once: it may be refused.
        await tx.many(_ADD_ITEM, rows)


async def execution_row(tx: Tx, execution_id: str) -> Row | None:
    """Return an execution, ended or not."""
    return await tx.one(_ROW, execution_id=execution_id)


async def executions_of(tx: Tx, payout_id: str) -> list[Row]:
    """Return every execution that a payout was in, first one first."""
    return await tx.all(_OF_PAYOUT, payout_id=payout_id)


async def accounts_of_open(tx: Tx, custodian: str) -> list[str]:
    """Return the accounts (JSON) that the open executions of a custodian pay from."""
    return [str(row["account"]) for row in await tx.all(_OPEN_ACCOUNTS, custodian=custodian)]


async def open_execution_of(tx: Tx, payout_id: str) -> Row | None:
    """Return the open execution of a payout."""
    return await tx.one(_OPEN_OF_PAYOUT, payout_id=payout_id)


async def executions_of_batch(tx: Tx, batch_id: str) -> list[Row]:
    """Return the executions of a batch, in order."""
    return await tx.all(_OF_BATCH, batch_id=batch_id)


async def idle_of_batch(tx: Tx, batch_id: str, now: int, limit: int) -> list[Row]:
    """Return executions of a batch that wait: those that have sent nothing first.

    Of those that have, only what no worker holds (`now`, on the timeline).
    """
    return await tx.all(_IDLE_OF_BATCH, batch_id=batch_id, now=now, limit=limit)


async def items_of(tx: Tx, execution_ids: Iterable[str]) -> dict[str, list[Row]]:
    """Return the payout rows of executions, by execution, in their fixed order."""
    found, wanted, live = dict[str, list[Row]](), list(execution_ids), tx.live
    if live is not None:
        known = {each: live.items(each) for each in wanted}
        found = {each: rows for each, rows in known.items() if rows is not None}
        wanted = [each for each in wanted if each not in found]
    if wanted:
        read = grouped(wide(await tx.all(_ITEMS, ids=json.dumps(wanted))))
        if live is not None:
            for each, rows in read.items():
                live.put_items(each, rows)
        found |= read
    return found


def kept(tx: Tx, rows: list[Row]) -> list[Row]:
    """Return rows of executions that a statement has written, after updating the live rows."""
    rows = wide(rows)
    if tx.live is not None:
        tx.live.put_executions(rows)
    return rows


# --- Leases ---------------------------------------------------------------------------------------


async def claim(  # noqa: PLR0913 - the terms of a lease
    tx: Tx,
    custodian: str,
    owner: str,
    now: int,
    until: int,
    limit: int,
    looks: int | None = None,
    served: Mapping[str, int] | None = None,
    *,
    moves: bool = True,
) -> list[Row]:
    """Lease due executions of one custodian, orgs in turn; return their rows.

    `looks` None: in the order in which they are due. Otherwise so many that are looked at first, then
    those that are to be sent, and looks again where there is room. `served`: when each org was served
    last, as a number that rises; one that is not in it comes first. `moves`: whether any is to be sent.
    """
    terms = {
        "claimed_custodian": custodian,
        "owner": owner,
        "now": now,
        "until": until,
        "served": to_json(dict(served or {})),
    }
    if not moves:
        return kept(tx, await tx.all(_CLAIM_LOOKS, **terms, limit=limit))
    if looks is None:
        return kept(tx, await tx.all(_CLAIM, **terms, limit=limit))
    rows: list[Row] = []
    for query, most in ((_CLAIM_LOOKS, looks), (_CLAIM_MOVES, limit), (_CLAIM_LOOKS, limit)):
        left = min(most, limit - len(rows))
        rows += await tx.all(query, **terms, limit=left) if left > 0 else []
    return kept(tx, rows)


async def next_in_turn(
    tx: Tx, custodian: str, now: int, limit: int, served: Mapping[str, int]
) -> list[str]:
    """Return the executions that `claim` would lease, in that order; it leases none."""
    rows = await tx.all(
        _NEXT_IN_TURN,
        claimed_custodian=custodian,
        now=now,
        limit=limit,
        served=to_json(dict(served)),
    )
    return [row["id"] for row in rows]


async def claim_listed(
    tx: Tx, execution_ids: Sequence[str], owner: str, now: int, until: int
) -> list[Row]:
    """Lease those of some executions that are due and that nobody works on; return their rows."""
    ids = json.dumps(list(execution_ids))
    return kept(tx, await tx.all(_CLAIM_LISTED, ids=ids, owner=owner, now=now, until=until))


async def claim_one(tx: Tx, execution_id: str, owner: str, now: int, until: int) -> Row | None:
    """Lease one execution, due or not; None if a worker has it, or it has ended."""
    rows = await tx.all(_CLAIM_ONE, claimed_id=execution_id, owner=owner, now=now, until=until)
    return next(iter(kept(tx, rows)), None)


async def held(tx: Tx, execution_id: str, token: int) -> Row | None:
    """Return an open execution if this is its newest token."""
    row = None if tx.live is None else tx.live.execution(execution_id)
    if row is not None:
        return row if row["lease_token"] == token and row["ended_at"] is None else None
    return await tx.one(_HELD_ROW, held_id=execution_id, held_token=token)


async def held_with_items(
    tx: Tx, execution_id: str, token: int
) -> tuple[Columns, list[Row]] | None:
    """Return an open execution if this is its newest token, and the rows of its payouts in order."""
    if tx.live is not None:
        known, items = tx.live.execution(execution_id), tx.live.items(execution_id)
        if known is not None and items is not None:
            current = known["lease_token"] == token and known["ended_at"] is None
            return (known, items) if current else None
    rows = wide(await tx.all(_HELD_WITH_ITEMS, held_id=execution_id, held_token=token))
    if not rows:
        return None
    row = {each.name: rows[0][f"of_{each.name}"] for each in executions.columns}
    if tx.live is not None:
        tx.live.put_executions([cast("Row", row)])
        tx.live.put_items(execution_id, rows)
    return row, rows


async def extend(tx: Tx, execution_id: str, token: int, until: int) -> bool:
    """Prolong a lease that is still ours; False where it is lost."""
    rows = await tx.all(_EXTEND, held_id=execution_id, held_token=token, until=until)
    return bool(kept(tx, rows))


async def release(tx: Tx, execution_id: str, token: int, claimed_due: int, due: int) -> None:
    """Give a lease back, with the time of the next look.

    `claimed_due` is the `due_at` that the claim returned: where it was lowered since, by news, the
    execution stays due at once.
    """
    terms = {"claimed_due": claimed_due, "due": due}
    kept(tx, await tx.all(_RELEASE, held_id=execution_id, held_token=token, **terms))


async def wake(tx: Tx, payout_id: str, now: int) -> str | None:
    """Bring the next look at a payout forward: there is news. Return the custodian to wake."""
    row = None if tx.live is None else tx.live.open_execution_of(payout_id)
    if row is not None:
        # As the statement below does it; what is kept is what it would find.
        await update_execution(tx, row["id"], due_at=min(row["due_at"], now), looks=0)
        return str(row["custodian"])
    rows = kept(tx, await tx.all(_WAKE, payout_id=payout_id, now=now))
    return str(rows[0]["custodian"]) if rows else None


# --- State and notes ------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _update(names: tuple[str, ...]) -> Query:
    return Query(
        update(executions)
        .where(executions.c.id == bindparam("at_id"))
        .values({name: bindparam("set_" + name) for name in names}),
        keeps=True,
    )


async def _write_changes(tx: Tx, changes: Sequence[tuple[str, Mapping[str, object]]]) -> None:
    await write_changes(tx, changes, _update)


_CHANGES = Later(frozenset({"executions"}), _write_changes)


async def update_execution(tx: Tx, execution_id: str, **columns: object) -> None:
    """Change columns of an execution, together with those that other changes of the group write.

    Raises ValueError for the moving state: `write_mark` alone writes that, behind the gate.
    """
    if columns.get("state") == "moving":
        raise ValueError("the moving state is written by write_mark, behind the gate")
    await tx.later(_CHANGES, [(execution_id, columns)])
    if tx.live is not None:
        tx.live.change_execution(execution_id, columns)


async def close(tx: Tx, execution_id: str, at: int, **columns: object) -> None:
    """End an execution: its payouts may be in another one, and no older token writes any more."""
    await update_execution(tx, execution_id, state="closed", ended_at=at, lease_until=0, **columns)
    await tx.later(_NEW_AND_CLOSED, [execution_id])
    if tx.live is not None:
        tx.live.drop(execution_id)


async def add_notes(
    tx: Tx, execution_id: str, token: int, notes: Mapping[str, object]
) -> dict[str, Any] | None:
    """Add to the notes of an execution; return all of them, None where the lease is lost."""
    row = await held(tx, execution_id, token)
    if row is None:
        return None
    merged: dict[str, Any] = {**json.loads(row["notes"]), **notes}
    await update_execution(tx, execution_id, notes=to_json(merged))
    return merged


async def add_told(tx: Tx, execution: Row, told: Mapping[str, str]) -> None:
    """Store what a notice reported beside the notes of an execution, every distinct value of it."""
    notes = json.loads(execution["notes"])
    known: dict[str, list[str]] = notes.get("told", {})
    for name, value in told.items():
        values = known.setdefault(name, [])
        if value not in values:
            values.append(value)
    await update_execution(tx, execution["id"], notes=to_json({**notes, "told": known}))


# --- The moving mark -------------------------------------------------------------------------------


async def sharing(tx: Tx, execution_id: str, items: Iterable[str]) -> dict[str, list[str]]:
    """Return the other executions that ever held one of some payouts, with those payouts."""
    found: dict[str, list[str]] = {}
    for row in await tx.all(_EARLIER, ids=json.dumps(list(items)), execution_id=execution_id):
        found.setdefault(row["execution_id"], []).append(row["payout_id"])
    return found


async def markable(tx: Tx, execution_id: str) -> tuple[Row, dict[str, str]] | None:
    """Return an execution, with the store's state for marks, and the status of each of its payouts.

    `store_frozen`, `store_gate_version`, `store_marks`; `batch_cancel_at`: since when its batch is canceled;
    `pauses`: how many pauses there are, of whatever; `rules_digest`: of the rules that are active.
    Always as the database has them.
    """
    rows = wide(await tx.all(_MAY_MARK, execution_id=execution_id))
    statuses = {row["item_id"]: row["item_status"] for row in rows}
    return (rows[0], statuses) if rows else None


async def next_mark(tx: Tx) -> int:
    """Return the number of a new mark."""
    row = await tx.one(_NEXT_MARK)
    assert row is not None  # noqa: S101 - the row is made with the table
    return int(row["marks"])


async def write_mark(tx: Tx, execution_id: str, token: int, number: int, until: int) -> bool:
    """Write the moving state. For `gateway.execution.mark` alone, which runs the gate before."""
    terms = {"new_rows": number, "until": until}
    rows = await tx.all(_MARK, held_id=execution_id, held_token=token, **terms)
    return bool(kept(tx, rows))
