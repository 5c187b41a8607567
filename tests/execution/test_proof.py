"""What rows of evidence prove: by table, by example, by property."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.execution.proof import (
    Answer,
    Evidence,
    Finding,
    Heartbeat,
    History,
    Kind,
    Source,
    closed,
    console_look,
    ended,
    ended_unpaid,
    operator_looked,
    passed,
    proof,
    waited,
)
from gateway.model import FundsMoved
from gateway.runtime import Moment
from tests.execution.rows import (
    ACCOUNT,
    ITEM,
    LIFE,
    OTHER_ACCOUNT,
    OTHER_ITEM,
    VISIBILITY,
    asked,
    at,
    call,
    look,
    news,
    rows,
    word,
)

LATE = LIFE + VISIBILITY

PROOFS: list[tuple[str, History, bool]] = [
    ("nothing was sent", rows(), True),
    ("a mark without an outcome", rows(call(1, answer=None)), False),
    ("the call was not sent", rows(call(1, answer=Answer.NOT_SENT)), True),
    ("the call was refused", rows(call(1, answer=Answer.REJECTED)), True),
    ("a wrong answer of a person", rows(call(1, answer=Answer.WRONG_ANSWER)), True),
    ("no look yet", rows(call(1)), False),
    ("a late look", rows(call(1), look(2, LATE)), True),
    ("a look one second too early", rows(call(1), look(2, LATE - 1)), False),
    ("early, then late", rows(call(1), look(2, 5), look(3, LATE)), True),
    ("a look that found it", rows(call(1), look(2, LATE, Finding.PRESENT)), False),
    (
        "found, and then absent",
        rows(call(1), look(2, LATE, Finding.PRESENT), look(3, LATE + 1)),
        True,
    ),
    (
        "absent, and then found",
        rows(call(1), look(2, LATE), look(3, LATE + 1, Finding.PRESENT)),
        False,
    ),
    ("nothing to look by", rows(call(1), look(2, LATE, Finding.BLIND)), False),
    ("a person is asked", rows(call(1), look(2, LATE, Finding.ASKS)), False),
    (
        "a person is asked after a look that did not find the call",
        rows(call(1), look(2, LATE), look(3, LATE + 1, Finding.ASKS)),
        True,
    ),
    ("a look that failed", rows(call(1), look(2, LATE, Finding.FAILED)), False),
    ("a look that had not read the call", rows(call(2), look(3, LATE, seen=1)), False),
    (
        "another account",
        rows(call(1), look(2, LATE, fingerprint=OTHER_ACCOUNT)),
        False,
    ),
    (
        "another account, declared to be the same",
        replace(
            rows(call(1), look(2, LATE, fingerprint=OTHER_ACCOUNT)),
            accounts={OTHER_ACCOUNT: "ours", ACCOUNT: "ours"},
        ),
        True,
    ),
    (
        "a call that names no account",
        rows(call(1, fingerprint=""), look(2, LATE)),
        True,
    ),
    ("a request that never dies", rows(call(1, call_life=None), look(2, 10**9)), False),
    ("news", rows(call(1), look(2, LATE), news(3, LATE)), False),
    ("the custodian had taken it", rows(call(1, answer=Answer.ACCEPTED), look(2, LATE)), False),
    (
        "too few looks",
        rows(call(1, absence_looks=2), look(2, LATE)),
        False,
    ),
    (
        "enough looks, the last one late",
        rows(call(1, absence_looks=2), look(2, 1), look(3, LATE)),
        True,
    ),
    (
        "enough looks, the last one early",
        rows(call(1, absence_looks=2), look(2, LATE - 2), look(3, LATE - 1)),
        False,
    ),
    (
        "a later call",
        rows(call(1), look(2, LATE), call(3, LATE + 1)),
        False,
    ),
    (
        "a later call, looked for in time",
        rows(call(1), look(2, LATE), call(3, LATE + 1), look(4, 2 * LATE + 1)),
        True,
    ),
    (
        "a later call with a shorter life",
        rows(call(1), call(2, 1, call_life=1, visibility=1), look(3, 3)),
        False,
    ),
    (
        "a look by another clock",
        rows(call(1), look(2, 10**6, clock="another")),
        False,
    ),
    (
        "waiting starts at the first row of another clock",
        rows(call(1), look(2, 10**6, clock="another"), look(3, 10**6 + LATE, clock="another")),
        True,
    ),
    (
        "a row of another clock whose process had not read the call",
        rows(
            call(1, answer=Answer.NOT_SENT),
            look(2, 10**6, clock="another"),
            call(3),
            look(4, 10**6 + LATE, clock="another"),
        ),
        False,
    ),
    (
        "waiting starts at a heartbeat",
        replace(
            rows(call(1), look(2, 10**6 + LATE, clock="another")),
            heartbeats=(Heartbeat("another", 10**6, 1),),
        ),
        True,
    ),
    (
        "a heartbeat from before the mark",
        replace(
            rows(call(2), look(3, 10**6 + LATE, clock="another")),
            heartbeats=(Heartbeat("another", 10**6, 1),),
        ),
        False,
    ),
]


@pytest.mark.parametrize(
    ("history", "proven"), [each[1:] for each in PROOFS], ids=[each[0] for each in PROOFS]
)
def test_proof(history: History, proven: bool) -> None:
    """Absence is proven by enough late looks that name the last call at its account, uncontradicted."""
    assert proof(history) is proven


WORDS: list[tuple[str, History, bool, bool]] = [
    # what is asked: whether it has ended, and whether it is closed
    ("one call, one word", rows(call(1), word(2)), True, True),
    ("no word", rows(call(1)), False, False),
    ("a word from before the call", rows(word(1), call(2)), False, False),
    ("a word about another reference", rows(call(1), word(2, reference="other")), False, False),
    ("a word that names no reference", rows(call(1), word(2, reference=None)), True, True),
    ("a word about another item", rows(call(1), word(2, item=OTHER_ITEM)), False, False),
    ("a word about every item", rows(call(1), word(2, item=None)), True, True),
    ("money may have moved", rows(call(1), word(2, claim=FundsMoved.UNKNOWN)), True, False),
    ("money moved", rows(call(1), word(2, claim=FundsMoved.YES)), True, False),
    ("two calls, one word", rows(call(1), call(2, 1), word(3, 2)), False, False),
    (
        "two calls, the first one never left",
        rows(call(1, answer=Answer.NOT_SENT), call(2, 1), word(3, 2)),
        True,
        True,
    ),
    (
        "two calls, the first one was refused",
        rows(call(1, answer=Answer.WRONG_ANSWER), call(2, 1), word(3, 2)),
        False,
        False,
    ),
    (
        "two calls under a key that a failure uses up",
        rows(call(1, one_key=True), call(2, 1, one_key=True), word(3, 2)),
        True,
        True,
    ),
    ("two calls, a late look", rows(call(1), call(2, 1), word(3, LATE + 1)), True, True),
    (
        "two calls, a late webhook",
        rows(call(1), call(2, 1), word(3, 10**6, source=Source.WEBHOOK)),
        False,
        False,
    ),
    (
        "two calls, a late look at another account",
        rows(call(1), call(2, 1), word(3, LATE + 1, fingerprint=OTHER_ACCOUNT)),
        False,
        False,
    ),
    (
        "two calls, a late look that knew one of them",
        rows(call(1), call(2, 1), word(3, LATE + 1, seen=1)),
        False,
        False,
    ),
    (
        "two references, a word about the second",
        rows(call(1), call(2, 1, reference="second"), word(3, 2, reference="second")),
        False,
        False,
    ),
    (
        "two references, a word about each",
        rows(
            call(1),
            call(2, 1, reference="second"),
            word(3, 2),
            word(4, 2, reference="second"),
        ),
        True,
        True,
    ),
    (
        "two references, the first one proven absent before the second was used",
        rows(
            call(1),
            look(2, LATE),
            call(3, LATE, reference="second"),
            look(4, LATE + 1, Finding.PRESENT),
            word(5, LATE + 1, reference="second"),
        ),
        True,
        True,
    ),
    (
        "two references, news of the first one",
        rows(
            call(1),
            look(2, LATE),
            call(3, LATE, reference="second"),
            news(4, LATE + 1, reference="ref"),
            word(5, LATE + 1, reference="second"),
        ),
        False,
        False,
    ),
    (
        "two references, news of the second one",
        rows(
            call(1),
            look(2, LATE),
            call(3, LATE, reference="second"),
            news(4, LATE + 1, reference="second"),
            word(5, LATE + 2, reference="second"),
        ),
        True,
        True,
    ),
    ("nothing was sent", rows(), True, True),
    ("nothing was sent, and there is news", rows(news(1)), True, False),
    ("proven absent", rows(call(1), look(2, LATE)), False, True),
]


@pytest.mark.parametrize(
    ("history", "over", "unpaid"), [each[1:] for each in WORDS], ids=[each[0] for each in WORDS]
)
def test_words(history: History, over: bool, unpaid: bool) -> None:
    """A failed word ends only what it speaks of; only final words and proof close."""
    assert ended(history, ITEM) is over
    assert closed(history, ITEM) is unpaid
    if not over:
        assert not ended_unpaid(history, ITEM)


def test_waiting_by_one_clock_is_a_difference() -> None:
    """On the call's own clock, elapsed time is compared; the wall clock is not asked."""
    history = rows(call(1, 100))
    assert waited(history, history.rows[0], Moment("clock", 130, -5)) == 30


