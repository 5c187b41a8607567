"""The delivery loop: by plan, at least once, never two tries at once, nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks import Webhook

from gateway.adapter import Report, SubStatus
from gateway.calling import Calling
from gateway.config.settings import EngineSettings, Settings, WebhookSettings
from gateway.metrics import Metrics
from gateway.runtime import Ids
from gateway.store import deliveries as rows
from gateway.store import events
from gateway.vault import Vault
from gateway.webhooks.endpoints import Endpoints
from gateway.webhooks.fair_queue import Claim
from gateway.webhooks.sender import Sender
from gateway.webhooks.share import BURST, PACE_S, Share
from gateway.webhooks.subscriptions import EndpointCreated, EndpointRequest
from gateway.webhooks.worker import Deliveries
from tests.clock import SetClock
from tests.delivery_clients import client
from tests.execution.conftest import Bench


class Hook:
    """A receiver whose answer the test sets."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.tries: list[tuple[str, bytes, dict[str, str]]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        """Take a try."""
        self.tries.append(
            (request.headers["webhook-id"], await request.read(), dict(request.headers))
        )
        return web.Response(status=self.status, headers=self.headers)


@asynccontextmanager
async def hook() -> AsyncIterator[Hook]:
    """Run a receiver."""
    made = Hook()
    app = web.Application()
    app.router.add_post("/", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        yield made
    finally:
        await runner.cleanup()


@asynccontextmanager
async def delivering(
    bench: Bench, plan: tuple[float, ...] = (5, 300), **more: Any
) -> AsyncIterator[Deliveries]:
    """Run the delivery loop."""
    settings = WebhookSettings(allow_private_addresses=True, retry_plan_s=plan, **more)
    # Signatures carry the wall clock; retries run by the bench's clock.
    async with client() as http:
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
        task = asyncio.create_task(deliveries.run())
        try:
            yield deliveries
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await deliveries.finish(1)


def endpoints_of(bench: Bench) -> Endpoints:
    """Return the use cases of endpoints."""
    settings = Settings.model_validate(
        {
            "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "webhooks": {"allow_private_addresses": True, "endpoints_per_org": 1000},
            "database": Path("unused"),
        }
    )
    return Endpoints(bench.runtime, Vault(bytes(32), bench.runtime.ids), settings)


async def subscribe(bench: Bench, url: str, *patterns: str) -> EndpointCreated:
    """Create an endpoint for the bench's org."""
    request = EndpointRequest(url=url, event_types=list(patterns))
    return await bench.db.run(endpoints_of(bench).create, bench.caller, request)


async def until(look: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(10):
        while not look():
            await asyncio.sleep(0.005)


async def later(bench: Bench, deliveries: Deliveries, seconds: float) -> None:
    """Advance the clock. The loop may be about to fall asleep by the old time: ring it, too.

    First what was received is written: after a jump its lease would have ended.
    """
    receipts = deliveries._receipts
    receipts.hurry()
    await until(lambda: not receipts._waiting and receipts._writing is None)
    await bench.clock.advance(seconds)
    deliveries.wakeup.ring()


async def settled(bench: Bench, payout_id: str) -> list[tuple[str, int]]:
    """Return state and tries of the payout's deliveries."""
    return [
        (row["state"], row["attempts"])
        for row in await bench.db.read(rows.deliveries_of, payout_id)
    ]


async def test_a_receiver_that_is_down_gets_it_later(bench: Bench) -> None:
    """Tried by the plan with the same id and bytes and a new timestamp, until it answers 2xx."""
    async with hook() as made, delivering(bench) as deliveries:
        endpoint = await subscribe(bench, made.url)
        made.status = 500
        payout_id = await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: len(made.tries) == 1)
        await _settles(bench, payout_id, ("pending", 1))
        await later(bench, deliveries, 3)
        await asyncio.sleep(0.05)
        assert len(made.tries) == 1
        made.status = 204
        await later(bench, deliveries, 4)
        await until(lambda: len(made.tries) == 2)
        await _settles(bench, payout_id, ("delivered", 2))
        (first, second) = made.tries
        assert first[:2] == second[:2]
        assert int(second[2]["webhook-timestamp"]) - int(first[2]["webhook-timestamp"]) == 7
        tries = await bench.db.read(rows.attempts_of_payout, payout_id)
        assert [(each["outcome"], each["http_status"]) for each in tries] == [
            ("http_error", 500),
            ("succeeded", 204),
        ]
        assert endpoint.secret.startswith("whsec_")


