"""Card passcode by the kit: with our own passcode, and with one that the caller gives."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from adapters.card_passcode.adapter import CardPasscode
from gateway.adapter import FailureCode, FundsMoved, PayoutAccountDestination, SubStatus
from gateway.testing import AdapterKit, Bench, Life, Refusal, account

TERMS: dict[str, Any] = {
    "amount": Decimal("75.00"),
    "asset": "USD",
    "network": None,
    "decimals": 2,
    "source": account("3", "WALLET"),
    "destination": PayoutAccountDestination(payout_account_id="18"),
}
SHORT = {"adapters.card_passcode.session:_MARGIN_S": 1.0}


class TestStandingPasscode(AdapterKit):
    """Session, execution under a reference of ours, status."""

    adapter = CardPasscode
    terms = TERMS
    preparing = ("token", "session")
    moving = "execute"
    looking = ("status",)
    lives = (
        Life("delivered", words=(SubStatus.SUBMITTED, SubStatus.BROADCAST)),
        *(
            Life(name, {"amount": Decimal(amount)})
            for name, amount in (
                ("slow", "4000.05"),
                ("an action of cards on the way", "4000.11"),
                ("another payee amount", "4000.08"),
                ("4000.12 of the twin", "4000.12"),
            )
        ),
        *(
            Life(
                name,
                {"amount": Decimal(amount)},
                end=SubStatus.FAILED,
                code=code,
                funds_moved=moved,
            )
            for name, amount, code, moved in (
                ("the provider fails", "4000.02", FailureCode.UNKNOWN_REASON, FundsMoved.NO),
                ("the network fails", "4000.03", FailureCode.UNKNOWN_REASON, FundsMoved.UNKNOWN),
                ("the wallet is short", "4000.04", FailureCode.INSUFFICIENT_FUNDS, FundsMoved.NO),
                ("refused at once", "4000.07", FailureCode.UNKNOWN_REASON, FundsMoved.NO),
                (
                    "the passcode is refused late",
                    "4000.10",
                    FailureCode.UNKNOWN_REASON,
                    FundsMoved.NO,
                ),
                ("4000.13 of the twin", "4000.13", FailureCode.UNKNOWN_REASON, FundsMoved.NO),
            )
        ),
        Life("an unknown word", {"amount": Decimal("4000.06")}, end=None),
        Life("another operation", {"amount": Decimal("4000.09")}, end=None),
    )
    refusals = (
        Refusal(
            "an unknown payout account",
            {"destination": PayoutAccountDestination(payout_account_id="4711")},
            FailureCode.DESTINATION_REJECTED,
        ),
        Refusal("too precise", {"amount": Decimal("1.001")}, FailureCode.AMOUNT_REJECTED),
        Refusal(
            "no whole number",
            {"destination": PayoutAccountDestination(payout_account_id="18a")},
            FailureCode.SUBMISSION_REJECTED,
            early=True,
            says="whole number",
        ),
    )
    quick = SHORT
    quick_settings = {"timeout_s": 1}
    quick_switches = {"session_life_s": 8}


class TestCallersPasscode(AdapterKit):
    """The same, where a person gives the passcode: confirm makes the calls."""

    adapter = CardPasscode
    terms = TERMS
    asks_person = True
    preparing = ("token", "session")
    moving = "execute"
    looking = ("status",)
    settings = {"passcode_mode": "caller"}
    credentials = ("client_id", "client_secret", "phone")

    async def answer(self, bench: Bench) -> Mapping[str, Any]:
        """Return the standing passcode of the twin's account 18."""
        return {"passcode": {"token": {"code": bench.credentials["passcode"]}}}
