"""A wallet transfer and an off-ramp payout of the Dfns twin, each with its JSON form.

Source: dfns protocol notes, §2 (payout object), §5 (transfer object).
"""

from __future__ import annotations

import hashlib
import json
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import base58
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adapters.dfns.twin.requests import CreatePayout
from adapters.dfns.twin.world import PayoutCourse, Token, TransferCourse, WalletRecord
from adapters.twin.history import History

_LETTERS = string.ascii_lowercase + string.digits
REQUESTER = {
    "userId": "us-3pf2k-u5b2n-8qk9v3t1m5c7x2za",
    "tokenId": "to-6h1jd-q0w4e-2r9t7y5u3i1o8p6a",
}
FINAL_STATUSES = frozenset({"Completed", "Failed", "Rejected", "Expired", "Canceled"})
FINAL_TRANSFERS = frozenset({"Confirmed", "Failed", "Rejected"})


def new_id(prefix: str) -> str:
    """Return an id as the vendor's look like."""

    def part(length: int) -> str:
        return "".join(secrets.choice(_LETTERS) for _ in range(length))

    return f"{prefix}-{part(5)}-{part(5)}-{part(16)}"


def fits_place(token: Token, kind: str, place: str | None) -> bool:
    """Whether a token is the one that a request names; the letter case of a contract does not matter."""
    if token.kind != kind:
        return False
    if token.kind == "Erc20":
        return (token.place or "").lower() == (place or "").lower()
    return token.place == place


def _key_of(seed: bytes) -> bytes:
    """Return the public key of a seed: a point of the curve, as the address of a wallet is."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def _off_curve(seed: bytes) -> bytes:
    """Return 32 bytes that are no point of the curve of Ed25519, as a program's own address is."""
    prime = 2**255 - 19
    d = -121665 * pow(121666, -1, prime) % prime
    while True:
        y = int.from_bytes(seed, "little") & ((1 << 255) - 1)
        x_squared = (y * y - 1) * pow(d * y * y + 1, -1, prime) % prime
        if pow(x_squared, (prime - 1) // 2, prime) == prime - 1:
            return seed
        seed = hashlib.sha256(seed).digest()


@dataclass
class TransferRecord:
    """One wallet transfer."""

    wallet: WalletRecord
    token: Token
    #: The request as the caller sent it, without `externalId`, for the echo.
    request: dict[str, Any]
    units: int
    course: TransferCourse
    requested_at: str
    external_id: str | None = None
    id: str = field(default_factory=lambda: new_id("xfr"))
    status: str = "Executing"
    tx_hash: str | None = None
    reason: str | None = None
    dates: dict[str, str] = field(default_factory=dict)
    history: History = field(default_factory=History)
    held: bool = False
    #: Called with the record when its status is final.
    ended: Callable[[TransferRecord], None] = lambda _: None

    @property
    def amount(self) -> Decimal:
        """Return the amount in whole units."""
        return Decimal(self.units).scaleb(-self.token.decimals)

    def reach_chain(self) -> None:
        """Give the transfer a hash in the network's format."""
        digest = hashlib.sha256(self.id.encode()).digest()
        if self.wallet.network.startswith("Solana"):
            self.tx_hash = base58.b58encode(digest + digest).decode()
        else:
            self.tx_hash = "0x" + digest.hex()

    def _fee(self) -> str | None:
        """Return the network's fee, in the smallest unit of its coin; it is known at the end."""
        if self.status not in {"Confirmed", "Failed"} or self.tx_hash is None:
            return None
        return "5000" if self.wallet.network.startswith("Solana") else "420000000000000"

    def document(self) -> dict[str, Any]:
        """Return the transfer as the transfer call and webhooks show it."""
        optional = {
            "reason": self.reason,
            "txHash": self.tx_hash,
            "fee": self._fee(),
            "externalId": self.external_id,
            **self.dates,
        }
        return {
            "id": self.id,
            "walletId": self.wallet.id,
            "network": self.wallet.network,
            "requester": REQUESTER,
            "requestBody": self.request,
            "metadata": {"asset": {"symbol": self.token.symbol, "decimals": self.token.decimals}},
            "status": self.status,
            "dateRequested": self.requested_at,
            **{name: value for name, value in optional.items() if value is not None},
        }


@dataclass
class PayoutRecord:
    """One off-ramp payout."""

    wallet: WalletRecord
    token: Token
    wanted: CreatePayout
    course: PayoutCourse
    created_at: str
    body: Any
    id: str = field(default_factory=lambda: new_id("pyt"))
    status: str = "Processing"
    execution: str = "Initializing"
    reason: str | None = None
    deposit_address: str | None = None
    transfer: TransferRecord | None = None
    confirmed: bool = False
    dates: dict[str, str] = field(default_factory=dict)
    finalized_at: str | None = None
    history: History = field(default_factory=History)

    @property
    def units(self) -> int:
        """Return the amount in the token's smallest unit."""
        return int(self.wanted.asset.amount)

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.execution in FINAL_STATUSES

    def open_deposit(self, solana: str) -> None:
        """Assign the provider's deposit address; on Solana it is that of a key or of a program."""
        digest = hashlib.sha256(self.id.encode()).digest()
        if self.wallet.network.startswith("Solana"):
            made = _key_of(digest) if solana == "on_curve" else _off_curve(digest)
            self.deposit_address = base58.b58encode(made).decode()
        else:
            self.deposit_address = "0x" + digest[:20].hex()

    def document(self) -> dict[str, Any]:
        """Return the payout as every payout call and the webhook show it."""
        wanted = self.wanted
        data: dict[str, Any] = {
            "borderlessAccountId": wanted.borderless_account_id,
            "paymentInstructionsId": wanted.payment_instructions_id,
            "paymentPurpose": wanted.payment_purpose,
            "country": wanted.country,
            "executionStatus": self.execution,
        }
        transfer = self.transfer
        optional = {
            "statusReason": self.reason,
            "depositAddress": self.deposit_address,
            "transferId": transfer.id if transfer else None,
            "transactionHash": transfer.tx_hash if transfer else None,
            **self.dates,
        }
        data |= {name: value for name, value in optional.items() if value is not None}
        document: dict[str, Any] = {
            "id": self.id,
            "walletId": self.wallet.id,
            "asset": {
                **json.loads(wanted.asset.model_dump_json(by_alias=True)),
                "network": self.wallet.network,
                "metadata": {
                    "symbol": self.token.symbol,
                    "decimals": self.token.decimals,
                    "verified": True,
                },
            },
            "fiatCurrency": wanted.fiat_currency,
            "status": self.status,
            "requester": REQUESTER,
            "dateCreated": self.created_at,
            "provider": wanted.provider,
            "data": data,
        }
        if self.finalized_at is not None:
            document["dateFinalized"] = self.finalized_at
        if wanted.external_id is not None:
            document["externalId"] = wanted.external_id
        return document
