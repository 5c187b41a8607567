"""The routes of the panel, and how an application gets them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.panel import batches, installation, keys, overview, payouts, signin, webhooks
from gateway.panel.access import Panel, answered, signed_in
from gateway.users import Role

_HERE = "/admin/{org}/{mode}"
_KEY = f"{_HERE}/keys/{{key_id}}"
_BATCH = f"{_HERE}/batches/{{batch_id}}"
_ENDPOINT = f"{_HERE}/webhooks/{{endpoint_id}}"
_PAYOUT = f"{_HERE}/payouts/{{payout_id}}"


async def _nothing(request: Request) -> Response:
    async def work() -> Response:
        raise signin.refuse_nobody()

    return await answered(request, work)


def _get(path: str, role: Role, handler: overview.Handler) -> Route:
    return Route(path, signed_in(role, handler), methods=["GET"])


def _post(path: str, role: Role, handler: overview.Handler) -> Route:
    return Route(path, signed_in(role, handler), methods=["POST"])


def _file(path: str, role: Role, handler: overview.Handler) -> Route:
    """Return the route of a form with a file: its handler reads the body, and checks the form's token."""
    return Route(path, signed_in(role, handler, form_bytes=None), methods=["POST"])


def routes() -> list[Route]:
    """Return every route of the panel. A form is sent to one that names the role it needs."""
    return [
        Route("/admin/sign-in", signin.show, methods=["GET"]),
        Route("/admin/sign-in", signin.sign_in, methods=["POST"]),
        _post("/admin/sign-out", Role.VIEWER, signin.sign_out),
        _get("/admin", Role.VIEWER, overview.begin),
        _get("/admin/orgs", Role.VIEWER, overview.orgs),
        _get(_HERE, Role.VIEWER, overview.show),
        _get(f"{_HERE}/attention", Role.VIEWER, payouts.attention),
        _get(f"{_HERE}/payouts", Role.VIEWER, payouts.index),
        _post(f"{_HERE}/payouts/pause", Role.OPERATOR, payouts.pause_org),
        _post(f"{_HERE}/payouts/resume", Role.OPERATOR, payouts.resume_org),
        _get(_PAYOUT, Role.VIEWER, payouts.show),
        _post(f"{_PAYOUT}/ask", Role.OPERATOR, payouts.ask),
        _post(f"{_PAYOUT}/retry", Role.OPERATOR, payouts.retry),
        _get(f"{_PAYOUT}/cancel", Role.OPERATOR, payouts.confirm_cancel),
        _post(f"{_PAYOUT}/cancel", Role.OPERATOR, payouts.cancel),
        _get(f"{_PAYOUT}/resolve", Role.OPERATOR, payouts.resolve_form),
        _post(f"{_PAYOUT}/resolve", Role.OPERATOR, payouts.resolve),
        _post(f"{_PAYOUT}/acknowledge", Role.OPERATOR, payouts.acknowledge),
        _post(f"{_PAYOUT}/resend", Role.OPERATOR, payouts.resend),
        _get(f"{_HERE}/keys", Role.VIEWER, keys.index),
        _post(f"{_HERE}/keys", Role.ADMIN, keys.mint),
        _get(_KEY, Role.ADMIN, keys.confirm),
        _post(f"{_KEY}/rotate", Role.ADMIN, keys.rotate),
        _post(f"{_KEY}/revoke", Role.ADMIN, keys.revoke),
        _get(f"{_HERE}/batches", Role.VIEWER, batches.index),
        _get(f"{_HERE}/batches/new", Role.OPERATOR, batches.new),
        _file(f"{_HERE}/batches/check", Role.OPERATOR, batches.check),
        _file(f"{_HERE}/batches/create", Role.OPERATOR, batches.create),
        _get(_BATCH, Role.VIEWER, batches.show),
        _get(f"{_BATCH}/report.csv", Role.VIEWER, batches.report),
        _get(f"{_BATCH}/execute", Role.OPERATOR, batches.confirm_execute),
        _post(f"{_BATCH}/execute", Role.OPERATOR, batches.execute),
        _get(f"{_BATCH}/cancel", Role.OPERATOR, batches.confirm_cancel),
        _post(f"{_BATCH}/cancel", Role.OPERATOR, batches.cancel),
        _get(f"{_HERE}/webhooks", Role.VIEWER, webhooks.index),
        _post(f"{_HERE}/webhooks", Role.ADMIN, webhooks.create),
        _get(_ENDPOINT, Role.VIEWER, webhooks.show),
        _post(f"{_ENDPOINT}/enable", Role.ADMIN, webhooks.change),
        _post(f"{_ENDPOINT}/disable", Role.ADMIN, webhooks.change),
        _post(f"{_ENDPOINT}/delete", Role.ADMIN, webhooks.delete),
        _post(f"{_ENDPOINT}/rotate", Role.ADMIN, webhooks.rotate),
        _post(f"{_ENDPOINT}/end-secrets", Role.ADMIN, webhooks.end_secrets),
        _post(f"{_ENDPOINT}/recover", Role.OPERATOR, webhooks.recover),
        _post(f"{_ENDPOINT}/resend", Role.OPERATOR, webhooks.resend),
        _post(f"{_ENDPOINT}/test", Role.OPERATOR, webhooks.test),
        _get(f"{_HERE}/custodians", Role.VIEWER, installation.custodians),
        _get(f"{_HERE}/audit", Role.OPERATOR, installation.audit),
        Route("/admin/{rest:path}", _nothing, methods=["GET", "POST"]),
    ]


def add_panel(api: Starlette) -> Starlette:
    """Give the API's application the panel, unless the configuration switches it off."""
    context = api.state.context
    if context.settings.panel.enabled:
        api.state.panel = Panel(context)
        api.router.routes.extend(routes())
    return api
