"""Whether the process lives, whether it takes work, and its metrics."""

from __future__ import annotations

import sqlite3

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.api.requests import context_of
from gateway.store import state


async def healthz(_: Request) -> Response:
    """`GET /healthz`: the process answers."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """`GET /readyz`: requests are served: the loops run and the store answers.

    The body says whether payouts are handed to custodians (`marks`) and whether new ones are let in
    (`accepting`); where not, `reason` says why.
    """
    context = context_of(request)
    try:
        row = await context.db.read(state.state_row)
    except sqlite3.Error:
        return JSONResponse({"status": "store_unavailable"}, 503)
    if not context.ready():
        return JSONResponse({"status": "stopping"}, 503)
    reason = state.marks_refused(row, context.state_file.failing)
    accepting = row["frozen"] is None and bool(row["accepting"])
    body = {"status": "ready", "marks": reason is None, "accepting": accepting}
    if reason is None and not accepting:
        reason = "the database was adopted, and new payouts are not let in yet"
    return JSONResponse(body if reason is None else {**body, "reason": reason})


async def metrics(request: Request) -> Response:
    """`GET /metrics` for Prometheus."""
    body, media_type = context_of(request).metrics.render()
    return Response(body, media_type=media_type)
