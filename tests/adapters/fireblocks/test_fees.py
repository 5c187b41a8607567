"""What the transactions of an instruction cost: as Fireblocks prices it, or by configured prices."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from adapters.fireblocks.fees import fees_usd, net_amount
from gateway.adapter import Account, Report, SubStatus
from tests.adapters.fireblocks.rig import fetch, order, pair, submit

EXCHANGE = Account(id="EX_SUB3", type="EXCHANGE_ACCOUNT")
VAULT = Account(id="7", type="VAULT_ACCOUNT")
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


def arrived(net: object, asset: str = "USDC") -> dict[str, Any]:
    """Return a transaction's details with a net amount."""
    return {"assetId": asset, "amountInfo": {"amount": "43", "netAmount": net}}


@pytest.mark.parametrize(
    ("transactions", "amount"),
    [
        ([arrived("42.99")], "42.99"),
        ([arrived("0")], "0"),
        # Several: which of them paid is not told. Never the amount without what was deducted.
        ([arrived("43")] * 2, None),
        ([arrived("43"), {}], None),
        ([arrived(None)], None),
        ([arrived(42.99)], None),
        ([arrived("NaN")], None),
        ([arrived("-1")], None),
        ([arrived("42.99", "ETH")], None),
        ([{"assetId": "USDC", "amountInfo": "x"}], None),
        ([{}], None),
        ([], None),
    ],
)
def test_what_arrived(transactions: list[dict[str, Any]], amount: str | None) -> None:
    """The net amount of the only transaction; null where it is not told."""
    assert net_amount(transactions, "USDC") == (None if amount is None else Decimal(amount))
    assert net_amount(transactions, None) is None


@pytest.mark.parametrize(("prices", "fees"), [({"USDC": "1"}, Decimal("0.5")), ({}, None)])
async def test_they_are_told_at_delivery(prices: dict[str, str], fees: Decimal | None) -> None:
    """What the exchange kept and what is left of the amount, and not before the payout is delivered."""
    async with pair(settings={"fee_prices_usd": prices}) as (adapter, space):
        mine = order()
        await submit(adapter, mine)
        for _ in range(12):
            found = await fetch(adapter, mine.again())
            if isinstance(found, Report) and found.sub_status is not SubStatus.DELIVERED:
                assert (found.fees_paid_usd, found.final_recipient_amount) == (None, None)
            await space.steps(1)
        assert isinstance(found, Report)
        assert (found.sub_status, found.fees_paid_usd) == (SubStatus.DELIVERED, fees)
        assert found.final_recipient_amount == mine.amount - Decimal("0.5")


@pytest.mark.parametrize(
    ("source", "amount", "net"),
    [
        (EXCHANGE, "43", "42.5"),
        (EXCHANGE, "0.25", "0"),
        (VAULT, "43", "43"),
    ],
)
async def test_the_twin_deducts_what_the_third_party_keeps(
    source: Account, amount: str, net: str
) -> None:
    """A network's fee is paid in the network's own coin, and leaves the amount as it is."""
    async with pair() as (adapter, space):
        mine = order(amount=Decimal(amount), source=source)
        await submit(adapter, mine)
        await space.steps(12)
        found = await fetch(adapter, mine.again())
        assert isinstance(found, Report)
        assert found.sub_status is SubStatus.DELIVERED
        assert found.final_recipient_amount == Decimal(net)
