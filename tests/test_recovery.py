"""The recovery rule: no second moving call without proof."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapter import Capabilities, KeySemantics
from gateway.recovery import (
    MAX_MOVES,
    Attempt,
    AttemptState,
    Next,
    absence_delay_s,
    absence_proven,
    count_absence,
    delay_s,
    may_repeat,
    next_step,
    taken_over,
    unknown,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
CAN = Capabilities(frozenset({"address"}), call_life_s=60, visibility_s=30, absence_looks=3)
MOVING = Attempt(number=1, state=AttemptState.MOVING, moves=1, last_call_at=START, created_at=START)


def after(seconds: float) -> datetime:
    """Return a time so many seconds after the start."""
    return START + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "state", [each for each in AttemptState if each is not AttemptState.PREPARED]
)
def test_only_a_prepared_attempt_is_submitted(state: AttemptState) -> None:
    """Whatever else stands is looked at first."""
    assert next_step(replace(MOVING, state=state)) is Next.FETCH
    assert next_step(replace(MOVING, state=AttemptState.PREPARED)) is Next.SUBMIT


def test_a_mark_without_outcome_is_unknown() -> None:
    """A takeover counts from its own time, which is later than the old lease's end."""
    seen = taken_over(MOVING, after(100))
    assert (seen.state, seen.ever_unknown, seen.last_call_at) == (
        AttemptState.UNKNOWN,
        True,
        after(100),
    )


@given(st.lists(st.floats(min_value=0, max_value=400), max_size=10))
def test_absence_needs_time_and_number(times: list[float]) -> None:
    """No absence is proven before the call's life has passed, three looks were made and spread out."""
    attempt = unknown(MOVING, START)
    counted = []
    for seconds in sorted(times):
        attempt = count_absence(attempt, after(seconds), CAN)
        if seconds >= CAN.call_life_s:
            counted.append(seconds)
        proven = len(counted) >= CAN.absence_looks and counted[-1] - counted[0] >= CAN.visibility_s
        assert absence_proven(attempt, CAN) == proven
        assert may_repeat(attempt, after(seconds), CAN, can_look=True) == proven


def test_an_accepted_attempt_is_never_repeated() -> None:
    """Once the custodian knows it, no answer brings a second moving call."""
    accepted = replace(unknown(MOVING, START), state=AttemptState.ACCEPTED, absences=9)
    assert not may_repeat(accepted, after(9999), CAN, can_look=True)
    assert count_absence(accepted, after(9999), CAN) is accepted


def test_a_person_decides_after_too_many_calls() -> None:
    """The number of moving calls is bounded."""
    attempt = replace(unknown(MOVING, START), moves=MAX_MOVES)
    for seconds in (100, 150, 200):
        attempt = count_absence(attempt, after(seconds), CAN)
    assert absence_proven(attempt, CAN)
    assert not may_repeat(attempt, after(201), CAN, can_look=True)


def test_blind_repeats_need_safe_keys() -> None:
    """Where nothing can be looked at, only declared key semantics allow a repeat, within their life."""
    attempt = unknown(MOVING, START)
    assert not may_repeat(attempt, after(1), CAN, can_look=False)
    for_ever = replace(CAN, keys=KeySemantics(repeat_is_safe=True))
    assert may_repeat(attempt, after(10**6), for_ever, can_look=False)
    # A safe repeat is not counted: an outage may last longer than a few of them.
    often = replace(attempt, moves=10 * MAX_MOVES)
    assert may_repeat(often, after(10**6), for_ever, can_look=False)
    assert may_repeat(often, after(10**6), CAN, can_look=False, repeat_is_safe=True)
    assert not may_repeat(attempt, after(1), for_ever, can_look=False, repeat_is_safe=False)
    a_day = replace(CAN, keys=KeySemantics(repeat_is_safe=True, life_s=86_400))
    assert may_repeat(attempt, after(3600), a_day, can_look=False)
    assert not may_repeat(attempt, after(50_000), a_day, can_look=False)


@given(st.lists(st.floats(min_value=0.1, max_value=500), min_size=1, max_size=6))
def test_proof_comes_as_early_as_it_may(curve: list[float]) -> None:
    """Whatever the curve, absence that is there is proven right after life and visibility."""
    attempt, now, looks = unknown(MOVING, START), START, 0
    while not absence_proven(attempt, CAN):
        soon = absence_delay_s(attempt, now, CAN)
        assert soon is not None
        now += timedelta(seconds=min(delay_s(tuple(curve), looks), soon) + 0.001)
        attempt, looks = count_absence(attempt, now, CAN), looks + 1
    slack = 0.02 * CAN.visibility_s + 0.01 * looks + 2 * min(max(curve), CAN.visibility_s)
    assert (now - START).total_seconds() <= CAN.call_life_s + CAN.visibility_s + slack


def test_the_last_delay_repeats() -> None:
    """A curve never ends."""
    assert [delay_s((1, 2), count) for count in range(4)] == [1, 2, 2, 2]
