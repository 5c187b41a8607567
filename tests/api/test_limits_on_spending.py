"""Limits over HTTP: what a partner is told, and that nothing is used up by a refusal."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.config.settings import Settings
from gateway.config.spending import SpendingSettings
from gateway.execution.operator import Resolution, resolve
from gateway.keys import recognise
from gateway.store.spending import all_counters
from tests.api.conftest import WALLET, Api, open_api
from tests.api.test_batches import create, item

LIMITS: list[dict[str, Any]] = [
    {"name": "one", "per": "payout", "amount": "50"},
    {"name": "daily", "per": "day", "amount": "100", "each": ["org"]},
]


LAX = SpendingSettings.model_validate({"limits": [{**LIMITS[1], "amount": "1000"}]})
LOW = SpendingSettings.model_validate({"limits": [{**LIMITS[0], "amount": "5"}]})


@pytest.fixture
async def limited(settings: Settings) -> AsyncIterator[Api]:
    """An API with a limit a payout, and one a day and org."""
    limits = {"spending": {"limits": LIMITS}}
    members = settings.model_dump() | {"server_key": settings.server_key} | limits
    async with open_api(Settings.model_validate(members)) as api:
        yield api


async def test_a_quote_above_a_payouts_limit_is_refused(limited: Api) -> None:
    """It names the limit, and that waiting does not help."""
    body = {"external_ref": "u", "destination": WALLET, "asset": "USDC", "amount": "50.01"}
    problem = await limited.problem(
        "POST", "/payouts/quote", body=body, idempotency_key=secrets.token_hex(8)
    )
    assert (problem["status"], problem["code"]) == (422, "limit_exceeded")
    assert (problem["limit"], problem["frees_at"]) == ("one", None)


async def test_a_limit_is_explained_as_it_would_refuse_the_quote(limited: Api) -> None:
    """The candidates stay; the code says that a quote of this amount is refused."""
    body = {"destination": WALLET, "asset": "USDC", "amount": "50"}
    _, told = await limited.call("POST", "/routes/explain", body=body)
    assert (len(told["candidates"]), told["code"]) == (1, None)
    _, told = await limited.call("POST", "/routes/explain", body={**body, "amount": "50.01"})
    assert (len(told["candidates"]), told["code"]) == (1, "limit_exceeded")
    assert "one" in told["detail"]


async def test_a_payout_above_the_days_limit_is_refused(limited: Api) -> None:
    """The quote serves again once the limit frees, or another payout turns out to be unpaid."""
    await limited.pay(amount="50")
    await limited.pay(amount="43")
    quote = await limited.quote(amount="10")
    body: dict[str, Any] = {"quote_id": quote["quote_id"]}
    problem = await limited.problem("POST", "/payouts", body=body)
    assert (problem["status"], problem["code"], problem["retryable"]) == (
        422,
        "limit_exceeded",
        False,
    )
    assert problem["limit"] == "daily"
    assert problem["frees_at"].endswith("T00:00:00.000Z")
    # Another org has a counter of its own.
    await limited.pay(amount="50", org="other")
    assert (await limited.problem("POST", "/payouts", body=body))["code"] == "limit_exceeded"


async def test_a_refusal_that_is_kept_uses_nothing_up(limited: Api) -> None:
    """Under an idempotency key the refusal is the answer, and is committed: with nothing beside it."""
    await limited.pay(amount="50")
    await limited.pay(amount="43")
    quote = await limited.quote(amount="10")
    body = {"quote_id": quote["quote_id"]}
    for _ in range(2):
        status, problem = await limited.call("POST", "/payouts", body=body, idempotency_key="one")
        assert (status, problem["code"]) == (422, "limit_exceeded")
    async with open_api(limited.context.settings.model_copy(update={"spending": LAX})) as lax:
        status, _ = await lax.call(
            "POST",
            "/payouts",
            body=body,
            authorization=f"Bearer {await limited.key()}",
            idempotency_key="two",
        )
    assert status == 201


async def test_a_cap_that_is_lowered_frees_the_quote(limited: Api) -> None:
    """Between the quote and the payout: it is refused, and the quote serves where the cap is raised."""
    quote = await limited.quote(amount="40")
    body = {"quote_id": quote["quote_id"]}
    low = limited.context.settings.model_copy(update={"spending": LOW})
    by = f"Bearer {await limited.key()}"
    async with open_api(low) as other:
        problem = await other.problem(
            "POST", "/payouts", body=body, authorization=by, idempotency_key="one"
        )
        assert (problem["code"], problem["limit"]) == ("limit_exceeded", "one")
    status, _ = await limited.call("POST", "/payouts", body=body, idempotency_key="two")
    assert status == 201


async def test_fifty_callers_and_one_limit(limited: Api) -> None:
    """Over HTTP: two payouts of 43 fit, forty-eight do not."""
    quotes = [(await limited.quote())["quote_id"] for _ in range(50)]

    async def pay(quote_id: str) -> int:
        return (await limited.call("POST", "/payouts", body={"quote_id": quote_id}))[0]

    answers = await asyncio.gather(*map(pay, quotes))
    assert sorted(set(answers)) == [201, 422]
    assert answers.count(201) == 2


async def test_an_item_that_ends_just_before_its_batch_is_executed_is_not_counted(
    limited: Api,
) -> None:
    """An operator ends it after the amounts were read and before the execution, which reads them again."""
    made = await create(limited, item(1, amount="45"), item(2, amount="45"))
    context = limited.context
    caller = await context.db.read(recognise, context.runtime, await limited.key())
    amounts = await context.db.read(context.batches.amounts, caller, made["id"])
    _, page = await limited.call("GET", f"/payout-batches/{made['id']}/payouts")
    found = Resolution(delivered=True, evidence="seen", transfer="t-1")
    runtime, recorder = context.runtime, limited.engine.recorder
    await context.db.run(resolve, recorder, runtime, page["data"][0]["id"], found)
    view = await context.db.run(context.batches.execute, caller, made["id"], amounts)
    assert view.delivered_count == 1
    (row,) = await context.db.read(all_counters)
    assert (row["count"], row["amount"]) == (1, "45")


async def test_a_batch_above_a_limit(limited: Api) -> None:
    """An item above a payout's limit is named at the creation; the whole sum counts at the execution."""
    body = {
        "source": {"custodian": "acme_eu", "account": {"id": "A1", "type": "VAULT"}},
        "payouts": [item(1), item(2, amount="51")],
    }
    problem = await limited.problem(
        "POST", "/payout-batches", body=body, idempotency_key=secrets.token_hex(8)
    )
    assert [(each["pointer"], each["code"]) for each in problem["errors"]] == [
        ("/payouts/1", "limit_exceeded")
    ]
    made = await create(limited, *(item(n, amount="40") for n in range(3)))
    problem = await limited.problem("POST", f"/payout-batches/{made['id']}/execute")
    assert (problem["code"], problem["limit"]) == ("limit_exceeded", "daily")
    assert problem["frees_at"] is None
    small = await create(limited, *(item(n, amount="45") for n in range(10, 12)))
    assert (await limited.call("POST", f"/payout-batches/{small['id']}/execute"))[0] == 202
    quote = await limited.quote(amount="11")
    problem = await limited.problem("POST", "/payouts", body={"quote_id": quote["quote_id"]})
    assert problem["limit"] == "daily"
