"""The seeded world of the card-passcode twin, its switches and its magic amounts: data, no rules.

Source: card-passcode protocol notes, §4 to §8 and §12 (what the provider does not publish).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

from pydantic import Field

from adapters.twin.base import TwinSettings

#: Wallets by currency. The server chooses one; the client never names it.
WALLETS: Mapping[str, int] = {"USD": 3}
BALANCES: Mapping[tuple[str, str], Decimal] = {("3", "USD"): Decimal(1_000_000)}

#: The merchant's phone and user id, which the passcode is tied to.
PHONE = "231770000001"
USER_ID = "1001"

#: Passcode attempts of a session before it is locked.
MOST_ATTEMPTS = 5
CODE_LIFE_S = 300
RESEND_AFTER_S = 30
MOST_SENDS = 3
CODE_LENGTH = 8


@dataclass(frozen=True)
class SeededAccount:
    """A payout account of the fresh twin."""

    name: str
    active: bool = True
    #: The code is sent for each session (grade B), not the merchant's standing one (grade A).
    one_time_code: bool = False


ACCOUNTS: Mapping[int, SeededAccount] = {
    17: SeededAccount("Closed wallet", active=False),
    18: SeededAccount("Amara's wallet"),
    19: SeededAccount("Kollie's wallet", one_time_code=True),
}


class CardPasscodeSettings(TwinSettings):
    """Switches. Where the provider says nothing, the default is the worst case for a client."""

    #: Seconds of the twin's clock that each step of an execution takes.
    step_s: float = Field(default=0.2, ge=0, le=86_400)
    #: Life of a bearer token, by the shared time; the value is the example of the notes.
    token_minutes: int = Field(default=60, ge=1, le=1440)
    #: Life of a payout session, by the twin's clock.
    session_life_s: float = Field(default=900, ge=1, le=86_400)
    #: Whether the merchant may pay out; an unverified one gets 403.
    verified: bool = True
    #: The answer to a repeated request after its reference was accepted: that its session is used up,
    #: that the reference exists, or the state of the execution.
    repeat: Literal["session", "reference", "current"] = "session"
    #: How a wrong passcode is reported: 422, 403, or 200 and then FAILED. All three have been observed.
    passcode_trouble: Literal["422", "403", "failed"] = "422"
    #: How answers write amounts: as text, as a number, or alternating.
    amount_form: Literal["mixed", "text", "number"] = "mixed"
    #: Whether a 422 repeats what was sent, including a passcode, as FastAPI does.
    echo_input: bool = True
    #: Whether one passcode may have both `phone` and `user_id`.
    both_ids: Literal["refuse", "accept"] = "refuse"
    #: Whether a reference cannot be used again after a 5xx. It is off, because the provider says to
    #: repeat it.
    burnt_by_5xx: bool = False
    #: The fee that the payer is charged in addition to the amount.
    fee_percent: float = Field(default=1.2, ge=0, le=100)


@dataclass(frozen=True)
class Leg:
    """One status of an execution and how long it lasts (None: a step)."""

    status: str
    wait_s: float | None = None
    #: Whether the mobile-money network has assigned an id from here on.
    transaction: bool = False
    gateway_message: str | None = None
    wallet_message: str | None = None
    requires_action: bool = False


@dataclass(frozen=True)
class Course:
    """The course of one execution."""

    meaning: str
    legs: tuple[Leg, ...]
    #: By how much answers show a lower payee amount than was ordered.
    short_by: Decimal = Decimal(0)
    operation_type: str = "PAYOUT"


_PENDING = Leg("PENDING")
_PROCESSING = Leg("PROCESSING")
_COMPLETED = Leg("COMPLETED", transaction=True)
SHORT_OF_MONEY = Leg("FAILED", wallet_message="Insufficient wallet balance")

NORMAL = Course("goes through", (_PENDING, _PROCESSING, _COMPLETED))
PROVIDER_FAILS = Course(
    "FAILED by the provider before the network saw it",
    (_PENDING, _PROCESSING, Leg("FAILED", gateway_message="Recipient cannot receive")),
)
NETWORK_FAILS = Course(
    "FAILED on the network, with a provider_transaction_id, nothing moved",
    (
        _PENDING,
        Leg("PROCESSING", transaction=True),
        Leg("FAILED", transaction=True, gateway_message="Network timeout"),
    ),
)
WALLET_SHORT = Course(
    "FAILED for lack of wallet balance, whatever the balance", (_PENDING, SHORT_OF_MONEY)
)
PASSCODE_LATE = Course(
    "FAILED after PROCESSING: the passcode was refused late",
    (_PENDING, _PROCESSING, Leg("FAILED", gateway_message="Passcode verification failed")),
)

#: Exact amounts that steer an execution. Keep the table in `twin/app.py` in step.
MAGIC: Mapping[Decimal, Course] = {
    Decimal("4000.02"): PROVIDER_FAILS,
    Decimal("4000.03"): NETWORK_FAILS,
    Decimal("4000.04"): WALLET_SHORT,
    Decimal("4000.05"): Course(
        "provider slow: PROCESSING for 180 s, then goes through",
        (_PENDING, Leg("PROCESSING", wait_s=180), _COMPLETED),
    ),
    Decimal("4000.06"): Course(
        "a status nobody knows for 3600 s, then goes through",
        (_PENDING, Leg("UNDER_THE_STARS", wait_s=3600), _PROCESSING, _COMPLETED),
    ),
    Decimal("4000.07"): Course(
        "the 200 of the execution itself says FAILED",
        (Leg("FAILED", gateway_message="Refused at once"),),
    ),
    Decimal("4000.08"): Course(
        "goes through, and answers show 1.00 less for the payee",
        NORMAL.legs,
        short_by=Decimal(1),
    ),
    Decimal("4000.09"): Course(
        "goes through, and answers show operation_type TRANSFER",
        NORMAL.legs,
        operation_type="TRANSFER",
    ),
    Decimal("4000.10"): PASSCODE_LATE,
    Decimal("4000.11"): Course(
        "requires_action with a client_secret for 30 s, as a card collection; then goes through",
        (_PENDING, Leg("PROCESSING", wait_s=30, requires_action=True), _PROCESSING, _COMPLETED),
    ),
    Decimal("4000.12"): Course(
        "PENDING for 3600 s, then goes through",
        (Leg("PENDING", wait_s=3600), _PROCESSING, _COMPLETED),
    ),
    Decimal("4000.13"): Course(
        "FAILED with a word about the wallet and one of the provider",
        (
            _PENDING,
            _PROCESSING,
            Leg("FAILED", gateway_message="Declined", wallet_message="Wallet credited back"),
        ),
    ),
}

#: The ends that the fault `fail_later` can give an execution.
FAILURES: Mapping[str, Course] = {
    "provider": PROVIDER_FAILS,
    "network": NETWORK_FAILS,
    "wallet": WALLET_SHORT,
    "passcode": PASSCODE_LATE,
}


def course_of(amount: Decimal) -> Course:
    """Return the course of an execution over this amount."""
    return MAGIC.get(amount, NORMAL)


def payer_amount(amount: Decimal, fee_percent: float) -> Decimal:
    """Return what the wallet is charged for a payout of this amount, in whole cents."""
    charged = amount * (100 + Decimal(str(fee_percent))) / 100
    return charged.quantize(Decimal("0.01"), rounding=ROUND_HALF_UP)
