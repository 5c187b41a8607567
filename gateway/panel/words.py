"""The labels of states, reasons and actions in the panel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.model import (
    AddressDestination,
    Attention,
    BatchState,
    CustodianAccountDestination,
    Destination,
    Payout,
    PayoutAccountDestination,
    Status,
    SubStatus,
)


@dataclass(frozen=True)
class Look:
    """The pill of a state: its colours, icon and label."""

    kind: str
    icon: str
    word: str


_STATUS: Mapping[Status, Look] = {
    Status.PENDING: Look("mute", "clock", "Pending"),
    Status.BROADCAST: Look("run", "arrow", "Broadcast"),
    Status.DELIVERED: Look("ok", "tick", "Delivered"),
    Status.FAILED: Look("bad", "cross", "Failed"),
}
_CHECKING = Look("chk", "magnifier", "Checking")
_CODE = Look("act", "key", "Needs a code")


def look_of(payout: Payout) -> Look:
    """Return the pill of a payout's state. An unknown outcome is never shown as a failure."""
    if payout.final:
        return _STATUS[payout.status]
    if payout.sub_status is SubStatus.OUTCOME_UNKNOWN:
        return _CHECKING
    if payout.sub_status is SubStatus.REQUIRES_ACTION:
        return _CODE
    return _STATUS[payout.status]


_BATCH: Mapping[BatchState, Look] = {
    BatchState.REQUESTED: Look("act", "clock", "Waits for you"),
    BatchState.VERIFYING: Look("run", "arrow", "Checking lines"),
    BatchState.AWAITING_FUNDS: Look("act", "clock", "Waits for funds"),
    BatchState.EXECUTING: Look("run", "arrow", "Executing"),
    BatchState.FINALIZED: Look("ok", "tick", "Finished"),
    BatchState.FAILED: Look("bad", "cross", "Failed"),
    BatchState.CANCELED: Look("mute", "dash", "Canceled"),
}


def look_of_batch(state: BatchState, *, executed: bool) -> Look:
    """Return the pill of a batch's state."""
    if state is BatchState.REQUESTED and executed:
        return Look("mute", "clock", "Waits for its turn")
    return _BATCH[state]


def place_of(destination: Destination) -> str:
    """Return what a destination names, without its type."""
    if isinstance(destination, AddressDestination):
        return destination.address
    if isinstance(destination, CustodianAccountDestination):
        return destination.id
    if isinstance(destination, PayoutAccountDestination):
        return destination.payout_account_id
    return destination.payment_instructions_id


@dataclass(frozen=True)
class Reason:
    """Why something needs attention: its colours, icon, sentence, and what to do."""

    kind: str
    icon: str
    title: str
    fix: str


#: By code; worst first.
ATTENTION: Mapping[Attention, Reason] = {
    Attention.MISMATCH: Reason(
        "bad",
        "warn",
        "The custodian reports another amount, asset or payee",
        "Compare the payout with the custodian's own record.",
    ),
    Attention.CONTRADICTION: Reason(
        "bad",
        "warn",
        "The custodian contradicts a final status",
        "Compare the payout with the custodian's own record; it may have been paid.",
    ),
    Attention.FOREIGN_REF: Reason(
        "bad",
        "warn",
        "A transfer belongs to another payout",
        "Find out at the custodian which payout the transfer pays.",
    ),
    Attention.ADOPTED: Reason(
        "chk",
        "magnifier",
        "It may have been paid before the database was restored",
        "Look for it at the custodian, then resolve it.",
    ),
    Attention.UNRESOLVED: Reason(
        "chk",
        "magnifier",
        "The outcome stays unknown",
        "Look at the custodian's own record, then resolve it.",
    ),
    Attention.CANNOT_LOOK: Reason(
        "chk",
        "magnifier",
        "The outcome is unknown and cannot be looked up",
        "Look at the custodian's own record, then resolve it.",
    ),
    Attention.RETURN_MISMATCH: Reason(
        "bad",
        "warn",
        "An impossible return was reported",
        "Compare it with the custodian's own record.",
    ),
    Attention.RETURNED: Reason(
        "act", "back", "Money came back after delivery", "Tell the recipient; pay again if needed."
    ),
    Attention.EARLY_NEWS: Reason(
        "bad",
        "warn",
        "Money is reported to move without a call by the gateway",
        "Find out at the custodian who started the transfer.",
    ),
    Attention.LATE_NEWS: Reason(
        "bad",
        "warn",
        "A custodian that the payout left reports that money moves",
        "Compare both custodians' records; stop the second transfer if possible.",
    ),
    Attention.ITEM_ENDED: Reason(
        "act", "warn", "One payout of a set has ended", "Decide about the others of the set."
    ),
    Attention.SAME_ACCOUNT: Reason(
        "act",
        "warn",
        "The account was changed while an outcome is unknown",
        "Set the account back, or declare it to be the same.",
    ),
    Attention.KEY_LIFE: Reason(
        "act", "clock", "A repeat may soon be harmful", "Resolve the payout with evidence."
    ),
    Attention.CREDENTIALS_REFUSED: Reason(
        "act",
        "key",
        "The custodian does not accept our credentials",
        "Renew the credentials of the instance.",
    ),
    Attention.CUSTODIAN_UNREACHABLE: Reason(
        "act", "warn", "The custodian cannot be reached", "Nothing is sent twice; wait or check it."
    ),
    Attention.CUSTODIAN_MISCONFIGURED: Reason(
        "act", "warn", "The custodian does not know the call", "Check base address and plan."
    ),
    Attention.CUSTODIAN_REMOVED: Reason(
        "act", "warn", "Its custodian is no longer configured", "Configure the instance again."
    ),
    Attention.CLOCK_SKEW: Reason(
        "act", "clock", "The clocks differ too much to sign", "Fix the clock of this machine."
    ),
    Attention.STATE_FILE: Reason(
        "act",
        "warn",
        "The state file cannot be written",
        "Free disk space, or fix its permissions.",
    ),
    Attention.GATE_VERSION: Reason(
        "act", "warn", "This program is too old for the database", "Upgrade this gateway."
    ),
    Attention.ADAPTER_ERROR: Reason(
        "act", "warn", "The adapter broke its contract", "Report it to the author of the adapter."
    ),
    Attention.UNKNOWN_WORD: Reason(
        "mute",
        "warn",
        "The custodian used an unknown status",
        "Report it to the author of the adapter.",
    ),
}
_OTHER = Reason("act", "warn", "Needs attention", "Open the payout.")


