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
    MOVED_BY,
    PAYOUT_WORDS,
    REASON_WORDS,
    TRANSACTION_WORDS,
    Seen,
    clean,
    read,
    refusal_code,
)
from adapters.fireblocks.substatuses import SUB_STATUS_WORDS, Kind, Stage
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


def vault(state: str, sub_status: str = "", *, on_chain: bool = False) -> Seen:
    """Return a transaction out of a vault account."""
    return Seen(state, sub_status, on_chain=on_chain, source="VAULT_ACCOUNT")


def test_every_word_of_the_official_client_is_in_a_table() -> None:
    """The enums of the official client are the vendor's own lists."""
    assert set(PAYOUT_WORDS) == {each.value for each in sdk.PayoutState}
    assert {each.value for each in sdk.PayoutStatus} == COARSE_WORDS
    assert {each.value for each in sdk.PayoutInstructionState} == INSTRUCTION_WORDS
    assert set(TRANSACTION_WORDS) == set(TRANSACTION_STATES)
    assert set(MOVED_BY) == ENDED
    assert set(REASON_WORDS) == set(REASONS)
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
            [vault("BLOCKED", "BLOCKED_BY_POLICY")],
            "",
            FailureCode.POLICY_REJECTED,
            FundsMoved.NO,
        ),
        (
            "FAILED",
            [vault("FAILED", "SMART_CONTRACT_EXECUTION_FAILED")],
            "",
            FailureCode.CHAIN_REJECTED,
            FundsMoved.NO,
        ),
        (
            "FAILED",
            [vault("FAILED", "DROPPED_BY_BLOCKCHAIN")],
            "",
            FailureCode.CHAIN_REJECTED,
            FundsMoved.UNKNOWN,
        ),
        ("FAILED", [vault("TIMEOUT")], "", FailureCode.UNKNOWN_REASON, FundsMoved.UNKNOWN),
        (
            "FAILED",
            [vault("REJECTED"), vault("COMPLETED")],
            "",
            FailureCode.UNKNOWN_REASON,
            FundsMoved.YES,
        ),
        ("FAILED", [vault("PARTIALLY_COMPLETED")], "", FailureCode.UNKNOWN_REASON, FundsMoved.YES),
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
            assert set(seen) <= {"BLOCKED"}
    if "NEW_WORD" in {instruction, *seen}:
        assert reading.sub_status is None
        assert "NEW_WORD" in reading.unknown_words


@pytest.mark.parametrize(
    ("seen", "moved"),
    [
        (vault("FAILED", "BLOCKED_BY_POLICY"), FundsMoved.NO),
        (vault("FAILED", "SIGNING_ERROR"), FundsMoved.NO),
        (vault("FAILED", "SMART_CONTRACT_EXECUTION_FAILED", on_chain=True), FundsMoved.NO),
        (vault("CANCELLED"), FundsMoved.NO),
        # No reason, one that no table has, a hash, a replaced or partial payment: not proven.
        (vault("FAILED"), FundsMoved.UNKNOWN),
        (vault("FAILED", "A_NEW_WORD"), FundsMoved.UNKNOWN),
        (vault("FAILED", "REJECTED_BY_BLOCKCHAIN", on_chain=True), FundsMoved.UNKNOWN),
        (vault("FAILED", "PARTIALLY_FAILED"), FundsMoved.UNKNOWN),
        (vault("FAILED", "DOUBLE_SPENDING"), FundsMoved.UNKNOWN),
        (vault("FAILED", "INVALID_THIRD_PARTY_RESPONSE"), FundsMoved.UNKNOWN),
        (vault("CANCELLED", on_chain=True), FundsMoved.UNKNOWN),
        (vault("TIMEOUT", "TIMEOUT"), FundsMoved.UNKNOWN),
        (vault("PARTIALLY_COMPLETED", "PARTIALLY_FAILED"), FundsMoved.YES),
    ],
)
def test_that_nothing_moved_is_said_only_where_proven(seen: Seen, moved: FundsMoved) -> None:
    """`no` lets a partner send again: every doubt is `unknown`."""
    reading = read("FAILED", "FAILED", "FAILED", [seen], "")
    assert reading.failure is not None
    assert reading.failure.funds_moved is moved


