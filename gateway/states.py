"""The table of lawful moves. Pure: news in, verdict out.

Every piece of news about a payout, whether it is an adapter's reply, a custodian's webhook or a
poll, is judged here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gateway.model import TERMINAL, Status, SubStatus

#: The status that each sub-status belongs to. `outcome_unknown` belongs to the status it is met in.
STATUS_OF: dict[SubStatus, Status | None] = {
    SubStatus.CREATED: Status.PENDING,
    SubStatus.QUEUED: Status.PENDING,
    SubStatus.AWAITING_FUNDS: Status.PENDING,
    SubStatus.AWAITING_APPROVAL: Status.PENDING,
    SubStatus.REQUIRES_ACTION: Status.PENDING,
    SubStatus.SUBMITTING: Status.PENDING,
    SubStatus.SUBMITTED: Status.PENDING,
    SubStatus.OUTCOME_UNKNOWN: None,
    SubStatus.BROADCAST: Status.BROADCAST,
    SubStatus.CONFIRMING: Status.BROADCAST,
    SubStatus.SETTLING: Status.BROADCAST,
    SubStatus.DELIVERED: Status.DELIVERED,
    SubStatus.REJECTED: Status.FAILED,
    SubStatus.FAILED: Status.FAILED,
    SubStatus.CANCELED: Status.FAILED,
    SubStatus.EXPIRED: Status.FAILED,
}

#: The statuses that may follow a status directly. A jump is written as every stage passed.
NEXT: dict[Status, tuple[Status, ...]] = {
    Status.PENDING: (Status.BROADCAST, Status.FAILED),
    Status.BROADCAST: (Status.DELIVERED, Status.FAILED),
    Status.DELIVERED: (),
    Status.FAILED: (),
}

#: The sub-status that is written for a skipped stage.
PASSED_AS: dict[Status, SubStatus] = {Status.BROADCAST: SubStatus.BROADCAST}


class Kind(StrEnum):
    """What a piece of news means for a payout."""

    MOVE = "move"  #: valid, and something changes
    SAME = "same"  #: already known
    LATE = "late"  #: about a stage that the payout has left; nothing changes
    #: two contradicting final statuses, or a report that money moves for a payout that failed;
    #: for the operator
    CONTRADICTION = "contradiction"


@dataclass(frozen=True)
class Verdict:
    """The judgement on one piece of news: its kind and the steps to write, in order."""

    kind: Kind
    steps: tuple[tuple[Status, SubStatus], ...] = ()


def status_for(sub_status: SubStatus, current: Status) -> Status:
    """Return the status that a sub-status means for a payout that stands at `current`."""
    return STATUS_OF[sub_status] or current


def judge(  # noqa: PLR0911 - one per row of the rule
    status: Status, sub_status: SubStatus, news: SubStatus
) -> Verdict:
    """Judge one piece of news about a payout at (`status`, `sub_status`). Pure; total."""
    target = status_for(news, status)
    if status in TERMINAL:
        if target == status:
            return Verdict(Kind.SAME)
        contradicts = target in TERMINAL or (status, target) == (Status.FAILED, Status.BROADCAST)
        return Verdict(Kind.CONTRADICTION if contradicts else Kind.LATE)
    if target == status:
        if news == sub_status:
            return Verdict(Kind.SAME)
        if news is SubStatus.CREATED:
            return Verdict(Kind.LATE)
        return Verdict(Kind.MOVE, ((status, news),))
    path = _path(status, target)
    if path is None:
        return Verdict(Kind.LATE)
    steps = [(stage, PASSED_AS[stage]) for stage in path[:-1]]
    return Verdict(Kind.MOVE, (*steps, (target, news)))


def _path(start: Status, end: Status) -> tuple[Status, ...] | None:
    """Return the shortest lawful way from `start` (left out) to `end`, or None."""
    ways: list[tuple[Status, ...]] = [(follower,) for follower in NEXT[start]]
    while ways:
        way = ways.pop(0)
        if way[-1] == end:
            return way
        ways.extend((*way, follower) for follower in NEXT[way[-1]])
    return None
