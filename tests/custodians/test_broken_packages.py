"""Packages that cannot be used: each says why, and takes neither the list nor the others down."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway import app
from gateway.assets import AssetRegistry
from gateway.cli import adapters
from gateway.config.settings import Settings
from gateway.custodians import registry
from gateway.custodians.contact import Contact
from gateway.custodians.registry import GROUP, BrokenAdapter, find_adapters
from gateway.errors import ConfigError
from gateway.metrics import Metrics
from gateway.runtime import real_runtime
from gateway.vault import Vault

GOOD = "tests.custodians.odd:Odd"
_HEAD = """
from pydantic import BaseModel
from gateway.adapter import Adapter, Capabilities
class None_(BaseModel): pass
class Acme(Adapter):
    name = "acme"
"""
_VERBS = """
    async def submit(self, order): ...
    async def fetch(self, order): ...
"""
#: By name: the module, and a part of the message.
BROKEN = {
    "import_fails": ("import no_such_package", "ModuleNotFoundError: No module named"),
    "exits": ("import sys\nsys.exit(3)", "SystemExit: 3"),
    "names_nothing": ("", "has no attribute 'Acme'"),
    "no_adapter": ("Acme = 5", "is not a subclass of gateway.adapter.Adapter"),
    "no_settings": (_HEAD + _VERBS, "Settings is missing; name its pydantic class"),
    "odd_capabilities": (
        _HEAD + "    Settings = None_\n    capabilities = {}" + _VERBS,
        "capabilities is a dict; use Capabilities(",
    ),
    "no_capabilities": (_HEAD + "    Settings = None_" + _VERBS, "declares no capabilities"),
    "no_verbs": (
        _HEAD + "    Settings = None_\n    capabilities = Capabilities(frozenset())",
        "does not define submit and fetch",
    ),
    "cannot_start": (
        _HEAD
        + "    Settings = None_\n    capabilities = Capabilities(frozenset())"
        + "\n    def __init__(self, settings, tools): raise ValueError('no')"
        + _VERBS,
        "cannot start: ValueError: no",
    ),
}
#: What only shows when an instance is made; the others fail at import.
_AT_START = {"no_capabilities", "no_verbs", "cannot_start"}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a package for every way to be broken, beside a good one."""
    monkeypatch.syspath_prepend(tmp_path)
    entries = [EntryPoint("good", GOOD, GROUP)]
    for name, (text, _) in BROKEN.items():
        (tmp_path / f"broken_{name}.py").write_text(text, encoding="utf-8")
        entries.append(EntryPoint(name, f"broken_{name}:Acme", GROUP))
    monkeypatch.setattr(registry, "entry_points", lambda group: entries if group == GROUP else [])
    yield
    for name in BROKEN:
        sys.modules.pop(f"broken_{name}", None)


def test_the_list_shows_every_package() -> None:
    """Those that cannot be imported with the reason, the others with what they can do."""
    found = find_adapters()
    reasons = {n: each.reason for n, each in found.items() if isinstance(each, BrokenAdapter)}
    assert set(reasons) == set(BROKEN) - _AT_START
    for name, reason in reasons.items():
        assert BROKEN[name][1] in reason
    told = CliRunner().invoke(adapters.app, ["list", "--json"])
    assert told.exit_code == 0, told.output
    rows = {row["name"]: row for row in json.loads(told.output)["data"]}
    assert set(rows) == {"good", *BROKEN}
    assert rows["good"]["works"]
    assert not rows["exits"]["works"]
    assert CliRunner().invoke(adapters.app, ["list"]).exit_code == 0


async def _built(tmp_path: Path, **adapters_of: str) -> tuple[set[str], dict[str, str | None]]:
    settings = Settings.model_validate(
        {
            "database": tmp_path / "g.db",
            "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "custodians": {
                name: {"adapter": adapter} | ({"api_key": "k"} if adapter == "good" else {})
                for name, adapter in adapters_of.items()
            },
        }
    )
    runtime = real_runtime()
    contacts = {name: Contact() for name in settings.custodians}
    vault = Vault(bytes(32), runtime.ids)
    async with contextlib.AsyncExitStack() as stack:
        built = await app._custodians(
            stack, settings, runtime, AssetRegistry(), Metrics(), vault, contacts
        )
        return set(built), {name: each.degraded for name, each in contacts.items()}


@pytest.mark.parametrize("name", BROKEN)
async def test_the_others_are_served(tmp_path: Path, name: str) -> None:
    """A gateway with one broken package starts without it, and its health names it."""
    built, degraded = await _built(tmp_path, one=name, two="good")
    assert built == {"two"}
    assert degraded == {"one": "broken_adapter", "two": None}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_gateway_with_nothing_else_says_why(tmp_path: Path, name: str) -> None:
    """Where no custodian is left there is nothing to serve."""
    with pytest.raises(ConfigError) as fault:
        await _built(tmp_path, one=name)
    assert BROKEN[name][1] in str(fault.value)


async def test_a_fault_of_the_settings_stops_the_start(tmp_path: Path) -> None:
    """It is the operator's to fix; that of a package is reported beside it."""
    with pytest.raises(ConfigError) as fault:
        await _built(tmp_path, one="exits", two="good", three="nobody")
    assert [each.split(":")[0] for each in fault.value.faults] == [
        "custodians.three.adapter",
        "custodians.one.adapter",
    ]


async def test_what_is_not_configured_is_not_imported(tmp_path: Path) -> None:
    """A package that nobody uses can do no harm."""
    await _built(tmp_path, two="good")
    assert not {f"broken_{name}" for name in BROKEN} & set(sys.modules)
