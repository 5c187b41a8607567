"""A whole gateway without custodians, and events for it: the one process whose speed is measured.

Reads one JSON object from its first argument: `database`, `base` (the receiver), `endpoints`, `hanging`,
`webhooks` (settings), and `events` with `rate` per second; a `rate` of 0 writes them all before the
first is sent. Prints, one line of JSON each, when an event was committed; then runs until it is stopped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any

import structlog
import uvloop

from gateway.app import Gateway, open_gateway
from gateway.config import Settings
from gateway.events import Event, publish
from gateway.examples import example_event
from gateway.keys import Caller
from gateway.store import endpoints as rows
from gateway.store.database import Tx
from gateway.webhooks.subscriptions import EndpointRequest

_KIND = "payout.delivered"
_TICK_S = 0.02


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


async def produce(gateway: Gateway, wanted: dict[str, Any]) -> None:
    """Write events in turn for each org, with their deliveries, as a payout's change does."""
    runtime = gateway.context.runtime
    body = json.loads(example_event("payout.delivered", datetime.now(UTC), livemode=True))
    raw = json.dumps(body, separators=(",", ":")).encode()
    count, rate = wanted["events"], wanted["rate"]
    begun, written = time.monotonic(), 0

    async def one(tx: Tx, number: int) -> str:
        org = f"org-{number % wanted['endpoints']}"
        now = runtime.clock.now()
        (published,) = await publish(tx, runtime, org, "live", now, [Event(_KIND, raw)])
        return published.id

    async def written_one(number: int) -> None:
        event_id = await gateway.db.run(one, number)
        sys.stdout.write(json.dumps([event_id, time.monotonic_ns()]) + "\n")
        if rate:
            gateway.context.wake("deliveries")

    while written < count:
        due = count if not rate else min(count, int((time.monotonic() - begun) * rate))
        due = min(due, written + 500)
        if due > written:
            await asyncio.gather(*(written_one(number) for number in range(written, due)))
            sys.stdout.flush()
            written = due
        if rate:
            await asyncio.sleep(_TICK_S)
    sys.stdout.write('"written"\n')
    sys.stdout.flush()


async def run(wanted: dict[str, Any]) -> None:
    """Produce and deliver."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
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
        if not wanted["rate"]:
            await produce(gateway, wanted)
            await asyncio.to_thread(sys.stdin.readline)
        async with gateway.workers.running(fail):
            if wanted["rate"]:
                await produce(gateway, wanted)
            await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(run(json.loads(sys.argv[1])))
