"""Around every request: an id, one log line, metrics, problem documents for whatever goes wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.admission import admission_of, headers_of, refuse_stranger
from gateway.api.problems import PROBLEMS, problem_response
from gateway.api.requests import context_of
from gateway.errors import Refused
from gateway.logs import get_logger

_log = get_logger("api")
_SAFE = (b"no-store", b"nosniff")


class Envelope:
    """Pure ASGI: gives each request an id, times it, and guards what leaves."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = scope["app"].state.context
        request_id = context.runtime.ids.new("req")
        scope.setdefault("state", {})["request_id"] = request_id
        begun = context.runtime.clock.monotonic()
        scope["app"].state.jobs.request()
        status = 500

        async def wrapped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name.lower() for name, _ in message["headers"]}
                message["headers"].append((b"request-id", request_id.encode()))
                if b"cache-control" not in names:
                    message["headers"].append((b"cache-control", _SAFE[0]))
                message["headers"].append((b"x-content-type-options", _SAFE[1]))
                if b"ratelimit" not in names:
                    # A refusal names the policy that refused, which may be another one.
                    message["headers"].extend(headers_of(scope["state"]))
            await send(message)

        try:
            await self._app(scope, receive, wrapped)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            took = context.runtime.clock.monotonic() - begun
            context.metrics.http_request(route, scope["method"], status, took)
            left_out = scope["state"].get("left_out", 0)
            if left_out is not None:
                _log.info(
                    "request",
                    request_id=request_id,
                    org=scope["state"].get("org"),
                    method=scope["method"],
                    route=route,
                    status=status,
                    duration_ms=round(took * 1000, 1),
                    **({"left_out": left_out} if left_out else {}),
                )


async def _answer(request: Request, refused: Refused) -> Response:
    context = context_of(request)
    refused = refuse_stranger(request, refused, PROBLEMS[refused.code].status)
    if refused.code == "rate_limited":
        refused = await admission_of(request).hold_back(request, refused)
    return problem_response(
        refused, public_url=context.settings.public_url, request_id=request.state.request_id
    )


async def on_refused(request: Request, error: Exception) -> Response:
    """Answer a refusal."""
    assert isinstance(error, Refused)  # noqa: S101 - registered for it
    return await _answer(request, error)


async def on_http(request: Request, error: Exception) -> Response:
    """Answer what the router itself refuses: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    if error.status_code == 405:  # noqa: PLR2004
        detail = f"{request.method} is not allowed here."
        return await _answer(
            request, Refused("method_not_allowed", detail, headers=dict(error.headers or {}))
        )
    if error.status_code == 404:  # noqa: PLR2004
        return await _answer(request, Refused("not_found", "There is nothing at this path."))
    return await _answer(request, Refused("internal_error", "The request could not be handled."))


async def on_store(request: Request, error: Exception) -> Response:
    """Answer while the store cannot write; nothing was changed."""
    _log.error("store_unavailable", request_id=request.state.request_id, exc_info=error)
    detail = "The store cannot be written now; nothing was changed."
    return await _answer(
        request, Refused("store_unavailable", detail, headers={"Retry-After": "5"})
    )


async def on_error(request: Request, error: Exception) -> Response:
    """Answer a fault of the gateway itself, without its details."""
    _log.error("internal_error", request_id=request.state.request_id, exc_info=error)
    return await _answer(
        request, Refused("internal_error", "The gateway failed; the fault is logged.")
    )


HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    Refused: on_refused,
    HTTPException: on_http,
    sqlite3.OperationalError: on_store,
    Exception: on_error,
}
