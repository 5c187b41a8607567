"""Dummy's adapter against its twin: what is sent, what is believed, what is never sent twice."""

from __future__ import annotations

import socket
from dataclasses import replace
from decimal import Decimal

import aiohttp
import pytest
from aiohttp import web

from adapters.dummy.adapter import Dummy
from gateway.adapter import (
    Absent,
    AddressDestination,
    FailureCode,
    FundsMoved,
    LeaseLost,
    NotSent,
    OutcomeUnknown,
    Ref,
    Rejected,
    Report,
    SubStatus,
)
from tests.adapters.dummy.conftest import Space, listening
from tests.adapters.orders import Mark, OrderForTest
from tests.clock import SetClock


async def _look(space: Space, order: OrderForTest) -> Report:
    """Fetch; it must have been found."""
    seen = await space.adapter.fetch(order.again())
    assert isinstance(seen, Report), seen
    return seen


async def test_a_transfer_goes_from_submit_to_delivered(space: Space) -> None:
    """Each step of the life is told in our words, and the money moves once, as ordered."""
    order = OrderForTest(amount=Decimal("43.5"))
    told = await space.adapter.submit(order)
    assert order.story == ["moving"]
    assert told.sub_status is SubStatus.SUBMITTED
    assert told.refs == (Ref("transfer", str(told.custodian_reference)),)
    assert [each.tx_hash for each in told.transactions] == [None]
    await space.steps(1)
    sent = await _look(space, order)
    assert sent.sub_status is SubStatus.BROADCAST
    assert str(sent.transactions[0].tx_hash).startswith("0x")
    await space.steps(1)
    paid = await _look(space, order)
    assert paid.sub_status is SubStatus.DELIVERED
    assert paid.echo is not None
    assert paid.echo.differences() == ()
    assert paid.echo.reference == order.key("transfer")
    (moved,) = await space.ledger()
    assert (moved["reference"], moved["source"], moved["destination"]) == (
        order.key("transfer"),
        "MAIN",
        "SHOP",
    )
    assert (moved["asset"], Decimal(moved["amount"])) == ("USDC", Decimal("43.5"))


async def test_an_address_is_paid_on_its_network(space: Space) -> None:
    """The other kind of destination: the same address on another network is another payee."""
    place = AddressDestination(network="Solana", address="So1anaAddress")
    order = OrderForTest(destination=place, network="Solana")
    await space.adapter.submit(order)
    await space.steps(2)
    paid = await _look(space, order)
    assert paid.sub_status is SubStatus.DELIVERED
    assert paid.transactions[0].network == "Solana"
    assert [each["destination"] for each in await space.ledger()] == ["Solana:So1anaAddress"]


async def test_a_memo_is_refused_rather_than_dropped(space: Space) -> None:
    """Dummy carries no memo, and without it the money may reach somebody else: nothing is sent."""
    place = AddressDestination(network="Solana", address="So1anaAddress", memo="42")
    order = OrderForTest(destination=place, network="Solana")
    assert "memo" in str(space.adapter.check(order))
    with pytest.raises(Rejected):
        await space.adapter.submit(order)
    assert order.story == []
    assert await space.calls("transfer") == 0


@pytest.mark.parametrize("fault", ["lose_reply", "half_response", "hang_after"])
async def test_a_lost_reply_is_found_by_looking(space: Space, fault: str) -> None:
    """Without an answer nothing is claimed; the look finds the transfer, and it is paid once."""
    await space.fault("transfer", fault)
    order = OrderForTest()
    adapter = space.adapter_with(timeout_s=0.5)
    with pytest.raises((aiohttp.ClientError, TimeoutError)) as lost:
        await adapter.submit(order)
    assert not isinstance(lost.value, aiohttp.ClientConnectorError)
    assert order.moved_now
    assert (await _look(space, order)).sub_status is SubStatus.SUBMITTED
    await space.steps(2)
    assert (await _look(space, order)).sub_status is SubStatus.DELIVERED
    assert len(await space.ledger()) == 1


@pytest.mark.parametrize(("fault", "more"), [("error_after", {}), ("bad_json", {})])
async def test_an_unclear_answer_is_an_unknown_outcome(
    space: Space, fault: str, more: dict[str, int]
) -> None:
    """A 5xx after doing it, or a success that cannot be read: neither a yes nor a no."""
    await space.fault("transfer", fault, **more)
    with pytest.raises(OutcomeUnknown):
        await space.adapter.submit(OrderForTest())


async def test_a_repeat_is_the_same_request_and_pays_once(space: Space) -> None:
    """Key and body of a repeat are the first ones; it is answered by the same transfer."""
    order = OrderForTest()
    first = await space.adapter.submit(order)
    again = order.again()
    second = await space.adapter.submit(again)
    assert second.refs == first.refs
    assert again.marks == [Mark(), Mark()]
    await space.steps(2)
    assert len(await space.ledger()) == 1
    assert await space.calls("transfer") == 2


def test_what_is_declared() -> None:
    """The key never dies, so a repeat is always safe and absence is never proven."""
    can = Dummy.capabilities
    assert (can.call_life_s, can.keys.repeat_is_safe, can.keys.life_s) == (None, True, None)


