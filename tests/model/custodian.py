"""The custodian of the model: what an arriving call leads to, and what a look at it may show.

It is honest within what its adapter declares: a done thing may stay invisible for `visibility`, a key
is remembered for `key_life`, replies get lost, old, or say "already used".
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache

from gateway.adapter import (
    Absent,
    BatchReport,
    CannotLook,
    Failure,
    FailureCode,
    FundsMoved,
    NotListed,
    Report,
    SubStatus,
)
from gateway.errors import (
    CustodianDown,
    Misconfigured,
    NotSent,
    OutcomeUnknown,
    Rejected,
    WrongAnswer,
)
from gateway.execution.decide import Outcome
from tests.model.world import Call, Event, Ledger, Profile

#: What a look found, or a call led to: its kind, the word of each item, the reference it names.
Found = tuple[object, ...]

#: The more that a word says, the later it comes.
_RANK = {"": 0, "failed": 1, "refused_code": 1, "queued": 2, "submitted": 3, "paid": 4}
_PENDING = frozenset({"queued", "submitted"})
_SUB_STATUS = {
    "paid": SubStatus.DELIVERED,
    "queued": SubStatus.AWAITING_APPROVAL,
    "submitted": SubStatus.SUBMITTED,
    "failed": SubStatus.FAILED,
    "refused_code": SubStatus.FAILED,
    "asks": SubStatus.REQUIRES_ACTION,
}


def name_of(item: int) -> str:
    """Return the id of a payout."""
    return f"payout-{item}"


@cache
def report(word: str, reference: str | None) -> Report:
    """Return what the custodian's word about an item is in the gateway's words."""
    failure = None
    if _SUB_STATUS[word] is SubStatus.FAILED:
        failure = Failure(code=FailureCode.CUSTODIAN_ERROR, message=word, funds_moved=FundsMoved.NO)
    return Report(
        _SUB_STATUS[word],
        word,
        failure=failure,
        reference=reference,
        reopens=word == "refused_code",
    )


@cache
def outcome(found: Found, items: tuple[int, ...]) -> Outcome:  # noqa: C901, PLR0911 - one per kind
    """Return what an adapter makes of it."""
    match found:
        case ("absent",):
            return Absent("not found")
        case ("short list",):
            return NotListed(since=datetime(9999, 1, 1, tzinfo=UTC))
        case ("blind", bool() | None as safe):
            return CannotLook("nothing to look by", repeat_is_safe=safe)
        case ("rejected",):
            return Rejected(FailureCode.INSUFFICIENT_FUNDS, "refused")
        case ("used",):
            return Rejected("already_used")
        case ("wrong",):
            return WrongAnswer("wrong code", 2)
        case ("door",):
            return Misconfigured("no such call")
        case ("down",):
            return CustodianDown("it does not answer")
        case ("not sent",):
            return NotSent("no connection")
        case ("said", tuple() as words, reference):
            assert reference is None or isinstance(reference, str)
            reports = {
                name_of(item): report(word, reference)
                for item, word in zip(items, words, strict=True)
                if word
            }
            return BatchReport("; ".join(words), reports)
        case _:
            return OutcomeUnknown("no reply")


def words_of(events: tuple[Event, ...], items: tuple[int, ...]) -> Found:
    """Return the strongest report that some events make about the items of an execution."""
    words = [""] * len(items)
    reference = None
    for event in events:
        reference = event.reference
        for item, word in zip(event.items, event.words, strict=True):
            place = items.index(item) if item in items else -1
            if place >= 0 and _RANK[word] >= _RANK[words[place]]:
                words[place] = word
    if not any(words):
        return ("absent",)
    return ("said", tuple(words), reference)


def _current(events: tuple[Event, ...]) -> tuple[Event, ...]:
    """Return the newest event of each order."""
    return tuple({event.order: event for event in events}.values())


@cache
def views(
    known: Ledger, execution: int, account: int, items: tuple[int, ...], visibility: int
) -> tuple[Found, ...]:
    """Return what a look at an execution's orders may show: newer events may still be invisible."""
    events = tuple(
        each for each in known.events if each.execution == execution and each.account == account
    )
    certain = sum(each.age > visibility for each in events)
    shown = {
        words_of(_current(events[:cut]), items): None for cut in range(certain, len(events) + 1)
    }
    return tuple(shown)


def arrivals(profile: Profile, known: Ledger, call: Call) -> Iterator[tuple[Event | None, Found]]:
    """Return what a call may lead to when it arrives: an event, and the reply to its sender."""
    before = [each for each in known.events if each.account == call.account]
    if call.credential in known.credentials:
        yield None, ("used",)
        return
    under = [each for each in before if each.reference == call.reference]
    remembered = bool(under) and (profile.key_life is None or under[0].age < profile.key_life)
    if profile.remembers_keys and remembered:
        said = words_of(_current(tuple(under)), call.items)
        fresh = said[0] == "said" and set(said[1]) == {"failed"}  # type: ignore[call-overload]
        if not fresh or profile.burnt_keys:
            yield None, ("used",)
            yield None, said
            return
    for answer in profile.answers:
        yield from _led_to(profile, call, answer, repeated=bool(under))


def _led_to(
    profile: Profile, call: Call, answer: str, *, repeated: bool
) -> Iterator[tuple[Event | None, Found]]:
    if answer == "wrong":
        yield None, ("wrong",)
        return
    if answer == "partly" and len(call.items) == 1:
        return
    words = ("paid", "failed") if answer == "partly" else (answer,) * len(call.items)
    if profile.doors:
        # Of a first call it is true. What became of a repeat, a page on the way does not know.
        yield None, ("door",)
    event = Event(
        0,
        call.execution,
        call.account,
        call.reference,
        call.number,
        call.items,
        words,
        call.credential,
    )
    named = call.reference if profile.names_reference else None
    if profile.doors and repeated:
        yield event, ("door",)
    if answer in {"failed", "refused_code"}:
        yield event, ("rejected",)
    if answer != "failed" or profile.asks:
        yield event, ("said", words, named)


def progress(known: Ledger) -> Iterator[Event]:
    """Return what may become of the orders that the custodian has accepted and not finished."""
    for event in _current(known.events):
        if event.words[0] not in _PENDING:
            continue
        for word in ("paid", "failed"):
            yield event._replace(age=0, words=(word,) * len(event.items))


def unnamed(profile: Profile, found: Found) -> Found:
    """Return what a look found, without the reference where this custodian names none."""
    if profile.names_reference or found[0] != "said":
        return found
    return (*found[:2], None)
