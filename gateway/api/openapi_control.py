"""Pauses, attention and balances in the OpenAPI document: what the gateway's owner stops and watches."""

from __future__ import annotations

from typing import Any

from gateway.api.attention import AttentionList
from gateway.api.balances import BalanceList
from gateway.api.operations import BODY, as_json, in_path, operation, parameter, query
from gateway.api.pauses import PauseList, PauseMade, PauseRequest, ResumeRequest
from gateway.api.routes import ExplainRequest, Explanation
from gateway.keys import Scope
from gateway.model import Attention

SENT = (PauseRequest, ResumeRequest, ExplainRequest)
TOLD = (PauseList, PauseMade, AttentionList, BalanceList, Explanation)


def paths(refs: dict[Any, Any]) -> dict[str, Any]:
    """Return the operations."""
    return {
        "/pauses": {
            "post": operation(
                refs,
                "createPause",
                "control",
                "Pause payouts",
                ("201", as_json(refs[PauseMade], "The pause, and what it holds now.")),
                (*BODY, "operator_key_required"),
                description="Until the pause ends, no call that may move money is started; what is already sent "
                "is followed as before. A key of an org pauses the payouts of that org in its mode. A key "
                "of the operator pauses anything; it needs `payouts:operate`. May be repeated.",
                body=refs[PauseRequest],
                scope=Scope.PAYOUTS_WRITE,
                operator_scope=Scope.PAYOUTS_OPERATE,
            ),
            "get": operation(
                refs,
                "listPauses",
                "control",
                "List pauses",
                ("200", as_json(refs[PauseList], "Pauses, oldest first.")),
                (),
                scope=Scope.PAYOUTS_READ,
                operator_scope=Scope.PAYOUTS_OPERATE,
            ),
        },
        "/routes/explain": {
            "post": operation(
                refs,
                "explainRoute",
                "control",
                "Explain how a quote would be routed",
                (
                    "200",
                    as_json(refs[Explanation], "The candidates, and why the others were left out."),
                ),
                (
                    *BODY,
                    "unsupported_asset",
                    "invalid_destination",
                    "operator_key_required",
                ),
                description="A dry run: nothing is written, counted or reserved, and nothing is called. The body "
                "is that of a quote. A key of an org sees its own routes. A key of the operator names the "
                "`org` and sees all routes; it needs `payouts:operate`.",
                body=refs[ExplainRequest],
                scope=Scope.QUOTES_WRITE,
                operator_scope=Scope.PAYOUTS_OPERATE,
            )
        },
        "/attention": {
            "get": operation(
                refs,
                "listAttention",
                "control",
                "List what needs attention",
                ("200", as_json(refs[AttentionList], "Rows, newest first.")),
                ("invalid_cursor", "invalid_request"),
                description="A key of an org sees its own payouts, without details. A key of the operator "
                "sees all; it needs `payouts:operate`. A row closes when its cause has ended, or with "
                "`payout-gateway payouts acknowledge`.",
                parameters=(
                    query("code", "Attention code.", enum=[each.value for each in Attention]),
                    query("state", "`all`: what was closed, too.", enum=["open", "all"]),
                    parameter("Limit"),
                    parameter("Cursor"),
                ),
                scope=Scope.PAYOUTS_READ,
                operator_scope=Scope.PAYOUTS_OPERATE,
            )
        },
        "/balances": {
            "get": operation(
                refs,
                "listBalances",
                "control",
                "List account balances",
                ("200", as_json(refs[BalanceList], "Accounts whose custodian reports balances.")),
                ("invalid_request",),
                description="A key of an org sees the accounts that it may use. What other orgs have "
                "reserved from a shared account is in its sums. A key of the operator sees all; it needs "
                "`payouts:operate`.",
                scope=Scope.PAYOUTS_READ,
                operator_scope=Scope.PAYOUTS_OPERATE,
            )
        },
        "/pauses/{pause_id}/resume": {
            "post": operation(
                refs,
                "resumePause",
                "control",
                "End a pause",
                ("200", as_json(refs[PauseList], "The remaining pauses.")),
                (*BODY, "pause_not_found"),
                description="Only the side that created a pause can end it. Waiting payouts continue at once.",
                parameters=(in_path("pause_id"),),
                body=refs[ResumeRequest],
                scope=Scope.PAYOUTS_WRITE,
                operator_scope=Scope.PAYOUTS_OPERATE,
            )
        },
    }