async def test_the_plan_ends(bench: Bench) -> None:
    """After its last try a delivery is exhausted, and stays in the log."""
    async with hook() as made, delivering(bench, plan=(5,)) as deliveries:
        await subscribe(bench, made.url)
        made.status = 500
        payout_id = await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: len(made.tries) == 1)
        await _settles(bench, payout_id, ("pending", 1))
        await later(bench, deliveries, 10)
        await _settles(bench, payout_id, ("exhausted", 2))
        await later(bench, deliveries, 10**6)
        await asyncio.sleep(0.05)
        assert len(made.tries) == 2


async def test_filters_and_bodies(bench: Bench) -> None:
    """An endpoint gets what it asked for; the body is that of the event, frozen."""
    async with hook() as made, delivering(bench) as deliveries:
        endpoint = await subscribe(bench, made.url, "payout.del*", "payout.failed")
        payout_id = await bench.accept()
        await bench.db.run(bench.payouts.apply, payout_id, Report(SubStatus.DELIVERED, "COMPLETED"))
        deliveries.wakeup.ring()
        await until(lambda: len(made.tries) == 1)
        (message_id, body, headers) = made.tries[0]
        stored = (await bench.db.read(events.events_of, payout_id))[-1]
        assert (message_id, body) == (stored["id"], stored["body"])
        # The bench's clock is set, so that the reference library must be told the age itself.
        assert headers["webhook-signature"].startswith("v1,")
        assert (
            Webhook(endpoint.secret).sign(message_id, bench.clock.now(), body.decode())
            in headers["webhook-signature"]
        )


async def test_a_dead_worker_loses_nothing(bench: Bench) -> None:
    """A claim whose process died is taken up again after its lease."""
    async with hook() as made:
        await subscribe(bench, made.url)
        payout_id = await bench.accept()
        clock: SetClock = bench.clock
        bench.runtime = replace(bench.runtime, ids=Ids(clock))
        async with delivering(bench) as dying:
            await until(lambda: bool(made.tries))
            await dying.finish(1)
        await bench.clock.advance(1)
        await _settles(bench, payout_id, ("delivered", 1))


async def _settles(bench: Bench, payout_id: str, expected: tuple[str, int]) -> None:
    async with asyncio.timeout(10):
        while await settled(bench, payout_id) != [expected]:
            await asyncio.sleep(0.005)


async def test_few_tries_begin_in_one_turn_of_the_loop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event of an org with many endpoints: the loop serves others in between, and all are sent."""
    most = now = 0
    begin = Deliveries._begin

    def counted(self: Deliveries, claim: Claim, org: str) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        begin(self, claim, org)

    def turn() -> None:
        nonlocal now
        now = 0
        watching[0] = asyncio.get_running_loop().call_soon(turn)

    monkeypatch.setattr(Deliveries, "_begin", counted)
    watching = [asyncio.get_running_loop().call_soon(turn)]
    async with hook() as made, delivering(bench) as deliveries:
        for number in range(40):
            await subscribe(bench, f"{made.url}?{number}")
        for count in (40, 80):
            await bench.accept()
            deliveries.wakeup.ring()
            # The first round finds out whether they answer, the second one may send to all at once.
            await until(lambda count=count: len(made.tries) == count)  # type: ignore[misc]
    watching[0].cancel()
    assert 1 < most <= 4


async def test_the_tries_of_an_org_give_way_to_a_request_of_another(bench: Bench) -> None:
    """An event to 40 endpoints: a few tries begin while another org's request is in progress."""
    async with hook() as made, delivering(bench) as deliveries:
        for number in range(40):
            await subscribe(bench, f"{made.url}?{number}")
        await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: len(made.tries) == 40)
        # The bench's clock stands still: an org that is held back stays so.
        await bench.clock.advance(1)
        with deliveries._share._calling.request("another"):
            await bench.accept()
            deliveries.wakeup.ring()
            await until(lambda: len(made.tries) == 40 + BURST)
            await asyncio.sleep(0.1)
            assert len(made.tries) == 40 + BURST
            await bench.clock.advance(PACE_S)
            await until(lambda: len(made.tries) == 40 + BURST + 1)
        await until(lambda: len(made.tries) == 80)


async def test_a_new_secret_signs_the_next_delivery(bench: Bench) -> None:
    """What is kept of an endpoint is read again after a change by this process, at once."""
    async with hook() as made, delivering(bench) as deliveries:
        endpoint = await subscribe(bench, made.url)
        for count in range(1, 4):
            await bench.accept()
            deliveries.wakeup.ring()
            await until(lambda count=count: len(made.tries) == count)  # type: ignore[misc]
            signatures = made.tries[-1][2]["webhook-signature"].split()
            assert len(signatures) == count
            if count < 3:
                await bench.db.run(deliveries._endpoints.rotate, bench.caller, endpoint.id, 3600)
