"""Half of a key's life: an unknown payout that cannot be looked up is on the operator's list."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.adapter import Absent, CannotLook, NotListed, NotSent, OutcomeUnknown, RateLimited
from gateway.execution.decide import decide
from gateway.execution.proof import Answer
from gateway.execution.state import State, Verb
from gateway.model import Attention
from tests.execution.rows import at, rows
from tests.execution.test_decide import PLAIN, paying, view

_SECOND = 1_000_000
WEEK = 7 * 86_400 * _SECOND
#: A permanent key for seven days, no look-up by key: each repeat is harmless.
WEEKLY = replace(
    PLAIN,
    call_life_s=60,
    keys=replace(PLAIN.keys, life_s=7 * 86_400, repeat_is_safe=True, look_up=False),
)
#: Many looks are needed for a proof, so that one alone leaves the outcome unknown.
CALLED = rows(paying(1, answer=Answer.UNKNOWN, key_life=WEEK, absence_looks=9))
BLIND = CannotLook("no look-up by key", repeat_is_safe=True)


def alerted(outcome: Any, elapsed: int, *, wall: int | None = None, **changed: Any) -> bool:
    """Return whether the operator hears of the key's life."""
    now = at(elapsed, wall=wall)
    terms = {"capabilities": WEEKLY, "now": now, "started": now} | changed
    return Attention.KEY_LIFE in dict(decide(view(CALLED, **terms), outcome).alerts)


@pytest.mark.parametrize(
    ("outcome", "verb", "state"),
    [
        (BLIND, Verb.FETCH, State.UNKNOWN),
        (NotSent("down"), Verb.FETCH, State.UNKNOWN),
        (RateLimited("HTTP 429"), Verb.FETCH, State.UNKNOWN),
        (RateLimited("HTTP 429"), Verb.SUBMIT, State.PREPARED),
        (OutcomeUnknown("down"), Verb.SUBMIT, State.PREPARED),
    ],
    ids=str,
)
def test_after_half_of_the_life_it_is_not_silent(outcome: Any, verb: Verb, state: State) -> None:
    """Repeats that are answered 429, or never, and looks that see nothing: before half, nobody hears."""
    assert not alerted(outcome, WEEK // 2 - _SECOND, verb=verb, state=state)
    assert alerted(outcome, WEEK // 2, verb=verb, state=state)


def test_a_wall_clock_may_say_it_early() -> None:
    """After a reboot elapsed time begins anew; an alert too early harms nobody."""
    assert alerted(BLIND, 60 * _SECOND, wall=WEEK // 2)


@pytest.mark.parametrize("found", [Absent("404"), NotListed()], ids=str)
def test_where_a_key_can_be_looked_up_a_look_is_an_answer(found: Any) -> None:
    """The declared fact decides."""
    can = replace(WEEKLY, keys=replace(WEEKLY.keys, look_up=True))
    assert alerted(found, WEEK // 2)
    assert not alerted(found, WEEK // 2, capabilities=can)
    assert alerted(BLIND, WEEK // 2, capabilities=can)


def test_a_key_without_end_and_a_call_that_is_closed_alert_nobody() -> None:
    """There is nothing to be late for."""
    endless = rows(paying(1, answer=Answer.UNKNOWN))
    closed = rows(paying(1, answer=Answer.NOT_SENT, key_life=WEEK))
    now = at(WEEK)
    forever = replace(WEEKLY, keys=replace(WEEKLY.keys, life_s=None))
    for history, can in ((endless, forever), (closed, WEEKLY)):
        decided = decide(view(history, capabilities=can, now=now, started=now), BLIND)
        assert Attention.KEY_LIFE not in dict(decided.alerts)
