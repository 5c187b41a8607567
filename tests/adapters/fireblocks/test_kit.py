"""Fireblocks by the kit: its twin's calls, its lives, its refusals."""

from __future__ import annotations

from decimal import Decimal

from adapters.fireblocks.adapter import Fireblocks
from gateway.adapter import (
    Account,
    CustodianAccountDestination,
    FailureCode,
    SubStatus,
)
from gateway.testing import AdapterKit, Life, Refusal, account
from tests.adapters.fireblocks.workspace import EXTERNAL_WALLET


class TestFireblocks(AdapterKit):
    """An instruction set of one: create, execute, status and transaction."""

    adapter = Fireblocks
    terms = {
        "amount": Decimal(43),
        "asset": "USDC",
        "network": "Ethereum",
        "decimals": 6,
        "source": account("EX_SUB3", "EXCHANGE_ACCOUNT"),
        "destination": CustodianAccountDestination(
            account_type="EXTERNAL_WALLET", id=EXTERNAL_WALLET
        ),
    }
    preparing = ("create",)
    moving = "execute"
    looking = ("status", "transaction")
    lives = (
        Life(
            "delivered",
            words=(SubStatus.SUBMITTED, SubStatus.BROADCAST, SubStatus.CONFIRMING),
        ),
        Life(
            "completed and not credited",
            {"amount": Decimal("1.000406")},
            end=SubStatus.FAILED,
            code=FailureCode.THIRD_PARTY_FAILED,
            paid=True,
        ),
        Life("an unknown word", {"amount": Decimal("1.000408")}, end=None, paid=False),
    )
    refusals = (
        Refusal(
            "an unknown payee at create",
            {
                "destination": CustodianAccountDestination(
                    account_type="EXTERNAL_WALLET", id="nobody"
                )
            },
            FailureCode.DESTINATION_REJECTED,
            switches={"validate_at": "create"},
        ),
        Refusal(
            "an unknown account at execute",
            {"source": Account(id="nothing", type="VAULT_ACCOUNT")},
            FailureCode.SOURCE_REJECTED,
            switches={"validate_at": "execute"},
        ),
        Refusal(
            "an asset that is not configured",
            {"asset": "PYUSD"},
            FailureCode.SUBMISSION_REJECTED,
            early=True,
        ),
    )
    credentials = ("api_key", "private_key", "jwks_url")
    webhook_keys = "jwks_url"
    quick_settings = {"timeout_s": 1}
