"""The stack of the kit by itself: what an author's own tests with real processes are made of."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from gateway.testing import Failpoint, stack
from tests.e2e.stack import DUMMY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]


async def test_a_gateway_dies_at_the_nth_occurrence_and_is_started_again(tmp_path: Path) -> None:
    """`kill_at` counts, `serve` goes on; each payout is paid once."""
    async with stack(tmp_path, rail=DUMMY, twin_webhooks=False) as made:
        dying = await made.kill_at(Failpoint.MOVED, occurrence=2)
        first = await made.pay("43")
        assert (await made.ended(first))["status"] == "delivered"
        second = await made.pay("44")
        assert await dying.died() == -signal.SIGKILL
        await made.serve()
        await made.kill()
        await made.serve()
        assert (await made.ended(second))["status"] == "delivered"
        assert [each["amount"] for each in await made.ledger()] == ["43", "44"]


async def test_a_twin_that_is_not_installed_is_named(tmp_path: Path) -> None:
    """The message says where to declare it."""
    rail = type(DUMMY)("nobody", {}, None, DUMMY.destination)
    with pytest.raises(AssertionError, match="no twin named 'nobody' is installed: declare it"):
        async with stack(tmp_path, rail=rail):
            pass
