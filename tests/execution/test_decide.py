"""What an outcome leads to: total over everything an adapter can do, and by example."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest

from gateway.adapter import (
    Absent,
    BatchReport,
    CannotLook,
    Capabilities,
    CredentialsRefused,
    Failure,
    FailureCode,
    FundsMoved,
    KeySemantics,
    LeaseLost,
    Misconfigured,
    NotListed,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    Rejected,
    Report,
    SubStatus,
    UnreadableAnswer,
    Unsupported,
    WrongAnswer,
)
from gateway.execution.alerts import LOOKS_ALERT
from gateway.execution.decide import (
    Outcome,
    decide,
    expiry,
    takeover,
)
from gateway.execution.gate import MarkRefused, Other, Refusal
from gateway.execution.interpret import news_from_outside
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
from gateway.execution.reports import NEWS, failed
from gateway.execution.state import Decision, Item, State, Verb, View
from gateway.model import Attention, Status
from gateway.states import STATUS_OF
from tests.execution.rows import (
    ACCOUNT,
    ITEM,
    LIFE,
    OTHER_ACCOUNT,
    OTHER_ITEM,
    VISIBILITY,
    at,
    call,
    look,
    news,
    rows,
    word,
)

_SECOND = 1_000_000
LATE = (LIFE + VISIBILITY) * _SECOND
POLLING = (2.0, 4.0, 8.0)
#: What an adapter wished at most in these tests.
WISH = 30.0


#: What an adapter may declare.
PLAIN = Capabilities(
    destination_types=frozenset(),
    call_life_s=LIFE,
    visibility_s=VISIBILITY,
    absence_looks=1,
    polling_s=POLLING,
)
SAFE = replace(PLAIN, keys=KeySemantics(repeat_is_safe=True))
SHORT_KEY = replace(PLAIN, keys=KeySemantics(repeat_is_safe=True, life_s=100))
ENDLESS = replace(PLAIN, call_life_s=None)


def paying(number: int, elapsed: int = 0, answer: str | None = None, **changed: Any) -> Evidence:
    """Return a moving call, its durations in microseconds as everywhere outside these rows."""
    terms = {"call_life": LIFE * _SECOND, "visibility": VISIBILITY * _SECOND}
    return call(number, elapsed, answer, **(terms | changed))


def view(history: History, **changed: Any) -> View:
    """Return what is read when an outcome is written, one minute after the call."""
    now = changed.pop("now", at(60 * _SECOND))
    plain = View(
        state=State.UNKNOWN,
        verb=Verb.FETCH,
        history=history,
        items=(Item(ITEM, Status.PENDING, SubStatus.SUBMITTING),),
        capabilities=PLAIN,
        started=now,
        now=now,
        seen=history.last_number,
        fingerprint=ACCOUNT,
    )
    return replace(plain, **changed)


def failing(claim: FundsMoved = FundsMoved.NO, **changed: Any) -> Report:
    """Return a report that a payout failed."""
    failure = Failure(code=FailureCode.CUSTODIAN_ERROR, message="failed", funds_moved=claim)
    return replace(Report(SubStatus.FAILED, "failed", failure=failure, reference="ref"), **changed)


def told(report: Report, *items: str) -> BatchReport:
    """Return a report that says the same of some items."""
    return BatchReport(report.custodian_word, dict.fromkeys(items or (ITEM,), report))


# --- Total ----------------------------------------------------------------------------------------


def reports() -> Iterator[Report]:
    """Yield every kind of report."""
    for sub_status in (None, *SubStatus):
        plain = Report(sub_status, str(sub_status))
        yield plain
        yield replace(plain, again_after_s=WISH, unknown_words=("odd",), reference="ref")
    ends = [each for each, status in STATUS_OF.items() if status is Status.FAILED]
    for sub_status, claim, reopens in itertools.product(ends, FundsMoved, (False, True)):
        yield failing(claim, sub_status=sub_status, reopens=reopens)
        yield failing(claim, sub_status=sub_status, reopens=reopens, reference=None)
    yield failing(reference="another reference")


@cache
def outcomes(items: tuple[str, ...]) -> tuple[Outcome, ...]:
    """Return every outcome that an adapter can produce."""
    return tuple(_outcomes(items))


def _outcomes(items: tuple[str, ...]) -> Iterator[Outcome]:
    for report in reports():
        yield told(report, *items)
    yield BatchReport("an item is missing", {items[0]: Report(SubStatus.DELIVERED, "done")})
    yield BatchReport("nothing of any item", {})
    yield BatchReport("an item of somebody else", {"pay_9": failing()})
    if len(items) > 1:
        yield BatchReport(
            "mixed", {items[0]: Report(SubStatus.DELIVERED, "done"), items[1]: failing()}
        )
        yield BatchReport(
            "asks of one", {items[0]: Report(SubStatus.REQUIRES_ACTION, ""), items[1]: failing()}
        )
    yield Absent("unknown here")
    yield NotListed()
    yield NotListed(since=datetime(2030, 1, 1, tzinfo=UTC))
    for safe in (None, True, False):
        yield CannotLook("no reference", repeat_is_safe=safe)
    yield Rejected("invalid_destination")
    yield NotSent("no connection")
    yield NotSent("slow down", again_after_s=WISH)
    yield NotSent("clock", alert=Attention.CLOCK_SKEW)
    for refusal in Refusal:
        yield MarkRefused(refusal)
    yield Misconfigured("HTTP 404")
    yield CredentialsRefused("HTTP 401")
    yield RateLimited("HTTP 429", again_after_s=WISH)
    yield UnreadableAnswer(["passcode.token"])
    for left in (None, 0, 2):
        yield WrongAnswer("wrong", left)
    yield OutcomeUnknown("no reply")
    yield LeaseLost("taken over")
    yield Unsupported("no such verb")
    yield ValueError("a bug in an adapter")
    yield TimeoutError()


PASTS: dict[str, History] = {
    "nothing": rows(),
    "a mark": rows(paying(1)),
    "an unknown call": rows(paying(1, answer=Answer.UNKNOWN)),
    "a call that was not sent": rows(paying(1, answer=Answer.NOT_SENT)),
    "a repeat that was turned away": rows(
        paying(1, answer=Answer.UNKNOWN), paying(2, 5, answer=Answer.TURNED_AWAY)
    ),
    "proven absence": rows(paying(1, answer=Answer.UNKNOWN), look(2, LATE)),
    "a second call": rows(paying(1, answer=Answer.UNKNOWN), look(2, LATE), paying(3, LATE)),
    "a repeat": rows(paying(1, answer=Answer.UNKNOWN), paying(2, 5)),
    "two references": rows(
        paying(1, answer=Answer.UNKNOWN), look(2, LATE), paying(3, LATE, reference="second")
    ),
    "news": rows(paying(1, answer=Answer.ACCEPTED), news(2)),
    "news without a call": rows(news(1)),
    "another account": rows(paying(1, fingerprint=OTHER_ACCOUNT)),
    "a request that never dies": rows(paying(1, call_life=None)),
    "refused": rows(paying(1, answer=Answer.REJECTED)),
}


def views(state: State, verb: Verb) -> Iterator[View]:
    """Yield every kind of view in one state."""
    one = (Item(ITEM, Status.PENDING, SubStatus.SUBMITTING),)
    two = (*one, Item(OTHER_ITEM, Status.PENDING, SubStatus.REQUIRES_ACTION, unanswered=True))
    for history, items in itertools.product(PASTS.values(), (one, two)):
        plain = view(history, state=state, verb=verb, items=items, now=at(2 * LATE))
        yield plain
        made = [each.number for each in history.rows if each.kind is Kind.CALL]
        if made and verb in {Verb.SUBMIT, Verb.CONFIRM}:
            yield replace(plain, call=made[-1])
        if items is one:
            yield replace(plain, others=(Other(rows(paying(1)), (ITEM,)),))
            yield replace(plain, capabilities=SAFE, looks=LOOKS_ALERT, failures=9)
            yield replace(plain, capabilities=SHORT_KEY, frozen=True)
            yield replace(plain, capabilities=ENDLESS, foreign=frozenset({ITEM}))


def judged(at_hand: View, outcome: Outcome) -> Decision:
    """Return a decision, after checking what every decision has to respect."""
    decision = decide(at_hand, outcome)
    history = at_hand.history.having(*decision.evidence)
    certain = all(_closed(at_hand, history, each.id) for each in at_hand.open_items)
    _check_reports(at_hand, decision, history)
    looks = at_hand.verb in {Verb.FETCH, Verb.CANCEL}
    if decision.state is State.PREPARED and not (looks and at_hand.state is State.PREPARED):
        harmless = certain or _harmless(at_hand, outcome, history)
        assert harmless, "submitted again: only where that is lawful"
        assert not has_news(history), "submitted again after news"
    if decision.state is State.PARKED and at_hand.state is not State.PARKED:
        assert certain, "a person is asked while a call may still arrive"
    if decision.state is State.CLOSED and at_hand.state is not State.CLOSED:
        assert decision.reopens or any(failed(each) for each in decision.reports.values())
    if decision.reopens:
        assert certain
        assert not decision.reports
    assert 0 <= decision.delay_s <= max(POLLING[-1], WISH, LIFE + VISIBILITY)
    assert decision.state is not State.MOVING or at_hand.state is State.MOVING
    numbers = [each.number for each in history.rows]
    assert numbers == list(range(1, len(numbers) + 1)), "rows are numbered in order"
    known = at_hand.history.last_number
    changed = {each.number for each in decision.evidence if each.number <= known}
    assert changed <= {at_hand.call}, "only the call that was made is answered"
    assert has_news(history) >= has_news(at_hand.history), "news is never undone"
    answers = BatchReport | Absent | NotListed | Rejected | WrongAnswer
    over = at_hand.failures > 0 and decision.failures == 0
    assert not over or isinstance(outcome, answers), "only an answer ends failures in a row"
    return decision


def _check_reports(at_hand: View, decision: Decision, history: History) -> None:
    assert set(decision.reports) <= {each.id for each in at_hand.items}
    for item, report in decision.reports.items():
        if not failed(report):
            continue
        assert not at_hand.frozen, "ended although a call may be missing from the rows"
        over = ended(history, item) or closed(history, item)
        assert over, "ended by a word that may be about another call"
        if report.failure is not None and report.failure.funds_moved is FundsMoved.NO:
            assert _closed(at_hand, history, item), "not paid, and that is not proven"


def _closed(at_hand: View, history: History, item: str) -> bool:
    """Whether neither this execution nor another one pays an item."""
    return closed(history, item) and all(
        closed(each.history, item) for each in at_hand.others if item in each.items
    )


def _harmless(at_hand: View, outcome: Outcome, history: History) -> bool:
    """Whether the gate may allow a repeat under the same key."""
    said = outcome.repeat_is_safe if isinstance(outcome, CannotLook) else None
    safe = at_hand.repeat_is_safe if said is None else said
    declared = at_hand.capabilities.keys.repeat_is_safe
    unknown = open_calls(history)
    return (declared if safe is None else safe) and len({each.reference for each in unknown}) <= 1


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("state", State)
def test_every_outcome_in_every_state_is_decided(state: State, verb: Verb) -> None:
    """Nothing escapes, and no decision claims or allows more than the rows prove."""
    for at_hand in views(state, verb):
        for outcome in outcomes(tuple(each.id for each in at_hand.items)):
            judged(at_hand, outcome)


@pytest.mark.parametrize("state", State)
def test_takeovers_expiries_and_news_are_total(state: State) -> None:
    """So are the decisions that no verb leads to."""
    for at_hand in views(state, Verb.FETCH):
        assert takeover(at_hand).state is State.UNKNOWN
        assert takeover(at_hand).failures == at_hand.failures
        late = expiry(replace(at_hand, failures=9))
        if late is not None:
            assert late.failures == 9
            assert all(closed(at_hand.history, each.id) for each in at_hand.open_items)
        for report, source in itertools.product(reports(), Source):
            added, said = news_from_outside(at_hand, ITEM, report, source)
            claims = said is not None and said.failure is not None
            if claims and said is not None and said.failure is not None:
                no = said.failure.funds_moved is FundsMoved.NO and said.sub_status is not None
                assert not no or closed(at_hand.history.having(*added), ITEM)


# --- By example -----------------------------------------------------------------------------------


def test_a_report_of_the_first_call_is_followed() -> None:
    """What the custodian has taken is looked at; the call is answered in its row."""
    decision = judged(
        view(rows(paying(1)), state=State.MOVING, verb=Verb.SUBMIT, call=1),
        told(Report(SubStatus.AWAITING_APPROVAL, "queued")),
    )
    assert decision.state is State.ACCEPTED
    assert [each.answer for each in decision.evidence] == [Answer.ACCEPTED]


@pytest.mark.parametrize("verb", [Verb.SUBMIT, Verb.CONFIRM])
def test_a_call_of_unknown_outcome_ends_no_failures(verb: Verb) -> None:
    """Nobody knows whether it was answered; a refusal of a repeat is an answer, and a report is one."""
    at_hand = view(
        rows(paying(1, answer=Answer.UNKNOWN), paying(2, 5)), verb=verb, call=2, failures=7
    )
    for outcome in (OutcomeUnknown("no reply"), TimeoutError(), ValueError("a bug")):
        assert judged(at_hand, outcome).failures == 7
    for answer in (Rejected("used"), told(Report(SubStatus.SUBMITTED, "queued"))):
        assert judged(at_hand, answer).failures == 0


def test_a_confirm_that_was_not_sent_counts_as_a_failure() -> None:
    """It did not reach the custodian: what an operator was told stays open."""
    at_hand = view(rows(), state=State.PARKED, verb=Verb.CONFIRM)
    assert judged(at_hand, CredentialsRefused("HTTP 401")).failures == 1
    assert judged(replace(at_hand, failures=4), NotSent("down")).failures == 5
    assert judged(replace(at_hand, failures=4), WrongAnswer("wrong", 2)).failures == 0


@pytest.mark.parametrize("sub_status", sorted(NEWS))
def test_money_on_its_way_is_news(sub_status: SubStatus) -> None:
    """A report that money is or may be on its way adds a row, once."""
    at_hand = view(rows(paying(1)), verb=Verb.SUBMIT, call=1)
    decision = judged(at_hand, told(Report(sub_status, "on its way")))
    assert [each.kind for each in decision.evidence] == [Kind.CALL, Kind.NEWS]
    again = replace(at_hand, history=at_hand.history.having(*decision.evidence), verb=Verb.FETCH)
    assert [each.kind for each in judged(again, told(Report(sub_status, ""))).evidence] == [
        Kind.LOOK
    ]


def test_a_refusal_of_the_first_call_ends_the_payout() -> None:
    """Nothing moved: only there is it certain."""
    at_hand = view(rows(paying(1)), state=State.MOVING, verb=Verb.SUBMIT, call=1)
    decision = judged(at_hand, Rejected("invalid_destination"))
    assert decision.state is State.CLOSED
    failure = decision.reports[ITEM].failure
    assert failure is not None
    assert failure.funds_moved is FundsMoved.NO


def test_a_refusal_of_a_repeat_is_not_believed() -> None:
    """The answer "already used" may mean that the first call has arrived."""
    at_hand = view(
        rows(paying(1, answer=Answer.UNKNOWN), paying(2, 5)),
        state=State.MOVING,
        verb=Verb.SUBMIT,
        call=2,
    )
    decision = judged(at_hand, Rejected("already_used"))
    assert decision.state is State.UNKNOWN
    assert [each.answer for each in decision.evidence] == [Answer.UNKNOWN]


@pytest.mark.parametrize("outcome", [Rejected("already_used"), NotSent("no connection")])
def test_an_answer_to_the_same_bytes_sent_again_says_nothing_of_the_first_time(
    outcome: Outcome,
) -> None:
    """A credential that is used once: the first time may have arrived, whatever the second is told."""
    at_hand = view(
        rows(paying(1, answer=Answer.UNKNOWN)), state=State.MOVING, verb=Verb.SUBMIT, call=1
    )
    decision = judged(at_hand, outcome)
    assert decision.state is State.UNKNOWN
    assert [each.answer for each in decision.evidence] == [Answer.UNKNOWN]


def test_an_unforeseen_error_after_the_mark_is_unknown() -> None:
    """A bug in an adapter is no refusal."""
    at_hand = view(rows(paying(1)), state=State.MOVING, verb=Verb.SUBMIT, call=1)
    assert judged(at_hand, ValueError("bug")).state is State.UNKNOWN
    assert judged(view(rows(), verb=Verb.SUBMIT), ValueError("bug")).state is State.PREPARED


@pytest.mark.parametrize(
    ("state", "safe", "code"),
    [
        (State.ACCEPTED, False, "cannot_look"),
        (State.ACCEPTED, None, None),
        (State.UNKNOWN, False, "cannot_look"),
    ],
)
def test_what_neither_a_look_nor_a_repeat_settles_is_the_operators(
    state: State, *, safe: bool | None, code: str | None
) -> None:
    """Of an accepted payout, too: no proof, no other state, and an alert at the first such look."""
    decision = judged(view(rows(paying(1)), state=state), CannotLook("too many", safe))
    assert decision.state is state
    assert [each for each, _ in decision.alerts] == ([] if code is None else [code])
    assert not decision.reports


def test_absence_is_tried_again_when_it_is_proven() -> None:
    """A look counts from its start: one second earlier proves nothing."""
    history = rows(paying(1, answer=Answer.UNKNOWN))
    late = view(history, started=at(LATE), now=at(3 * LATE))
    assert judged(late, Absent()).state is State.PREPARED
    early = replace(late, started=at(LATE - 1))
    assert judged(early, Absent()).state is State.UNKNOWN


def test_a_look_is_dated_when_it_started() -> None:
    """Its answer may be written much later."""
    at_hand = view(rows(paying(1)), started=at(7), now=at(LATE))
    (row,) = judged(at_hand, Absent()).evidence
    assert (row.at, row.answer, row.fingerprint) == (at(7), Finding.ABSENT, ACCOUNT)


def test_a_failed_word_waits_while_another_call_may_arrive() -> None:
    """Two calls under one reference: a look after the last one's life decides."""
    history = rows(paying(1, answer=Answer.UNKNOWN), paying(2, 5, answer=Answer.UNKNOWN))
    early = judged(view(history), told(failing()))
    assert early.state is State.UNKNOWN
    assert early.reports[ITEM].sub_status is SubStatus.OUTCOME_UNKNOWN
    late = judged(view(history, now=at(LATE + 5)), told(failing()))
    assert late.reports[ITEM].sub_status is SubStatus.FAILED


