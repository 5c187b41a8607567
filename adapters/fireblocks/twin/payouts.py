"""Payouts of the Fireblocks twin. Each is registered, executed once, and then run by the clock.

Source: fireblocks protocol notes, sections 3, 4 and 10. One executed payout per payment account
runs at a time, others wait in the order of their execution and still show `REQUESTED`.
"""

from __future__ import annotations

import uuid
from collections import defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

from adapters.fireblocks.twin.records import Instruction, Payout, Transaction
from adapters.fireblocks.twin.requests import BadRequest, CreatePayout, check_references
from adapters.fireblocks.twin.world import FireblocksSettings, Leg
from adapters.twin.clock import TwinClock
from adapters.twin.ledger import Ledger

_FAILED_INSTRUCTIONS = frozenset({"FAILED", "TRANSLATION_ERROR"})


class PayoutBook:
    """Every payout and transaction of the workspace; `tell` gets each transaction event."""

    def __init__(
        self, clock: TwinClock, ledger: Ledger, tell: Callable[[str, dict[str, Any]], None]
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._tell = tell
        self.settings = FireblocksSettings()
        self.clear()

    def clear(self) -> None:
        """Forget everything; the clock's timers must be forgotten with it."""
        self.payouts: dict[str, Payout] = {}
        self.transactions: dict[str, Transaction] = {}
        self._running: dict[str, Payout] = {}
        self._queued: dict[str, deque[Payout]] = defaultdict(deque)

    def create(self, wanted: CreatePayout) -> Payout:
        """Register a payout, which moves nothing. Raises BadRequest for names that are not in the workspace."""
        if self.settings.validate_at == "create":
            check_references(wanted)
        instructions = [
            Instruction(
                id=str(uuid.uuid4())
                if self.settings.server_instruction_ids or asked.id is None
                else asked.id,
                payee_id=asked.payee_account.id,
                payee_type=asked.payee_account.type,
                amount_text=asked.amount.amount,
                asset=asked.amount.asset_id,
            )
            for asked in wanted.instruction_set
        ]
        if self.settings.reorder_instructions:
            instructions.reverse()
        payout = Payout(str(uuid.uuid4()), wanted, int(self._clock.now()), instructions)
        self.payouts[payout.id] = payout
        payout.show(self._clock.now())
        return payout

    def execute(self, payout_id: str, fail_with: Callable[[], str | None]) -> None:
        """Start a payout, once; `fail_with` may name a `reasonOfFailure` that it will meet."""
        payout = self.payouts.get(payout_id)
        if payout is None:
            raise BadRequest("payout was not found")
        if payout.executed:
            if self.settings.second_execute == "refused":
                raise BadRequest("payout was already executed")
            return
        if self.settings.validate_at == "execute":
            check_references(payout.wanted)
        account = payout.source_id
        if account in self._running and self.settings.locked_source == "refused":
            raise BadRequest("payment account has an active payout")
        payout.executed = True
        payout.reason_ahead = fail_with()
        if account in self._running:
            self._queued[account].append(payout)
        else:
            self._begin(payout)

    def funded(self, account: str, asset: str) -> None:
        """Check again the payout that waits for this account's funds."""
        payout = self._running.get(account)
        if payout is None or payout.state != "INSUFFICIENT_BALANCE":
            return
        for instruction in payout.instructions:
            if instruction.asset == asset:
                instruction.short = False
        self._later(partial(self._fund, payout))

    def _later(self, call: Callable[[], None], seconds: float | None = None) -> None:
        self._clock.call_later(self.settings.step_s if seconds is None else seconds, call)

    def _set(self, payout: Payout, state: str, reason: str | None = None) -> None:
        payout.state, payout.reason = state, reason
        payout.show(self._clock.now())

    def _begin(self, payout: Payout) -> None:
        self._running[payout.source_id] = payout
        self._later(partial(self._translate, payout))

    def _end(self, payout: Payout, state: str, reason: str | None = None) -> None:
        self._set(payout, state, reason)
        del self._running[payout.source_id]
        if self._queued[payout.source_id]:
            self._begin(self._queued[payout.source_id].popleft())

    def _translate(self, payout: Payout) -> None:
        reason = payout.reason_ahead
        try:
            check_references(payout.wanted)
        except BadRequest as problem:
            reason = problem.reason
        if reason is not None:
            self._end(payout, "FAILED", reason)
            return
        self._set(payout, "TRANSLATED")
        self._later(partial(self._fund, payout))

    def _fund(self, payout: Payout) -> None:
        if payout.state not in ("TRANSLATED", "INSUFFICIENT_BALANCE"):
            return  # the account was funded twice in a row, or midnight came first
        needed: dict[str, Decimal] = defaultdict(Decimal)
        for instruction in payout.instructions:
            needed[instruction.asset] += instruction.amount
        # The account pays the whole set or nothing.
        enough = all(
            self._ledger.free(payout.source_id, asset) >= sum_ for asset, sum_ in needed.items()
        )
        if enough and not any(instruction.short for instruction in payout.instructions):
            for asset, sum_ in needed.items():
                self._ledger.hold(payout.source_id, asset, sum_)
            self._set(payout, "PROCESSING")
            self._later(partial(self._submit, payout))
        elif payout.state != "INSUFFICIENT_BALANCE":
            self._set(payout, "INSUFFICIENT_BALANCE")
            self._clock.call_at(self._clock.next_midnight(), partial(self._give_up, payout))

    def _give_up(self, payout: Payout) -> None:
        if payout.state == "INSUFFICIENT_BALANCE":
            self._end(payout, "FAILED", "INSUFFICIENT_BALANCE")

    def _submit(self, payout: Payout) -> None:
        payout.state = "SUBMITTED"
        for instruction in payout.instructions:
            if instruction.course.ends_as is not None:
                instruction.state = instruction.course.ends_as
                self._ledger.give_back(payout.source_id, instruction.asset, instruction.amount)
            else:
                transaction = Transaction(payout, instruction, self._clock.now())
                instruction.transactions.append(transaction)
                self.transactions[transaction.id] = transaction
                self._enter(transaction, 0)
        payout.show(self._clock.now())
        self._later(partial(self._finish_if_done, payout))

    def _enter(self, transaction: Transaction, number: int) -> None:
        payout, instruction = transaction.payout, transaction.instruction
        legs = instruction.course.legs
        leg, last = legs[number], number + 1 == len(legs)
        transaction.enter(leg, self._clock.now())
        if not last:
            instruction.state = leg.instruction
            self._later(partial(self._enter, transaction, number + 1), leg.wait_s)
        else:
            self._settle(transaction, leg)
            # The instruction is a step behind its transaction, so that clients cannot confuse the two.
            self._later(partial(self._finish_instruction, payout, instruction, leg))
        payout.show(self._clock.now())
        event = "transaction.created" if number == 0 else "transaction.status.updated"
        self._tell(event, transaction.event_data())

    def _settle(self, transaction: Transaction, leg: Leg) -> None:
        payout, instruction = transaction.payout, transaction.instruction
        if leg.status == "COMPLETED":
            self._ledger.move(
                f"{payout.id}/{instruction.id}",
                payout.source_id,
                instruction.payee_id,
                instruction.asset,
                instruction.amount_text,
            )
        else:
            self._ledger.give_back(payout.source_id, instruction.asset, instruction.amount)

    def _finish_instruction(self, payout: Payout, instruction: Instruction, leg: Leg) -> None:
        instruction.state = leg.instruction
        payout.show(self._clock.now())
        self._later(partial(self._finish_if_done, payout))

    def _finish_if_done(self, payout: Payout) -> None:
        if payout.state != "SUBMITTED" or not all(i.done for i in payout.instructions):
            return
        failed = [i for i in payout.instructions if i.state in _FAILED_INSTRUCTIONS]
        if failed:
            self._end(payout, "FAILED", failed[0].course.reason)
        else:
            self._end(payout, "FINALIZED")
