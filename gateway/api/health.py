"""Whether the process lives, whether it takes work, and its metrics."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.api.context import ApiContext
from gateway.api.cursors import query_fault
from gateway.api.requests import context_of
from gateway.store import state
from gateway.store.database import Row

#: How long a probe waits for a reader. Where all of them are busy with long reports it is content.
_READER_S = 0.3
_UNAVAILABLE = 503


async def healthz(request: Request) -> Response:
    """`GET /healthz`: the process works: all of its loops run, and it can read its database.

    A process that says 503 does not recover by itself: restart it.
    """
    context = context_of(request)
    if context.broken():
        return _not({"status": "failing", "reason": "a loop of this process has died"})
    try:
        await _read(context)
    except sqlite3.Error:
        return _not({"status": "failing", "reason": "the database cannot be read"})
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """`GET /readyz`: reads and custodians' webhooks are served.

    The body says whether payouts are handed to custodians (`marks`: true, or why not), whether new
    ones are let in (`accepting`), and which custodians have trouble (`degraded`). None of these makes
    it 503: the others are still served. With `?require=marks` the first does.
    """
    require = request.query_params.get("require")
    if require not in {None, "marks"}:
        raise query_fault("require", "is marks, if it is given")
    context = context_of(request)
    if context.broken() or not context.ready():
        return _not({"status": "stopping"})
    if not context.custodians:
        return _not({"status": "no_custodian", "reason": "no custodian is configured"})
    try:
        row = await _read(context)
    except sqlite3.Error:
        return _not({"status": "store_unavailable", "reason": "the database cannot be read"})
    fault = context.db.write_fault
    if fault is not None and not fault.full:
        # Custodians' webhooks are stored before they are answered.
        return _not({"status": "store_unavailable", "reason": fault.words})
    body = _ready(context, row)
    if require == "marks" and body["marks"] is not True:
        return JSONResponse({**body, "status": "no_marks"}, _UNAVAILABLE)
    return JSONResponse(body)


def _ready(context: ApiContext, row: Row) -> dict[str, Any]:
    fault = context.db.write_fault
    own = context.own_rules
    reason = state.marks_refused(row, context.state_file.failing, rules=own)
    if reason is None and fault is not None:
        reason = fault.words
    accepting = row["frozen"] is None and bool(row["accepting"]) and state.goes_by(row, own)
    body: dict[str, Any] = {
        "status": "ready",
        "marks": reason or True,
        "accepting": accepting,
    }
    degraded = context.degraded()
    if degraded:
        body["degraded"] = dict(degraded)
    if reason is None and not accepting:
        reason = "the database was adopted, and new payouts are not let in yet"
    return body if reason is None else {**body, "reason": reason}


async def _read(context: ApiContext) -> Row:
    """Read as look-ups do and as lists do; the second in a reader that may be busy."""
    row = await context.db.read(state.state_row)
    with suppress(TimeoutError):
        async with asyncio.timeout(_READER_S):
            await context.db.scan(state.state_row)
    return row


def _not(body: dict[str, str]) -> Response:
    return JSONResponse(body, _UNAVAILABLE)


async def metrics(request: Request) -> Response:
    """`GET /metrics` for Prometheus."""
    body, media_type = context_of(request).metrics.render()
    return Response(body, media_type=media_type)