def test_a_failed_word_that_can_never_count_is_for_a_person() -> None:
    """Requests that never die, two under one reference: no look ever decides."""
    never: dict[str, Any] = {"call_life": None}
    history = rows(
        paying(1, answer=Answer.UNKNOWN, **never), paying(2, 5, answer=Answer.ACCEPTED, **never)
    )
    at_hand = view(history, state=State.ACCEPTED, now=at(2 * LATE), looks=LOOKS_ALERT)
    decision = judged(at_hand, told(failing()))
    assert [code for code, _ in decision.alerts] == [Attention.UNRESOLVED]


def test_the_word_about_a_second_call_ends_a_payout_whose_first_call_was_ruled_out() -> None:
    """The first reference never arrived, and that was proven before the second one was used."""
    history = rows(
        paying(1, answer=Answer.UNKNOWN),
        look(2, LATE),
        paying(3, LATE, answer=Answer.UNKNOWN, reference="second"),
    )
    at_hand = view(history, now=at(LATE + 5))
    decision = judged(at_hand, told(failing(reference="second")))
    failure = decision.reports[ITEM].failure
    assert failure is not None
    assert failure.funds_moved is FundsMoved.NO


def test_nothing_ends_while_the_database_may_be_an_old_copy() -> None:
    """The copy knows one call; the word that it failed may hide a second one that is on its way."""
    at_hand = view(rows(paying(1, answer=Answer.UNKNOWN)), frozen=True)
    decision = judged(at_hand, told(failing()))
    assert decision.reports[ITEM].sub_status is SubStatus.OUTCOME_UNKNOWN
    added, report = news_from_outside(at_hand, ITEM, failing(), Source.WEBHOOK)
    assert ([each.kind for each in added], report) == ([Kind.WORD], None)
    refused = replace(at_hand, history=rows(paying(1)), verb=Verb.SUBMIT, call=1)
    assert judged(refused, Rejected("invalid_destination")).state is State.UNKNOWN
    assert judged(at_hand, told(failing(reopens=True))).reopens is False


