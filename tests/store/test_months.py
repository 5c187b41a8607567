"""Months of events: their names and positions, and the table of what keeps one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.store.months import FIRST_END, Facts, Kept, Month, why_kept, why_tries_kept


def us(year: int, month: int, day: int = 1) -> int:
    """Return a time in microseconds since 1970."""
    return int(datetime(year, month, day, tzinfo=UTC).timestamp()) * 1_000_000


NOVEMBER = Month.at(us(2026, 11))
OVER = Facts(NOVEMBER.end, newest_at=us(2026, 11, 29), newest_try_at=us(2026, 11, 30))
LATER = us(2027, 3)


@pytest.mark.parametrize(
    ("at", "name"),
    [
        (us(2026, 11), "2026_11"),
        (us(2026, 12) - 1, "2026_11"),
        (us(2026, 12), "2026_12"),
        (us(2027, 1), "2027_01"),
        (us(1970, 2), "1970_02"),
    ],
)
def test_a_time_is_in_one_month(at: int, name: str) -> None:
    """By UTC; its name says it back."""
    month = Month.at(at)
    assert (month.name, Month.of_name(name)) == (name, month)
    assert Month.at(month.ends_at - 1) == month
    assert Month.at(month.ends_at) == month.after(1)


@pytest.mark.parametrize("name", ["first", "2026_1", "2026_13", "1970_01", "2026", "_", "x_11"])
def test_other_names_are_no_months(name: str) -> None:
    """The first partition, and tables that are none of ours."""
    assert Month.of_name(name) is None


def test_positions_of_months_do_not_overlap() -> None:
    """They follow each other, above the first partition, and every client reads them exactly."""
    number = NOVEMBER.number
    assert NOVEMBER.end == Month(number + 1).first
    assert Month(1).first == FIRST_END
    assert Month.at(us(2300, 1)).end < 2**53


@pytest.mark.parametrize(
    ("facts", "before", "kept"),
    [
        pytest.param(OVER, LATER, None, id="over"),
        pytest.param(OVER._replace(next_position=NOVEMBER.end - 1), LATER, Kept.WRITTEN, id="now"),
        pytest.param(Facts(NOVEMBER.first - 1), LATER, Kept.WRITTEN, id="ahead"),
        pytest.param(OVER, us(2026, 11, 29), Kept.YOUNG, id="as old as events are kept"),
        pytest.param(OVER, us(2026, 11, 29) + 1, None, id="just older"),
        pytest.param(OVER._replace(newest_at=None), us(2026, 12), Kept.YOUNG, id="empty"),
        pytest.param(OVER._replace(newest_at=None), us(2026, 12) + 1, None, id="empty and old"),
        pytest.param(OVER._replace(undelivered=True), LATER, Kept.UNDELIVERED, id="undelivered"),
        pytest.param(OVER._replace(open_payout=True), LATER, Kept.OPEN_PAYOUT, id="open payout"),
        pytest.param(OVER._replace(replayed_from=us(2026, 1)), LATER, Kept.REPLAYED, id="replayed"),
        pytest.param(OVER._replace(replayed_from=us(2026, 12)), LATER, None, id="replayed later"),
        pytest.param(
            OVER._replace(newest_at=None, replayed_from=1), LATER, None, id="nothing to replay"
        ),
    ],
)
def test_what_keeps_a_month(facts: Facts, before: int, kept: Kept | None) -> None:
    """Each reason alone is enough; without one it is dropped."""
    assert why_kept(NOVEMBER, facts, before) is kept


@pytest.mark.parametrize(
    ("facts", "before", "kept"),
    [
        pytest.param(OVER, LATER, None, id="over"),
        pytest.param(OVER._replace(open_payout=True), LATER, None, id="open payout"),
        pytest.param(OVER._replace(newest_try_at=None), LATER, None, id="no try"),
        pytest.param(OVER._replace(next_position=1), LATER, Kept.WRITTEN, id="now"),
        pytest.param(OVER, us(2026, 11, 30), Kept.YOUNG_TRY, id="young"),
        pytest.param(OVER._replace(undelivered=True), LATER, Kept.UNDELIVERED, id="undelivered"),
    ],
)
def test_what_keeps_tries(facts: Facts, before: int, kept: Kept | None) -> None:
    """The log of tries is kept by its age, and while one of them goes on."""
    assert why_tries_kept(NOVEMBER, facts, before) is kept
