"""A batch that waits behind another one at its account does not wait for ever, and nothing of it is said wrongly."""

from __future__ import annotations

import json

import pytest

from gateway.adapter import Report, SubStatus
from gateway.batches.runner import BatchSteps, Handover
from gateway.rules import OwnRules
from gateway.store.batches import batch_row
from gateway.store.rules import activate
from gateway.store.state import freeze
from tests.api.conftest import Api
from tests.api.test_batches import apply, batch, create, item

WITHIN_S = 6 * 3600.0


def steps(api: Api, rules: str | None = None) -> BatchSteps:
    """Return the steps of batches as one process takes them, with the time that a payout may wait."""
    context = api.context
    return BatchSteps(
        context.runtime,
        context.payouts,
        context.quotes,
        context.batches,
        {"acme_eu": Handover(2, 3)},
        {"acme_eu": api.engine.recorder},
        rules=rules,
        submit_within_s=WITHIN_S,
    )


async def queued(api: Api) -> tuple[str, str]:
    """Execute two batches of one account; return the one that has the turn, and the one that waits."""
    first, second = await create(api, item(1)), await create(api, item(2), item(3))
    for each in (first, second):
        await api.clock.advance(1)
        await api.call("POST", f"/payout-batches/{each['id']}/execute", body={})
    return first["id"], second["id"]


async def go_on(api: Api, made: BatchSteps, batch_id: str) -> str:
    """Take steps until there is nothing more to do at once; return the state of the batch."""
    while (await api.context.db.run(made.step, batch_id)).more:
        pass
    return str((await batch(api, batch_id))["state"])


async def test_it_ends_as_not_sent(api: Api) -> None:
    """By elapsed time since it was seen to wait; each of its payouts is told, and the other one goes on."""
    first, second = await queued(api)
    made = steps(api)
    assert await go_on(api, made, first) == "executing"
    assert await go_on(api, made, second) == "requested"
    await api.clock.advance(WITHIN_S - 1)
    assert await go_on(api, made, second) == "requested"
    await api.clock.advance(1)
    assert await go_on(api, made, second) == "failed"
    told = await batch(api, second)
    assert (told["failure"]["code"], told["failure"]["funds_moved"]) == ("not_sent_in_time", "no")
    _, page = await api.call("GET", f"/payout-batches/{second}/payouts")
    assert {each["failure"]["code"] for each in page["data"]} == {"not_sent_in_time"}
    assert await go_on(api, made, first) == "executing"


async def test_one_that_has_begun_to_end_ends_whole(api: Api) -> None:
    """Although its turn comes meanwhile, and a restart: it is not paid in part because it is long."""
    first, long = await create(api, item(1)), await create(api, *map(item, range(2, 62)))
    for each in (first, long):
        await api.clock.advance(1)
        await api.call("POST", f"/payout-batches/{each['id']}/execute", body={})
    made = steps(api)
    await go_on(api, made, first["id"])
    await api.context.db.run(made.step, long["id"])
    await api.clock.advance(WITHIN_S)
    assert (await api.context.db.run(made.step, long["id"])).more
    _, left = await api.call("GET", "/payouts?status=pending&limit=200")
    assert 0 < sum(each["batch_id"] == long["id"] for each in left["data"]) < 60
    for each in left["data"]:
        if each["batch_id"] != long["id"]:
            await apply(api, each["id"], Report(SubStatus.DELIVERED, "DONE"))
    assert await go_on(api, made, first["id"]) == "finalized"
    assert await go_on(api, steps(api), long["id"]) == "failed"


async def test_no_clock_that_is_set_ends_it(api: Api) -> None:
    """Nor does a restart of the process give it more time: it counts since the execution."""
    first, second = await queued(api)
    await go_on(api, steps(api), first)
    api.clock.step(10 * WITHIN_S)
    assert await go_on(api, steps(api), second) == "requested"
    await api.clock.advance(WITHIN_S - 1)
    assert await go_on(api, steps(api), second) == "requested"
    await api.clock.advance(1)
    assert await go_on(api, steps(api), second) == "failed"


async def test_another_clock_counts_from_when_it_saw_it_wait(api: Api) -> None:
    """After a reboot, or on another machine; what either has counted is kept for its next process."""
    first, second = await queued(api)
    await go_on(api, steps(api), first)
    own = api.clock._clock_id
    await api.clock.advance(WITHIN_S - 10)
    api.clock._clock_id = "another boot"
    assert await go_on(api, steps(api), second) == "requested"
    await api.clock.advance(9)
    assert await go_on(api, steps(api), second) == "requested"
    api.clock._clock_id = own
    assert await go_on(api, steps(api), second) == "requested"
    await api.clock.advance(1)
    api.clock._clock_id = "another boot"
    assert await go_on(api, steps(api), second) == "requested"
    await api.clock.advance(WITHIN_S - 11)
    assert await go_on(api, steps(api), second) == "requested"
    await api.clock.advance(1)
    assert await go_on(api, steps(api), second) == "failed"


async def test_so_many_clocks_are_kept(api: Api) -> None:
    """A process without a clock of its machine has one of its own, and may be restarted often."""
    first, second = await queued(api)
    await go_on(api, steps(api), first)
    for number in range(30):
        api.clock._clock_id = f"boot {number}"
        assert await go_on(api, steps(api), second) == "requested"
    row = await api.context.db.read(batch_row, second)
    assert row is not None
    assert list(json.loads(row["queued_since"])) == [f"boot {n}" for n in range(10, 30)]


@pytest.mark.parametrize("why", ["an old copy", "other rules"])
async def test_nothing_ends_where_nobody_may_say_so(api: Api, why: str) -> None:
    """A database that may be an old copy ends nothing, nor does a gateway with other limits and routes."""
    first, second = await queued(api)
    own = OwnRules(api.context.settings).digest
    made = steps(api, own)
    await go_on(api, made, first)
    await go_on(api, made, second)
    context, at = api.context, api.clock.moment().wall
    if why == "an old copy":
        await context.db.run(freeze, context.runtime.ids, at, why)
    else:
        await context.db.run(activate, context.runtime.ids, at, "others", "{}", "ann", why)
    await api.clock.advance(2 * WITHIN_S)
    assert await go_on(api, made, second) == "requested"
