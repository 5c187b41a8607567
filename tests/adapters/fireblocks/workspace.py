"""A Fireblocks twin in the test's own loop, and a client whose every byte a test can choose."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import aiohttp
import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from yarl import URL

from adapters.fireblocks.twin.app import FireblocksTwin
from adapters.fireblocks.twin.auth import make_key
from adapters.fireblocks.twin.world import FireblocksSettings
from adapters.twin.control import make_app

EXTERNAL_WALLET = "bef85a1c-b605-4b2e-bdb5-2d400f4d0bf3"
NETWORK_CONNECTION = "3adc1f92-e791-44a8-9aee-7f31c2108b78"
CREATE = "/v1/payments/payout"
#: A life-cycle step in most tests: only advancing the clock gets there.
STEP_S = 100.0


@cache
def _key_pool() -> tuple[rsa.RSAPrivateKey, ...]:
    return tuple(make_key() for _ in range(4))


@cache
def _key_of(pem: str) -> Any:
    """Read a key once: reading one checks that it is sound, which takes longer than most tests."""
    return load_pem_private_key(pem.encode(), password=None)


def pooled_keys() -> Iterator[rsa.RSAPrivateKey]:
    """Yield keys made once per test run: making them is slow."""
    return itertools.cycle(_key_pool()[:3])


def stranger_key() -> rsa.RSAPrivateKey:
    """Return a key that is nobody's."""
    return _key_pool()[3]


def noon() -> Callable[[], float]:
    """Return a clock that starts at noon of a fixed day: no test may depend on the time of day."""
    start = datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp() - time.monotonic()
    return lambda: start + time.monotonic()


def still() -> float:
    """Return noon of that day, always: only what a test advances passes, however slow the machine."""
    return datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp()


def make_twin(base_time: Callable[[], float], **settings: Any) -> FireblocksTwin:
    """Return a twin with these switches and quickly made keys."""
    keys = pooled_keys()
    return FireblocksTwin(
        FireblocksSettings(**{"step_s": STEP_S, **settings}), base_time, lambda: next(keys)
    )


