"""Inherited tests of what an adapter may do beside paying: sets, cancel, offers, step-up."""

from __future__ import annotations

from decimal import Decimal

import pytest

from gateway.adapter import BatchReport, Report, SubStatus
from gateway.errors import Unsupported
from gateway.testing.bench import MOST_TURNS, Bench
from gateway.testing.declared import proves
from gateway.testing.kit_base import KitBase, not_applicable
from gateway.testing.orders import ItemForTest

_CENT = Decimal("0.01")


class OptionalTests(KitBase):
    """What is declared beside submit and fetch."""

    @pytest.mark.asyncio
    @proves("batch")
    async def test_a_set_pays_each_payout_once(self, bench: Bench) -> None:
        """Three payouts in one set under one mark: each delivered, each in the ledger once."""
        if not self.adapter.capabilities.batch:
            not_applicable("the custodian takes no sets")
        amounts = [Decimal(str(self.terms["amount"])) + number * _CENT for number in range(3)]
        items = [
            ItemForTest(**{**self.terms, "amount": amount, "payout_id": f"pay_set{number}"})
            for number, amount in enumerate(amounts)
        ]
        order = bench.order(payouts=items)
        await bench.instance.submit(order)
        assert order.story.count("moving") == 1, order.story
        order = order.again()
        ended: set[str] = set()
        for _ in range(MOST_TURNS):
            found = await bench.instance.fetch(order)
            if isinstance(found, BatchReport):
                ended |= {
                    payout_id
                    for payout_id, report in found.items.items()
                    if report.sub_status is SubStatus.DELIVERED
                }
            if len(ended) == len(items):
                break
            await bench.step()
            order = order.again()
        assert ended == {each.payout_id for each in items}
        assert sorted(Decimal(each["amount"]) for each in await bench.ledger()) == amounts

    @pytest.mark.asyncio
    @proves("cancel")
    async def test_a_cancel_before_the_mark_ends_it_unpaid(self, bench: Bench) -> None:
        """What was prepared and not handed over is canceled at the custodian; nothing moves."""
        if not self.adapter.capabilities.cancel:
            not_applicable("the adapter cancels nothing")
        course = self.course(bench)
        outcome = await course.turn()
        if course.order.moved or not isinstance(outcome, Report):
            try:
                await bench.instance.cancel(course.order)
            except Unsupported:
                not_applicable("this way of paying cannot be canceled, and says so")
        report = (await bench.instance.cancel(course.order)).items[course.order.payout_id]
        assert report.sub_status is SubStatus.CANCELED, report
        await bench.step(10)
        assert await bench.ledger() == []
        assert await bench.calls(self.moving) == []

    @pytest.mark.asyncio
    @proves("quotes")
    async def test_offers_have_a_rate(self, bench: Bench) -> None:
        """What a provider would give is a positive rate; asking for it moves nothing."""
        if not self.adapter.capabilities.quotes:
            not_applicable("the adapter asks no provider for offers")
        offers = await bench.adapter.offers(bench.order())
        if not offers:
            not_applicable("this way of paying has no offers")
        assert all(each.fx_rate > 0 for each in offers)
        assert await bench.ledger() == []

    @pytest.mark.asyncio
    @proves("step-up")
    async def test_a_person_is_asked_before_anything_moves(self, bench: Bench) -> None:
        """The payout waits for an answer; with it, it is paid once."""
        if not self.asks_person:
            not_applicable("no payout of this way asks a person")
        course = self.course(bench)
        await course.until(lambda: course.verb == "confirm")
        (asked,) = course.reports[-1:]
        assert asked.action is not None
        assert await bench.calls(self.moving) == []
        await course.until_ended()
        assert len(await bench.ledger()) == 1
