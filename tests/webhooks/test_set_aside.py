"""An endpoint whose stored secret does not open waits alone; everybody else's deliveries go on."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
import structlog
from aiohttp import web

from gateway.caller import Caller
from gateway.calling import Calling
from gateway.config.settings import EngineSettings, WebhookSettings
from gateway.errors import Refused
from gateway.events import Event, publish
from gateway.metrics import Metrics
from gateway.store import endpoints as rows
from gateway.store.database import Tx
from gateway.webhooks.sender import Sender, client_for
from gateway.webhooks.share import Share
from gateway.webhooks.subscriptions import EndpointChange, EndpointRequest
from gateway.webhooks.worker import Deliveries
from tests.execution.conftest import Bench
from tests.webhooks.test_sender import receiver
from tests.webhooks.test_worker import endpoints_of


@pytest.mark.parametrize("column", ["secret", "sealed_headers"])
async def test_a_damaged_secret_stops_no_other_endpoint(bench: Bench, column: str) -> None:
    """Its deliveries wait, the operator is alerted once, and they are sent once it opens again."""
    taken: list[str] = []

    async def take(request: web.Request) -> web.Response:
        taken.append(request.path)
        return web.Response()

    async def say(org: str) -> None:
        event = Event("payout.created", b"{}")
        await bench.db.run(publish, bench.runtime, org, "live", bench.clock.now(), [event])

    async def write(tx: Tx, endpoint_id: str, value: bytes) -> None:
        await rows.update_endpoint(tx, endpoint_id, **{column: value})

    settings, metrics = WebhookSettings(allow_private_addresses=True), Metrics()
    async with receiver(take) as url, client_for(settings) as http:
        ids = {}
        for org in ("bad", "good"):
            request = EndpointRequest(
                url=f"{url}/{org}", sensitive_headers={"X-Token": "a-token-of-ours"}
            )
            caller = Caller(org, "live", "key_1")
            ids[org] = (await bench.db.run(endpoints_of(bench).create, caller, request)).id
        row = await bench.db.read(rows.endpoint_row, ids["bad"])
        assert row is not None
        whole = bytes(row[column])
        await bench.db.run(write, ids["bad"], whole[:-1] + bytes([whole[-1] ^ 1]))
        deliveries = Deliveries(
            db=bench.db,
            runtime=bench.runtime,
            endpoints=endpoints_of(bench),
            sender=Sender(http, settings, bench.runtime),
            settings=settings,
            engine=EngineSettings(idle_s=3600),
            metrics=metrics,
            gateway_id="gw_test",
            share=Share(bench.runtime.clock, Calling(bench.runtime.clock)),
        )
        for org in ("bad", "good"):
            await say(org)
        gauge = ("payout_gateway_attention", {"code": "endpoint_unreadable"})
        with structlog.testing.capture_logs() as logs:
            task = asyncio.create_task(deliveries.run())
            try:
                async with asyncio.timeout(10):
                    for count in (1, 2, 3):
                        while taken.count("/good") < count:
                            await asyncio.sleep(0.005)
                        # Longer than it is left alone: it is read again, and not told again.
                        await bench.clock.advance(61)
                        await say("good")
                        deliveries.wakeup.ring()
                    assert "/bad" not in taken
                    assert metrics.registry.get_sample_value(*gauge) == 1
                    with pytest.raises(Refused, match="rotate-secret"):
                        await bench.db.read(endpoints_of(bench).target, ids["bad"])
                    await bench.db.run(write, ids["bad"], whole)
                    while "/bad" not in taken:
                        await bench.clock.advance(61)
                        deliveries.wakeup.ring()
                        await asyncio.sleep(0.02)
                    assert metrics.registry.get_sample_value(*gauge) == 0
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                await deliveries.finish(1)
        told = [each for each in logs if each["event"] == "endpoint_set_aside"]
        assert [each["endpoint_id"] for each in told] == [ids["bad"]]
        assert "does not open" in told[0]["reason"]


async def test_a_damaged_secret_can_be_replaced(bench: Bench) -> None:
    """The org rotates it itself, with or without an overlap."""
    use = endpoints_of(bench)
    made = await bench.db.run(
        use.create, bench.caller, EndpointRequest(url="https://hooks.example.com/")
    )

    async def damage(tx: Tx) -> None:
        await rows.update_endpoint(tx, made.id, secret=bytes(60), sealed_headers=bytes(60))

    await bench.db.run(damage)
    await bench.db.run(use.rotate, bench.caller, made.id, 3600)
    change = EndpointChange.model_validate({"sensitive_headers": {"X-Token": "another-one"}})
    await bench.db.run(use.update, bench.caller, made.id, change)
    found = await bench.db.read(use.target, made.id)
    assert found is not None
    assert len(found.target.secrets) == 1