#: Every sub-status of the vendor's API description, the empty one among them.
_OFFICIAL = """
    3RD_PARTY_PROCESSING 3RD_PARTY_PENDING_SERVICE_MANUAL_APPROVAL PENDING_3RD_PARTY_MANUAL_APPROVAL
    3RD_PARTY_CONFIRMING PENDING_BLOCKCHAIN_CONFIRMATIONS 3RD_PARTY_COMPLETED
    COMPLETED_BUT_3RD_PARTY_FAILED COMPLETED_BUT_3RD_PARTY_REJECTED CONFIRMED BLOCKED_BY_POLICY
    3RD_PARTY_CANCELLED 3RD_PARTY_REJECTED CANCELLED_BY_USER CANCELLED_BY_USER_REQUEST REJECTED_BY_USER
    AUTO_FREEZE FROZEN_MANUALLY REJECTED_AML_SCREENING ACTUAL_FEE_TOO_HIGH
    ADDRESS_WHITELISTING_SUSPENDED AMOUNT_TOO_SMALL AUTHORIZATION_FAILED AUTHORIZER_NOT_FOUND
    ENV_UNSUPPORTED_ASSET ERROR_UNSUPPORTED_TRANSACTION_TYPE FAIL_ON_LOW_FEE GAS_LIMIT_TOO_LOW
    GAS_PRICE_TOO_LOW_FOR_RBF INCOMPLETE_USER_SETUP INSUFFICIENT_FUNDS INSUFFICIENT_FUNDS_FOR_FEE
    INTEGRATION_SUSPENDED INVALID_ADDRESS INVALID_CONTRACT_CALL_DATA INVALID_FEE_PARAMS
    INVALID_NONCE_FOR_RBF INVALID_TAG_OR_MEMO INVALID_UNMANAGED_WALLET MAX_FEE_EXCEEDED
    MISSING_TAG_OR_MEMO NEED_MORE_TO_CREATE_DESTINATION NO_MORE_PREPROCESSED_INDEXES
    NON_EXISTING_ACCOUNT_NAME RAW_MSG_EMPTY_OR_INVALID RAW_MSG_LEN_INVALID TOO_MANY_INPUTS
    TX_SIZE_EXCEEDED_MAX UNAUTHORISED_DEVICE UNAUTHORISED_USER UNALLOWED_RAW_PARAM_COMBINATION
    UNSUPPORTED_OPERATION UNSUPPORTED_TRANSACTION_TYPE ZERO_BALANCE_IN_PERMANENT_ADDRESS
    OUT_OF_DATE_SIGNING_KEYS CONNECTIVITY_ERROR ERROR_ASYNC_TX_IN_FLIGHT INTERNAL_ERROR
    INVALID_NONCE_TOO_HIGH INVALID_NONCE_TOO_LOW INVALID_ROUTING_DESTINATION
    LOCKING_NONCE_ACCOUNT_TIMEOUT NETWORK_ROUTING_MISMATCH NONCE_ALLOCATION_FAILED
    RESOURCE_ALREADY_EXISTS SIGNER_NOT_FOUND SIGNING_ERROR TIMEOUT TX_OUTDATED UNKNOWN_ERROR
    VAULT_WALLET_NOT_READY UNSUPPORTED_MEDIA_TYPE ADDRESS_NOT_WHITELISTED API_KEY_MISMATCH
    ASSET_NOT_ENABLED_ON_DESTINATION DEST_TYPE_NOT_SUPPORTED EXCEEDED_DECIMAL_PRECISION
    EXCHANGE_CONFIGURATION_MISMATCH EXCHANGE_VERSION_INCOMPATIBLE INVALID_EXCHANGE_ACCOUNT
    METHOD_NOT_ALLOWED NON_EXISTENT_AUTO_ACCOUNT ON_PREMISE_CONNECTIVITY_ERROR
    PEER_ACCOUNT_DOES_NOT_EXIST THIRD_PARTY_MISSING_ACCOUNT UNAUTHORISED_IP_WHITELISTING
    UNAUTHORISED_MISSING_CREDENTIALS UNAUTHORISED_MISSING_PERMISSION UNAUTHORISED_OTP_FAILED
    WITHDRAW_LIMIT 3RD_PARTY_FAILED API_CALL_LIMIT API_INVALID_SIGNATURE CANCELLED_EXTERNALLY
    FAILED_AML_SCREENING INVALID_FEE INVALID_THIRD_PARTY_RESPONSE MANUAL_DEPOSIT_ADDRESS_REQUIRED
    MISSING_DEPOSIT_ADDRESS NO_DEPOSIT_ADDRESS SUB_ACCOUNTS_NOT_SUPPORTED SPEND_COINBASE_TOO_EARLY
    THIRD_PARTY_INTERNAL_ERROR TX_ID_NOT_ACCEPTED_BY_THIRD_PARTY UNSUPPORTED_ASSET DOUBLE_SPENDING
    DROPPED_BY_BLOCKCHAIN INSUFFICIENT_RESERVED_FUNDING INVALID_SIGNATURE PARTIALLY_FAILED
    POWERUP_SUGGESTION_FAILURE REACHED_MEMPOOL_LIMIT_FOR_ACCOUNT REJECTED_BY_BLOCKCHAIN
    SMART_CONTRACT_EXECUTION_FAILED TOO_LONG_MEMPOOL_CHAIN
"""
OFFICIAL = frozenset(_OFFICIAL.split()) | {""}


