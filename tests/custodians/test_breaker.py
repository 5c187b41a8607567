"""The circuit breaker: what opens it, what closes it, and what it holds up."""

from __future__ import annotations

import pytest

from gateway.adapter import Account
from gateway.custodians.breaker import Breaker, BreakerState
from gateway.custodians.contact import Contact
from gateway.errors import CustodianDown
from tests.clock import SetClock

ACCOUNT = Account(id="A", type="VAULT")


def opened(clock: SetClock) -> Breaker:
    """Return a breaker that three faults have opened, for ten seconds."""
    breaker = Breaker(clock, faults=3, open_s=10)
    for _ in range(3):
        breaker.fault("unreachable")
    return breaker


def state(breaker: Breaker) -> BreakerState:
    """Return the state at this moment."""
    return breaker.state


def test_only_faults_in_a_row_open_it() -> None:
    """A refusal is an answer, whatever it says."""
    breaker = Breaker(SetClock(), faults=3, open_s=10)
    contact = Contact(breaker)
    for status in (500, 503, 400, 502, 502, 404, 500, 504, 429, 500, 500, 401):
        contact.answered(status)
        assert state(breaker) is BreakerState.CLOSED
    contact.answered(500)
    contact.unreachable()
    assert breaker.word is None
    breaker.allow_mark()
    contact.answered(599)
    assert state(breaker) is BreakerState.OPEN
    assert breaker.word == "the custodian does not answer (failing)"


async def test_while_it_is_open_nothing_is_marked() -> None:
    """Until its time is over and a read was answered; a fault then doubles the time."""
    clock = SetClock()
    breaker = opened(clock)
    with pytest.raises(CustodianDown) as refused:
        breaker.allow_mark()
    assert refused.value.again_after_s == 10
    # What was asked before it opened says nothing.
    breaker.answered()
    assert state(breaker) is BreakerState.OPEN
    await clock.advance(10)
    assert state(breaker) is BreakerState.HALF_OPEN
    with pytest.raises(CustodianDown):
        breaker.allow_mark()
    breaker.fault("failing")
    assert breaker.wait_s() == 20
    await clock.advance(20)
    breaker.answered()
    assert state(breaker) is BreakerState.CLOSED
    breaker.allow_mark()


async def test_the_time_has_an_end() -> None:
    """Five minutes: a custodian that is back is noticed."""
    clock = SetClock()
    breaker = opened(clock)
    for wanted in (20, 40, 80, 160, 300, 300):
        await clock.advance(breaker.wait_s() or 0)
        breaker.fault("unreachable")
        assert breaker.wait_s() == wanted


async def test_where_nothing_can_be_asked_it_closes_on_trial() -> None:
    """One more fault opens it again."""
    clock = SetClock()
    breaker = opened(clock)
    breaker.nothing_to_ask()
    assert state(breaker) is BreakerState.OPEN
    await clock.advance(10)
    breaker.nothing_to_ask()
    assert state(breaker) is BreakerState.CLOSED
    breaker.fault("failing")
    assert state(breaker) is BreakerState.OPEN


async def test_who_watches_hears_of_each_change() -> None:
    """Opened, opened again, closed; nothing between."""
    clock = SetClock()
    breaker = Breaker(clock, faults=2, open_s=10)
    heard: list[BreakerState] = []
    breaker.changed = lambda: heard.append(breaker.state)
    breaker.answered()
    breaker.fault("failing")
    breaker.answered()
    assert heard == []
    breaker.fault("failing")
    breaker.fault("failing")
    breaker.fault("failing")
    await clock.advance(10)
    breaker.fault("failing")
    await clock.advance(20)
    breaker.answered()
    assert heard == [BreakerState.OPEN, BreakerState.OPEN, BreakerState.CLOSED]
