"""Maps Fireblocks' statuses to ours. The tables come first, then the only reading of an instruction.

Source: fireblocks protocol notes, §3 (payout, instruction and transaction words), §9 (hashes). Sub-statuses have a module of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adapters.fireblocks.substatuses import (
    REFUSED_BY_THIRD_PARTY,
    REVERTED,
    SUB_STATUS_WORDS,
    Kind,
    Stage,
    SubStatusWord,
)
from gateway.adapter import Failure, FailureCode, FundsMoved, SubStatus

#: State of a payout while none of its instructions has started. `None` means not executed yet.
PAYOUT_WORDS: Mapping[str, SubStatus | None] = {
    "CREATED": None,
    "FILE_FOUND": None,
    "REQUESTED": None,
    "TRANSLATED": SubStatus.SUBMITTED,
    "PROCESSING": SubStatus.SUBMITTED,
    "SUBMITTED": SubStatus.SUBMITTED,
    "FINALIZED": SubStatus.SUBMITTED,
    "INSUFFICIENT_BALANCE": SubStatus.AWAITING_FUNDS,
    "FAILED": SubStatus.FAILED,
}

#: The coarse status next to the state. Only `REGISTERED` fits a payout that was not executed.
COARSE_WORDS = frozenset(
    {"REGISTERED", "VERIFYING", "IN_PROGRESS", "DONE", "INSUFFICIENT_BALANCE", "FAILED"}
)

INSTRUCTION_WORDS = frozenset(
    {"NOT_STARTED", "TRANSACTION_SENT", "COMPLETED", "FAILED", "TRANSLATION_ERROR", "SKIPPED"}
)

#: State of a transaction whose instruction has not ended. An ended one leaves the payout submitted:
#: only the instruction's own status is final.
TRANSACTION_WORDS: Mapping[str, SubStatus] = {
    "SUBMITTED": SubStatus.SUBMITTED,
    "QUEUED": SubStatus.SUBMITTED,
    "PENDING": SubStatus.SUBMITTED,
    "PENDING_ENRICHMENT": SubStatus.SUBMITTED,
    "PENDING_SIGNATURE": SubStatus.SUBMITTED,
    "PENDING_3RD_PARTY": SubStatus.SUBMITTED,
    "PENDING_AUTHORIZATION": SubStatus.AWAITING_APPROVAL,
    "PENDING_3RD_PARTY_MANUAL_APPROVAL": SubStatus.AWAITING_APPROVAL,
    "PENDING_AML_SCREENING": SubStatus.AWAITING_APPROVAL,
    "BROADCASTING": SubStatus.BROADCAST,
    "CONFIRMING": SubStatus.CONFIRMING,
    "CONFIRMED": SubStatus.SETTLING,
    "COMPLETED": SubStatus.SETTLING,
    "PARTIALLY_COMPLETED": SubStatus.SETTLING,
    "CANCELLING": SubStatus.SUBMITTED,
    "CANCELLED": SubStatus.SUBMITTED,
    "REJECTED": SubStatus.SUBMITTED,
    "BLOCKED": SubStatus.SUBMITTED,
    "FAILED": SubStatus.SUBMITTED,
    "TIMEOUT": SubStatus.SUBMITTED,
}

#: Whether money left the source, by the final state of a transaction. A state that is missing here is
#: not final.
MOVED_BY: Mapping[str, FundsMoved] = {
    "COMPLETED": FundsMoved.YES,
    "PARTIALLY_COMPLETED": FundsMoved.YES,
    "CANCELLED": FundsMoved.NO,
    "REJECTED": FundsMoved.NO,
    "BLOCKED": FundsMoved.NO,
    "FAILED": FundsMoved.NO,
    # Fireblocks stopped waiting; nothing says what the network does with it later.
    "TIMEOUT": FundsMoved.UNKNOWN,
}

#: States in which a transaction has no hash yet: there is nothing to look up.
BEFORE_THE_NETWORK = frozenset(
    {"SUBMITTED", "QUEUED", "PENDING_AUTHORIZATION", "PENDING_SIGNATURE"}
)

#: Sub-statuses of money that moved on the network and was not credited, with any suffix after the last
#: underscore.
_NOT_CREDITED = "COMPLETED_BUT_3RD_PARTY_"

#: What a partner can do about a failure, in addition to its message.
_HINTS: Mapping[Kind, str] = {
    Kind.RETRYABLE: " The same payout may succeed later.",
    Kind.FINAL: " The same payout would fail again.",
    Kind.POLICY: " A rule or a person at the custodian refused it.",
    Kind.FUNDS: " Money is missing at the paying account.",
}

REASON_WORDS: Mapping[str, FailureCode] = {
    "INSUFFICIENT_BALANCE": FailureCode.INSUFFICIENT_FUNDS,
    "SOURCE_TRANSLATION": FailureCode.SOURCE_REJECTED,
    "SOURCE_NOT_UNIQUE": FailureCode.SOURCE_REJECTED,
    "SOURCE_NOT_FOUND": FailureCode.SOURCE_REJECTED,
    "SOURCE_TYPE_NOT_SUPPORTED": FailureCode.SOURCE_REJECTED,
    "EMPTY_SOURCE": FailureCode.SOURCE_REJECTED,
    "DESTINATION_TRANSLATION": FailureCode.DESTINATION_REJECTED,
    "DESTINATION_NOT_UNIQUE": FailureCode.DESTINATION_REJECTED,
    "DESTINATION_NOT_FOUND": FailureCode.DESTINATION_REJECTED,
    "EMPTY_DESTINATION": FailureCode.DESTINATION_REJECTED,
    "PARSING": FailureCode.SUBMISSION_REJECTED,
    "UNKNOWN": FailureCode.UNKNOWN_REASON,
    "FIREBLOCKS_CLIENT": FailureCode.CUSTODIAN_ERROR,
    "TRANSACTION_SUBMISSION": FailureCode.CUSTODIAN_ERROR,
}


@dataclass(frozen=True)
class Seen:
    """One transaction of an instruction, as far as it is known."""

    state: str
    sub_status: str = ""
    on_chain: bool = False  #: it has a hash
    #: the type of the account that it pays from; empty if it is not certain
    source: str = ""
    unread: bool = False  #: its details, and so its sub-status, could not be read


@dataclass(frozen=True)
class Reading:
    """The meaning of an instruction's statuses. Without `executed` it is only registered."""

    sub_status: SubStatus | None
    executed: bool = True
    failure: Failure | None = None
    unknown_words: tuple[str, ...] = ()


