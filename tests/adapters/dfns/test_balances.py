"""What wallets hold, read from the twin and by the vendor's own client."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import pytest

from adapters.dfns.balances import balances_of
from adapters.dfns.twin.world import EVM_WALLET, SOLANA_WALLET
from gateway.adapter import Account, NotSent, Unsupported
from gateway.assets import AssetRegistry
from gateway.runtime import SystemClock
from tests.adapters.dfns.organisation import USDC, open_organisation
from tests.adapters.dfns.rig import pair, transfer_order
from tests.adapters.dfns.test_official_client import call, client

EVM = Account(id=EVM_WALLET, type="WALLET")
NETWORK = "EthereumSepolia"


async def test_a_wallet_shows_what_the_gateway_pays() -> None:
    """Known by contract or mint: a token that somebody named USDC is not counted."""
    async with pair() as (adapter, _):
        evm = {each.asset: each for each in await adapter.balances(EVM)}
        assert {name: each.available for name, each in evm.items()} == {
            "USDC": Decimal(1_000_000),
            "ETH": Decimal(100),
        }
        assert {(each.network, each.pending) for each in evm.values()} == {(NETWORK, None)}
        solana = await adapter.balances(Account(id=SOLANA_WALLET, type="WALLET"))
        assert {(each.asset, each.available) for each in solana} == {
            ("USDC", Decimal(1_000_000)),
            ("PYUSD", Decimal(1_000_000)),
            ("SOL", Decimal(1_000)),
        }


async def test_what_is_paid_is_no_longer_there() -> None:
    """To the smallest unit; a look moves nothing."""
    async with pair() as (adapter, org):
        await adapter.submit(transfer_order("0.000001"))
        await org.steps(6)
        found = {each.asset: each.available for each in await adapter.balances(EVM)}
        assert found["USDC"] == Decimal("999999.999999")
        assert len(await org.ledger()) == 1


async def test_what_cannot_be_read_is_said_so() -> None:
    """A wallet that is not configured, a failing API: never an empty list."""
    async with pair() as (adapter, org):
        for account in (Account(id="wa-other", type="WALLET"), Account(id=EVM_WALLET, type="X")):
            with pytest.raises(Unsupported):
                await adapter.balances(account)
        await org.steer(
            "POST", "faults", {"call": "balances", "fault": "error_before", "status": 503}
        )
        with pytest.raises(NotSent, match="503"):
            await adapter.balances(EVM)


@pytest.mark.parametrize(
    "told",
    [
        {"walletId": SOLANA_WALLET},
        {"network": "Ethereum"},
        {"assets": None},
        {"assets": ["USDC"]},
        {"assets": [{"kind": "Erc20", "contract": USDC, "decimals": 18, "balance": "1"}]},
        {"assets": [{"kind": "Erc20", "contract": USDC, "decimals": 6, "balance": "1.5"}]},
        {"assets": [{"kind": "Erc20", "contract": USDC, "decimals": 6}]},
    ],
)
def test_an_answer_that_is_not_understood_is_no_balance(told: dict[str, Any]) -> None:
    """Another wallet's, another number of decimals, no whole number of smallest units."""
    answer = {"walletId": EVM_WALLET, "network": NETWORK, "assets": [], **told}
    with pytest.raises(NotSent):
        balances_of(EVM, NETWORK, answer, AssetRegistry(), SystemClock().now())


async def test_the_vendors_client_reads_the_same() -> None:
    """Unchanged."""
    async with open_organisation(time.time) as org, client(org) as dfns:
        told = await call(dfns.wallets.get_wallet_assets, EVM_WALLET)
        first = told["assets"][0]
        assert (first["symbol"], first["balance"], first["contract"]) == (
            "USDC",
            "1000000000000",
            USDC,
        )