async def test_another_payouts_transfer_is_a_difference(space: Space) -> None:
    """Whatever the API answers with: the key that it tells must be ours."""
    other = OrderForTest(payout_id="pay_other")
    await space.adapter.submit(other)
    _, told = await space.adapter._call("GET", f"/transfers/{other.key('transfer')}")
    report = space.adapter._report(OrderForTest(), told)
    assert report.echo is not None
    (line,) = report.echo.differences()
    assert line.startswith("reference: ordered ")


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_a_stepped_wall_clock_changes_nothing(space: Space, seconds: float) -> None:
    """Ours, between any two calls; the custodian's goes on."""
    order = OrderForTest()
    await space.adapter.submit(order)
    clock = SetClock()
    clock.step(seconds)
    space.adapter.tools = replace(space.tools, clock=clock)
    assert (await _look(space, order)).sub_status is SubStatus.SUBMITTED
    await space.steps(2)
    assert (await _look(space, order)).sub_status is SubStatus.DELIVERED


async def test_a_key_used_for_something_else_is_an_unknown_outcome(space: Space) -> None:
    """409 means that a first call may have arrived: it is no refusal."""
    order = OrderForTest()
    body = {"source": "MAIN", "asset": "USDC", "amount": "1", "destination": "DEPOT"}
    status, _ = await space.post({"key": order.key("transfer"), **body})
    assert status == 201
    with pytest.raises(OutcomeUnknown, match="409"):
        await space.adapter.submit(order)


async def test_without_a_connection_nothing_was_sent(space: Space) -> None:
    """Nobody listens: the adapter itself vouches that the call never left, also after the mark."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        adapter = space.adapter_with(base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        order = OrderForTest()
        with pytest.raises(NotSent):
            await adapter.submit(order)
    assert order.moved_now
    assert isinstance(await space.adapter.fetch(order.again()), Absent)


async def test_bad_credentials_and_full_doors_are_tried_again(space: Space) -> None:
    """401 and 429 were refused before anything was looked at."""
    with pytest.raises(NotSent, match="401"):
        await space.adapter_with(api_key="wrong").submit(OrderForTest())
    await space.fault("transfer", "rate_limit")
    with pytest.raises(NotSent, match="429"):
        await space.adapter.submit(OrderForTest())
    assert await space.ledger() == []


async def test_a_clear_no_is_final(space: Space) -> None:
    """A refusal has our code and the custodian's word; nothing has moved."""
    order = OrderForTest(amount=Decimal(2_000_000))
    with pytest.raises(Rejected) as refused:
        await space.adapter.submit(order)
    assert refused.value.code == FailureCode.INSUFFICIENT_FUNDS
    assert refused.value.custodian_code == "NO_FUNDS"
    assert await space.ledger() == []
    await space.fault("transfer", "reject", status=422)
    with pytest.raises(Rejected) as refused:
        await space.adapter.submit(OrderForTest())
    assert refused.value.code == FailureCode.SUBMISSION_REJECTED


async def test_a_lost_lease_stops_it_before_the_call(space: Space) -> None:
    """When another worker owns the payout, the moving call is not made."""
    with pytest.raises(LeaseLost):
        await space.adapter.submit(OrderForTest(lose_lease_at="moving"))
    assert await space.calls("transfer") == 0


async def test_a_refusal_after_acceptance_is_a_failure(space: Space) -> None:
    """It says why, in both words, and that the money was kept."""
    order = OrderForTest(amount=Decimal("5.000402"))
    await space.adapter.submit(order)
    await space.steps(1)
    seen = await _look(space, order)
    assert seen.sub_status is SubStatus.FAILED
    assert seen.failure is not None
    assert (seen.failure.code, seen.failure.custodian_code, seen.failure.funds_moved) == (
        FailureCode.POLICY_REJECTED,
        "POLICY",
        FundsMoved.NO,
    )
    assert await space.ledger() == []


async def test_a_word_that_nobody_knows_changes_no_status(space: Space) -> None:
    """It is kept raw and told."""
    order = OrderForTest(amount=Decimal("5.000408"))
    await space.adapter.submit(order)
    await space.steps(1)
    seen = await _look(space, order)
    assert (seen.sub_status, seen.custodian_word, seen.unknown_words) == (
        None,
        "LIMBO",
        ("LIMBO",),
    )


async def test_a_transfer_that_was_never_sent_is_absent(space: Space) -> None:
    """Looked for by our own key; absence alone proves nothing, the engine counts it."""
    assert isinstance(await space.adapter.fetch(OrderForTest()), Absent)


@pytest.mark.parametrize(
    ("fault", "more"), [("error_before", {}), ("error_before", {"status": 502}), ("bad_json", {})]
)
async def test_a_failed_look_is_no_absence(space: Space, fault: str, more: dict[str, int]) -> None:
    """Only a transfer or a 404 is an answer."""
    order = OrderForTest()
    await space.adapter.submit(order)
    await space.fault("status", fault, **more)
    with pytest.raises((NotSent, OutcomeUnknown)):
        await space.adapter.fetch(order.again())


async def test_a_proxys_page_is_no_absence(space: Space) -> None:
    """Only the API's own 404 says that there is no such transfer."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(status=404, text="<html>not found</html>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/v1/transfers/{key}", page)
    async with listening(app) as root:
        with pytest.raises(NotSent, match="404"):
            await space.adapter_with(base_url=f"{root}/v1").fetch(OrderForTest())


async def test_a_redirect_is_not_followed(space: Space) -> None:
    """An order that is sent on to somebody else could be paid twice."""

    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"{space.root}/v1/transfers"})

    app = web.Application()
    app.router.add_post("/v1/transfers", elsewhere)
    async with listening(app) as root:
        with pytest.raises(OutcomeUnknown, match="307"):
            await space.adapter_with(base_url=f"{root}/v1").submit(OrderForTest())
    assert await space.calls("transfer") == 0
