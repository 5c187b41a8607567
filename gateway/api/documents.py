"""Makes the documents that everybody may read.

Loaded with the first request for one: the document, its pages and Markdown take 10 MB of memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.api.openapi import document
from gateway.api.problems import PROBLEMS
from gateway.api.reference import reference_page, sections
from gateway.pages import guide
from gateway.pages.files import content
from gateway.pages.render import page

#: What the names of the guide's pages begin with.
GUIDE = "guide/"


@dataclass(frozen=True)
class Made:
    """A document, and the headers of the responses with it."""

    body: bytes
    media_type: str
    headers: Mapping[str, str]


def names() -> frozenset[str]:
    """Return the name of every document. The first call looks through the files of the guide."""
    return frozenset(_MAKERS) | {GUIDE + path for path in guide.contents()}


def make(name: str, public_url: str) -> Made:
    """Return a document; it takes up to a tenth of a second. `name`: one of `names`."""
    if name.startswith(GUIDE):
        return _guide(name.removeprefix(GUIDE))
    return _MAKERS[name](public_url)


def _openapi(public_url: str) -> Made:
    text = json.dumps(document(public_url), ensure_ascii=False, separators=(",", ":"))
    return Made(text.encode(), "application/json", {})


def _reference(public_url: str, section: str | None = None) -> Made:
    return _page("reference.html", **reference_page(document(public_url), section))


def _problems(_: str) -> Made:
    return _page("problems.html", problems=PROBLEMS.items(), root="../", area="problems", nav=[])


def _style(_: str) -> Made:
    return Made(content("style.css"), "text/css", {"Cache-Control": "max-age=3600"})


def _guide(path: str) -> Made:
    media_type = guide.contents()[path]
    if media_type is not None:
        return Made(guide.content(path), media_type, {"Cache-Control": "max-age=3600"})
    return _page("guide.html", **guide.guide_page(path))


def _page(template: str, **values: Any) -> Made:
    made = page(template, **values)
    kept = {name: value for name, value in made.headers.items() if name not in _OWN}
    return Made(bytes(made.body), "text/html", kept)


#: Headers that each answer gets of its own.
_OWN = frozenset({"content-length", "content-type"})
_MAKERS: Mapping[str, Callable[[str], Made]] = {
    "openapi": _openapi,
    "reference": _reference,
    "problems": _problems,
    "style": _style,
    **{f"reference {name}": partial(_reference, section=name) for name in sections(document(""))},
}
