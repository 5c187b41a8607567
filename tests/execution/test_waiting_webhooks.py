"""A webhook that came before its id was expected, and before the mark, is early news."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.adapter import (
    Capabilities,
)
from gateway.config.settings import EngineSettings
from gateway.execution.gate import MarkRefused
from gateway.execution.inbox import Inbox
from gateway.metrics import Metrics
from gateway.store import inbox as stored
from tests.execution.conftest import CAN, Bench
from tests.execution.test_expected import KEY
from tests.execution.test_returns import Parser, webhook


@pytest.fixture
def capabilities() -> Capabilities:
    """A custodian that pays several payouts of an account at once."""
    return replace(CAN, one_at_a_time=False)


async def work_off(bench: Bench) -> None:
    """Process what the inbox's loop would find; nothing has rung for it."""
    inbox = Inbox(
        db=bench.db,
        runtime=bench.runtime,
        custodians={"acme": Parser()},
        recorders={"acme": bench.recorder},
        settings=EngineSettings(),
        metrics=Metrics(),
        wake=lambda _: None,
    )
    for row in await bench.db.read(stored.new_webhooks, 100):
        await inbox._one(row)


@pytest.mark.parametrize("word", ["submitted", "broadcast", "delivered"])
async def test_no_mark_while_a_webhook_about_the_expected_id_waits(bench: Bench, word: str) -> None:
    """Another copy of the database has paid it: a call now pays a second time."""
    await bench.accept()
    await webhook(bench, "our-key", word=word)
    order = bench.order(await bench.begin())
    await order.expect(KEY)
    with pytest.raises(MarkRefused):
        await order.moving()


async def test_a_transfer_told_of_before_the_mark_delivers_nothing(bench: Bench) -> None:
    """It came, by the inbox's own date, before any call: it is not our call's."""
    payout_id = await bench.accept()
    await webhook(bench, "our-key", word="delivered")
    order = bench.order(await bench.begin())
    await order.expect(KEY)
    await bench.clock.advance(1)
    with pytest.raises(MarkRefused):
        await order.moving()
    await work_off(bench)
    assert (await bench.payout(payout_id)).status != "delivered"
