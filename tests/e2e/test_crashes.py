"""SIGKILL and SIGSTOP of the gateway at every failpoint: paid once, delivered, every event told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from gateway.runtime import Failpoint
from gateway.testing.processes import Process
from tests.e2e.stack import FIREBLOCKS, SharedStacks, Stack, eventually, subscribe
from tests.postgres import place_of

pytestmark = [pytest.mark.timeout(90), pytest.mark.asyncio(loop_scope="module")]
_IN_ORDER = ["payout.created", "payout.broadcast", "payout.delivered"]


@pytest_asyncio.fixture(loop_scope="module")
async def made(stacks: SharedStacks, store: str) -> AsyncIterator[Stack]:
    """A stack on which no gateway runs yet."""
    lent = stacks.lend(f"crashes {store}", FIREBLOCKS, database=place_of(store))
    async with lent as made:
        yield made


#: Reached by whatever is accepted, a quote as well.
_OF_REQUESTS = frozenset({Failpoint.ACCEPT_BEGUN, Failpoint.ACCEPT_COMMITTED})


async def quoted(made: Stack, failpoint: Failpoint, *how: str) -> tuple[Process, str]:
    """Start a gateway that is stopped at a failpoint; return it, and a quote that it has not met."""
    if failpoint in _OF_REQUESTS:
        plain = await made.start_gateway("--quick")
        await subscribe(made)
        quote_id = await made.quote()
        await plain.stop()
        return await made.start_gateway("--quick", "--at", failpoint, *how), quote_id
    stopping = await made.start_gateway("--quick", "--at", failpoint, *how)
    await subscribe(made)
    return stopping, await made.quote()


async def _told(made: Stack, payout_id: str) -> None:
    """Wait until the subscriber has every event of the payout; every delivery verified."""

    async def look() -> bool:
        return made.receiver.types(payout_id) == _IN_ORDER

    await eventually(look)
    assert made.receiver.unverified == 0
    status, feed = await made.call("GET", f"/events?payout_id={payout_id}")
    assert status == 200
    assert [each["type"] for each in feed["data"]] == _IN_ORDER
    assert [each["data"]["sequence"] for each in feed["data"]] == [1, 2, 3]


@pytest.mark.parametrize("failpoint", Failpoint)
async def test_a_kill_at_any_failpoint_pays_once(made: Stack, failpoint: Failpoint) -> None:
    """Killed at the failpoint and started again: one transfer, one of each event, delivered."""
    dying, quote_id = await quoted(made, failpoint)
    with contextlib.suppress(aiohttp.ClientError):
        await made.execute(quote_id)
    assert await dying.died(30) == -signal.SIGKILL, f"{failpoint} was never reached"
    await made.start_gateway("--quick")
    payout_id = await made.execute(quote_id)
    payout = await made.reaches(payout_id, "delivered", seconds=40)
    assert [entry["status"] for entry in payout["timeline"]][-1] == "delivered"
    assert len(await made.ledger()) == 1
    await _told(made, payout_id)


@pytest.mark.parametrize("woken_first", [True, False])
async def test_a_worker_stopped_past_its_lease_pays_once(made: Stack, *, woken_first: bool) -> None:
    """Stopped between mark and send, taken over by another process, then woken: one transfer.

    Woken first, its call goes out beside the repeat of the other under the same set, which the custodian
    executes once. Woken last, the other has executed already, and the custodian refuses the late call.
    """
    # The lives stored with the call count, and not those of the process that looks.
    quick = [] if woken_first else ["--quick"]
    stalled = await made.start_gateway("--at", Failpoint.MOVED, "--how", "stop", *quick)
    payout_id = await made.execute(await made.quote())
    await stopped(stalled.pid)
    try:
        second = await made.start_gateway("--port", "0", *quick)
        made.url = second.line.strip()
        if woken_first:
            await made.reaches(payout_id, "outcome_unknown")
        else:
            await made.reaches(payout_id, "delivered")
    finally:
        os.kill(stalled.pid, signal.SIGCONT)
    await made.reaches(payout_id, "delivered")
    await stalled.stop()
    assert len(await made.ledger()) == 1
    calls = await made.steer("GET", "calls")
    executes = [each for each in calls["calls"] if each["path"].endswith("/actions/execute")]
    assert len({each["path"] for each in executes}) == 1
    assert len(executes) <= 2


async def stopped(pid: int) -> None:
    """Wait until the process is stopped."""
    for _ in range(400):
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T":
            return
        await asyncio.sleep(0.05)
    raise AssertionError("never stopped")
