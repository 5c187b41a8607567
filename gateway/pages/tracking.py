"""What the recipient of a payout is shown of it: one value, made from the payout and the configuration.

It is the same in every language, and two equal values are drawn alike: viewers get a new picture only
if this value changes. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from urllib.parse import quote, urlsplit

from gateway.config.settings import Settings
from gateway.model import (
    AddressDestination,
    BankAccountDestination,
    CustodianAccountDestination,
    Destination,
    FailureCode,
    FundsMoved,
    Payout,
    PayoutAccountDestination,
    Status,
    SubStatus,
    Transaction,
)
from gateway.text import escaped as visible
from gateway.views import estimated_delivery

#: What stands in a destination whose personal data was erased.
_ERASED = "erased"
#: More of a text is cut: nothing that we show is longer, and a recipient has no use for it.
_MOST = 120
_HEAD, _TAIL = 6, 4


class Tone(StrEnum):
    """The colour and icon of a state, as the stylesheet calls them."""

    OK = "ok"
    RUN = "run"
    ACT = "act"
    BAD = "bad"
    CHECK = "chk"
    MUTE = "mute"


class Bar(StrEnum):
    """How the bar of one step is drawn."""

    DONE = "done"
    HALF = "half"
    STOPPED = "stopped"
    TODO = "todo"


@dataclass(frozen=True)
class Step:
    """One of the three steps: the name of its word, its bar, when it was reached or a word instead."""

    name: str
    bar: Bar
    at: datetime | None = None
    note: str | None = None
    #: drawn without the state's colour: what went well before something else did not
    mute: bool = False


@dataclass(frozen=True)
class Asked:
    """The one-time code that a payout waits for."""

    number: int
    expires_at: datetime
    #: name of the sentence that says where the code is, and what it names
    words: str
    tail: str
    target: str


@dataclass(frozen=True)
class Linked:
    """A transaction: its short hash, and where an explorer shows it."""

    short: str
    url: str | None


@dataclass(frozen=True)
class Tracking:
    """All that the page shows of a payout."""

    payout_id: str
    livemode: bool
    org: str | None
    amount: Decimal
    asset: str
    #: name of the heading's word
    state: str
    tone: Tone
    icon: str
    late: bool
    final: bool
    steps: tuple[Step, Step, Step]
    expected_at: datetime | None
    asked: Asked | None
    #: a code was asked for, and may not be entered any more
    locked: bool
    failure: FailureCode | None
    #: whether it is proven that nothing left the sender
    kept: bool
    returned: Decimal | None
    delivered_at: datetime | None
    destination: tuple[str, str, str]
    network: str | None
    provider: str | None
    transactions: tuple[Linked, ...]
    reference: str
    started_at: datetime
    changed_at: datetime


def tracking_of(payout: Payout, settings: Settings, now: datetime) -> Tracking:
    """Return what a payout's page shows at a time."""
    org = settings.orgs.get(payout.org)
    custodian = settings.custodians.get(payout.custodian)
    state = _state(payout)
    tone, icon = _LOOKS[state]
    expected = estimated_delivery(payout)
    known = state in {"pending", "broadcast"} and payout.terms.route.estimated_seconds
    if not known or custodian is None:
        # Of a custodian that was removed nothing is sent or looked up: no time can be named.
        expected = None
    late = expected is not None and now >= expected
    amount = payout.terms.recipient_gets
    if payout.status is Status.DELIVERED and payout.final_recipient_amount is not None:
        amount = payout.final_recipient_amount
    failure = payout.failure
    kept = failure is not None and failure.funds_moved is FundsMoved.NO
    action = payout.requires_action
    return Tracking(
        payout_id=payout.id,
        livemode=payout.livemode,
        org=None if org is None else org.display_name,
        amount=amount,
        asset=payout.terms.recipient_asset,
        state=state,
        tone=tone,
        icon=icon,
        late=late,
        final=payout.final,
        steps=_steps(payout, state, None if late else expected, kept=kept),
        expected_at=None if late else expected,
        asked=_asked(payout) if state == "code" else None,
        locked=state == "code" and action is not None and action.attempts_left == 0,
        failure=None if failure is None else failure.code,
        kept=kept,
        returned=payout.returned_amount,
        delivered_at=_reached(payout, Status.DELIVERED),
        destination=_destination(payout.terms.destination),
        network=_shown(payout.terms.route.to_network),
        provider=None if custodian is None else custodian.display_name,
        transactions=tuple(
            _linked(each, payout, settings) for each in payout.transactions if each.tx_hash
        )[-1:],
        reference=visible(payout.reference or payout.id),
        started_at=payout.created_at,
        changed_at=payout.updated_at,
    )


#: Colour and icon of each state.
_LOOKS: Mapping[str, tuple[Tone, str]] = {
    "pending": (Tone.MUTE, "clock"),
    "approval": (Tone.MUTE, "clock"),
    "code": (Tone.ACT, "key"),
    "answer": (Tone.ACT, "key"),
    "unknown": (Tone.CHECK, "magnifier"),
    "broadcast": (Tone.RUN, "arrow"),
    "delivered": (Tone.OK, "tick"),
    "returned": (Tone.MUTE, "back"),
    "part_returned": (Tone.MUTE, "back"),
    "failed": (Tone.BAD, "cross"),
}
#: What a payout waits for, by the type of the action that is asked for.
_ANSWERS = {"enter_passcode": "code", "await_external_approval": "approval"}


