"""Charts as geometry: numbers in, shapes and words out. Pure; a template draws them as SVG.

Amounts become floats here and nowhere else: as lengths on a screen. What is written is the exact amount.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

#: What every chart is drawn in.
WIDTH, HEIGHT = 480, 104
#: With fewer values a chart would say nothing.
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
    #: the times below, five of them
    x: tuple[datetime, ...] = ()
    #: the numbers as a table: its head and its rows
    head: tuple[str, ...] = ()
    rows: tuple[tuple[object, ...], ...] = ()


@dataclass(frozen=True)
class Spread:
    """How long a route takes: where its bar begins and ends, and where the median is, of `WIDTH`."""

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
    """Return the round number that an axis ends at."""
    if highest <= 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(highest))
    return next(step * size for step in _STEPS if step * size >= highest * (1 - 1e-9))


def top_of_times(slowest: float) -> float:
    """Return the round number of seconds that an axis of times ends at; its quarters are round, too."""
    if slowest <= _SMALL_S:
        return top_of(slowest)
    return next(
        (each for each in _ROUND_S if each >= slowest), _DAY_S * math.ceil(slowest / _DAY_S)
    )


def floor_of(lowest: float) -> float:
    """Return where an axis of percentages begins: near the lowest value, so that a dip is seen."""
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
    """Return the path through the values; where there is none, the line has a gap."""
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
    """Return what stands at the three lines of the grid, from top to bottom."""
    return top, (top + low) / _HALF, low
