"""What the engine itself says of a payout, and how it reads an attempt's row."""

from __future__ import annotations

from datetime import datetime

from gateway.adapter import Action, Report
from gateway.errors import Rejected, WrongAnswer
from gateway.model import Failure, FailureCode, FundsMoved, Payout, SubStatus
from gateway.recovery import Attempt, AttemptState
from gateway.store.database import Row
from gateway.store.rows import from_us, maybe_from_us

_REFUSED_WORDS = {each.value: each for each in FailureCode}


def attempt_of(row: Row) -> Attempt:
    """Return what the recovery rule needs of an attempt's row."""
    return Attempt(
        number=row["number"],
        state=AttemptState(row["state"]),
        moves=row["moves"],
        ever_unknown=bool(row["ever_unknown"]),
        last_call_at=maybe_from_us(row["last_call_at"]),
        absences=row["absences"],
        first_absence_at=maybe_from_us(row["first_absence_at"]),
        last_absence_at=maybe_from_us(row["last_absence_at"]),
        looks=row["looks"],
        failures=row["failures"],
        created_at=from_us(row["created_at"]),
    )


def unanswered(payout: Payout, now: datetime) -> bool:
    """Whether the time is over in which a person could have answered."""
    action = payout.requires_action
    asks = payout.sub_status is SubStatus.REQUIRES_ACTION
    return asks and action is not None and action.open and action.expires_at <= now


def unanswered_report() -> Report:
    """Return the end of a payout that nobody answered for."""
    failure = Failure(
        code=FailureCode.AUTHENTICATION_EXPIRED,
        message="Nobody answered the required action in time; nothing was paid.",
        funds_moved=FundsMoved.NO,
    )
    return Report(SubStatus.EXPIRED, "", failure=failure, detail=failure.message)


def wrong_report(payout: Payout, wrong: WrongAnswer) -> Report:
    """Return what a payout asks for after a wrong answer."""
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
        code=_REFUSED_WORDS.get(refusal.code, FailureCode.SUBMISSION_REJECTED),
        message=refusal.message or refusal.code,
        custodian_code=refusal.custodian_code or refusal.code,
        funds_moved=FundsMoved.NO,
    )
    word = refusal.custodian_code or refusal.code
    return Report(SubStatus.REJECTED, word, failure=failure, detail=failure.message)


def queued_report(payout: Payout) -> Report:
    """Return that a payout waits for its turn."""
    detail = f"waits for its turn at {payout.account.type} {payout.account.id}"
    return Report(SubStatus.QUEUED, "", detail=detail)


def unknown_report(reason: str) -> Report:
    """Return that nobody knows what became of a call."""
    return Report(
        SubStatus.OUTCOME_UNKNOWN, "", detail=f"outcome unknown, being found out ({reason})"[:500]
    )
