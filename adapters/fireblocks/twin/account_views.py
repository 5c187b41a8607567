"""Vault, exchange and bank accounts with their balances, as in the official API description."""

from __future__ import annotations

from typing import Any

from adapters.fireblocks.twin.world import ASSETS, FIAT, SOURCES
from adapters.twin.ledger import Ledger

#: The type of the accounts at each path.
PATHS = {
    "vault/accounts": "VAULT_ACCOUNT",
    "exchange_accounts": "EXCHANGE_ACCOUNT",
    "fiat_accounts": "FIAT_ACCOUNT",
}


def show(path: str, account_id: str, ledger: Ledger) -> dict[str, Any] | None:
    """Return an account of the type at a path; None if there is none."""
    kind = PATHS[path]
    name = SOURCES.get((kind, account_id))
    if name is None:
        return None
    held = {
        each["asset"]: each["amount"]
        for each in ledger.balances()
        if each["account"] == account_id and each["asset"] in ASSETS
    }
    account: dict[str, Any] = {"id": account_id, "name": name}
    if kind == "VAULT_ACCOUNT":
        assets = [_in_vault(asset, amount) for asset, amount in held.items()]
        return {**account, "assets": assets, "hiddenOnUI": False, "autoFuel": False}
    if kind == "EXCHANGE_ACCOUNT":
        assets = [_at_exchange(asset, amount) for asset, amount in held.items()]
        more = {"type": "KRAKEN", "status": "APPROVED", "success": True, "isSubaccount": True}
        return {**account, **more, "assets": assets}
    assets = [{"id": each, "balance": amount} for each, amount in held.items() if each in FIAT]
    return {**account, "type": "BLINC", "assets": assets}


def _in_vault(asset: str, amount: str) -> dict[str, Any]:
    zero = dict.fromkeys(("pending", "frozen", "lockedAmount", "staked"), "0")
    # The deprecated `balance` is left out, so that a client that reads only that one fails.
    return {"id": asset, "total": amount, "available": amount, **zero}


def _at_exchange(asset: str, amount: str) -> dict[str, Any]:
    told = {"total": amount, "available": amount, "lockedAmount": "0", "credit": "0"}
    return {"id": asset, "assetLegacyId": asset, "assetSymbol": asset, **told}