def test_waiting_by_another_clock_starts_anew() -> None:
    """Without a row of that clock nothing has certainly passed."""
    history = rows(call(1, 100))
    first = history.rows[0]
    assert waited(history, first, at(10**6, "another")) == 0
    known = replace(history, heartbeats=(Heartbeat("another", 500, 1),))
    assert waited(known, first, at(10**6, "another")) == 10**6 - 500


def test_a_command_elsewhere_goes_by_the_gateways_rows() -> None:
    """What has passed is read from whichever clock shows most."""
    history = rows(call(1, 100), look(2, 175))
    assert passed(history, history.rows[0], at(0, "operator")) == 75
    beats = (Heartbeat("clock", 300, 1), Heartbeat("another", 0, 1), Heartbeat("another", 400, 1))
    known = replace(history, heartbeats=beats)
    assert passed(known, history.rows[0], at(0, "operator")) == 400


LOOKS: list[tuple[str, History, int, bool, int | None]] = [
    ("nothing was sent", rows(), 0, True, 0),
    ("at once", rows(call(1)), 0, False, LIFE),
    ("at once, and the console lags", rows(call(1)), 0, True, LATE),
    ("half an hour later", rows(call(1)), 1800, True, 0),
    ("a request that never dies", rows(call(1, call_life=None)), 10**6, False, None),
    ("two calls", rows(call(1), call(2, 50)), 100, False, LIFE - 50),
    (
        "only the last one was sent",
        rows(call(1, answer=Answer.NOT_SENT), call(2, 50)),
        200,
        False,
        0,
    ),
]


