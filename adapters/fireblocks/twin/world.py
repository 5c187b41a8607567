"""The seeded world of the Fireblocks twin, its switches and its magic amounts: data, no rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from pydantic import Field

from adapters.twin.base import TwinSettings

#: Decimals of every asset the workspace has.
ASSETS: Mapping[str, int] = {
    "USDC": 6,
    "USDT_ERC20": 6,
    "EURC": 6,
    "ETH": 18,
    "BTC": 8,
    "USD": 2,
}
#: Assets held at a bank, which never get a transaction hash.
FIAT = frozenset({"USD"})

#: Payment accounts (sources), (type, id) → name.
SOURCES: Mapping[tuple[str, str], str] = {
    ("EXCHANGE_ACCOUNT", "EX_SUB3"): "Exchange sub-account 3",
    ("VAULT_ACCOUNT", "7"): "Payouts vault",
    ("FIAT_ACCOUNT", "FIAT1"): "Operating account",
}

#: Payees, (type, id) → name.
PAYEES: Mapping[tuple[str, str], str] = {
    ("EXTERNAL_WALLET", "bef85a1c-b605-4b2e-bdb5-2d400f4d0bf3"): "Merchant wallet",
    ("NETWORK_CONNECTION", "3adc1f92-e791-44a8-9aee-7f31c2108b78"): "Merchant connection",
    ("VAULT_ACCOUNT", "8"): "Settlement vault",
    ("EXCHANGE_ACCOUNT", "EX_SUB4"): "Exchange sub-account 4",
    ("INTERNAL_WALLET", "0d9f3c52-7f5b-4d4e-9a64-2b1f7f0a6c11"): "Treasury wallet",
    ("FIAT_ACCOUNT", "FIAT2"): "Payroll account",
}

BALANCES: Mapping[tuple[str, str], Decimal] = {
    ("EX_SUB3", "USDC"): Decimal(1_000_000),
    ("7", "USDC"): Decimal(1_000_000),
    ("FIAT1", "USD"): Decimal(1_000_000),
}

#: The coarse `status` of each fine `state` (fireblocks protocol notes, section 3).
STATUS_OF_STATE: Mapping[str, str] = {
    "REQUESTED": "REGISTERED",
    "TRANSLATED": "VERIFYING",
    "PROCESSING": "IN_PROGRESS",
    "SUBMITTED": "IN_PROGRESS",
    "FINALIZED": "DONE",
    "INSUFFICIENT_BALANCE": "INSUFFICIENT_BALANCE",
    "FAILED": "FAILED",
}

#: The vendor's words for `reasonOfFailure`.
REASONS = (
    "INSUFFICIENT_BALANCE",
    "SOURCE_TRANSLATION",
    "SOURCE_NOT_UNIQUE",
    "SOURCE_NOT_FOUND",
    "SOURCE_TYPE_NOT_SUPPORTED",
    "EMPTY_SOURCE",
    "DESTINATION_TRANSLATION",
    "DESTINATION_NOT_UNIQUE",
    "DESTINATION_NOT_FOUND",
    "EMPTY_DESTINATION",
    "PARSING",
    "UNKNOWN",
    "FIREBLOCKS_CLIENT",
    "TRANSACTION_SUBMISSION",
)


class FireblocksSettings(TwinSettings):
    """Switches. Where the vendor says nothing, the default is the worst case for a client."""

    #: Seconds of the twin's clock that each life-cycle step takes.
    step_s: float = Field(default=0.2, ge=0, le=86_400)
    #: `global`: a key used on one endpoint is used on all, and replays the other call's answer.
    key_scope: Literal["global", "endpoint"] = "global"
    #: Same key, other body: `replay` the first answer as if it were for this body, or `refuse`.
    key_body: Literal["replay", "refuse"] = "replay"
    #: Whether a refusal (4XX) is remembered under its key, as a success is.
    replay_4xx: bool = True
    #: Whether the server replaces the caller's instruction ids with its own.
    server_instruction_ids: bool = True
    #: Whether instructions are returned in reverse order.
    reorder_instructions: bool = True
    #: Where accounts, payees and assets are checked: a 400 at `create` or at `execute`, or the
    #: payout fails with a `reasonOfFailure` in `translation`.
    validate_at: Literal["create", "execute", "translation"] = "create"
    #: Execute on an account whose last payout still runs: accepted and `queued`, or `refused`.
    locked_source: Literal["queued", "refused"] = "queued"
    #: A second execute: `refused` (400), or `accepted` (200, does nothing).
    second_execute: Literal["refused", "accepted"] = "refused"
    #: `v2`; v2 with the legacy header beside it; or the legacy `v1` header and envelope.
    webhook_format: Literal["v2", "v2_and_v1_header", "v1"] = "v2"
    #: The shape of a 401: message and code as the clients' pages show it (`gateway`), or with an `error`
    #: member as the API description has it (`documented`).
    shape_401: Literal["gateway", "documented"] = "gateway"
    #: How far `iat` may be in the future and `exp` in the past.
    skew_s: float = Field(default=0, ge=0, le=3600)


@dataclass(frozen=True)
class Leg:
    """One status of a transaction, how long it lasts (None: a step), and its sub-status."""

    status: str
    sub_status: str = ""
    wait_s: float | None = None
    #: The instruction's state meanwhile.
    instruction: str = "TRANSACTION_SENT"


_SUBMITTED = Leg("SUBMITTED")
_BROADCASTING = Leg("BROADCASTING")
_CONFIRMING = Leg("CONFIRMING", "PENDING_BLOCKCHAIN_CONFIRMATIONS")
_COMPLETED = Leg("COMPLETED", "CONFIRMED", instruction="COMPLETED")
_TO_THE_END = (_BROADCASTING, _CONFIRMING, _COMPLETED)


@dataclass(frozen=True)
class Course:
    """The course of one instruction."""

    meaning: str
    legs: tuple[Leg, ...] = ()
    #: The state in which the instruction ends before any transaction.
    ends_as: str | None = None
    #: `reasonOfFailure` of the payout when the instruction fails.
    reason: str | None = None
    #: Whether the payout lacks funds, whatever the balance, until a balance is set or midnight comes.
    short: bool = False


NORMAL = Course("goes through", (_SUBMITTED, *_TO_THE_END))

#: The course of an instruction by the fraction of its amount. Keep the table in `twin/app.py` in step.
MAGIC: Mapping[Decimal, Course] = {
    Decimal("0.000401"): Course(
        "waits for funds until a balance is set or midnight UTC", NORMAL.legs, short=True
    ),
    Decimal("0.000402"): Course(
        "instruction FAILED before any transaction",
        ends_as="FAILED",
        reason="TRANSACTION_SUBMISSION",
    ),
    Decimal("0.000403"): Course("instruction SKIPPED, payout FINALIZED", ends_as="SKIPPED"),
    Decimal("0.000404"): Course(
        "instruction TRANSLATION_ERROR",
        ends_as="TRANSLATION_ERROR",
        reason="DESTINATION_TRANSLATION",
    ),
    Decimal("0.000405"): Course(
        "transaction PENDING_AUTHORIZATION for 30 s, then goes through",
        (_SUBMITTED, Leg("PENDING_AUTHORIZATION", wait_s=30), *_TO_THE_END),
    ),
    Decimal("0.000406"): Course(
        "COMPLETED with COMPLETED_BUT_3RD_PARTY_FAILED: moved on chain, not credited",
        (
            _SUBMITTED,
            _BROADCASTING,
            _CONFIRMING,
            Leg("COMPLETED", "COMPLETED_BUT_3RD_PARTY_FAILED", instruction="COMPLETED"),
        ),
    ),
    Decimal("0.000407"): Course(
        "transaction CONFIRMING for 60 s, then goes through",
        (
            _SUBMITTED,
            _BROADCASTING,
            Leg("CONFIRMING", "PENDING_BLOCKCHAIN_CONFIRMATIONS", wait_s=60),
            _COMPLETED,
        ),
    ),
    Decimal("0.000408"): Course(
        "words nobody knows, for 3600 s, then goes through",
        (
            _SUBMITTED,
            Leg("PENDING_STARLIGHT", wait_s=3600, instruction="UNDER_THE_STARS"),
            *_TO_THE_END,
        ),
    ),
    Decimal("0.000409"): Course(
        "transaction REJECTED, BLOCKED_BY_POLICY",
        (_SUBMITTED, Leg("REJECTED", "BLOCKED_BY_POLICY", instruction="FAILED")),
    ),
    Decimal("0.000410"): Course(
        "transaction FAILED after broadcast, SMART_CONTRACT_EXECUTION_FAILED, nothing moved",
        (
            _SUBMITTED,
            _BROADCASTING,
            _CONFIRMING,
            Leg("FAILED", "SMART_CONTRACT_EXECUTION_FAILED", instruction="FAILED"),
        ),
    ),
    Decimal("0.000411"): Course(
        "transaction PENDING_AML_SCREENING for 30 s, then REJECTED_AML_SCREENING",
        (
            _SUBMITTED,
            Leg("PENDING_AML_SCREENING", wait_s=30),
            Leg("REJECTED", "REJECTED_AML_SCREENING", instruction="FAILED"),
        ),
    ),
}


def course_of(amount: Decimal) -> Course:
    """Return the course of an instruction over this amount, by its fraction."""
    return MAGIC.get(amount % 1, NORMAL)
