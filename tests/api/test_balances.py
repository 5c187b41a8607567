"""Balances and reservations over HTTP: what a partner sees, and what it is told."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from gateway.adapter import Balance
from gateway.config.settings import Settings
from gateway.funds.balances import Balances, find_ended
from gateway.keys import USUAL_OF_OPERATORS, KeyTerms, mint_key
from gateway.model import Account
from tests.api.conftest import WALLET, Api, open_api
from tests.api.test_batches import create, item

SHARED = Account(id="A1", type="VAULT")
ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


async def settle(api: Api) -> None:
    """Begin to reserve, as the configuration says."""
    funds = api.context.funds
    assert funds is not None
    balances = Balances(api.context.runtime, funds, frozenset({"acme_eu"}))
    await api.context.db.run(balances.settle, api.clock.moment())


async def read(api: Api, amount: str, account: Account = SHARED) -> None:
    """Read a balance, as the loop does."""
    funds, db = api.context.funds, api.context.db
    assert funds is not None
    balances = Balances(api.context.runtime, funds, frozenset({"acme_eu"}))
    rule = funds.rule("acme_eu", account)
    assert rule is not None
    ended = await db.scan(find_ended, rule.key)
    started = api.clock.moment()
    number = await db.run(balances.begin_read, rule, ended, started, 0)
    assert number is not None
    told = [Balance("USDC", Decimal(amount), Decimal(7), api.clock.now(), "Ethereum")]
    await db.run(balances.note_read, rule, number, started, told)


def reserving(settings: Settings, **route: Any) -> Settings:
    """Return a configuration that reserves."""
    document = settings.model_dump() | {"server_key": settings.server_key}
    document["custodians"]["acme_eu"]["reserve"] = True
    document["routes"][0].update(route)
    return Settings.model_validate(document)


@pytest.fixture
async def funded(settings: Settings) -> AsyncIterator[Api]:
    """An API whose payouts reserve, and an account with 100 USDC."""
    async with open_api(reserving(settings)) as api:
        await settle(api)
        await read(api, "100")
        yield api


async def test_what_accounts_can_pay(funded: Api) -> None:
    """The last read, less what is reserved; an account that was never read is unknown."""
    await funded.pay(amount="60")
    await funded.clock.advance(5)
    problem = await funded.problem("GET", "/balances?foo=1")
    assert problem["errors"][0]["detail"] == "foo is not known here; this list has no parameters"
    status, told = await funded.call("GET", "/balances")
    assert (status, told["has_more"], told["next_cursor"]) == (200, False, None)
    first, second = told["data"]
    at = funded.clock.now().strftime("%Y-%m-%dT%H:%M")
    assert first["read_at"].startswith(at)
    assert first.pop("read_at") == first["balances"][0].pop("as_of")
    assert first == {
        "object": "account_balances",
        "custodian": "acme_eu",
        "account": {"id": "A1", "type": "VAULT"},
        "state": "fresh",
        "reserves": True,
        "age_seconds": 5,
        "fault": None,
        "balances": [
            {
                "asset": "USDC",
                "network": "Ethereum",
                "balance": "100",
                "pending": "7",
                "reserved": "60",
                "waiting": "0",
                "available": "40",
            }
        ],
    }
    assert (second["account"]["id"], second["state"], second["balances"]) == ("A2", "unknown", [])
    await funded.clock.advance(300)
    assert (await funded.call("GET", "/balances"))[1]["data"][0]["state"] == "old"


async def test_an_org_sees_the_accounts_that_it_may_use(settings: Settings) -> None:
    """Those of its routes and those that it may name; a key of the operator sees all."""
    document = settings.model_dump() | {"server_key": settings.server_key}
    document["routes"][1]["account"]["id"] = "A9"
    for place, orgs in ((document["routes"][0], ["acme"]), (document["routes"][1], ["other"])):
        place["orgs"] = orgs
    document["accounts"]["acme_eu"][0]["orgs"] = ["other"]
    async with open_api(Settings.model_validate(document)) as api:
        seen = {}
        for org in ("acme", "other", "third"):
            _, told = await api.call("GET", "/balances", org=org)
            seen[org] = [each["account"]["id"] for each in told["data"]]
        terms = KeyTerms(scopes=USUAL_OF_OPERATORS)
        minted = await api.context.db.run(mint_key, api.context.runtime, None, "live", terms)
        _, told = await api.call("GET", "/balances", authorization=f"Bearer {minted.key}")
    assert seen == {"acme": ["A1"], "other": ["A9", "A2"], "third": []}
    assert [each["account"]["id"] for each in told["data"]] == ["A1", "A9", "A2"]


async def test_a_quote_tells_what_is_missing(funded: Api) -> None:
    """It is given all the same; the payout keeps no word of it."""
    quote = await funded.quote(amount="130.5")
    assert quote["insufficient_funds"] == {
        "needed": "30.5",
        "asset": "USDC",
        "network_with_lowest_top_up_fee": "Ethereum",
    }
    assert (await funded.quote(amount="100"))["insufficient_funds"] is None
    payout = await funded.pay(amount="100")
    assert "insufficient_funds" not in payout["quote"]


async def test_a_payout_that_is_not_covered_is_refused(funded: Api) -> None:
    """422, with what is missing, also under an idempotency key; the quote serves once it is there."""
    await funded.pay(amount="60")
    quote = await funded.quote(amount="43")
    body = {"quote_id": quote["quote_id"]}
    for _ in range(2):
        status, problem = await funded.call("POST", "/payouts", body=body, idempotency_key="one")
        assert (status, problem["code"]) == (422, "insufficient_funds")
        assert (problem["needed"], problem["asset"]) == ("3", "USDC")
        assert problem["network_with_lowest_top_up_fee"] == "Ethereum"
    await read(funded, "103")
    _, problem = await funded.call("POST", "/payouts", body=body, idempotency_key="one")
    assert problem["code"] == "insufficient_funds"
    status, payout = await funded.call("POST", "/payouts", body=body, idempotency_key="two")
    assert (status, payout["status"]) == (201, "pending")


async def test_a_fee_counts(funded: Api) -> None:
    """What is reserved is what the user sends."""
    await funded.pay(destination=ADDRESS, network_hint="Ethereum", amount="100")
    _, told = await funded.call("GET", "/balances")
    assert told["data"][0]["balances"][0]["reserved"] == "100"


async def test_an_old_balance_refuses(funded: Api) -> None:
    """503 with Retry-After: nothing is wrong with the request."""
    quote = await funded.quote(amount="1")
    await funded.clock.advance(50)
    await read(funded, "100")
    await funded.clock.advance(9)
    old = reserving(funded.context.settings)
    members = old.model_dump() | {"server_key": old.server_key}
    members["custodians"]["acme_eu"] |= {"balance_every_s": 1, "balance_max_age_s": 8}
    body = {"quote_id": quote["quote_id"]}
    async with open_api(Settings.model_validate(members), clock=funded.clock) as strict:
        by = f"Bearer {await funded.key()}"
        problem = await strict.problem("POST", "/payouts", body=body, authorization=by)
        asked = {"destination": WALLET, "asset": "USDC", "amount": "1"}
        _, told = await strict.call("POST", "/routes/explain", body=asked, authorization=by)
    assert (problem["status"], problem["code"]) == (503, "balance_unknown")
    # The dry run says the same.
    assert (told["code"], told["balance_remark"]) == ("balance_unknown", None)
    assert problem["retryable"] is True
    assert (await funded.call("POST", "/payouts", body=body))[0] == 201


async def test_a_route_may_let_payouts_wait(settings: Settings) -> None:
    """Accepted, and shown as what waits."""
    async with open_api(reserving(settings, on_shortage="wait")) as api:
        await settle(api)
        await read(api, "50")
        payout = await api.pay(amount="60")
        assert (payout["status"], payout["sub_status"]) == ("pending", "created")
        _, told = await api.call("GET", "/balances")
        (line,) = told["data"][0]["balances"]
        assert (line["reserved"], line["waiting"], line["available"]) == ("0", "60", "0")


async def test_a_batch_reserves_its_whole_sum(funded: Api) -> None:
    """At its execution, or not at all."""
    made = await create(funded, *(item(n, amount="40") for n in range(3)))
    path = f"/payout-batches/{made['id']}/execute"
    problem = await funded.problem("POST", path, idempotency_key=secrets.token_hex(8))
    assert (problem["code"], problem["needed"]) == ("insufficient_funds", "20")
    await read(funded, "120")
    assert (await funded.call("POST", path))[0] == 202
    _, told = await funded.call("GET", "/balances")
    assert told["data"][0]["balances"][0]["available"] == "0"
