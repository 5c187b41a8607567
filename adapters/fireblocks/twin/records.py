"""A payout, its instructions and their transactions, each with its JSON form."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from adapters.fireblocks.twin.requests import CreatePayout
from adapters.fireblocks.twin.world import (
    FIAT,
    PAYEES,
    SOURCES,
    STATUS_OF_STATE,
    Course,
    Leg,
    course_of,
)
from adapters.twin.history import History

_FINAL_INSTRUCTIONS = frozenset({"COMPLETED", "FAILED", "TRANSLATION_ERROR", "SKIPPED"})
#: The fee that the third party deducts from each transfer of an account there.
_SERVICE_FEE = Decimal("0.5")
_API_USER = "6f0d6a1c-31ab-4d3b-8f0e-0c6a7a9f7d11"
_ON_CHAIN = frozenset({"BROADCASTING", "CONFIRMING", "COMPLETED"})


@dataclass
class Instruction:
    """One payment of a payout."""

    id: str
    payee_id: str
    payee_type: str
    #: The amount as the caller wrote it; it is echoed byte for byte.
    amount_text: str
    asset: str
    state: str = "NOT_STARTED"
    transactions: list[Transaction] = field(default_factory=list)
    short: bool = False

    def __post_init__(self) -> None:
        """Derive from the amount whether funds will be short."""
        self.short = self.course.short

    @property
    def amount(self) -> Decimal:
        """Return the amount in whole units."""
        return Decimal(self.amount_text)

    @property
    def course(self) -> Course:
        """Return the course of the instruction."""
        return course_of(self.amount)

    @property
    def done(self) -> bool:
        """Say whether its state is final."""
        return self.state in _FINAL_INSTRUCTIONS

    def document(self) -> dict[str, Any]:
        """Return the instruction as the status call shows it."""
        named = PAYEES.get((self.payee_type, self.payee_id))
        return {
            "id": self.id,
            # It is in every official example, but not in the schema.
            **({} if named is None else {"name": named}),
            "payeeAccount": {"id": self.payee_id, "type": self.payee_type},
            "amount": {"amount": self.amount_text, "assetId": self.asset},
            "state": self.state,
            "transactions": [transaction.summary() for transaction in self.transactions],
        }


@dataclass
class Payout:
    """An instruction set on one payment account."""

    id: str
    wanted: CreatePayout
    created_at: int
    instructions: list[Instruction]
    state: str = "REQUESTED"
    reason: str | None = None
    executed: bool = False
    #: A `reasonOfFailure` that it will meet.
    reason_ahead: str | None = None
    history: History = field(default_factory=History)

    @property
    def source_id(self) -> str:
        """Return the payment account's id."""
        return self.wanted.payment_account.id

    @property
    def source_type(self) -> str:
        """Return the payment account's type."""
        return self.wanted.payment_account.type

    def show(self, now: float) -> None:
        """Remember the present state; to be called after every change."""
        document: dict[str, Any] = {
            "payoutId": self.id,
            "paymentAccount": {"id": self.source_id, "type": self.source_type},
            "createdAt": self.created_at,
            "state": self.state,
            "status": STATUS_OF_STATE[self.state],
            "initMethod": "API",
            "instructionSet": [instruction.document() for instruction in self.instructions],
        }
        if self.state == "FINALIZED":
            document["reportUrl"] = f"https://reports.example/{self.id}.csv"
        if self.reason is not None:
            document["reasonOfFailure"] = self.reason
        self.history.add(now, document)


