"""The loop that asks a custodian whose breaker is half-open: by one read, at its time, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest

from gateway.custodians.breaker import Breaker, BreakerState
from gateway.custodians.instance import CustodianInstance
from gateway.custodians.probes import Probes
from gateway.metrics import Metrics
from gateway.model import Account
from tests.clock import SetClock

ACCOUNT = Account(id="A", type="VAULT")
OPEN_S = 10


@dataclass
class Custodian:
    """A custodian instance of which only a read may be asked; anything else fails the test."""

    #: what a read leads to; the last one again and again
    answers: list[Callable[[], bool]]
    name: str = "acme"
    asked: list[Account | None] = field(default_factory=list)

    async def probe(self, account: Account | None) -> bool:
        """Make one read."""
        self.asked.append(account)
        return (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])()


@asynccontextmanager
async def watched(
    clock: SetClock, breaker: Breaker, custodian: Custodian
) -> AsyncIterator[Metrics]:
    """Let the loop run."""
    metrics = Metrics()
    probes = Probes(cast("CustodianInstance", custodian), breaker, ACCOUNT, clock, metrics)
    loop = asyncio.create_task(probes.run())
    await settled()
    try:
        yield metrics
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


async def settled() -> None:
    """Let the loop do what it can do without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


async def advance(clock: SetClock, seconds: float) -> None:
    """Let time pass, and the loop do what is due then."""
    await clock.advance(seconds)
    await settled()


def gauge(metrics: Metrics) -> bool:
    """Whether the gauge says that it is open."""
    return b'payout_gateway_breaker_open{custodian="acme"} 1.0' in metrics.render()[0]


async def test_a_read_closes_it_once_the_time_is_over() -> None:
    """Not a moment before; then everything is sent again, and nobody asks any more."""
    clock = SetClock()
    breaker = Breaker(clock, faults=1, open_s=OPEN_S)

    def answers() -> bool:
        breaker.answered()
        return True

    custodian = Custodian([answers])
    async with watched(clock, breaker, custodian) as metrics:
        await advance(clock, 100)
        assert custodian.asked == []
        breaker.fault("unreachable")
        await settled()
        assert gauge(metrics)
        await advance(clock, OPEN_S - 1)
        assert custodian.asked == []
        await advance(clock, 1)
        assert custodian.asked == [ACCOUNT]
        assert breaker.state is BreakerState.CLOSED
        assert not gauge(metrics)
        await advance(clock, 1000)
        assert custodian.asked == [ACCOUNT]


async def test_it_asks_later_and_later_while_there_is_no_answer() -> None:
    """A read that fails opens it for twice as long: noted by the connections, or before there was a request."""
    clock = SetClock()
    breaker = Breaker(clock, faults=1, open_s=OPEN_S)

    def fails() -> bool:
        breaker.fault("failing")
        return True

    def fails_before_the_request() -> bool:
        return True

    custodian = Custodian([fails, fails_before_the_request])
    async with watched(clock, breaker, custodian):
        breaker.fault("unreachable")
        await settled()
        for count, wait in enumerate((OPEN_S, 2 * OPEN_S, 4 * OPEN_S), start=1):
            await advance(clock, wait - 1)
            assert len(custodian.asked) == count - 1
            await advance(clock, 1)
            assert len(custodian.asked) == count
            assert breaker.state is BreakerState.OPEN


@pytest.mark.parametrize("answers", [True, False])
async def test_where_there_is_no_read_it_closes_on_trial(*, answers: bool) -> None:
    """The next payout is the trial: the next fault opens it again at once."""
    clock = SetClock()
    breaker = Breaker(clock, faults=3, open_s=OPEN_S)
    async with watched(clock, breaker, Custodian([lambda: False])):
        for _ in range(3):
            breaker.fault("unreachable")
        await settled()
        await advance(clock, OPEN_S)
        assert breaker.state is BreakerState.CLOSED
        if answers:
            breaker.answered()
        breaker.fault("unreachable")
        assert breaker.state is (BreakerState.CLOSED if answers else BreakerState.OPEN)
