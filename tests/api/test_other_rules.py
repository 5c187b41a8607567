"""A gateway whose limits and routes are not the active ones lets nothing in: another one would pay it."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from gateway.api.health import _ready
from gateway.config.settings import Settings
from gateway.config.spending import SpendingSettings
from gateway.rules import OwnRules
from gateway.store.rules import activate
from gateway.store.state import state_row
from tests.api.conftest import WALLET, Api, open_api
from tests.api.test_batches import batch, create, go_on, item

LOW = SpendingSettings.model_validate(
    {"limits": [{"name": "daily", "per": "day", "amount": "5", "each": ["org"]}]}
)
QUOTE = {"external_ref": "u", "destination": WALLET, "asset": "USDC", "amount": "10"}


async def make_active(api: Api, rules: OwnRules) -> None:
    """Activate rules, as an operator does."""
    db, ids = api.context.db, api.context.runtime.ids
    await db.run(activate, ids, 0, rules.digest, rules.text, "ann", "why")


@pytest.fixture
async def stale(api: Api) -> Api:
    """A gateway whose rules are the active ones, until a test activates others."""
    assert api.context.rules is not None
    await make_active(api, api.context.rules)
    return api


def other_rules(settings: Settings) -> OwnRules:
    """Return rules that are stricter than those of the gateway."""
    return OwnRules(settings.model_copy(update={"spending": LOW}))


def key() -> dict[str, Any]:
    """Return a new idempotency key."""
    return {"idempotency_key": secrets.token_hex(8)}


async def test_nothing_new_is_let_in(stale: Api, settings: Settings) -> None:
    """Quotes, payouts of quotes given before, batches and their execution; nothing is used up by it."""
    quote = await stale.quote(amount="10")
    payout = {"quote_id": quote["quote_id"]}
    made = await create(stale, item(1))
    path = f"/payout-batches/{made['id']}/execute"
    source = {"custodian": "acme_eu", "account": {"id": "A1", "type": "VAULT"}}
    calls: tuple[tuple[str, Any], ...] = (
        ("/payouts/quote", QUOTE),
        ("/payouts", payout),
        ("/payout-batches", {"source": source, "payouts": [item(2)]}),
        (path, None),
    )
    await make_active(stale, other_rules(settings))
    for where, body in calls:
        problem = await stale.problem("POST", where, body=body, **key())
        assert (problem["status"], problem["code"]) == (503, "not_accepting"), where
        assert "limits and routes" in problem["detail"]
    ready = _ready(stale.context, await stale.context.db.read(state_row))
    assert (ready["accepting"], ready["status"]) == (False, "ready")
    assert stale.context.rules is not None
    await make_active(stale, stale.context.rules)
    assert [(await stale.call("POST", each, body=body, **key()))[0] for each, body in calls] == [
        200,
        201,
        201,
        202,
    ]


async def test_what_was_accepted_is_answered_as_before(stale: Api, settings: Settings) -> None:
    """A quote that has become a payout names it, and can be read."""
    quote = await stale.quote(amount="10")
    _, payout = await stale.call("POST", "/payouts", body={"quote_id": quote["quote_id"]})
    await make_active(stale, other_rules(settings))
    problem = await stale.problem("POST", "/payouts", body={"quote_id": quote["quote_id"]})
    assert (problem["code"], problem["payout_id"]) == ("quote_already_used", payout["id"])
    assert (await stale.call("GET", f"/payouts/{payout['id']}"))[0] == 200


async def test_limits_that_are_not_active_refuse_nothing(stale: Api, settings: Settings) -> None:
    """By its own limits it would be too much: that would be kept as the answer, and is nobody's rule."""
    quote = await stale.quote(amount="10")
    by = f"Bearer {await stale.key()}"
    async with open_api(settings.model_copy(update={"spending": LOW})) as low:
        problem = await low.problem(
            "POST", "/payouts", body={"quote_id": quote["quote_id"]}, authorization=by, **key()
        )
    assert problem["code"] == "not_accepting"
    assert (await stale.call("POST", "/payouts", body={"quote_id": quote["quote_id"]}))[0] == 201


async def test_a_batch_goes_on_by_the_active_rules(stale: Api, settings: Settings) -> None:
    """Terms are fixed, and items handed over, by a gateway that has them; a cancel is not held up."""
    made = await create(stale, item(1), item(2))
    await stale.call("POST", f"/payout-batches/{made['id']}/execute")
    await make_active(stale, other_rules(settings))
    await go_on(stale, made["id"])
    assert (await batch(stale, made["id"]))["state"] == "requested"
    assert stale.context.rules is not None
    await make_active(stale, stale.context.rules)
    await go_on(stale, made["id"])
    assert (await batch(stale, made["id"]))["state"] == "executing"
    await make_active(stale, other_rules(settings))
    await stale.call("POST", f"/payout-batches/{made['id']}/cancel")
    await go_on(stale, made["id"])
    assert (await batch(stale, made["id"]))["state"] == "canceled"
