"""Reads what a wallet holds now.

Source: the official API description (Get Wallet Assets), as in the vendor's Python client 1.0.2.
Amounts are on-chain, in the asset's smallest unit. They still include transfers that are not on the
chain yet, and incoming amounts are not reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from adapters.dfns.settings import DfnsSettings
from adapters.dfns.terms import amount_of, same_address
from gateway.adapter import Account, AssetRegistry, Balance, NotSent, Unsupported


def network_of(settings: DfnsSettings, account: Account) -> str:
    """Return the network of a configured wallet. Raises Unsupported for another account."""
    found = [network for network, wallet in settings.wallets.items() if wallet == account.id]
    if account.type != "WALLET" or not found:
        raise Unsupported(f"{account.type} {account.id} is no wallet of the setting wallets")
    return found[0]


def balances_of(
    account: Account, network: str, told: Mapping[str, Any], assets: AssetRegistry, at: datetime
) -> list[Balance]:
    """Return the balances of the assets that the gateway knows. Raises NotSent if they are not reported.

    A token is identified by its contract or mint, never by its symbol, because anybody can name a token
    USDC.
    """
    if (told.get("walletId"), told.get("network")) != (account.id, network):
        raise NotSent("balances: an answer about another wallet")
    if not isinstance(told.get("assets"), list):
        raise NotSent("balances: an answer that is not understood")
    found = []
    for each in told["assets"]:
        if not isinstance(each, dict):
            raise NotSent("balances: an answer that is not understood")
        code = _code(each, network, assets)
        if code is None:
            continue
        decimals = assets.find(code).decimals_on(network)
        amount = amount_of(each.get("balance"), decimals)
        if amount is None or each.get("decimals") != decimals:
            raise NotSent(f"balances: the amount of {code} is not understood")
        found.append(Balance(code, amount, None, at, network))
    return found


def _code(told: Mapping[str, Any], network: str, assets: AssetRegistry) -> str | None:
    """Return our code of an asset of the wallet; None if the gateway does not pay it."""
    place = told.get("contract") or told.get("mint")
    native = told.get("kind") == "Native"
    for code in assets.codes():
        on_network = assets.find(code).networks.get(network)
        if on_network is None:
            continue
        ours = on_network.contract
        if (native and ours is None) or (
            not native and ours is not None and place and same_address(str(place), ours)
        ):
            return code
    return None