@pytest.mark.parametrize(
    ("history", "now", "lag", "left"), [each[1:] for each in LOOKS], ids=[each[0] for each in LOOKS]
)
def test_when_an_operator_may_look(history: History, now: int, lag: bool, left: int | None) -> None:
    """An operator's look waits for the end of every call's life, and for a console that lags."""
    assert console_look(history, at(now), lag=lag) == left


def test_an_operator_has_looked_after_every_call() -> None:
    """The row was written when no call could arrive any more; a later call voids it."""
    early, late = asked(2, LIFE - 1), asked(2, LATE)
    assert not operator_looked(rows(call(1), early), 2, lag=False)
    assert operator_looked(rows(call(1), late), 2, lag=True)
    assert not operator_looked(rows(call(1), late), 3, lag=True)
    assert not operator_looked(rows(call(1), late), None, lag=True)
    assert not operator_looked(rows(call(1), look(2, LATE)), 2, lag=True)
    assert not operator_looked(rows(call(1), late, call(3, LATE)), 2, lag=True)
    assert operator_looked(rows(call(1), late, call(3, LATE, Answer.NOT_SENT)), 2, lag=True)


def test_a_row_is_answered_in_its_place() -> None:
    """A row with a known number replaces that one; others are added in order."""
    history = rows(call(1, answer=None), look(2, 5)).having(look(3, 6), call(1))
    assert [each.number for each in history.rows] == [1, 2, 3]
    assert history.rows[0].answer == Answer.UNKNOWN
    assert history.last_number == 3
    assert History().last_number == 0


