"""The routes of the panel, and how an application gets them."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.cursors import check_names
from gateway.panel import batches, installation, keys, overview, payouts, signin, webhooks
from gateway.panel.access import Handler, Panel, Visit, answered, redirect, signed_in
from gateway.users import Role

_HERE = "/admin/{org}/{mode}"
_KEY = f"{_HERE}/keys/{{key_id}}"
_BATCH = f"{_HERE}/batches/{{batch_id}}"
_ENDPOINT = f"{_HERE}/webhooks/{{endpoint_id}}"
_PAYOUT = f"{_HERE}/payouts/{{payout_id}}"


async def _nothing(request: Request) -> Response:
    async def work() -> Response:
        path = request.url.path
        if path.endswith("/") and request.method == "GET":
            # The page was requested with a trailing slash.
            return redirect(request, path.rstrip("/"))
        raise signin.refuse_nobody()

    return await answered(request, work)


#: Every page and form for signed-in users: the method (`FILE`: a form with a file, whose handler reads
#: the body and checks the form's token), the path, the role it needs, and its handler.
_TABLE: tuple[tuple[str, str, Role, Handler], ...] = (
    ("POST", "/admin/sign-out", Role.VIEWER, signin.sign_out),
    ("GET", "/admin", Role.VIEWER, overview.begin),
    ("GET", "/admin/orgs", Role.VIEWER, overview.orgs),
    ("GET", _HERE, Role.VIEWER, overview.show),
    ("GET", f"{_HERE}/attention", Role.VIEWER, payouts.attention),
    ("GET", f"{_HERE}/payouts", Role.VIEWER, payouts.index),
    ("POST", f"{_HERE}/payouts/pause", Role.OPERATOR, payouts.pause_org),
    ("POST", f"{_HERE}/payouts/resume", Role.OPERATOR, payouts.resume_org),
    ("GET", _PAYOUT, Role.VIEWER, payouts.show),
    ("POST", f"{_PAYOUT}/ask", Role.OPERATOR, payouts.ask),
    ("POST", f"{_PAYOUT}/retry", Role.OPERATOR, payouts.retry),
    ("GET", f"{_PAYOUT}/cancel", Role.OPERATOR, payouts.confirm_cancel),
    ("POST", f"{_PAYOUT}/cancel", Role.OPERATOR, payouts.cancel),
    ("GET", f"{_PAYOUT}/resolve", Role.OPERATOR, payouts.resolve_form),
    ("POST", f"{_PAYOUT}/resolve", Role.OPERATOR, payouts.resolve),
    ("POST", f"{_PAYOUT}/acknowledge", Role.OPERATOR, payouts.acknowledge),
    ("POST", f"{_PAYOUT}/resend", Role.OPERATOR, payouts.resend),
    ("GET", f"{_HERE}/keys", Role.VIEWER, keys.index),
    ("POST", f"{_HERE}/keys", Role.ADMIN, keys.mint),
    ("GET", _KEY, Role.ADMIN, keys.confirm),
    ("POST", f"{_KEY}/rotate", Role.ADMIN, keys.rotate),
    ("POST", f"{_KEY}/revoke", Role.ADMIN, keys.revoke),
    ("GET", f"{_HERE}/batches", Role.VIEWER, batches.index),
    ("GET", f"{_HERE}/batches/new", Role.OPERATOR, batches.new),
    ("FILE", f"{_HERE}/batches/check", Role.OPERATOR, batches.check),
    ("FILE", f"{_HERE}/batches/create", Role.OPERATOR, batches.create),
    ("GET", _BATCH, Role.VIEWER, batches.show),
    ("GET", f"{_BATCH}/report.csv", Role.VIEWER, batches.report),
    ("GET", f"{_BATCH}/execute", Role.OPERATOR, batches.confirm_execute),
    ("POST", f"{_BATCH}/execute", Role.OPERATOR, batches.execute),
    ("GET", f"{_BATCH}/cancel", Role.OPERATOR, batches.confirm_cancel),
    ("POST", f"{_BATCH}/cancel", Role.OPERATOR, batches.cancel),
    ("GET", f"{_HERE}/webhooks", Role.VIEWER, webhooks.index),
    ("POST", f"{_HERE}/webhooks", Role.ADMIN, webhooks.create),
    ("GET", _ENDPOINT, Role.VIEWER, webhooks.show),
    ("POST", f"{_ENDPOINT}/enable", Role.ADMIN, webhooks.change),
    ("POST", f"{_ENDPOINT}/disable", Role.ADMIN, webhooks.change),
    ("GET", f"{_ENDPOINT}/delete", Role.ADMIN, webhooks.confirm_delete),
    ("POST", f"{_ENDPOINT}/delete", Role.ADMIN, webhooks.delete),
    ("POST", f"{_ENDPOINT}/rotate", Role.ADMIN, webhooks.rotate),
    ("POST", f"{_ENDPOINT}/end-secrets", Role.ADMIN, webhooks.end_secrets),
    ("POST", f"{_ENDPOINT}/recover", Role.OPERATOR, webhooks.recover),
    ("POST", f"{_ENDPOINT}/resend", Role.OPERATOR, webhooks.resend),
    ("POST", f"{_ENDPOINT}/test", Role.OPERATOR, webhooks.test),
    ("GET", f"{_HERE}/custodians", Role.VIEWER, installation.custodians),
    ("GET", f"{_HERE}/audit", Role.OPERATOR, installation.audit),
)


#: The query parameters of pages besides `done`. Like the lists of the API, a page refuses other
#: parameters and repeated ones (`invalid_request`), because a mistyped filter must not show more than
#: was asked for.
_PARAMETERS: Mapping[str, frozenset[str]] = {
    _HERE: frozenset({"span"}),
    f"{_HERE}/payouts": frozenset({"q", "state", "after"}),
    _PAYOUT: frozenset({"show"}),
    f"{_HERE}/batches": frozenset({"after"}),
    _ENDPOINT: frozenset({"after"}),
    f"{_HERE}/audit": frozenset({"after"}),
}


def routes() -> list[Route]:
    """Return every route of the panel."""
    return [
        Route("/admin/sign-in", signin.show, methods=["GET"]),
        Route("/admin/sign-in", signin.sign_in, methods=["POST"]),
        *(_route(*each) for each in _TABLE),
        Route("/admin/{rest:path}", _nothing, methods=["GET", "POST"]),
    ]


def _route(method: str, path: str, role: Role, handler: Handler) -> Route:
    if method == "FILE":
        return Route(path, signed_in(role, handler, form_bytes=None), methods=["POST"])
    if method == "GET":
        handler = _with_parameters(handler, _PARAMETERS.get(path, frozenset()) | {"done"})
    return Route(path, signed_in(role, handler), methods=[method])


def _with_parameters(handler: Handler, known: frozenset[str]) -> Handler:
    async def work(visit: Visit) -> Response:
        check_names(visit.request, known)
        return await handler(visit)

    return work


def add_panel(api: Starlette) -> Starlette:
    """Give the API's application the panel, unless the configuration switches it off."""
    context = api.state.context
    if context.settings.panel.enabled:
        api.state.panel = Panel(context)
        api.router.routes.extend(routes())
    return api
