"""Fireblocks' sub-statuses of transactions: all of those in the API description, each with its meaning.

Source: fireblocks protocol notes, §10. A sub-status says three things: our code, whether the same order can
succeed later, and how far the transaction had come for certain. The last one decides `funds_moved`: a
missing hash does not, because the vendor promises none for exchanges and fiat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from gateway.adapter import FailureCode


class Kind(StrEnum):
    """The kind of a failure, which says what can be done about it."""

    RETRYABLE = "retryable"  #: nothing is wrong with the order: the same may succeed later
    FINAL = "final"  #: the same order fails again
    POLICY = "policy"  #: a rule, a person or a screening said no
    FUNDS = "funds"  #: money is missing, for the amount or for the fee
    NONE = "none"  #: no failure by itself


class Stage(StrEnum):
    """How far a transaction had come, at most, when it ended with this sub-status."""

    GATE = "gate"  #: stopped by Fireblocks itself, before signing and before any third party had it
    #: Stopped while it was made. A vault has signed nothing; a third party may already have had it.
    REQUEST = "request"
    OPEN = "open"  #: it may have been on the network, or with a third party


@dataclass(frozen=True)
class SubStatusWord:
    """What a sub-status means."""

    code: FailureCode
    kind: Kind
    stage: Stage


_GROUPS: tuple[tuple[FailureCode, Kind, Stage, str], ...] = (
    # Sub-statuses of transactions in progress or done. They do not explain a failed state.
    (
        FailureCode.UNKNOWN_REASON,
        Kind.NONE,
        Stage.OPEN,
        (
            "3RD_PARTY_PROCESSING 3RD_PARTY_PENDING_SERVICE_MANUAL_APPROVAL "
            "PENDING_3RD_PARTY_MANUAL_APPROVAL 3RD_PARTY_CONFIRMING PENDING_BLOCKCHAIN_CONFIRMATIONS "
            "3RD_PARTY_COMPLETED CONFIRMED"
        ),
    ),
    # Money.
    (
        FailureCode.INSUFFICIENT_FUNDS,
        Kind.FUNDS,
        Stage.REQUEST,
        (
            "INSUFFICIENT_FUNDS INSUFFICIENT_FUNDS_FOR_FEE NEED_MORE_TO_CREATE_DESTINATION "
            "ZERO_BALANCE_IN_PERMANENT_ADDRESS"
        ),
    ),
    (
        FailureCode.INSUFFICIENT_FUNDS,
        Kind.FUNDS,
        Stage.OPEN,
        "INSUFFICIENT_RESERVED_FUNDING",
    ),
    (
        FailureCode.AMOUNT_REJECTED,
        Kind.FINAL,
        Stage.REQUEST,
        "AMOUNT_TOO_SMALL EXCEEDED_DECIMAL_PRECISION",
    ),
    (
        FailureCode.AMOUNT_REJECTED,
        Kind.RETRYABLE,
        Stage.REQUEST,
        "MAX_FEE_EXCEEDED ACTUAL_FEE_TOO_HIGH FAIL_ON_LOW_FEE WITHDRAW_LIMIT",
    ),
    # Rules and people.
    (
        FailureCode.POLICY_REJECTED,
        Kind.POLICY,
        Stage.GATE,
        (
            "BLOCKED_BY_POLICY REJECTED_BY_USER CANCELLED_BY_USER CANCELLED_BY_USER_REQUEST "
            "AUTHORIZATION_FAILED AUTHORIZER_NOT_FOUND UNAUTHORISED_USER UNAUTHORISED_DEVICE "
            "INCOMPLETE_USER_SETUP"
        ),
    ),
    (
        FailureCode.COMPLIANCE_REJECTED,
        Kind.POLICY,
        Stage.GATE,
        "REJECTED_AML_SCREENING FAILED_AML_SCREENING",
    ),
    # Money that is frozen where it is; the money of an incoming transfer has moved.
    (FailureCode.COMPLIANCE_REJECTED, Kind.POLICY, Stage.OPEN, "AUTO_FREEZE FROZEN_MANUALLY"),
    # The recipient.
    (
        FailureCode.DESTINATION_REJECTED,
        Kind.POLICY,
        Stage.GATE,
        "ADDRESS_WHITELISTING_SUSPENDED",
    ),
    (
        FailureCode.DESTINATION_REJECTED,
        Kind.FINAL,
        Stage.REQUEST,
        (
            "INVALID_ADDRESS ADDRESS_NOT_WHITELISTED MISSING_TAG_OR_MEMO INVALID_TAG_OR_MEMO "
            "ASSET_NOT_ENABLED_ON_DESTINATION DEST_TYPE_NOT_SUPPORTED MISSING_DEPOSIT_ADDRESS "
            "NO_DEPOSIT_ADDRESS MANUAL_DEPOSIT_ADDRESS_REQUIRED PEER_ACCOUNT_DOES_NOT_EXIST "
            "INVALID_UNMANAGED_WALLET INVALID_ROUTING_DESTINATION NETWORK_ROUTING_MISMATCH "
            "THIRD_PARTY_MISSING_ACCOUNT"
        ),
    ),
    # The source.
    (
        FailureCode.SOURCE_REJECTED,
        Kind.FINAL,
        Stage.REQUEST,
        (
            "NON_EXISTING_ACCOUNT_NAME INVALID_EXCHANGE_ACCOUNT NON_EXISTENT_AUTO_ACCOUNT "
            "SUB_ACCOUNTS_NOT_SUPPORTED"
        ),
    ),
    (FailureCode.SOURCE_REJECTED, Kind.RETRYABLE, Stage.REQUEST, "VAULT_WALLET_NOT_READY"),
    # The request itself.
    (
        FailureCode.SUBMISSION_REJECTED,
        Kind.FINAL,
        Stage.REQUEST,
        (
            "ENV_UNSUPPORTED_ASSET UNSUPPORTED_ASSET ERROR_UNSUPPORTED_TRANSACTION_TYPE "
            "UNSUPPORTED_TRANSACTION_TYPE UNSUPPORTED_OPERATION UNSUPPORTED_MEDIA_TYPE METHOD_NOT_ALLOWED "
            "INVALID_CONTRACT_CALL_DATA INVALID_FEE INVALID_FEE_PARAMS RAW_MSG_EMPTY_OR_INVALID "
            "RAW_MSG_LEN_INVALID UNALLOWED_RAW_PARAM_COMBINATION TOO_MANY_INPUTS TX_SIZE_EXCEEDED_MAX "
            "SPEND_COINBASE_TOO_EARLY"
        ),
    ),
    # A third party.
    (
        FailureCode.THIRD_PARTY_FAILED,
        Kind.FINAL,
        Stage.OPEN,
        (
            "3RD_PARTY_REJECTED 3RD_PARTY_CANCELLED 3RD_PARTY_FAILED CANCELLED_EXTERNALLY "
            "COMPLETED_BUT_3RD_PARTY_FAILED COMPLETED_BUT_3RD_PARTY_REJECTED "
            "TX_ID_NOT_ACCEPTED_BY_THIRD_PARTY"
        ),
    ),
    (
        FailureCode.THIRD_PARTY_FAILED,
        Kind.RETRYABLE,
        Stage.OPEN,
        "API_CALL_LIMIT THIRD_PARTY_INTERNAL_ERROR INVALID_THIRD_PARTY_RESPONSE",
    ),
    # Our account at the third party: its credentials, rights and setup. A vault has none of them.
    (
        FailureCode.THIRD_PARTY_FAILED,
        Kind.RETRYABLE,
        Stage.REQUEST,
        (
            "API_KEY_MISMATCH API_INVALID_SIGNATURE UNAUTHORISED_IP_WHITELISTING "
            "UNAUTHORISED_MISSING_CREDENTIALS UNAUTHORISED_MISSING_PERMISSION UNAUTHORISED_OTP_FAILED "
            "EXCHANGE_CONFIGURATION_MISMATCH EXCHANGE_VERSION_INCOMPATIBLE INTEGRATION_SUSPENDED"
        ),
    ),
    # The network.
    (
        FailureCode.CHAIN_REJECTED,
        Kind.RETRYABLE,
        Stage.OPEN,
        (
            "DROPPED_BY_BLOCKCHAIN DOUBLE_SPENDING TOO_LONG_MEMPOOL_CHAIN REACHED_MEMPOOL_LIMIT_FOR_ACCOUNT "
            "REJECTED_BY_BLOCKCHAIN INVALID_SIGNATURE PARTIALLY_FAILED POWERUP_SUGGESTION_FAILURE "
            "INVALID_NONCE_TOO_HIGH INVALID_NONCE_TOO_LOW INVALID_NONCE_FOR_RBF GAS_PRICE_TOO_LOW_FOR_RBF "
            "GAS_LIMIT_TOO_LOW"
        ),
    ),
    (FailureCode.CHAIN_REJECTED, Kind.FINAL, Stage.OPEN, "SMART_CONTRACT_EXECUTION_FAILED"),
    # Fireblocks itself.
    (
        FailureCode.CUSTODIAN_ERROR,
        Kind.RETRYABLE,
        Stage.REQUEST,
        (
            "SIGNING_ERROR SIGNER_NOT_FOUND OUT_OF_DATE_SIGNING_KEYS NO_MORE_PREPROCESSED_INDEXES "
            "NONCE_ALLOCATION_FAILED LOCKING_NONCE_ACCOUNT_TIMEOUT ERROR_ASYNC_TX_IN_FLIGHT"
        ),
    ),
    (
        FailureCode.CUSTODIAN_ERROR,
        Kind.RETRYABLE,
        Stage.OPEN,
        (
            "TIMEOUT CONNECTIVITY_ERROR ON_PREMISE_CONNECTIVITY_ERROR INTERNAL_ERROR UNKNOWN_ERROR TX_OUTDATED "
            "RESOURCE_ALREADY_EXISTS"
        ),
    ),
)

SUB_STATUS_WORDS: Mapping[str, SubStatusWord] = {
    # Not every state has a sub-status.
    "": SubStatusWord(FailureCode.UNKNOWN_REASON, Kind.NONE, Stage.OPEN),
    **{
        word: SubStatusWord(code, kind, stage)
        for code, kind, stage, words in _GROUPS
        for word in words.split()
    },
}

#: Sub-statuses that prove that the network moved nothing, even for a transaction that a vault has sent.
REVERTED = frozenset({"SMART_CONTRACT_EXECUTION_FAILED"})

#: Sub-statuses by which a third party says that it did not execute, with the state that each requires.
REFUSED_BY_THIRD_PARTY: Mapping[str, str] = {
    "REJECTED": "3RD_PARTY_REJECTED",
    "CANCELLED": "3RD_PARTY_CANCELLED",
}
