"""What a payout through Dfns cost: told at its delivery, by configured prices."""

from __future__ import annotations

from decimal import Decimal

import pytest
from pydantic import ValidationError

from adapters.dfns.settings import FeeCoin
from gateway.adapter import SubStatus
from tests.adapters.dfns.rig import bank_order, confirmed, look, pair, solana_order, transfer_order
from tests.adapters.orders import OrderForTest

ETH = {"fee_coins": {"EthereumSepolia": {"usd": "2500", "decimals": 18}}}


@pytest.mark.parametrize(
    ("order", "prices", "fees"),
    [
        # 0.00042 ETH
        (transfer_order(), ETH, Decimal("1.05")),
        (transfer_order(), {}, None),
        # 0.000005 SOL, rounded up to a millionth of a dollar
        (
            solana_order(),
            {"fee_coins": {"SolanaDevnet": {"usd": "150.1", "decimals": 9}}},
            Decimal("0.000751"),
        ),
        (solana_order(), ETH, None),
    ],
    ids=["eth", "no prices", "sol", "other network"],
)
async def test_a_transfers_fee(
    order: OrderForTest, prices: dict[str, object], fees: object
) -> None:
    """Once it is delivered, exactly; null where it has no price."""
    async with pair(prices) as (adapter, org):
        assert (await adapter.submit(order)).fees_paid_usd is None
        order = order.again()
        await org.steps(1)
        assert (await look(adapter, order)).fees_paid_usd is None
        await org.steps(1)
        report = await look(adapter, order)
        assert (report.sub_status, report.fees_paid_usd) == (SubStatus.DELIVERED, fees)


@pytest.mark.parametrize("order", [transfer_order(), solana_order()], ids=["erc20", "spl"])
async def test_a_transfers_amount_is_what_arrived(order: OrderForTest) -> None:
    """As Dfns shows it of the confirmed transfer, and not before."""
    async with pair() as (adapter, org):
        assert (await adapter.submit(order)).final_recipient_amount is None
        order = order.again()
        await org.steps(1)
        assert (await look(adapter, order)).final_recipient_amount is None
        await org.steps(1)
        report = await look(adapter, order)
        assert (report.sub_status, report.final_recipient_amount) == (
            SubStatus.DELIVERED,
            order.amount,
        )


@pytest.mark.parametrize(("prices", "fees"), [(ETH, Decimal("1.05")), ({}, None)])
async def test_an_off_ramps_fee_is_that_of_its_transfer(
    prices: dict[str, object], fees: Decimal | None
) -> None:
    """Not before it is Completed."""
    async with pair(prices) as (adapter, org):
        order = await confirmed(adapter, org, bank_order())
        seen = []
        for _ in range(8):
            await org.steps(1)
            seen.append(await look(adapter, order))
        assert {each.fees_paid_usd for each in seen[:-1] if each.sub_status != "delivered"} == {
            None
        }
        assert (seen[-1].sub_status, seen[-1].fees_paid_usd) == (SubStatus.DELIVERED, fees)
        # The echoed amount is what the provider got: what the recipient got is not told.
        assert {each.final_recipient_amount for each in seen} == {None}


@pytest.mark.parametrize(
    "coin", [{"usd": "0", "decimals": 18}, {"usd": "1"}, {"usd": "1", "decimals": -1}]
)
def test_a_price_is_complete(coin: dict[str, object]) -> None:
    """A price of nothing, or one without decimals, would tell wrong fees."""
    with pytest.raises(ValidationError):
        FeeCoin.model_validate(coin)
