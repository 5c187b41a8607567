"""The recovery rule: what may be done next with an attempt. Pure; one retry switch for all adapters.

Silence is never read as failure, and no second moving call is made before it is proven that the
first one did nothing (`docs/explanation/never-twice.md`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from gateway.adapter import Capabilities

#: After so many moving calls without an answer to any, a person decides.
MAX_MOVES = 4
#: After so many failed calls in a row the operator is told.
FAILURES_TOLD = 5
#: After so many looks in a row that do not find what was accepted, too.
LOOKS_TOLD = 10


class AttemptState(StrEnum):
    """Where an attempt stands."""

    PREPARED = "prepared"  #: nothing can have moved, or absence is proven: `submit` may be called
    PARKED = "parked"  #: `submit` stopped before moving and waits for a person or for news
    MOVING = "moving"  #: the mark is set, the call is under way, or its process died
    UNKNOWN = "unknown"  #: the moving call may have arrived
    ACCEPTED = "accepted"  #: the custodian knows it; from here on it is only looked at
    ENDED = "ended"  #: final


class Next(StrEnum):
    """What the engine does next."""

    SUBMIT = "submit"
    FETCH = "fetch"


@dataclass(frozen=True)
class Attempt:
    """What the rule needs to know of an attempt."""

    number: int
    state: AttemptState
    moves: int = 0
    ever_unknown: bool = False
    last_call_at: datetime | None = None
    absences: int = 0
    first_absence_at: datetime | None = None
    last_absence_at: datetime | None = None
    looks: int = 0
    failures: int = 0
    created_at: datetime | None = None


def next_step(attempt: Attempt) -> Next:
    """Return what is lawful now. Only an attempt of which nothing can be under way is submitted."""
    return Next.SUBMIT if attempt.state is AttemptState.PREPARED else Next.FETCH


def taken_over(attempt: Attempt, now: datetime) -> Attempt:
    """Return the attempt as its new owner must see it: a mark without an outcome is unknown.

    The last moving call may have been made as late as the end of the old lease; `now` is later.
    """
    if attempt.state is not AttemptState.MOVING:
        return attempt
    return unknown(attempt, now)


def unknown(attempt: Attempt, now: datetime) -> Attempt:
    """Return the attempt after a moving call of which nothing is known."""
    return replace(
        attempt,
        state=AttemptState.UNKNOWN,
        ever_unknown=True,
        last_call_at=now,
        absences=0,
        first_absence_at=None,
        last_absence_at=None,
        looks=0,
    )


def count_absence(attempt: Attempt, now: datetime, capabilities: Capabilities) -> Attempt:
    """Return the attempt after the custodian said that it does not know it (now).

    Answers that come while a signed request could still be accepted are not counted.
    """
    if attempt.state is not AttemptState.UNKNOWN or attempt.last_call_at is None:
        return attempt
    if now < attempt.last_call_at + timedelta(seconds=capabilities.call_life_s):
        return attempt
    return replace(
        attempt,
        absences=attempt.absences + 1,
        first_absence_at=attempt.first_absence_at or now,
        last_absence_at=now,
    )


def absence_proven(attempt: Attempt, capabilities: Capabilities) -> bool:
    """Whether enough answers, spread over enough time, say that the attempt did nothing."""
    first, last = attempt.first_absence_at, attempt.last_absence_at
    if first is None or last is None or attempt.absences < capabilities.absence_looks:
        return False
    return last - first >= timedelta(seconds=capabilities.visibility_s)


def may_repeat(
    attempt: Attempt,
    now: datetime,
    capabilities: Capabilities,
    *,
    can_look: bool,
    repeat_is_safe: bool | None = None,
) -> bool:
    """Whether an attempt of unknown outcome may be submitted again, with the same keys.

    After proven absence, never more often than `MAX_MOVES`: then a person decides. Or, where there is
    nothing to look by, if the custodian's keys make the repeat itself safe (`repeat_is_safe` says it
    of one attempt) and are still remembered there: as often as it takes.
    """
    if attempt.state is not AttemptState.UNKNOWN:
        return False
    if can_look:
        return attempt.moves < MAX_MOVES and absence_proven(attempt, capabilities)
    keys = capabilities.keys
    safe = keys.repeat_is_safe if repeat_is_safe is None else repeat_is_safe
    if keys.life_s is None or not safe:
        return safe
    # Half of the life is kept as a margin: a key that ends while a repeat is under way pays twice.
    return attempt.created_at is not None and now < attempt.created_at + timedelta(
        seconds=keys.life_s / 2
    )


def delay_s(curve: tuple[float, ...], count: int) -> float:
    """Return the delay before look `count` (from 0); the last one of the curve repeats."""
    return curve[min(count, len(curve) - 1)]


def absence_delay_s(attempt: Attempt, now: datetime, capabilities: Capabilities) -> float | None:
    """Return how soon the next look at an unknown attempt can bring its proof forward.

    The first look that counts is at the end of the call's life, the others are spread over the
    visibility window: looking more slowly than that would only keep the payee waiting. None where
    no look can prove anything any more.
    """
    if attempt.state is not AttemptState.UNKNOWN or attempt.moves >= MAX_MOVES:
        return None
    if attempt.last_call_at is None:
        return None
    left = (
        attempt.last_call_at + timedelta(seconds=capabilities.call_life_s) - now
    ).total_seconds()
    if left > 0:
        return left
    # A little more than the even share, so that rounding never makes the spread too short.
    return 1.02 * capabilities.visibility_s / max(1, capabilities.absence_looks - 1)
