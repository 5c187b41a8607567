"""The routes of the API, and the application they make."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api import custodians, docs, endpoints, events, health, payouts
from gateway.api.context import ApiContext
from gateway.api.middleware import HANDLERS, Envelope
from gateway.pages import track

__all__ = ["ApiContext", "create_api"]

Handler = Callable[[Request], Awaitable[Response]]


def _route(path: str, **handlers: Handler) -> Route:
    """Return one route with a handler per method, so that a 405 names every method there is."""

    async def dispatch(request: Request) -> Response:
        return await handlers[{"HEAD": "GET"}.get(request.method, request.method)](request)

    return Route(path, dispatch, methods=sorted(handlers))


ROUTES = [
    _route("/payouts/quote", POST=payouts.create_quote),
    _route("/payouts", POST=payouts.create_payout, GET=payouts.list_payouts),
    _route("/payouts/{payout_id}", GET=payouts.get_payout),
    _route("/custodians", GET=custodians.list_custodians),
    _route("/custodians/{name}/webhooks", POST=custodians.receive_webhook),
    _route("/webhook-endpoints", POST=endpoints.create_endpoint, GET=endpoints.list_endpoints),
    _route(
        "/webhook-endpoints/{endpoint_id}",
        GET=endpoints.get_endpoint,
        DELETE=endpoints.delete_endpoint,
    ),
    _route("/events", GET=events.list_events),
    _route("/events/{event_id}", GET=events.get_event),
    _route("/track/{token}", GET=track.show),
    _route("/healthz", GET=health.healthz),
    _route("/readyz", GET=health.readyz),
    _route("/metrics", GET=health.metrics),
    _route("/openapi.json", GET=docs.openapi_json),
    _route("/docs", GET=docs.reference),
    _route("/docs/problems", GET=docs.problems),
    _route("/docs/style.css", GET=docs.style),
]


def create_api(context: ApiContext) -> Starlette:
    """Return the ASGI application."""
    handlers: dict[Any, Any] = dict(HANDLERS)
    app = Starlette(routes=ROUTES, exception_handlers=handlers, middleware=[Middleware(Envelope)])
    # A redirect would name whatever host the request named; an unknown path is a problem instead.
    app.router.redirect_slashes = False
    app.state.context = context
    #: (org, mode, route, key) of the requests that run right now in this process.
    app.state.in_progress = set()
    return app
