"""The seeded world of the Dfns twin, its switches and its magic amounts: data, no rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from pydantic import Field

from adapters.twin.base import TwinSettings

EVM_WALLET = "wa-5pfuu-9euek-h0odgb6snva8ph3k"
SOLANA_WALLET = "wa-2kd81-sol7n-q4w9tz1mvc6xb8r0"
BORDERLESS_ACCOUNT = "6f1d8f4e-2a55-4d7c-9f0b-3f4f5f0c1a01"
#: A EUR bank account of that Borderless account.
EUR_BANK_ACCOUNT = "c2b7a3de-51d0-4c38-8a07-9b1de0a7f302"


@dataclass(frozen=True)
class Token:
    """A token of a network: `kind` and `place` (contract or mint) as transfers name it."""

    symbol: str
    decimals: int
    kind: str
    place: str | None


@dataclass(frozen=True)
class WalletRecord:
    """A wallet of the organisation."""

    id: str
    network: str
    address: str
    tokens: tuple[Token, ...]


WALLETS: Mapping[str, WalletRecord] = {
    each.id: each
    for each in (
        WalletRecord(
            EVM_WALLET,
            "EthereumSepolia",
            "0x8d5cf63f3f0bb1b41a5e4ed9a2be1f2f1d8c4a10",
            (
                Token("USDC", 6, "Erc20", "0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238"),
                Token("ETH", 18, "Native", None),
            ),
        ),
        WalletRecord(
            SOLANA_WALLET,
            "SolanaDevnet",
            "9xQeWvG816bUx9EPjHmaT23yvVM2ZWbrrpZb9PusVFin",
            (
                Token("USDC", 6, "Spl", "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"),
                Token("PYUSD", 6, "Spl2022", "CXk2AMBfi3TwaEL2468s6zP8xq9NxTXjp9gjMgzeUynM"),
                Token("SOL", 9, "Native", None),
            ),
        ),
    )
}

BALANCES: Mapping[tuple[str, str], Decimal] = {
    (EVM_WALLET, "USDC"): Decimal(1_000_000),
    (EVM_WALLET, "ETH"): Decimal(100),
    (SOLANA_WALLET, "USDC"): Decimal(1_000_000),
    (SOLANA_WALLET, "PYUSD"): Decimal(1_000_000),
    (SOLANA_WALLET, "SOL"): Decimal(1_000),
}

#: Owners on Solana that have a token account for every mint here; nobody else has one.
TOKEN_OWNERS = frozenset({"7v91N7iZ9mNicL8WfG6cgSCKyRXydQjLh6UYBWwm6y1Q"})

#: Networks whose own coin carries a memo. None of the wallets here has one.
MEMO_NETWORKS = frozenset({"Stellar", "StellarTestnet", "XrpLedger", "XrpLedgerTestnet"})

#: The value of a dollar in the fiat currency, net of fees, for the indicative quote.
RATES: Mapping[str, Decimal] = {"EUR": Decimal("0.92"), "USD": Decimal(1), "GBP": Decimal("0.79")}

PURPOSES = frozenset(
    {
        "salary payment",
        "personal remittance",
        "rent payment",
        "property purchase",
        "owned account abroad",
        "advertising expenses",
        "advisory fees",
        "business insurance",
        "construction",
        "delivery fees",
        "education",
        "exports",
        "donation",
        "hotel",
        "loan payment",
        "maintenance expenses",
        "medical expense",
        "office expenses",
        "royalty fees",
        "service charge",
        "shares investment",
        "tax payment",
        "transportation fees",
        "travel",
        "utility bills",
        "other",
    }
)


class DfnsSettings(TwinSettings):
    """Switches. Where the vendor says nothing, the default is the worst case for a client."""

    #: Seconds of the twin's clock that each life-cycle step takes.
    step_s: float = Field(default=0.2, ge=0, le=86_400)
    #: Whether a signed body must have the same `bytes` as the payload, or the same `json`.
    payload_check: Literal["bytes", "json"] = "bytes"
    #: Whether a refused call uses up its user action token as well.
    spend_token_on_refusal: bool = False
    #: How long a user action token can be used.
    token_life_s: float = Field(default=900, gt=0, le=86_400)
    #: The status of the answer to a used token.
    used_token_status: Literal[400, 403] = 400
    #: The answer to the same `externalId` with another body, on payouts: `refuse` (409), or `return`
    #: the first one.
    payout_other_body: Literal["refuse", "return"] = "return"
    #: A second Confirm of a payout that has not ended: it `pays_again`, is `refused` (409), or is
    #: `accepted` (200, does nothing).
    second_confirm: Literal["pays_again", "refused", "accepted"] = "pays_again"
    #: How long a payout waits for its Confirm before it is `Expired`.
    confirm_window_s: float = Field(default=86_400, gt=0, le=1e8)
    #: Whether the settling transfer carries the payout's `externalId`.
    transfer_external_id: bool = False
    #: Requests a minute of the organisation before 429.
    requests_per_minute: int = Field(default=1000, ge=1, le=1_000_000)
    #: Whether a call that the policy holds is answered with 202.
    policy_answers_202: bool = True
    #: Deposit addresses on Solana are those of a key (`on_curve`) or of a program (`off_curve`): the
    #: vendor's pattern allows both.
    solana_deposits: Literal["on_curve", "off_curve"] = "on_curve"
    #: A webhook's `retryOf` names the `first` attempt or the `previous` one.
    retry_of: Literal["first", "previous"] = "previous"


@dataclass(frozen=True)
class PayoutCourse:
    """The course of an off-ramp payout."""

    meaning: str
    #: Execution statuses before the confirmation, each with its seconds (None: a step).
    before: tuple[tuple[str, float | None], ...] = (("Initializing", None),)
    #: The end that comes instead of `AwaitingPayoutConfirmation`.
    before_end: str | None = None
    #: Execution statuses after Confirm and before the transfer is made.
    after: tuple[tuple[str, float | None], ...] = (("SubmittingPayoutTransfer", None),)
    #: The end that comes instead of the transfer.
    after_end: str | None = None
    #: The course of the settling transfer.
    transfer: TransferCourse | None = None
    #: The status in which the payout ends after a number of seconds, whatever its transfer does.
    overtaken: tuple[str, float] | None = None
    #: Execution statuses after the deposit, and the end.
    tail: tuple[tuple[str, float | None], ...] = (("DisbursementPending", None),)
    end: str = "Completed"


@dataclass(frozen=True)
class TransferCourse:
    """The course of a wallet transfer: statuses with their seconds; the last one stays."""

    meaning: str
    legs: tuple[tuple[str, float | None], ...]
    #: Whether it has a hash; a `Failed` transfer with a hash was on the chain.
    reached_chain: bool = True
    reason: str | None = None
    answers_202: bool = False


_SENT = (("Executing", None), ("Broadcasted", None), ("Confirmed", None))
THROUGH = TransferCourse("goes through", _SENT)
APPROVED = TransferCourse(
    "waits 30 s for a policy approval, then goes through",
    (("Pending", 30), *_SENT),
    answers_202=True,
)
REFUSED = TransferCourse(
    "waits 30 s for a policy approval, then Rejected",
    (("Pending", 30), ("Rejected", None)),
    reached_chain=False,
    reason="rejected by policy",
    answers_202=True,
)
FAILED_BEFORE = TransferCourse(
    "Failed without a hash",
    (("Executing", None), ("Failed", None)),
    reached_chain=False,
    reason="broadcast failed",
)
FAILED_ON_CHAIN = TransferCourse(
    "Failed with a hash: reverted on the chain",
    (("Executing", None), ("Broadcasted", None), ("Failed", None)),
    reason="transaction reverted",
)
APPROVED_LATE = TransferCourse(
    "waits 120 s for a policy approval, then goes through", (("Pending", 120), *_SENT)
)

#: The course of a transfer by the fraction of its amount. Keep the table in `twin/app.py` in step.
MAGIC_TRANSFERS: Mapping[Decimal, TransferCourse] = {
    Decimal("0.000601"): APPROVED,
    Decimal("0.000602"): REFUSED,
    Decimal("0.000603"): FAILED_BEFORE,
    Decimal("0.000604"): FAILED_ON_CHAIN,
    Decimal("0.000605"): TransferCourse(
        "Broadcasted for 60 s",
        (("Executing", None), ("Broadcasted", 60), ("Confirmed", None)),
    ),
    Decimal("0.000606"): TransferCourse(
        "a word nobody knows, for 3600 s, then goes through", (("Stargazing", 3600), *_SENT)
    ),
}

#: The course of a payout by the fraction of its amount.
MAGIC_PAYOUTS: Mapping[Decimal, PayoutCourse] = {
    Decimal("0.000501"): PayoutCourse(
        "AwaitingPayoutInstructions for 30 s, then goes through",
        before=(("Initializing", None), ("AwaitingPayoutInstructions", 30)),
    ),
    Decimal("0.000502"): PayoutCourse("Expired before the confirmation", before_end="Expired"),
    Decimal("0.000503"): PayoutCourse("Rejected before the confirmation", before_end="Rejected"),
    Decimal("0.000504"): PayoutCourse("Failed before the confirmation", before_end="Failed"),
    Decimal("0.000505"): PayoutCourse("Canceled by the provider", before_end="Canceled"),
    Decimal("0.000506"): PayoutCourse("Rejected after Confirm", after_end="Rejected"),
    Decimal("0.000507"): PayoutCourse("Failed after Confirm", after_end="Failed"),
    Decimal("0.000508"): PayoutCourse("policy approval after 30 s", transfer=APPROVED),
    Decimal("0.000509"): PayoutCourse(
        "policy rejection after 30 s", transfer=REFUSED, end="Rejected"
    ),
    Decimal("0.000510"): PayoutCourse(
        "the settling transfer fails without a hash", transfer=FAILED_BEFORE, end="Failed"
    ),
    Decimal("0.000511"): PayoutCourse(
        "the settling transfer is reverted on the chain", transfer=FAILED_ON_CHAIN, end="Failed"
    ),
    Decimal("0.000512"): PayoutCourse(
        "the deposit arrives, then the provider fails",
        tail=(("DepositProcessing", None), ("DisbursementPending", None)),
        end="Failed",
    ),
    Decimal("0.000513"): PayoutCourse(
        "DisbursementPending for 60 s", tail=(("DisbursementPending", 60),)
    ),
    Decimal("0.000514"): PayoutCourse(
        "Expired after 60 s, while its transfer waits for an approval that comes after 120 s",
        transfer=APPROVED_LATE,
        overtaken=("Expired", 60),
    ),
    Decimal("0.000515"): PayoutCourse(
        "a word nobody knows, for 3600 s, then goes through",
        tail=(("AwaitingStarlight", 3600), ("DisbursementPending", None)),
    ),
}


def payout_course(amount: Decimal) -> PayoutCourse:
    """Return the course of a payout over this amount, by its fraction."""
    return MAGIC_PAYOUTS.get(amount % 1, PayoutCourse("goes through"))


def transfer_course(amount: Decimal) -> TransferCourse:
    """Return the course of a transfer over this amount, by its fraction."""
    return MAGIC_TRANSFERS.get(amount % 1, THROUGH)
