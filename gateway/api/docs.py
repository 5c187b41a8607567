"""The API described to machines and to people, without a file from another host."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.context import ApiContext
from gateway.errors import Refused

if TYPE_CHECKING:
    from gateway.api.documents import Made


def _names() -> frozenset[str]:
    # Most gateways are never asked for a document.
    from gateway.api.documents import names  # noqa: PLC0415

    return names()


def _make(name: str, public_url: str) -> Made:
    from gateway.api.documents import make  # noqa: PLC0415

    return make(name, public_url)


class Documents:
    """What everybody may read, made once."""

    def __init__(self, context: ApiContext) -> None:
        self._public_url = context.settings.public_url
        self._offload = context.runtime.offload
        self._names: asyncio.Task[frozenset[str]] | None = None
        self._made: dict[str, asyncio.Task[Made]] = {}

    async def get(self, name: str) -> Response:
        """Return a document. The first one who asks has it made, in a thread; the others wait for it.

        Refused: `not_found`, without a thread: anybody may ask for what there is not, again and again.
        """
        making = self._made.get(name)
        if making is None:
            if name not in await self._known():
                more = " The guide begins at /guide." if name.startswith("guide/") else ""
                raise Refused("not_found", "There is nothing at this path." + more)
            making = self._made.get(name)
        if making is None:
            making = asyncio.ensure_future(self._offload(partial(_make, name, self._public_url)))
            self._made[name] = making
            making.add_done_callback(partial(self._forget_failed, name))
        made = await asyncio.shield(making)
        return Response(made.body, media_type=made.media_type, headers=made.headers)

    async def _known(self) -> frozenset[str]:
        """Return the names of all documents, read once, in a thread."""
        if self._names is None:
            self._names = asyncio.ensure_future(self._offload(_names))
            self._names.add_done_callback(self._forget_failed_names)
        return await asyncio.shield(self._names)

    def _forget_failed_names(self, reading: asyncio.Task[frozenset[str]]) -> None:
        if reading.cancelled() or reading.exception() is not None:
            self._names = None

    def _forget_failed(self, name: str, making: asyncio.Task[Made]) -> None:
        if making.cancelled() or making.exception() is not None:
            del self._made[name]


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
    return await _documents(request).get(f"reference {request.path_params['section']}")


async def guide_page(request: Request) -> Response:
    """`GET /guide` and what is below it: the documentation of this very release."""
    # Links to a built copy of the documentation end with it; alert rules have such links.
    path: str = request.path_params.get("path", "index").removesuffix(".html")
    return await _documents(request).get(f"guide/{path}")


async def problems(request: Request) -> Response:
    """`GET /docs/problems`: every code, and what to do."""
    return await _documents(request).get("problems")


async def style(request: Request) -> Response:
    """`GET /docs/style.css`: the one style sheet of all pages."""
    return await _documents(request).get("style")
