"""Around every request: an id, one log line, metrics, problem documents for whatever goes wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.admission import admission_of, headers_of, refuse_stranger
from gateway.api.problems import PROBLEMS, problem_response
from gateway.api.requests import context_of
from gateway.errors import Refused
from gateway.logs import RequestLines, get_logger
from gateway.pages.render import page

_log = get_logger("api")
_requests = RequestLines("api")
_NOT_STORED = (b"cache-control", b"no-store")
_NOT_GUESSED = (b"x-content-type-options", b"nosniff")


class Envelope:
    """Pure ASGI: gives each request an id, times it, guards what leaves, and answers what is raised.

    In the place of Starlette's two middlewares for errors, each of which would wrap every message. An
    error that no handler expects is answered, and raised again for the server to see.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = scope["app"].state.context
        request_id = context.runtime.ids.new("req")
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        begun = context.runtime.clock.monotonic()
        state["number"] = scope["app"].state.jobs.request()
        status, started = 500, False

        async def wrapped(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                headers = message["headers"]
                names = [name for name, _ in headers]
                headers.append((b"request-id", request_id.encode()))
                if b"cache-control" not in names:
                    headers.append(_NOT_STORED)
                headers.append(_NOT_GUESSED)
                if b"ratelimit" not in names:
                    # A refusal names the policy that refused, which may be another one.
                    headers.extend(headers_of(state))
            await send(message)

        try:
            try:
                await self._app(scope, receive, wrapped)
            except Exception as error:
                handler = _handler_of(error)
                if started:
                    raise
                response = await handler(Request(scope, receive), error)
                await response(scope, receive, wrapped)
                if handler is on_error:
                    raise
                # A handled error that is kept as a value must not gather the frames of each request.
                error.__traceback__ = None
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            took = context.runtime.clock.monotonic() - begun
            context.metrics.http_request(route, scope["method"], status, took)
            left_out = state.get("left_out", 0)
            if left_out is not None:
                told = request_id, state.get("org"), scope["method"], route, status
                _requests.write(*told, round(took * 1000, 1), left_out)


async def _answer(request: Request, refused: Refused) -> Response:
    context = context_of(request)
    refused = refuse_stranger(request, refused, PROBLEMS[refused.code].status)
    if refused.code == "rate_limited":
        refused = await admission_of(request).hold_back(request, refused)
    if refused.code == "not_found":
        elsewhere = _elsewhere(request)
        if elsewhere is not None:
            return RedirectResponse(elsewhere, 307)
        if _reads_pages(request):
            return _nothing_here(request)
    return problem_response(
        refused, public_url=context.settings.public_url, request_id=request.state.request_id
    )


def _reads_pages(request: Request) -> bool:
    """Whether a person with a browser asks; programs say that they take JSON, or anything."""
    accepted = request.headers.get("accept", "").lower()
    return request.method in {"GET", "HEAD"} and "text/html" in accepted and "json" not in accepted


def _elsewhere(request: Request) -> str | None:
    """Return where a page is that was asked for with a slash at the end, or the first one; None: nowhere.

    Relative, so that it names no host and a proxy may add a prefix.
    """
    path = request.scope["path"]
    if request.method not in {"GET", "HEAD"}:
        return None
    if path.startswith(("/docs/", "/guide/")) and path.endswith("/"):
        return "../" + quote(path.split("/")[-2])
    has_docs = any(getattr(each, "path", "") == "/docs" for each in request.app.routes)
    return "docs" if path == "/" and has_docs and _reads_pages(request) else None


def _nothing_here(request: Request) -> Response:
    """Return the page of an address that leads nowhere. Its links are relative: a proxy may add a prefix."""
    return page(
        "nothing.html",
        404,
        root="../" * (request.scope["path"].count("/") - 1) or "./",
        request_id=request.state.request_id,
        panel=context_of(request).settings.panel.enabled,
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
    detail = (
        "The store cannot be reached; what was asked for may have been done. Ask again."
        if getattr(error, "outcome_unknown", False)
        else "The store cannot be written now; nothing was changed."
    )
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


def _handler_of(error: Exception) -> Callable[[Request, Exception], Awaitable[Response]]:
    return next(HANDLERS[each] for each in type(error).__mro__ if each in HANDLERS)
