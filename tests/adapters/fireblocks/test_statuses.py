"""The tables are complete, and one instruction is read as the vendor means it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.fireblocks.statuses import (
    BEFORE_THE_NETWORK,
    COARSE_WORDS,
    INSTRUCTION_WORDS,
    MAY_HAVE_MOVED,
    MOVED_BY,
    PAYOUT_WORDS,
    REASON_WORDS,
    REVERTED,
    SUB_STATUS_WORDS,
    TRANSACTION_WORDS,
    Seen,
    clean,
    read,
    refusal_code,
)
from gateway.adapter import FailureCode, FundsMoved, SubStatus
from tests.adapters.fireblocks import official as sdk

#: The vendor's prose list; its schema is a bare string.
REASONS = [
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
]
TRANSACTION_STATES = [
    "SUBMITTED",
    "QUEUED",
    "PENDING_AUTHORIZATION",
    "PENDING_SIGNATURE",
    "BROADCASTING",
    "PENDING_3RD_PARTY_MANUAL_APPROVAL",
    "PENDING_3RD_PARTY",
    "PENDING",
    "CONFIRMING",
    "CONFIRMED",
    "COMPLETED",
    "PARTIALLY_COMPLETED",
    "PENDING_AML_SCREENING",
    "CANCELLING",
    "CANCELLED",
    "REJECTED",
    "BLOCKED",
    "FAILED",
    "TIMEOUT",
    "PENDING_ENRICHMENT",
]
ENDED = {
    "COMPLETED",
    "PARTIALLY_COMPLETED",
    "CANCELLED",
    "REJECTED",
    "BLOCKED",
    "FAILED",
    "TIMEOUT",
}


def test_every_word_of_the_official_client_is_in_a_table() -> None:
    """The enums of the official client are the vendor's own lists."""
    assert set(PAYOUT_WORDS) == {each.value for each in sdk.PayoutState}
    assert {each.value for each in sdk.PayoutStatus} == COARSE_WORDS
    assert {each.value for each in sdk.PayoutInstructionState} == INSTRUCTION_WORDS
    assert set(TRANSACTION_WORDS) == set(TRANSACTION_STATES)
    assert set(MOVED_BY) == ENDED
    assert set(REASON_WORDS) == set(REASONS)
    assert set(SUB_STATUS_WORDS) >= MAY_HAVE_MOVED | REVERTED
    assert set(TRANSACTION_WORDS) >= BEFORE_THE_NETWORK


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("REQUESTED", "REGISTERED", "NOT_STARTED", []), (SubStatus.SUBMITTED, False)),
        (("REQUESTED", "", "NOT_STARTED", []), (SubStatus.SUBMITTED, False)),
        (("REQUESTED", "VERIFYING", "NOT_STARTED", []), (SubStatus.SUBMITTED, True)),
        (("TRANSLATED", "VERIFYING", "NOT_STARTED", []), (SubStatus.SUBMITTED, True)),
        (
            ("INSUFFICIENT_BALANCE", "INSUFFICIENT_BALANCE", "NOT_STARTED", []),
            (SubStatus.AWAITING_FUNDS, True),
        ),
        (("PROCESSING", "IN_PROGRESS", "TRANSACTION_SENT", []), (SubStatus.SUBMITTED, True)),
        (("SUBMITTED", "IN_PROGRESS", "TRANSACTION_SENT", ["QUEUED"]), (SubStatus.SUBMITTED, True)),
        (
            ("SUBMITTED", "IN_PROGRESS", "TRANSACTION_SENT", ["PENDING_AUTHORIZATION"]),
            (SubStatus.AWAITING_APPROVAL, True),
        ),
        (
            ("SUBMITTED", "IN_PROGRESS", "TRANSACTION_SENT", ["BROADCASTING"]),
            (SubStatus.BROADCAST, True),
        ),
        (
            ("SUBMITTED", "IN_PROGRESS", "TRANSACTION_SENT", ["CONFIRMING"]),
            (SubStatus.CONFIRMING, True),
        ),
        (
            ("SUBMITTED", "IN_PROGRESS", "TRANSACTION_SENT", ["COMPLETED"]),
            (SubStatus.SETTLING, True),
        ),
        (("SUBMITTED", "IN_PROGRESS", "TRANSACTION_SENT", ["FAILED"]), (SubStatus.SUBMITTED, True)),
        (("SUBMITTED", "IN_PROGRESS", "COMPLETED", ["COMPLETED"]), (SubStatus.DELIVERED, True)),
        (("FAILED", "FAILED", "COMPLETED", ["COMPLETED"]), (SubStatus.DELIVERED, True)),
        (("FAILED", "FAILED", "FAILED", ["CONFIRMING"]), (SubStatus.OUTCOME_UNKNOWN, True)),
    ],
)
def test_a_reading(words: tuple[Any, ...], expected: tuple[SubStatus, bool]) -> None:
    """State, status, instruction and transactions together make one word of ours."""
    state, status, instruction, transactions = words
    reading = read(state, status, instruction, [Seen(each) for each in transactions], "")
    assert (reading.sub_status, reading.executed) == expected


