"""`serve --workers`: several processes under a parent, on PostgreSQL; and stopping within a deadline."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.processes import all_gone, descendants, started
from tests.e2e.stack import DUMMY, Stack, eventually, stack, subscribe
from tests.postgres import place_of

pytestmark = pytest.mark.timeout(180)
_RAIL = replace(DUMMY, gateway={"process": {"stop_within_s": 4}})
_POSTGRES = place_of("postgresql")
_RUNNING = "SELECT pid FROM gateways WHERE stopped_at IS NULL ORDER BY started_at"


def _pids(made: Stack) -> set[int]:
    return {row["pid"] for row in made.rows(_RUNNING)}


async def _running(made: Stack, count: int, without: set[int]) -> set[int]:
    found = _pids(made) - without
    return found if len(found) == count else set()


async def _insist(call: Callable[[], Awaitable[str]]) -> str:
    """Call again where the worker that had the connection is killed, as a client does."""
    while True:
        try:
            return await call()
        except aiohttp.ClientError:
            await asyncio.sleep(0.1)


async def _pay(made: Stack) -> str:
    quote_id = await _insist(made.quote)
    return await _insist(partial(made.execute, quote_id))


async def test_workers_share_the_work_and_are_started_again(tmp_path: Path) -> None:
    """Each payout is paid once; a worker that is killed is replaced; SIGTERM stops all of them."""
    async with (
        stack(tmp_path, rail=_RAIL, database=_POSTGRES) as made,
        started("serve", "--config", str(made.config), "--workers", "2") as parent,
    ):
        first = await eventually(partial(_running, made, 2, set()), 60)
        assert first <= descendants(parent.pid)
        await subscribe(made)
        before = [await _pay(made) for _ in range(5)]
        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        # The other one serves meanwhile, on the same port.
        paid = [*before, *[await _pay(made) for _ in range(5)]]
        (new,) = await eventually(partial(_running, made, 1, first), 60)
        assert new in descendants(parent.pid)
        for each in paid:
            await made.ended(each)
        assert len(await made.ledger()) == len(paid)
        parent.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(parent.wait(), 30) == 0
        # The one that was killed could not sign off.
        assert _pids(made) == {victim}
        assert not await all_gone(first | {new})


async def test_workers_do_not_outlive_their_parent(tmp_path: Path) -> None:
    """A parent that is killed takes its workers along: nobody would stop or replace them."""
    async with (
        stack(tmp_path, rail=_RAIL, database=_POSTGRES) as made,
        started("serve", "--config", str(made.config), "--workers", "2") as parent,
    ):
        workers = await eventually(partial(_running, made, 2, set()), 60)
        parent.kill()
        await parent.wait()
        assert not await all_gone(workers, 20)
        assert _pids(made) == set()


async def test_a_wrong_set_up_ends_all(tmp_path: Path) -> None:
    """A port that is taken, and a file as the database: exit code 2 and words, and no endless starting."""
    async with stack(tmp_path, rail=_RAIL, database=_POSTGRES) as made:
        gateway = await made.start_gateway("--quick")
        assert gateway.exit_code is None
        code, _, told = await made.command("serve", "--workers", "2")
        assert (code, "cannot be used" in told) == (2, True)


async def test_one_file_has_no_workers(tmp_path: Path) -> None:
    """On SQLite there is one writer: the message says what to do."""
    async with stack(tmp_path, rail=_RAIL) as made:
        code, _, told = await made.command("serve", "--workers", "2")
        assert code == 2
        assert "PostgreSQL" in told


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
async def test_what_does_not_end_in_time_is_handed_back(tmp_path: Path, database: str) -> None:
    """A call of which no answer comes: the process stops all the same, and the next one settles it."""
    async with stack(tmp_path, rail=_RAIL, database=place_of(database)) as made:
        gateway = await made.start_gateway("--quick")
        await subscribe(made)
        await made.fault("transfer", "hang_after", seconds=60)
        payout_id = await made.pay()
        await eventually(partial(_transfers, made))
        begun = time.monotonic()
        assert await gateway.stop() == 0
        # It may take 4 s, and has to end what it does; a busy machine may need as long again.
        assert time.monotonic() - begun < 15
        await made.start_gateway("--quick")
        assert (await made.ended(payout_id))["status"] == "delivered"
        assert len(await made.ledger()) == 1


async def _transfers(made: Stack) -> int:
    return len(await made.ledger())
