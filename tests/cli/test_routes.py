"""`routes explain`: what would be taken by the configuration, and why not the others."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.cli.test_commands import run

ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
ROUTE = """
[[routes]]
name = "{name}"
destination = "address"
custodian = "{custodian}"
account = {{ id = "A", type = "ACCOUNT" }}
networks = ["Ethereum"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with two custodians, whose adapters are never asked."""
    path = tmp_path / "g.toml"
    key = base64.b64encode(bytes(32)).decode()
    dummy = (
        'adapter = "dummy"\nbase_url = "http://127.0.0.1:9"\napi_key = "k"\nwebhook_secret = "s"\n'
    )
    path.write_text(
        f'server_key = "{key}"\ndatabase = "g.db"\n'
        f"[custodians.one]\n{dummy}[custodians.two]\n{dummy}"
        + ROUTE.format(name="first", custodian="one")
        + 'policy = "cheapest"\nfee = { flat = "2" }\n'
        + ROUTE.format(name="second", custodian="two")
        + 'fee = { flat = "1" }\n'
        + ROUTE.format(name="theirs", custodian="two")
        + 'orgs = ["rival"]\n'
    )
    run("db", "upgrade", "--config", path)
    return path


def test_what_would_be_taken(config: Path) -> None:
    """The cheaper one; once it is paused, the other one."""
    asked = ("routes", "explain", ADDRESS, "--org", "acme", "--asset", "USDC", "--config", config)
    said = run(*asked, "--amount", "100")
    assert "Could pay, the best one first (cheapest)" in said
    assert said.index("│ second") < said.index("│ first") < said.index("Left out")
    assert "is for other orgs" in said
    run("pause", "custodian", "two", "--reason", "a rumour", "--config", config)
    told = json.loads(run(*asked, "--amount", "100", "--json"))
    assert [each["route"] for each in told["candidates"]] == ["first"]
    assert [(each["route"], each["reason"]) for each in told["left_out"]] == [
        ("second", "paused"),
        ("theirs", "org"),
    ]
    said = run(*asked, "--amount", "2")
    assert "no route (no_route)" in said
    wished = ("--custodian", "one", "--account", "ACCOUNT:A")
    told = json.loads(run(*asked, "--amount", "100", "--json", *wished))
    assert told["candidates"][0]["custodian"] == "one"


def test_what_cannot_be_asked(config: Path) -> None:
    """Each fault of the question is named."""
    asked = ("routes", "explain", "--org", "acme", "--config", config)
    good = (ADDRESS, "--asset", "USDC", "--amount", "100")
    assert "amount" in run(*asked, ADDRESS, "--asset", "USDC", "--amount", "1,5", code=2)
    assert "no JSON" in run(*asked, "{x", "--asset", "USDC", "--amount", "1", code=2)
    assert "together" in run(*asked, *good, "--custodian", "one", code=2)
    assert "live or test" in run(*asked, *good, "--mode", "dev", code=2)
    assert "not known" in run(*asked, ADDRESS, "--asset", "NOPE", "--amount", "1", code=1)