@pytest.mark.parametrize(
    ("instruction", "seen", "reason", "code", "moved"),
    [
        ("NOT_STARTED", [], "INSUFFICIENT_BALANCE", FailureCode.INSUFFICIENT_FUNDS, FundsMoved.NO),
        ("TRANSLATION_ERROR", [], "", FailureCode.DESTINATION_REJECTED, FundsMoved.NO),
        ("SKIPPED", [], "SOURCE_NOT_FOUND", FailureCode.SOURCE_REJECTED, FundsMoved.NO),
        ("FAILED", [], "", FailureCode.UNKNOWN_REASON, FundsMoved.NO),
        (
            "FAILED",
            [Seen("BLOCKED", "BLOCKED_BY_POLICY")],
            "",
            FailureCode.POLICY_REJECTED,
            FundsMoved.NO,
        ),
        (
            "FAILED",
            [Seen("FAILED", "SMART_CONTRACT_EXECUTION_FAILED")],
            "",
            FailureCode.CHAIN_REJECTED,
            FundsMoved.NO,
        ),
        (
            "FAILED",
            [Seen("FAILED", "DROPPED_BY_BLOCKCHAIN")],
            "",
            FailureCode.CHAIN_REJECTED,
            FundsMoved.UNKNOWN,
        ),
        ("FAILED", [Seen("TIMEOUT")], "", FailureCode.UNKNOWN_REASON, FundsMoved.UNKNOWN),
        (
            "FAILED",
            [Seen("REJECTED"), Seen("COMPLETED")],
            "",
            FailureCode.UNKNOWN_REASON,
            FundsMoved.YES,
        ),
        ("FAILED", [Seen("PARTIALLY_COMPLETED")], "", FailureCode.UNKNOWN_REASON, FundsMoved.YES),
    ],
)
def test_a_failure(
    instruction: str, seen: list[Seen], reason: str, code: FailureCode, moved: FundsMoved
) -> None:
    """Our code, and the truth about the money: `no` only where that is proven."""
    reading = read("FAILED", "FAILED", instruction, seen, reason)
    assert reading.sub_status is SubStatus.FAILED
    assert reading.failure is not None
    assert (reading.failure.code, reading.failure.funds_moved) == (code, moved)


@pytest.mark.parametrize(
    "word",
    [
        "COMPLETED_BUT_3RD_PARTY_FAILED",
        "COMPLETED_BUT_3RD_PARTY_REJECTED",
        "COMPLETED_BUT_3RD_PARTY_SOMETHING_NEW",
    ],
)
def test_moved_but_not_credited(word: str) -> None:
    """Completed on the network and refused behind it is failed, and the money is gone."""
    reading = read("FINALIZED", "DONE", "COMPLETED", [Seen("COMPLETED", word)], "")
    assert reading.failure is not None
    assert (reading.sub_status, reading.failure.funds_moved) == (SubStatus.FAILED, FundsMoved.YES)


WORDS = st.sampled_from([*TRANSACTION_STATES, "NEW_WORD"])


