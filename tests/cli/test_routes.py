"""`routes explain`: what would be taken by the configuration, and why not the others."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.adapter import Balance
from gateway.config.settings import load
from gateway.funds.balances import Balances
from gateway.funds.reservations import Funds, account_rules
from gateway.runtime import real_runtime
from gateway.store.opening import open_database
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
    said = run(*asked, "--amount", "2", code=1)
    assert "refused (no_route): No route can pay this now." in said
    assert json.loads(run(*asked, "--amount", "2", "--json", code=1))["code"] == "no_route"
    wished = ("--custodian", "one", "--account", "ACCOUNT:A")
    told = json.loads(run(*asked, "--amount", "100", "--json", *wished))
    assert told["candidates"][0]["custodian"] == "one"


def test_what_is_paused_while_payouts_are_accepted(config: Path) -> None:
    """Another one is taken; where there is none, it is told that the payout would wait."""
    asked = ("routes", "explain", ADDRESS, "--org", "acme", "--asset", "USDC", "--config", config)
    why = ("--keep-accepting", "--reason", "a rumour", "--config", config)
    run("pause", "custodian", "two", *why)
    told = json.loads(run(*asked, "--amount", "100", "--json"))
    assert [each["route"] for each in told["candidates"]] == ["first"]
    assert told["left_out"][0]["reason"] == "paused"
    run("pause", "custodian", "one", *why)
    assert "second: custodian two is paused: a payout would wait" in run(*asked, "--amount", "100")


def test_limits_and_balances_are_asked(config: Path) -> None:
    """A cap on one payout and a limit of a day refuse it; a short account is left out."""
    config.write_text(
        config.read_text()
        + '[spending]\npayout_cap_usd = "500"\n'
        + '[[spending.limits]]\nname = "daily"\nper = "day"\namount = "150"\n'
    )
    asked = ("routes", "explain", ADDRESS, "--org", "acme", "--asset", "USDC", "--config", config)
    said = run(*asked, "--amount", "501", code=1)
    assert "Could pay" in said
    assert "refused (limit_exceeded): The limit 'payout_cap_usd' allows 500 USD a payout" in said
    assert "The limit 'daily'" in run(*asked, "--amount", "151", code=1)
    run(*asked, "--amount", "150")

    asyncio.run(read_balance(config, Decimal(20)))
    told = json.loads(run(*asked, "--amount", "100", "--json"))
    assert [each["route"] for each in told["candidates"]] == ["first"]
    assert told["left_out"][0]["detail"] == "ACCOUNT A lacks 80 USDC"


def test_a_shortage_of_the_only_route_is_told(config: Path) -> None:
    """As in its quote; where the account reserves, the payout would be refused."""
    wish = ("--custodian", "two", "--account", "ACCOUNT:A", "--config", config)
    asked = (
        "routes",
        "explain",
        ADDRESS,
        "--org",
        "acme",
        "--asset",
        "USDC",
        "--amount",
        "100",
        *wish,
    )
    asyncio.run(read_balance(config, Decimal(20)))
    assert "second: ACCOUNT A lacks 80 USDC" in run(*asked)
    told = json.loads(run(*asked, "--json"))
    assert (told["code"], told["insufficient_funds"]["needed"]) == (None, "80")
    text = config.read_text()
    config.write_text(text.replace("[custodians.two]", "[custodians.two]\nreserve = true"))
    asyncio.run(read_balance(config, Decimal(20)))
    said = run(*asked, code=1)
    assert "refused (insufficient_funds): The account ACCOUNT 'A' at 'two' lacks 80 USDC." in said
    config.write_text(config.read_text() + 'on_shortage = "wait"\n')
    assert json.loads(run(*asked, "--json", code=1))["code"] == "insufficient_funds"
    config.write_text(
        config.read_text().replace('{ flat = "1" }', '{ flat = "1" }\non_shortage = "wait"')
    )
    assert "second: ACCOUNT A lacks 80 USDC" in run(*asked)


def test_a_balance_that_is_not_known_is_told(config: Path) -> None:
    """A payout would be refused, or would wait, as it is configured; one read elsewhere is not judged."""
    wish = ("--custodian", "two", "--account", "ACCOUNT:A", "--config", config)
    asked = ("routes", "explain", ADDRESS, "--org", "acme", "--asset", "USDC", "--amount", "10")
    text = config.read_text()
    reserving = text.replace("[custodians.two]", "[custodians.two]\nreserve = true")
    assert "balance" not in run(*asked, *wish).lower()
    config.write_text(reserving)
    said = run(*asked, *wish, code=1)
    assert "refused (balance_unknown): The balance of the account ACCOUNT 'A' at 'two' is" in said
    told = json.loads(run(*asked, *wish, "--json", code=1))
    assert (told["code"], told["balance_remark"]) == ("balance_unknown", None)
    config.write_text(
        reserving.replace("reserve = true", 'reserve = true\non_old_balance = "wait"')
    )
    waits = "is not known, or too old: a payout would wait for the next read"
    assert f"second: the balance of ACCOUNT A {waits}" in run(*asked, *wish)
    config.write_text(reserving)
    asyncio.run(read_balance(config, Decimal(20), clock_id="another machine"))
    told = json.loads(run(*asked, *wish, "--json"))
    assert (told["code"], told["insufficient_funds"]) == (None, None)
    assert "the running gateway alone" in told["balance_remark"]
    asyncio.run(read_balance(config, Decimal(20)))
    told = json.loads(run(*asked, *wish, "--json"))
    assert (told["code"], told["balance_remark"]) == (None, None)


async def read_balance(config: Path, amount: Decimal, clock_id: str | None = None) -> None:
    """Note a balance of the account of the second custodian, perhaps by another machine's clock."""
    runtime = real_runtime()
    settings = load(config)
    async with open_database(settings, runtime) as db:
        funds = Funds(runtime, account_rules(settings, {"two": 0.0}))
        balances = Balances(runtime, funds, frozenset({"two"}))
        (rule,) = funds.rules.values()
        now = runtime.clock.moment()
        now = now if clock_id is None else replace(now, clock_id=clock_id)
        await db.run(balances.settle, now)
        number = await db.run(balances.begin_read, rule, (), now, 0)
        assert number is not None
        held = [Balance("USDC", amount, None, runtime.clock.now())]
        await db.run(balances.note_read, rule, number, now, held)


def test_what_cannot_be_asked(config: Path) -> None:
    """Each fault of the question is named."""
    asked = ("routes", "explain", "--org", "acme", "--config", config)
    good = (ADDRESS, "--asset", "USDC", "--amount", "100")
    assert "amount" in run(*asked, ADDRESS, "--asset", "USDC", "--amount", "1,5", code=2)
    assert "no JSON" in run(*asked, "{x", "--asset", "USDC", "--amount", "1", code=2)
    assert "together" in run(*asked, *good, "--custodian", "one", code=2)
    assert "live or test" in run(*asked, *good, "--mode", "dev", code=2)
    assert "not known" in run(*asked, ADDRESS, "--asset", "NOPE", "--amount", "1", code=1)
