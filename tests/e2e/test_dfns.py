"""Dfns over real sockets: every way to pay, every fault, a kill at every request: paid once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.stack import ERC20, OFF_RAMP, SPL, Rail, SharedStacks, Stack, eventually, stack
from tests.e2e.test_crashes import stopped

pytestmark = [pytest.mark.timeout(150), pytest.mark.asyncio(loop_scope="module")]
ALL_EVENTS = ["payout.created", "payout.broadcast", "payout.delivered"]


@pytest_asyncio.fixture(loop_scope="module")
async def made(request: pytest.FixtureRequest, stacks: SharedStacks) -> AsyncIterator[Stack]:
    """A running stack of the rail that the test names."""
    rail: Rail = request.param
    async with stacks.lend(str(rail.destination), rail, gateway=("--quick",)) as made:
        yield made


@pytest.mark.parametrize("made", [ERC20, SPL, OFF_RAMP], indirect=True)
async def test_a_payout_is_delivered_and_told(made: Stack) -> None:
    """One transfer in the ledger, every event verified, the custodian's ids shown."""
    payout_id = await made.pay("43.25")
    payout = await made.reaches(payout_id, "delivered", "failed")
    assert payout["status"] == "delivered"
    (transaction,) = payout["transactions"]
    assert transaction["tx_hash"]
    assert transaction["explorer_url"]
    (entry,) = await made.ledger()
    assert entry["amount"] == "43.25"
    assert entry["reference"] == transaction["id"]
    is_bank = made.rail is OFF_RAMP
    assert payout["quote"]["price"] == ("indicative" if is_bank else "firm")
    assert (payout["quote"]["fx_rate"] is not None) == is_bank

    async def told() -> bool:
        return made.receiver.types(payout_id) == ALL_EVENTS

    await eventually(told)
    assert made.receiver.unverified == 0


@pytest.mark.parametrize("made", [ERC20, OFF_RAMP], indirect=True)
async def test_rate_limits_and_an_expired_token_lose_nothing(made: Stack) -> None:
    """429 storms are waited for; 401 tells the operator and fails no payout."""
    call = "transfer" if made.rail is ERC20 else "confirm"
    await made.steer(
        "POST", "faults", {"call": "init", "fault": "rate_limit", "retry_after_s": 1, "times": 3}
    )
    await made.steer("POST", "faults", {"call": call, "fault": "reject", "status": 401, "times": 3})
    payout_id = await made.pay()
    payout = await made.reaches(payout_id, "delivered", "failed", seconds=40)
    assert payout["status"] == "delivered"
    assert len(await made.ledger()) == 1


@pytest.mark.parametrize("made", [OFF_RAMP], indirect=True)
async def test_ends_of_the_off_ramp(made: Stack) -> None:
    """A deposit that arrived and a provider that failed; a policy that says no after hours."""
    # Slow enough for every step to be seen, on a busy machine, too.
    await made.steer("PUT", "settings", {"step_s": 0.5})
    lost = await made.pay("1.000512")
    refused = await made.pay("1.000509")
    late = await made.pay("1.000514")
    payout = await made.reaches(lost, "delivered", "failed")
    assert payout["failure"]["funds_moved"] == "yes"
    assert [each["status"] for each in payout["timeline"]][-2:] == ["broadcast", "failed"]
    await made.reaches(refused, "awaiting_approval")
    assert len(await made.ledger()) == 1
    await made.steer("POST", "clock", {"advance_s": 31})
    payout = await made.reaches(refused, "failed")
    assert (payout["failure"]["code"], payout["failure"]["funds_moved"]) == (
        "policy_rejected",
        "no",
    )
    await made.steer("POST", "clock", {"advance_s": 40})
    await made.reaches(late, "outcome_unknown")
    assert len(await made.ledger()) == 1
    await made.steer("POST", "clock", {"advance_s": 60})
    payout = await made.reaches(late, "failed")
    assert (payout["failure"]["code"], payout["failure"]["funds_moved"]) == ("expired", "yes")