def _state(payout: Payout) -> str:
    """Return the name of the word for where a payout stands."""
    if payout.final:
        return _end(payout)
    action = payout.requires_action
    if payout.sub_status is SubStatus.OUTCOME_UNKNOWN:
        return "unknown"
    if payout.sub_status is SubStatus.REQUIRES_ACTION and action is not None and action.open:
        return _ANSWERS.get(action.type, "answer")
    if payout.status is Status.BROADCAST:
        return "broadcast"
    return "approval" if payout.sub_status is SubStatus.AWAITING_APPROVAL else "pending"


def _end(payout: Payout) -> str:
    if payout.status is Status.FAILED:
        return "failed"
    if not payout.returned_amount:
        return "delivered"
    got = payout.terms.recipient_gets
    whole = payout.returned_amount >= min(got, payout.final_recipient_amount or got)
    return "returned" if whole else "part_returned"


def _reached(payout: Payout, status: Status) -> datetime | None:
    return next((each.at for each in payout.timeline if each.status is status), None)


def _steps(
    payout: Payout, state: str, expected: datetime | None, *, kept: bool
) -> tuple[Step, Step, Step]:
    sent_at = _reached(payout, Status.BROADCAST)
    accepted = Step("accepted", Bar.DONE, payout.created_at, mute=state == "failed")
    if payout.status is Status.DELIVERED:
        arrived = _reached(payout, Status.DELIVERED)
        return (
            accepted,
            Step("sent", Bar.DONE, sent_at or arrived),
            Step("delivered", Bar.DONE, arrived),
        )
    if payout.status is Status.FAILED:
        ended = _reached(payout, Status.FAILED)
        if sent_at is None and kept:
            return (
                accepted,
                Step("not_sent", Bar.STOPPED, ended),
                Step("delivered", Bar.TODO),
            )
        # It may have been sent, and is known to have been only where the timeline says so.
        sent = Step("sent", Bar.DONE if sent_at else Bar.HALF, sent_at, mute=True)
        return accepted, sent, Step("failed", Bar.STOPPED, ended)
    checked = "being_checked" if state == "unknown" else None
    if sent_at is not None:
        return (
            accepted,
            Step("sent", Bar.DONE, sent_at),
            Step("delivered", Bar.HALF, expected, checked or ("about" if expected else None)),
        )
    note = {"code": "after_code", "approval": "after_approval"}.get(state, checked)
    bar = Bar.TODO if state == "pending" else Bar.HALF
    return accepted, Step("sent", bar, None, note), Step("delivered", Bar.TODO)


def _asked(payout: Payout) -> Asked | None:
    action = payout.requires_action
    if action is None or action.attempts_left == 0:
        return None
    target = visible(action.masked_target or "")
    if target == _ERASED:
        target = ""
    tail = re.search(r"[0-9]{2}$", target)
    if action.channel == "sms" and tail is not None:
        words = "code_phone"
    elif target:
        words = "code_target"
    else:
        words = "code_known"
    return Asked(
        action.number, action.expires_at, words, tail.group() if tail else "", _cut(target)
    )


def _destination(destination: Destination) -> tuple[str, str, str]:
    """Return the name of the word for a masked destination, and what it names."""
    match destination:
        case AddressDestination(address=address):
            return ("to_erased" if address == _ERASED else "to_address", short(address), "")
        case BankAccountDestination(country=country, fiat_currency=currency):
            return "to_bank", country, currency
        case (
            CustodianAccountDestination(id=name) | PayoutAccountDestination(payout_account_id=name)
        ):
            return ("to_erased" if name == _ERASED else "to_account", _tail(name), "")


def _tail(name: str) -> str:
    """Return the end of an account's id: four characters, and never more than half of it."""
    return visible(name[-min(_TAIL, max(1, len(name) // 2)) :])


def short(text: str) -> str:
    """Return an address or hash by its first six and last four characters."""
    if len(text) <= _HEAD + _TAIL + 1:
        return visible(text)
    return visible(f"{text[:_HEAD]}…{text[-_TAIL:]}")


def _linked(transaction: Transaction, payout: Payout, settings: Settings) -> Linked:
    tx_hash = transaction.tx_hash or ""
    network = transaction.network or payout.terms.route.to_network or ""
    pattern = settings.explorers.get(network)
    if pattern is None:
        url = transaction.explorer_url
    else:
        # An empty one: this network has no explorer that the operator wants to name.
        url = pattern.replace("{hash}", quote(tx_hash, safe="")) or None
    return Linked(short(tx_hash), url if url is not None and _is_web_address(url) else None)


def _is_web_address(url: str) -> bool:
    """Whether a link leads to a web page: an adapter's own word could be a script otherwise."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None


def _shown(text: str | None) -> str | None:
    return None if text is None else _cut(visible(text))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST else text[: _MOST - 1] + "…"
