"""A test event waits for its turn as every delivery does, and an endpoint has one test in progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from gateway.errors import Refused
from gateway.webhooks import worker
from gateway.webhooks.fair_queue import Ready
from gateway.webhooks.sender import DeliveryOutcome, DeliveryResult, Target
from gateway.webhooks.worker import Deliveries
from tests.execution.conftest import Bench
from tests.webhooks.test_sender import receiver
from tests.webhooks.test_worker import delivering, subscribe, until


@dataclass
class Held:
    """A receiver that answers on command, and counts concurrent requests."""

    url: str = ""
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    took: list[str] = field(default_factory=list)
    now: int = 0
    most: int = 0

    async def take(self, request: web.Request) -> web.Response:
        """Hold a delivery."""
        self.took.append(request.headers["webhook-id"])
        self.now += 1
        self.most = max(self.most, self.now)
        await self.go_on.wait()
        self.now -= 1
        return web.Response(text="held")


@asynccontextmanager
async def holding() -> AsyncIterator[Held]:
    """Run such a receiver."""
    held = Held()
    async with receiver(held.take) as url:
        held.url = url + "/"
        try:
            yield held
        finally:
            held.go_on.set()


def begin_test(
    deliveries: Deliveries, endpoint_id: str, url: str, number: int, rate: int = 5000
) -> asyncio.Task[DeliveryResult]:
    """Send a test event."""
    ready = Ready(endpoint_id, "acme-org", rate)
    target = Target(url, (bytes(32),))
    return asyncio.create_task(
        deliveries.test(ready, target, f"evt_test{number}", "payout.created", b"{}")
    )


async def test_one_test_in_progress(bench: Bench) -> None:
    """The second one is refused, at once; another endpoint's is not; after the end there is another."""
    async with holding() as held, delivering(bench) as deliveries:
        first = begin_test(deliveries, "whe_1", held.url, 1)
        await until(lambda: held.now == 1)
        with pytest.raises(Refused, match="endpoint_busy") as refused:
            await begin_test(deliveries, "whe_1", held.url, 2)
        assert refused.value.headers["Retry-After"] == "10"
        other = begin_test(deliveries, "whe_2", held.url, 3)
        await until(lambda: held.now == 2)
        held.go_on.set()
        assert [(await each).snippet for each in (first, other)] == ["held", "held"]
        assert (await begin_test(deliveries, "whe_1", held.url, 4)).ok
    assert held.took == ["evt_test1", "evt_test3", "evt_test4"]


async def test_a_test_waits_for_the_deliveries_under_way(bench: Bench) -> None:
    """Nobody knows yet whether the endpoint answers: one try at a time, a test like any other."""
    async with holding() as held, delivering(bench) as deliveries:
        endpoint = await subscribe(bench, held.url, "payout.created")
        await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: held.now == 1)
        test = begin_test(deliveries, endpoint.id, held.url, 1)
        for _ in range(50):
            await asyncio.sleep(0.002)
            assert len(held.took) == 1
        held.go_on.set()
        assert (await test).ok
    assert held.took[1:] == ["evt_test1"]
    assert held.most == 1


async def test_tests_use_up_the_rate(bench: Bench) -> None:
    """As deliveries do: with one a second, the second test waits until a second has passed."""
    async with holding() as held, delivering(bench) as deliveries:
        held.go_on.set()
        assert (await begin_test(deliveries, "whe_1", held.url, 1, rate=1)).ok
        second = begin_test(deliveries, "whe_1", held.url, 2, rate=1)
        await asyncio.sleep(0.05)
        assert not second.done()
        await bench.clock.advance(1)
        deliveries.wakeup.ring()
        assert (await second).ok


async def test_whoever_hangs_up_takes_the_test_back(bench: Bench) -> None:
    """Where it has not begun nothing is sent. Where it has it keeps its place until it ends."""
    async with holding() as held, delivering(bench) as deliveries:
        endpoint = await subscribe(bench, held.url, "payout.created")
        await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: held.now == 1)
        gone = begin_test(deliveries, endpoint.id, held.url, 1)
        await asyncio.sleep(0.01)
        await _cancel(gone)
        begun = begin_test(deliveries, "whe_other", held.url, 2)
        await until(lambda: held.now == 2)
        await _cancel(begun)
        with pytest.raises(Refused, match="endpoint_busy"):
            await begin_test(deliveries, "whe_other", held.url, 3)
        again = begin_test(deliveries, endpoint.id, held.url, 4)
        held.go_on.set()
        assert (await again).ok
        await until(lambda: held.now == 0)
        assert (await begin_test(deliveries, "whe_other", held.url, 5)).ok
    assert held.took[1:] == ["evt_test2", "evt_test4", "evt_test5"]


async def test_a_turn_that_does_not_come(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is an answer in bounded time; nothing was sent, and the next test may begin."""
    monkeypatch.setattr(worker, "_TURN_S", 0.05)
    async with holding() as held, delivering(bench) as deliveries:
        endpoint = await subscribe(bench, held.url, "payout.created")
        await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: held.now == 1)
        for number in range(3):
            with pytest.raises(Refused, match="endpoint_busy"):
                await begin_test(deliveries, endpoint.id, held.url, number)
        held.go_on.set()
        await until(lambda: held.now == 0)
        monkeypatch.setattr(worker, "_TURN_S", 10)
        result = await begin_test(deliveries, endpoint.id, held.url, 9)
        assert result.outcome is DeliveryOutcome.SUCCEEDED
    assert held.took[1:] == ["evt_test9"]


async def _cancel(task: asyncio.Task[DeliveryResult]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
