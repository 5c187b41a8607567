"""What payment accounts can pay, read from the twin and by the vendor's own client."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from typing import Any

import pytest
from fireblocks.client import Fireblocks as Client
from fireblocks.client_configuration import ClientConfiguration

from adapters.fireblocks.balances import balances_of
from adapters.fireblocks.settings import AssetMapping
from gateway.adapter import Account, NotSent, Unsupported
from gateway.runtime import SystemClock
from tests.adapters.fireblocks.rig import executes, order, pair, submit
from tests.adapters.fireblocks.workspace import open_workspace

VAULT = Account(id="7", type="VAULT_ACCOUNT")
EXCHANGE = Account(id="EX_SUB3", type="EXCHANGE_ACCOUNT")
BANK = Account(id="FIAT1", type="FIAT_ACCOUNT")


@pytest.mark.parametrize(
    ("account", "asset", "network", "pending"),
    [
        (VAULT, "USDC", "Ethereum", Decimal(0)),
        (EXCHANGE, "USDC", "Ethereum", None),
        (BANK, "USD", None, None),
    ],
)
async def test_each_type_of_account_is_read(
    account: Account, asset: str, network: str | None, pending: Decimal | None
) -> None:
    """What is on its way is told of a vault alone."""
    async with pair() as (adapter, _):
        (found,) = await adapter.balances(account)
        assert (found.asset, found.network) == (asset, network)
        assert (found.available, found.pending) == (Decimal(1_000_000), pending)
        assert found.as_of.tzinfo is not None


async def test_what_is_paid_is_no_longer_there() -> None:
    """A look at the balance moves nothing."""
    async with pair() as (adapter, space):
        await submit(adapter, order())
        await space.steps(12)
        (found,) = await adapter.balances(EXCHANGE)
        assert found.available == Decimal(1_000_000) - 43
        assert await executes(space) == 1


async def test_what_cannot_be_read_is_said_so() -> None:
    """Another type, another account, a failing API: never an empty list, never a zero."""
    async with pair() as (adapter, space):
        with pytest.raises(Unsupported, match="NETWORK_CONNECTION"):
            await adapter.balances(Account(id="x", type="NETWORK_CONNECTION"))
        with pytest.raises(NotSent, match="404"):
            await adapter.balances(Account(id="8/../7", type="VAULT_ACCOUNT"))
        await space.steer(
            "POST", "faults", {"call": "balances", "fault": "error_before", "status": 503}
        )
        with pytest.raises(NotSent, match="503"):
            await adapter.balances(VAULT)


@pytest.mark.parametrize(
    "told",
    [
        {"id": "EX_SUB3", "success": False, "assets": []},
        {"id": "EX_SUB4", "assets": []},
        {"id": "EX_SUB3"},
        {"id": "EX_SUB3", "assets": ["USDC"]},
        {"id": "EX_SUB3", "assets": [{"id": "USDC"}]},
        {"id": "EX_SUB3", "assets": [{"id": "USDC", "available": "NaN"}]},
        {"id": "EX_SUB3", "assets": [{"id": "USDC", "available": "many"}]},
    ],
)
def test_an_answer_that_is_not_understood_is_no_balance(told: dict[str, Any]) -> None:
    """Operators decide by it."""
    with pytest.raises(NotSent):
        balances_of(EXCHANGE, told, {"USDC": AssetMapping(asset_id="USDC")}, SystemClock().now())


def test_only_configured_assets_are_shown_each_with_its_network() -> None:
    """By Fireblocks' id of them, the legacy one of an exchange first."""
    assets = {
        "USDC": AssetMapping(asset_id="USDC", network="Ethereum"),
        "USDC:Polygon": AssetMapping(asset_id="USDC_POLYGON"),
    }
    told = {
        "id": "EX_SUB3",
        "assets": [
            {"id": "?", "assetLegacyId": "USDC", "available": "1.5"},
            {"assetId": "USDC_POLYGON", "available": "2"},
            {"id": "DOGE", "available": "not even read"},
        ],
    }
    found = balances_of(EXCHANGE, told, assets, SystemClock().now())
    assert [(each.asset, each.network, each.available) for each in found] == [
        ("USDC", "Ethereum", Decimal("1.5")),
        ("USDC", "Polygon", Decimal(2)),
    ]


async def test_the_vendors_client_reads_the_same() -> None:
    """The twin answers in the shapes of the official description."""

    def read(client: Any) -> list[tuple[str, str]]:
        vault = client.vaults.get_vault_account("7").result().data
        exchange = client.exchange_accounts.get_exchange_account("EX_SUB3").result().data
        bank = client.fiat_accounts.get_fiat_account("FIAT1").result().data
        return [
            (vault.assets[0].id, vault.assets[0].available),
            (exchange.assets[0].id, exchange.assets[0].available),
            (bank.assets[0].id, bank.assets[0].balance),
        ]

    async with open_workspace(time.time) as space:
        user = space.twin.user
        config = ClientConfiguration(
            api_key=user.api_key, secret_key=user.private_pem(), base_path=space.root + "/v1"
        )
        with Client(config) as client:
            assert await asyncio.to_thread(read, client) == [
                ("USDC", "1000000"),
                ("USDC", "1000000"),
                ("USD", "1000000"),
            ]
