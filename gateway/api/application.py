"""The routes of the API, and the application they make."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
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
from gateway.api.admission import Admission
from gateway.api.context import ApiContext
from gateway.api.idempotency import Keys
from gateway.api.middleware import HANDLERS, Envelope
from gateway.pages import track

__all__ = ["ApiContext", "create_api"]

_CONFIRM = "/payouts/{payout_id}/confirm"
Handler = Callable[[Request], Awaitable[Response]]


def _route(path: str, **handlers: Handler) -> Route:
    """Return one route with a handler per method, so that a 405 names every method there is."""

    async def dispatch(request: Request) -> Response:
        return await handlers[{"HEAD": "GET"}.get(request.method, request.method)](request)

    return Route(path, dispatch, methods=sorted(handlers))


_BATCH = "/payout-batches/{batch_id}"
_ENDPOINT = "/webhook-endpoints/{endpoint_id}"
_PLAIN = [
    _route("/payouts/quote", POST=payouts.create_quote),
    _route("/payouts", POST=payouts.create_payout, GET=payouts.list_payouts),
    _route("/payouts/{payout_id}/cancel", POST=actions.cancel_payout),
    _route("/payout-batches", POST=batches.create_batch, GET=batches.list_batches),
    _route(_BATCH, GET=batches.get_batch),
    _route(f"{_BATCH}/payouts", GET=batches.list_batch_payouts),
    _route(f"{_BATCH}/execute", POST=batches.execute_batch),
    _route(f"{_BATCH}/cancel", POST=batches.cancel_batch),
    _route(f"{_BATCH}/report.csv", GET=batch_reports.report_csv),
    _route(f"{_BATCH}/report.json", GET=batch_reports.report_json),
    _route("/custodians", GET=custodians.list_custodians),
    _route("/custodians/{name}/webhooks", POST=custodians.receive_webhook),
    _route("/webhook-endpoints", POST=endpoints.create_endpoint, GET=endpoints.list_endpoints),
    _route(
        "/webhook-endpoints/{endpoint_id}",
        GET=endpoints.get_endpoint,
        PATCH=endpoints.update_endpoint,
        DELETE=endpoints.delete_endpoint,
    ),
    _route(f"{_ENDPOINT}/rotate-secret", POST=endpoints.rotate_secret),
    _route(f"{_ENDPOINT}/previous-secrets", DELETE=endpoints.revoke_previous_secrets),
    _route(f"{_ENDPOINT}/test", POST=replay.test_endpoint),
    _route(f"{_ENDPOINT}/recover", POST=replay.recover),
    _route(f"{_ENDPOINT}/recoveries", GET=replay.list_recoveries),
    _route(f"{_ENDPOINT}/recoveries/{{recovery_id}}", GET=replay.get_recovery),
    _route(f"{_ENDPOINT}/attempts", GET=replay.list_endpoint_attempts),
    _route("/.well-known/webhook-keys.json", GET=endpoints.webhook_keys),
    _route("/events", GET=events.list_events),
    _route("/events/{event_id}", GET=events.get_event),
    _route("/events/{event_id}/attempts", GET=replay.list_event_attempts),
    _route("/events/{event_id}/resend", POST=replay.resend),
    _route("/track/{token}", GET=track.show),
    _route("/healthz", GET=health.healthz),
    _route("/readyz", GET=health.readyz),
    _route("/openapi.json", GET=docs.openapi_json),
    _route("/docs", GET=docs.reference),
    _route("/docs/problems", GET=docs.problems),
    _route("/docs/style.css", GET=docs.style),
]


_METRICS = _route("/metrics", GET=health.metrics)
#: What the listener for metrics answers.
_INNER = [
    _METRICS,
    _route("/healthz", GET=health.healthz),
    _route("/readyz", GET=health.readyz),
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
            ("/payouts/{payout_id}", _route("/payouts/{payout_id}", GET=read)),
            (_CONFIRM, _route(_CONFIRM, POST=actions.confirm_payout)),
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
    return app
