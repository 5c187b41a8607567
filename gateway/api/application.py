"""The routes of the API, and the application they make."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from gateway.api import (
    actions,
    attention,
    balances,
    batch_reports,
    batches,
    custodians,
    docs,
    endpoints,
    events,
    health,
    pauses,
    payouts,
    replay,
    routes,
)
from gateway.api.access import (
    Guarded,
    Handler,
    Uses,
    needs,
    needs_either,
    needs_or_secret,
    public,
)
from gateway.api.admission import Admission
from gateway.api.context import ApiContext
from gateway.api.idempotency import Keys
from gateway.api.jobs import Jobs
from gateway.api.middleware import Envelope
from gateway.api.shown import ShownPayouts
from gateway.keys import Scope
from gateway.pages import files, track

__all__ = ["ApiContext", "create_api"]

_CONFIRM = "/payouts/{payout_id}/confirm"


class GuardedRoute(Route):
    """A route that says who may call it, by method."""

    guards: Mapping[str, Guarded]
    #: its handlers as a function
    answer: Handler


class _Dispatch:
    """The handlers of one path as an ASGI application: what they raise is answered by the envelope."""

    def __init__(self, handlers: Mapping[str, Guarded]) -> None:
        self._handlers = handlers
        self._of = {**handlers, **({"HEAD": handlers["GET"]} if "GET" in handlers else {})}

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        response = await self._of[scope["method"]](Request(scope, receive, send))
        await response(scope, receive, send)

    async def answer(self, request: Request) -> Response:
        """Return the answer to one request."""
        return await self._of[request.method](request)


def _route(path: str, **handlers: Guarded) -> GuardedRoute:
    """Return one route with a handler per method, so that a 405 names every method there is."""
    dispatch = _Dispatch(handlers)
    route = GuardedRoute(path, dispatch, methods=sorted(handlers))
    route.guards, route.answer = handlers, dispatch.answer
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
    _route(
        "/pauses",
        GET=needs_either(Scope.PAYOUTS_READ, Scope.PAYOUTS_OPERATE, pauses.list_pauses),
        POST=needs_either(Scope.PAYOUTS_WRITE, Scope.PAYOUTS_OPERATE, pauses.create_pause),
    ),
    _route(
        "/pauses/{pause_id}/resume",
        POST=needs_either(Scope.PAYOUTS_WRITE, Scope.PAYOUTS_OPERATE, pauses.resume_pause),
    ),
    _route(
        "/attention",
        GET=needs_either(Scope.PAYOUTS_READ, Scope.PAYOUTS_OPERATE, attention.list_attention),
    ),
    _route(
        "/balances",
        GET=needs_either(Scope.PAYOUTS_READ, Scope.PAYOUTS_OPERATE, balances.list_balances),
    ),
    _route(
        "/routes/explain",
        POST=needs_either(Scope.QUOTES_WRITE, Scope.PAYOUTS_OPERATE, routes.explain_route),
    ),
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
    _route("/docs/{section}", GET=public(docs.reference_section)),
    _route("/guide", GET=public(docs.guide_page)),
    _route("/guide/{path:path}", GET=public(docs.guide_page)),
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
        # As a function: Starlette answers what it raises inside of the middleware, with its headers.
        Route(path, each.answer, methods=[*(each.methods or ()), "OPTIONS"], middleware=[may])
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


class _Application(Starlette):
    """Starlette with one middleware around its router in the place of three."""

    def build_middleware_stack(self) -> ASGIApp:
        """Return the envelope, which also answers what is raised."""
        return Envelope(self.router)


#: Of the paths with a parameter, those where nearly all requests go. Routes are tried in turn.
_HOT = (
    "/payouts/{payout_id}",
    "/custodians/{name}/webhooks",
    "/payouts/{payout_id}/confirm",
)


def _in_turn(routes: Sequence[Route]) -> list[Route]:
    """Return the routes, those that are asked most first. No two of them match the same path."""
    return sorted(
        routes, key=lambda each: _HOT.index(each.path) if each.path in _HOT else len(_HOT)
    )


#: A path that ends with its only parameter, which has no slash in it.
_ENDS_WITH_ID = re.compile(r"(/[^{}]+)/\{(\w+)\}")


class _Router(Router):
    """Starlette's router, which finds most paths at once instead of trying all routes.

    Those without parameters, and those that end with their only one, such as `/payouts/{payout_id}`.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        super().__init__(routes=_in_turn(routes))
        self._fixed = {each.path: each for each in routes if "{" not in each.path}
        #: the route and the name of its parameter, by what comes before that
        self._with_id = {
            found[1]: (each, found[2])
            for each in routes
            if (found := _ENDS_WITH_ID.fullmatch(each.path))
        }

    async def app(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        route, parameters = self._find(scope) if scope["type"] == "http" else (None, {})
        if route is None or scope["method"] not in (route.methods or ()):
            await super().app(scope, receive, send)
            return
        scope["router"], scope["route"], scope["path_params"] = self, route, parameters
        await route.app(scope, receive, send)

    def _find(self, scope: AsgiScope) -> tuple[Route | None, dict[str, str]]:
        """Return the route of a path and the values of its parameters. None: the library's router may find it."""
        path = scope["path"]
        route = self._fixed.get(path)
        if route is not None:
            return route, {}
        before, _, value = path.rpartition("/")
        found = self._with_id.get(before) if value else None
        return (None, {}) if found is None else (found[0], {found[1]: value})


class _Parts(State):
    """The parts of the application as plain attributes: Starlette's own state looks each of them up twice."""

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def _application(context: ApiContext, routes: Sequence[Route]) -> Starlette:
    app = _Application()
    app.state = _Parts()
    app.router = _Router(routes)
    # A redirect would name whatever host the request named; an unknown path is a problem instead.
    app.router.redirect_slashes = False
    app.state.context = context
    app.state.keys = Keys(context)
    app.state.admission = Admission(context.settings.limits, context.runtime.clock, context.metrics)
    app.state.jobs = Jobs(
        context.settings.limits, context.metrics, context.runtime.clock, context.calling
    )
    app.state.uses = Uses(context)
    app.state.documents = docs.Documents(context)
    app.state.shown = ShownPayouts(context.vault, context.settings.public_url)
    app.state.pages = track.Pages(context.settings, context.db, context.runtime)
    context.payouts.on_change(app.state.pages.hub.changed)
    return app
