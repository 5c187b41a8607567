"""Reads what a payment account can pay now.

Source: the official API description (vault, exchange and fiat accounts), as in the vendor's Python
client 35.1.0; the payments sheet has no call of its own for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import quote

from adapters.fireblocks.settings import AssetMapping
from gateway.adapter import Account, Balance, NotSent, Unsupported

#: The path of each type of account, and the members with its available and incoming amounts. Exchanges
#: and banks do not report the latter.
_ACCOUNTS: Mapping[str, tuple[str, str, str | None]] = {
    "VAULT_ACCOUNT": ("/vault/accounts/", "available", "pending"),
    "EXCHANGE_ACCOUNT": ("/exchange_accounts/", "available", None),
    "FIAT_ACCOUNT": ("/fiat_accounts/", "balance", None),
}
#: Members that name an asset: an exchange's assets have a new and a legacy name.
_IDS = ("assetLegacyId", "assetId", "id")


def path_of(account: Account) -> str:
    """Return the path for reading an account. Raises Unsupported for other types of accounts."""
    if account.type not in _ACCOUNTS:
        raise Unsupported(f"balances of a {account.type} are not supported by fireblocks")
    return _ACCOUNTS[account.type][0] + quote(account.id, safe="")


def balances_of(
    account: Account, told: Mapping[str, Any], assets: Mapping[str, AssetMapping], at: datetime
) -> list[Balance]:
    """Return the balances of the configured assets. Raises NotSent if they cannot be read."""
    if told.get("success") is False:
        raise NotSent("balances: the exchange did not answer Fireblocks")
    if str(told.get("id")) != account.id or not isinstance(told.get("assets"), list):
        raise NotSent("balances: an answer that is not understood")
    _, available, pending = _ACCOUNTS[account.type]
    ours = _codes(assets)
    found = []
    for each in told["assets"]:
        if not isinstance(each, dict):
            raise NotSent("balances: an answer that is not understood")
        name = next((each[key] for key in _IDS if each.get(key) in ours), None)
        if name is None:
            # The gateway does not pay this asset.
            continue
        code, network = ours[name]
        on_its_way = None if pending is None else _amount(each, pending)
        found.append(Balance(code, _amount(each, available), on_its_way, at, network))
    return found


def _codes(assets: Mapping[str, AssetMapping]) -> dict[str, tuple[str, str | None]]:
    """Return our code and the network of each asset id; a key that names a network is preferred."""
    codes: dict[str, tuple[str, str | None]] = {}
    for key in sorted(assets, key=lambda each: ":" in each):
        code, _, network = key.partition(":")
        codes[assets[key].asset_id] = (code, network or assets[key].network)
    return codes


def _amount(told: Mapping[str, Any], name: str) -> Decimal:
    try:
        amount = Decimal(str(told[name]))
    except (KeyError, InvalidOperation):
        raise NotSent(f"balances: {name} is missing") from None
    if not amount.is_finite():
        raise NotSent(f"balances: {name} is no amount")
    return amount
