"""Which verbs an adapter must define: the engine calls them for every payout."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint
from typing import ClassVar

import aiohttp
import pytest
from pydantic import BaseModel

from gateway.adapter import (
    Absent,
    Adapter,
    BatchOrder,
    BatchReport,
    CannotLook,
    Capabilities,
    Ids,
    Order,
    Report,
    Tools,
)
from gateway.assets import AssetRegistry
from gateway.config.settings import EngineSettings
from gateway.custodians import registry
from gateway.custodians.registry import GROUP, Wanted, build, find_adapters, missing_verbs
from gateway.errors import ConfigError, Unsupported
from gateway.metrics import Metrics
from gateway.runtime import offload
from tests.adapters.orders import OrderForTest
from tests.clock import SetClock


class NoSettings(BaseModel):
    """Nothing to set."""


class _Bare(Adapter[NoSettings]):
    name = "bare"
    Settings: ClassVar[type[BaseModel]] = NoSettings
    capabilities = Capabilities(frozenset({"address"}))


class _Single(_Bare):
    async def submit(self, order: Order) -> Report:
        raise NotImplementedError

    async def fetch(self, order: Order) -> Report | Absent | CannotLook:
        raise NotImplementedError


class _HalfSingle(_Bare):
    async def submit(self, order: Order) -> Report:
        raise NotImplementedError


class _Sets(_Bare):
    capabilities = Capabilities(frozenset({"address"}), batch=True)

    async def submit_batch(self, batch: BatchOrder) -> BatchReport:
        raise NotImplementedError

    async def fetch_batch(self, batch: BatchOrder) -> BatchReport | Absent | CannotLook:
        raise NotImplementedError


class _SetsUndeclared(_Sets):
    capabilities = Capabilities(frozenset({"address"}))


class _SingleThatDeclaresSets(_Single):
    capabilities = Capabilities(frozenset({"address"}), batch=True)


@pytest.fixture
async def tools() -> AsyncIterator[Tools]:
    """Real ones, with a clock that stands still."""
    clock = SetClock()
    async with aiohttp.ClientSession() as http:
        yield Tools(http, clock, Ids(clock), offload, AssetRegistry())


def _build(monkeypatch: pytest.MonkeyPatch, kind: type, tools: Tools) -> None:
    entry = EntryPoint("bare", f"{__name__}:{kind.__name__}", GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    build(Wanted("bare_eu", "bare", {}), tools, Metrics(), EngineSettings())


@pytest.mark.parametrize("kind", [_Single, _Sets])
async def test_one_pair_of_verbs_is_enough(
    monkeypatch: pytest.MonkeyPatch, tools: Tools, kind: type
) -> None:
    """Single payouts, or sets: the other pair keeps its default."""
    _build(monkeypatch, kind, tools)


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        (_Bare, "submit and fetch"),
        (_HalfSingle, "fetch"),
        (_SetsUndeclared, "submit and fetch"),
        (_SingleThatDeclaresSets, "submit_batch and fetch_batch"),
    ],
)
async def test_a_missing_verb_is_a_fault_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tools: Tools, kind: type, missing: str
) -> None:
    """It is reported at start, with the verbs by name."""
    with pytest.raises(ConfigError) as faulty:
        _build(monkeypatch, kind, tools)
    (line,) = faulty.value.faults
    assert line == (
        f"custodians.bare_eu.adapter: 'bare' does not define {missing}; an adapter defines submit "
        "and fetch, or submit_batch and fetch_batch with capabilities.batch=True"
    )


async def test_the_defaults_refuse_with_a_clear_message(tools: Tools) -> None:
    """A call of the wrong pair names the right one."""
    sets, single = _Sets(NoSettings(), tools), _Single(NoSettings(), tools)
    with pytest.raises(Unsupported, match="bare defines no submit; a batch adapter pays by sub"):
        await sets.submit(OrderForTest())
    with pytest.raises(Unsupported, match="bare defines no fetch; a batch adapter looks by fetch"):
        await sets.fetch(OrderForTest())
    with pytest.raises(Unsupported, match="sets are not supported by bare"):
        await single.submit_batch(OrderForTest())
    with pytest.raises(Unsupported, match="sets are not supported by bare"):
        await single.fetch_batch(OrderForTest())


def test_every_adapter_of_the_project_defines_its_verbs() -> None:
    """As the registry checks at start."""
    for name, kind in find_adapters().items():
        assert isinstance(kind, type), kind
        assert missing_verbs(kind, batch=kind.capabilities.batch) == (), name
