"""What the recipient got: the custodian's figure, shown at delivery, and never the ordered amount instead."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from gateway.adapter import Echo, Ref, Report, SubStatus
from gateway.execution.operator import Resolution, resolve
from gateway.store import events
from tests.execution.conftest import Bench

SENT = Report(SubStatus.SUBMITTED, "OK", refs=(Ref("transfer", "t-1"),))
GOT = Decimal("4.90")


def done(amount: Decimal | None = GOT, **members: Any) -> Report:
    """Return the word that a payout is delivered, with what the recipient got."""
    return Report(SubStatus.DELIVERED, "DONE", final_recipient_amount=amount, **members)


async def sent(bench: Bench) -> str:
    """Return a payout of 5 that the custodian has taken."""
    payout_id = await bench.accept("5")
    await bench.submitted(await bench.begin(), SENT, moved=True)
    await bench.clock.advance(20)
    return payout_id


async def shown(bench: Bench, payout_id: str) -> tuple[str, Decimal | None]:
    """Return a payout's status, and what it shows that the recipient got."""
    payout = await bench.payout(payout_id)
    return payout.status.value, payout.final_recipient_amount


async def told(bench: Bench, payout_id: str) -> list[tuple[str, str | None]]:
    """Return the same of its events, oldest first."""
    bodies = [json.loads(each["body"]) for each in await bench.db.read(events.events_of, payout_id)]
    return [(each["type"], each["data"]["final_recipient_amount"]) for each in bodies]


async def test_the_custodians_figure_is_shown_at_delivery(bench: Bench) -> None:
    """Less than was ordered; in the payout, and in no event before `payout.delivered`."""
    payout_id = await sent(bench)
    assert await shown(bench, payout_id) == ("pending", None)
    await bench.fetched(await bench.begin(), done())
    assert await shown(bench, payout_id) == ("delivered", GOT)
    assert (await bench.payout(payout_id)).terms.recipient_gets == 5
    assert await told(bench, payout_id) == [
        ("payout.created", None),
        ("payout.broadcast", None),
        ("payout.delivered", "4.9"),
    ]


async def test_none_is_shown_where_none_was_reported(bench: Bench) -> None:
    """Not the ordered amount, either where the echo confirms that it was ordered."""
    payout_id = await sent(bench)
    echo = Echo(amount=bench.amount, ordered_amount=bench.amount)
    await bench.fetched(await bench.begin(), done(None, echo=echo))
    assert await shown(bench, payout_id) == ("delivered", None)


@pytest.mark.parametrize("after", [None, Decimal("4.8")])
async def test_an_early_figure_waits_for_the_delivery(bench: Bench, after: Decimal | None) -> None:
    """It is kept, and not shown; what is reported at the delivery counts before it."""
    payout_id = await sent(bench)
    early = Report(SubStatus.BROADCAST, "SENT", final_recipient_amount=GOT)
    await bench.db.run(bench.payouts.apply, payout_id, early)
    assert await shown(bench, payout_id) == ("broadcast", None)
    await bench.db.run(bench.payouts.apply, payout_id, done(after))
    assert await shown(bench, payout_id) == ("delivered", after or GOT)


async def test_it_is_fixed_once_it_is_shown(bench: Bench) -> None:
    """A figure that comes after the delivery fills the gap; none replaces another."""
    payout_id = await sent(bench)
    for amount, expected in ((None, None), (GOT, GOT), (Decimal(5), GOT), (None, GOT)):
        await bench.db.run(bench.payouts.apply, payout_id, done(amount))
        assert await shown(bench, payout_id) == ("delivered", expected)


async def test_zero_is_a_figure(bench: Bench) -> None:
    """It is not taken for none."""
    payout_id = await sent(bench)
    await bench.db.run(bench.payouts.apply, payout_id, done(Decimal(0)))
    assert await shown(bench, payout_id) == ("delivered", Decimal(0))


async def test_a_figure_of_what_was_not_ordered_is_not_kept(bench: Bench) -> None:
    """It may be of another payment, also where a person then says that this one is delivered."""
    payout_id = await sent(bench)
    echo = Echo(reference="another", ordered_reference="ours")
    await bench.fetched(await bench.begin(), done(echo=echo))
    found = Resolution(delivered=True, evidence="seen on chain", transfer="t-1")
    await bench.db.run(resolve, bench.recorder, bench.runtime, payout_id, found)
    assert await shown(bench, payout_id) == ("delivered", None)
