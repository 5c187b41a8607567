"""What can be checked of an adapter without running it: each rule, and its message."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, SecretStr

from adapters.dummy.adapter import Dummy
from gateway.adapter import KeySemantics
from gateway.custodians import checks, registry
from gateway.custodians.checks import faults_of

_CAN = Dummy.capabilities


class Loose(BaseModel):
    """Settings with every mistake."""

    base_url: str = "https://api.example"
    api_key: str


class Strict(BaseModel):
    """Settings without an address."""

    model_config = ConfigDict(extra="forbid")
    api_key: SecretStr


def changed(**members: Any) -> type[Dummy]:
    """Return the dummy adapter with other members."""
    return type("Changed", (Dummy,), {"__doc__": "One.", "__module__": Dummy.__module__, **members})


@pytest.mark.parametrize("name", ["card_passcode", "dfns", "dummy", "fireblocks"])
def test_the_adapters_of_this_repository_keep_the_rules(name: str) -> None:
    """None of them has a fault."""
    assert faults_of(name) == []


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (changed(name="dumy"), "its name is 'dumy' and its entry point 'dummy'"),
        (changed(Settings=dict), "Settings is no pydantic model"),
        (changed(Settings=Loose), "Settings.base_url has a default"),
        (changed(Settings=Loose), "Settings takes unknown members"),
        (changed(Settings=Loose), "Settings.api_key looks like a secret"),
        (changed(Settings=Strict), "Settings has no base_url"),
        (changed(account_settings=None), "account_settings is not declared"),
        (changed(account_settings=("base_url", "key")), "account_settings names 'key', which"),
        (changed(account_settings=("base_url",)), "account_settings names no credential"),
        (changed(account_settings=("api_key", "timeout_s")), "does not name base_url"),
        (
            changed(capabilities=replace(_CAN, destination_types=frozenset({"iban"}))),
            "capabilities.destination_types has 'iban'",
        ),
        (changed(capabilities=replace(_CAN, batch=True)), "submit_batch is not defined"),
        (
            changed(capabilities=replace(_CAN, cancel=True)),
            "capabilities.cancel is declared, and cancel() is not defined",
        ),
        (
            changed(capabilities=replace(_CAN, webhooks=False)),
            "verify() is defined, and capabilities.webhooks is not declared",
        ),
        (
            changed(capabilities=replace(_CAN, dated_by_clock=True)),
            "capabilities.dated_by_clock is declared, and probe() is not defined",
        ),
        (
            changed(capabilities=replace(_CAN, keys=KeySemantics())),
            "every lost reply would wait for a person",
        ),
    ],
)
def test_each_rule_is_reported(
    monkeypatch: pytest.MonkeyPatch, kind: type[Dummy], fault: str
) -> None:
    """A line names the member and says what to do."""
    monkeypatch.setattr(checks, "find_adapters", lambda: {"dummy": kind})
    assert [each for each in faults_of("dummy") if fault in each], faults_of("dummy")


@pytest.mark.parametrize(
    ("twin", "fault"),
    [
        (None, "no twin 'dummy' is installed"),
        ("no_such_module:main", "the twin no_such_module:main does not load"),
        ("tests.custodians.odd:Odd", "there is no sandbox.toml beside the twin"),
        ("tests.custodians.odd:Odd", "which shares no code with the gateway"),
    ],
)
def test_faults_of_a_twin_are_reported(
    monkeypatch: pytest.MonkeyPatch, twin: str | None, fault: str
) -> None:
    """Not installed, not loading, without its sandbox.toml, or sharing code with what it judges."""
    found = [] if twin is None else [EntryPoint("dummy", twin, checks.TWINS)]
    monkeypatch.setattr(checks, "entry_points", lambda group: found)
    assert [each for each in faults_of("dummy") if fault in each], faults_of("dummy")


def test_what_is_not_installed_or_broken_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, with the group of the entry point, or the reason."""
    assert "no adapter 'nobody' is installed" in faults_of("nobody")[0]
    broken = registry.BrokenAdapter("gone", "ModuleNotFoundError: no")
    monkeypatch.setattr(checks, "find_adapters", lambda: {"gone": broken})
    assert faults_of("gone") == ["the adapter 'gone' does not load: ModuleNotFoundError: no"]
