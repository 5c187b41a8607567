"""Between rows and values: times as microseconds, JSON as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

import pydantic_core
from pydantic import TypeAdapter

from gateway.model import (
    Account,
    Failure,
    Payout,
    QuoteTerms,
    RequiredAction,
    Status,
    SubStatus,
    TimelineEntry,
    Transaction,
    format_amount,
)
from gateway.report import Returned
from gateway.store.database import Row

#: Returns that are kept of a payout that is not delivered: what is on its way comes back once.
_MOST_RETURNS = 20
#: How many values are kept that were read from a column; each belongs to a payout that is being paid.
_KEPT = 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TERMS: TypeAdapter[QuoteTerms] = TypeAdapter(QuoteTerms)


def to_us(at: datetime) -> int:
    """Return a time as microseconds since 1970."""
    return (at - _EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    """Return the time of so many microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=us)


def maybe_from_us(us: int | None) -> datetime | None:
    """Return the time, or None for None."""
    return None if us is None else from_us(us)


def to_json(value: Any) -> str:
    """Return compact JSON text.

    By pydantic's core: 3 µs for a payout's document where `json` takes 9. Give it what JSON has: a
    Decimal or a time would become a text.
    """
    return pydantic_core.to_json(value).decode()


@lru_cache(maxsize=_KEPT)
def terms_of(text: str) -> QuoteTerms:
    """Return the quote terms stored in a column. They never change, and a payout's row is read often."""
    return _TERMS.validate_json(text)


@lru_cache(maxsize=_KEPT)
def account_of(text: str) -> Account:
    """Return the source account stored in a column."""
    return Account.model_validate_json(text)


@lru_cache(maxsize=_KEPT)
def _entry_of(members: tuple[tuple[str, Any], ...]) -> TimelineEntry:
    """Return an entry as a document has it. Entries never change, and are read at each step of a payout."""
    entry = dict(members)
    return TimelineEntry(**{**entry, "at": from_us(entry["at"])})


@lru_cache(maxsize=_KEPT)
def _transaction_of(members: tuple[tuple[str, Any], ...]) -> Transaction:
    """Return a transaction as a document has it."""
    transaction = dict(members)
    return Transaction(**{**transaction, "at": from_us(transaction["at"])})


