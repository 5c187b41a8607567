"""How long deliveries take: the median of the newest ones of a way, once there are enough."""

from __future__ import annotations

import json

from gateway.routing.durations import LEAST, DurationLoop, Durations
from gateway.store import payouts
from gateway.store.database import Tx
from gateway.store.durations import Measured
from tests.execution.conftest import Bench, bench, capabilities, empty_database
from tests.store.rows import add_payout

__all__ = ["bench", "capabilities", "empty_database"]

ACME = "acme custodian_account "
WAY = "one address Base"


def some(*seconds: int, route: str = WAY) -> list[Measured]:
    """Return deliveries that took so long."""
    return [Measured(route, each, 0) for each in seconds]


def test_few_deliveries_say_nothing() -> None:
    """From twenty on the median counts: half an hour now and then is no usual time."""
    known = Durations()
    known.learn(some(*[10] * (LEAST - 1)))
    assert known.seconds(WAY) is None
    known.learn(some(1800))
    assert known.seconds(WAY) == 10
    assert known.seconds("another way") is None


def test_old_deliveries_are_forgotten() -> None:
    """The window is of the newest ones; a way that is not used any more goes at last."""
    known = Durations()
    known.learn(some(*[10] * 200))
    known.learn(some(*[90] * 101))
    assert known.seconds(WAY) == 90
    for number in range(1000):
        known.learn(some(1, route=f"way {number}"))
    assert known.seconds(WAY) is None


async def test_deliveries_are_read_from_the_database(bench: Bench) -> None:
    """From accepted to delivered, rounded up; what went another way than quoted measures nothing."""
    known = Durations()
    loop = DurationLoop(bench.db, bench.clock, known)

    async def write(tx: Tx, way: str) -> None:
        for number in range(LEAST):
            payout_id = await add_payout(tx, "delivered")
            at = (number + 1) * 1_000_000
            timeline = [
                {"status": "pending", "at": 0},
                {"status": "delivered", "at": 1 + 6_000_000},
            ]
            await payouts.update_payout(
                tx,
                payout_id,
                updated_at=at if way == "acme" else at + 100_000_000,
                custodian=way,
                document=json.dumps({"timeline": timeline}),
            )

    await loop.turn()
    assert known.seconds(ACME) is None
    await bench.db.run(write, "acme")
    await loop.turn()
    assert known.seconds(ACME) == 7
    await bench.db.run(write, "other")
    await loop.turn()
    assert known.seconds("other custodian_account ") is None
