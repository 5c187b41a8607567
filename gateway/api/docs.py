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
from gateway.api.reference import reference_page, sections
from gateway.errors import Refused
from gateway.pages import guide
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
            work = partial(_MAKERS.get(name) or partial(_guide, name), self._public_url)
            making = self._made[name] = asyncio.ensure_future(self._offload(work))
        made = await asyncio.shield(making)
        return Response(made.body, media_type=made.media_type, headers=made.headers)


def _openapi(public_url: str) -> _Made:
    text = json.dumps(document(public_url), ensure_ascii=False, separators=(",", ":"))
    return _Made(text.encode(), "application/json", {})


def _reference(public_url: str, section: str | None = None) -> _Made:
    return _page("reference.html", **reference_page(document(public_url), section))


def _problems(_: str) -> _Made:
    return _page("problems.html", problems=PROBLEMS.items(), root="../", area="problems", nav=[])


def _style(_: str) -> _Made:
    return _Made(content("style.css"), "text/css", {"Cache-Control": "max-age=3600"})


def _guide(path: str, _: str) -> _Made:
    media_type = guide.contents()[path]
    if media_type is not None:
        return _Made(guide.content(path), media_type, {"Cache-Control": "max-age=3600"})
    return _page("guide.html", **guide.guide_page(path))


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
    **{f"reference {name}": partial(_reference, section=name) for name in sections(document(""))},
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


async def reference_section(request: Request) -> Response:
    """`GET /docs/{section}`: a group of calls, or the models."""
    name = f"reference {request.path_params['section']}"
    if name not in _MAKERS:
        raise Refused("not_found", "There is nothing at this path.")
    return await _documents(request).get(name)


async def guide_page(request: Request) -> Response:
    """`GET /guide` and what is below it: the documentation of this very release."""
    # Links to a built copy of the documentation end with it; alert rules have such links.
    path: str = request.path_params.get("path", guide.HOME).removesuffix(".html")
    if path not in guide.contents():
        raise Refused("not_found", "There is nothing at this path. The guide begins at /guide.")
    return await _documents(request).get(path)


async def problems(request: Request) -> Response:
    """`GET /docs/problems`: every code, and what to do."""
    return await _documents(request).get("problems")


async def style(request: Request) -> Response:
    """`GET /docs/style.css`: the one style sheet of all pages."""
    return await _documents(request).get("style")
