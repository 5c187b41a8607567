"""Executions that do not start now, because a pause holds them or they have waited too long. Store functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gateway.execution.decide import expiry
from gateway.execution.history import columns_of, others_of
from gateway.execution.proof import Evidence, History, Kind, closed, open_calls
from gateway.execution.reports import awaits_funds_report, paused_report
from gateway.execution.state import Decision, State, View
from gateway.execution.unsent import may_wait_too_long, not_sent_in_time, waited_to_be_sent
from gateway.payouts import Payouts
from gateway.runtime import Moment
from gateway.store import evidence as stored
from gateway.store import executions
from gateway.store import payouts as payout_rows
from gateway.store.database import Columns, Row, Tx
from gateway.store.pauses import HELD, pause_of_items
from gateway.store.rows import action_of, to_us
from gateway.store.state import goes_by, state_row

#: How long an execution waits before it asks again; whatever it waits for wakes it sooner.
QUEUE_LOOK_S = 60.0


async def held(  # noqa: PLR0913 - the execution and its circumstances
    tx: Tx, payouts: Payouts, row: Columns, items: Sequence[Row], history: History, timeline: int
) -> bool:
    """Whether a pause holds an execution that would be submitted now; if so, release its lease.

    The gate asks again at the mark. `timeline` is the present. The custodian is not called, unless an
    earlier call may have arrived: its outcome is looked up despite the pause.
    """
    if not row["pauses"]:
        return False
    if await pause_of_items(tx, row["custodian"], row["account"], items) is None:
        return False
    if len(items) == 1:
        await payouts.apply(tx, items[0]["id"], paused_report(), items[0])
    due = timeline + round(QUEUE_LOOK_S * 1_000_000)
    columns: dict[str, object] = {"outcome": HELD, "due_at": due, "lease_until": 0}
    if not all(closed(history, each["id"]) for each in items):
        columns["state"] = State.UNKNOWN.value
    await executions.update_execution(tx, row["id"], **columns)
    return True


async def unfunded(
    tx: Tx, payouts: Payouts, row: Columns, items: Sequence[Row], timeline: int
) -> bool:
    """Whether an execution waits for its account to cover it; if so, release its lease.

    The gate asks again at the mark. `timeline` is the present.
    """
    if not row["awaits_funds"]:
        return False
    for item in items:
        await payouts.apply(tx, item["id"], awaits_funds_report(), item)
    due = timeline + round(QUEUE_LOOK_S * 1_000_000)
    columns = {"outcome": "awaiting funds", "due_at": due, "lease_until": 0}
    await executions.update_execution(tx, row["id"], **columns)
    return True


async def action_due(tx: Tx, payout_id: str, now: Moment, timeline: int) -> int | None:
    """Return the deadline of a person's answer, on the timeline; None if nobody is asked.

    It is also None if the deadline has passed. `timeline` is the present.
    """
    row = await payout_rows.payout_row(tx, payout_id)
    action = None if row is None else action_of(row)
    if action is None or not action.open:
        return None
    left = to_us(action.expires_at) - now.wall
    return timeline + left if left > 0 else None


def created_at(row: Columns) -> Moment:
    """Return when an execution was opened."""
    return Moment(row["created_clock_id"], row["created_elapsed"], row["created_at"])


async def too_late(
    tx: Tx, row: Columns, view: View, within: int | None, rules: str | None = None
) -> tuple[Decision | None, History]:
    """Return the end of an execution whose time is over (None if it continues), and its history.

    Its time is over if nobody answered in time, or if it could not be sent in time.

    `within` is in microseconds; None means no limit. On a clock without a row of this execution, its
    time begins with the row that is written here. `rules` is the digest of this process's limits and
    routes, which include that limit: while others are active, this process must not apply it.
    """
    unanswered = expiry(view)
    if unanswered is not None or within is None or not may_wait_too_long(view):
        return unanswered, view.history
    waited = waited_to_be_sent(view.history, created_at(row), view.now)
    if waited is None:
        last = view.history.last_number
        begun = Evidence(number=last + 1, kind=Kind.WAIT, seen=last, at=view.now)
        await stored.add_evidence(tx, [columns_of(row["id"], begun)])
        await executions.update_execution(tx, row["id"], rows=begun.number)
        return None, view.history.having(begun)
    if waited < within:
        return None, view.history
    state = await state_row(tx)
    if not goes_by(state, rules):
        return None, view.history
    items = [each.id for each in view.items]
    others = await others_of(tx, row["id"], items, view.now) if row["earlier"] else ()
    asked = replace(view, others=others, frozen=state["frozen"] is not None)
    return not_sent_in_time(asked), view.history


def late_at(
    row: Columns, history: History, now: Moment, timeline: int, within: int | None
) -> int | None:
    """Return when an execution's time to be sent is over, on the timeline; None if it has no limit.

    The result only sets the time of the next look, which decides whether it ends. `timeline` is the
    present.
    """
    waited = waited_to_be_sent(history, created_at(row), now)
    if open_calls(history):
        return None
    return None if within is None or waited is None else timeline + max(0, within - waited)
