"""Quote to delivered over real sockets, with the real wire protocol and signed webhooks; and its faults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from tests.e2e.stack import FIREBLOCKS, NETWORK, SharedStacks, Stack, eventually
from tests.postgres import place_of

pytestmark = [pytest.mark.timeout(90), pytest.mark.asyncio(loop_scope="module")]
#: A call that is not answered is given up soon.
_RAIL = replace(FIREBLOCKS, settings={**FIREBLOCKS.settings, "timeout_s": 4})
ALL_EVENTS = ["payout.created", "payout.broadcast", "payout.delivered"]


@pytest_asyncio.fixture(loop_scope="module")
async def made(stacks: SharedStacks, store: str) -> AsyncIterator[Stack]:
    """A running stack with a subscriber."""
    lent = stacks.lend(f"main {store}", _RAIL, gateway=("--quick",), database=place_of(store))
    async with lent as made:
        yield made


async def test_two_payouts_are_delivered_and_told(made: Stack) -> None:
    """The main job: both transfers in the ledger once, every event delivered and verified."""
    first = await made.pay("43")
    second = await made.execute(
        await made.quote("4423", id=NETWORK, account_type="NETWORK_CONNECTION")
    )
    for payout_id in (first, second):
        payout = await made.reaches(payout_id, "delivered", "failed")
        assert payout["status"] == "delivered"
        (transaction,) = payout["transactions"]
        # An exchange gives a hash towards vaults only.
        assert transaction["tx_hash"] is None
        assert transaction["id"]
        assert payout["custodian_reference"]
        assert payout["final_recipient_amount"] in {"42.5", "4422.5"}  # the exchange keeps 0.5

        async def told(payout_id: str = payout_id) -> bool:
            return made.receiver.types(payout_id) == ALL_EVENTS

        await eventually(told)
    assert made.receiver.unverified == 0
    transfers = {(each["destination"], each["amount"]) for each in await made.ledger()}
    assert len(await made.ledger()) == 2
    assert {amount for _, amount in transfers} == {"43", "4423"}
    shown = await made.run("payouts", "show", first)
    assert "delivered" in shown
    assert "payout.delivered" in shown


async def test_a_custodian_that_hangs_after_executing_pays_once(made: Stack) -> None:
    """No answer to execute although it was done: settled by looking."""
    await made.steer(
        "POST", "faults", {"call": "execute", "fault": "hang_after", "seconds": 60, "times": 1}
    )
    payout_id = await made.pay()
    payout = await made.reaches(payout_id, "delivered", "failed", seconds=45)
    assert payout["status"] == "delivered"
    assert len(await made.ledger()) == 1


async def test_5xx_after_executing_and_an_old_view(made: Stack) -> None:
    """Executed, 502, and status shows the old state for a while: no second transfer, then delivered."""
    await made.steer(
        "POST", "faults", {"call": "execute", "fault": "error_after", "status": 502, "times": 1}
    )
    await made.steer(
        "POST", "faults", {"call": "status", "fault": "old_state", "seconds": 6, "times": 100}
    )
    payout = await made.reaches(await made.pay(), "delivered", "failed", seconds=40)
    assert payout["status"] == "delivered"
    assert len(await made.ledger()) == 1


async def test_a_custodian_that_is_down_is_tried_again(made: Stack) -> None:
    """Every create is dropped for a while: pending, nothing failed, delivered when it is back."""
    await made.steer("POST", "faults", {"call": "create", "fault": "drop_before", "times": 4})
    payout_id = await made.pay()
    assert (await made.reaches(payout_id, "submitting"))["status"] == "pending"
    await made.reaches(payout_id, "delivered")
    assert len(await made.ledger()) == 1


@pytest.mark.parametrize(
    ("amount", "code", "moved"),
    [
        ("1.000402", None, "no"),
        ("1.000403", None, "no"),
        ("1.000404", "destination_rejected", "no"),
        ("1.000406", "third_party_failed", "yes"),
        ("1.000409", "policy_rejected", "no"),
        # Of an exchange nobody can say: it shows no hash.
        ("1.000410", "chain_rejected", "unknown"),
    ],
)
async def test_failures_say_whether_money_moved(
    made: Stack, amount: str, code: str | None, moved: str
) -> None:
    """Each way to fail has our code, the custodian's word, and the truth about the money."""
    payout = await made.reaches(await made.pay(amount), "delivered", "failed")
    assert payout["status"] == "failed"
    failure = payout["failure"]
    assert failure["funds_moved"] == moved
    assert failure["custodian_code"]
    if code is not None:
        assert failure["code"] == code
    assert len(await made.ledger()) == (1 if moved == "yes" else 0)


async def test_approval_and_screening_are_waited_for(made: Stack) -> None:
    """A policy's approval and a screening are states, not timeouts."""
    approved = await made.pay("1.000405")
    await made.reaches(approved, "awaiting_approval")
    await made.steer("POST", "clock", {"advance_s": 31})
    await made.reaches(approved, "delivered")
    screened = await made.pay("1.000411")
    await made.reaches(screened, "awaiting_approval")
    await made.steer("POST", "clock", {"advance_s": 31})
    payout = await made.reaches(screened, "failed")
    assert payout["failure"]["code"] == "compliance_rejected"


async def test_funds_until_midnight(made: Stack) -> None:
    """Insufficient balance waits; it fails at midnight UTC because the custodian says so."""
    payout_id = await made.pay("1.000401")
    await made.reaches(payout_id, "awaiting_funds")
    await made.steer("POST", "clock", {"advance_s": 86_400})
    payout = await made.reaches(payout_id, "failed")
    assert (payout["failure"]["code"], payout["failure"]["funds_moved"]) == (
        "insufficient_funds",
        "no",
    )


async def test_an_unknown_word_changes_nothing(made: Stack) -> None:
    """The status stays, the operator sees the word; when known words come, it goes on."""
    payout_id = await made.pay("1.000408")

    async def told() -> bool:
        return "unknown_word" in await made.run("payouts", "show", payout_id)

    await eventually(told)
    assert (await made.payout(payout_id))["status"] == "pending"
    await made.steer("POST", "clock", {"advance_s": 3601})
    await made.reaches(payout_id, "delivered")


async def test_one_set_per_account(made: Stack) -> None:
    """While one executes from the account the next one waits as queued; each is paid once."""
    slow = await made.pay("1.000407")
    await made.reaches(slow, "confirming")
    waiting = await made.pay("2")
    await made.reaches(waiting, "queued")
    await made.steer("POST", "clock", {"advance_s": 61})
    for payout_id in (slow, waiting):
        await made.reaches(payout_id, "delivered")
    assert sorted(each["amount"] for each in await made.ledger()) == ["1.000407", "2"]


async def test_a_receiver_that_was_down_gets_everything(made: Stack) -> None:
    """500 for a while: every event arrives later, once each by id, verified."""
    made.receiver.answer = 500
    payout_id = await made.pay()
    await made.reaches(payout_id, "delivered")
    made.receiver.answer = 204

    async def told() -> bool:
        return made.receiver.types(payout_id) == ALL_EVENTS

    await eventually(told)
    assert made.receiver.tries > 3
    assert made.receiver.unverified == 0
