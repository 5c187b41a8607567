"""Webhook endpoints over HTTP."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import acts
from gateway.api.acts import note_act
from gateway.api.cursors import check_names, decode, encode, limit_of, query_fault
from gateway.api.idempotency import Answer, idempotency_key, once
from gateway.api.requests import caller_of, context_of, read_json, validate
from gateway.store import deliveries
from gateway.store.database import Tx
from gateway.store.rows import to_us
from gateway.webhooks.replay import Recovery
from gateway.webhooks.subscriptions import (
    EndpointChange,
    EndpointRequest,
    EndpointView,
    RotationRequest,
    audited,
)

_SKIPPED_AT_ONCE = 500


class EndpointList(BaseModel):
    """A page of webhook endpoints, newest first."""

    data: list[EndpointView]
    next_cursor: str | None
    has_more: bool


class WebhookKey(BaseModel):
    """A public key that signs for an endpoint."""

    endpoint_id: str
    kind: Literal["v1a"] = "v1a"
    key: str


class WebhookKeys(BaseModel):
    """The public keys that sign for an endpoint; any of them may verify."""

    keys: list[WebhookKey]


async def create_endpoint(request: Request) -> Response:
    """`POST /webhook-endpoints`."""
    context = context_of(request)
    caller = await caller_of(request)
    key = idempotency_key(request, required=False)
    members = await read_json(request)
    wanted = validate(EndpointRequest, members)
    # A faulty URL is a faulty request: refused before a key is bound to it.
    context.endpoints.check(caller, wanted)

    async def work(tx: Tx) -> Answer:
        made = await context.endpoints.create(tx, caller, wanted)
        after = audited(made)
        await note_act(tx, request, caller, acts.ENDPOINT_CREATED, made.id, after=after)
        return Answer(
            201,
            made.model_dump_json().encode(),
            location=f"/webhook-endpoints/{made.id}",
            created_id=made.id,
        )

    return await once(request, caller, key, members, work)


async def list_endpoints(request: Request) -> Response:
    """`GET /webhook-endpoints`."""
    context = context_of(request)
    caller = await caller_of(request)
    check_names(request, frozenset({"limit", "cursor"}))
    limit = limit_of(request)
    after = None
    if "cursor" in request.query_params:
        after = str(decode(request, request.query_params["cursor"], {}, (str,))[0])
    found = await context.db.scan(context.endpoints.page, caller, after, limit + 1)
    page, more = found[:limit], len(found) > limit
    body = EndpointList(
        data=page, next_cursor=encode(request, [page[-1].id], {}) if more else None, has_more=more
    )
    return Response(body.model_dump_json(), media_type="application/json")


async def get_endpoint(request: Request) -> Response:
    """`GET /webhook-endpoints/{id}`."""
    context = context_of(request)
    caller = await caller_of(request)
    view = await context.db.read(context.endpoints.get, caller, request.path_params["endpoint_id"])
    return Response(view.model_dump_json(), media_type="application/json")


async def update_endpoint(request: Request) -> Response:
    """`PATCH /webhook-endpoints/{id}`. Enabled again, it is sent what it missed."""
    context = context_of(request)
    caller = await caller_of(request)
    wanted = validate(EndpointChange, await read_json(request))
    endpoint_id = request.path_params["endpoint_id"]

    async def work(tx: Tx) -> tuple[EndpointView, Recovery | None]:
        before = audited(await context.endpoints.get(tx, caller, endpoint_id))
        view, job = await context.replays.change(tx, caller, endpoint_id, wanted)
        after = audited(view)
        act = acts.ENDPOINT_CHANGED
        await note_act(tx, request, caller, act, endpoint_id, before=before, after=after)
        return view, job

    view, job = await context.db.run(work)
    if job is not None:
        context.wake("replays")
    await _skip_missed(request)
    context.wake("deliveries")
    return Response(view.model_dump_json(), media_type="application/json")


async def delete_endpoint(request: Request) -> Response:
    """`DELETE /webhook-endpoints/{id}`."""
    context = context_of(request)
    caller = await caller_of(request)
    endpoint_id = request.path_params["endpoint_id"]

    async def work(tx: Tx) -> None:
        before = audited(await context.endpoints.get(tx, caller, endpoint_id))
        await context.endpoints.delete(tx, caller, endpoint_id)
        await note_act(tx, request, caller, acts.ENDPOINT_DELETED, endpoint_id, before=before)

    await context.db.run(work)
    await _skip_missed(request)
    return Response(status_code=204)


async def rotate_secret(request: Request) -> Response:
    """`POST /webhook-endpoints/{id}/rotate-secret`."""
    context = context_of(request)
    caller = await caller_of(request)
    key = idempotency_key(request, required=False)
    members = await read_json(request)
    wanted = validate(RotationRequest, members)
    endpoint_id = request.path_params["endpoint_id"]

    async def work(tx: Tx) -> Answer:
        made = await context.endpoints.rotate(tx, caller, endpoint_id, wanted.overlap_seconds)
        after = {"overlap_seconds": wanted.overlap_seconds}
        await note_act(tx, request, caller, acts.SECRET_ROTATED, endpoint_id, after=after)
        return Answer(200, made.model_dump_json().encode())

    return await once(request, caller, key, [endpoint_id, members], work)


async def revoke_previous_secrets(request: Request) -> Response:
    """`DELETE /webhook-endpoints/{id}/previous-secrets`."""
    context = context_of(request)
    caller = await caller_of(request)
    endpoint_id = request.path_params["endpoint_id"]

    async def work(tx: Tx) -> None:
        await context.endpoints.revoke_previous(tx, caller, endpoint_id)
        await note_act(tx, request, caller, acts.SECRETS_REVOKED, endpoint_id)

    await context.db.run(work)
    return Response(status_code=204)


async def webhook_keys(request: Request) -> Response:
    """`GET /.well-known/webhook-keys.json`: public, as public keys are."""
    context = context_of(request)
    check_names(request, frozenset({"endpoint_id"}))
    endpoint_id = request.query_params.get("endpoint_id", "")
    if not endpoint_id:
        raise query_fault("endpoint_id", "is needed: it says whose keys")
    keys = await context.db.read(context.endpoints.public_keys, endpoint_id)
    body = WebhookKeys(keys=[WebhookKey(endpoint_id=endpoint_id, key=each) for each in keys])
    return Response(
        body.model_dump_json(),
        media_type="application/json",
        headers={"Cache-Control": "public, max-age=300"},
    )


async def _skip_missed(request: Request) -> None:
    """Take what a disabled endpoint waits for out of its queue, in bounded batches."""
    context = context_of(request)
    now = to_us(context.runtime.clock.now())
    while await context.db.run(deliveries.skip_deliveries, now, _SKIPPED_AT_ONCE):
        pass
