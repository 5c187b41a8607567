"""The router finds what the library's router finds, without trying all routes."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.routing import Route, Router

from gateway.api.application import ROUTES, _Router

METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS")
PATHS = sorted(
    {each.path.replace("{path:path}", "a/b") for each in ROUTES}
    | {"/", "", "/payouts/", "/payouts//x", "/payouts/x/", "/payouts/a\nb", "/payouts/x/y"}
    | {"/payouts/{}", "/nothing", "/nothing/x", "/guide/a", "/docs/x", "/PAYOUTS/x"}
)


async def _found(router: Router, method: str, path: str) -> tuple[Any, ...]:
    """Return the route, its parameters and the status that a router itself answers with."""
    scope: Any = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": "",
        "headers": [],
    }
    told: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    async def send(message: Any) -> None:
        told.append(message.get("status"))

    await router(scope, receive, send)
    return told[0], scope.get("path_params")


@pytest.mark.parametrize("method", METHODS)
async def test_every_path_is_found_as_by_the_library(method: str) -> None:
    """Fixed paths, such that end with an id, and all others, known or not; each with each method."""

    def route(number: int, of: Route) -> Route:
        """Return a route of the same path and methods that answers with its number as status."""

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 1000 + number, "headers": []})

        class Answer:
            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                await answer(scope, receive, send)

        return Route(of.path, Answer(), methods=sorted(of.methods or ()))

    routes = [route(number, each) for number, each in enumerate(ROUTES)]
    ours = _Router(routes)
    # In the same order: `/payouts/quote` is also a path of `/payouts/{payout_id}`.
    library = Router(ours.routes, redirect_slashes=False)
    ours.redirect_slashes = False
    for path in PATHS:
        assert await _found(ours, method, path) == await _found(library, method, path), path
