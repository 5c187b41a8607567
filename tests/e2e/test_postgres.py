"""Whole processes on PostgreSQL: the scenarios of other modules, and processes of every role killed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from gateway.config.settings import load
from gateway.runtime import Failpoint
from gateway.store.months import FIRST_END
from tests import postgres
from tests.e2e import test_batches, test_crashes, test_main_job
from tests.e2e.stack import FIREBLOCKS, SharedStacks, Stack, eventually, subscribe
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


async def test_events_lie_in_this_month(running: Stack) -> None:
    """The sweeper makes the partitions, and a payout is told from one of them."""
    begun = f"SELECT 1 FROM events_position_seq WHERE last_value > {FIRST_END}"
    await eventually(lambda: _found(running, begun))
    payout_id = await running.pay()
    await running.ended(payout_id)
    rows = running.rows(
        "SELECT DISTINCT tableoid::regclass::text AS place FROM events WHERE payout_id = ?",
        payout_id,
    )
    assert [row["place"][:8] for row in rows] == ["events_2"]


async def _found(made: Stack, query: str) -> bool:
    return bool(made.rows(query))


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


async def test_a_promoted_standby_is_frozen_until_it_is_adopted(made: Stack) -> None:
    """The server is not the one that the database was used on: no mark, until an operator adopts it."""
    await made.start_gateway("--quick")
    await subscribe(made)
    await made.ended(await made.pay())
    code, _, told = await made.command(
        "db", "adopt", "--last-mark-at", datetime.now(UTC).isoformat()
    )
    assert code != 0
    assert "stop every gateway" in told
    await made.stop_gateways()
    # As it is after a promotion: the timeline of before is what the store holds.
    url = load(made.config, {}).postgres
    assert url is not None
    before = "regexp_replace(identity, '/[0-9A-F]{8}/', '/000000FF/')"
    postgres.execute(url.url, f"UPDATE store_cluster SET identity = {before}")
    await made.start_gateway("--quick")
    status, problem = await made.call(
        "POST", "/payouts", {"quote_id": "quo_01h455vb4pex5vsknk084sn02q"}
    )
    assert (status, problem["code"]) == (503, "database_frozen")
    await made.stop_gateways()
    told = await made.run("db", "adopt", "--last-mark-at", datetime.now(UTC).isoformat())
    assert "the newest mark is" in told
    await made.run("db", "adopt", "--accept-new", "--yes")
    await made.start_gateway("--quick")
    await made.ended(await made.pay())
    (row,) = made.rows("SELECT frozen, accepting FROM store_state")
    assert (row["frozen"], row["accepting"]) == (None, 1)
