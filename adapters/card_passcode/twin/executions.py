"""Executions of the card-passcode twin. Each is accepted immediately and only once, then the clock runs it.

Source: card-passcode protocol notes, §5 (execution), §6 (status), §10 (reference_id).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any

from adapters.card_passcode.twin.requests import Execute, Forbidden, refuse
from adapters.card_passcode.twin.sessions import Session, SessionBook
from adapters.card_passcode.twin.world import (
    PASSCODE_LATE,
    SHORT_OF_MONEY,
    WALLETS,
    CardPasscodeSettings,
    Course,
    Leg,
    course_of,
    payer_amount,
)
from adapters.twin.clock import TwinClock
from adapters.twin.ledger import Ledger

_NO_ACCESS = "Passcode verification failed"


@dataclass
class Execution:
    """One payout execution."""

    reference_id: str
    content: dict[str, Any]
    session: Session
    course: Course
    payer_amount: Decimal
    held: bool = False
    #: Its states over time, so that an old one can be shown again.
    looks: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def enter(self, leg: Leg, now: float, form: str) -> None:
        """Enter the next status."""
        payee = self.session.amount - self.course.short_by
        # The types are mixed, because the provider's schema leaves the type open and does not say that
        # it stays the same.
        as_text = form == "text" or (form == "mixed" and len(self.looks) % 2 == 0)
        digest = hashlib.sha256(self.reference_id.encode()).hexdigest()
        look = {
            "reference_id": self.reference_id,
            "status": leg.status,
            "payer_amount": _written(self.payer_amount, as_text=as_text),
            "payer_currency": self.session.currency,
            "payee_amount": _written(payee, as_text=form == "text"),
            "payee_currency": self.session.currency,
            "operation_type": self.course.operation_type,
            "provider_transaction_id": f"MP{digest[:10].upper()}" if leg.transaction else None,
            "gateway_message": leg.gateway_message,
            "wallet_message": leg.wallet_message,
            "client_secret": f"pi_{digest[:16]}_secret_{digest[16:32]}"
            if leg.requires_action
            else None,
            "requires_action": leg.requires_action,
        }
        self.looks.append((now, look))

    def look(self, at: float | None = None) -> dict[str, Any]:
        """Return its state, now or at a time; the first one if it did not exist yet."""
        known = [
            look
            for when, look in self.looks
            if at is None or when <= at or look is self.looks[0][1]
        ]
        return copy.deepcopy(known[-1])

    @property
    def began(self) -> float:
        """Return when it was accepted."""
        return self.looks[0][0]


def _written(amount: Decimal, *, as_text: bool) -> str | float:
    return f"{amount:.2f}" if as_text else float(amount)


class ExecutionBook:
    """Every execution, by reference."""

    def __init__(self, clock: TwinClock, ledger: Ledger, sessions: SessionBook) -> None:
        self._clock = clock
        self._ledger = ledger
        self._sessions = sessions
        self.settings = CardPasscodeSettings()
        self.clear()

    def clear(self) -> None:
        """Forget everything; the clock's timers must be forgotten with it."""
        self.executions: dict[str, Execution] = {}
        self._burnt: set[str] = set()

    def burn(self, reference_id: str) -> None:
        """Use up a reference without an execution."""
        self._burnt.add(reference_id)

    def execute(self, wanted: Execute, fail_later: Callable[[], Course | None]) -> Execution:
        """Accept an execution in one step, once per reference and once per session.

        Raises Unprocessable or Forbidden if nothing was accepted.
        """
        known = self.executions.get(wanted.reference_id)
        if known is not None:
            return self._repeated(known, wanted)
        if wanted.reference_id in self._burnt:
            raise refuse("reference_id", "reference_id already exists", "value_error.duplicate")
        session = self._sessions.find(wanted.session_id)
        if wanted.payout_account_id != str(session.account.id):
            raise refuse("payout_account_id", "payout account does not belong to the session")
        if not session.account.active:
            raise refuse("payout_account_id", "payout account is not active")
        self._sessions.check_owner(wanted.passcode.token)
        course = course_of(session.amount)
        if not self._sessions.passcode_fits(session, wanted.passcode.token):
            trouble = self.settings.passcode_trouble
            if trouble == "422":
                raise refuse("passcode", _NO_ACCESS)
            if trouble == "403":
                raise Forbidden(_NO_ACCESS)
            # After a late refusal the session stays open, as after the other two.
            return self._start(wanted, session, PASSCODE_LATE)
        session.status = "consumed"
        return self._start(wanted, session, fail_later() or course)

    def _repeated(self, known: Execution, wanted: Execute) -> Execution:
        if known.content != wanted.content() or self.settings.repeat == "reference":
            raise refuse("reference_id", "reference_id already exists", "value_error.duplicate")
        if self.settings.repeat == "session":
            raise refuse("session_id", "session is consumed")
        return known

    def _start(self, wanted: Execute, session: Session, course: Course) -> Execution:
        execution = Execution(
            wanted.reference_id,
            wanted.content(),
            session,
            course,
            payer_amount(session.amount, self.settings.fee_percent),
        )
        self.executions[execution.reference_id] = execution
        self._enter(execution, 0)
        return execution

    def _enter(self, execution: Execution, number: int) -> None:
        legs = execution.course.legs
        leg, last = legs[number], number + 1 == len(legs)
        wallet, currency = self._wallet(execution), execution.session.currency
        if number == 1 and not last:
            if self._ledger.free(wallet, currency) < execution.payer_amount:
                execution.enter(SHORT_OF_MONEY, self._clock.now(), self.settings.amount_form)
                return
            self._ledger.hold(wallet, currency, execution.payer_amount)
            execution.held = True
        if last:
            self._settle(execution, leg)
        execution.enter(leg, self._clock.now(), self.settings.amount_form)
        if not last:
            wait = self.settings.step_s if leg.wait_s is None else leg.wait_s
            self._clock.call_later(wait, partial(self._enter, execution, number + 1))

    def _settle(self, execution: Execution, leg: Leg) -> None:
        wallet, session = self._wallet(execution), execution.session
        if leg.status == "COMPLETED":
            self._ledger.move(
                execution.reference_id,
                wallet,
                str(session.account.id),
                session.currency,
                f"{session.amount:f}",
            )
        elif execution.held:
            self._ledger.give_back(wallet, session.currency, execution.payer_amount)

    @staticmethod
    def _wallet(execution: Execution) -> str:
        return str(WALLETS[execution.session.currency])
