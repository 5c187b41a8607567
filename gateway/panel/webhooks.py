"""Webhook endpoints: missed events, delivery attempts, resends, replays and rotation of secrets."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from starlette.responses import Response

from gateway.api import acts
from gateway.api.acts import note_act
from gateway.api.cursors import decode, encode
from gateway.api.requests import validate
from gateway.errors import Refused
from gateway.examples import example_event
from gateway.panel.access import PageError, Visit
from gateway.panel.once import made_once
from gateway.panel.overview import open_count
from gateway.panel.payouts import resend_event
from gateway.panel.words import Look
from gateway.store import deliveries
from gateway.store.database import Tx
from gateway.store.overview import pending_of
from gateway.store.rows import from_us, to_us
from gateway.users import Role
from gateway.views import EVENT_TYPES, EventType
from gateway.webhooks.endpoints import Found
from gateway.webhooks.fair_queue import Ready
from gateway.webhooks.replay import NEWEST, AttemptView
from gateway.webhooks.subscriptions import (
    EndpointChange,
    EndpointCreated,
    EndpointRequest,
    EndpointView,
    RotationRequest,
    audited,
)

_PAGE = 100
_TRIES = 25
_SKIPPED_AT_ONCE = 500
_MOST_WAITING = 1000
_SHOWN = "The secret was made and shown then; if you have not stored it, rotate it."
#: How long the old secret keeps signing, in seconds.
OVERLAPS = {"86400": "24 hours", "259200": "72 hours", "3600": "1 hour", "0": "Not at all"}
#: How far back missed events can be sent again, in hours.
SPANS = {"24": "24 hours", "168": "7 days", "720": "30 days", "1": "1 hour"}


def look_of(endpoint: EndpointView) -> Look:
    """Return the label of an endpoint's state."""
    if endpoint.status == "disabled":
        word = "Disabled" if endpoint.disabled_reason == "by_you" else "Was disabled"
        return Look("mute" if endpoint.disabled_reason == "by_you" else "bad", "dash", word)
    if endpoint.failing_since is not None:
        return Look("bad", "cross", "Failing")
    return Look("ok", "tick", "Enabled")


async def index(visit: Visit, problem: str | None = None, code: int = 200) -> Response:
    """`GET …/webhooks`."""
    context = visit.context
    found = await context.db.scan(context.endpoints.page, visit.caller, None, _PAGE)

    async def count(tx: Tx) -> list[tuple[int, int | None]]:
        return [await pending_of(tx, each.id, _MOST_WAITING) for each in found]

    counted = await context.db.scan(count)
    return visit.draw(
        "panel/webhooks.html",
        code,
        section="webhooks",
        here="Webhooks",
        open_count=await open_count(visit),
        rows=[
            {
                "endpoint": each,
                "look": look_of(each),
                "waiting": waiting,
                "since": None if since is None else from_us(since),
            }
            for each, (waiting, since) in zip(found, counted, strict=True)
        ],
        most=_MOST_WAITING,
        types=EVENT_TYPES,
        form=visit.form if problem else {},
        may_change=visit.may(Role.ADMIN),
        problem=problem,
    )


async def create(visit: Visit) -> Response:
    """`POST …/webhooks`: the response shows the signing secret, once."""
    context, form = visit.context, visit.form
    members: dict[str, Any] = {
        "url": form.get("url", "").strip(),
        "event_types": form.get("event_types", "").split(),
        "ed25519": form.get("ed25519") == "on",
    }
    if form.get("description", "").strip():
        members["description"] = form["description"].strip()
    try:
        wanted = validate(EndpointRequest, members)
        context.endpoints.check(visit.caller, wanted)

        async def work(tx: Tx) -> EndpointCreated:
            made = await context.endpoints.create(tx, visit.caller, wanted)
            after = audited(made)
            await note_act(
                tx, visit.request, visit.caller, acts.ENDPOINT_CREATED, made.id, after=after
            )
            return made

        made = await made_once(visit, work, lambda each: each.id)
    except Refused as refused:
        return await index(visit, _words(refused), 400)
    if made is None:
        return await index(visit, f"This form was sent before. {_SHOWN}", 409)
    return await show(visit, made.id, secret=made.secret)


def _words(refused: Refused) -> str:
    """Return a refusal's text for a person, with the first error of its fields."""
    if refused.code == "invalid_request" and refused.errors:
        first = refused.errors[0]
        name, detail = first["pointer"].strip("/").partition("/")[0], first["detail"]
        return detail if detail.startswith(name) else f"{name} {detail}."
    return refused.detail


