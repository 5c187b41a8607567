"""A refusal at the custodian's door: of a first call it is believed, of a repeat it proves nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.adapter import (
    CredentialsRefused,
    Misconfigured,
    OutcomeUnknown,
    Rate,
    RateLimited,
    TurnedAway,
)
from gateway.execution.alerts import FAILURES_ALERT, MAX_UNKNOWN
from gateway.execution.decide import decide
from gateway.execution.proof import Answer, calls
from gateway.execution.state import State, Verb
from gateway.model import Attention
from tests.execution.rows import rows
from tests.execution.test_decide import PLAIN, paying, view

DOORS = {
    Attention.CUSTODIAN_MISCONFIGURED: Misconfigured("HTTP 404", again_after_s=30),
    Attention.CREDENTIALS_REFUSED: CredentialsRefused("HTTP 401"),
}
SURE = replace(PLAIN, rate=Rate(10, refusal_proves_unsent=True))


@pytest.mark.parametrize("code", DOORS)
def test_before_the_mark_it_is_not_sent_and_an_operator_hears_of_it_at_once(
    code: Attention,
) -> None:
    """Nothing was sent; it is tried again, later and later, and never ends as refused."""
    decided = decide(view(rows(), state=State.PREPARED, verb=Verb.SUBMIT, failures=3), DOORS[code])
    assert decided.state is State.PREPARED
    assert [each for each, _ in decided.alerts] == [code]
    assert (decided.failures, bool(decided.delay_s)) == (4, True)


@pytest.mark.parametrize("code", DOORS)
def test_the_first_moving_call_is_believed(code: Attention) -> None:
    """The custodian's own documented error about the only call: nothing was sent."""
    marked = rows(paying(1))
    decided = decide(view(marked, state=State.MOVING, verb=Verb.SUBMIT, call=1), DOORS[code])
    assert decided.state is State.PREPARED
    assert [each.answer for each in decided.evidence] == [Answer.NOT_SENT]
    assert [each for each, _ in decided.alerts] == [code]


@pytest.mark.parametrize("door", [*DOORS.values(), RateLimited("HTTP 429"), TurnedAway("HTTP 403")])
def test_of_a_repeat_it_proves_nothing(door: TurnedAway) -> None:
    """The outcome stays unknown, and the call may have arrived, whatever the adapter made of it."""
    repeated = rows(paying(1, answer=Answer.UNKNOWN), paying(2, 5))
    can = replace(SURE, keys=replace(SURE.keys, repeat_is_safe=True))
    decided = decide(
        view(repeated, state=State.MOVING, verb=Verb.SUBMIT, call=2, capabilities=can), door
    )
    assert decided.state is State.UNKNOWN
    assert [each.answer for each in decided.evidence] == [Answer.TURNED_AWAY]


def test_a_rate_proves_nothing_unless_the_adapter_declares_it() -> None:
    """Of a first call a 429 is believed only where the custodian's documents say so."""
    marked = rows(paying(1))
    for can, state in ((PLAIN, State.UNKNOWN), (SURE, State.PREPARED)):
        decided = decide(
            view(marked, state=State.MOVING, verb=Verb.SUBMIT, call=1, capabilities=can),
            RateLimited("HTTP 429"),
        )
        assert decided.state is state


def test_a_rate_uses_up_no_allowance_of_moving_calls() -> None:
    """Any number of repeats answered 429 leaves room; as many of unknown outcome do not."""
    first = paying(1, answer=Answer.UNKNOWN)
    for answer, stuck in ((Answer.TURNED_AWAY, False), (Answer.UNKNOWN, True)):
        more = (paying(number, answer=answer) for number in range(2, MAX_UNKNOWN + 2))
        history = rows(first, *more)
        call = paying(MAX_UNKNOWN + 2)
        outcome = RateLimited("HTTP 429") if not stuck else OutcomeUnknown("lost")
        decided = decide(
            view(history.having(call), state=State.MOVING, verb=Verb.SUBMIT, call=MAX_UNKNOWN + 2),
            outcome,
        )
        assert (Attention.UNRESOLVED in dict(decided.alerts)) is stuck
        assert len(calls(history.having(*decided.evidence))) == MAX_UNKNOWN + 2


@pytest.mark.parametrize("verb", [Verb.SUBMIT, Verb.FETCH])
def test_a_rate_is_no_failure_of_the_payout(verb: Verb) -> None:
    """However often the custodian says "too many", the payout is on nobody's list."""
    state = State.PREPARED if verb is Verb.SUBMIT else State.ACCEPTED
    decided = decide(
        view(rows(), state=state, verb=verb, failures=FAILURES_ALERT - 1), RateLimited("HTTP 429")
    )
    assert (decided.alerts, decided.failures) == ((), FAILURES_ALERT - 1)


def test_an_answer_of_a_person_is_kept_apart_from_our_credentials() -> None:
    """At a confirm the payout asks as before, and the operator hears of the credentials."""
    decided = decide(
        view(rows(paying(1)), state=State.MOVING, verb=Verb.CONFIRM, call=1),
        CredentialsRefused("HTTP 401"),
    )
    assert decided.state is State.PARKED
    assert [each for each, _ in decided.alerts] == [Attention.CREDENTIALS_REFUSED]