def clean(word: object) -> str:
    """Return a status without the surrounding spaces that some of the vendor's samples have."""
    return word.strip() if isinstance(word, str) else ""


def not_credited(sub_status: str) -> bool:
    """Whether a completed transaction was not credited by the receiving party."""
    return sub_status.startswith(_NOT_CREDITED)


def read(  # noqa: PLR0911 - one per row of the table
    state: str, status: str, instruction: str, seen: Sequence[Seen], reason: str
) -> Reading:
    """Interpret one instruction of a payout. Pure.

    The instruction's own status gives the end, which is a failure only when every transaction of it has
    ended as well.
    """
    unknown = tuple(
        word or "(none)"
        for word, known in (
            (state, PAYOUT_WORDS),
            # The vendor's own sample of a created payout has no status.
            (status or "REGISTERED", COARSE_WORDS),
            (instruction, INSTRUCTION_WORDS),
            *((each.state, TRANSACTION_WORDS) for each in seen),
        )
        if word not in known
    )
    if instruction == "COMPLETED" and all(each.state in TRANSACTION_WORDS for each in seen):
        return _completed(seen)
    if unknown:
        return Reading(None, unknown_words=unknown)
    if instruction in {"FAILED", "TRANSLATION_ERROR", "SKIPPED"}:
        return _failed(instruction, seen, reason)
    if instruction == "NOT_STARTED" and not seen:
        if state == "FAILED":
            return _failed(instruction, seen, reason)
        executed = PAYOUT_WORDS[state] is not None or status not in {"", "REGISTERED"}
        return Reading(PAYOUT_WORDS[state] or SubStatus.SUBMITTED, executed=executed)
    if not seen:
        return Reading(SubStatus.SUBMITTED)
    return Reading(TRANSACTION_WORDS[seen[-1].state])


