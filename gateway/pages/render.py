"""Rendering a template into a page that may load nothing but the gateway's own files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from gateway.pages.files import HASHED

_TEMPLATES = Environment(
    loader=PackageLoader("gateway.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals["file"] = HASHED
_CODE = re.compile(r"`([^`]+)`")


def _marked(text: str) -> Markup:
    """Return a text of the code with what stands between backquotes as code, all of it escaped."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


_TEMPLATES.filters["marked"] = _marked


def headers_of_page(
    *, script: bool = False, forms: bool = False, frames: Sequence[str] = ()
) -> Mapping[str, str]:
    """Return the headers of a page: what it may load, and which origins may embed it.

    `script`: it has a script of ours, which may ask the gateway and nobody else. `forms`: it has forms,
    which are sent to the gateway.
    """
    policy = ["default-src 'none'", "style-src 'self'", "img-src 'self'", "base-uri 'none'"]
    if script:
        policy += ["script-src 'self'", "connect-src 'self'"]
    embedding = " ".join(frames) or "'none'"
    target = "'self'" if forms else "'none'"
    policy += [f"form-action {target}", f"frame-ancestors {embedding}"]
    headers = {
        "Content-Security-Policy": "; ".join(policy),
        "Referrer-Policy": "no-referrer",
        "X-Robots-Tag": "noindex",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    if not frames:
        headers["X-Frame-Options"] = "DENY"
    return headers


def render(template: str, **values: Any) -> str:
    """Return a template with its values, each escaped."""
    return _TEMPLATES.get_template(template).render(**values)


def page(
    template: str, code: int = 200, headers: Mapping[str, str] | None = None, **values: Any
) -> HTMLResponse:
    """Return a page."""
    return HTMLResponse(render(template, **values), code, headers or headers_of_page())
