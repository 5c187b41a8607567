"""Beginning and settling one piece of work on a payout: store functions around an adapter's call.

Each writes under the lease: a stale token writes nothing. Here is the one place that turns an
adapter's outcome into a state of the attempt, a status of the payout, and the time of the next look.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from gateway.adapter import Absent, CannotLook, Capabilities, Report
from gateway.errors import NotSent, Rejected, WrongAnswer
from gateway.model import Attention, Payout, SubStatus
from gateway.payouts import Applied, Payouts
from gateway.recovery import (
    FAILURES_TOLD,
    LOOKS_TOLD,
    MAX_MOVES,
    Attempt,
    AttemptState,
    absence_delay_s,
    count_absence,
    delay_s,
    may_repeat,
    taken_over,
    unknown,
)
from gateway.runtime import Runtime
from gateway.states import Kind
from gateway.store import payouts as payout_rows
from gateway.store import work
from gateway.store.database import Tx
from gateway.store.rows import action_of, to_us
from gateway.worker.order import Lease
from gateway.worker.says import (
    attempt_of,
    queued_report,
    rejected_report,
    unanswered,
    unanswered_report,
    unknown_report,
    wrong_report,
)

#: How long a payout waits for its turn at an account before it asks again; the turn wakes it sooner.
QUEUE_LOOK_S = 60.0
#: No news: nothing was judged, nothing changed.
_NOTHING = Applied(Kind.SAME, final=False)


@dataclass(frozen=True)
class Job:
    """A payout under lease, ready to be worked on."""

    lease: Lease
    payout: Payout
    attempt: Attempt
    notes: Mapping[str, Any]


@dataclass(frozen=True)
class Settled:
    """What settling did; `applied` is None where the lease was lost and nothing was written."""

    applied: Applied | None
    due: datetime | None = None


class Settlement:
    """Store functions of the engine for one custodian instance."""

    def __init__(
        self, runtime: Runtime, payouts: Payouts, custodian: str, capabilities: Capabilities
    ) -> None:
        self._runtime = runtime
        self._payouts = payouts
        self._custodian = custodian
        self._capabilities = capabilities

    async def begin(self, tx: Tx, lease: Lease) -> Job | Settled | None:
        """Return the job of a lease; None where there is nothing to do, Settled where all is done.

        Commits the attempt before the custodian is called, and takes the turn at an account that
        pays one at a time.
        """
        now = self._runtime.clock.now()
        if not await work.holds_lease(tx, lease.payout_id, lease.token):
            return None
        payout = await payout_rows.find_payout(tx, lease.payout_id)
        if payout is None or payout.final:
            await work.drop_work(tx, lease.payout_id)
            return None
        row = await work.last_attempt(tx, payout.id)
        # A parked attempt is only looked at: it needs no turn, and must not keep others from theirs.
        parked = row is not None and row["state"] == AttemptState.PARKED
        if parked and row is not None and unanswered(payout, now) and not row["ever_unknown"]:
            return await self._expired(tx, Job(lease, payout, attempt_of(row), {}), now)
        if not parked and not await self._turn(tx, payout, now):
            await self._payouts.apply(tx, payout.id, queued_report(payout))
            due = to_us(now + timedelta(seconds=QUEUE_LOOK_S))
            await work.release_work(tx, lease.payout_id, lease.token, lease.claimed_due, due)
            return None
        if row is None:
            await work.add_attempt(tx, payout.id, 1, self._custodian, to_us(now))
            row = await work.last_attempt(tx, payout.id)
            assert row is not None  # noqa: S101 - written in this transaction
        attempt = attempt_of(row)
        seen = taken_over(attempt, now)
        if seen is not attempt:
            await self._write(tx, payout.id, seen, outcome="taken over while moving")
            await self._payouts.apply(
                tx, payout.id, unknown_report("its worker stopped while it was moving")
            )
        return Job(lease, payout, seen, json.loads(row["notes"]))

    async def submitted(
        self, tx: Tx, job: Job, *, moved_now: bool, outcome: Report | Exception
    ) -> Settled:
        """Settle a call of `submit`."""
        if not await work.holds_lease(tx, job.lease.payout_id, job.lease.token):
            return Settled(None)
        now = self._runtime.clock.now()
        attempt = replace(job.attempt, moves=job.attempt.moves + moved_now)
        if isinstance(outcome, Report):
            return await self._reported(tx, job, attempt, outcome, now, moved_now=moved_now)
        if isinstance(outcome, Rejected) and not attempt.ever_unknown:
            return await self._rejected(tx, job, attempt, outcome, now)
        if isinstance(outcome, NotSent) and not attempt.ever_unknown:
            # Also after the mark: the adapter vouches that this call never left.
            return await self._not_sent(tx, job, attempt, outcome, now, outcome.again_after_s)
        if moved_now or attempt.ever_unknown:
            after = (
                unknown(attempt, now) if moved_now else replace(attempt, state=AttemptState.UNKNOWN)
            )
            reason = f"{type(outcome).__name__}: {outcome}"
            applied = await self._payouts.apply(tx, job.payout.id, unknown_report(reason))
            return await self._release(tx, job, after, applied, now, self._curve(0), reason)
        # Without the mark nothing has moved, whatever went wrong.
        return await self._not_sent(tx, job, attempt, outcome, now, None)

    async def fetched(
        self, tx: Tx, job: Job, outcome: Report | Absent | CannotLook | Exception
    ) -> Settled:
        """Settle a call of `fetch`."""
        if not await work.holds_lease(tx, job.lease.payout_id, job.lease.token):
            return Settled(None)
        now = self._runtime.clock.now()
        attempt = job.attempt
        asks = not isinstance(outcome, Report) or outcome.sub_status is SubStatus.REQUIRES_ACTION
        looked = isinstance(outcome, Report | Absent | CannotLook)
        if attempt.state is AttemptState.PARKED and unanswered(job.payout, now) and looked and asks:
            # A call of unknown outcome was proven absent before it was asked again; it still is.
            return await self._expired(tx, job, now)
        if isinstance(outcome, Report):
            return await self._looked(tx, job, attempt, outcome, now)
        if isinstance(outcome, Absent):
            return await self._absent(tx, job, attempt, outcome, now)
        if isinstance(outcome, CannotLook):
            return await self._blind(tx, job, attempt, outcome, now)
        return await self._failed_look(tx, job, attempt, outcome, now)

    async def confirmed(
        self, tx: Tx, job: Job, *, moved_now: bool, outcome: Report | Exception
    ) -> Settled:
        """Settle a call of `confirm`: what was not sent leaves the payout asking as before."""
        if not await work.holds_lease(tx, job.lease.payout_id, job.lease.token):
            return Settled(None)
        now, parked = self._runtime.clock.now(), replace(job.attempt, state=AttemptState.PARKED)
        if isinstance(outcome, WrongAnswer):
            # The adapter knows that this answer moved nothing, whatever became of an earlier one.
            applied = await self._payouts.apply(
                tx, job.payout.id, wrong_report(job.payout, outcome)
            )
            locked = outcome.attempts_left == 0
            after = replace(parked, state=AttemptState.PREPARED) if locked else parked
            return await self._release(tx, job, after, applied, now, 0.0, str(outcome))
        certain = isinstance(outcome, NotSent) and not job.attempt.ever_unknown
        sent = moved_now and not certain
        if isinstance(outcome, Report | Rejected) or sent:
            return await self.submitted(tx, job, moved_now=moved_now, outcome=outcome)
        reason = f"{type(outcome).__name__}: {outcome}"
        return await self._release(tx, job, parked, _NOTHING, now, self._curve(0), reason)

    async def _expired(self, tx: Tx, job: Job, now: datetime) -> Settled:
        """End a payout that nobody answered for in time, and of which nothing is moving."""
        applied = await self._payouts.apply(tx, job.payout.id, unanswered_report())
        return await self._release(tx, job, job.attempt, applied, now, 0.0, "not answered")

    async def _turn(self, tx: Tx, payout: Payout, now: datetime) -> bool:
        if not self._capabilities.one_at_a_time:
            return True
        account = payout.account
        return await work.take_account(
            tx, self._custodian, account.type, account.id, payout.id, to_us(now)
        )

    async def _reported(  # noqa: PLR0913 - the outcome and its circumstances
        self, tx: Tx, job: Job, attempt: Attempt, report: Report, now: datetime, *, moved_now: bool
    ) -> Settled:
        again = report.again_after_s
        asks = report.sub_status is SubStatus.REQUIRES_ACTION
        if (moved_now or attempt.ever_unknown) and not asks:
            state, delay = AttemptState.ACCEPTED, self._curve(0)
        elif again is not None and not asks:
            state, delay = AttemptState.PREPARED, again
        else:
            state, delay = AttemptState.PARKED, self._curve(len(self._capabilities.polling_s))
            account = job.payout.account.model_dump_json()
            await work.free_account(tx, job.payout.id, self._custodian, account, to_us(now))
        after = replace(attempt, state=state, failures=0, looks=0)
        applied = await self._payouts.apply(tx, job.payout.id, report)
        return await self._release(tx, job, after, applied, now, delay, report.custodian_word)

    async def _rejected(
        self, tx: Tx, job: Job, attempt: Attempt, refusal: Rejected, now: datetime
    ) -> Settled:
        report = rejected_report(refusal)
        applied = await self._payouts.apply(tx, job.payout.id, report)
        after = replace(attempt, state=AttemptState.ENDED)
        return await self._release(
            tx, job, after, applied, now, self._curve(0), f"rejected: {refusal}"
        )

    async def _not_sent(  # noqa: PLR0913 - the outcome and its circumstances
        self,
        tx: Tx,
        job: Job,
        attempt: Attempt,
        error: Exception,
        now: datetime,
        again_after_s: float | None,
    ) -> Settled:
        after = replace(attempt, state=AttemptState.PREPARED, failures=attempt.failures + 1)
        reason = f"{type(error).__name__}: {error}"
        if after.failures >= FAILURES_TOLD:
            await self._tell(tx, job, Attention.CUSTODIAN_UNREACHABLE, reason, now)
        report = Report(SubStatus.SUBMITTING, "", detail="not sent yet; it will be tried again")
        applied = await self._payouts.apply(tx, job.payout.id, report)
        delay = max(again_after_s or 0.0, self._curve(attempt.failures))
        return await self._release(tx, job, after, applied, now, delay, reason)

    async def _looked(
        self, tx: Tx, job: Job, attempt: Attempt, report: Report, now: datetime
    ) -> Settled:
        known = (
            attempt.state is AttemptState.UNKNOWN
            and report.sub_status is not SubStatus.OUTCOME_UNKNOWN
        )
        state = AttemptState.ACCEPTED if known else attempt.state
        if report.sub_status is SubStatus.REQUIRES_ACTION:
            # Nothing came of what was answered: it is asked again, and waits for the next answer.
            state = AttemptState.PARKED
        applied = await self._payouts.apply(tx, job.payout.id, report)
        after = replace(
            attempt,
            state=state,
            failures=0,
            looks=0 if applied.changed else attempt.looks + 1,
            absences=0,
            first_absence_at=None,
            last_absence_at=None,
        )
        return await self._release(tx, job, after, applied, now, self._curve(after.looks), None)

    async def _absent(
        self, tx: Tx, job: Job, attempt: Attempt, absent: Absent, now: datetime
    ) -> Settled:
        after = count_absence(attempt, now, self._capabilities)
        after = replace(after, failures=0, looks=attempt.looks + 1)
        return await self._perhaps_repeat(
            tx, job, after, now, can_look=True, word=absent.custodian_word
        )

    async def _blind(
        self, tx: Tx, job: Job, attempt: Attempt, blind: CannotLook, now: datetime
    ) -> Settled:
        after = replace(attempt, looks=attempt.looks + 1)
        safe = self._capabilities.keys.repeat_is_safe
        safe = safe if blind.repeat_is_safe is None else blind.repeat_is_safe
        if not safe and attempt.state is AttemptState.UNKNOWN:
            await self._tell(tx, job, Attention.CANNOT_LOOK, blind.reason, now)
        return await self._perhaps_repeat(
            tx, job, after, now, can_look=False, word=blind.reason, safe=safe
        )

    async def _perhaps_repeat(  # noqa: PLR0913 - the outcome and its circumstances
        self,
        tx: Tx,
        job: Job,
        attempt: Attempt,
        now: datetime,
        *,
        can_look: bool,
        word: str,
        safe: bool = False,
    ) -> Settled:
        """Submit again where that is proven safe; otherwise go on looking, ever more slowly."""
        delay = self._curve(attempt.looks)
        soon = absence_delay_s(attempt, now, self._capabilities) if can_look else None
        delay = delay if soon is None else min(delay, soon)
        after = attempt
        if may_repeat(attempt, now, self._capabilities, can_look=can_look, repeat_is_safe=safe):
            after = replace(attempt, state=AttemptState.PREPARED)
            # Proof has taken its time already; a safe repeat must not become a storm.
            delay = 0.0 if can_look else self._curve(max(0, attempt.moves - 1))
        if attempt.state is AttemptState.UNKNOWN and attempt.moves >= MAX_MOVES:
            detail = (
                f"{attempt.moves} moving calls, none of them settled; last word: {word or 'none'}"
            )
            await self._tell(tx, job, Attention.UNRESOLVED, detail, now)
        elif attempt.state is AttemptState.ACCEPTED and attempt.looks >= LOOKS_TOLD:
            detail = f"the custodian took it and does not show it now; last word: {word or 'none'}"
            await self._tell(tx, job, Attention.UNRESOLVED, detail, now)
        applied = _NOTHING
        return await self._release(tx, job, after, applied, now, delay, word or None)

    async def _failed_look(
        self, tx: Tx, job: Job, attempt: Attempt, error: Exception, now: datetime
    ) -> Settled:
        """The observer failed, not the payout: nothing changes but the time of the next look."""
        after = replace(attempt, failures=attempt.failures + 1)
        if after.failures >= FAILURES_TOLD:
            reason = f"{type(error).__name__}: {error}"
            await self._tell(tx, job, Attention.CUSTODIAN_UNREACHABLE, reason, now)
        delay = self._curve(after.failures)
        return await self._release(tx, job, after, _NOTHING, now, delay, None)

    async def _release(  # noqa: PLR0913 - attempt, payout and lease end together
        self,
        tx: Tx,
        job: Job,
        attempt: Attempt,
        applied: Applied,
        now: datetime,
        delay: float,
        outcome: str | None,
    ) -> Settled:
        if applied.final:
            ended = {"ended_at": to_us(now)}
            await self._write(
                tx, job.payout.id, replace(attempt, state=AttemptState.ENDED), outcome, **ended
            )
            return Settled(applied)
        await self._write(tx, job.payout.id, attempt, outcome)
        due = now + timedelta(seconds=delay)
        if attempt.state is AttemptState.PARKED:
            # Looked at again when nobody has answered in time.
            row = await payout_rows.payout_row(tx, job.payout.id)
            action = None if row is None else action_of(row)
            ahead = action is not None and action.open and action.expires_at > now
            due = min(due, action.expires_at) if action and ahead else due
        lease = job.lease
        await work.release_work(tx, lease.payout_id, lease.token, lease.claimed_due, to_us(due))
        return Settled(applied, due)

    async def _write(
        self, tx: Tx, payout_id: str, attempt: Attempt, outcome: str | None, **more: object
    ) -> None:
        columns: dict[str, object] = {
            "state": attempt.state,
            "moves": attempt.moves,
            "ever_unknown": int(attempt.ever_unknown),
            "absences": attempt.absences,
            "looks": attempt.looks,
            "failures": attempt.failures,
            **{
                name: None if at is None else to_us(at)
                for name, at in (
                    ("last_call_at", attempt.last_call_at),
                    ("first_absence_at", attempt.first_absence_at),
                    ("last_absence_at", attempt.last_absence_at),
                )
            },
            **more,
        }
        if outcome:
            columns["outcome"] = outcome[:500]
        await work.update_attempt(tx, payout_id, attempt.number, **columns)

    async def _tell(self, tx: Tx, job: Job, code: Attention, detail: str, now: datetime) -> None:
        await payout_rows.add_attention(tx, job.payout.id, code, detail[:200], to_us(now))

    def _curve(self, count: int) -> float:
        return delay_s(self._capabilities.polling_s, count) * self._runtime.ids.jitter()