@pytest.mark.parametrize("made", [OFF_RAMP], indirect=True)
@pytest.mark.parametrize("where", ["webhook", "payout"])
async def test_another_deposit_address_is_not_paid(made: Stack, where: str) -> None:
    """Told by a webhook but not by the API, and the reverse: it is held, and an operator sees both."""
    if where == "webhook":
        await made.steer("POST", "faults", {"call": "webhook", "fault": "alter", "times": 1})
        # The webhook comes first; the payout is looked at when it is there.
        await made.steer("POST", "faults", {"call": "payout", "fault": "error_before", "times": 2})
    else:
        await made.steer("POST", "faults", {"call": "payout", "fault": "alter", "times": None})
        await made.steer("POST", "faults", {"call": "payout", "fault": "error_before", "times": 2})
    payout_id = await made.pay()

    async def held() -> str | None:
        shown = await made.run("payouts", "show", payout_id)
        return shown if "mismatch" in shown else None

    assert "0x" + "66" * 20 in str(await eventually(held, 25))
    await asyncio.sleep(1)
    assert (await made.payout(payout_id))["status"] == "pending"
    assert await made.ledger() == []
    calls = (await made.steer("GET", "calls"))["calls"]
    assert not [each for each in calls if each["call"] == "confirm"]


@pytest.mark.parametrize("made", [OFF_RAMP], indirect=True)
async def test_a_webhook_before_the_create_reply(made: Stack) -> None:
    """It waits until the payout learns its id there; nothing is created twice."""
    await made.steer(
        "POST", "faults", {"call": "create", "fault": "hang_after", "seconds": 30, "times": 1}
    )
    payout_id = await made.pay()
    await made.reaches(payout_id, "delivered", seconds=30)
    webhooks = (await made.steer("GET", "webhooks"))["deliveries"]
    assert webhooks[0]["event"] == "payout.action.required"
    assert {each["state"] for each in webhooks} == {"delivered"}
    assert len(await made.ledger()) == 1
    calls = (await made.steer("GET", "calls"))["calls"]
    assert [each["call"] for each in calls].count("create") == 2


@pytest.mark.parametrize("rail", [ERC20, OFF_RAMP], ids=["transfer", "off-ramp"])
@pytest.mark.parametrize("woken_first", [True, False])
async def test_a_worker_stopped_before_the_moving_call_pays_once(
    tmp_path: Path, rail: Rail, *, woken_first: bool
) -> None:
    """Stopped after the mark, taken over, woken: a second Confirm would pay again, and none is made.

    Woken first, its token still works and the other only looks. Woken last, the other has proven that
    nothing happened and has paid; the late call carries a token that has ended.
    """
    if woken_first:
        long = {"user_action_life_s": 900}
        rail = replace(rail, settings={**rail.settings, **long}, switches={"token_life_s": 900})
    async with stack(tmp_path, rail=rail, twin_webhooks=False) as made:
        # The terms of the call are those of the gateway that makes it.
        quick = [] if woken_first else ["--quick"]
        stalled = await made.start_gateway("--at", "order.moved", "--how", "stop", *quick)
        payout_id = await made.execute(await made.quote())
        await stopped(stalled.pid)
        try:
            second = await made.start_gateway("--port", "0", *quick)
            made.url = second.line.strip()
            if woken_first and rail.destination["type"] == "bank_account":
                await made.reaches(payout_id, "outcome_unknown", "delivered")
            elif not woken_first:
                await made.reaches(payout_id, "delivered", seconds=40)
        finally:
            os.kill(stalled.pid, signal.SIGCONT)
        await made.reaches(payout_id, "delivered", seconds=60)
        await asyncio.sleep(1)
        await stalled.stop()
        assert len(await made.ledger()) == 1
