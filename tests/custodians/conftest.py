"""A custodian instance around an adapter that does as it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from pydantic import SecretStr

from gateway import logs
from gateway.adapter import (
    Ids,
    Tools,
)
from gateway.assets import AssetRegistry
from gateway.custodians.dates import Dates
from gateway.custodians.instance import CustodianInstance
from gateway.metrics import Metrics
from gateway.runtime import offload
from tests.clock import SetClock
from tests.custodians.odd import SECRET, Bench, Odd, OddSettings


@pytest.fixture
async def tools() -> AsyncIterator[Tools]:
    """Real ones, with a clock that stands still."""
    clock = SetClock()
    async with aiohttp.ClientSession() as http:
        yield Tools(http, clock, Ids(clock), offload, AssetRegistry())


@pytest.fixture
def bench(tools: Tools) -> Iterator[Bench]:
    """A custodian instance with a deadline of 0.2 s, and logs that can be read."""
    metrics = Metrics()
    adapter = Odd(OddSettings(api_key=SecretStr(SECRET)), tools)
    instance = CustodianInstance(
        "odd_eu",
        "odd",
        adapter,
        tools,
        metrics,
        0.2,
        fingerprints=("/".join,),
        dates=Dates(tools.clock),
    )
    bench = Bench(instance, adapter, metrics, tools)
    logs.SCRUBBER.register(SECRET)
    logs.configure("json", "info", bench.stream)
    yield bench
    logs.unconfigure()
