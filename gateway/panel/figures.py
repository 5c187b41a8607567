"""The figures of the overview: volume, success rate, time to delivery by route, webhook lag."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from gateway.api.context import ApiContext
from gateway.config.settings import Mode
from gateway.panel import charts
from gateway.panel.charts import Chart, Line, Spread
from gateway.panel.render import money, number, span
from gateway.store.database import Row
from gateway.store.overview import delivered_events, told_page
from gateway.store.rows import from_us, to_us

#: The spans that can be chosen, each with the number of parts in its chart.
SPANS: Mapping[str, tuple[str, timedelta, int]] = {
    "24h": ("24 hours", timedelta(hours=24), 24),
    "7d": ("7 days", timedelta(days=7), 28),
    "30d": ("30 days", timedelta(days=30), 30),
}
#: The most payouts and deliveries that are read, in total and per query.
MOST = 20_000
_AT_ONCE = 500
_FAR = 2**62
_COLOURS = ("c1", "c2", "c3")
_MOST_ROUTES = 3
_X_LABELS = 5
_NOTHING = "\N{EN DASH}"


@dataclass
class Part:
    """The counts of one part of the span."""

    begins: datetime
    volume: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    delivered: int = 0
    failed: int = 0
    lags: list[float] = field(default_factory=list)


@dataclass
class Figures:
    """The figures of a whole span."""

    parts: list[Part]
    count: int = 0
    under_way: int = 0
    assets: Counter[str] = field(default_factory=Counter)
    routes: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    #: whether there was more than the limit
    cut: bool = False

    def add(self, row: Row, begin: datetime, size: timedelta) -> None:
        """Count a payout."""
        terms = json.loads(row["terms"])
        at = from_us(row["created_at"])
        part = self.parts[min(len(self.parts) - 1, max(0, int((at - begin) / size)))]
        self.count += 1
        if row["status"] == "failed":
            part.failed += 1
            return
        asset = terms["recipient_asset"]
        self.assets[asset] += 1
        part.volume[asset] += Decimal(terms["recipient_gets"])
        if row["status"] != "delivered":
            self.under_way += 1
            return
        part.delivered += 1
        if row["returned_amount"] is None:
            network = terms["route"]["to_network"]
            route = f"{row['custodian']} · {asset}{f' {network}' if network else ''}"
            self.routes[route].append((row["updated_at"] - row["created_at"]) / 1e6)


async def figures(context: ApiContext, org: str, mode: Mode, chosen: str) -> Figures:
    """Read the figures of a span, the newest payouts and deliveries first, a bounded number."""
    _, length, many = SPANS[chosen]
    now = context.runtime.clock.now()
    begin, size = now - length, length / many
    found = Figures([Part(begin + index * size) for index in range(many)])
    place = (_FAR, "")
    while found.count < MOST:
        page = await context.db.scan(told_page, org, mode, to_us(begin), place, _AT_ONCE)
        for row in page:
            found.add(row, begin, size)
        if len(page) < _AT_ONCE:
            break
        place = (page[-1]["created_at"], page[-1]["id"])
    else:
        found.cut = True
    before, read = _FAR, 0
    while read < MOST:
        page = await context.db.scan(delivered_events, org, mode, to_us(begin), before, _AT_ONCE)
        read += len(page)
        for row in page:
            part = int((from_us(row["created_at"]) - begin) / size)
            lag = max(0.0, (row["settled_at"] - row["created_at"]) / 1e6)
            found.parts[min(many - 1, max(0, part))].lags.append(lag)
        if len(page) < _AT_ONCE:
            break
        # Further deliveries of the event at the page boundary are left out: at most one event in five
        # hundred.
        before = page[-1]["position"]
    return found


@dataclass(frozen=True)
class Told:
    """One card of the overview: its figure, the texts beside and below it, and the chart."""

    title: str
    figure: str
    beside: str
    notable: str = ""
    chart: Chart | None = None
    keys: tuple[tuple[str, str], ...] = ()
    spreads: tuple[Spread, ...] = ()
    scale: tuple[str, ...] = ()


def volume(found: Figures) -> Told:
    """Return the card of the volume, in the asset that is paid most often."""
    if not found.assets:
        return Told("Volume", "0", "No payouts in this time.")
    asset = found.assets.most_common(1)[0][0]
    values = [part.volume.get(asset, Decimal(0)) for part in found.parts]
    total, many = sum(values, Decimal(0)), found.assets[asset]
    beside = f"{asset} in {number(many)} payout{'' if many == 1 else 's'}"
    others = len(found.assets) - 1
    if others:
        beside += f", {others} other asset{'' if others == 1 else 's'} below"
    highest = max(values)
    at = found.parts[values.index(highest)].begins
    top = charts.top_of(float(highest))
    chart = Chart(
        label=f"Volume in {asset} over time",
        bars=charts.bars(values, top),
        y=tuple(charts.compact(each) for each in charts.axis(top)),
        x=_times(found),
        head=("From", *sorted(found.assets)),
        rows=tuple(
            (part.begins, *(money(part.volume.get(each, 0)) for each in sorted(found.assets)))
            for part in found.parts
        ),
    )
    words = f"{asset}, highest {money(highest)} from {_hour(at)} UTC"
    return Told(
        "Volume", money(total), beside, "", _unless_few(found.count, chart), (("c1", words),)
    )


def success(found: Figures) -> Told:
    """Return the card of the success rate: the share of ended payouts that was delivered."""
    delivered = sum(part.delivered for part in found.parts)
    failed = sum(part.failed for part in found.parts)
    ended = delivered + failed
    if not ended:
        return Told("Success rate", _NOTHING, "No payout has ended in this time.")
    values = [
        100 * part.delivered / (part.delivered + part.failed)
        if part.delivered + part.failed
        else None
        for part in found.parts
    ]
    lowest = min(each for each in values if each is not None)
    low = charts.floor_of(lowest)
    chart = Chart(
        label="Success rate over time",
        lines=(Line(charts.line(values, low, 100.0), "c2"),),
        y=tuple(f"{each:g} %" for each in charts.axis(100.0, low)),
        x=_times(found),
        head=("From", "Delivered", "Failed"),
        rows=tuple((part.begins, part.delivered, part.failed) for part in found.parts),
    )
    words = f"Starts at {low:g} %. " if low else ""
    if lowest < 100:  # noqa: PLR2004 - per cent
        words += (
            f"Lowest {_percent(lowest)} from {_hour(found.parts[values.index(lowest)].begins)} UTC."
        )
    beside = f"{number(failed)} of {number(ended)} failed, {number(found.under_way)} under way"
    figure = _percent(100 * delivered / ended)
    return Told("Success rate", figure, beside, words, _unless_few(ended, chart))


def delivery(found: Figures) -> Told:
    """Return the card of the time from a payout's creation to its delivery, by route."""
    everything = [each for route in found.routes.values() for each in route]
    if not everything:
        return Told("Time to delivery", _NOTHING, "Nothing was delivered in this time.")
    routes = sorted(found.routes.items(), key=lambda each: -len(each[1]))[:_MOST_ROUTES]
    slowest = max(charts.share(times, 0.95) for _, times in routes)
    top = charts.top_of_times(slowest)
    spreads = []
    for (name, times), colour in zip(routes, _COLOURS, strict=False):
        fast, middle, slow = (charts.share(times, part) for part in (0.05, 0.5, 0.95))
        left, median = charts.WIDTH * fast / top, charts.WIDTH * middle / top
        width = max(4.0, charts.WIDTH * slow / top - left)
        spreads.append(
            Spread(
                name,
                middle,
                fast,
                slow,
                round(left, 1),
                round(width, 1),
                round(min(median, charts.WIDTH - 4), 1),
                colour,
                len(times),
            )
        )
    more = len(found.routes) - len(spreads)
    words = f"{more} routes with fewer payouts left out." if more else ""
    scale = tuple("0" if not part else span(top * part / 4) for part in range(5))
    figure = span(charts.share(everything, 0.5))
    return Told(
        "Time to delivery", figure, "median of all routes", words, None, (), tuple(spreads), scale
    )