async def show(  # noqa: PLR0913 - what is shown beside the endpoint
    visit: Visit,
    endpoint_id: str = "",
    *,
    secret: str | None = None,
    problem: str | None = None,
    code: int = 200,
    result: Any = None,
) -> Response:
    """`GET …/webhooks/{id}`: the state, and every delivery attempt; `after` continues the list."""
    context = visit.context
    endpoint_id = endpoint_id or visit.request.path_params["endpoint_id"]
    query, of, before = visit.request.query_params, {"endpoint_id": endpoint_id}, NEWEST
    if "after" in query:
        place = decode(visit.request, query["after"], of, (int, int, str))
        before = (int(place[0]), int(place[1]), str(place[2]))

    async def read(tx: Tx) -> tuple[EndpointView, list[tuple[AttemptView, Any]], Any, Any]:
        view = await context.endpoints.get(tx, visit.caller, endpoint_id)
        tries = await context.replays.attempts(
            tx, visit.caller, endpoint_id=endpoint_id, before=before, limit=_TRIES + 1
        )
        jobs = await context.replays.recoveries(tx, visit.caller, endpoint_id)
        return view, tries, jobs[:5], await pending_of(tx, endpoint_id, _MOST_WAITING)

    view, tries, jobs, (waiting, since) = await context.db.scan(read)
    more = len(tries) > _TRIES
    return visit.draw(
        "panel/webhook.html",
        code,
        section="webhooks",
        here="Webhooks",
        open_count=await open_count(visit),
        endpoint=view,
        look=look_of(view),
        tries=[each for each, _ in tries[:_TRIES]],
        after=encode(visit.request, list(tries[_TRIES - 1][1]), of) if more else None,
        jobs=jobs,
        waiting=waiting,
        most=_MOST_WAITING,
        since=None if since is None else from_us(since),
        overlaps=OVERLAPS,
        spans=SPANS,
        secret=secret,
        result=result,
        may_change=visit.may(Role.ADMIN),
        problem=problem,
    )


async def change(visit: Visit) -> Response:
    """`POST …/webhooks/{id}/enable` or `…/disable`; an endpoint that is enabled again gets what it missed."""
    enable = visit.request.url.path.endswith("/enable")
    context, endpoint_id = visit.context, visit.request.path_params["endpoint_id"]
    wanted = EndpointChange(status="enabled" if enable else "disabled")

    async def work(tx: Tx) -> bool:
        before = audited(await context.endpoints.get(tx, visit.caller, endpoint_id))
        view, job = await context.replays.change(tx, visit.caller, endpoint_id, wanted)
        act, after = acts.ENDPOINT_CHANGED, audited(view)
        await note_act(
            tx, visit.request, visit.caller, act, endpoint_id, before=before, after=after
        )
        return job is not None

    if await context.db.run(work):
        context.wake("replays")
    await _skip_missed(visit)
    context.wake("deliveries")
    return visit.to("webhooks", endpoint_id, done="enabled" if enable else "disabled")


async def confirm_delete(visit: Visit) -> Response:
    """`GET …/webhooks/{id}/delete`: confirm what will be lost."""
    context, endpoint_id = visit.context, visit.request.path_params["endpoint_id"]

    async def read(tx: Tx) -> tuple[EndpointView, int]:
        view = await context.endpoints.get(tx, visit.caller, endpoint_id)
        return view, (await pending_of(tx, endpoint_id, _MOST_WAITING))[0]

    view, waiting = await context.db.scan(read)
    return visit.draw(
        "panel/webhook_delete.html",
        section="webhooks",
        here="Webhooks",
        open_count=await open_count(visit),
        endpoint=view,
        look=look_of(view),
        waiting=waiting,
        most=_MOST_WAITING,
    )


async def delete(visit: Visit) -> Response:
    """`POST …/webhooks/{id}/delete`."""
    context, endpoint_id = visit.context, visit.request.path_params["endpoint_id"]

    async def work(tx: Tx) -> None:
        before = audited(await context.endpoints.get(tx, visit.caller, endpoint_id))
        await context.endpoints.delete(tx, visit.caller, endpoint_id)
        act = acts.ENDPOINT_DELETED
        await note_act(tx, visit.request, visit.caller, act, endpoint_id, before=before)

    await context.db.run(work)
    await _skip_missed(visit)
    return visit.to("webhooks", done="deleted")


