"""The custodian's own Python client, imported when a test first uses it.

Any part of it imports all of its 1,300 models: four seconds in each process that shares the tests, and
most of them run none of those that use it.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "Fireblocks": "client",
    "ClientConfiguration": "client_configuration",
    "ApiException": "exceptions",
    "BadRequestException": "exceptions",
    "NotFoundException": "exceptions",
    "ServiceException": "exceptions",
    "UnauthorizedException": "exceptions",
    "CreatePayoutRequest": "models.create_payout_request",
    "PayoutInstructionState": "models.payout_instruction_state",
    "PayoutResponse": "models.payout_response",
    "PayoutState": "models.payout_state",
    "PayoutStatus": "models.payout_status",
    "TransactionResponse": "models.transaction_response",
}


def __getattr__(name: str) -> Any:
    """Return a class of the client."""
    if name not in _MODULES:
        raise AttributeError(name)
    return getattr(importlib.import_module(f"fireblocks.{_MODULES[name]}"), name)
