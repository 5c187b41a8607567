"""What an adapter may claim about money without a mark, and about a list that it searched. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gateway.adapter import FundsMoved, NotListed, Report, SubStatus
from gateway.execution.proof import LOST_REFERENCE, calls, open_calls
from gateway.execution.state import Decision, State, View
from gateway.model import Attention

#: Sub-statuses that mean that the custodian has sent our money out.
_MOVES = frozenset(
    {SubStatus.BROADCAST, SubStatus.CONFIRMING, SubStatus.SETTLING, SubStatus.DELIVERED}
)


def has_mark(view: View, item: str) -> bool:
    """Whether a moving call was ever marked for an item, by this execution or another one.

    Only marks at this custodian count. A call at another custodian, before the payout moved, cannot
    move money at this one.
    Without this rule a payout that nothing was sent for is delivered by another one's transfer.
    """
    return bool(calls(view.history)) or any(
        calls(other.history) for other in view.others if item in other.items and not other.elsewhere
    )


def covers_calls(view: View, found: NotListed) -> bool:
    """Whether the searched window began before every call that may have arrived.

    Both the wall clock of the mark and the time that has passed since must agree: the wall clock may
    have been wrong at the mark, so it can only forbid. A call of another clock, and one that an adopted
    copy may lack, has no usable date. Without this rule a list of the last hour, which cannot have an
    older call, proves that it was never made.
    """
    if found.since is None:
        return True
    begin = round((found.since.timestamp() + view.capabilities.clock_skew_s) * 1_000_000)
    window = view.started.wall - begin
    return all(
        begin < each.at.wall
        and each.reference != LOST_REFERENCE
        and each.at.clock_id == view.started.clock_id
        and view.started.elapsed - each.at.elapsed < window
        for each in open_calls(view.history)
    )


def unmarked(view: View, reports: Mapping[str, Report]) -> dict[str, str]:
    """Return the items whose report claims that money moved although no call was made, each with the reason."""
    found = {}
    for item, report in reports.items():
        claims_funds = report.failure is not None and report.failure.funds_moved is FundsMoved.YES
        member = (
            f"Report.sub_status is {report.sub_status}"
            if report.sub_status in _MOVES
            else "Report.failure.funds_moved is yes"
        )
        if (report.sub_status in _MOVES or claims_funds) and not has_mark(view, item):
            found[item] = (
                f"{view.adapter}.{view.verb}: {member}, and no call was marked: call order.moving() "
                "before the call; if it was, this is an old copy, or another payout's reference"
            )
    return found


def without_unmarked(view: View, decision: Decision, faults: Mapping[str, str]) -> Decision:
    """Return a decision that changes none of these items, blocks the next mark, and alerts the operator."""
    if not faults:
        return decision
    kept = {item: each for item, each in decision.reports.items() if item not in faults}
    alerts = tuple((Attention.ADAPTER_ERROR, each) for each in dict.fromkeys(faults.values()))
    if decision.state is State.CLOSED:
        # Such a report does not end the execution: it is looked at rarely until a person has decided.
        rarely = view.capabilities.polling_s[-1]
        decision = replace(decision, state=State.UNKNOWN, delay_s=rarely)
    return replace(
        decision,
        reports=kept,
        alerts=(*decision.alerts, *alerts),
        blocked=decision.blocked or Attention.ADAPTER_ERROR.value,
        reopens=False,
    )
