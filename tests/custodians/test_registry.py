"""Adapters are found by entry point, and built from their settings."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from gateway import logs
from gateway.adapter import KeySemantics, Tools
from gateway.config.settings import EngineSettings
from gateway.custodians import registry
from gateway.custodians.instance import CustodianInstance
from gateway.custodians.registry import GROUP, BrokenAdapter, Wanted, build, find_adapters
from gateway.errors import (
    ConfigError,
)
from gateway.logs import REMOVED
from gateway.metrics import Metrics
from tests.custodians.odd import Odd


def _entries(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    found = [EntryPoint(name, value, GROUP) for name, value in values.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == GROUP else [])


def _build(tools: Tools, adapter: str = "odd", **settings: Any) -> CustodianInstance:
    return build(Wanted("odd_eu", adapter, settings), tools, Metrics(), EngineSettings())


def test_adapters_are_found_and_broken_ones_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad package hides neither itself nor the others."""
    _entries(
        monkeypatch,
        zodd="tests.custodians.odd:Odd",
        gone="no_such_package.adapter:Acme",
        wrong="tests.custodians.odd:OddSettings",
        nothing="tests.custodians.odd:Nothing",
    )
    found = find_adapters()
    assert list(found) == ["gone", "nothing", "wrong", "zodd"]
    assert found["zodd"] is Odd
    reasons = {n: f.reason for n, f in found.items() if isinstance(f, BrokenAdapter)}
    assert "no_such_package" in reasons["gone"]
    assert "Nothing" in reasons["nothing"]
    assert (
        reasons["wrong"]
        == "tests.custodians.odd:OddSettings is not a subclass of gateway.adapter.Adapter"
    )


async def test_an_unknown_adapter_names_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, tools: Tools
) -> None:
    """The message shows how to fix a typing error, and a package that cannot be imported."""
    _entries(monkeypatch, odd="tests.custodians.odd:Odd", gone="no_such_package:Acme")
    with pytest.raises(ConfigError) as unknown:
        _build(tools, "od")
    assert str(unknown.value) == (
        "custodians.odd_eu.adapter: there is no adapter 'od'; "
        "installed: gone (failed to import), odd"
    )
    with pytest.raises(ConfigError, match="'gone' is installed but failed to import: Module"):
        _build(tools, "gone")
    _entries(monkeypatch)
    with pytest.raises(ConfigError, match="installed: none"):
        _build(tools, "odd")


async def test_faults_of_settings_name_the_path_and_no_value(
    monkeypatch: pytest.MonkeyPatch, tools: Tools
) -> None:
    """All at once; what is missing says how to set it; a validator's words lose the value."""
    _entries(monkeypatch, odd="tests.custodians.odd:Odd")
    with pytest.raises(ConfigError) as faulty:
        _build(tools, inner={"pin": ["value-of-pin"]}, url="value-of-url", by_name="value-of-names")
    text = str(faulty.value)
    assert "value-of" not in text
    assert [fault.split(" ")[0].rstrip(":") for fault in faulty.value.faults] == [
        "custodians.odd_eu.api_key",
        "custodians.odd_eu.inner.pin",
        "custodians.odd_eu.by_name",
        "custodians.odd_eu.url",
    ]
    assert "PAYOUT_GATEWAY_CUSTODIANS__ODD_EU__API_KEY" in text
    assert "custodians.odd_eu.api_key_file" in text


async def test_every_secret_setting_is_removed_from_logs(
    monkeypatch: pytest.MonkeyPatch, tools: Tools
) -> None:
    """However deep it lies: in parts, mappings and lists, as text or bytes."""
    _entries(monkeypatch, odd="tests.custodians.odd:Odd")
    values = [f"deep-secret-number-{n}" for n in range(5)]
    instance = _build(
        tools,
        api_key=values[0],
        raw=values[1].encode(),
        inner={"pin": values[2]},
        by_name={"a": values[3]},
        many=[{"pin": values[4]}],
    )
    assert (instance.name, instance.adapter_name) == ("odd_eu", "odd")
    assert instance.capabilities is Odd.capabilities
    assert logs.scrub(" ".join(values)) == " ".join([REMOVED] * 5)


async def test_a_constructor_that_fails_is_a_fault_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tools: Tools
) -> None:
    """It names the instance and not the secret."""
    _entries(monkeypatch, odd="tests.custodians.odd:Stubborn")
    with pytest.raises(ConfigError) as faulty:
        _build(tools, api_key="constructor-secret")
    assert faulty.value.faults == (
        f"custodians.odd_eu: 'odd' cannot start: ValueError: cannot use {REMOVED}",
    )


class Short(Odd):
    """An adapter whose custodian takes short keys."""

    capabilities = replace(Odd.capabilities, keys=KeySemantics(max_length=32))


async def test_keys_that_do_not_fit_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tools: Tools
) -> None:
    """A key that is cut short, or refused at the first payout, is found before there is one."""
    _entries(monkeypatch, odd="tests.custodians.test_registry:Short")
    with pytest.raises(ConfigError, match="keys of 32 characters at most"):
        _build(tools, api_key="k")
