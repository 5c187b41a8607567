"""The API described to machines and to people, without a file from another host."""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.api.openapi import document
from gateway.api.problems import PROBLEMS
from gateway.api.requests import context_of
from gateway.pages.render import page


async def openapi_json(request: Request) -> Response:
    """`GET /openapi.json`."""
    return JSONResponse(document(context_of(request).settings.public_url))


async def reference(request: Request) -> Response:
    """`GET /docs`: the reference, rendered from the same document."""
    return page("reference.html", doc=document(context_of(request).settings.public_url))


async def problems(_: Request) -> Response:
    """`GET /docs/problems`: every code, and what to do."""
    return page("problems.html", problems=PROBLEMS.items())


async def style(_: Request) -> Response:
    """`GET /docs/style.css`: the one style sheet of all pages."""
    text = files("gateway.pages").joinpath("static/style.css").read_text(encoding="utf-8")
    return Response(text, media_type="text/css", headers={"Cache-Control": "max-age=3600"})
