"""A quote or a batch whose account is no longer configured is refused: nothing else pays it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.config.settings import Settings
from gateway.rules import OwnRules
from tests.api.conftest import Api, open_api
from tests.api.test_batches import create, item
from tests.api.test_other_rules import key, make_active

#: Configured by name only, so that taking it out leaves every route as it is.
A2 = {"custodian": "acme_eu", "account": {"id": "A2", "type": "VAULT"}}
Edit = Callable[[Settings], Settings]


def without_account(settings: Settings) -> Settings:
    """Take the account out."""
    return settings.model_copy(update={"accounts": {"acme_eu": ()}})


def for_another_org(settings: Settings) -> Settings:
    """Keep the account, for another org."""
    own = settings.accounts["acme_eu"][0].model_copy(update={"orgs": ("other",)})
    return settings.model_copy(update={"accounts": {"acme_eu": (own,)}})


def in_test_mode(settings: Settings) -> Settings:
    """Keep the custodian, for test keys."""
    there = settings.custodians["acme_eu"].model_copy(update={"modes": ("test",)})
    return settings.model_copy(update={"custodians": {"acme_eu": there}})


EDITS = pytest.mark.parametrize("edit", [without_account, for_another_org, in_test_mode])


@EDITS
@pytest.mark.parametrize("keyed", [False, True])
async def test_a_quote_is_refused_and_stays_unused(
    api: Api, settings: Settings, edit: Edit, *, keyed: bool
) -> None:
    """With an idempotency key, whose answer is kept, and without one. Nothing is counted or opened."""
    quote = await api.quote(route=A2)
    body = {"quote_id": quote["quote_id"]}
    by = {"authorization": f"Bearer {await api.key()}"}
    changed = edit(settings)
    async with open_api(changed, clock=api.clock) as other:
        await make_active(other, OwnRules(changed))
        extra = key() if keyed else {}
        problem = await other.problem("POST", "/payouts", body=body, **by, **extra)
        assert (problem["status"], problem["code"]) == (422, "route_unavailable")
        assert "A2" in problem["detail"]
        assert (await other.call("GET", "/payouts", **by))[1]["data"] == []
    # Configured again within the quote's life, it is an ordinary quote.
    assert api.context.rules is not None
    await make_active(api, api.context.rules)
    assert (await api.call("POST", "/payouts", body=body))[0] == 201


async def test_a_gateway_with_other_rules_refuses_no_route(api: Api, settings: Settings) -> None:
    """Its configuration is not the active one: that is no answer to keep, and the quote can be used."""
    assert api.context.rules is not None
    await make_active(api, api.context.rules)
    quote = await api.quote(route=A2)
    body, options = {"quote_id": quote["quote_id"]}, key()
    by = {"authorization": f"Bearer {await api.key()}"}
    async with open_api(without_account(settings), clock=api.clock) as other:
        problem = await other.problem("POST", "/payouts", body=body, **by, **options)
    assert (problem["status"], problem["code"]) == (503, "not_accepting")
    assert (await api.call("POST", "/payouts", body=body, **options))[0] == 201


@EDITS
async def test_a_batch_is_not_executed(api: Api, settings: Settings, edit: Edit) -> None:
    """Its source is checked when it is executed; it can be executed once the source is back."""
    assert api.context.rules is not None
    await make_active(api, api.context.rules)
    made = await create(api, item(1), source=A2)
    path = f"/payout-batches/{made['id']}/execute"
    by: dict[str, Any] = {"authorization": f"Bearer {await api.key()}"}
    changed = edit(settings)
    async with open_api(changed, clock=api.clock) as other:
        assert (await other.problem("POST", path, **by, **key()))["code"] == "not_accepting"
        await make_active(other, OwnRules(changed))
        problem = await other.problem("POST", path, **by, **key())
        assert (problem["status"], problem["code"]) == (422, "route_unavailable")
    await make_active(api, api.context.rules)
    assert (await api.call("POST", path, **key()))[0] == 202
