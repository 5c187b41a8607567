"""Solana at Dfns: the provider's deposit addresses, token accounts of recipients, memos."""

from __future__ import annotations

import pytest

from adapters.dfns.twin.world import SOLANA_WALLET
from gateway.adapter import Account, SubStatus, address_fault
from tests.adapters.dfns.rig import bank_order, confirmed, look, pair


@pytest.mark.parametrize("deposits", ["on_curve", "off_curve"])
async def test_an_off_ramp_is_confirmed_to_whatever_address_the_provider_made(
    deposits: str,
) -> None:
    """The provider's address may be a key's or a program's: the vendor's pattern says neither."""
    async with pair(solana_deposits=deposits) as (adapter, org):
        for number in range(16):
            source = Account(id=SOLANA_WALLET, type="WALLET")
            order = bank_order("43", network="SolanaDevnet", source=source, attempt=number + 1)
            order = await confirmed(adapter, org, order)
            address = str(order.notes["deposit_address"])
            assert (address_fault("SolanaDevnet", address) is None) == (deposits == "on_curve")
            await org.steps(6)
            assert (await look(adapter, order)).sub_status is SubStatus.DELIVERED
        assert len(await org.ledger()) == 16
