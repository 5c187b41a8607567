"""What an outcome leads to. Pure and total: it covers every outcome in every state, for one payout or many.

This is the only place that turns a custodian's answer, or its absence, into the next state of an
execution, the news of its items, the rows of evidence and the time of the next look. `interpret` reads
what a report says, `proof` decides what the rows prove; the gate decides, at the mark, whether money may move again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gateway.adapter import (
    Absent,
    BatchReport,
    CannotLook,
    Capabilities,
    NotListed,
    Report,
    SubStatus,
)
from gateway.errors import NotSent, RateLimited, Rejected, TurnedAway, WrongAnswer
from gateway.execution.alerts import (
    LOOKS_ALERT,
    MAX_UNKNOWN,
    asked_elsewhere,
    failure_alerts,
    failures_after,
    fault_alerts,
    in_vain,
    is_answer,
    key_alerts,
    stuck,
    unknown_alerts,
)
from gateway.execution.claims import covers_calls, unmarked, without_unmarked
from gateway.execution.gate import key_is_alive, with_same_credentials
from gateway.execution.interpret import (
    REFERENCE_OF_ANOTHER,
    date_of,
    fits_order,
    interpret,
    is_ours,
    knows_every_call,
    others_closed,
)
from gateway.execution.proof import (
    NO_ACCOUNT,
    OWN_WORD,
    Answer,
    Evidence,
    Finding,
    History,
    Kind,
    Source,
    call_can_die,
    calls,
    closed,
    has_news,
    is_adopted,
    life_of,
    open_calls,
    waited,
)
from gateway.execution.reports import (
    ADOPTED_ABSENT,
    ADOPTED_BLIND,
    again_after_s,
    asks,
    expired_report,
    failed,
    not_sent_report,
    only_asks,
    rejected_report,
    unknown_report,
)
from gateway.execution.state import Decision, State, Verb, View
from gateway.model import Attention

Outcome = BatchReport | Absent | NotListed | CannotLook | Exception

_NOT_KNOWN = frozenset({None, SubStatus.OUTCOME_UNKNOWN})
_SECOND = 1_000_000


def decide(view: View, outcome: Outcome) -> Decision:
    """Return what an outcome leads to."""
    foreign = False
    if isinstance(outcome, BatchReport):
        ours = {item: each for item, each in outcome.items.items() if is_ours(view, item)}
        foreign = len(ours) < len(outcome.items)
        if foreign:
            outcome = replace(outcome, items=ours)
    looks = view.verb in {Verb.FETCH, Verb.CANCEL}
    decision = _looked(view, outcome) if looks else _called(view, outcome)
    if not decision.failures and not is_answer(outcome):
        # What failed before may still fail: a call of unknown outcome has reached nobody for certain.
        decision = replace(decision, failures=view.failures)
    history = view.history.having(*decision.evidence)
    unknown = decision.state in {State.UNKNOWN, State.PREPARED} and not _all_closed(view, history)
    if unknown and not decision.alerts:
        # No alert has told the operator about it yet.
        decision = replace(decision, alerts=key_alerts(view, outcome, history))
    if isinstance(outcome, BatchReport):
        decision = without_unmarked(view, decision, unmarked(view, outcome.items))
    if not foreign:
        return decision
    alerts = (*decision.alerts, (Attention.FOREIGN_REF, REFERENCE_OF_ANOTHER))
    return replace(decision, alerts=alerts, blocked=Attention.FOREIGN_REF.value)


def takeover(view: View) -> Decision:
    """Return what a mark without an outcome means for its new owner: an unknown outcome."""
    reason = "the worker stopped while the call was in progress"
    reports = {each.id: unknown_report(reason) for each in view.open_items}
    return Decision(State.UNKNOWN, 0.0, reports=reports, reason=reason, failures=view.failures)


def expiry(view: View) -> Decision | None:
    """Return the end of a payout whose action nobody answered in time; None if it must not end yet.

    Only a payout that is certainly unpaid expires: a confirm that may have arrived is looked up first.
    """
    late = [each for each in view.open_items if each.unanswered]
    waits = view.state in {State.PARKED, State.UNKNOWN}
    if not waits or not late or not _may_end(view, view.history):
        return None
    reports = {each.id: expired_report() for each in late}
    why = "not answered in time"
    return Decision(State.CLOSED, 0.0, reports=reports, reason=why, failures=view.failures)


# --- Calls that may move money --------------------------------------------------------------------


def _called(view: View, outcome: Outcome) -> Decision:
    """Decide about a `submit` or a `confirm`."""
    rows = _answered(view, outcome)
    history = view.history.having(*rows)
    if isinstance(outcome, BatchReport):
        return _reported(view, history, rows, outcome)
    reason = _reason(outcome)
    if isinstance(outcome, Rejected) and _may_end(view, history):
        reports = {each.id: rejected_report(outcome) for each in view.open_items}
        return Decision(
            State.CLOSED, 0.0, evidence=rows, reports=reports, reason=f"rejected: {outcome}"
        )
    answers = view.verb is Verb.CONFIRM
    if answers and isinstance(outcome, WrongAnswer) and _all_closed(view, history):
        locked = outcome.attempts_left == 0
        state = State.PREPARED if locked else State.PARKED
        return Decision(state, 0.0, evidence=rows, reason=reason)
    arrived = view.call is not None and not isinstance(outcome, NotSent)
    if arrived:
        decision = _unknown(view, history, rows, reason)
        return replace(decision, alerts=(*decision.alerts, *fault_alerts(outcome)))
    if not _all_closed(view, history):
        # This call did nothing; an earlier call with an unknown outcome remains unknown.
        failures = failures_after(view, outcome)
        decision = _unknown(view, history, rows, reason)
        return replace(
            decision,
            delay_s=max(_wish(outcome), _curve(view, view.failures)),
            alerts=(*decision.alerts, *failure_alerts(outcome, failures, reason)),
            failures=failures,
        )
    return _nothing_sent(view, rows, outcome, reason)


def _unknown(view: View, history: History, rows: tuple[Evidence, ...], reason: str) -> Decision:
    """Return the decision for a call that may have arrived, this one or an earlier one: look it up next."""
    return Decision(
        State.UNKNOWN,
        _curve(view, 0),
        evidence=rows,
        reports={each.id: unknown_report(reason) for each in view.open_items},
        alerts=unknown_alerts(history),
        repeat_is_safe=view.repeat_is_safe,
        reason=reason,
    )


def _wish(outcome: Outcome) -> float:
    """Return after how many seconds the custodian wants to be asked again."""
    return (outcome.again_after_s or 0.0) if isinstance(outcome, NotSent) else 0.0


def _answered(view: View, outcome: Outcome) -> tuple[Evidence, ...]:
    """Return the row of the call that was made, with its answer."""
    call = next((each for each in calls(view.history) if each.number == view.call), None)
    if call is None:
        return ()
    answer = Answer.UNKNOWN
    if isinstance(outcome, BatchReport):
        answer = Answer.ACCEPTED
    elif not sent_once(call):
        answer = Answer.UNKNOWN
    elif isinstance(outcome, WrongAnswer):
        answer = Answer.WRONG_ANSWER
    elif isinstance(outcome, TurnedAway) and not speaks_for_call(view, call, outcome):
        answer = Answer.TURNED_AWAY
    elif isinstance(outcome, NotSent):
        answer = Answer.NOT_SENT
    elif isinstance(outcome, Rejected) and is_first_call(view.history, call):
        answer = Answer.REJECTED
    return (replace(call, answer=answer),)


def sent_once(call: Evidence) -> bool:
    """Whether a call was sent once, so that the adapter's statement covers all of it.

    If the same bytes are sent again, the answer is about the second request: "not sent" or "already
    used" says nothing about the first. Without this rule a payout is ended as "not paid", and is paid.
    """
    return call.answer is None


def is_first_call(history: History, call: Evidence) -> bool:
    """Whether nothing that may have arrived was sent before, so that a refusal is about this call.

    "Already used", 409 or 422 on a repeat mean that the first call may have arrived.
    """
    return all(each.answer in OWN_WORD for each in calls(history) if each.number < call.number)


def speaks_for_call(view: View, call: Evidence, outcome: TurnedAway) -> bool:
    """Whether a refusal at the door proves that the call did nothing: it is the first moving call.

    A rate limit proves it only if the custodian's documentation says so. Without this rule a repeat
    that arrived, and was answered with 429 or 404 on its way, is discarded, and the refusal of the
    first call ends the payout as "not paid".
    """
    rate = view.capabilities.rate
    proves = rate is not None and rate.refusal_proves_unsent
    return is_first_call(view.history, call) and (proves or not isinstance(outcome, RateLimited))


def _nothing_sent(
    view: View, rows: tuple[Evidence, ...], outcome: Outcome, reason: str
) -> Decision:
    """Decide about a call that did nothing: it is retried at growing intervals."""
    failures = failures_after(view, outcome)
    if view.verb is Verb.CONFIRM:
        # The payout still asks for the same action, so the person may answer again at once.
        alerts = failure_alerts(outcome, 0, reason)
        return Decision(
            State.PARKED,
            _curve(view, 0),
            evidence=rows,
            reason=reason,
            alerts=alerts,
            failures=failures,
        )
    reports = {each.id: not_sent_report() for each in view.open_items}
    return Decision(
        State.ACCEPTED if has_news(view.history) else State.PREPARED,
        max(_wish(outcome), _curve(view, view.failures)),
        evidence=rows,
        reports=reports,
        alerts=failure_alerts(outcome, failures, reason),
        failures=failures,
        repeat_is_safe=view.repeat_is_safe,
        reason=reason,
    )


def _reported(
    view: View, history: History, answered: tuple[Evidence, ...], told: BatchReport
) -> Decision:
    """Decide about a report that a call returned."""
    rows, reports, held = interpret(view, history, told.items, Source.REPLY)
    history = history.having(*rows)
    if _reopens(view, history, told):
        return _another((*answered, *rows), reports)
    again = again_after_s(told)
    waits = asks(told)
    if not _all_closed(view, history):
        state = State.UNKNOWN if waits or held else State.ACCEPTED
        delay = _curve(view, 0)
    elif again is not None and not waits and not has_news(history):
        state, delay = State.PREPARED, again
    else:
        state, delay = State.PARKED, _curve(view, len(view.capabilities.polling_s))
    return Decision(
        state,
        delay,
        evidence=(*answered, *rows),
        reports=reports,
        repeat_is_safe=view.repeat_is_safe,
        reason=told.custodian_word,
        releases_account=state is State.PARKED,
    )


# --- Looks ----------------------------------------------------------------------------------------


def _looked(view: View, outcome: Outcome) -> Decision:
    """Decide about a `fetch`, or a `cancel` that the custodian was asked for."""
    look = _look_row(view, outcome)
    history = view.history.having(look)
    if isinstance(outcome, BatchReport):
        return _found(view, history, look, outcome)
    if isinstance(outcome, NotListed) and look.answer == Finding.BLIND:
        word = "the searched list begins after a call that may have arrived"
        return _not_found(view, history, look, word, safe=view.repeat_is_safe)
    if isinstance(outcome, Absent | NotListed):
        return _not_found(view, history, look, outcome.custodian_word, safe=view.repeat_is_safe)
    if isinstance(outcome, CannotLook):
        said = outcome.repeat_is_safe
        safe = view.repeat_is_safe if said is None else said
        decision = _not_found(view, history, look, outcome.reason, safe=safe)
        if said is False and decision.state is State.ACCEPTED:
            # Neither a look nor a repeat can settle it, so a person has to look.
            return replace(decision, alerts=((Attention.CANNOT_LOOK, outcome.reason),))
        return decision
    return _look_failed(view, look, outcome)


def _look_row(view: View, outcome: Outcome) -> Evidence:
    findings: tuple[tuple[type, Finding], ...] = (
        (BatchReport, Finding.PRESENT),
        (Absent, Finding.ABSENT),
        (NotListed, Finding.NOT_LISTED),
        (CannotLook, Finding.BLIND),
    )
    finding = next((each for kind, each in findings if isinstance(outcome, kind)), Finding.FAILED)
    if isinstance(outcome, BatchReport) and only_asks(outcome):
        finding = Finding.ASKS
    if isinstance(outcome, NotListed) and not covers_calls(view, outcome):
        finding = Finding.BLIND
    return Evidence(
        number=view.history.last_number + 1,
        kind=Kind.LOOK,
        seen=view.seen,
        at=date_of(view),
        fingerprint=view.fingerprint,
        answer=finding,
    )


def _found(view: View, history: History, look: Evidence, told: BatchReport) -> Decision:
    """Decide about a look that found something."""
    source = Source.LOOK if view.verb is Verb.FETCH else Source.REPLY
    rows, reports, held = interpret(view, history, told.items, source)
    history = history.having(*rows)
    if _reopens(view, history, told):
        return _another((look, *rows), reports)
    known = any(each.sub_status not in _NOT_KNOWN for each in told.items.values())
    state = view.state
    delay = _curve(view, view.looks)
    if asks(told) and _all_closed(view, history):
        state = State.PARKED
    elif state in {State.PREPARED, State.UNKNOWN, State.MOVING}:
        state = State.ACCEPTED if known and not held and not asks(told) else State.UNKNOWN
    if held:
        # An earlier call may still arrive, so the look after its life has ended decides.
        delay = min(delay, _until_late(view, history) or delay)
    expired = expiry(replace(view, state=state, history=history)) if asks(told) else None
    if expired is not None:
        return replace(expired, evidence=(look, *rows), failures=0)
    alerts: tuple[tuple[Attention, str], ...] = ()
    if (held or state is State.UNKNOWN) and in_vain(view, history):
        detail = f"no look proves what became of the last call; last word: {told.custodian_word}"
        alerts = ((Attention.UNRESOLVED, detail),)
    return Decision(
        state,
        delay,
        evidence=(look, *rows),
        reports=reports,
        alerts=alerts,
        looks=view.looks + 1,
        repeat_is_safe=view.repeat_is_safe,
        reason=told.custodian_word or None,
    )


def _not_found(
    view: View, history: History, look: Evidence, word: str, *, safe: bool | None
) -> Decision:
    """Decide about a look that found nothing, or had no id to look up by."""
    blind = look.answer == Finding.BLIND
    # Without an id the custodian was not asked, so the failure count is unchanged.
    failures = view.failures if blind else 0
    after = replace(
        view, history=history, looks=view.looks + 1, failures=failures, repeat_is_safe=safe
    )
    expired = expiry(after)
    if expired is not None:
        return replace(expired, evidence=(look,))
    decision = Decision(
        view.state,
        _curve(view, view.looks),
        evidence=(look,),
        looks=view.looks + 1,
        failures=failures,
        repeat_is_safe=safe,
        reason=word or None,
    )
    seen = view.state is State.ACCEPTED or has_news(history)
    if seen and view.looks >= LOOKS_ALERT:
        detail = f"the custodian had it and does not show it now; last word: {word or 'none'}"
        return replace(decision, alerts=((Attention.UNRESOLVED, detail),))
    if view.state not in {State.UNKNOWN, State.MOVING}:
        return decision
    return _perhaps_again(after, decision, word, blind=blind)


def _perhaps_again(view: View, decision: Decision, word: str, *, blind: bool) -> Decision:
    """Have an execution with an unknown outcome submitted again, if that can be allowed.

    The gate decides at the mark. A submission after proof is due at once, because the proof already
    took its time. Harmless repeats are made at growing intervals, so that they never flood a custodian.
    """
    if has_news(view.history):
        # Our transfer was seen, so this execution follows it and never sends it again.
        return replace(decision, state=State.ACCEPTED)
    unknown = [each for each in calls(view.history) if each.answer in {None, Answer.UNKNOWN}]
    # After an adoption no mark is set any more: the payout may have ended after the copy was taken.
    adopted = is_adopted(view.history)
    if not adopted and _all_closed(view, view.history) and len(unknown) < MAX_UNKNOWN:
        return replace(decision, state=State.PREPARED, delay_s=0.0)
    if not adopted and _may_repeat(view):
        if _key_alive(view):
            return replace(
                decision,
                state=State.PREPARED,
                delay_s=_curve(view, max(len(calls(view.history)) - 1, view.failures)),
                alerts=unknown_alerts(view.history),
            )
        detail = f"the key of the first call may be forgotten by now; last word: {word or 'none'}"
        alert = ((Attention.KEY_LIFE, detail),)
        return replace(decision, state=State.UNKNOWN, alerts=alert)
    alerts = (_adopted_alerts if adopted else stuck)(view, word, blind=blind)
    soon = _until_late(view, view.history)
    delay = decision.delay_s if soon is None or blind else min(decision.delay_s, soon)
    return replace(decision, state=State.UNKNOWN, delay_s=delay, alerts=alerts)


def _adopted_alerts(view: View, word: str, *, blind: bool) -> tuple[tuple[Attention, str], ...]:
    """Return the alerts about an execution that a look after an adoption did not find."""
    unknown = open_calls(view.history)
    if blind or any(each.fingerprint == NO_ACCOUNT for each in unknown):
        return ((Attention.ADOPTED, ADOPTED_BLIND),)
    if asked_elsewhere(view):
        return stuck(view, word, blind=False)
    if _all_closed(view, view.history) or _until_late(view, view.history) is None:
        return ((Attention.ADOPTED, ADOPTED_ABSENT),)
    return ()


def _look_failed(view: View, look: Evidence, error: Outcome) -> Decision:
    """Decide about a look that failed: the observer failed, not the payout."""
    failures = failures_after(view, error)
    return Decision(
        State.UNKNOWN if view.state is State.MOVING else view.state,
        max(_wish(error), _curve(view, failures)),
        evidence=(look,),
        alerts=failure_alerts(error, failures, _reason(error)),
        looks=view.looks,
        failures=failures,
        repeat_is_safe=view.repeat_is_safe,
    )


# --- Orders that are retried in another execution ------------------------------------------------


def _reopens(view: View, history: History, told: BatchReport) -> bool:
    """Whether a new execution may retry the order, because it was refused late and is certainly unpaid."""
    reports = [told.items.get(each.id) for each in view.open_items]
    return (
        knows_every_call(view)
        and bool(reports)
        and all(
            report is not None
            and report.reopens
            and failed(report)
            and fits_order(report)
            and closed(history, item.id)
            and others_closed(view.others, item.id)
            for report, item in zip(reports, view.open_items, strict=True)
        )
    )


def _another(rows: tuple[Evidence, ...], reports: Mapping[str, Report]) -> Decision:
    """Return the decision to close an execution whose order is retried; its items do not change yet."""
    words = "; ".join(sorted({each.custodian_word for each in reports.values()}))
    return Decision(State.CLOSED, 0.0, evidence=rows, reason=words or None, reopens=True)


# --- Small rules ----------------------------------------------------------------------------------


def _all_closed(view: View, history: History) -> bool:
    """Whether certainly neither this execution nor another one pays any of its open items."""
    return all(
        closed(history, each.id) and others_closed(view.others, each.id) for each in view.open_items
    )


def _may_end(view: View, history: History) -> bool:
    """Whether the open items may be ended as not paid."""
    return knows_every_call(view) and _all_closed(view, history)


def _may_repeat(view: View) -> bool:
    safe = view.repeat_is_safe
    declared = view.capabilities.keys.repeat_is_safe
    references = {each.reference for each in open_calls(view.history)}
    allowed = (declared if safe is None else safe) and not has_news(view.history)
    return allowed and len(references) == 1 and _keys_reach(view)


def _keys_reach(view: View) -> bool:
    """Whether the custodian would recognise a repeat as the same request as every call that may have arrived."""
    if view.capabilities.keys.shared_by_credentials:
        return not asked_elsewhere(view)
    return not asked_elsewhere(view) and all(
        with_same_credentials(each, view.fingerprint) for each in open_calls(view.history)
    )


def _key_alive(view: View) -> bool:
    """Whether the key of what may have arrived is certainly still known at the custodian."""
    last = open_calls(view.history)[-1]
    life = microseconds(view.capabilities.keys.life_s)
    return key_is_alive(view.history, last.reference, life, last.call_life, view.now)


def _until_late(view: View, history: History) -> float | None:
    """Return the seconds until a look can prove absence; None if no look ever can."""
    unknown = open_calls(history)
    if not unknown or not all(call_can_die(each) for each in unknown):
        return None
    left = max(life_of(each) - waited(history, each, view.now) for each in unknown)
    if left > 0:
        return left / _SECOND
    # The wait is over, but absence must be seen more than once: use the shortest delay.
    return None if in_vain(view, history) else view.capabilities.polling_s[0]


def _reason(error: object) -> str:
    return f"{type(error).__name__}: {error}"


def _curve(view: View, count: int) -> float:
    return polling_delay_s(view.capabilities, count) * view.jitter


def polling_delay_s(capabilities: Capabilities, count: int) -> float:
    """Return the delay before look `count` (from 0); the last delay of the curve repeats."""
    curve = capabilities.polling_s
    return curve[min(count, len(curve) - 1)]


def microseconds(seconds: float | None) -> int | None:
    """Return a duration in microseconds; None stays None."""
    return None if seconds is None else round(seconds * _SECOND)
