"""Status updates that the engine itself generates, in the same form as a custodian's reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gateway.adapter import BatchReport, Report
from gateway.errors import Rejected, WrongAnswer
from gateway.execution.proof import CAME_BACK, History, calls, money_came_back, was_seen
from gateway.model import Failure, FailureCode, FundsMoved, Payout, Status, SubStatus
from gateway.report import Action
from gateway.states import STATUS_OF
from gateway.views import OUTCOME_UNKNOWN

#: Sub-statuses in which money is or may be on its way; after one of them the execution is never marked
#: again.
NEWS = frozenset(
    {
        SubStatus.SUBMITTED,
        SubStatus.BROADCAST,
        SubStatus.CONFIRMING,
        SubStatus.SETTLING,
        SubStatus.DELIVERED,
    }
)
#: The alerts about a payout that was open in a copy of the database: without a look, and after one.
ADOPTED_BLIND = (
    "open in a restored database, with nothing to ask by: ask the custodian whether it was paid in the "
    "window that `db adopt` printed, then end it with `payouts resolve`"
)
ADOPTED_ABSENT = (
    "open in a restored database, and not found at the custodian; no call is made for it any more: end it "
    "with `payouts resolve`"
)
_CODES = {each.value: each for each in FailureCode}


def expired_report() -> Report:
    """Return the end of a payout whose action nobody answered in time."""
    failure = Failure(
        code=FailureCode.AUTHENTICATION_EXPIRED,
        message="Nobody answered the required action in time; nothing was paid.",
        funds_moved=FundsMoved.NO,
    )
    return Report(SubStatus.EXPIRED, "", failure=failure, detail=failure.message)


def not_sent_in_time_report() -> Report:
    """Return the end of a payout that could not be sent in time."""
    failure = Failure(
        code=FailureCode.NOT_SENT_IN_TIME,
        message="It could not be sent in time; nothing was paid.",
        funds_moved=FundsMoved.NO,
    )
    return Report(SubStatus.EXPIRED, "", failure=failure, detail=failure.message)


def wrong_answer_report(payout: Payout, wrong: WrongAnswer) -> Report:
    """Return the action that a payout requires after a wrong answer."""
    last = payout.requires_action
    assert last is not None  # noqa: S101 - it was answered
    action = Action(
        type=last.type,
        channel=last.channel,
        masked_target=last.masked_target,
        url=last.url,
        attempts_left=wrong.attempts_left,
        expires_at=last.expires_at,
    )
    return Report(SubStatus.REQUIRES_ACTION, "", action=action)


def rejected_report(refusal: Rejected) -> Report:
    """Return the end of a payout that the custodian refused before anything moved."""
    failure = Failure(
        code=_CODES.get(refusal.code, FailureCode.SUBMISSION_REJECTED),
        message=refusal.message or refusal.code,
        custodian_code=refusal.custodian_code or refusal.code,
        funds_moved=FundsMoved.NO,
    )
    word = refusal.custodian_code or refusal.code
    return Report(SubStatus.REJECTED, word, failure=failure, detail=failure.message)


def queued_report(payout: Payout) -> Report:
    """Return the update that a payout waits for its turn."""
    detail = f"waits for its turn at {payout.account.type} {payout.account.id}"
    return Report(SubStatus.QUEUED, "", detail=detail)


def paused_report() -> Report:
    """Return the update that a payout waits because it is paused."""
    return Report(SubStatus.QUEUED, "", detail="paused; nothing is sent until it is resumed")


def awaits_funds_report() -> Report:
    """Return the update that a payout waits until its account covers it."""
    detail = "the account does not cover it yet; nothing is sent until it does"
    return Report(SubStatus.AWAITING_FUNDS, "", detail=detail)


def not_sent_report() -> Report:
    """Return the update that a payout was not sent yet."""
    return Report(SubStatus.SUBMITTING, "", detail="not sent yet; it will be tried again")


def unknown_report(reason: str) -> Report:
    """Return the update that the outcome of a call is unknown. Partners do not see the reason."""
    detail = f"{OUTCOME_UNKNOWN} ({reason})"
    return Report(SubStatus.OUTCOME_UNKNOWN, "", detail=detail[:500])


def held_report(report: Report) -> Report:
    """Return a failure that does not end a payout yet, because an earlier call may still arrive."""
    detail = f"the custodian says {report.custodian_word or report.sub_status}; waiting until no earlier call can arrive"
    return replace(
        report,
        sub_status=SubStatus.OUTCOME_UNKNOWN,
        failure=None,
        detail=detail[:500],
        again_after_s=None,
    )


def canceled_report() -> Report:
    """Return the end of a payout that was canceled before anything was sent."""
    failure = Failure(
        code=FailureCode.CANCELED,
        message="Canceled before anything was sent.",
        funds_moved=FundsMoved.NO,
    )
    return Report(SubStatus.CANCELED, "", failure=failure, detail=failure.message)


def asks(told: BatchReport) -> bool:
    """Whether a report waits for somebody's answer."""
    return any(each.sub_status is SubStatus.REQUIRES_ACTION for each in told.items.values())


def only_asks(told: BatchReport) -> bool:
    """Whether every item of a report waits for somebody's answer."""
    return bool(told.items) and all(
        each.sub_status is SubStatus.REQUIRES_ACTION for each in told.items.values()
    )


def again_after_s(told: BatchReport) -> float | None:
    """Return after how many seconds the adapter wants to be called again; None if it does not say."""
    wishes = [each.again_after_s for each in told.items.values() if each.again_after_s is not None]
    return min(wishes) if wishes else None


def failed(report: Report) -> bool:
    """Whether a report means that a payout failed."""
    return report.sub_status is not None and STATUS_OF[report.sub_status] is Status.FAILED


def claiming(report: Report, moved: FundsMoved) -> Report:
    """Return a failed report with another claim about the money."""
    failure = report.failure or Failure(
        code=FailureCode.UNKNOWN_REASON,
        message=report.detail or report.custodian_word,
        funds_moved=moved,
    )
    return replace(report, failure=failure.model_copy(update={"funds_moved": moved}))


def claims_unpaid(report: Report) -> bool:
    """Whether a report claims that no money moved."""
    return report.failure is not None and report.failure.funds_moved is FundsMoved.NO


def sightings(history: History, item: str, report: Report) -> tuple[str | None, ...]:
    """Return the answers of the rows of news that a report adds, about our transfer and about its return.

    Money that came back had moved, so no later report makes that "not paid".
    """
    moves = report.sub_status in NEWS
    known = was_seen(history.rows, report.reference)
    back = bool(report.returned) and not money_came_back(history, item)
    return (*((None,) if moves and not known else ()), *((CAME_BACK,) if back else ()))


def is_early(known: Iterable[History], report: Report) -> bool:
    """Whether a report claims that money moves, or came back, although no call was ever made for it.

    `known` holds everything that was ever sent for the payout. Without this rule a payout is delivered
    by a transfer that another copy of the database made, and its own call follows.
    """
    moves = report.sub_status in NEWS or bool(report.returned)
    return moves and not any(calls(each) for each in known)


def without_status(report: Report) -> Report:
    """Return a report that changes no status, because an operator has to find out who made the transfer."""
    return replace(report, sub_status=None, failure=None, action=None, again_after_s=None)
