"""What people do to a payout, in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, RootModel

from gateway.api.actions import ConfirmRequest
from gateway.api.operations import BODY, KEYED, as_json, in_path, operation, parameter
from gateway.keys import Scope
from gateway.views import PayoutWithTracking, ReducedPayout


class ConfirmedPayout(RootModel[PayoutWithTracking | ReducedPayout]):
    """A payout after an answer: the whole of it under an API key, reduced without one."""


SENT = (ConfirmRequest,)
TOLD: tuple[type[BaseModel], ...] = (ReducedPayout, ConfirmedPayout)
_CONFIRM = (
    "payout_not_found",
    "action_not_required",
    "action_expired",
    "confirm_in_progress",
    "wrong_answer",
    "confirm_not_sent",
    "custodian_removed",
    "database_frozen",
    "paused",
)
_CANCEL = (
    "payout_not_found",
    "cancel_too_late",
    "cancel_unsupported",
    "payout_busy",
    "database_frozen",
)
#: A client secret stands in the body, or is the bearer of a read.
BY_SECRET: dict[str, list[str]] = {}


def paths(refs: dict[Any, Any]) -> dict[str, Any]:
    """Return the operations."""
    confirm = operation(
        refs,
        "confirmPayout",
        "payouts",
        "Answer a required action",
        (
            "202",
            as_json(
                refs[ConfirmedPayout], "The payout, after the answer; reduced without an API key."
            ),
        ),
        (*BODY, *KEYED, *_CONFIRM),
        description="Call it with an API key, or from a browser with the client secret alone. A passcode "
        "is used for this call only and never stored. Of two concurrent calls, one is carried out.",
        parameters=(in_path("payout_id"), parameter("IdempotencyKey")),
        body=refs[ConfirmRequest],
        scope=Scope.PAYOUTS_WRITE,
    )
    confirm["security"].append(BY_SECRET)
    return {
        "/payouts/{payout_id}/confirm": {"post": confirm},
        "/payouts/{payout_id}/cancel": {
            "post": operation(
                refs,
                "cancelPayout",
                "payouts",
                "Cancel a payout",
                ("202", as_json(refs[PayoutWithTracking], "The payout; failed where it ended.")),
                ("invalid_idempotency_key", *KEYED, *_CANCEL),
                description="If nothing has been sent, the payout ends as `failed` with code `canceled`. "
                "Otherwise only the custodian can still cancel it.",
                parameters=(in_path("payout_id"), parameter("IdempotencyKey")),
                scope=Scope.PAYOUTS_WRITE,
            )
        },
    }
