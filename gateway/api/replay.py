"""Replays over HTTP: the log of tries, one event again, a span of time again, a test event."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.cursors import check_names, decode, encode, limit_of
from gateway.api.idempotency import Answer, idempotency_key, once
from gateway.api.requests import caller_of, context_of, read_json, validate
from gateway.errors import Refused
from gateway.examples import example_event
from gateway.model import RequestBody
from gateway.store.database import Tx
from gateway.views import EventType
from gateway.webhooks.endpoints import Found
from gateway.webhooks.fair_queue import Ready
from gateway.webhooks.replay import (
    NEWEST,
    AttemptView,
    Recovery,
    RecoveryRequest,
    ResendRequest,
)
from gateway.webhooks.sender import DeliveryOutcome


class AttemptList(BaseModel):
    """A page of tries, newest first."""

    data: list[AttemptView]
    next_cursor: str | None
    has_more: bool


class RecoveryList(BaseModel):
    """The newest recoveries of an endpoint, newest first."""

    data: list[Recovery]
    next_cursor: str | None = Field(default=None, description="Always null: the list has one page.")
    has_more: bool = False


class EndpointTestRequest(RequestBody):
    """Which example is sent."""

    type: EventType = "payout.delivered"


class EndpointTest(BaseModel):
    """What an endpoint answered to an example event."""

    model_config = ConfigDict(frozen=True, title="WebhookEndpointTest")

    event_id: str
    type: EventType
    outcome: DeliveryOutcome
    http_status: int | None
    response_snippet: str | None
    duration_ms: int


async def resend(request: Request) -> Response:
    """`POST /events/{id}/resend`."""
    context = context_of(request)
    caller = await caller_of(request)
    key = idempotency_key(request, required=False)
    members = await read_json(request)
    wanted = validate(ResendRequest, members)
    event_id = request.path_params["event_id"]

    async def work(tx: Tx) -> Answer:
        sent = await context.replays.resend(tx, caller, event_id, wanted.endpoint_id)
        return Answer(202, sent.model_dump_json().encode())

    answer = await once(request, caller, key, [event_id, members], work)
    context.wake("deliveries")
    return answer


async def recover(request: Request) -> Response:
    """`POST /webhook-endpoints/{id}/recover`."""
    context = context_of(request)
    caller = await caller_of(request)
    key = idempotency_key(request, required=False)
    members = await read_json(request)
    wanted = validate(RecoveryRequest, members)
    endpoint_id = request.path_params["endpoint_id"]

    async def work(tx: Tx) -> Answer:
        job = await context.replays.recover(tx, caller, endpoint_id, wanted.since, wanted.until)
        place = f"/webhook-endpoints/{endpoint_id}/recoveries/{job.id}"
        return Answer(202, job.model_dump_json().encode(), location=place, created_id=job.id)

    answer = await once(request, caller, key, [endpoint_id, members], work)
    context.wake("replays")
    return answer


async def get_recovery(request: Request) -> Response:
    """`GET /webhook-endpoints/{id}/recoveries/{recovery_id}`."""
    context = context_of(request)
    caller = await caller_of(request)
    path = request.path_params
    job = await context.db.read(
        context.replays.recovery, caller, path["endpoint_id"], path["recovery_id"]
    )
    return _answer(job)


async def list_recoveries(request: Request) -> Response:
    """`GET /webhook-endpoints/{id}/recoveries`."""
    context = context_of(request)
    caller = await caller_of(request)
    check_names(request, frozenset())
    jobs = await context.db.scan(
        context.replays.recoveries, caller, request.path_params["endpoint_id"]
    )
    return _answer(RecoveryList(data=jobs))


async def list_endpoint_attempts(request: Request) -> Response:
    """`GET /webhook-endpoints/{id}/attempts`."""
    return await _attempts(request, endpoint_id=request.path_params["endpoint_id"])


async def list_event_attempts(request: Request) -> Response:
    """`GET /events/{id}/attempts`."""
    return await _attempts(request, event_id=request.path_params["event_id"])


async def test_endpoint(request: Request) -> Response:
    """`POST /webhook-endpoints/{id}/test`: one try of an example marked `"test": true`, in its turn."""
    context = context_of(request)
    caller = await caller_of(request)
    members = await read_json(request)
    wanted = validate(EndpointTestRequest, members)
    endpoint_id = request.path_params["endpoint_id"]

    async def find(tx: Tx) -> tuple[Ready, Found | None]:
        row = await context.endpoints.row(tx, caller, endpoint_id)
        ready = Ready(row["id"], row["org"], row["rate_limit_per_second"])
        return ready, await context.endpoints.target(tx, endpoint_id)

    ready, found = await context.db.read(find)
    if found is None:
        raise Refused("endpoint_disabled", f"The endpoint {endpoint_id} is disabled.")
    event_id = context.runtime.ids.new("evt")
    body = example_event(
        wanted.type,
        context.runtime.clock.now(),
        livemode=caller.mode == "live",
        event_id=event_id,
    )
    result = await context.tester.test(ready, found.target, event_id, wanted.type, body)
    return _answer(
        EndpointTest(
            event_id=event_id,
            type=wanted.type,
            outcome=result.outcome,
            http_status=result.http_status,
            response_snippet=result.snippet,
            duration_ms=result.duration_ms,
        )
    )


async def _attempts(request: Request, **of: Any) -> Response:
    context = context_of(request)
    caller = await caller_of(request)
    check_names(request, frozenset({"limit", "cursor"}))
    limit, before = limit_of(request), NEWEST
    if "cursor" in request.query_params:
        at, position, endpoint = decode(
            request, request.query_params["cursor"], of, (int, int, str)
        )
        before = (int(at), int(position), str(endpoint))
    found = await context.db.scan(
        context.replays.attempts, caller, before=before, limit=limit + 1, **of
    )
    page, more = found[:limit], len(found) > limit
    cursor = encode(request, list(page[-1][1]), of) if more else None
    return _answer(AttemptList(data=[view for view, _ in page], next_cursor=cursor, has_more=more))


def _answer(body: BaseModel) -> Response:
    return Response(body.model_dump_json(), media_type="application/json")
