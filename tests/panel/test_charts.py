"""Charts and words of the panel: geometry from numbers, and how numbers and times are written."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from gateway.model import Attention
from gateway.panel import charts
from gateway.panel.render import ago, clock, money, short, short_id, span
from gateway.panel.words import ATTENTION, rank_of, reason_of

_NOW = datetime(2026, 3, 2, 14, 2, 11, tzinfo=UTC)


@pytest.mark.parametrize(
    ("highest", "top"), [(0, 1), (0.7, 0.8), (1, 1), (38_204, 40_000), (41_000, 50_000), (99, 100)]
)
def test_axes_end_at_round_numbers(highest: float, top: float) -> None:
    """At the next one that is not below."""
    assert charts.top_of(highest) == pytest.approx(top)


@pytest.mark.parametrize(("slowest", "top"), [(7.3, 8), (41, 60), (250, 480), (90_000, 172_800)])
def test_axes_of_times(slowest: float, top: float) -> None:
    """Quarters of it are round, too."""
    assert charts.top_of_times(slowest) == top


def test_bars_begin_at_zero() -> None:
    """The highest fills the chart, half of it is half as high, and none is left out."""
    whole, half, none = charts.bars([Decimal(100), Decimal(50), Decimal(0)], 100)
    assert (whole.y, whole.height) == (2, 100)
    assert (half.y, half.height) == (52, 50)
    assert none.height == 0
    assert none.x + none.width <= charts.WIDTH


def test_a_line_has_gaps() -> None:
    """Where there is no value; a value between two gaps is a dot."""
    path = charts.line([1.0, None, 0.5, 0.5], 0.0, 1.0)
    assert [part[0] for part in re.findall(r"[MLh][^MLh]*", path)] == ["M", "h", "M", "h", "L"]
    assert path.startswith("M0.0 2.0")


def test_an_axis_that_does_not_begin_at_zero() -> None:
    """It begins near the lowest value."""
    assert [charts.floor_of(each) for each in (99.4, 92, 81, 60, 10)] == [96, 90, 80, 50, 0]


def test_shares() -> None:
    """The nearest rank, as people count."""
    values = [float(each) for each in range(1, 101)]
    assert [charts.share(values, part) for part in (0.05, 0.5, 0.95)] == [5, 50, 95]
    assert charts.share([7.0], 0.95) == 7


@pytest.mark.parametrize(
    ("amount", "text"),
    [("412806.5", "412,806.50"), ("43", "43.00"), ("0.000123", "0.000123"), ("0", "0.00")],
)
def test_amounts(amount: str, text: str) -> None:
    """With thousands separated, two decimals at least, and every digit that there is."""
    assert money(amount) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.8, "0.8 s"),
        (24, "24 s"),
        (118, "1 min 58 s"),
        (170, "2 min 50 s"),
        (3900, "1 h 5 min"),
        (660, "11 min"),
        (200_000, "2 d 7 h"),
        (-1, "0 s"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    """Two units at most, and one of them where the larger one says enough."""
    assert span(seconds) == text


def test_times() -> None:
    """Relative near, a date far away; today without its date."""
    assert ago(None, _NOW) == "Never"
    assert ago(_NOW, _NOW) == "now"
    assert ago(_NOW - timedelta(seconds=125), _NOW) == "2 min ago"
    assert ago(_NOW - timedelta(days=80), _NOW) == "12 Dec 2025"
    assert ago(_NOW + timedelta(hours=23), _NOW) == "in 23 h"
    assert clock(_NOW, _NOW) == "14:02:11"
    assert clock(_NOW - timedelta(days=1), _NOW) == "1 Mar 14:02"
    assert clock(None, _NOW) == ""


def test_ids() -> None:
    """The first and the last characters; what is short stays whole."""
    assert short_id("pay_01m7y3wqhkabcdefghijklwptf") == "pay_01m7…wptf"
    assert short("0x52908400098527886E0F7030069857D2E4169EE7") == "0x529084…9EE7"
    assert short("INV-2044") == "INV-2044"
    assert short(None) == ""


def test_every_reason_for_attention_has_words() -> None:
    """Each code of the model is told to people, and ranked; one of a later release is, too."""
    assert set(ATTENTION) == set(Attention)
    assert rank_of("mismatch") < rank_of("unknown_word") < rank_of("of_a_later_release")
    assert reason_of("of_a_later_release").title == "Needs attention"
