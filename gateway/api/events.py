"""The events as a feed: a subscriber that missed webhooks reads them here."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.cursors import check_names, decode, encode, limit_of, query_fault
from gateway.api.requests import caller_of, context_of
from gateway.events import with_id
from gateway.store import events as rows
from gateway.store.database import Row
from gateway.views import EVENT_TYPES
from gateway.webhooks.replay import unknown_event

_FILTERS = ("type", "payout_id")


async def list_events(request: Request) -> Response:
    """`GET /events`."""
    context = context_of(request)
    caller = await caller_of(request)
    check_names(request, frozenset({*_FILTERS, "start", "limit", "cursor"}))
    limit = limit_of(request)
    filters = {
        name: request.query_params[name] for name in _FILTERS if name in request.query_params
    }
    if "type" in filters and filters["type"] not in EVENT_TYPES:
        raise query_fault("type", f"is one of {', '.join(EVENT_TYPES)}")
    start = request.query_params.get("start", "beginning")
    if start not in {"beginning", "now"} or (start == "now" and "cursor" in request.query_params):
        raise query_fault("start", "is beginning or now, and goes without a cursor")
    after = 0
    if start == "now":
        after = await context.db.read(rows.newest_position, caller.org, caller.mode)
    if "cursor" in request.query_params:
        after = int(decode(request, request.query_params["cursor"], filters, (int,))[0])
    page, goes_on = await context.db.read_page(
        rows.feed, caller.org, caller.mode, after, limit, filters
    )
    last = page[-1]["position"] if page else after
    cursor = encode(request, [last if goes_on is None else goes_on], filters)
    # The frozen bytes are sent as they are: the feed says exactly what the webhook said.
    data = b",".join(_body(row) for row in page)
    tail = json.dumps({"next_cursor": cursor, "has_more": goes_on is not None})[1:].encode()
    return Response(b'{"data":[' + data + b"]," + tail, media_type="application/json")


async def get_event(request: Request) -> Response:
    """`GET /events/{id}`."""
    context = context_of(request)
    caller = await caller_of(request)
    event_id = request.path_params["event_id"]
    row = await context.db.read(rows.find_event, event_id, caller.org, caller.mode)
    if row is None:
        raise unknown_event(event_id)
    return Response(_body(row), media_type="application/json")


def _body(row: Row) -> bytes:
    return with_id(str(row["id"]), bytes(row["body"]))
