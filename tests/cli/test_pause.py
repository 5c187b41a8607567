"""`pause` and `resume`: what they print, how they end, and that a misspelt name stops nothing silently."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import pytest

from gateway.config.settings import load
from gateway.runtime import real_runtime
from gateway.store.opening import open_database
from tests.cli.test_commands import create, run
from tests.store.rows import add_execution, add_payout


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a custodian, whose adapter is never asked."""
    path = tmp_path / "g.toml"
    key = base64.b64encode(bytes(32)).decode()
    path.write_text(
        f'server_key = "{key}"\ndatabase = "g.db"\n'
        '[custodians.dummy]\nadapter = "dummy"\n'
        '[[routes]]\ndestination = "address"\ncustodian = "dummy"\n'
        'account = { id = "A", type = "ACCOUNT" }\n'
    )
    run("db", "upgrade", "--config", path)
    return path


def test_pause_and_resume(config: Path) -> None:
    """Each scope; what remains paused is printed, and the acts are in the audit log."""
    why = ("--reason", "a rumour", "--config", config)
    said = run("pause", "all", *why)
    assert "paused: all payouts; new quotes are refused" in said
    assert "no payout waits now" in said
    said = run("pause", "custodian", "dummy", "--keep-accepting", *why)
    assert "new quotes are given, and wait" in said
    made = json.loads(run("pause", "account", "dummy", "ACCOUNT", "A", "--json", *why))
    assert (made["scope"], made["waiting"]) == ("account", 0)
    create(config)
    run("pause", "asset", "usdc", *why)  # in any case of letters
    run("pause", "org", "acme", *why)
    listed = json.loads(run("pause", "list", "--config", config, "--json"))["data"]
    assert [each["paused"] for each in listed] == [
        "all payouts",
        "custodian dummy",
        "account ACCOUNT A of dummy",
        "asset USDC",
        "org acme",
    ]
    said = run("resume", "all", *why)
    assert "resumed" in said
    assert "still paused: custodian dummy (by the operator): a rumour" in said
    for scope in (("custodian", "dummy"), ("account", "dummy", "ACCOUNT", "A"), ("asset", "usdc")):
        run("resume", *scope, *why)
    assert json.loads(run("resume", "org", "acme", "--json", *why)) == {"still_paused": []}
    assert "is not paused" in run("resume", "org", "acme", *why, code=1)
    log = run("audit", "list", "--config", config, "--json")
    assert log.count('"paused"') == log.count('"resumed"') == 5


def test_what_is_paused_already_is_told(config: Path) -> None:
    """Since when and why; the new reason and terms are those of now."""
    why = ("--config", config, "--reason")
    assert json.loads(run("pause", "all", "--json", *why, "a rumour"))["already"] is False
    said = run("pause", "all", *why, "a leak")
    assert "already paused since 20" in said
    assert (
        "all payouts (a rumour); the reason is the new one now, and new quotes are refused" in said
    )
    said = run("pause", "all", "--keep-accepting", *why, "a leak")
    assert "new quotes are given, and wait, as they were not before" in said
    assert json.loads(run("pause", "all", "--json", *why, "a leak"))["already"] is True
    (listed,) = json.loads(run("pause", "list", "--config", config, "--json"))["data"]
    assert (listed["reason"], listed["keep_accepting"]) == ("a leak", False)


def test_a_misspelt_name_is_refused(config: Path) -> None:
    """A pause of it would stop nothing; so is a reason that says nothing."""
    why = ("--reason", "x", "--config", config)
    assert "custodians: dummy" in run("pause", "custodian", "dumy", *why, code=2)
    assert "accounts: ACCOUNT A" in run("pause", "account", "dummy", "ACCOUNT", "B", *why, code=2)
    assert "assets: " in run("pause", "asset", "USCD", *why, code=2)
    assert "no API key" in run("pause", "org", "acme", *why, code=2)
    run("pause", "all", "--reason", " ", "--config", config, code=2)
    assert json.loads(run("pause", "list", "--config", config, "--json")) == {"data": []}


def test_what_waits_is_printed_with_its_time(config: Path) -> None:
    """How many, and when they fail."""

    async def wait() -> None:
        runtime = real_runtime()
        async with open_database(load(config), runtime) as db:
            payout_id = await db.run(add_payout)
            await db.run(add_execution, payout_id, at=runtime.clock.moment())

    asyncio.run(wait())
    said = run("pause", "all", "--reason", "x", "--config", config)
    assert "1 payout waits now; unless resumed before, the first fails as not_sent_in_time" in said


def test_limits_are_shown(config: Path) -> None:
    """The caps, also where nothing is spent."""
    shown = json.loads(run("limits", "show", "--config", config, "--json"))
    assert shown == {"caps": {"payout_cap_usd": "100000"}, "data": []}
    assert "payout_cap_usd" in run("limits", "show", "--config", config)