def test_a_strangers_transfer_is_for_a_person() -> None:
    """It is no outcome; it blocks every mark."""
    at_hand = view(rows(paying(1)), foreign=frozenset({ITEM}))
    decision = judged(at_hand, told(Report(SubStatus.DELIVERED, "done")))
    assert decision.state is State.UNKNOWN
    assert ITEM not in decision.reports
    assert decision.blocked == Attention.FOREIGN_REF
    assert [code for code, _ in decision.alerts] == [Attention.FOREIGN_REF]
    assert news_from_outside(at_hand, ITEM, Report(SubStatus.DELIVERED, ""), Source.WEBHOOK) == (
        (),
        None,
    )


def test_a_mark_without_an_outcome_is_unknown_for_its_new_owner() -> None:
    """The process that set it may have sent the call."""
    decision = takeover(view(rows(paying(1)), state=State.MOVING))
    assert decision.state is State.UNKNOWN
    assert decision.reports[ITEM].sub_status is SubStatus.OUTCOME_UNKNOWN


def test_the_answer_of_another_account_goes_to_a_person() -> None:
    """The instance was pointed at another account: absence there is never proof."""
    at_hand = view(rows(paying(1)), fingerprint=OTHER_ACCOUNT, now=at(2 * LATE))
    decision = judged(at_hand, Absent())
    assert decision.state is State.UNKNOWN
    assert [code for code, _ in decision.alerts] == [Attention.SAME_ACCOUNT]


