"""Whole processes on PostgreSQL: the scenarios of other modules, and processes of every role killed."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.runtime import Failpoint
from gateway.testing.processes import Process
from tests.e2e import test_batches, test_crashes, test_main_job
from tests.e2e.stack import DUMMY, FIREBLOCKS, SharedStacks, Stack, eventually, subscribe
from tests.postgres import place_of

pytestmark = [pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]
_POSTGRES = place_of("postgresql")
_EVENTS = ["payout.created", "payout.broadcast", "payout.delivered"]


@pytest_asyncio.fixture(loop_scope="module")
async def made(stacks: SharedStacks) -> AsyncIterator[Stack]:
    """A stack on PostgreSQL; no gateway runs yet."""
    async with stacks.lend("postgres", FIREBLOCKS, database=_POSTGRES) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def running(made: Stack) -> Stack:
    """A gateway with a subscriber."""
    await made.start_gateway("--quick")
    await subscribe(made)
    return made


async def test_the_main_job(running: Stack) -> None:
    """Two payouts from quote to delivered, each event delivered and verified."""
    await test_main_job.test_two_payouts_are_delivered_and_told(running)


async def test_a_lost_reply(running: Stack) -> None:
    """No answer to the moving call although it was done: settled by looking."""
    await test_main_job.test_a_custodian_that_hangs_after_executing_pays_once(running)


async def test_webhooks_of_a_receiver_that_was_down(running: Stack) -> None:
    """It gets every event once it is back."""
    await test_main_job.test_a_receiver_that_was_down_gets_everything(running)


async def test_a_batch(made: Stack) -> None:
    """One set, executed once."""
    await test_batches.test_the_sets_of_two_payees(made)


@pytest.mark.parametrize(
    "failpoint",
    [Failpoint.ACCEPT_COMMITTED, Failpoint.MOVED, Failpoint.SUBMITTED, Failpoint.DELIVERY_SENT],
)
async def test_a_kill_pays_once(made: Stack, failpoint: Failpoint) -> None:
    """Killed at the failpoint and started again: one transfer, one of each event."""
    await test_crashes.test_a_kill_at_any_failpoint_pays_once(made, failpoint)


async def test_every_role_is_killed(stacks: SharedStacks) -> None:
    """Two processes of each role, one of them killed again and again: all paid once, every event told."""
    chance = random.Random(5)
    async with stacks.lend("roles", DUMMY, database=_POSTGRES) as made:
        roles = ("api", "engine", "sender")
        running: dict[tuple[str, int], Process] = {}

        async def start(role: str, number: int) -> None:
            # The first API process keeps the port that the twin's webhooks go to.
            port = () if role == "api" and number == 1 else ("--port", "0")
            running[role, number] = await made.start_gateway("--quick", "--role", role, *port)

        for role, number in itertools.product(roles, (1, 2)):
            await start(role, number)
        await subscribe(made)
        kills = 0
        ids: list[str] = []
        for _ in range(12):
            quotes = [await made.quote() for _ in range(5)]
            ids += await asyncio.gather(*(made.execute(quote_id) for quote_id in quotes))
            victim = (chance.choice(roles), 2) if chance.random() < 0.5 else ("engine", 1)
            running[victim].kill()
            await running[victim].died()
            kills += 1
            await start(*victim)

        async def all_told() -> bool:
            return all(sorted(made.receiver.types(each)) == sorted(_EVENTS) for each in ids)

        await eventually(all_told, 90)
        assert kills == 12
        assert len(await made.ledger()) == len(ids) == 60
        for payout_id in ids:
            assert (await made.payout(payout_id))["status"] == "delivered"
