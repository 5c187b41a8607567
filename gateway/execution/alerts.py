"""The alerts about an execution that does not come to an end by itself. Pure."""

from __future__ import annotations

from gateway.adapter import (
    Absent,
    BatchReport,
    NotListed,
    NotSent,
    RateLimited,
    Rejected,
    WrongAnswer,
)
from gateway.errors import AdapterFault
from gateway.execution.gate import MarkRefused, Refusal
from gateway.execution.proof import (
    Answer,
    History,
    at_account,
    call_can_die,
    calls,
    life_of,
    open_calls,
    passed,
    waited,
)
from gateway.execution.state import View
from gateway.model import Attention

#: After this number of calls with an unknown outcome, a person decides about the next one.
MAX_UNKNOWN = 4
#: The operator is alerted after this number of failed requests in a row.
FAILURES_ALERT = 5
#: The operator is alerted after this number of looks in a row that do not find an accepted payout.
LOOKS_ALERT = 10
#: Refusals of a mark that do not count as failures of the payout.
_NOT_ITS_OWN = frozenset({Refusal.FUNDS, Refusal.PAUSED, Refusal.RULES})
#: Alert codes, each with its line for the operator.
Alerts = tuple[tuple[Attention, str], ...]


def failures_after(view: View, outcome: object) -> int:
    """Return how many requests failed in a row. Rate limits, pauses and inactive rules do not count."""
    held = isinstance(outcome, MarkRefused) and outcome.refusal in _NOT_ITS_OWN
    return view.failures + (not isinstance(outcome, RateLimited) and not held)


def is_answer(outcome: object) -> bool:
    """Whether the custodian has answered what it was asked, so that earlier failures are over.

    Not if it turned the request away, or if nobody knows what became of it.
    """
    return isinstance(outcome, BatchReport | Absent | NotListed | Rejected | WrongAnswer)


def failure_alerts(outcome: object, failures: int, reason: str) -> Alerts:
    """Return the alerts about a call that did nothing, after `failures` failed requests in a row."""
    if isinstance(outcome, AdapterFault):
        return fault_alerts(outcome)
    alert = outcome.alert if isinstance(outcome, NotSent) else None
    if alert is not None:
        return ((Attention(alert), reason),)
    if failures < FAILURES_ALERT or isinstance(outcome, RateLimited):
        return ()
    ours = isinstance(outcome, MarkRefused)
    return ((Attention.UNRESOLVED if ours else Attention.CUSTODIAN_UNREACHABLE, reason),)


def fault_alerts(outcome: object) -> Alerts:
    """Return the alerts about an adapter that broke the contract; other outcomes have none."""
    if not isinstance(outcome, AdapterFault):
        return ()
    return ((Attention.ADAPTER_ERROR, str(outcome)),)


def key_alerts(view: View, outcome: object, history: History) -> Alerts:
    """Return the alert that half of a key's life is over and no look has shown what happened to its call.

    A person still has time to settle it by a harmless repeat. The wall clock counts as well: it only
    triggers an alert here, and a late alert is worse than an early one.
    """
    unknown = open_calls(history)
    lives = [each.key_life for each in unknown if each.key_life is not None]
    found = isinstance(outcome, Absent | NotListed) and view.capabilities.keys.look_up
    if not lives or found or isinstance(outcome, BatchReport):
        return ()
    first = unknown[0]
    since = max(view.now.wall - first.at.wall, passed(history, first, view.now))
    if since < min(lives) / 2:
        return ()
    detail = "half of its key's lifetime has passed, and no look-up shows what happened to the call"
    return ((Attention.KEY_LIFE, detail),)


def stuck(view: View, word: str, *, blind: bool) -> Alerts:
    """Return the alerts for an unknown outcome that looks alone do not settle."""
    if asked_elsewhere(view):
        detail = "a call was made at another account than the one that is asked now"
        return ((Attention.SAME_ACCOUNT, detail),)
    if blind:
        return ((Attention.CANNOT_LOOK, word),)
    alerts = unknown_alerts(view.history)
    if alerts:
        return alerts
    if not all(call_can_die(each) for each in open_calls(view.history)):
        detail = f"absence cannot be proven here; last word: {word or 'none'}"
        return ((Attention.UNRESOLVED, detail),)
    if in_vain(view, view.history):
        detail = f"no look proves what became of the last call; last word: {word or 'none'}"
        return ((Attention.UNRESOLVED, detail),)
    return ()


def asked_elsewhere(view: View) -> bool:
    """Whether a call that may have arrived was made at another account than the one asked now."""
    return not all(
        at_account(view.history, each, view.fingerprint) for each in open_calls(view.history)
    )


def in_vain(view: View, history: History) -> bool:
    """Whether looks were late enough and frequent enough to prove absence, and still did not prove it.

    The custodian knows the order, or another account is asked. A person has to look as well.
    """
    return view.looks >= LOOKS_ALERT and all(
        waited(history, each, view.now) >= life_of(each) for each in open_calls(history)
    )


def unknown_alerts(history: History) -> Alerts:
    """Return the alert that too many calls may have arrived: a person decides about the next one."""
    unknown = [each for each in calls(history) if each.answer in {None, Answer.UNKNOWN}]
    if len(unknown) < MAX_UNKNOWN:
        return ()
    return ((Attention.UNRESOLVED, f"{len(unknown)} calls of unknown outcome"),)
