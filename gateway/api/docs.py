"""The API described to machines and to people, without a file from another host."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.context import ApiContext
from gateway.api.openapi import document
from gateway.api.problems import PROBLEMS
from gateway.pages.files import content
from gateway.pages.render import page


@dataclass(frozen=True)
class _Made:
    body: bytes
    media_type: str
    headers: Mapping[str, str]


class Documents:
    """What everybody may read, made once: making it takes up to a tenth of a second."""

    def __init__(self, context: ApiContext) -> None:
        self._public_url = context.settings.public_url
        self._offload = context.runtime.offload
        self._made: dict[str, asyncio.Task[_Made]] = {}

    async def get(self, name: str) -> Response:
        """Return a document. The first one who asks has it made, in a thread; the others wait for it."""
        making = self._made.get(name)
        if making is None:
            work = partial(_MAKERS[name], self._public_url)
            making = self._made[name] = asyncio.ensure_future(self._offload(work))
        made = await asyncio.shield(making)
        return Response(made.body, media_type=made.media_type, headers=made.headers)


def _openapi(public_url: str) -> _Made:
    text = json.dumps(document(public_url), ensure_ascii=False, separators=(",", ":"))
    return _Made(text.encode(), "application/json", {})


def _reference(public_url: str) -> _Made:
    return _page("reference.html", doc=document(public_url))


def _problems(_: str) -> _Made:
    return _page("problems.html", problems=PROBLEMS.items())


def _style(_: str) -> _Made:
    return _Made(content("style.css"), "text/css", {"Cache-Control": "max-age=3600"})


def _page(template: str, **values: Any) -> _Made:
    made = page(template, **values)
    kept = {name: value for name, value in made.headers.items() if name not in _OWN}
    return _Made(bytes(made.body), "text/html", kept)


#: Headers that each answer gets of its own.
_OWN = frozenset({"content-length", "content-type"})
_MAKERS: Mapping[str, Callable[[str], _Made]] = {
    "openapi": _openapi,
    "reference": _reference,
    "problems": _problems,
    "style": _style,
}


def _documents(request: Request) -> Documents:
    documents: Documents = request.app.state.documents
    return documents


async def openapi_json(request: Request) -> Response:
    """`GET /openapi.json`."""
    return await _documents(request).get("openapi")


async def reference(request: Request) -> Response:
    """`GET /docs`: the reference, rendered from the same document."""
    return await _documents(request).get("reference")


async def problems(request: Request) -> Response:
    """`GET /docs/problems`: every code, and what to do."""
    return await _documents(request).get("problems")


async def style(request: Request) -> Response:
    """`GET /docs/style.css`: the one style sheet of all pages."""
    return await _documents(request).get("style")