class Transaction:
    """One transaction made for an instruction."""

    def __init__(self, payout: Payout, instruction: Instruction, now: float) -> None:
        self.id = str(uuid.uuid4())
        self.payout = payout
        self.instruction = instruction
        self.history = History()
        self._created_ms = int(now * 1000)
        self._leg = Leg("SUBMITTED")
        self._entered = now
        self._seen_on_chain = False

    def enter(self, leg: Leg, now: float) -> None:
        """Enter the next status."""
        self._leg, self._entered = leg, now
        self._seen_on_chain = self._seen_on_chain or leg.status in _ON_CHAIN
        self.history.add(now, self.details())

    def summary(self) -> dict[str, Any]:
        """Return the transaction as the payout's status call shows it, with times in seconds."""
        return {
            "id": self.id,
            "state": self._leg.status,
            "timestamp": int(self._entered),
            "instructionId": self.instruction.id,
        }

    def details(self) -> dict[str, Any]:
        """Return the transaction as the transaction call and webhooks show it, with times in milliseconds."""
        amount = self.instruction.amount_text
        source = (self.payout.source_type, self.payout.source_id)
        payee = (self.instruction.payee_type, self.instruction.payee_id)
        on_chain = self._seen_on_chain and self._has_hash()
        fee = self._fee(on_chain=on_chain)
        # The third party's fee is deducted from the asset; a network's fee is paid in the network's
        # coin.
        kept = Decimal(fee["feeInfo"].get("serviceFee", "0"))
        net = f"{Decimal(amount) - kept:f}" if kept else amount
        details: dict[str, Any] = {
            "id": self.id,
            "status": self._leg.status,
            "subStatus": self._leg.sub_status,
            "operation": "TRANSFER",
            "assetId": self.instruction.asset,
            "source": _peer(*source, SOURCES[source]),
            "destination": _peer(*payee, PAYEES[payee]),
            "amountInfo": {"amount": amount, "requestedAmount": amount, "netAmount": net},
            # The vendor also sends these lossy numbers, in addition to the exact text above.
            "amount": _number(amount),
            "requestedAmount": _number(amount),
            "netAmount": _number(net),
            **fee,
            "createdAt": self._created_ms,
            "lastUpdated": int(self._entered * 1000),
            "numOfConfirmations": 1 if on_chain and self._leg.status == "COMPLETED" else 0,
            "note": "",
            "destinationAddress": "",
        }
        if on_chain:
            digest = hashlib.sha256(self.id.encode()).hexdigest()
            details["txHash"] = "0x" + digest
            payee_digest = hashlib.sha256("/".join(payee).encode()).hexdigest()
            details["destinationAddress"] = "0x" + payee_digest[:40]
        return details

    def event_data(self) -> dict[str, Any]:
        """Return the transaction as webhooks show it, with the members of the vendor's example, empty if unset."""
        details = self.details()
        exchange = self.payout.source_type == "EXCHANGE_ACCOUNT"
        network_fee = details["feeInfo"].get("networkFee", "0")
        return {
            "sourceAddress": "",
            "networkFee": _number(network_fee),
            "signedBy": [],
            "createdBy": _API_USER,
            "rejectedBy": _API_USER if details["subStatus"] == "REJECTED_BY_USER" else "",
            "amountUSD": details["amount"],
            "addressType": "",
            "exchangeTxId": f"ex-{self.id[:8]}" if exchange else "",
            "destinationTag": "",
            "destinationAddressDescription": "",
            "txHash": "",
            **details,
        }

    def _fee(self, *, on_chain: bool) -> dict[str, Any]:
        """Return the fee: the network's in its own coin, or the third party's in the asset."""
        if self.payout.source_type == "VAULT_ACCOUNT":
            fee = "0.0021" if on_chain else "0"
            return {"fee": _number(fee), "feeInfo": {"networkFee": fee}, "feeCurrency": "ETH"}
        kept = min(_SERVICE_FEE, Decimal(self.instruction.amount_text))
        fee = f"{kept:f}" if self._leg.status == "COMPLETED" else "0"
        info = {"networkFee": "0", "serviceFee": fee}
        return {"fee": 0, "feeInfo": info, "feeCurrency": self.instruction.asset}

    def _has_hash(self) -> bool:
        """Whether a hash is ever shown: an exchange gives one towards vaults only, a bank none."""
        if self.instruction.asset in FIAT or self.payout.source_type == "FIAT_ACCOUNT":
            return False
        to_vault = self.instruction.payee_type == "VAULT_ACCOUNT"
        return self.payout.source_type != "EXCHANGE_ACCOUNT" or to_vault


def _number(text: str) -> float | int:
    """Return a number as JavaScript writes it; a whole number has no decimal point."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _peer(kind: str, id_: str, name: str) -> dict[str, str]:
    sub_type = {"EXTERNAL_WALLET": "External", "INTERNAL_WALLET": "Internal"}.get(kind, "")
    return {"id": id_, "type": kind, "name": name, "subType": sub_type}