async def eventually(look: Callable[[], Any], seconds: float = 10) -> Any:
    """Look until the answer is truthy; fail after so many seconds."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"still {found!r} after {seconds} s"
        await asyncio.sleep(0.005)
    return found


@dataclass(frozen=True)
class Reply:
    """What the twin answered."""

    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.text)

    @property
    def error(self) -> tuple[int, str]:
        """Return status and type of a refusal by the payments API."""
        return self.status, self.json["error"]["type"]


@dataclass
class Receiver:
    """A webhook receiver that answers as told and keeps what it got."""

    url: str = ""
    answer: int = 200
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        """Take one delivery."""
        body = await request.read()
        self.got.append((dict(request.headers), body))
        return web.Response(status=self.answer)

    def bodies(self) -> list[dict[str, Any]]:
        """Return the bodies in the order of arrival."""
        return [json.loads(body) for _, body in self.got]


class Workspace:
    """A running twin and an API client of its workspace."""

    def __init__(self, twin: FireblocksTwin, root: str, http: aiohttp.ClientSession) -> None:
        self.twin = twin
        self.root = root
        self.http = http

    def now(self) -> int:
        """Return the shared time in whole seconds."""
        return int(self.twin.clock.shared())

    def token(
        self, path: str, body: bytes, key: rsa.RSAPrivateKey | None = None, **claims: Any
    ) -> str:
        """Return a JWT as the official client makes it; a claim of None is left out."""
        now = self.now()
        all_claims = {
            "uri": path,
            "nonce": str(uuid.uuid4()),
            "iat": now,
            "exp": now + 55,
            "sub": self.twin.user.api_key,
            "bodyHash": hashlib.sha256(body).hexdigest(),
            **claims,
        }
        wanted = {name: value for name, value in all_claims.items() if value is not None}
        return jwt.encode(wanted, key or _key_of(self.twin.user.private_pem()), algorithm="RS256")

    async def send(
        self, method: str, uri: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Reply:
        """Send a request as it is."""
        async with self.http.request(
            method, URL(self.root + uri, encoded=True), data=body or None, headers=headers or {}
        ) as answer:
            return Reply(answer.status, answer.headers, await answer.text())

    async def call(
        self, method: str, path: str, body: Any = None, key: str | None = None, **claims: Any
    ) -> Reply:
        """Send a signed request; `body` is bytes or a JSON value."""
        data = (
            body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        )
        headers = {
            "X-API-Key": self.twin.user.api_key,
            "Authorization": f"Bearer {self.token(path, data, **claims)}",
        }
        if data:
            headers["Content-Type"] = "application/json"
        if key is not None:
            headers["Idempotency-Key"] = key
        return await self.send(method, path, data, headers)

    async def create(self, *amounts: str, key: str | None = None, **more: Any) -> Reply:
        """Create a payout over these amounts."""
        return await self.call("POST", CREATE, payout_body(*(amounts or ("43",)), **more), key)

    async def execute(self, payout_id: str, key: str | None = None) -> Reply:
        """Execute a payout."""
        return await self.call("POST", f"{CREATE}/{payout_id}/actions/execute", key=key)

    async def read(self, payout_id: str) -> Reply:
        """Read a payout."""
        return await self.call("GET", f"{CREATE}/{payout_id}")

    async def payout(self, payout_id: str) -> dict[str, Any]:
        """Return a payout."""
        reply = await self.read(payout_id)
        assert reply.status == 200, reply
        return dict(reply.json)

    async def transaction(self, transaction_id: str) -> dict[str, Any]:
        """Return a transaction."""
        reply = await self.call("GET", f"/v1/transactions/{transaction_id}")
        assert reply.status == 200, reply
        return dict(reply.json)

    async def started(self, *amounts: str, **more: Any) -> str:
        """Create and execute a payout; return its id."""
        made = await self.create(*amounts, **more)
        assert made.status == 200, made
        payout_id = str(made.json["payoutId"])
        executed = await self.execute(payout_id)
        assert (executed.status, executed.json) == (200, {"payoutId": payout_id}), executed
        return payout_id

    async def steps(self, count: int) -> None:
        """Let so many life-cycle steps pass."""
        await self.steer("POST", "clock", {"advance_s": STEP_S * count + 1})

    async def steer(
        self, method: str, what: str, body: Any = None, status: int | None = None
    ) -> Any:
        """Use the control API."""
        async with self.http.request(method, f"{self.root}/_twin/{what}", json=body) as answer:
            document = await answer.json()
            assert answer.status == (status or (201 if what == "faults" and body else 200)), (
                document
            )
            return document

    async def fault(self, call: str, fault: str, **more: Any) -> Any:
        """Let something go wrong."""
        return await self.steer("POST", "faults", {"call": call, "fault": fault, **more})

    async def ledger(self) -> list[dict[str, str]]:
        """Return every transfer that moved money."""
        return list((await self.steer("GET", "ledger"))["transfers"])

    @asynccontextmanager
    async def receiver(self) -> AsyncIterator[Receiver]:
        """Run a webhook receiver and name it to the twin."""
        receiver = Receiver()
        app = web.Application()
        app.router.add_post("/hook", receiver.handle)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
            await self.steer("PUT", "webhooks", {"url": receiver.url})
            yield receiver
        finally:
            await runner.cleanup()


def payout_body(
    *amounts: str,
    source: tuple[str, str] = ("EXCHANGE_ACCOUNT", "EX_SUB3"),
    payee: tuple[str, str] = ("EXTERNAL_WALLET", EXTERNAL_WALLET),
    asset: str = "USDC",
) -> dict[str, Any]:
    """Return the body of a create call."""
    return {
        "paymentAccount": {"type": source[0], "id": source[1]},
        "instructionSet": [
            {
                "payeeAccount": {"type": payee[0], "id": payee[1]},
                "amount": {"amount": amount, "assetId": asset},
            }
            for amount in amounts
        ],
    }


@asynccontextmanager
async def open_workspace(
    base_time: Callable[[], float] | None = None, **settings: Any
) -> AsyncIterator[Workspace]:
    """Run a twin in this loop."""
    twin = make_twin(base_time or noon(), **settings)
    runner = web.AppRunner(make_app(twin), shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as http:
            yield Workspace(twin, f"http://127.0.0.1:{runner.addresses[0][1]}", http)
    finally:
        await runner.cleanup()