def test_a_word_in_a_reply_is_held_back_like_any_other() -> None:
    """A reply that says "failed" to the second call says nothing of the first."""
    history = rows(paying(1, answer=Answer.UNKNOWN), paying(2, 5))
    at_hand = view(history, state=State.MOVING, verb=Verb.SUBMIT, call=2)
    decision = judged(at_hand, told(failing()))
    assert decision.reports[ITEM].sub_status is SubStatus.OUTCOME_UNKNOWN
    assert decision.state is State.UNKNOWN


def test_a_late_webhook_of_the_first_call_ends_nothing_while_the_second_may_arrive() -> None:
    """Call 1 refused late, call 2 out, webhook "call 1 failed": it only brings the next look forward."""
    history = rows(paying(1, answer=Answer.UNKNOWN), paying(2, 5))
    added, report = news_from_outside(view(history), ITEM, failing(), Source.WEBHOOK)
    assert [each.kind for each in added] == [Kind.WORD]
    assert report is None


def test_a_webhook_that_names_nothing_may_be_about_an_earlier_execution() -> None:
    """The first session was refused; its webhook comes late, when the second session is paying."""
    earlier = Other(rows(paying(1, answer=Answer.ACCEPTED), word(2)), (ITEM,))
    at_hand = view(rows(paying(1)), others=(earlier,))
    unnamed = failing(reference=None)
    assert news_from_outside(at_hand, ITEM, unnamed, Source.WEBHOOK) == ((), None)
    # A look asks by the references of this execution, and alone there is no other one to be meant.
    assert judged(at_hand, told(unnamed)).reports[ITEM].sub_status is SubStatus.FAILED
    alone = replace(at_hand, others=())
    _, said = news_from_outside(alone, ITEM, unnamed, Source.WEBHOOK)
    assert said is not None
    assert said.sub_status is SubStatus.FAILED


def test_news_is_kept_once_for_each_reference() -> None:
    """News of one reference does not hide that of another one."""
    history = rows(paying(1), news(2, reference="ref"))
    at_hand = view(history)
    again = judged(at_hand, told(Report(SubStatus.SUBMITTED, "", reference="ref")))
    assert [each.kind for each in again.evidence] == [Kind.LOOK]
    other = judged(at_hand, told(Report(SubStatus.SUBMITTED, "", reference="second")))
    assert [each.kind for each in other.evidence] == [Kind.LOOK, Kind.NEWS]


def test_a_claim_is_weakened_where_another_execution_may_pay() -> None:
    """A payout is published as "not paid" only where every execution of the payout is closed."""
    at_hand = view(rows(paying(1)), others=(Other(rows(paying(1)), (ITEM,)),))
    failure = judged(at_hand, told(failing())).reports[ITEM].failure
    assert failure is not None
    assert failure.funds_moved is FundsMoved.UNKNOWN


def test_a_recorded_word_is_closed_by_what_the_custodian_says() -> None:
    """The word of a webhook closes the only call of its reference."""
    assert closed(rows(paying(1), word(2)), ITEM)