# --- Properties -----------------------------------------------------------------------------------

_clocks = st.sampled_from(["clock", "another"])
_elapsed = st.integers(0, 2 * LATE)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Return any history: calls, looks, words and news in any order, on two clocks."""
    made: list[Evidence] = []
    for number in range(1, draw(st.integers(1, 6)) + 1):
        kind = draw(st.sampled_from([Kind.CALL, Kind.LOOK, Kind.LOOK, Kind.WORD, Kind.NEWS]))
        moment = Moment(draw(_clocks), draw(_elapsed), draw(st.integers(-(10**6), 10**6)))
        seen = draw(st.integers(0, number - 1))
        reference = draw(st.sampled_from(["ref", "second", None]))
        if kind is Kind.CALL:
            answer = draw(st.sampled_from([None, *Answer]))
            row = call(
                number,
                answer=answer,
                reference=reference,
                call_life=draw(st.sampled_from([None, 0, LIFE])),
                absence_looks=draw(st.integers(1, 2)),
            )
        elif kind is Kind.LOOK:
            row = look(number, 0, draw(st.sampled_from(Finding)), seen=seen)
        elif kind is Kind.WORD:
            row = word(number, reference=reference, source=draw(st.sampled_from(Source)), seen=seen)
        else:
            row = news(number, reference=reference)
        made.append(replace(row, at=moment))
    beats = draw(st.lists(st.builds(Heartbeat, _clocks, _elapsed, st.integers(0, 6)), max_size=2))
    return History(tuple(made), tuple(beats))


@given(histories(), st.integers(-(10**9), 10**9))
def test_a_wall_clock_proves_nothing(history: History, step: int) -> None:
    """However the wall clock is set, the same is proven and closed."""
    moved = replace(
        history,
        rows=tuple(
            replace(each, at=replace(each.at, wall=each.at.wall + step * each.number))
            for each in history.rows
        ),
    )
    assert proof(moved) is proof(history)
    assert closed(moved, ITEM) is closed(history, ITEM)


@given(histories(), _clocks, _elapsed)
def test_the_look_of_another_account_proves_nothing(
    history: History, clock: str, elapsed: int
) -> None:
    """Whatever was not proven is not proven by a look at another account either."""
    number = history.last_number + 1
    foreign = look(number, elapsed, clock=clock, fingerprint=OTHER_ACCOUNT)
    if not proof(history):
        assert not proof(history.having(foreign))


@given(histories(), st.integers(1, 10**6))
def test_where_a_clock_begins_does_not_matter(history: History, offset: int) -> None:
    """Elapsed times are compared on one clock only: a machine that runs longer proves nothing."""
    shifted = replace(
        history,
        rows=tuple(
            replace(each, at=replace(each.at, elapsed=each.at.elapsed + offset))
            if each.at.clock_id == "another"
            else each
            for each in history.rows
        ),
        heartbeats=tuple(
            replace(each, elapsed=each.elapsed + offset) if each.clock_id == "another" else each
            for each in history.heartbeats
        ),
    )
    assert proof(shifted) is proof(history)
    assert closed(shifted, ITEM) is closed(history, ITEM)


@given(histories(), st.integers(0, 10**6))
def test_a_longer_life_proves_no_more(history: History, more: int) -> None:
    """A call with a longer life, or a longer visibility, is never proven absent earlier."""
    longer = replace(
        history,
        rows=tuple(
            replace(each, visibility=each.visibility + more) if each.kind is Kind.CALL else each
            for each in history.rows
        ),
    )
    if proof(longer):
        assert proof(history)


@given(histories())
def test_a_new_call_opens_what_was_closed(history: History) -> None:
    """After a mark nothing is closed before the call is answered or looked for."""
    number = history.last_number + 1
    assert not closed(history.having(call(number, 10**6, None)), ITEM)


@given(histories())
def test_news_forbids_proof(history: History) -> None:
    """Once our own transfer was seen, absence is never proven of a call that may have arrived."""
    told = history.having(news(history.last_number + 1))
    if any(each.kind is Kind.CALL and each.answer not in {*_own_word()} for each in told.rows):
        assert not proof(told)


def _own_word() -> set[str]:
    return {Answer.NOT_SENT, Answer.WRONG_ANSWER, Answer.REJECTED}
