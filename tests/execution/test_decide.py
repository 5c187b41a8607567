"""Decisions are total: every outcome, in every state, after every history, for one item or two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from gateway.adapter import (
    Absent,
    Action,
    BatchReport,
    CannotLook,
    Capabilities,
    Failure,
    FailureCode,
    FundsMoved,
    KeySemantics,
    LeaseLost,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Report,
    SubStatus,
    UnreadableAnswer,
    Unsupported,
    WrongAnswer,
)
from gateway.execution.decide import (
    LOOKS_ALERT,
    NEWS,
    Outcome,
    decide,
    expiry,
    failed,
    news_from_outside,
    takeover,
)
from gateway.execution.gate import MarkRefused, Refusal
from gateway.execution.proof import (
    Answer,
    Evidence,
    Finding,
    History,
    Kind,
    Source,
    closed,
    ended,
    has_news,
    open_calls,
)
from gateway.execution.state import Decision, Item, State, Verb, View
from gateway.model import Status
from gateway.runtime import Moment

SECOND = 1_000_000
LATE = 1000
CAN = Capabilities(
    frozenset(), keys=KeySemantics(life_s=600), call_life_s=60, visibility_s=30, polling_s=(10, 20)
)
CAPABILITIES = {
    "plain": CAN,
    "safe": replace(CAN, keys=KeySemantics(repeat_is_safe=True)),
    "short key": replace(CAN, keys=KeySemantics(life_s=100, repeat_is_safe=True)),
    "endless": replace(CAN, call_life_s=None),
}
ITEMS = {"one": ("p-1",), "two": ("p-1", "p-2")}


def at(seconds: int) -> Moment:
    """Return a moment of the one clock there is."""
    return Moment("clock", seconds * SECOND, seconds * SECOND)


def call(number: int, answer: str | None, can: Capabilities, **members: Any) -> Evidence:
    """Return a call."""
    life = None if can.call_life_s is None else round(can.call_life_s * SECOND)
    terms: dict[str, Any] = {
        "seen": number - 1,
        "at": at(number),
        "fingerprint": "A",
        "mark": number,
        "call_life": life,
        "visibility": 30 * SECOND,
        "absence_looks": 3,
        "key_life": None if can.keys.life_s is None else round(can.keys.life_s * SECOND),
    }
    return Evidence(number, Kind.CALL, answer=answer, **{**terms, **members})


def row(number: int, kind: Kind, answer: str | None = None, **members: Any) -> Evidence:
    """Return a row that is no call."""
    terms: dict[str, Any] = {"seen": number - 1, "at": at(100 + number), "fingerprint": "A"}
    return Evidence(number, kind, answer=answer, **{**terms, **members})


def histories(can: Capabilities) -> dict[str, History]:
    """Return every kind of history, by name."""
    absent = [row(number, Kind.LOOK, Finding.ABSENT) for number in (2, 3, 4)]
    news = row(5, Kind.NEWS, source=Source.WEBHOOK)
    word = row(5, Kind.WORD, FundsMoved.NO, item="p-1", source=Source.REPLY)
    found = {
        "nothing": [],
        "news alone": [news],
        **{f"a call: {answer}": [call(1, answer, can)] for answer in (None, *Answer)},
        "proven": [call(1, Answer.UNKNOWN, can), *absent],
        "proven, and news": [call(1, Answer.UNKNOWN, can), *absent, news],
        "not sent, and news": [call(1, Answer.NOT_SENT, can), news],
        "failed": [call(1, Answer.ACCEPTED, can), word],
        "two calls": [call(1, Answer.UNKNOWN, can), *absent, call(5, Answer.UNKNOWN, can)],
        "two references": [
            call(1, Answer.UNKNOWN, can, reference="r-1"),
            call(2, Answer.UNKNOWN, can, reference="r-2"),
        ],
        "five calls": [call(number, Answer.UNKNOWN, can) for number in range(1, 6)],
        "another account": [call(1, Answer.UNKNOWN, can, fingerprint="B")],
    }
    return {
        name: History(
            tuple(replace(each, number=index + 1, seen=index) for index, each in enumerate(rows))
        )
        for name, rows in found.items()
    }


def outcomes(items: tuple[str, ...]) -> Iterator[Outcome]:
    """Yield everything that an adapter may return or raise."""
    yield from (Absent("404"), CannotLook("none"))
    yield from (CannotLook("none", repeat_is_safe=safe) for safe in (True, False))
    yield from (Rejected("no"), NotSent("429", again_after_s=77), NotSent("x", alert="clock_skew"))
    yield from (WrongAnswer("wrong", left) for left in (None, 2, 0))
    yield from (UnreadableAnswer(["a"]), OutcomeUnknown("lost"), TimeoutError(), ValueError("bug"))
    yield from (Unsupported(""), LeaseLost("x"), *(MarkRefused(each) for each in Refusal))
    yield BatchReport("NOTHING", {})
    yield BatchReport("STRANGER", {"p-9": Report(SubStatus.DELIVERED, "W")})
    for report in reports():
        yield BatchReport("W", dict.fromkeys(items, report))
        if len(items) > 1:
            yield BatchReport("W", {items[-1]: report})


def reports() -> Iterator[Report]:
    """Yield everything that may be said of a payout."""
    yield Report(None, "W", unknown_words=("W",))
    for sub_status in SubStatus:
        report = Report(sub_status, "W")
        if sub_status is SubStatus.REQUIRES_ACTION:
            yield replace(report, action=Action())
        elif not failed(report):
            yield report
            yield replace(report, again_after_s=5)
        else:
            yield report
            for moved in (FundsMoved.NO, FundsMoved.UNKNOWN):
                code = FailureCode.UNKNOWN_REASON
                failure = Failure(code=code, message="", funds_moved=moved)
                yield replace(report, failure=failure)
                yield replace(report, failure=failure, reopens=True)


#: In which states a verb is recorded: after its mark the state is "moving".
STATES = {
    Verb.SUBMIT: (State.PREPARED, State.MOVING),
    Verb.CONFIRM: (State.PARKED, State.MOVING),
    Verb.FETCH: (State.PREPARED, State.PARKED, State.UNKNOWN, State.ACCEPTED),
    Verb.CANCEL: (State.PREPARED, State.PARKED, State.UNKNOWN, State.ACCEPTED),
}


def views(can: Capabilities, items: tuple[str, ...]) -> Iterator[tuple[str, View]]:
    """Yield everything that there is to decide in."""
    for (name, history), verb, late in product(histories(can).items(), Verb, (False, True)):
        calls = verb in {Verb.SUBMIT, Verb.CONFIRM}
        last = open_calls(history)[-1:]
        asks = SubStatus.REQUIRES_ACTION if late else SubStatus.SUBMITTING
        for state, looks in product(STATES[verb], (0, LOOKS_ALERT) if verb is Verb.FETCH else (0,)):
            if late and state not in {State.PARKED, State.UNKNOWN}:
                continue
            mine = last[0].number if last and last[0].answer is None else None
            yield (
                name,
                View(
                    state=state,
                    verb=verb,
                    history=history,
                    items=tuple(
                        Item(each, Status.PENDING, asks, unanswered=late) for each in items
                    ),
                    capabilities=can,
                    started=at(LATE),
                    now=at(LATE + 1),
                    seen=history.last_number,
                    fingerprint="A",
                    call=mine if calls and state is State.MOVING else None,
                    looks=looks,
                ),
            )


def check(view: View, decision: Decision) -> None:
    """Check what holds of every decision."""
    after = view.history.having(*decision.evidence)
    numbers = [each.number for each in after.rows]
    everything = all(closed(after, each.id) for each in view.open_items)
    assert numbers == list(range(1, len(numbers) + 1))
    assert decision.delay_s >= 0
    assert set(decision.reports) <= {each.id for each in view.items}
    for item, report in decision.reports.items():
        if report.failure is not None and report.failure.funds_moved is FundsMoved.NO:
            assert closed(after, item), "not paid, and not proven"
        if failed(report):
            assert ended(after, item) or closed(after, item), (
                "ended by a word that may be about another call"
            )
    if decision.state is State.PREPARED and view.state is not State.PREPARED:
        assert not has_news(after), "submitted again after news"
        harmless = view.capabilities.keys.repeat_is_safe or decision.repeat_is_safe
        elsewhere = any(each.fingerprint != view.fingerprint for each in open_calls(after))
        assert everything or (harmless and not elsewhere), "submitted again without a right"
    if decision.state is State.PARKED and view.state is not State.PARKED:
        assert everything, "a person is asked while a call may still arrive"
    if decision.reopens:
        assert everything
        assert not decision.reports
    if decision.state is State.CLOSED and not decision.reopens:
        assert all(failed(each) for each in decision.reports.values())
        assert decision.reports
    if decision.state is State.UNKNOWN and decision.delay_s < view.capabilities.polling_s[0]:
        assert decision.delay_s > 0, "looked at without a pause"


@pytest.mark.parametrize(
    ("capabilities", "count"),
    [("plain", "one"), ("plain", "two"), ("safe", "one"), ("short key", "one"), ("endless", "one")],
)
def test_every_outcome_has_a_decision(capabilities: str, count: str) -> None:
    """None raises, none says "not paid" without proof, none submits after news."""
    items = ITEMS[count]
    told = list(outcomes(items))
    for name, view in views(CAPABILITIES[capabilities], items):
        for outcome in told:
            try:
                check(view, decide(view, outcome))
            except Exception as error:
                error.add_note(f"{name}: {view.state} {view.verb} {outcome!r}")
                raise


@pytest.mark.parametrize("can", CAPABILITIES.values(), ids=CAPABILITIES)
def test_every_beginning_and_all_news_has_a_decision(can: Capabilities) -> None:
    """Takeovers, expiries, and news from outside."""
    for _, view in views(can, ITEMS["two"]):
        if view.verb is not Verb.FETCH or view.looks:
            continue
        begun = takeover(view)
        assert (begun.state, set(begun.reports)) == (State.UNKNOWN, {"p-1", "p-2"})
        over = expiry(view)
        if over is not None:
            check(view, over)
        for report, source in product(reports(), (Source.WEBHOOK, Source.OPERATOR)):
            rows, told = news_from_outside(view, "p-1", report, source)
            after = view.history.having(*rows)
            assert has_news(after) or report.sub_status not in NEWS
            if told is None or told.failure is None:
                continue
            if told.failure.funds_moved is FundsMoved.NO:
                assert closed(after, "p-1")
