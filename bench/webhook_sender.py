"""A whole gateway without custodians, and events for it: the one process whose speed is measured.

Reads one JSON object from its first argument: `database`, `base` (the receiver), `endpoints`, `hanging`,
`webhooks` (settings), `port`, and `preload`: so many events are written before the first is sent, once
"go" comes on standard input. Then it serves `POST /publish` on the port: this route is of the benchmark
and not of the product. It publishes an event of the org whose number is the body, as a payout's change
does, and answers with its id and the time of its commit (monotonic, in ns). `GET /used` answers with
what the process has used: CPU seconds, statements, commits.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final

import uvicorn
import uvloop

from gateway import logs
from gateway.app import Gateway, open_gateway
from gateway.caller import Caller
from gateway.config.settings import Settings
from gateway.events import Event, publish
from gateway.examples import example_event
from gateway.server import COLLECTED_AFTER, SWITCH_S
from gateway.store import endpoints as rows
from gateway.store.database import Tx
from gateway.webhooks.subscriptions import EndpointRequest

_KIND: Final = "payout.delivered"
_JSON = [(b"content-type", b"application/json")]


async def subscribe(gateway: Gateway, base: str, count: int, hanging: int) -> None:
    """Make one endpoint for each org; the first `hanging` of them never answer."""
    for number in range(count):
        org = f"org-{number}"
        if await gateway.db.read(rows.subscribed_endpoints, org, "live"):
            continue
        path = "hang" if number < hanging else "ok"
        request = EndpointRequest(url=f"{base}/{path}/{number}", rate_limit_per_second=5000)
        await gateway.db.run(
            gateway.context.endpoints.create, Caller(org, "live", "bench"), request
        )


class Publishing:
    """The publish route, as a bare ASGI application."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._runtime = gateway.context.runtime
        body = json.loads(example_event(_KIND, datetime.now(UTC), livemode=True))
        self._raw = json.dumps(body, separators=(",", ":")).encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["path"] == "/publish":
            message = await receive()
            answer: Any = await self.publish(int(message["body"]))
        elif scope["path"] == "/nothing":
            message = await receive()
            answer = "evt_" + 26 * "0", time.monotonic_ns() + int(message["body"])
        else:
            db = self._gateway.db
            answer = [time.process_time(), db.statements, db.commits]
        head = {"type": "http.response.start", "status": 200, "headers": _JSON}
        await send(head)
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    async def publish(self, number: int) -> tuple[str, int]:
        """Publish an event; return its id and when it was committed."""
        committed: list[int] = []

        async def one(tx: Tx) -> str:
            # Before the sender's own callback: what it begins has not begun yet.
            tx.when_over(lambda _: committed.append(time.monotonic_ns()))
            event = Event(_KIND, self._raw)
            now = self._runtime.clock.now()
            (made,) = await publish(tx, self._runtime, f"org-{number}", "live", now, [event])
            return made.id

        return await self._gateway.db.run(one), committed[-1]


async def preload(publishing: Publishing, wanted: dict[str, Any]) -> None:
    """Write events for each org in turn, and wait until they may be sent."""
    count, written = wanted["preload"], 0
    while written < count:
        upto = min(count, written + 500)
        numbers = range(written, upto)
        await asyncio.gather(*(publishing.publish(n % wanted["endpoints"]) for n in numbers))
        written = upto
    sys.stdout.write(json.dumps({"written": time.process_time()}) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)


async def run(wanted: dict[str, Any]) -> None:
    """Serve and deliver."""
    logs.configure(buffered=True)
    sys.setswitchinterval(SWITCH_S)
    settings = Settings.model_validate(
        {
            "database": wanted["database"],
            "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "webhooks": {"allow_private_addresses": True, **wanted["webhooks"]},
        }
    )

    def fail(error: BaseException) -> None:
        raise SystemExit(f"a loop died: {error!r}")

    async with open_gateway(settings) as gateway:
        await subscribe(gateway, wanted["base"], wanted["endpoints"], wanted["hanging"])
        publishing = Publishing(gateway)
        if wanted["preload"]:
            await preload(publishing, wanted)
        config = uvicorn.Config(
            publishing,
            host="127.0.0.1",
            port=wanted["port"],
            http="httptools",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
        )
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECTED_AFTER)
        async with gateway.workers.running(fail):
            await uvicorn.Server(config).serve()


if __name__ == "__main__":
    uvloop.run(run(json.loads(sys.argv[1])))
