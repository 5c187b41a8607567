"""The custodians of this repository on the stack of the kit, and what every test takes from there."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.testing.stack import (
    Rail,
    Receiver,
    SharedStacks,
    Stack,
    eventually,
    free_port,
    subscribe,
)
from gateway.testing.stack import stack as stack_of_the_kit

__all__ = [
    "DUMMY",
    "ERC20",
    "EVM_PAYEE",
    "FIREBLOCKS",
    "NETWORK",
    "OFF_RAMP",
    "PASSCODE",
    "PAYEE",
    "SHORT_SESSIONS",
    "SOLANA_PAYEE",
    "SPL",
    "Rail",
    "Receiver",
    "SharedStacks",
    "Stack",
    "eventually",
    "free_port",
    "stack",
    "subscribe",
]

PAYEE = "bef85a1c-b605-4b2e-bdb5-2d400f4d0bf3"
NETWORK = "3adc1f92-e791-44a8-9aee-7f31c2108b78"
EVM_PAYEE = "0x52908400098527886E0F7030069857D2E4169EE7"
SOLANA_PAYEE = "7v91N7iZ9mNicL8WfG6cgSCKyRXydQjLh6UYBWwm6y1Q"

FIREBLOCKS = Rail(
    "fireblocks",
    {"assets": {"USDC": {"asset_id": "USDC", "network": "Ethereum"}}},
    ("api_key", "private_key", "jwks_url"),
    {"type": "custodian_account", "account_type": "EXTERNAL_WALLET", "id": PAYEE},
)
_DFNS = Rail(
    "dfns",
    # As short as the twin's tokens live: nothing that was signed is accepted after it.
    {"user_action_life_s": 2, "timeout_s": 2},
    ("auth_token", "credential_id", "private_key", "webhook_secret", "borderless_account_id"),
    {},
    {"token_life_s": 2},
)
ERC20 = replace(
    _DFNS,
    destination={"type": "address", "network": "EthereumSepolia", "address": EVM_PAYEE},
)
SPL = replace(
    _DFNS,
    destination={"type": "address", "network": "SolanaDevnet", "address": SOLANA_PAYEE},
)
OFF_RAMP = replace(
    _DFNS,
    destination={
        "type": "bank_account",
        "payment_instructions_id": "c2b7a3de-51d0-4c38-8a07-9b1de0a7f302",
        "country": "DE",
        "fiat_currency": "EUR",
        "purpose": "salary payment",
    },
)
#: One call that pays, and its key may be repeated for ever.
DUMMY = Rail(
    "dummy",
    {"timeout_s": 3},
    ("api_key", "webhook_secret"),
    {"type": "address", "network": "EthereumSepolia", "address": EVM_PAYEE},
)
#: The caller gives the passcode of account 18; a code is sent for account 19.
PASSCODE = Rail(
    "card_passcode",
    {"passcode_mode": "caller", "timeout_s": 3},
    ("client_id", "client_secret", "phone"),
    {"type": "payout_account", "payout_account_id": "18"},
    asset="USD",
    gateway={"browser_origins": ["https://shop.example"]},
    # A call on the card rail lives as long as its session, and a margin.
    quick={"adapters.card_passcode.session:_MARGIN_S": 1.0},
)
#: A session of the card rail takes an execution as long as it lives. Where a test waits for the end of
#: a call's life, it must be short.
SHORT_SESSIONS = replace(PASSCODE, switches={"session_life_s": 8})


def stack(
    folder: Path, *, rail: Rail = FIREBLOCKS, **options: Any
) -> AbstractAsyncContextManager[Stack]:
    """Start twin and receiver, on Fireblocks if nothing else is said; see `gateway.testing.stack`."""
    return stack_of_the_kit(folder, rail=rail, **options)
