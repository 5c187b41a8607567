"""Dummy's twin on a real socket, for its own tests. It lives by a set clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from adapters.dummy.twin.app import DummyTwin, DummyTwinSettings
from adapters.twin.control import make_app
from gateway.testing.bench import listening
from gateway.testing.clock import SetClock

STEP_S = 100.0


class Space:
    """A twin, and a client of it."""

    def __init__(self, twin: DummyTwin, root: str, http: aiohttp.ClientSession) -> None:
        self.twin = twin
        self.root = root
        self.http = http

    async def steer(self, method: str, what: str, body: Any = None) -> Any:
        """Use the control API."""
        url = f"{self.root}/_twin/{what}"
        async with self.http.request(method, url, json=body) as answer:
            document = await answer.json()
            assert answer.status in {200, 201}, document
            return document

    async def steps(self, count: int) -> None:
        """Let so many steps of a transfer's life pass."""
        await self.steer("POST", "clock", {"advance_s": STEP_S * count + 1})

    async def post(self, body: Any, key: str | None = None) -> tuple[int, Any]:
        """Send an order by hand; return status and body."""
        headers = {"Authorization": f"Bearer {key or self.twin.credentials('')['api_key']}"}
        async with self.http.post(
            f"{self.root}/v1/transfers", json=body, headers=headers
        ) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def space() -> AsyncIterator[Space]:
    """A running twin whose steps take 100 s of its own clock."""
    clock = SetClock()
    twin = DummyTwin(DummyTwinSettings(step_s=STEP_S), lambda: clock.now().timestamp())
    async with listening(make_app(twin)) as root, aiohttp.ClientSession() as http:
        yield Space(twin, root, http)
