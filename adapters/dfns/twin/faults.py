"""The faults of the Dfns twin, in addition to those of every custodian."""

from __future__ import annotations

import copy
from typing import Any

from adapters.twin.faults import WEBHOOK_FAULTS, Fault, FaultKind, http_faults

_POSTS = ("create", "confirm", "cancel", "transfer")
_CALLS = ("init", "sign", "quote", *_POSTS, "payout", "transfer_status", "list", "balances")
_READS = frozenset({"payout", "transfer_status"})
_ALTERATIONS = ("deposit_address", "amount", "asset", "wallet")
FAULTS = (
    *http_faults(_CALLS, _POSTS),
    *WEBHOOK_FAULTS,
    FaultKind("old_state", _READS, {"seconds": 5.0, "hide_new": False}, window=True),
    FaultKind("show_old", frozenset({"confirm", "transfer"}), {"seconds": 30.0}),
    FaultKind(
        "alter",
        _READS | {"webhook"},
        {"what": "deposit_address"},
        choices={"what": _ALTERATIONS},
    ),
)


def alter(document: dict[str, Any], fault: Fault) -> dict[str, Any]:
    """Return what an attacker or an error would report instead."""
    told: dict[str, Any] = copy.deepcopy(document)
    money = told.get("asset") or told.get("requestBody", {})
    match fault.word("what"):
        case "deposit_address":
            if "data" in told:
                told["data"]["depositAddress"] = "0x" + "66" * 20
            else:
                money["to"] = "0x" + "66" * 20
        case "amount":
            money["amount"] = str(int(money["amount"]) + 1)
        case "asset":
            money["contract" if "contract" in money else "mint"] = "0x" + "77" * 20
        case "wallet":
            told["walletId"] = "wa-66666-66666-6666666666666666"
    return told
