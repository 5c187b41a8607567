"""The routes of the API, and the application they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api import (
    actions,
    batch_reports,
    batches,
    custodians,
    docs,
    endpoints,
    events,
    health,
    payouts,
    replay,
)
from gateway.api.access import Guarded, Uses, needs, needs_or_secret, public
from gateway.api.admission import Admission
from gateway.api.context import ApiContext
from gateway.api.idempotency import Keys
from gateway.api.jobs import Jobs
from gateway.api.middleware import HANDLERS, Envelope
from gateway.keys import Scope
from gateway.pages import files, track

__all__ = ["ApiContext", "create_api"]

_CONFIRM = "/payouts/{payout_id}/confirm"


class GuardedRoute(Route):
    """A route that says who may call it, by method."""

    guards: Mapping[str, Guarded]


def _route(path: str, **handlers: Guarded) -> GuardedRoute:
    """Return one route with a handler per method, so that a 405 names every method there is."""

    async def dispatch(request: Request) -> Response:
        return await handlers[{"HEAD": "GET"}.get(request.method, request.method)](request)

    route = GuardedRoute(path, dispatch, methods=sorted(handlers))
    route.guards = handlers
    return route


_BATCH = "/payout-batches/{batch_id}"
_ENDPOINT = "/webhook-endpoints/{endpoint_id}"
_PLAIN = [
    _route("/payouts/quote", POST=needs(Scope.QUOTES_WRITE, payouts.create_quote)),
    _route(
        "/payouts",
        POST=needs(Scope.PAYOUTS_WRITE, payouts.create_payout),
        GET=needs(Scope.PAYOUTS_READ, payouts.list_payouts),
    ),
    _route("/payouts/{payout_id}/cancel", POST=needs(Scope.PAYOUTS_WRITE, actions.cancel_payout)),
    _route(
        "/payout-batches",
        POST=needs(Scope.BATCHES_WRITE, batches.create_batch),
        GET=needs(Scope.PAYOUTS_READ, batches.list_batches),
    ),
    _route(_BATCH, GET=needs(Scope.PAYOUTS_READ, batches.get_batch)),
    _route(f"{_BATCH}/payouts", GET=needs(Scope.PAYOUTS_READ, batches.list_batch_payouts)),
    _route(f"{_BATCH}/execute", POST=needs(Scope.BATCHES_WRITE, batches.execute_batch)),
    _route(f"{_BATCH}/cancel", POST=needs(Scope.BATCHES_WRITE, batches.cancel_batch)),
    _route(f"{_BATCH}/report.csv", GET=needs(Scope.PAYOUTS_READ, batch_reports.report_csv)),
    _route(f"{_BATCH}/report.json", GET=needs(Scope.PAYOUTS_READ, batch_reports.report_json)),
    _route("/custodians", GET=needs(Scope.PAYOUTS_READ, custodians.list_custodians)),
    _route("/custodians/{name}/webhooks", POST=public(custodians.receive_webhook)),
    _route(
        "/webhook-endpoints",
        POST=needs(Scope.WEBHOOKS_WRITE, endpoints.create_endpoint),
        GET=needs(Scope.EVENTS_READ, endpoints.list_endpoints),
    ),
    _route(
        "/webhook-endpoints/{endpoint_id}",
        GET=needs(Scope.EVENTS_READ, endpoints.get_endpoint),
        PATCH=needs(Scope.WEBHOOKS_WRITE, endpoints.update_endpoint),
        DELETE=needs(Scope.WEBHOOKS_WRITE, endpoints.delete_endpoint),
    ),
    _route(f"{_ENDPOINT}/rotate-secret", POST=needs(Scope.WEBHOOKS_WRITE, endpoints.rotate_secret)),
    _route(
        f"{_ENDPOINT}/previous-secrets",
        DELETE=needs(Scope.WEBHOOKS_WRITE, endpoints.revoke_previous_secrets),
    ),
    _route(f"{_ENDPOINT}/test", POST=needs(Scope.WEBHOOKS_WRITE, replay.test_endpoint)),
    _route(f"{_ENDPOINT}/recover", POST=needs(Scope.WEBHOOKS_WRITE, replay.recover)),
    _route(f"{_ENDPOINT}/recoveries", GET=needs(Scope.EVENTS_READ, replay.list_recoveries)),
    _route(
        f"{_ENDPOINT}/recoveries/{{recovery_id}}", GET=needs(Scope.EVENTS_READ, replay.get_recovery)
    ),
    _route(f"{_ENDPOINT}/attempts", GET=needs(Scope.EVENTS_READ, replay.list_endpoint_attempts)),
    _route("/.well-known/webhook-keys.json", GET=public(endpoints.webhook_keys)),
    _route("/events", GET=needs(Scope.EVENTS_READ, events.list_events)),
    _route("/events/{event_id}", GET=needs(Scope.EVENTS_READ, events.get_event)),
    _route("/events/{event_id}/attempts", GET=needs(Scope.EVENTS_READ, replay.list_event_attempts)),
    _route("/events/{event_id}/resend", POST=needs(Scope.WEBHOOKS_WRITE, replay.resend)),
    _route("/track/{token}", GET=public(track.show)),
    _route("/track/{token}/stream", GET=public(track.stream)),
    _route("/assets/{name}", GET=public(files.asset)),
    _route("/healthz", GET=public(health.healthz)),
    _route("/readyz", GET=public(health.readyz)),
    _route("/openapi.json", GET=public(docs.openapi_json)),
    _route("/docs", GET=public(docs.reference)),
    _route("/docs/problems", GET=public(docs.problems)),
    _route("/docs/style.css", GET=public(docs.style)),
]


_METRICS = _route("/metrics", GET=public(health.metrics))
#: What the listener for metrics answers.
_INNER = [
    _METRICS,
    _route("/healthz", GET=public(health.healthz)),
    _route("/readyz", GET=public(health.readyz)),
]


def _browser_routes(origins: Sequence[str]) -> list[Route]:
    """Return the routes that a page of a configured origin may call, with a client secret."""

    async def read(request: Request) -> Response:
        return await actions.read_with_secret(request) or await payouts.get_payout(request)

    may = Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key"],
        expose_headers=["Retry-After", "Request-Id", "RateLimit", "RateLimit-Policy"],
    )
    return [
        Route(path, each.endpoint, methods=[*(each.methods or ()), "OPTIONS"], middleware=[may])
        if origins
        else each
        for path, each in (
            (
                "/payouts/{payout_id}",
                _route("/payouts/{payout_id}", GET=needs_or_secret(Scope.PAYOUTS_READ, read)),
            ),
            (
                _CONFIRM,
                _route(_CONFIRM, POST=needs_or_secret(Scope.PAYOUTS_WRITE, actions.confirm_payout)),
            ),
        )
    ]


#: Every route there is.
ROUTES = [*_PLAIN, _METRICS, *_browser_routes(())]


def create_api(context: ApiContext) -> Starlette:
    """Return the ASGI application of the public listener."""
    routes = [*_PLAIN, *_browser_routes(context.settings.browser_origins)]
    if context.settings.metrics.public:
        routes.append(_METRICS)
    return _application(context, routes)


def create_metrics_api(context: ApiContext) -> Starlette:
    """Return the ASGI application of the listener for metrics and probes."""
    return _application(context, _INNER)


def _application(context: ApiContext, routes: Sequence[Route]) -> Starlette:
    handlers: dict[Any, Any] = dict(HANDLERS)
    app = Starlette(routes=routes, exception_handlers=handlers, middleware=[Middleware(Envelope)])
    # A redirect would name whatever host the request named; an unknown path is a problem instead.
    app.router.redirect_slashes = False
    app.state.context = context
    app.state.keys = Keys(context)
    app.state.admission = Admission(context.settings.limits, context.runtime.clock, context.metrics)
    app.state.jobs = Jobs(context.settings.limits, context.metrics, context.runtime.clock)
    app.state.uses = Uses(context)
    app.state.documents = docs.Documents(context)
    app.state.pages = track.Pages(context.settings, context.db, context.runtime)
    context.payouts.on_change(app.state.pages.hub.changed)
    return app
