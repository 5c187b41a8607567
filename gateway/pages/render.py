"""Rendering a template into a page that may load nothing but itself."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

_TEMPLATES = Environment(
    loader=PackageLoader("gateway.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
)
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors *",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex",
}


def page(template: str, code: int = 200, **values: Any) -> HTMLResponse:
    """Return a page."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(**values), code, _HEADERS)
