"""A complete list was searched and it is not there: one look, under the rules of `Absent`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.adapter import Absent, NotListed
from gateway.execution.decide import decide
from gateway.execution.proof import Answer, Finding, History, proof
from gateway.execution.state import State
from gateway.model import Attention
from tests.execution.rows import at, look, rows
from tests.execution.test_decide import LATE, PLAIN, paying, view

#: Every call of these rows is made at the beginning of 1970, by the wall clock.
BEFORE = datetime(1969, 12, 31, tzinfo=UTC)
SINCE = datetime(1970, 1, 2, tzinfo=UTC)
CALLED = rows(paying(1, answer=Answer.UNKNOWN))


def looked(history: History, outcome: Any, elapsed: int) -> History:
    """Return the history after a look that started then."""
    moment = at(elapsed)
    decided = decide(view(history, started=moment, now=moment), outcome)
    return history.having(*decided.evidence)


@pytest.mark.parametrize("since", [None, BEFORE])
def test_it_counts_as_absent_does(since: datetime | None) -> None:
    """As many looks, as long a wait: the same proof at the same look, alone or mixed with `Absent`."""
    for elapsed in (LATE, 1):
        verdicts = []
        for outcomes in (
            [Absent("404")] * 3,
            [NotListed(since)] * 3,
            [Absent("404"), NotListed(since), Absent("404")],
        ):
            history, proven = CALLED, []
            for outcome in outcomes:
                history = looked(history, outcome, elapsed)
                proven.append(proof(history))
            verdicts.append(proven)
        assert verdicts[0] == verdicts[1] == verdicts[2]
        assert any(verdicts[0]) is (elapsed == LATE)


def test_a_window_that_begins_after_the_call_proves_nothing() -> None:
    """It is `CannotLook` then, and the operator hears why."""
    history = CALLED
    for _ in range(5):
        decided = decide(view(history, now=at(LATE), started=at(LATE)), NotListed(SINCE))
        history = history.having(*decided.evidence)
        assert [each.answer for each in decided.evidence] == [Finding.BLIND]
        assert decided.state is State.UNKNOWN
        assert Attention.CANNOT_LOOK in dict(decided.alerts)
    assert not proof(history)


def test_a_window_that_begins_with_the_call_is_too_short() -> None:
    """The two wall clocks may differ by as much as is declared."""
    begin = datetime.fromtimestamp(-PLAIN.clock_skew_s + 1, UTC)
    short = decide(view(CALLED, now=at(LATE), started=at(LATE)), NotListed(begin))
    assert [each.answer for each in short.evidence] == [Finding.BLIND]


def test_what_was_found_later_outweighs_it() -> None:
    """As with `Absent`: looks before one that found something do not count."""
    found = rows(
        paying(1, answer=Answer.UNKNOWN),
        look(2, LATE, Finding.NOT_LISTED),
        look(3, LATE, Finding.PRESENT),
    )
    assert not proof(found)
