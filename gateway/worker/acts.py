"""What people do to a payout under way: answer what it asks for, or cancel it.

In the process that received it, under the payout's lease, by the engine's own rules. Nothing that a
person answered is kept: it is handed to the adapter and forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from gateway.adapter import Failure, FailureCode, FundsMoved, Report, SubStatus
from gateway.errors import (
    AdapterError,
    LeaseLost,
    NotSent,
    Refused,
    UnreadableAnswer,
    Unsupported,
    WrongAnswer,
)
from gateway.logs import get_logger
from gateway.model import Payout
from gateway.payouts import Payouts
from gateway.recovery import Attempt, AttemptState, taken_over
from gateway.runtime import Failpoint, Runtime
from gateway.store import payouts as payout_rows
from gateway.store import work
from gateway.store.database import Database, Tx
from gateway.store.rows import to_us
from gateway.worker.engine import Engine
from gateway.worker.order import Lease
from gateway.worker.says import attempt_of, unanswered
from gateway.worker.settle import Job, Settled

#: A look that is under way is waited for; a call that moves is not.
_WAITS_S = (0.1, 0.2, 0.4, 0.8)
_AGAIN_S = 5
_log = get_logger("acts")


class Acts:
    """Confirm and cancel, for the payouts of every custodian instance of this process."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        *,
        db: Database,
        runtime: Runtime,
        payouts: Payouts,
        engines: Mapping[str, Engine],
        owner: str,
        lease_s: float,
    ) -> None:
        self._db = db
        self._runtime = runtime
        self._payouts = payouts
        self._engines = engines
        self._owner = owner
        self._lease = timedelta(seconds=lease_s)

    async def confirm(
        self, payout: Payout, action: int, answer: Mapping[str, Any], filled: Sequence[str] = ()
    ) -> None:
        """Answer action number `action` of a payout. Two at once: one is carried out.

        `filled` names what the gateway put into the answer itself; it is remembered, the answer is
        not. Returns once the outcome is written, whatever it is. Refused: `action_not_required`,
        `action_expired`, `confirm_in_progress`, `wrong_answer`, `invalid_request`,
        `confirm_not_sent`.
        """
        engine = self._engines[payout.custodian]
        lease = await self._take(payout.id, "confirm_in_progress")
        job = await self._db.run(self._begin_confirm, engine, lease, action)
        if isinstance(job, Refused):
            raise job
        order = engine.order(job)
        outcome: Report | Exception
        async with engine.keeping(lease):
            try:
                if filled:
                    await order.remember(filled_by_gateway=list(filled))
                outcome = await engine.custodian.confirm(order, answer)
            except LeaseLost:
                raise _busy("confirm_in_progress") from None
            except Exception as error:  # noqa: BLE001 - every outcome is settled, none escapes
                outcome = error
            self._runtime.failpoint(Failpoint.SUBMITTED)
            settled = await self._db.run(
                engine.settlement.confirmed, job, moved_now=order.moved_now, outcome=outcome
            )
        self._runtime.failpoint(Failpoint.SETTLED)
        engine.tell(payout.id, settled)
        engine.wakeup.ring()
        _answer_for(outcome, settled, moved_now=order.moved_now)

    async def cancel(self, payout: Payout) -> None:
        """Cancel a payout, decided by what it has started. Returns once it is written.

        Nothing moving: it ends here, and the custodian is told where it knows of it. Otherwise only
        the custodian can: Refused `cancel_unsupported`, `cancel_too_late`, `payout_busy`.
        """
        engine = self._engines[payout.custodian]
        lease = await self._take(payout.id, "payout_busy")
        job = await self._db.run(self._begin_cancel, lease)
        if job is None:
            raise _too_late("it has ended")
        async with engine.keeping(lease):
            moved = job.attempt.moves > 0 or job.attempt.ever_unknown
            if job.attempt.state not in {AttemptState.PREPARED, AttemptState.PARKED} or moved:
                settled = await self._cancel_there(engine, job)
            else:
                await self._cancel_quietly(engine, job)
                settled = await self._db.run(self._cancel_here, job)
        engine.tell(payout.id, settled)
        engine.wakeup.ring()

    async def _take(self, payout_id: str, code: str) -> Lease:
        """Lease a payout, waiting a little for whoever looks at it just now."""
        for wait_s in (*_WAITS_S, None):
            now = self._runtime.clock.now()
            row = await self._db.run(
                work.claim_one, payout_id, self._owner, to_us(now), to_us(now + self._lease)
            )
            if row is not None:
                return Lease(row["payout_id"], row["lease_token"], row["due_at"])
            if wait_s is not None:
                await self._runtime.clock.sleep(wait_s)
        raise _busy(code)

    async def _begin_confirm(
        self, tx: Tx, engine: Engine, lease: Lease, action: int
    ) -> Job | Refused:
        """Store function: the job, or why nothing can be answered; the lease is given back then."""
        now = self._runtime.clock.now()
        payout = await payout_rows.find_payout(tx, lease.payout_id)
        asked = payout.requires_action if payout is not None else None
        refused: Refused | None = None
        if (
            payout is None
            or asked is None
            or not asked.open
            or asked.number != action
            or payout.sub_status is not SubStatus.REQUIRES_ACTION
        ):
            refused = _not_asked()
        elif unanswered(payout, now):
            refused = Refused(
                "action_expired", "The time to answer is over; the payout fails, nothing was sent."
            )
        job = None if refused else await engine.settlement.begin(tx, lease)
        if isinstance(job, Job) and job.attempt.state is AttemptState.PARKED:
            return job
        if not isinstance(job, Settled):
            await work.release_work(tx, lease.payout_id, lease.token, lease.claimed_due, to_us(now))
        return refused or _busy("confirm_in_progress")

    async def _begin_cancel(self, tx: Tx, lease: Lease) -> Job | None:
        """Store function: the job, without taking a turn or changing anything."""
        payout = await payout_rows.find_payout(tx, lease.payout_id)
        if payout is None or payout.final:
            return None
        row = await work.last_attempt(tx, payout.id)
        if row is None:
            return Job(lease, payout, Attempt(1, AttemptState.PREPARED), {})
        attempt = taken_over(attempt_of(row), self._runtime.clock.now())
        return Job(lease, payout, attempt, json.loads(row["notes"]))

    async def _cancel_there(self, engine: Engine, job: Job) -> Settled:
        """Ask the custodian; what it says is news as any other."""
        try:
            report = await engine.custodian.cancel(engine.order(job))
        except AdapterError as error:
            await self._db.run(self._give_back, job)
            if isinstance(error, Unsupported):
                detail = "It is under way, and this custodian cannot call it back."
                raise Refused("cancel_unsupported", detail) from None
            raise _too_late(f"the custodian did not cancel it ({error})") from None
        return await self._db.run(engine.settlement.fetched, job, report)

    async def _cancel_quietly(self, engine: Engine, job: Job) -> None:
        """Tell the custodian of what was prepared there. Nothing has moved, whatever it answers."""
        if not job.notes:
            return
        try:
            await engine.custodian.cancel(engine.order(job))
        except AdapterError as error:
            _log.info("cancel_not_told", payout_id=job.payout.id, detail=type(error).__name__)

    async def _cancel_here(self, tx: Tx, job: Job) -> Settled:
        """Store function: end a payout of which nothing has moved."""
        if not await work.holds_lease(tx, job.lease.payout_id, job.lease.token):
            return Settled(None)
        failure = Failure(
            code=FailureCode.CANCELED,
            message="Canceled before anything was sent.",
            funds_moved=FundsMoved.NO,
        )
        report = Report(SubStatus.CANCELED, "", failure=failure, detail=failure.message)
        applied = await self._payouts.apply(tx, job.payout.id, report)
        now = to_us(self._runtime.clock.now())
        await work.update_attempt(
            tx, job.payout.id, job.attempt.number, state=AttemptState.ENDED, ended_at=now
        )
        return Settled(applied)

    async def _give_back(self, tx: Tx, job: Job) -> None:
        now = to_us(self._runtime.clock.now())
        lease = job.lease
        await work.release_work(tx, lease.payout_id, lease.token, lease.claimed_due, now)


def _answer_for(outcome: Report | Exception, settled: Settled, *, moved_now: bool) -> None:
    """Raise what the person must hear; return where the payout itself tells."""
    if settled.applied is None:
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
        raise Refused("invalid_request", "The answer is not usable; see errors.", errors=faults)
    if isinstance(outcome, Unsupported):
        raise _not_asked()
    if isinstance(outcome, NotSent) or (isinstance(outcome, Exception) and not moved_now):
        detail = "The custodian could not be reached; nothing was sent. Answer again in a moment."
        raise Refused("confirm_not_sent", detail, headers={"Retry-After": str(_AGAIN_S)})


def _not_asked() -> Refused:
    return Refused("action_not_required", "The payout does not ask for this (any more).")


def _too_late(why: str) -> Refused:
    return Refused("cancel_too_late", f"The payout cannot be canceled now: {why}.")


def _busy(code: str) -> Refused:
    words = {
        "confirm_in_progress": "An answer to this action is being carried out.",
        "payout_busy": "The payout is in hand right now.",
    }
    return Refused(code, words[code], headers={"Retry-After": "1"})
