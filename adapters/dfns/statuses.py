"""Maps Dfns' statuses to ours. The tables come first, then the reading of payouts and transfers.

Source: dfns protocol notes, §2 (execution statuses), §5 (transfer statuses).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.adapter import Failure, FailureCode, FundsMoved, SubStatus

#: Execution statuses of a payout before its confirmation.
BEFORE_CONFIRM = frozenset({"Initializing", "AwaitingPayoutInstructions"})
AWAITING_CONFIRM = "AwaitingPayoutConfirmation"

#: Execution statuses after the confirmation, while the payout runs.
PAYOUT_WORDS: Mapping[str, SubStatus] = {
    "SubmittingPayoutTransfer": SubStatus.SUBMITTED,
    "PendingPolicyApproval": SubStatus.AWAITING_APPROVAL,
    "DepositProcessing": SubStatus.SETTLING,
    "DisbursementPending": SubStatus.SETTLING,
    "Completed": SubStatus.DELIVERED,
}

#: The final statuses of a payout that is not paid: our status, our code.
PAYOUT_ENDS: Mapping[str, tuple[SubStatus, FailureCode]] = {
    "Rejected": (SubStatus.REJECTED, FailureCode.POLICY_REJECTED),
    "Failed": (SubStatus.FAILED, FailureCode.THIRD_PARTY_FAILED),
    "Expired": (SubStatus.EXPIRED, FailureCode.EXPIRED),
    "Canceled": (SubStatus.CANCELED, FailureCode.CANCELED),
}

EXECUTION_WORDS = BEFORE_CONFIRM | {AWAITING_CONFIRM} | PAYOUT_WORDS.keys() | PAYOUT_ENDS.keys()

#: Statuses of a wallet transfer that is itself the payout.
TRANSFER_WORDS: Mapping[str, SubStatus] = {
    "Pending": SubStatus.AWAITING_APPROVAL,
    "Executing": SubStatus.SUBMITTED,
    "Broadcasted": SubStatus.BROADCAST,
    "Confirmed": SubStatus.DELIVERED,
    "Failed": SubStatus.FAILED,
    "Rejected": SubStatus.REJECTED,
}
TRANSFER_ENDS = frozenset({"Confirmed", "Failed", "Rejected"})

#: What a transfer that only settles a payout may report about it: its progress, never its end.
SETTLING_NEWS: Mapping[str, SubStatus] = {
    "Broadcasted": SubStatus.BROADCAST,
    "Confirmed": SubStatus.SETTLING,
}


def clean(value: object) -> str:
    """Return a text without surrounding spaces; empty if it is not a text."""
    return value.strip() if isinstance(value, str) else ""


@dataclass(frozen=True)
class Transfer:
    """The parts of a wallet transfer that matter here."""

    id: str
    status: str
    tx_hash: str | None = None
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Whether its status is final."""
        return self.status in TRANSFER_ENDS

    @property
    def moved(self) -> FundsMoved:
        """Whether money left the wallet. A failed one with a hash was on the network, so "no" is not proven."""
        if self.status == "Confirmed":
            return FundsMoved.YES
        if self.status == "Rejected" or (self.status == "Failed" and self.tx_hash is None):
            return FundsMoved.NO
        return FundsMoved.UNKNOWN


def transfer_failure(transfer: Transfer) -> Failure:
    """Return why a transfer did not arrive, and whether money left the wallet."""
    if transfer.status == "Rejected":
        code = FailureCode.POLICY_REJECTED
    elif transfer.tx_hash is not None:
        code = FailureCode.CHAIN_REJECTED
    elif "insufficient" in transfer.reason.lower():
        code = FailureCode.INSUFFICIENT_FUNDS
    else:
        code = FailureCode.CUSTODIAN_ERROR
    reason = f" ({transfer.reason})" if transfer.reason else ""
    return Failure(
        code=code,
        message=f"Dfns ended the transfer as {transfer.status}{reason}.",
        custodian_code=transfer.status,
        funds_moved=transfer.moved,
    )


def payout_failure(execution: str, reason: str, moved: FundsMoved) -> Failure:
    """Return why a payout ended without being paid."""
    told = f" ({reason})" if reason else ""
    return Failure(
        code=PAYOUT_ENDS[execution][1],
        message=f"Dfns ended the payout as {execution}{told}.",
        custodian_code=execution,
        funds_moved=moved,
    )


def refusal_code(message: str) -> FailureCode:
    """Return the failure code of a refused request, as far as its message shows it."""
    words = message.lower()
    if "insufficient" in words or "balance" in words:
        return FailureCode.INSUFFICIENT_FUNDS
    if "wallet" in words:
        return FailureCode.SOURCE_REJECTED
    if any(word in words for word in ("paymentinstructions", "address", "recipient", "to:")):
        return FailureCode.DESTINATION_REJECTED
    if "amount" in words:
        return FailureCode.AMOUNT_REJECTED
    if "policy" in words:
        return FailureCode.POLICY_REJECTED
    return FailureCode.SUBMISSION_REJECTED
