"""Dfns by the kit, once for each way to pay: wallet transfers and off-ramp payouts."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from adapters.dfns.adapter import Dfns
from adapters.dfns.twin.world import EUR_BANK_ACCOUNT, EVM_WALLET, SOLANA_WALLET
from gateway.adapter import (
    AddressDestination,
    BankAccountDestination,
    FailureCode,
    FundsMoved,
    SubStatus,
)
from gateway.testing import AdapterKit, Life, Refusal, account
from tests.adapters.dfns.organisation import PAYEE, SOLANA_PAYEE

CREDENTIALS = (
    "auth_token",
    "credential_id",
    "private_key",
    "webhook_secret",
    "borderless_account_id",
)
BANK = BankAccountDestination(
    payment_instructions_id=EUR_BANK_ACCOUNT,
    country="DE",
    fiat_currency="EUR",
    purpose="salary payment",
)
EVM: dict[str, Any] = {
    "amount": Decimal(43),
    "asset": "USDC",
    "network": "EthereumSepolia",
    "decimals": 6,
    "source": account(EVM_WALLET, "WALLET"),
    "destination": AddressDestination(network="EthereumSepolia", address=PAYEE),
}
SOLANA: dict[str, Any] = {
    "network": "SolanaDevnet",
    "source": account(SOLANA_WALLET, "WALLET"),
    "destination": AddressDestination(network="SolanaDevnet", address=SOLANA_PAYEE),
}


def failed(
    name: str,
    amount: str,
    end: SubStatus,
    code: FailureCode,
    moved: FundsMoved,
    *,
    paid: bool | None = None,
) -> Life:
    """Return a life that the twin is steered to by the amount."""
    return Life(name, {"amount": Decimal(amount)}, end, code=code, funds_moved=moved, paid=paid)


class TestTransfers(AdapterKit):
    """A wallet transfer: one signed call moves the money."""

    adapter = Dfns
    terms = EVM
    preparing = ("init", "sign")
    moving = "transfer"
    looking = ("transfer_status",)
    lives = (
        Life("delivered", words=(SubStatus.SUBMITTED, SubStatus.BROADCAST)),
        Life(
            "a coin to its smallest unit",
            {"amount": Decimal("0.000000000000000001"), "asset": "ETH", "decimals": 18},
        ),
        Life("an SPL token", {**SOLANA, "amount": Decimal("43.5")}),
        Life("an SPL-2022 token", {**SOLANA, "amount": Decimal(7), "asset": "PYUSD"}),
        Life(
            "a coin of Solana",
            {**SOLANA, "amount": Decimal("0.000000001"), "asset": "SOL", "decimals": 9},
        ),
        Life(
            "approved by a person",
            {"amount": Decimal("43.000601")},
            words=(SubStatus.AWAITING_APPROVAL,),
        ),
        failed(
            "rejected by policy",
            "43.000602",
            SubStatus.REJECTED,
            FailureCode.POLICY_REJECTED,
            FundsMoved.NO,
        ),
        failed(
            "failed without a hash",
            "43.000603",
            SubStatus.FAILED,
            FailureCode.CUSTODIAN_ERROR,
            FundsMoved.NO,
        ),
        failed(
            "failed on the network",
            "43.000604",
            SubStatus.FAILED,
            FailureCode.CHAIN_REJECTED,
            FundsMoved.UNKNOWN,
        ),
        failed(
            "no funds",
            "2000000",
            SubStatus.FAILED,
            FailureCode.INSUFFICIENT_FUNDS,
            FundsMoved.NO,
        ),
    )
    credentials = CREDENTIALS
    quick_settings = {"user_action_life_s": 2, "timeout_s": 1}
    quick_switches = {"token_life_s": 2}


class TestOffRamp(AdapterKit):
    """An off-ramp payout: created, compared, confirmed once; only its own word delivers."""

    adapter = Dfns
    terms = {**EVM, "destination": BANK}
    preparing = ("create", "init", "sign")
    moving = "confirm"
    looking = ("payout", "transfer_status")
    lives = (
        Life("delivered", words=(SubStatus.SETTLING, SubStatus.BROADCAST, SubStatus.SETTLING)),
        failed("expired", "43.000502", SubStatus.EXPIRED, FailureCode.EXPIRED, FundsMoved.NO),
        failed(
            "refused before the confirmation",
            "43.000503",
            SubStatus.REJECTED,
            FailureCode.POLICY_REJECTED,
            FundsMoved.NO,
        ),
        failed(
            "failed before the confirmation",
            "43.000504",
            SubStatus.FAILED,
            FailureCode.THIRD_PARTY_FAILED,
            FundsMoved.NO,
        ),
        failed("canceled", "43.000505", SubStatus.CANCELED, FailureCode.CANCELED, FundsMoved.NO),
        failed(
            "refused by policy",
            "43.000509",
            SubStatus.REJECTED,
            FailureCode.POLICY_REJECTED,
            FundsMoved.NO,
        ),
        failed(
            "its transfer failed",
            "43.000510",
            SubStatus.FAILED,
            FailureCode.THIRD_PARTY_FAILED,
            FundsMoved.NO,
        ),
        failed(
            "its transfer failed on the network",
            "43.000511",
            SubStatus.FAILED,
            FailureCode.THIRD_PARTY_FAILED,
            FundsMoved.UNKNOWN,
        ),
        failed(
            "the provider failed after the deposit",
            "43.000512",
            SubStatus.FAILED,
            FailureCode.THIRD_PARTY_FAILED,
            FundsMoved.YES,
        ),
        Life(
            "approved by a person",
            {"amount": Decimal("43.000508")},
            words=(SubStatus.AWAITING_APPROVAL,),
        ),
    )
    refusals = (
        Refusal(
            "a purpose that the provider does not have",
            {"destination": BANK.model_copy(update={"purpose": "fun"})},
            FailureCode.SUBMISSION_REJECTED,
            early=True,
            says="purpose",
        ),
    )
    credentials = CREDENTIALS
    quick_settings = {"user_action_life_s": 2, "timeout_s": 1}
    quick_switches = {"token_life_s": 2}
