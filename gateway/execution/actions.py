"""What people do to a payout in progress: they answer what it asks for, or cancel it.

The process that received the request does it, under the execution's lease and by the engine's own
rules. A person's answer is never stored: it is handed to the adapter and forgotten.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from typing import Any

from gateway.adapter import BatchReport, Capabilities, FundsMoved, Report, SubStatus
from gateway.errors import (
    AdapterError,
    LeaseLost,
    NotSent,
    Refused,
    TurnedAway,
    UnreadableAnswer,
    Unsupported,
    WrongAnswer,
)
from gateway.execution.decide import Outcome, microseconds
from gateway.execution.engine import Engine, wakes
from gateway.execution.gate import MarkRefused, Refusal, may_reopen
from gateway.execution.history import history_of, others_of
from gateway.execution.proof import calls, closed
from gateway.execution.record import Recorded, Recorder
from gateway.execution.reports import NEWS, canceled_report
from gateway.execution.state import Job, State, Verb
from gateway.logs import get_logger
from gateway.metrics import Metrics
from gateway.model import Payout
from gateway.pausing import refuse_if_paused, subject_of
from gateway.payout_change import Applied
from gateway.payouts import Payouts
from gateway.runtime import Failpoint, Runtime
from gateway.store import executions
from gateway.store.database import Database, Tx
from gateway.store.pauses import payout_with_pauses
from gateway.store.rows import payout_of, to_us
from gateway.store.state import frozen

#: An action waits for a look in progress, but never for a call that may move money.
_WAITS_S = (0.1, 0.2, 0.4, 0.8)
_AGAIN_S = 5
#: The reason for not canceling a payout whose custodian is not configured here.
NOT_CONFIGURED = (
    "The custodian {} is not configured at this gateway, and it may know of this payout. The gateway's "
    "operator has to configure it again, or end the payout with `payouts resolve`."
)
#: A store function that writes an act and its result to the audit log.
Note = Callable[[Tx, str], Awaitable[None]]
_log = get_logger("actions")


class Actions:
    """Confirm and cancel, for the payouts of every custodian instance of this process."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        *,
        db: Database,
        runtime: Runtime,
        engines: Mapping[str, Engine],
        owner: str,
        lease_s: float,
        payouts: Payouts,
        metrics: Metrics,
        wake: Callable[[str], None],
        configured: Container[str] = (),
    ) -> None:
        """`configured` names all custodians of the configuration, including those whose adapter did not load."""
        self._configured = configured
        self._db = db
        self._runtime = runtime
        self._engines = engines
        self._payouts = payouts
        self._metrics = metrics
        self._wake = wake
        self._owner = owner
        self._lease = microseconds(lease_s) or 0

    async def confirm(
        self,
        payout: Payout,
        action: int,
        answer: Mapping[str, Any],
        filled: Sequence[str] = (),
        *,
        note: Note | None = None,
    ) -> None:
        """Answer action number `action` of a payout. Of two answers at the same time, one is carried out.

        `filled` names what the gateway put into the answer itself; that is remembered, and the answer
        is not. `note` is a store function that writes who answers; it is committed before the custodian
        hears of it. It returns once the outcome is written, whatever it is. Refused:
        `action_not_required`, `action_expired`, `confirm_in_progress`, `wrong_answer`,
        `invalid_request`, `confirm_not_sent`, `paused`; `custodian_removed` where no custodian of this
        name is configured.
        """
        engine = self._engines.get(payout.custodian)
        if engine is None:
            await self._db.read(self._asks, payout.id, action)
            raise self._unreachable(payout.custodian)
        job = await self._begin_confirm(engine, payout, action, note)
        order = engine.order(job)
        started = self._runtime.clock.moment()
        outcome: Outcome
        async with engine.keeping(job):
            try:
                if filled:
                    await order.remember(filled_by_gateway=list(filled))
                outcome = await engine.custodian.confirm(order, answer)
            except LeaseLost:
                raise _busy("confirm_in_progress") from None
            except Exception as error:  # noqa: BLE001 - every outcome is recorded, none escapes
                outcome = error
            self._runtime.failpoint(Failpoint.SUBMITTED)
            recorded = await engine.record(job, Verb.CONFIRM, outcome, order=order, started=started)
        self._runtime.failpoint(Failpoint.SETTLED)
        engine.wakeup.ring()
        _answer_for(outcome, recorded, moved_now=order.moved_now)

    async def cancel(self, payout: Payout, *, note: Note | None = None) -> None:
        """Cancel a payout, as far as what was already started allows it. Returns once the result is written.

        `note` writes who cancels. It is committed with the end of the payout, or before the custodian
        is asked.

        If nothing that was sent can pay the payout, it ends here, and a custodian that knows it is
        asked to cancel it. Otherwise only the custodian can cancel it: Refused `cancel_unsupported`,
        `cancel_too_late`, `payout_busy`, `database_frozen`. A custodian that is not configured cannot
        be asked, so a payout that it may know of is refused with `cancel_unsupported`.
        """
        engine = self._engines.get(payout.custodian)
        if engine is None:
            ended = await self._db.run(self._cancel_unknown_there, payout, note)
            for name in wakes([ended], self._metrics):
                self._wake(name)
            return
        job = await self._begin_cancel(engine, payout)
        async with engine.keeping(job):
            certain = job.state in {State.PREPARED, State.PARKED} and closed(job.history, payout.id)
            if not certain:
                await self._cancel_there(engine, job, note)
            else:
                await self._cancel_quietly(engine, job)
                try:
                    applied = await self._db.run(self._cancel_here, engine, job, note)
                except Refused:
                    await self._give_back(job)
                    raise
                if applied is None:
                    raise _busy("payout_busy")
                engine.announce(Recorded((applied,), ended=True))
        engine.wakeup.ring()

    def _unreachable(self, custodian: str) -> Refused:
        """Return why an answer cannot be handed to a custodian: only an operator can change that."""
        if custodian in self._configured:
            detail = (
                f"The adapter of {custodian} is not loaded; nothing was sent. Answer again later."
            )
            return Refused("confirm_not_sent", detail, headers={"Retry-After": "60"})
        detail = (
            f"The custodian {custodian} is not configured at this gateway any more; nothing was sent. The "
            "payout waits for the gateway's operator."
        )
        return Refused("custodian_removed", detail)

    async def _claim(self, engine: Engine, payout_id: str, code: str) -> Job:
        """Lease a payout's execution, waiting briefly for a look in progress. Refused with `code`: busy."""
        for wait_s in (*_WAITS_S, None):
            begun = await self._db.run(self._claim_now, engine, payout_id)
            if isinstance(begun, Job):
                return begun
            if isinstance(begun, Recorded):
                await engine.tell(begun)
            if wait_s is not None:
                await self._runtime.clock.sleep(wait_s)
        raise _busy(code)

    async def _claim_now(self, tx: Tx, engine: Engine, payout_id: str) -> Job | Recorded | None:
        execution = await executions.open_execution_of(tx, payout_id)
        if execution is None or execution["custodian"] != engine.custodian.name:
            # The payout has moved to another custodian since it was read.
            return None
        now = self._runtime.timeline.now()
        row = await executions.claim_one(tx, execution["id"], self._owner, now, now + self._lease)
        return None if row is None else (await engine.recorder.begin(tx, [row], sends=False))[0]

    async def _begin_confirm(
        self, engine: Engine, payout: Payout, action: int, note: Note | None
    ) -> Job:
        """Return the job of a payout that asks for this action; if it does not, give the lease back."""
        await self._db.read(self._asks, payout.id, action)
        job = await self._claim(engine, payout.id, "confirm_in_progress")
        try:
            await self._db.read(self._asks, payout.id, action)
            if job.state is not State.PARKED:
                raise _busy("confirm_in_progress")
            if note is not None:
                await self._db.run(note, f"action {action} was answered")
        except (Refused, sqlite3.Error):
            await self._give_back(job)
            raise
        return job

    async def _asks(self, tx: Tx, payout_id: str, action: int) -> None:
        """Refuse if the payout does not ask for this action now. Store function."""
        row = await payout_with_pauses(tx, payout_id)
        payout = None if row is None else payout_of(row)
        asked = payout.requires_action if payout is not None else None
        if (
            row is None
            or payout is None
            or asked is None
            or not asked.open
            or asked.number != action
            or payout.sub_status is not SubStatus.REQUIRES_ACTION
        ):
            raise _not_asked()
        if to_us(asked.expires_at) <= self._runtime.clock.moment().wall:
            detail = "The time to answer is over; the payout fails, nothing was sent."
            raise Refused("action_expired", detail)
        if row["pauses"]:
            await refuse_if_paused(tx, subject_of(payout), accepting=False)

    async def _begin_cancel(self, engine: Engine, payout: Payout) -> Job:
        open_one = await self._db.read(executions.open_execution_of, payout.id)
        if open_one is None:
            raise _too_late("it has ended")
        await self._db.read(_not_frozen)
        return await self._claim(engine, payout.id, "payout_busy")

    async def _cancel_there(self, engine: Engine, job: Job, note: Note | None) -> None:
        """Ask the custodian to cancel; its answer is recorded like any other report."""
        if note is not None:
            # Write the note before the call: the call cannot be in a transaction, and a crash must not
            # hide who asked.
            await self._db.run(note, "the custodian was asked to cancel")
        order = engine.order(job)
        started = self._runtime.clock.moment()
        try:
            outcome = await engine.custodian.cancel(order)
        except AdapterError as error:
            await self._give_back(job)
            if isinstance(error, Unsupported):
                detail = "It is in progress, and this custodian cannot call it back."
                raise Refused("cancel_unsupported", detail) from None
            raise _too_late(f"the custodian did not cancel it ({error})") from None
        await engine.record(job, Verb.CANCEL, outcome, order=order, started=started)

    async def _cancel_quietly(self, engine: Engine, job: Job) -> None:
        """Withdraw what was prepared at the custodian. Nothing was sent, whether it succeeds or not.

        Refused if the custodian answers that money is on its way, because another process has released
        it there. That answer is recorded as news.
        """
        if not job.notes:
            return
        order = engine.order(job)
        started = self._runtime.clock.moment()
        try:
            outcome = await engine.custodian.cancel(order)
        except AdapterError as error:
            _log.info("cancel_not_told", payout_id=job.items[0].id, detail=type(error).__name__)
            return
        if any(_may_have_moved(each) for each in outcome.items.values()):
            await engine.record(job, Verb.CANCEL, outcome, order=order, started=started)
            raise _too_late("the custodian says that money moved, or may have moved")

    async def _cancel_here(
        self, tx: Tx, engine: Engine, job: Job, note: Note | None
    ) -> Applied | None:
        """End a payout for which nothing was sent. Store function. None: the lease is lost.

        It checks again that nothing was sent, because news may have come in meanwhile. Refused if it
        has.
        """
        row = await executions.held(tx, job.lease.execution_id, job.lease.token)
        if row is None:
            return None
        await _not_frozen(tx)
        payout_id, now = job.items[0].id, self._runtime.clock.moment()
        history = await history_of(tx, row, now)
        others = await others_of(tx, row["id"], [payout_id], now) if row["earlier"] else ()
        if not may_reopen(history, payout_id, others):
            raise _too_late("a payment of it may be on its way")
        if note is not None:
            await note(tx, "nothing was sent; it ended as canceled")
        return await engine.recorder.end(tx, row, payout_id, canceled_report())

    async def _cancel_unknown_there(self, tx: Tx, payout: Payout, note: Note | None) -> Applied:
        """End a payout that was never given to its custodian, which is not configured here. Store function.

        The payout has no mark, and nothing was prepared at the custodian, so nobody has to be asked;
        otherwise it is refused. The lease is claimed in the same transaction, so that a worker of
        another process cannot set a mark any more.
        """
        found = await executions.open_execution_of(tx, payout.id)
        if found is None:
            raise _too_late("it has ended")
        if found["custodian"] != payout.custodian:
            # It has gone on at another custodian since it was read.
            raise _busy("payout_busy")
        await _not_frozen(tx)
        now, timeline = self._runtime.clock.moment(), self._runtime.timeline.now()
        row = await executions.claim_one(
            tx, found["id"], self._owner, timeline, timeline + self._lease
        )
        if row is None:
            raise _busy("payout_busy")
        history = await history_of(tx, row, now)
        others = await others_of(tx, row["id"], [payout.id], now) if row["earlier"] else ()
        known_there = State(row["state"]) is not State.PREPARED or json.loads(row["notes"])
        if known_there or calls(history) or not may_reopen(history, payout.id, others):
            raise Refused("cancel_unsupported", NOT_CONFIGURED.format(payout.custodian))
        if note is not None:
            await note(tx, "nothing was sent; it ended as canceled")
        # Its capabilities are unknown, so the cautious defaults apply.
        can = Capabilities(frozenset())
        recorder = Recorder(self._runtime, self._payouts, payout.custodian, can)
        return await recorder.end(tx, row, payout.id, canceled_report())

    async def _give_back(self, job: Job) -> None:
        lease, now = job.lease, self._runtime.timeline.now()
        await self._db.run(
            executions.release, lease.execution_id, lease.token, lease.claimed_due, now
        )


