"""The end of payouts that could not be sent in time. Pure.

A payout for which nothing was sent does not wait for ever. Its wait is counted in elapsed time, so that
a changed clock or a suspended machine neither ends it early nor keeps it.
"""

from __future__ import annotations

from gateway.execution.gate import may_reopen
from gateway.execution.interpret import knows_every_call
from gateway.execution.proof import History, has_news, open_calls, same_clock
from gateway.execution.reports import not_sent_in_time_report
from gateway.execution.state import Decision, State, View
from gateway.model import SubStatus
from gateway.runtime import Moment


def never_sent(view: View) -> bool:
    """Whether nothing was sent for an execution: no call was marked, or the adapter vouches that each did nothing.

    No news of it was seen either, and every earlier execution of its payouts is closed. In a copy of
    the database that nobody has adopted, the absence of a mark proves nothing; after an adoption, a
    lost call counts as a call. Without this rule a payout that waited too long is ended as "not paid"
    while a signed request is on its way.
    """
    return (
        knows_every_call(view)
        and not open_calls(view.history)
        and not has_news(view.history)
        and all(may_reopen(view.history, each.id, view.others) for each in view.open_items)
    )


def may_wait_too_long(view: View) -> bool:
    """Whether an execution is one whose time to be sent is counted.

    The time does not count while a person is asked for something, which has its own time limit.
    """
    asks = any(each.sub_status is SubStatus.REQUIRES_ACTION for each in view.open_items)
    waits = view.state in {State.PREPARED, State.PARKED}
    return waits and not asks and not open_calls(view.history) and not has_news(view.history)


def waited_to_be_sent(history: History, created: Moment, now: Moment) -> int | None:
    """Return how long an execution has certainly waited, by this clock; None if the wait counts from now.

    On the clock of its creation, the wait counts from the creation. On another clock (after a reboot,
    on another machine) it counts from the first row of that clock.
    """
    if same_clock(created, now):
        return now.elapsed - created.elapsed
    rows = [each.at.elapsed for each in history.rows if each.at.clock_id == now.clock_id]
    return now.elapsed - min(rows) if rows else None


def not_sent_in_time(view: View) -> Decision | None:
    """Return the end of payouts whose time to be sent is over; None if they must not end."""
    if not may_wait_too_long(view) or not never_sent(view):
        return None
    reports = {each.id: not_sent_in_time_report() for each in view.open_items}
    return Decision(State.CLOSED, 0.0, reports=reports, reason="not sent in time")
