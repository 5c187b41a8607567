"""A gateway is suspended in the middle of its work, for longer than its lease, and woken later."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gateway.runtime import Failpoint
from gateway.testing.processes import Process
from tests.e2e.stack import (
    ERC20,
    FIREBLOCKS,
    SHORT_SESSIONS,
    Rail,
    SharedStacks,
    Stack,
    eventually,
    subscribe,
)
from tests.e2e.test_batches import create, ends, execute, item, payouts
from tests.e2e.test_confirm import answer, asked, confirm
from tests.e2e.test_crashes import quoted, stopped
from tests.e2e.witness import evidence, ledger_pays, never_said_unpaid

pytestmark = [pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]
ALL_EVENTS = ["payout.created", "payout.broadcast", "payout.delivered"]
#: Those that a set comes by; accepting, webhooks and deliveries are the same as for one payout.
_OF_EXECUTIONS = [
    Failpoint.CLAIMED,
    Failpoint.ATTEMPT_COMMITTED,
    Failpoint.REMEMBERING,
    Failpoint.REMEMBERED,
    Failpoint.MOVING,
    Failpoint.MOVED,
    Failpoint.SUBMITTED,
    Failpoint.SETTLED,
    Failpoint.FETCHED,
    Failpoint.APPLIED,
]


@pytest_asyncio.fixture(loop_scope="module")
async def made(request: pytest.FixtureRequest, stacks: SharedStacks) -> AsyncIterator[Stack]:
    """A stack of the rail that the test names."""
    rail: Rail = request.param
    async with stacks.lend(rail.name, rail) as built:
        yield built


async def wake(stalled: Process) -> None:
    """Wake a gateway and let it finish everything that it was about to do."""
    os.kill(stalled.pid, signal.SIGCONT)
    assert await stalled.stop() == 0


async def attempted(call: Awaitable[Any]) -> None:
    """Make a call to a gateway that may be suspended before it answers."""
    with suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(120):
            await call


async def _resolve(made: Stack, payout_id: str) -> tuple[int, str]:
    """Say by the command line that a payout failed and that no money moved."""
    code, _, err = await made.command(
        *("payouts", "resolve", payout_id, "--yes", "--as", "failed", "--funds-moved", "no"),
        *("--evidence", "the console shows nothing"),
    )
    return code, err


@pytest.mark.parametrize("made", [FIREBLOCKS, ERC20], indirect=True, ids=["set", "transfer"])
async def test_an_operator_cannot_call_a_suspended_call_unpaid(made: Stack) -> None:
    """The worker is suspended between its mark and its call. An operator sees nothing at the custodian.

    "Not paid" is refused while the worker holds its lease, and afterwards, too: the call may still
    arrive. It does when the worker is woken, and the payout is delivered.
    """
    stalled = await made.start_gateway("--at", Failpoint.MOVED, "--how", "stop")
    payout_id = await made.pay()
    await stopped(stalled.pid)
    assert await made.ledger() == []
    refusals = set()

    async def lease_is_over() -> bool:
        code, err = await _resolve(made, payout_id)
        assert code == 1
        assert "not resolved" in err
        refusals.add(
            "worker" if "a worker" in err else "call" if "may still arrive" in err else err
        )
        return "may still arrive" in err

    await eventually(lease_is_over, 30)
    assert refusals <= {"worker", "call"}
    second = await made.start_second("--short-looks")
    never_said_unpaid(await made.reaches(payout_id, "outcome_unknown"))
    code, err = await _resolve(made, payout_id)
    assert code == 1, err
    os.kill(stalled.pid, signal.SIGCONT)
    never_said_unpaid(await made.reaches(payout_id, "delivered"))
    code, err = await _resolve(made, payout_id)
    assert code == 1
    assert "final" in err
    await ledger_pays(made, ["43"])
    assert second.exit_code is None


@pytest.mark.parametrize("made", [FIREBLOCKS], indirect=True, ids=["fireblocks"])
@pytest.mark.parametrize("failpoint", Failpoint)
async def test_suspended_anywhere_a_payout_is_paid_once(made: Stack, failpoint: Failpoint) -> None:
    """Suspended at any failpoint past the lease; another gateway takes over and delivers.

    Woken, the first one finishes what it was about to do: nothing is paid twice, and no status and no
    event says something else than before.
    """
    stalled, quote_id = await quoted(made, failpoint, "--how", "stop")
    begun = asyncio.create_task(attempted(made.execute(quote_id)))
    await stopped(stalled.pid)
    await made.start_second("--quick")
    payout_id = await made.execute(quote_id)
    await made.reaches(payout_id, "delivered", seconds=60)
    await wake(stalled)
    await begun
    payout = await made.payout(payout_id)
    assert payout["status"] == "delivered"
    never_said_unpaid(payout)
    await ledger_pays(made, ["43"])

    async def told() -> bool:
        return made.receiver.types(payout_id) == ALL_EVENTS

    await eventually(told, 40)
    assert made.receiver.unverified == 0
    feed = (await made.call("GET", f"/events?payout_id={payout_id}"))[1]["data"]
    assert [each["data"]["sequence"] for each in feed] == [1, 2, 3]


@pytest.mark.parametrize("made", [FIREBLOCKS], indirect=True, ids=["fireblocks"])
@pytest.mark.parametrize("failpoint", _OF_EXECUTIONS)
async def test_suspended_anywhere_a_set_is_paid_once(made: Stack, failpoint: Failpoint) -> None:
    """The same with a set of three: each item is paid once, and each is told once."""
    stalled = await made.start_gateway("--quick", "--at", failpoint, "--how", "stop")
    await subscribe(made)
    amounts = ["11", "12", "13"]
    batch = await create(made, [item(each) for each in amounts])
    begun = asyncio.create_task(attempted(execute(made, batch)))
    await stopped(stalled.pid)
    await made.start_second("--quick")
    status, told = await made.call("POST", f"/payout-batches/{batch['id']}/execute", {})
    assert status in {202, 409}, told
    done = await ends(made, batch, 60)
    assert (done["state"], done["delivered_count"]) == ("finalized", 3)
    await wake(stalled)
    await begun
    ids = []
    for each in await payouts(made, batch):
        assert each["status"] == "delivered"
        never_said_unpaid(each)
        ids.append(each["id"])
    await ledger_pays(made, amounts)

    async def all_told() -> bool:
        return all(made.receiver.types(each) == ALL_EVENTS for each in ids)

    await eventually(all_told, 40)


@pytest.mark.parametrize("made", [SHORT_SESSIONS], indirect=True, ids=["card"])
@pytest.mark.parametrize("failpoint", _OF_EXECUTIONS)
async def test_suspended_anywhere_an_answer_pays_once(made: Stack, failpoint: Failpoint) -> None:
    """The same with a person's answer on the card rail. Who is asked again may answer again.

    The first answer, woken late, arrives in a session that has ended, or finds that its payout is
    paid.
    """
    plain = await made.start_gateway("--quick")
    payout_id, action = await asked(made)
    await plain.stop()
    code = made.credentials["passcode"]
    stalled = await made.start_gateway("--quick", "--at", failpoint, "--how", "stop")
    begun = asyncio.create_task(attempted(confirm(made, payout_id, answer(action, code))))
    await stopped(stalled.pid)
    await made.start_second("--quick")
    await _answer_until(made, payout_id, code, lambda payout: payout["status"] == "delivered")
    await wake(stalled)
    await begun
    never_said_unpaid(await made.payout(payout_id))
    await ledger_pays(made, ["75"])
    assert len(evidence(made, payout_id, "call")) <= 2


async def _answer_until(
    made: Stack, payout_id: str, code: str, done: Callable[[dict[str, Any]], bool]
) -> None:
    """Answer whatever the payout asks for, until it has ended."""

    async def look() -> bool:
        payout = await made.payout(payout_id)
        never_said_unpaid(payout)
        action = payout["requires_action"]
        if action is not None and action["client_secret"] is not None:
            await confirm(made, payout_id, answer(action, code))
        return done(payout)

    await eventually(look, 60)