def lag(found: Figures) -> Told:
    """Return the card of the webhook lag: how long subscribers wait for an event."""
    everything = [each for part in found.parts for each in part.lags]
    if not everything:
        return Told("Webhook lag", _NOTHING, "No event was delivered in this time.")
    middle = [charts.share(part.lags, 0.5) if part.lags else None for part in found.parts]
    slow = [charts.share(part.lags, 0.95) if part.lags else None for part in found.parts]
    highest = max(each for each in slow if each is not None)
    top = charts.top_of_times(highest)
    chart = Chart(
        label="Webhook lag over time",
        lines=(
            Line(charts.line(middle, 0.0, top), "c1"),
            Line(charts.line(slow, 0.0, top), "c3", dashed=True),
        ),
        y=tuple("0" if not each else span(each) for each in charts.axis(top)),
        x=_times(found),
        head=("From", "Median", "95 %"),
        rows=tuple(
            (
                part.begins,
                _NOTHING if half is None else span(half),
                _NOTHING if most is None else span(most),
            )
            for part, half, most in zip(found.parts, middle, slow, strict=True)
        ),
    )
    figure, beside = span(charts.share(everything, 0.5)), span(charts.share(everything, 0.95))
    keys = (("c1", "Median"), ("c3", f"95 %, highest {span(highest)}"))
    told = _unless_few(len(everything), chart)
    return Told("Webhook lag", figure, f"median, {beside} at 95 %", "", told, keys)


def _unless_few(count: int, chart: Chart) -> Chart | None:
    return chart if count >= charts.FEWEST else None


def _times(found: Figures) -> tuple[datetime, ...]:
    parts: Sequence[Part] = found.parts
    last = len(parts) - 1
    places = [round(index * last / (_X_LABELS - 1)) for index in range(_X_LABELS)]
    return tuple(parts[each].begins for each in places)


def _percent(value: float) -> str:
    # Never show 100 % if something failed.
    shown = min(value, 99.9) if value < 100 else value  # noqa: PLR2004 - per cent
    return f"{shown:.1f}".removesuffix(".0") + " %"


def _hour(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%-d %b %H:%M")
