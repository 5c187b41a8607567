"""A card-passcode twin in the test's own loop, and a client whose every byte a test can choose."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from adapters.card_passcode.twin.app import CardPasscodeTwin
from adapters.card_passcode.twin.world import CardPasscodeSettings
from adapters.twin.control import make_app

#: A step in most tests: only advancing the clock gets there.
STEP_S = 100.0
DEVICE = {
    "name": "payout-worker-3",
    "type": "SERVER",
    "platform": "PYTHON",
    "user_agent": "test/1.0",
    "client_ip": "198.51.100.7",
}


def noon() -> Callable[[], float]:
    """Return a clock that starts at noon of a fixed day."""
    start = datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp() - time.monotonic()
    return lambda: start + time.monotonic()


@dataclass(frozen=True)
class Reply:
    """What the twin answered."""

    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        """Return the body as JSON, its numbers exact."""
        return json.loads(self.text, parse_float=Decimal)

    @property
    def fields(self) -> list[str]:
        """Return the fields that a 422 names."""
        assert self.status == 422, self
        return [".".join(str(part) for part in each["loc"]) for each in self.json["detail"]]


class Merchant:
    """A running twin and a client of its merchant."""

    def __init__(self, twin: CardPasscodeTwin, root: str, http: aiohttp.ClientSession) -> None:
        self.twin = twin
        self.root = root
        self.http = http
        self.credentials = twin.credentials(root)
        self._token: str | None = None

    @property
    def passcode(self) -> str:
        """Return the standing passcode."""
        return self.credentials["passcode"]

    async def token(self) -> str:
        """Return a bearer token, the same until told otherwise."""
        if self._token is None:
            reply = await self.obtain()
            assert reply.status == 200, reply
            self._token = str(reply.json["access_token"])
        return self._token

    async def obtain(self, **change: Any) -> Reply:
        """Ask for a token."""
        wanted = {name: self.credentials[name] for name in ("client_id", "client_secret")}
        return await self.send("POST", "/jwt/client/obtain/token", {**wanted, **change}, None)

    async def send(self, method: str, path: str, body: Any, token: str | None) -> Reply:
        """Send a request; `body` is bytes or a JSON value."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        url = URL(f"{self.root}/v1{path}", encoded=True)
        async with self.http.request(method, url, data=data, headers=headers) as answer:
            return Reply(answer.status, answer.headers, await answer.text())

    async def call(self, method: str, path: str, body: Any = None) -> Reply:
        """Send a request of the merchant."""
        return await self.send(method, path, body, await self.token())

    async def session(self, amount: object = "75.00", account: object = 18, **more: Any) -> Reply:
        """Open a payout session."""
        body = {"payout_account_id": account, "amount": amount, "currency": "USD", **more}
        return await self.call("POST", "/sessions/payout", body)

    async def opened(self, amount: object = "75.00", account: int = 18) -> str:
        """Open a payout session and return its id as executions want it."""
        reply = await self.session(amount, account)
        assert reply.status == 200, reply
        return str(reply.json["id"])

    def execution(self, session_id: str, **change: Any) -> dict[str, Any]:
        """Return the body of an execution; `code`, `phone`, `device` and any member can be chosen."""
        token = {"code": change.pop("code", self.passcode), "phone": "231770000001"}
        token.update(change.pop("token", {}))
        body = {
            "session_id": session_id,
            "payout_account_id": "18",
            "reference_id": str(uuid.uuid4()),
            "passcode": {
                "token": {name: value for name, value in token.items() if value is not None},
                "device": {**DEVICE, **change.pop("device", {})},
            },
        }
        return {**body, **change}

    async def execute(self, body: Any) -> Reply:
        """Execute."""
        return await self.call("POST", "/executions/payout", body)

    async def paid(self, amount: str = "75.00", **change: Any) -> str:
        """Open a session and execute it; return the reference."""
        body = self.execution(await self.opened(amount), **change)
        reply = await self.execute(body)
        assert reply.status == 200, reply
        return str(body["reference_id"])

    async def status(self, reference_id: str) -> Reply:
        """Ask how an execution stands."""
        return await self.call("GET", f"/status/payout/{reference_id}")

    async def look(self, reference_id: str) -> dict[str, Any]:
        """Return how an execution stands."""
        reply = await self.status(reference_id)
        assert reply.status == 200, reply
        return dict(reply.json)

    async def steps(self, count: int) -> None:
        """Let so many life-cycle steps pass."""
        await self.advance(STEP_S * count + 1)

    async def advance(self, seconds: float) -> None:
        """Move the twin's clock on."""
        await self.steer("POST", "clock", {"advance_s": seconds})

    async def steer(self, method: str, what: str, body: Any = None, status: int = 200) -> Any:
        """Use the control API."""
        async with self.http.request(method, f"{self.root}/_twin/{what}", json=body) as answer:
            document = await answer.json()
            assert answer.status == status, document
            return document

    async def switch(self, **members: Any) -> None:
        """Set switches."""
        await self.steer("PUT", "settings", members)

    async def fault(self, call: str, fault: str, **more: Any) -> Any:
        """Let something go wrong."""
        return await self.steer("POST", "faults", {"call": call, "fault": fault, **more}, 201)

    async def ledger(self) -> list[dict[str, str]]:
        """Return every transfer that moved money."""
        return list((await self.steer("GET", "ledger"))["transfers"])

    async def inbox(self) -> list[dict[str, str]]:
        """Return the one-time codes sent."""
        return list((await self.steer("GET", "inbox"))["messages"])

    def calls(self, name: str) -> int:
        """Return how many calls of a name the twin has received."""
        return sum(each.call == name for each in self.twin.calls)


@asynccontextmanager
async def open_merchant(
    base_time: Callable[[], float] | None = None, **settings: Any
) -> AsyncIterator[Merchant]:
    """Run a twin in this loop."""
    twin = CardPasscodeTwin(
        CardPasscodeSettings(**{"step_s": STEP_S, **settings}), base_time or noon()
    )
    runner = web.AppRunner(make_app(twin), shutdown_timeout=1, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as http:
            yield Merchant(twin, f"http://127.0.0.1:{runner.addresses[0][1]}", http)
    finally:
        await runner.cleanup()