class Document:
    """What a payout's row keeps as one JSON text, read and written with the row.

    `timeline` and `transactions` in order, with times in microseconds; `action`, the last one that
    was asked for, answered or not; `refs`, the ids at custodians that belong to the payout, each as
    custodian, kind and value; `returns`, what was said to have come back before the payout was delivered;
    `final_recipient_amount`, what the custodian reported that the recipient got.
    A member that is null is left out.
    """

    def __init__(self, text: str = "{}") -> None:
        members: dict[str, Any] = pydantic_core.from_json(text)
        self._timeline: list[dict[str, Any]] = members.get("timeline") or []
        self._transactions: list[dict[str, Any]] = members.get("transactions") or []
        self._refs: list[list[str]] = members.get("refs") or []
        self._action: dict[str, Any] | None = members.get("action")
        self._returns: list[dict[str, Any]] = members.get("returns") or []
        self._final_amount: str | None = members.get("final_recipient_amount")
        #: whether anything was changed since it was read
        self.changed = False

    @property
    def text(self) -> str:
        """The JSON text."""
        members = {
            "timeline": self._timeline,
            "transactions": self._transactions,
            "action": self._action,
            "refs": self._refs,
            "returns": self._returns,
            "final_recipient_amount": self._final_amount,
        }
        return to_json({name: value for name, value in members.items() if value})

    @property
    def timeline(self) -> tuple[TimelineEntry, ...]:
        """What happened, oldest first."""
        return tuple(_entry_of(tuple(each.items())) for each in self._timeline)

    @property
    def transactions(self) -> tuple[Transaction, ...]:
        """The transactions at the custodian, oldest first; a replaced hash stays in the history."""
        return tuple(_transaction_of(tuple(each.items())) for each in self._transactions)

    @property
    def action(self) -> RequiredAction | None:
        """The last action that was asked for, answered or not."""
        return None if self._action is None else RequiredAction.model_validate(self._action)

    def add_entry(
        self,
        status: Status,
        sub_status: SubStatus,
        at: int,
        *,
        tx_hash: str | None = None,
        detail: str | None = None,
    ) -> None:
        """Append a timeline entry."""
        members = {"status": status, "sub_status": sub_status, "at": at}
        self._timeline.append(_set({**members, "tx_hash": tx_hash, "detail": detail}))
        self.changed = True

    def add_transaction(self, transaction: Transaction) -> str | None:
        """Add a transaction or bring its status up to date; return its hash where that is new.

        A first hash completes the entry, another hash is an entry of its own: the history of a
        replacement.
        """
        same_id = [each for each in self._transactions if each["id"] == transaction.id]
        if not transaction.tx_hash:
            for each in same_id:
                self._put(each, status=transaction.status)
            if not same_id:
                self._append(transaction)
            return None
        known = {each.get("tx_hash") for each in self._transactions}
        same = next((each for each in same_id if each.get("tx_hash") == transaction.tx_hash), None)
        if same is None:
            self._append(transaction)
        else:
            self._put(same, status=transaction.status, network=transaction.network)
        self._drop_without_hash(transaction.id)
        return None if transaction.tx_hash in known else transaction.tx_hash

    def set_action(self, action: RequiredAction) -> None:
        """Keep the last action."""
        self._action = action.model_dump(mode="json")
        self.changed = True

    def unknown_refs(
        self, custodian: str, refs: Iterable[tuple[str, str]]
    ) -> list[tuple[str, str]]:
        """Return those ids (kind, value) at a custodian that are not known to be this payout's."""
        return [each for each in dict.fromkeys(refs) if [custodian, *each] not in self._refs]

    def add_refs(self, custodian: str, refs: Iterable[tuple[str, str]]) -> None:
        """Note ids at a custodian that belong to the payout."""
        self._refs += [[custodian, *each] for each in refs]
        self.changed = True

    @property
    def final_recipient_amount(self) -> Decimal | None:
        """What the recipient got, as the custodian reported it; None: it reported nothing."""
        return None if self._final_amount is None else Decimal(self._final_amount)

    def set_final_recipient_amount(self, amount: Decimal) -> None:
        """Keep what the recipient got, as the custodian reported it. May be called twice."""
        text = format_amount(amount)
        self.changed |= text != self._final_amount
        self._final_amount = text

    @property
    def early_returns(self) -> tuple[Returned, ...]:
        """What was said to have come back before the payout was delivered, oldest first."""
        return tuple(
            Returned(
                each.get("id"),
                Decimal(each["amount"]),
                each["asset"],
                from_us(each["at"]),
                each.get("word", ""),
            )
            for each in self._returns
        )

    def keep_return(self, returned: Returned) -> bool:
        """Keep what is said to have come back until the payout is delivered; False if it is too much.

        May be called twice.
        """
        members = _set(
            {
                "id": returned.id,
                "amount": format_amount(returned.amount),
                "asset": returned.asset,
                "at": to_us(returned.at),
                "word": returned.word or None,
            }
        )
        if members in self._returns:
            return True
        if len(self._returns) >= _MOST_RETURNS:
            return False
        self._returns.append(members)
        self.changed = True
        return True

    def drop_returns(self) -> None:
        """Forget them: they are counted now."""
        if self._returns:
            self._returns = []
            self.changed = True

    def _append(self, transaction: Transaction) -> None:
        members = {
            "id": transaction.id,
            "tx_hash": transaction.tx_hash or None,
            "network": transaction.network,
            "status": transaction.status,
            "explorer_url": transaction.explorer_url,
            "at": to_us(transaction.at),
        }
        self._transactions.append(_set(members))
        self._transactions.sort(key=lambda each: (each["at"], each["id"]))
        self.changed = True

    def _drop_without_hash(self, transaction_id: str) -> None:
        kept = [
            each
            for each in self._transactions
            if each["id"] != transaction_id or each.get("tx_hash")
        ]
        self.changed |= len(kept) != len(self._transactions)
        self._transactions = kept

    def _put(self, entry: dict[str, Any], **members: str | None) -> None:
        for name, value in members.items():
            if entry.get(name) != value:
                entry[name] = value
                self.changed = True


def _set(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def payout_of(row: Row | Mapping[str, Any], document: Document | None = None) -> Payout:
    """Return the payout of its row; `document` where the caller has read the row's already."""
    terms = terms_of(row["terms"])
    document = document or Document(row["document"])
    return Payout(
        id=row["id"],
        org=row["org"],
        livemode=row["mode"] == "live",
        status=row["status"],
        sub_status=row["sub_status"],
        external_ref=row["external_ref"],
        reference=row["reference"],
        metadata=pydantic_core.from_json(row["metadata"]),
        terms=terms,
        custodian=row["custodian"],
        account=account_of(row["account"]),
        custodian_reference=row["custodian_reference"],
        batch_id=row["batch_id"],
        transactions=document.transactions,
        requires_action=document.action,
        failure=Failure.model_validate_json(row["failure"]) if row["failure"] else None,
        timeline=document.timeline,
        fees_paid_usd=Decimal(row["fees_paid_usd"]) if row["fees_paid_usd"] else None,
        final_recipient_amount=document.final_recipient_amount
        if row["status"] == Status.DELIVERED
        else None,
        returned_amount=Decimal(row["returned_amount"]) if row["returned_amount"] else None,
        sequence=row["sequence"],
        created_at=from_us(row["created_at"]),
        updated_at=from_us(row["updated_at"]),
    )


def action_of(row: Row | Mapping[str, Any]) -> RequiredAction | None:
    """Return the last action that a payout asked for, answered or not."""
    # Most have never asked for one: that is seen without reading the document.
    return Document(row["document"]).action if '"action"' in row["document"] else None
