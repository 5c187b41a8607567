"""A quiet cancel that is answered with money that moved is not "not paid"."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from gateway.adapter import Failure, FailureCode, FundsMoved, Returned, SubStatus
from gateway.errors import Refused
from tests.execution.script import Line, all_are
from tests.execution.test_actions import Counter, asking, new  # noqa: F401 - fixtures

BACK = Returned("r-1", Decimal(5), "USDC", datetime(2026, 3, 3, tzinfo=UTC))


def failing(moved: FundsMoved, **members: object) -> Line:
    """Say that it failed, and what became of the money."""
    failure = Failure(code=FailureCode.THIRD_PARTY_FAILED, message="x", funds_moved=moved)
    return all_are(SubStatus.FAILED, failure, **members)


@pytest.mark.parametrize(
    "word",
    [
        failing(FundsMoved.YES),
        failing(FundsMoved.UNKNOWN),
        failing(FundsMoved.NO, returned=(BACK,)),
        all_are(
            SubStatus.CANCELED,
            Failure(code=FailureCode.CANCELED, message="x", funds_moved=FundsMoved.NO),
            returned=(BACK,),
        ),
        all_are(SubStatus.OUTCOME_UNKNOWN),
    ],
    ids=["yes", "unknown", "returned", "canceled, returned", "outcome unknown"],
)
async def test_a_cancel_that_finds_moved_money_does_not_end_as_unpaid(
    asking: Counter,  # noqa: F811 - the fixture
    word: Line,
) -> None:
    """Somebody has released it at the custodian, and it ended there already."""
    await asking.bench.write(asking.payout_id, notes='{"session": "s-1"}')
    asking.script.cancels = [word]
    with suppress(Refused):
        await asking.cancel()
    assert asking.script.story[-1] == "cancel"
    failure = (await asking.payout()).failure
    assert failure is None or failure.funds_moved != "no"
