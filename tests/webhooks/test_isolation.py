"""One org's endpoints on names that never resolve stop no other org's deliveries."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import pytest
from aiohttp import web

from gateway.caller import Caller
from gateway.calling import Calling
from gateway.config.settings import EngineSettings, WebhookSettings
from gateway.events import Event, publish
from gateway.metrics import Metrics
from gateway.webhooks.sender import Sender, client_for
from gateway.webhooks.share import Share
from gateway.webhooks.subscriptions import EndpointRequest
from gateway.webhooks.worker import Deliveries
from tests.egress.test_lookups import Names, names
from tests.execution.conftest import Bench
from tests.webhooks.test_sender import receiver
from tests.webhooks.test_worker import endpoints_of

__all__ = ["names"]


async def test_endpoints_on_dead_names_stop_no_other_org(
    bench: Bench, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than there is room for, all due at once, before the other org's events."""
    monkeypatch.setattr(socket, "getaddrinfo", names.lookup)
    settings = WebhookSettings(
        timeout_s=20, lookup_timeout_s=20, allow_private_addresses=True, in_flight=32
    )
    taken = 0

    async def take(_: web.Request) -> web.Response:
        nonlocal taken
        taken += 1
        return web.Response()

    async def say(org: str) -> None:
        now = bench.clock.now()
        event = Event("payout.created", b"{}")
        await bench.db.run(publish, bench.runtime, org, "live", now, [event])

    async with receiver(take) as url, client_for(settings) as http:
        port = url.rpartition(":")[2]
        for org, hosts in (("bad", [f"{n}.dead" for n in range(80)]), ("good", ["a.alive"])):
            for host in hosts:
                request = EndpointRequest(url=f"http://{host}:{port}/", rate_limit_per_second=5000)
                caller = Caller(org, "live", "key_1")
                await bench.db.run(endpoints_of(bench).create, caller, request)
        deliveries = Deliveries(
            db=bench.db,
            runtime=bench.runtime,
            endpoints=endpoints_of(bench),
            sender=Sender(http, settings, bench.runtime),
            settings=settings,
            engine=EngineSettings(idle_s=3600),
            metrics=Metrics(),
            gateway_id="gw_test",
            share=Share(bench.runtime.clock, Calling(bench.runtime.clock)),
        )
        await say("bad")
        task = asyncio.create_task(deliveries.run())
        try:
            async with asyncio.timeout(10):
                while names.hanging < 4:
                    await asyncio.sleep(0.01)
                for count in range(1, 21):
                    await say("good")
                    deliveries.wakeup.ring()
                    while taken < count:
                        await asyncio.sleep(0.005)
            assert names.hanging == 4
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            names.let_go.set()
            await deliveries.finish(0)
