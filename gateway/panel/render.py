"""Renders pages of the panel: the templates, and the formats of values in them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from gateway.model import format_time, read_time
from gateway.pages.files import HASHED
from gateway.panel.words import DONE

_TEMPLATES = Environment(
    loader=PackageLoader("gateway.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals |= {"file": HASHED, "DONE": DONE}
_KEPT_HEAD, _KEPT_TAIL = 8, 4
_SHORT = 16
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
#: From this number of a unit on, the smaller unit is left out.
_ENOUGH = 10


def draw(
    request: Request, template: str, code: int, headers: Mapping[str, str], **values: Any
) -> HTMLResponse:
    """Render a page; every value in it is escaped."""
    root = "../" * (request.url.path.count("/") - 1) or "./"
    text = _TEMPLATES.get_template(template).render(root=root, **values)
    return HTMLResponse(text, code, headers)


def short(text: str | None) -> str:
    """Return the first eight and the last four characters of an id."""
    if text is None:
        return ""
    whole = len(text) <= _SHORT
    return text if whole else f"{text[:_KEPT_HEAD]}…{text[-_KEPT_TAIL:]}"


def short_id(text: str) -> str:
    """Return one of our ids, shortened to its prefix and four characters at each end: `pay_01m7…wptf`."""
    prefix, _, rest = text.partition("_")
    if not rest or len(text) <= _SHORT:
        return short(text)
    return f"{prefix}_{rest[:4]}…{rest[-4:]}"


def money(amount: Decimal | str | int) -> str:
    """Return an amount with thousands separators and at least two decimals."""
    value = Decimal(amount)
    text = f"{value:,f}"
    whole, _, rest = text.partition(".")
    rest = rest.rstrip("0")
    return f"{whole}.{rest:0<2}"


def number(value: int) -> str:
    """Return a whole number with thousands separators."""
    return f"{value:,}"


def span(seconds: float) -> str:
    """Return a span of time in at most two units: `2 min 50 s`."""
    seconds = max(seconds, 0)
    if seconds < _ENOUGH:
        text = f"{seconds:.1f}".removesuffix(".0")
        return f"{text} s"
    whole = round(seconds)
    for size, name, smaller, less in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= size:
            many, rest = divmod(whole, size)
            left = rest // smaller
            return (
                f"{many} {name}" if not left or many >= _ENOUGH else f"{many} {name} {left} {less}"
            )
    return f"{whole} s"


def ago(at: datetime | None, now: datetime) -> str:
    """Return how long ago something was, or a date if it was long ago."""
    if at is None:
        return "Never"
    seconds = (now - at).total_seconds()
    if seconds < 0:
        return f"in {span(-seconds)}"
    if seconds >= 30 * _DAY:
        return at.astimezone(UTC).strftime("%-d %b %Y")
    if seconds < 1:
        return "now"
    # Show only the larger unit: `2 min ago`.
    return " ".join(span(seconds).split(" ")[:2]) + " ago"


def as_time(value: datetime | str | None) -> datetime | None:
    """Return a time, from RFC 3339 where it is text."""
    return value if isinstance(value, datetime) or value is None else read_time(value)


def iso(value: datetime | str) -> str:
    """Return a time as the API writes it."""
    return value if isinstance(value, str) else format_time(value)


def clock(value: datetime | str | None, now: datetime) -> str:
    """Return the time of day in UTC, with the date if it is another day."""
    at = as_time(value)
    if at is None:
        return ""
    at = at.astimezone(UTC)
    if at.date() == now.astimezone(UTC).date():
        return at.strftime("%H:%M:%S")
    if abs(now - at) < timedelta(days=300):
        return at.strftime("%-d %b %H:%M")
    return at.strftime("%-d %b %Y")


for _each in (short, short_id, money, number, span, ago, iso, clock):
    _TEMPLATES.filters[_each.__name__] = _each
