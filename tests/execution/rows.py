"""Rows of evidence for the tests of the rules. Durations are seconds."""

from __future__ import annotations

from typing import Any

from gateway.execution.proof import Answer, Evidence, Finding, History, Kind, Source
from gateway.model import FundsMoved
from gateway.runtime import Moment

LIFE, VISIBILITY, LOOKS = 120, 60, 1
ACCOUNT, OTHER_ACCOUNT = "account", "another account"
ITEM, OTHER_ITEM = "pay_1", "pay_2"


def at(elapsed: int, clock: str = "clock", *, wall: int | None = None) -> Moment:
    """Return a moment; the wall clock shows the same unless it is given."""
    return Moment(clock, elapsed, elapsed if wall is None else wall)


def call(
    number: int, elapsed: int = 0, answer: str | None = Answer.UNKNOWN, **changed: Any
) -> Evidence:
    """Return a moving call."""
    terms: dict[str, Any] = {
        "at": at(elapsed, changed.pop("clock", "clock")),
        "seen": number - 1,
        "fingerprint": ACCOUNT,
        "reference": "ref",
        "mark": number,
        "call_life": LIFE,
        "visibility": VISIBILITY,
        "absence_looks": LOOKS,
    }
    return Evidence(number=number, kind=Kind.CALL, answer=answer, **(terms | changed))


def look(number: int, elapsed: int, answer: str = Finding.ABSENT, **changed: Any) -> Evidence:
    """Return a look that had read every row before it."""
    terms: dict[str, Any] = {
        "at": at(elapsed, changed.pop("clock", "clock")),
        "seen": number - 1,
        "fingerprint": ACCOUNT,
    }
    return Evidence(number=number, kind=Kind.LOOK, answer=answer, **(terms | changed))


def word(number: int, elapsed: int = 0, claim: str = FundsMoved.NO, **changed: Any) -> Evidence:
    """Return the custodian's word that a reference failed."""
    terms: dict[str, Any] = {
        "at": at(elapsed),
        "seen": number - 1,
        "fingerprint": ACCOUNT,
        "reference": "ref",
        "item": ITEM,
        "source": Source.LOOK,
    }
    return Evidence(number=number, kind=Kind.WORD, answer=claim, **(terms | changed))


def news(number: int, elapsed: int = 0, **changed: Any) -> Evidence:
    """Return news of our own transfer."""
    terms: dict[str, Any] = {"at": at(elapsed), "seen": number - 1, "item": ITEM}
    return Evidence(number=number, kind=Kind.NEWS, **(terms | changed))


def asked(number: int, elapsed: int, clock: str = "clock") -> Evidence:
    """Return that an operator was asked to look at the custodian's own records."""
    return Evidence(
        number=number,
        kind=Kind.CONSOLE,
        seen=number - 1,
        at=at(elapsed, clock),
        source=Source.OPERATOR,
    )


def rows(*each: Evidence) -> History:
    """Return a history of some rows."""
    return History(each)