def _may_have_moved(report: Report) -> bool:
    """Whether the answer to a cancel says that money is on its way, came back, or has an unknown outcome."""
    claim = report.failure
    return (
        report.sub_status in {*NEWS, SubStatus.OUTCOME_UNKNOWN}
        or bool(report.returned)
        or (claim is not None and claim.funds_moved is not FundsMoved.NO)
    )


def _answer_for(outcome: Outcome, recorded: Recorded, *, moved_now: bool) -> None:
    """Raise what the person must be told; return if the payout itself shows it."""
    if recorded.lost:
        raise _busy("confirm_in_progress")
    if isinstance(outcome, WrongAnswer):
        left = outcome.attempts_left
        again = "Ask for a new one." if left == 0 else "Try again."
        raise Refused("wrong_answer", f"The answer is wrong. {again}", attempts_left=left)
    if isinstance(outcome, UnreadableAnswer):
        faults = [
            {"pointer": "/" + each.replace(".", "/"), "code": "invalid", "detail": "is not usable"}
            for each in outcome.fields
        ]
        raise Refused(
            "invalid_request", "The answer is not valid; errors lists what to fix.", errors=faults
        )
    if isinstance(outcome, Unsupported):
        raise _not_asked()
    doubtful = recorded.decision is not None and recorded.decision.state is State.UNKNOWN
    if isinstance(outcome, TurnedAway) and moved_now and doubtful:
        # This refusal proves nothing about the call: the payout shows that its outcome is unknown.
        return
    if isinstance(outcome, MarkRefused) and outcome.refusal is Refusal.PAUSED:
        detail = "It was paused meanwhile; nothing was sent. Answer again once it is resumed."
        raise Refused("paused", detail, headers={"Retry-After": "60"})
    failed = not isinstance(outcome, BatchReport) and not moved_now
    if isinstance(outcome, NotSent) or failed:
        detail = "The custodian could not be reached; nothing was sent. Answer again in a moment."
        raise Refused("confirm_not_sent", detail, headers={"Retry-After": str(_AGAIN_S)})


async def _not_frozen(tx: Tx) -> None:
    """Refuse if the database may be an old copy. Store function."""
    if await frozen(tx) is not None:
        raise Refused(
            "database_frozen",
            "The database may be an old copy; nothing is canceled until an operator has adopted it.",
        )


def _not_asked() -> Refused:
    return Refused("action_not_required", "The payout does not ask for this (any more).")


def _too_late(why: str) -> Refused:
    return Refused("cancel_too_late", f"The payout cannot be canceled now: {why}.")


def _busy(code: str) -> Refused:
    words = {
        "confirm_in_progress": "An answer to this action is being carried out.",
        "payout_busy": "A worker is handling the payout right now.",
    }
    return Refused(code, words[code], headers={"Retry-After": "1"})
