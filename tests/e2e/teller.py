"""A custodian that a test writes, speaking Dummy's wire, and two adapters for it that believe webhooks."""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import aiohttp
from aiohttp import web

from adapters.dummy.adapter import STATES, Dummy
from gateway.adapter import KeySemantics, Notice, Ref, Report

#: What the custodian answers: status and JSON, or None to cut the connection.
Answer = tuple[int, Any] | None


class Teller(Dummy):
    """Dummy, but a webhook's word is news, and its keys promise nothing about repeats."""

    name: ClassVar[str] = "teller"
    capabilities = replace(Dummy.capabilities, keys=KeySemantics())

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Read a webhook together with the state that it tells."""
        told = json.loads(body)
        refs = (Ref("transfer", str(told["transfer"]["id"])),)
        state = str(told["transfer"]["state"])
        return [Notice(refs, str(told["id"]), report=Report(STATES.get(state), state))]


class Repeater(Teller):
    """The same, and a repeat with its key is harmless."""

    name: ClassVar[str] = "repeater"
    capabilities = Dummy.capabilities


def transfer(wanted: dict[str, Any], state: str, transfer_id: str = "") -> dict[str, Any]:
    """Return a transfer on the wire, for what was ordered."""
    return {**wanted, "id": transfer_id or str(uuid.uuid4()), "state": state, "tx_hash": None}


@dataclass
class Custodian:
    """Answers as the test says; remembers what it was asked."""

    #: our answer to an order to pay; the body is given
    on_pay: Callable[[dict[str, Any]], Answer]
    #: our answer to a look; the key is given
    on_look: Callable[[str], Answer]
    url: str = ""
    #: the bodies of the orders to pay, in their order
    orders: list[dict[str, Any]] = field(default_factory=list)
    looks: list[str] = field(default_factory=list)

    async def in_front_of(self, _: str) -> str:
        """Stand where the twin would."""
        return self.url + "/v1"

    async def pay(self, request: web.Request) -> web.StreamResponse:
        """Take an order to pay."""
        self.orders.append(await request.json())
        return _answered(request, self.on_pay(self.orders[-1]))

    async def look(self, request: web.Request) -> web.StreamResponse:
        """Be looked at."""
        self.looks.append(request.match_info["key"])
        return _answered(request, self.on_look(self.looks[-1]))


def _answered(request: web.Request, answer: Answer) -> web.StreamResponse:
    if answer is None:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    status, document = answer
    return web.json_response(document, status=status)


async def tell(url: str, secret: str, transfer_id: str, state: str) -> int:
    """Send the gateway a signed webhook; return what it answered."""
    body = json.dumps({"id": str(uuid.uuid4()), "transfer": {"id": transfer_id, "state": state}})
    signature = hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest()
    headers = {"Dummy-Signature": signature, "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/custodians/dummy/webhooks", data=body, headers=headers) as answer,
    ):
        return answer.status


@asynccontextmanager
async def custodian(
    on_pay: Callable[[dict[str, Any]], Answer], on_look: Callable[[str], Answer]
) -> AsyncIterator[Custodian]:
    """Listen on loopback."""
    made = Custodian(on_pay, on_look)
    app = web.Application()
    app.router.add_post("/v1/transfers", made.pay)
    app.router.add_get("/v1/transfers/{key}", made.look)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()