@given(
    st.sampled_from([*PAYOUT_WORDS, "NEW_WORD"]),
    st.sampled_from([*COARSE_WORDS, "NEW_WORD"]),
    st.sampled_from([*INSTRUCTION_WORDS, "NEW_WORD"]),
    st.lists(WORDS, max_size=3),
    st.sampled_from([*REASONS, "", "NEW_WORD"]),
)
def test_no_end_but_by_the_instructions_word(
    state: str, status: str, instruction: str, seen: list[str], reason: str
) -> None:
    """Delivered needs COMPLETED; failed needs its own word (or a failed set that never started it).

    And a failure that claims that nothing moved has no transaction that may still move.
    """
    reading = read(state, status, instruction, [Seen(each) for each in seen], reason)
    if reading.sub_status is SubStatus.DELIVERED:
        assert instruction == "COMPLETED"
    if reading.sub_status is SubStatus.FAILED:
        assert instruction in {"FAILED", "SKIPPED", "TRANSLATION_ERROR"} or (
            state,
            instruction,
        ) == (
            "FAILED",
            "NOT_STARTED",
        )
        assert reading.failure is not None
        if reading.failure.funds_moved is FundsMoved.NO:
            # FAILED alone proves nothing: it needs a reason that does.
            assert set(seen) <= {"CANCELLED", "REJECTED", "BLOCKED"}
    if "NEW_WORD" in {instruction, *seen}:
        assert reading.sub_status is None
        assert "NEW_WORD" in reading.unknown_words


@pytest.mark.parametrize(
    ("seen", "moved"),
    [
        (Seen("FAILED", "BLOCKED_BY_POLICY"), FundsMoved.NO),
        (Seen("FAILED", "SIGNING_ERROR"), FundsMoved.NO),
        (Seen("FAILED", "SMART_CONTRACT_EXECUTION_FAILED", on_chain=True), FundsMoved.NO),
        (Seen("CANCELLED"), FundsMoved.NO),
        # No reason, one that no table has, a hash, a replaced or partial payment: not proven.
        (Seen("FAILED"), FundsMoved.UNKNOWN),
        (Seen("FAILED", "A_NEW_WORD"), FundsMoved.UNKNOWN),
        (Seen("FAILED", "REJECTED_BY_BLOCKCHAIN", on_chain=True), FundsMoved.UNKNOWN),
        (Seen("FAILED", "PARTIALLY_FAILED"), FundsMoved.UNKNOWN),
        (Seen("FAILED", "DOUBLE_SPENDING"), FundsMoved.UNKNOWN),
        (Seen("FAILED", "INVALID_THIRD_PARTY_RESPONSE"), FundsMoved.UNKNOWN),
        (Seen("CANCELLED", on_chain=True), FundsMoved.UNKNOWN),
        (Seen("TIMEOUT", "TIMEOUT"), FundsMoved.UNKNOWN),
        (Seen("PARTIALLY_COMPLETED", "PARTIALLY_FAILED"), FundsMoved.YES),
    ],
)
def test_that_nothing_moved_is_said_only_where_proven(seen: Seen, moved: FundsMoved) -> None:
    """`no` lets a partner send again: every doubt is `unknown`."""
    reading = read("FAILED", "FAILED", "FAILED", [seen], "")
    assert reading.failure is not None
    assert reading.failure.funds_moved is moved


def test_a_missing_word_is_told() -> None:
    """As a word that no table has, and not as an empty line."""
    assert read("", "DONE", "NOT_STARTED", [], "").unknown_words == ("(none)",)


def test_blanks_are_stripped() -> None:
    """The vendor's own sample has one."""
    assert (clean(" DONE"), clean(None), clean(7)) == ("DONE", "", "")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("insufficient balance", FailureCode.INSUFFICIENT_FUNDS),
        ("payee account not found", FailureCode.DESTINATION_REJECTED),
        ("paymentAccount is unknown", FailureCode.SOURCE_REJECTED),
        ("bad amount", FailureCode.AMOUNT_REJECTED),
        ("", FailureCode.SUBMISSION_REJECTED),
    ],
)
def test_refusals(message: str, code: FailureCode) -> None:
    """What a refusal speaks of."""
    assert refusal_code(message) is code
