"""Whether the process lives, whether it takes work, and its metrics."""

from __future__ import annotations

import sqlite3

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.api.requests import context_of
from gateway.store import work


async def healthz(_: Request) -> Response:
    """`GET /healthz`: the process answers."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """`GET /readyz`: work is accepted: the loops run and the store answers."""
    context = context_of(request)
    try:
        await context.db.read(work.oldest_due)
    except sqlite3.Error:
        return JSONResponse({"status": "store_unavailable"}, 503)
    if not context.ready():
        return JSONResponse({"status": "stopping"}, 503)
    return JSONResponse({"status": "ready"})


async def metrics(request: Request) -> Response:
    """`GET /metrics` for Prometheus."""
    body, media_type = context_of(request).metrics.render()
    return Response(body, media_type=media_type)