async def rotate(visit: Visit) -> Response:
    """`POST …/webhooks/{id}/rotate`: the response shows the new secret, once."""
    context, endpoint_id = visit.context, visit.request.path_params["endpoint_id"]
    overlap = visit.form.get("overlap", "")
    if overlap not in OVERLAPS:
        raise PageError(400, "Choose how long the old secret signs on. Nothing was done.")
    wanted = RotationRequest(overlap_seconds=int(overlap))

    async def work(tx: Tx) -> EndpointCreated:
        made = await context.endpoints.rotate(tx, visit.caller, endpoint_id, wanted.overlap_seconds)
        act, after = acts.SECRET_ROTATED, {"overlap_seconds": wanted.overlap_seconds}
        await note_act(tx, visit.request, visit.caller, act, endpoint_id, after=after)
        return made

    try:
        made = await made_once(visit, work, lambda each: each.id)
    except Refused as refused:
        if refused.code == "endpoint_not_found":
            raise
        return await show(visit, problem=refused.detail, code=409)
    if made is None:
        return await show(visit, problem=f"This form was sent before. {_SHOWN}", code=409)
    return await show(visit, secret=made.secret)


async def end_secrets(visit: Visit) -> Response:
    """`POST …/webhooks/{id}/end-secrets`: only the newest secret signs from now on."""
    context, endpoint_id = visit.context, visit.request.path_params["endpoint_id"]

    async def work(tx: Tx) -> None:
        await context.endpoints.revoke_previous(tx, visit.caller, endpoint_id)
        await note_act(tx, visit.request, visit.caller, acts.SECRETS_REVOKED, endpoint_id)

    await context.db.run(work)
    return visit.to("webhooks", endpoint_id, done="secrets-ended")


async def recover(visit: Visit) -> Response:
    """`POST …/webhooks/{id}/recover`: send again what the endpoint missed in the last hours."""
    context, endpoint_id = visit.context, visit.request.path_params["endpoint_id"]
    hours = visit.form.get("hours", "")
    if hours not in SPANS:
        raise PageError(400, "Choose how far back. Nothing was done.")
    since = context.runtime.clock.now() - timedelta(hours=int(hours))

    async def work(tx: Tx) -> None:
        job = await context.replays.recover(tx, visit.caller, endpoint_id, since, None)
        after = {"recovery": job.id, "hours": int(hours)}
        act = "recovery_started"
        await note_act(tx, visit.request, visit.caller, act, endpoint_id, after=after)

    try:
        await context.db.run(work)
    except Refused as refused:
        if refused.code == "endpoint_not_found":
            raise
        return await show(visit, problem=refused.detail, code=409)
    context.wake("replays")
    return visit.to("webhooks", endpoint_id, done="recovering")


async def resend(visit: Visit) -> Response:
    """`POST …/webhooks/{id}/resend`: send one event again to this endpoint."""
    endpoint_id = visit.request.path_params["endpoint_id"]
    try:
        await resend_event(visit, visit.form.get("event", ""), endpoint_id)
    except Refused as refused:
        if refused.code == "endpoint_not_found":
            raise
        return await show(visit, problem=refused.detail, code=409)
    visit.context.wake("deliveries")
    return visit.to("webhooks", endpoint_id, done="resent")


async def test(visit: Visit) -> Response:
    """`POST …/webhooks/{id}/test`: send an example once, and show the endpoint's answer."""
    context, endpoint_id = visit.context, visit.request.path_params["endpoint_id"]

    async def find(tx: Tx) -> tuple[Ready, Found | None]:
        row = await context.endpoints.row(tx, visit.caller, endpoint_id)
        ready = Ready(row["id"], row["org"], row["rate_limit_per_second"])
        return ready, await context.endpoints.target(tx, endpoint_id)

    ready, found = await context.db.read(find)
    if found is None:
        return await show(visit, problem="The endpoint is disabled.", code=409)
    event_id = context.runtime.ids.new("evt")
    kind: EventType = "payout.delivered"
    body = example_event(kind, context.runtime.clock.now(), livemode=visit.mode == "live")
    result = await context.tester.test(ready, found.target, event_id, kind, body)
    return await show(visit, result=result)


async def _skip_missed(visit: Visit) -> None:
    """Remove the waiting deliveries of a disabled endpoint from its queue, in bounded batches."""
    context = visit.context
    now = to_us(context.runtime.clock.now())
    while await context.db.run(deliveries.skip_deliveries, now, _SKIPPED_AT_ONCE):
        pass
