"""A payout session as it is remembered with an attempt, and whether it is what was ordered.

Source: card-passcode protocol notes, §4. A session is made for one attempt and goes with a
reference of its own; the content of an execution is fixed by what is remembered here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from adapters.card_passcode.statuses import read_amount, text_of
from gateway.adapter import Echo, Order, PayoutAccountDestination, Terms

#: Nothing is begun in a session that has less than this left.
_LEAST = timedelta(seconds=30)
#: Wrong passcodes before the provider locks a session.
MOST_ATTEMPTS = 5
_CURRENCY = re.compile(r"[A-Z]{3}")
_ACCOUNT = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Session:
    """A session of this attempt."""

    id: str
    #: The number of its reference within the attempt.
    number: int
    #: The end by our own clock: the provider's may differ, the life that it tells does not.
    ends_at: datetime
    reference_id: str

    @classmethod
    def of(cls, notes: Mapping[str, Any]) -> Session | None:
        """Return the session that is remembered, if one is."""
        if not notes.get("session_id"):
            return None
        ends_at = datetime.fromisoformat(notes["session_ends_at"])
        return cls(notes["session_id"], notes["references"], ends_at, notes["reference_id"])

    def usable(self, now: datetime) -> bool:
        """Whether something may still be begun in it."""
        return now < self.ends_at - _LEAST

    def over(self, now: datetime, call_life_s: float) -> bool:
        """Whether no request made in it can be accepted any more."""
        return now >= self.ends_at + timedelta(seconds=call_life_s)

    def notes(self) -> dict[str, Any]:
        """Return it as it is remembered."""
        return {
            "session_id": self.id,
            "references": self.number,
            "session_ends_at": self.ends_at.isoformat(),
            "reference_id": self.reference_id,
        }


def unpayable(terms: Terms) -> str | None:
    """Return why the provider could never pay on these terms, or None."""
    if not isinstance(terms.destination, PayoutAccountDestination):
        return f"a {terms.destination.type} is no payout account"
    if not _ACCOUNT.fullmatch(terms.destination.payout_account_id):
        return "a payout account id is a whole number"
    if terms.source.type != "WALLET":
        return f"{terms.source.type} is no wallet"
    if not _CURRENCY.fullmatch(terms.asset):
        return f"{terms.asset} is no currency of three letters"
    return None


def account_of(order: Order) -> str:
    """Return the payout account of an order that is payable."""
    assert isinstance(order.destination, PayoutAccountDestination)  # noqa: S101 - checked before
    return order.destination.payout_account_id


def request_of(order: Order, payout_account_id: str) -> dict[str, Any]:
    """Return the body that opens a session."""
    return {
        "payout_account_id": int(payout_account_id),
        "amount": f"{order.amount:f}",
        "currency": order.asset,
    }


def echo_of(order: Order, payout_account_id: str, told: Mapping[str, Any]) -> Echo:
    """Return what the provider says of the session beside what was ordered."""
    return Echo(
        asset=text_of(told.get("currency")) or None,
        amount=read_amount(told.get("amount")),
        destination=_id(told.get("payout_account_id")),
        ordered_asset=order.asset,
        ordered_amount=order.amount,
        ordered_destination=payout_account_id,
    )


def misfits(order: Order, told: Mapping[str, Any], echo: Echo) -> tuple[str, ...]:
    """Return what is not as ordered, or not told at all, beside the differences of the echo."""
    found = []
    if None in (echo.asset, echo.amount, echo.destination):
        found.append("session")
    # The server chooses the wallet; the route says which one may pay.
    if _id(told.get("wallet_id")) != order.source.id:
        found.append(f"wallet_id {_id(told.get('wallet_id'))}")
    return tuple(found)


def opened(
    told: Mapping[str, Any], number: int, reference_id: str, asked_at: datetime
) -> Session | None:
    """Return the session of an answer; None where it has no id or no life."""
    identifier = _id(told.get("id"))
    begin, end = read_time(told.get("created_at")), read_time(told.get("expires_at"))
    if identifier is None or begin is None or end is None or end <= begin:
        return None
    return Session(identifier, number, asked_at + (end - begin), reference_id)


def read_time(value: object) -> datetime | None:
    """Return a time of the provider; None for what is none, or has no zone."""
    try:
        read = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return read if read is not None and read.tzinfo is not None else None


def _id(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return str(value) or None
