"""Charts as geometry: turns numbers into shapes and labels. Pure; a template draws them as SVG.

Only here do amounts become floats, as lengths on a screen. The text shows the exact amount.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

#: The size of every chart.
WIDTH, HEIGHT = 480, 104
#: With fewer values, a chart would show nothing useful.
FEWEST = 20
_STEPS = (1, 2, 4, 5, 8, 10)
_HALF = 2
_SMALL_S = 10.0
_DAY_S = 86_400.0
_ROUND_S = (12, 20, 40, 60, 120, 240, 480, 720, 1200, 2400, 3600, 7200, 14_400, 28_800, 86_400)


@dataclass(frozen=True)
class Line:
    """A line of a chart: the commands of its path, and its colour."""

    path: str
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Bar:
    """A bar of a chart."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Chart:
    """Everything that is drawn."""

    label: str
    bars: tuple[Bar, ...] = ()
    lines: tuple[Line, ...] = ()
    #: from top to bottom
    y: tuple[str, ...] = ()
    #: the five times below the axis
    x: tuple[datetime, ...] = ()
    #: the numbers as a table, with its head and rows
    head: tuple[str, ...] = ()
    rows: tuple[tuple[object, ...], ...] = ()


@dataclass(frozen=True)
class Spread:
    """The delivery times of a route: the start, end and median of its bar, in units of `WIDTH`."""

    name: str
    median_s: float
    fast_s: float
    slow_s: float
    left: float
    width: float
    median: float
    colour: str
    count: int


def top_of(highest: float) -> float:
    """Return the round number at the top of an axis."""
    if highest <= 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(highest))
    return next(step * size for step in _STEPS if step * size >= highest * (1 - 1e-9))


def top_of_times(slowest: float) -> float:
    """Return the round number of seconds at the end of an axis of times; its quarters are round as well."""
    if slowest <= _SMALL_S:
        return top_of(slowest)
    return next(
        (each for each in _ROUND_S if each >= slowest), _DAY_S * math.ceil(slowest / _DAY_S)
    )


def floor_of(lowest: float) -> float:
    """Return the start of an axis of percentages, near the lowest value so that a dip is visible."""
    return next((each for each in (96.0, 90.0, 80.0, 50.0) if lowest >= each), 0.0)


def bars(values: Sequence[Decimal], top: float) -> tuple[Bar, ...]:
    """Return a bar for each value, from zero."""
    slot = WIDTH / max(1, len(values))
    return tuple(
        Bar(
            round(index * slot + slot * 0.12, 1),
            round(HEIGHT - 2 - (HEIGHT - 4) * float(value) / top, 1),
            round(slot * 0.76, 1),
            round((HEIGHT - 4) * float(value) / top, 1),
        )
        for index, value in enumerate(values)
    )


def line(values: Sequence[float | None], low: float, top: float) -> str:
    """Return the path through the values; a missing value leaves a gap."""
    slot, parts, drawing = WIDTH / max(1, len(values) - 1), [], False
    for index, value in enumerate(values):
        if value is None:
            drawing = False
            continue
        height = (HEIGHT - 4) * (value - low) / ((top - low) or 1)
        parts.append(f"{'L' if drawing else 'M'}{index * slot:.1f} {HEIGHT - 2 - height:.1f}")
        if not drawing:
            # A value between two gaps is a dot.
            parts.append("h.1")
        drawing = True
    return "".join(parts)


def share(values: Sequence[float], part: float) -> float:
    """Return the value below which a part of the values lies; they need not be sorted."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(part * len(ordered)) - 1))]


def compact(value: float) -> str:
    """Return a number for an axis: `40k`, `1.5M`."""
    for size, sign in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{sign}"
    return f"{value:g}"


def axis(top: float, low: float = 0.0) -> tuple[float, float, float]:
    """Return the labels of the three grid lines, from top to bottom."""
    return top, (top + low) / _HALF, low
