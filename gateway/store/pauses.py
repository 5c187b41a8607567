"""Pauses, and what they hold. Store functions.

How many pauses there are rides along with statements that are made anyway; only where there is one are
they read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ScalarSelect, and_, bindparam, delete, func, select, update

from gateway.model import Account
from gateway.pause import Pause, PauseScope, Subject, held_by
from gateway.store.database import Columns, Query, Row, Tx, upsert
from gateway.store.marks import take_turn
from gateway.store.schema import execution_items, executions, payouts
from gateway.store.schema_control import pauses

#: The outcome of an execution that a pause holds, by which a resume finds it.
HELD = "paused"
_MOST_WAITING = 1000


def pause_count() -> ScalarSelect[Any]:
    """Return how many pauses there are, as a column for another statement."""
    return select(func.count()).select_from(pauses).scalar_subquery()


_INSERT = upsert(pauses)
#: A pause that is there already keeps its id and its beginning.
_ADD = Query(
    _INSERT.on_conflict_do_update(
        index_elements=["scope", "target", "owner", "mode"],
        set_={name: _INSERT.excluded[name] for name in ("reason", "actor", "keep_accepting")},
    ).returning(pauses)
)
_ALL = Query(select(pauses).order_by(pauses.c.since, pauses.c.id))
_REMOVE = Query(delete(pauses).where(pauses.c.id == bindparam("pause_id")).returning(pauses))
_ITEMS = Query(
    select(payouts.c.org, payouts.c.mode, payouts.c.terms)
    .select_from(execution_items)
    .join(payouts, payouts.c.id == execution_items.c.payout_id)
    .where(execution_items.c.execution_id == bindparam("execution_id"))
)
_PAYOUT = Query(
    select(payouts, pause_count().label("pauses")).where(payouts.c.id == bindparam("payout_id"))
)
_WAKE = Query(
    update(executions)
    .where(
        and_(
            executions.c.ended_at.is_(None),
            executions.c.outcome == HELD,
            executions.c.due_at > bindparam("now"),
        )
    )
    .values(due_at=bindparam("now"))
)
_WAITING = Query(
    select(
        executions.c.id,
        executions.c.custodian,
        executions.c.account,
        executions.c.created_at,
        executions.c.created_clock_id,
        executions.c.created_elapsed,
        payouts.c.id.label("payout_id"),
        payouts.c.org,
        payouts.c.mode,
        payouts.c.terms,
    )
    .select_from(executions)
    .join(execution_items, execution_items.c.execution_id == executions.c.id)
    .join(payouts, payouts.c.id == execution_items.c.payout_id)
    .where(
        and_(
            executions.c.ended_at.is_(None),
            executions.c.state == "prepared",
            executions.c.open_calls == 0,
            payouts.c.id > bindparam("after"),
        )
    )
    .order_by(payouts.c.id)
    .limit(bindparam("limit"))
)


async def add_pause(tx: Tx, pause: Pause) -> Pause:
    """Store a pause and return it as it is stored: one of the same kind keeps its id and beginning.

    Once this is committed, no mark of what it holds is committed any more.
    """
    await take_turn(tx)
    row = await tx.one(
        _ADD,
        id=pause.id,
        scope=pause.scope.value,
        target=pause.target,
        owner=pause.owner,
        mode=pause.mode,
        reason=pause.reason,
        actor=pause.actor,
        keep_accepting=int(pause.keep_accepting),
        since=pause.since,
    )
    assert row is not None  # noqa: S101 - the statement returns the row that it wrote
    return _pause_of(row)


async def remove_pause(tx: Tx, pause_id: str) -> Pause | None:
    """End a pause and return it; None if it was already ended."""
    row = await tx.one(_REMOVE, pause_id=pause_id)
    return None if row is None else _pause_of(row)


async def active_pauses(tx: Tx) -> list[Pause]:
    """Return every pause, oldest first."""
    return [_pause_of(row) for row in await tx.all(_ALL)]


async def wake_held(tx: Tx, now: int) -> None:
    """Make due what a pause holds; what another pause still holds waits on. `now`: of the timeline."""
    await tx.all(_WAKE, now=now)


async def pause_of_execution(tx: Tx, execution: Columns) -> Pause | None:
    """Return a pause that holds an execution: of a set, one of its payouts is enough."""
    items = await tx.all(_ITEMS, execution_id=execution["id"])
    return await pause_of_items(tx, execution["custodian"], execution["account"], items)


async def pause_of_items(
    tx: Tx, custodian: str, account: str, items: Iterable[Mapping[str, Any] | Row]
) -> Pause | None:
    """Return a pause that holds one of some payouts, given by their rows; `account` is JSON."""
    source = Account.model_validate_json(account)
    subjects = [
        Subject(each["org"], each["mode"], custodian, source, json.loads(each["terms"])["asset"])
        for each in items
    ]
    return held_by(await active_pauses(tx), subjects)


async def payout_with_pauses(tx: Tx, payout_id: str) -> Row | None:
    """Return the row of a payout, with `pauses`: how many there are of any kind."""
    return await tx.one(_PAYOUT, payout_id=payout_id)


async def waiting_page(tx: Tx, after: str) -> list[Row]:
    """Return a page of payouts of which nothing was sent, with their executions, by `payout_id`."""
    return await tx.all(_WAITING, after=after, limit=_MOST_WAITING)


def _pause_of(row: Row) -> Pause:
    return Pause(
        id=row["id"],
        scope=PauseScope(row["scope"]),
        target=row["target"],
        owner=row["owner"],
        mode=row["mode"],
        reason=row["reason"],
        actor=row["actor"],
        keep_accepting=bool(row["keep_accepting"]),
        since=row["since"],
    )
