"""A payout session as an execution remembers it, and its comparison with the order.

Source: card-passcode protocol notes, §4. A session is opened for one execution. The content of what is
executed in it is fixed by what is remembered here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adapters.card_passcode.statuses import read_amount, text_of
from gateway.adapter import Echo, Order, PayoutAccountDestination, Terms, read_time

#: No call is started in a session with less time left than this.
_LEAST_S = 30.0
#: The provider's own clocks may differ by this much, so a session's end is taken later.
_MARGIN_S = 60.0
#: The number of wrong passcodes after which the provider locks a session.
MOST_ATTEMPTS = 5
_CURRENCY = re.compile(r"[A-Z]{3}")
_ACCOUNT = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Session:
    """A session of this execution. Its end is kept in elapsed time; no wall clock is used."""

    id: str
    #: The number of the session's reference within the execution.
    number: int
    reference_id: str
    #: The order's stamp from before the request for the session: it began then at the earliest...
    stamp: str
    #: ...and so much later at the latest.
    took_s: float
    #: Its lifetime, as the provider reports it.
    life_s: float
    #: When it began by the provider's clock, for comparison with other times of the provider.
    created_at: str
    #: When it ends, for people.
    ends_at: str
    attempts_left: int = MOST_ATTEMPTS

    @classmethod
    def of(cls, notes: Mapping[str, Any]) -> Session | None:
        """Return the remembered session, if there is one. A session without a stamp is not used any more."""
        if not notes.get("session_id") or "session_stamp" not in notes:
            return None
        return cls(
            id=notes["session_id"],
            number=notes["references"],
            reference_id=notes["reference_id"],
            stamp=notes["session_stamp"],
            took_s=notes["session_took_s"],
            life_s=notes["session_life_s"],
            created_at=notes["session_created_at"],
            ends_at=notes["session_ends_at"],
            attempts_left=notes["attempts_left"],
        )

    def notes(self) -> dict[str, Any]:
        """Return the session as notes."""
        return {
            "session_id": self.id,
            "references": self.number,
            "reference_id": self.reference_id,
            "session_stamp": self.stamp,
            "session_took_s": self.took_s,
            "session_life_s": self.life_s,
            "session_created_at": self.created_at,
            "session_ends_at": self.ends_at,
            "attempts_left": self.attempts_left,
        }

    def usable(self, order: Order) -> bool:
        """Whether a call may still be started in it."""
        return order.passed_s(self.stamp) < self.life_s - _LEAST_S

    def left_s(self, order: Order) -> float:
        """Return the seconds after which no request in this session can be accepted any more."""
        return max(0.0, self.took_s + self.life_s + _MARGIN_S - order.passed_s(self.stamp))


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
    """Return the provider's values of the session with the ordered ones."""
    return Echo(
        asset=text_of(told.get("currency")) or None,
        amount=read_amount(told.get("amount")),
        destination=_id(told.get("payout_account_id")),
        ordered_asset=order.asset,
        ordered_amount=order.amount,
        ordered_destination=payout_account_id,
    )


def misfits(order: Order, told: Mapping[str, Any], echo: Echo) -> tuple[str, ...]:
    """Return what differs from the order or is not reported, in addition to the differences of the echo."""
    found = []
    if None in (echo.asset, echo.amount, echo.destination):
        found.append("session")
    # The server chooses the wallet, but the route says which one may pay.
    if _id(told.get("wallet_id")) != order.source.id:
        found.append(f"wallet_id {_id(told.get('wallet_id'))}")
    return tuple(found)


def opened(
    told: Mapping[str, Any], order: Order, stamp: str, asked_at: datetime, number: int
) -> Session | None:
    """Return the session in an answer; None if it has no id or no lifetime.

    `stamp` and `asked_at` are from before the request; `number` is that of its reference.
    """
    identifier = _id(told.get("id"))
    begin, end = read_time(told.get("created_at")), read_time(told.get("expires_at"))
    if identifier is None or begin is None or end is None or end <= begin:
        return None
    life = end - begin
    return Session(
        id=identifier,
        number=number,
        reference_id=order.key(f"execution-{number}"),
        stamp=stamp,
        took_s=order.passed_s(stamp),
        life_s=life.total_seconds(),
        created_at=begin.isoformat(),
        ends_at=(asked_at + life).isoformat(),
    )


def _id(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return str(value) or None
