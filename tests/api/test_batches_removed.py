"""A batch whose custodian is no longer configured waits, but not for what can be said without the custodian."""

from __future__ import annotations

import pytest

from gateway.batches.runner import BatchSteps
from gateway.execution.operator import Resolution, resolve
from tests.api.conftest import Api
from tests.api.test_batches import batch, create, go_on, handed_over, ids, item

_DAY_S = 24 * 3600.0


def removed(api: Api) -> BatchSteps:
    """Return the steps of batches at a gateway that has no custodian."""
    context = api.context
    return BatchSteps(context.runtime, context.payouts, context.quotes, context.batches, {}, {})


async def go_on_removed(api: Api, batch_id: str) -> str:
    """Take such steps until there is nothing more to do at once; return the state of the batch."""
    while (await api.context.db.run(removed(api).step, batch_id)).more:
        pass
    return str((await batch(api, batch_id))["state"])


async def resolved(api: Api, payout_id: str) -> None:
    """End a payout as an operator does."""
    found = Resolution(delivered=True, evidence="seen", transfer=f"t-{payout_id}")
    context = api.context
    await context.db.run(resolve, api.engine.recorder, context.runtime, payout_id, found)


async def executed(api: Api, count: int, *, begun: bool = True) -> str:
    """Create a batch and execute it; hand over what fits."""
    made = await create(api, *map(item, range(1, count + 1)))
    status, _ = await api.call("POST", f"/payout-batches/{made['id']}/execute", body={})
    assert status == 202
    if begun:
        await go_on(api, made["id"])
    return str(made["id"])


async def test_it_ends_with_the_last_payout_that_an_operator_resolves(api: Api) -> None:
    """Its end is told; a gateway that has to start without the custodian would be refused for ever otherwise."""
    batch_id = await executed(api, 2)
    first, second = await ids(api, batch_id)
    await resolved(api, first)
    assert await go_on_removed(api, batch_id) == "executing"
    await resolved(api, second)
    assert await go_on_removed(api, batch_id) == "finalized"
    _, feed = await api.call("GET", "/events?limit=200")
    assert [each["type"] for each in feed["data"]].count("batch.finalized") == 1


@pytest.mark.parametrize("how", ["not executed in time", "canceled before its turn"])
async def test_what_was_never_handed_over_ends(api: Api, how: str) -> None:
    """As with a custodian: nothing was sent, and nobody has to be asked."""
    if how == "not executed in time":
        batch_id = (await create(api, item(1), item(2)))["id"]
        assert await go_on_removed(api, batch_id) == "requested"
        await api.clock.advance(_DAY_S)
    else:
        batch_id = await executed(api, 2, begun=False)
        assert await go_on_removed(api, batch_id) == "requested"
        status, _ = await api.call("POST", f"/payout-batches/{batch_id}/cancel", body={})
        assert status == 202
    assert await go_on_removed(api, batch_id) == "canceled"


async def test_what_was_handed_over_is_left_to_the_operator(api: Api) -> None:
    """The custodian may know of it, and cannot be asked; the rest is canceled."""
    batch_id = await executed(api, 5)
    known = await handed_over(api, await ids(api, batch_id))
    assert len(known) == 3
    await api.call("POST", f"/payout-batches/{batch_id}/cancel", body={})
    assert await go_on_removed(api, batch_id) == "executing"
    assert await handed_over(api, known) == known
    assert (await batch(api, batch_id))["failed_count"] == 2
    for each in known:
        await resolved(api, each)
    assert await go_on_removed(api, batch_id) == "finalized"


async def test_nothing_of_it_is_handed_over(api: Api) -> None:
    """Its turn comes when the custodian is configured again."""
    batch_id = await executed(api, 2, begun=False)
    assert await go_on_removed(api, batch_id) == "requested"
    assert await handed_over(api, await ids(api, batch_id)) == []
    await go_on(api, batch_id)
    assert (await batch(api, batch_id))["state"] == "executing"
