"""What the transactions of an instruction cost: as Fireblocks prices it, or by configured prices."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from adapters.fireblocks.fees import fees_usd
from gateway.adapter import Report, SubStatus
from tests.adapters.fireblocks.rig import fetch, order, pair, submit

PRICES = {"ETH": Decimal(2500), "USDC": Decimal(1)}


def details(fee: dict[str, Any], currency: str = "ETH") -> dict[str, Any]:
    """Return a transaction's details with a fee."""
    return {"assetId": "USDC", "feeCurrency": currency, "feeInfo": fee}


@pytest.mark.parametrize(
    ("transactions", "fees"),
    [
        ([details({"networkFee": "0.0021"})], "5.25"),
        ([details({"networkFee": "0.0021", "serviceFee": "0.5"})], "5.75"),
        ([details({"networkFee": "0.0021", "feeUSD": "6.1"})], "6.1"),
        ([details({"networkFee": "0.0021"})] * 2, "10.5"),
        ([details({"networkFee": "0"}, "MATIC")], "0"),
        ([details({"networkFee": "0.000000000000000001"})], "0.000001"),
        # No price, nothing told, or told as a number: null, and never a part of the sum.
        ([details({"networkFee": "0.1"}, "MATIC")], None),
        ([details({"networkFee": "0.0021"}), details({})], None),
        ([details({"networkFee": 0.0021})], None),
        ([details({"networkFee": "NaN"})], None),
        ([details({"networkFee": "-1"})], None),
        ([{}], None),
        ([{"feeInfo": "x"}], None),
        ([], None),
    ],
)
def test_fees(transactions: list[dict[str, Any]], fees: str | None) -> None:
    """Exact, and only where every transaction's is known."""
    assert fees_usd(transactions, PRICES) == (None if fees is None else Decimal(fees))


@pytest.mark.parametrize(("prices", "fees"), [({"USDC": "1"}, Decimal("0.5")), ({}, None)])
async def test_they_are_told_at_delivery(prices: dict[str, str], fees: Decimal | None) -> None:
    """What the exchange kept, and not before the payout is delivered."""
    async with pair(settings={"fee_prices_usd": prices}) as (adapter, space):
        mine = order()
        await submit(adapter, mine)
        for _ in range(12):
            found = await fetch(adapter, mine.again())
            if isinstance(found, Report) and found.sub_status is not SubStatus.DELIVERED:
                assert found.fees_paid_usd is None
            await space.steps(1)
        assert isinstance(found, Report)
        assert (found.sub_status, found.fees_paid_usd) == (SubStatus.DELIVERED, fees)