def reason_of(code: str) -> Reason:
    """Return the display of a reason on the operator's list, including codes of later releases."""
    return next((reason for each, reason in ATTENTION.items() if each.value == code), _OTHER)


def rank_of(code: str) -> int:
    """Return how urgent a reason is: 0 is the most urgent."""
    return next((n for n, each in enumerate(ATTENTION) if each.value == code), len(ATTENTION))


#: The message about a completed action, by the code in a redirect. Text is never taken from an address.
DONE: Mapping[str, str] = {
    "asked": "The custodian is asked again at once.",
    "canceled": "The payout was canceled.",
    "cancel-asked": "The custodian was asked to cancel; the payout shows what it answers.",
    "retried": "The payout will be submitted again at once, if nothing has changed by then.",
    "resolved": "The payout was resolved.",
    "acknowledged": "Acknowledged. It stays in the audit log.",
    "resent": "The event is being sent again.",
    "paused": "Payouts of this organisation are paused.",
    "resumed": "Payouts of this organisation are resumed.",
    "revoked": "The key was revoked.",
    "recovering": "Missed events are sent again.",
    "enabled": "The endpoint is enabled; missed events are sent again.",
    "disabled": "The endpoint is disabled.",
    "deleted": "The endpoint was deleted.",
    "secrets-ended": "Only the newest secret signs now.",
    "executed": "The batch is being executed.",
    "batch-canceled": "Unsent payouts are being canceled.",
}
#: Acts of the audit log.
ACTS: Mapping[str, str] = {
    "key_created": "Key created",
    "key_rotated": "Key rotated",
    "key_revoked": "Key revoked",
    "key_ends_sooner": "Key ends after the overlap",
    "endpoint_created": "Endpoint created",
    "endpoint_changed": "Endpoint changed",
    "endpoint_deleted": "Endpoint deleted",
    "endpoint_secret_rotated": "Signing secret rotated",
    "endpoint_secrets_revoked": "Previous secrets ended",
    "event_resent": "Event sent again",
    "recovery_started": "Recovery started",
    "batch_created": "Batch created",
    "batch_executed": "Batch executed",
    "batch_canceled": "Batch canceled",
    "payout_canceled": "Payout canceled",
    "payout_confirmed": "Payout confirmed",
    "payout_resolved": "Payout resolved",
    "payout_look_asked": "Console check requested",
    "payout_retried": "Payout retried",
    "payout_asked_again": "Custodian asked again",
    "attention_acknowledged": "Attention acknowledged",
    "paused": "Paused",
    "resumed": "Resumed",
    "user_created": "User created",
    "user_removed": "User removed",
    "user_reset": "User reset",
    "user_signed_in": "Signed in",
    "user_signed_out": "Signed out",
    "user_sign_in_failed": "Sign-in failed",
    "personal_data_erased": "Personal data erased",
}
HEALTH: Mapping[str, str] = {
    "unreachable": "Cannot be reached",
    "failing": "Answers with errors",
    "refuses_credentials": "Refuses our credentials",
    "broken_adapter": "Its adapter cannot be used",
}
