"""When an endpoint is warned of and disabled: the rule alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.webhooks.health import Health, Verdict, after_failure

DAY = 86_400
RULE = {"warn_after_s": 3.0 * DAY, "disable_after_s": 5.0 * DAY}


def fail(health: Health, day: float, *, gave_up: bool = False) -> tuple[Health, Verdict]:
    """Return what follows from a failure on a day."""
    return after_failure(health, int(day * DAY * 1e6), gave_up=gave_up, **RULE)


def test_warned_on_the_third_day_and_disabled_on_the_fifth() -> None:
    """One warning; disabled only once an event was given up."""
    health, verdict = Health(), Verdict.NOTHING
    for day in (0.0, 1.0, 2.0):
        health, verdict = fail(health, day)
        assert verdict is Verdict.NOTHING
    health, verdict = fail(health, 3)
    assert verdict is Verdict.WARN
    for day in (3.5, 4.0, 5.0, 6.0):
        health, verdict = fail(health, day)
        assert verdict is Verdict.NOTHING
    _, verdict = fail(health, 6.1, gave_up=True)
    assert verdict is Verdict.DISABLE


def test_one_bad_moment_is_no_bad_week() -> None:
    """Failures that lie less than twelve hours apart do not disable, however long ago the first was."""
    health, _ = fail(Health(), 0, gave_up=True)
    health, verdict = fail(health, 0.4, gave_up=True)
    assert (verdict, health.failing_twice) == (Verdict.NOTHING, 0)


def test_a_quiet_endpoint_is_not_disabled_by_its_next_failure_alone() -> None:
    """A success resets everything."""
    _, verdict = fail(Health(), 10, gave_up=True)
    assert verdict is Verdict.NOTHING


@given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), min_size=1, max_size=40))
def test_never_disabled_early(failures: list[tuple[float, bool]]) -> None:
    """Not before five days, not without an event that was given up; warned at most once."""
    health, warnings, gave_up = Health(), 0, False
    days = sorted(failures)
    for day, ends in days:
        gave_up = gave_up or ends
        health, verdict = fail(health, day, gave_up=ends)
        warnings += verdict is Verdict.WARN
        if verdict is Verdict.DISABLE:
            assert day - days[0][0] >= 5 - 1e-9
            assert gave_up
            break
    assert warnings <= 1