def _completed(seen: Sequence[Seen]) -> Reading:
    word = next((each.sub_status for each in seen if not_credited(each.sub_status)), None)
    if word is None:
        return Reading(SubStatus.DELIVERED)
    failure = Failure(
        code=FailureCode.THIRD_PARTY_FAILED,
        message="The money moved on the network; the receiving party did not credit it.",
        custodian_code=word,
        funds_moved=FundsMoved.YES,
    )
    return Reading(SubStatus.FAILED, failure=failure)


def _failed(instruction: str, seen: Sequence[Seen], reason: str) -> Reading:
    if any(each.state not in MOVED_BY for each in seen):
        # The instruction has ended, but one of its transactions has not and may still pay.
        return Reading(SubStatus.OUTCOME_UNKNOWN)
    moved = {_moved(each) for each in seen}
    funds_moved = next(
        (each for each in (FundsMoved.YES, FundsMoved.UNKNOWN) if each in moved), FundsMoved.NO
    )
    sub_status = next((each.sub_status for each in reversed(seen) if each.sub_status), "")
    known = SUB_STATUS_WORDS.get(sub_status)
    code = None if known is None or known.kind is Kind.NONE else known.code
    code = code or REASON_WORDS.get(reason)
    if code is None:
        code = {"TRANSLATION_ERROR": FailureCode.DESTINATION_REJECTED}.get(
            instruction, FailureCode.UNKNOWN_REASON
        )
    word = sub_status or reason or instruction
    hint = _HINTS.get(known.kind, "") if known else ""
    failure = Failure(
        code=code,
        message=f"Fireblocks ended the instruction as {instruction} ({word}).{hint}",
        custodian_code=word,
        funds_moved=funds_moved,
    )
    return Reading(SubStatus.FAILED, failure=failure)


def _moved(ended: Seen) -> FundsMoved:
    """Return whether an ended transaction moved money. `no` is returned only if it is proven.

    It goes by the transaction's state and sub-status, and by the type of account. A missing hash proves
    nothing: the vendor promises one only for vaults, and there not before the network confirms.
    """
    by_state = MOVED_BY[ended.state]
    if by_state is not FundsMoved.NO or ended.unread:
        # Its details could not be read, and the sub-status in them would have decided.
        return FundsMoved.UNKNOWN if ended.unread and by_state is FundsMoved.NO else by_state
    vault = ended.source == "VAULT_ACCOUNT"
    if vault and ended.sub_status in REVERTED:
        return FundsMoved.NO
    if ended.on_chain:
        return FundsMoved.UNKNOWN
    known = SUB_STATUS_WORDS.get(ended.sub_status)
    if known is not None and known.stage is Stage.GATE:
        return FundsMoved.NO
    if vault:
        return _left_vault(ended, known)
    # What an exchange or a bank did with a request is not visible here. Only the policy's own state and
    # the third party's own refusal prove that it did nothing.
    stopped = ended.state == "BLOCKED" and not ended.sub_status
    refused = ended.sub_status == REFUSED_BY_THIRD_PARTY.get(ended.state, "none")
    return FundsMoved.NO if stopped or refused else FundsMoved.UNKNOWN


def _left_vault(ended: Seen, known: SubStatusWord | None) -> FundsMoved:
    """Return whether money left a vault, which pays only by transactions that Fireblocks signs."""
    if known is not None and known.stage is Stage.REQUEST:
        return FundsMoved.NO
    # FAILED alone says nothing. The other states are decisions: without a sub-status, nothing was
    # signed. A third party's refusal is about crediting, and says nothing about a vault's transaction.
    decided = ended.state != "FAILED" and not ended.sub_status
    return FundsMoved.NO if decided else FundsMoved.UNKNOWN


def refusal_code(message: str) -> FailureCode:
    """Return our failure code for a refused request, by the topic of its message."""
    text = message.lower()
    if "insufficient" in text or "balance" in text:
        return FailureCode.INSUFFICIENT_FUNDS
    if "payee" in text or "destination" in text:
        return FailureCode.DESTINATION_REJECTED
    if "paymentaccount" in text or "payment account" in text or "source" in text:
        return FailureCode.SOURCE_REJECTED
    if "amount" in text or "decimal" in text:
        return FailureCode.AMOUNT_REJECTED
    return FailureCode.SUBMISSION_REJECTED
