"""No moving call with credentials that were dated by a wrong clock, also where it was set right since."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from email.utils import format_datetime

import aiohttp
import pytest

from gateway.adapter import Capabilities, NotSent, Report, SubStatus, Tools
from gateway.assets import AssetRegistry
from gateway.custodians.dates import Dates, NotedClock
from gateway.custodians.instance import CustodianInstance
from gateway.metrics import Metrics
from gateway.runtime import Ids, offload
from tests.adapters.orders import OrderForTest
from tests.clock import SetClock
from tests.custodians.odd import SECRET, Odd, OddSettings

SKEW_S = 30.0


class Dated(Odd):
    """An adapter whose credentials are dated by the wall clock."""

    capabilities = Capabilities(frozenset(), dated_by_clock=True, clock_skew_s=SKEW_S)


class Desk:
    """An instance of it. The clock is right at first, and the custodian has just answered."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.clock = SetClock()
        tools = Tools(http, NotedClock(self.clock), Ids(self.clock), offload, AssetRegistry())
        self.adapter = Dated(OddSettings.model_validate({"api_key": SECRET}), tools)
        self.instance = CustodianInstance(
            "dated",
            "dated",
            self.adapter,
            replace(tools, clock=self.clock),
            Metrics(),
            5,
            fingerprints=("/".join,),
            dates=Dates(self.clock),
        )
        self.instance.dates.note(format_datetime(self.clock.now()))

    async def submit(self, *, before: float = 0, after: float = 0, offloaded: bool = False) -> None:
        """Date credentials, with the clock set before and after it; then ask for the mark."""

        async def act() -> Report:
            self.clock.step(before)
            read: Callable[[], object] = self.adapter.tools.clock.now
            await (asyncio.to_thread(read) if offloaded else asyncio.gather(_call(read)))
            self.clock.step(after)
            await self.instance.check_clock()
            return Report(SubStatus.SUBMITTED, "taken")

        self.adapter.act = act
        await self.instance.submit(OrderForTest())


async def _call(read: Callable[[], object]) -> None:
    read()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """A desk."""
    async with aiohttp.ClientSession() as http:
        yield Desk(http)


async def test_a_right_clock_is_trusted(desk: Desk) -> None:
    """Also where it is corrected a little, as time servers do."""
    await desk.submit()
    await desk.submit(before=SKEW_S / 3, after=-SKEW_S / 3)


@pytest.mark.parametrize("seconds", [3600, -3600, SKEW_S + 1])
async def test_a_wrong_clock_is_refused(desk: Desk, seconds: float) -> None:
    """Both when it dates and when the mark is asked for."""
    with pytest.raises(NotSent, match="our clock is"):
        await desk.submit(before=seconds)


@pytest.mark.parametrize("offloaded", [False, True], ids=["task", "thread"])
@pytest.mark.parametrize("seconds", [3600, -3600, SKEW_S + 1])
async def test_a_clock_that_was_wrong_meanwhile_is_refused(
    desk: Desk, seconds: float, *, offloaded: bool
) -> None:
    """It was right when the verb began and is right at the mark; the credentials are not."""
    with pytest.raises(NotSent, match="while the call was prepared") as refused:
        await desk.submit(before=seconds, after=-seconds, offloaded=offloaded)
    assert refused.value.alert == "clock_skew"
    # The next attempt has a new date.
    await desk.submit()


async def test_both_errors_count_together(desk: Desk) -> None:
    """A little wrong at the mark, and set by a little since: together it is too much."""
    desk.clock.step(-SKEW_S * 2 / 3)
    await desk.submit()
    with pytest.raises(NotSent, match="while the call was prepared"):
        await desk.submit(before=-SKEW_S * 2 / 3, after=SKEW_S * 2 / 3)


async def test_what_was_wrong_before_the_verb_does_not_count(desk: Desk) -> None:
    """Nothing was dated then."""
    desk.clock.step(3600)
    desk.adapter.tools.clock.now()
    desk.clock.step(-3600)
    await desk.submit()


async def test_a_clock_that_is_set_right_since_the_verb_began_is_refused(desk: Desk) -> None:
    """Also where the adapter reads a clock of its own: it may have read it at once."""
    desk.clock.step(3600)
    with pytest.raises(NotSent, match="while the call was prepared"):
        await desk.submit(before=-3600)