def test_all_sub_statuses_have_a_meaning() -> None:
    """All 115 of the API description, each with a code, a class, and how far it had come."""
    assert len(OFFICIAL) == 115
    assert set(SUB_STATUS_WORDS) == OFFICIAL
    by_kind = {
        kind: {w for w, each in SUB_STATUS_WORDS.items() if each.kind is kind} for kind in Kind
    }
    assert all(by_kind.values())
    # What is no failure explains none, and what a rule or a person stopped was handed to nobody.
    assert all(
        each.code is FailureCode.UNKNOWN_REASON
        for each in SUB_STATUS_WORDS.values()
        if each.kind is Kind.NONE
    )
    assert {each.kind for each in SUB_STATUS_WORDS.values() if each.stage is Stage.GATE} == {
        Kind.POLICY
    }


@pytest.mark.parametrize("word", sorted(OFFICIAL - {""}))
@pytest.mark.parametrize("source", ["VAULT_ACCOUNT", "EXCHANGE_ACCOUNT", "FIAT_ACCOUNT", ""])
def test_the_partner_is_told_the_vendors_word(word: str, source: str) -> None:
    """It is the `custodian_code`. Of an account that is no vault, only a gate proves that nothing moved."""
    reading = read("FAILED", "FAILED", "FAILED", [Seen("FAILED", word, source=source)], "")
    assert reading.failure is not None
    assert reading.failure.custodian_code == word
    known = SUB_STATUS_WORDS[word]
    if known.kind is not Kind.NONE:
        assert reading.failure.code is known.code
    proven = known.stage is Stage.GATE or (
        source == "VAULT_ACCOUNT"
        and (known.stage is Stage.REQUEST or word == "SMART_CONTRACT_EXECUTION_FAILED")
    )
    assert (reading.failure.funds_moved is FundsMoved.NO) == proven


@pytest.mark.parametrize("source", ["EXCHANGE_ACCOUNT", "FIAT_ACCOUNT", ""])
@pytest.mark.parametrize(
    ("state", "word", "moved"),
    [
        # No hash is told of any of these, whatever became of them.
        ("FAILED", "", FundsMoved.UNKNOWN),
        ("REJECTED", "", FundsMoved.UNKNOWN),
        ("CANCELLED", "", FundsMoved.UNKNOWN),
        ("FAILED", "3RD_PARTY_FAILED", FundsMoved.UNKNOWN),
        ("FAILED", "3RD_PARTY_REJECTED", FundsMoved.UNKNOWN),
        ("FAILED", "SMART_CONTRACT_EXECUTION_FAILED", FundsMoved.UNKNOWN),
        ("FAILED", "INSUFFICIENT_FUNDS", FundsMoved.UNKNOWN),
        ("TIMEOUT", "", FundsMoved.UNKNOWN),
        ("COMPLETED", "3RD_PARTY_COMPLETED", FundsMoved.YES),
        # The policy's state, a gate's word, and the third party's own refusal.
        ("BLOCKED", "", FundsMoved.NO),
        ("BLOCKED", "BLOCKED_BY_POLICY", FundsMoved.NO),
        ("REJECTED", "REJECTED_BY_USER", FundsMoved.NO),
        ("REJECTED", "3RD_PARTY_REJECTED", FundsMoved.NO),
        ("CANCELLED", "3RD_PARTY_CANCELLED", FundsMoved.NO),
    ],
)
def test_no_hash_proves_nothing_at_an_exchange_or_a_bank(
    source: str, state: str, word: str, moved: FundsMoved
) -> None:
    """The vendor promises a hash for vaults only: the source and the transaction's own words decide."""
    reading = read("FAILED", "FAILED", "FAILED", [Seen(state, word, source=source)], "")
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
