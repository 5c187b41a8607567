"""The engine of sets: a part of a batch handed to a custodian at once, under one lease and one mark.

The rules are those of single payouts (`gateway.recovery`): no second moving call without proof, silence
is unknown. An item leaves its set only by a report of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

from gateway.adapter import Absent, BatchReport, CannotLook, Capabilities, Report
from gateway.assets import AssetRegistry
from gateway.config import EngineSettings
from gateway.errors import LeaseLost, NotSent, Rejected
from gateway.logs import get_logger
from gateway.metrics import Metrics
from gateway.model import Attention
from gateway.payouts import Applied, Payouts
from gateway.recovery import (
    MAX_MOVES,
    Attempt,
    AttemptState,
    Next,
    absence_delay_s,
    count_absence,
    delay_s,
    may_repeat,
    next_step,
    unknown,
)
from gateway.runtime import Failpoint, Runtime
from gateway.store import sets
from gateway.store.database import Database
from gateway.store.rows import from_us, to_us
from gateway.wakeup import Wakeup
from gateway.worker.says import rejected_report, unknown_report
from gateway.worker.setorder import SetJob, SetLease, SetOrder
from gateway.worker.setsettle import SetSettlement

_log = get_logger("sets")
#: Items whose news are written in one transaction.
_AT_ONCE = 25
_FAILURES_TOLD = 5
_LOOKS_TOLD = 10


class SetCustodian(Protocol):
    """A custodian instance as this engine uses it."""

    name: str

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    async def submit_batch(self, batch: SetOrder) -> BatchReport:
        """Do the next thing for a set."""

    async def fetch_batch(self, batch: SetOrder) -> BatchReport | Absent | CannotLook:
        """Ask how a set stands."""


class SetEngine:
    """Works on the sets of one custodian instance, one after the other."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        *,
        db: Database,
        runtime: Runtime,
        payouts: Payouts,
        assets: AssetRegistry,
        custodian: SetCustodian,
        settings: EngineSettings,
        owner: str,
        metrics: Metrics,
        wake: Callable[[str], None],
    ) -> None:
        self._db = db
        self._runtime = runtime
        self._assets = assets
        self._custodian = custodian
        self._settings = settings
        self._owner = owner
        self._metrics = metrics
        self._wake = wake
        self._can = custodian.capabilities
        self._settlement = SetSettlement(runtime, payouts, custodian.capabilities)
        #: what was last said of an item, so that a look that brings nothing new writes nothing
        self._said: dict[str, Report] = {}
        self.wakeup = Wakeup(runtime.clock)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            now = self._runtime.clock.now()
            until = to_us(now + timedelta(seconds=self._settings.lease_s))
            claimed = await self._db.run(
                sets.claim_sets, self._custodian.name, self._owner, to_us(now), until, 1
            )
            for row in claimed:
                await self._work(SetLease(row["id"], row["lease_token"], row["due_at"]))
            if not claimed:
                due = await self._db.read(sets.next_set_due, self._custodian.name)
                await self.wakeup.sleep_until(
                    None if due is None else from_us(due), self._settings.idle_s
                )

    async def _work(self, lease: SetLease) -> None:
        self._runtime.failpoint(Failpoint.CLAIMED)
        job = await self._db.run(self._settlement.begin, lease)
        if job is None:
            self._wake("batches")
            return
        self._runtime.failpoint(Failpoint.ATTEMPT_COMMITTED)
        async with self._keeping(lease):
            order = SetOrder(
                db=self._db,
                runtime=self._runtime,
                lease_s=self._settings.lease_s,
                job=job,
                assets=self._assets,
            )
            if job.attempt.state is AttemptState.ENDED:
                # Refused as a whole, and its last owner died before every item was told.
                code, message, word = job.notes["rejected"]
                refusal = Rejected(code, message, custodian_code=word)
                news = {each.id: rejected_report(refusal) for each in job.items}
                await self._settle(job, job.attempt, news, 0.0, None, None)
                return
            submits = next_step(job.attempt) is Next.SUBMIT
            verb = self._custodian.submit_batch if submits else self._custodian.fetch_batch
            outcome: BatchReport | Absent | CannotLook | Exception
            try:
                outcome = await verb(order)
            except LeaseLost:
                _log.warning("lease_lost", custodian=self._custodian.name, set_id=lease.set_id)
                return
            except Exception as error:  # noqa: BLE001 - every outcome is settled, none escapes
                outcome = error
            self._runtime.failpoint(Failpoint.SUBMITTED if submits else Failpoint.FETCHED)
            if submits:
                await self._submitted(job, outcome, moved_now=order.moved_now)
            else:
                await self._fetched(job, outcome)
            self._runtime.failpoint(Failpoint.SETTLED if submits else Failpoint.APPLIED)
        self._wake("batches")

    async def _submitted(
        self,
        job: SetJob,
        outcome: BatchReport | Absent | CannotLook | Exception,
        *,
        moved_now: bool,
    ) -> None:
        now = self._runtime.clock.now()
        attempt = replace(job.attempt, moves=job.attempt.moves + moved_now)
        reports: Mapping[str, Report] = {}
        told: tuple[Attention, str] | None = None
        refused: Sequence[str | None] | None = None
        if isinstance(outcome, BatchReport):
            moved = moved_now or attempt.ever_unknown
            state = AttemptState.ACCEPTED if moved else AttemptState.PARKED
            after = replace(attempt, state=state, failures=0, looks=0)
            delay = self._curve(0 if moved else len(self._can.polling_s))
            reports, reason = outcome.items, outcome.custodian_word
        elif isinstance(outcome, Rejected) and not attempt.ever_unknown:
            after, delay = replace(attempt, state=AttemptState.ENDED), 0.0
            reason = f"rejected: {outcome}"
            reports = {each.id: rejected_report(outcome) for each in job.items}
            refused = (outcome.code, outcome.message, outcome.custodian_code)
        elif (moved_now or attempt.ever_unknown) and not (
            isinstance(outcome, NotSent) and not attempt.ever_unknown
        ):
            reason = f"{type(outcome).__name__}: {outcome}"
            after = (
                unknown(attempt, now) if moved_now else replace(attempt, state=AttemptState.UNKNOWN)
            )
            delay = self._curve(0)
            reports = {each.id: unknown_report(reason) for each in job.items}
        else:
            # Without the mark nothing has moved; with it the adapter vouches that nothing left.
            reason = f"{type(outcome).__name__}: {outcome}"
            after = replace(attempt, state=AttemptState.PREPARED, failures=attempt.failures + 1)
            again = outcome.again_after_s if isinstance(outcome, NotSent) else None
            delay = max(again or 0.0, self._curve(attempt.failures))
            if after.failures >= _FAILURES_TOLD:
                told = (Attention.CUSTODIAN_UNREACHABLE, reason)
        await self._settle(job, after, reports, delay, reason, told, refused)

    async def _fetched(
        self, job: SetJob, outcome: BatchReport | Absent | CannotLook | Exception
    ) -> None:
        now, attempt = self._runtime.clock.now(), job.attempt
        told: tuple[Attention, str] | None = None
        reports: Mapping[str, Report] = {}
        delay, reason = self._curve(attempt.looks), None
        if isinstance(outcome, BatchReport):
            known = any(
                each.sub_status not in {None, "outcome_unknown"} for each in outcome.items.values()
            )
            settled = attempt.state is AttemptState.UNKNOWN and known
            after = replace(
                attempt,
                state=AttemptState.ACCEPTED if settled else attempt.state,
                failures=0,
                looks=attempt.looks + 1,
                absences=0,
                first_absence_at=None,
                last_absence_at=None,
            )
            reports = outcome.items
        elif isinstance(outcome, Absent | CannotLook):
            can_look = isinstance(outcome, Absent)
            reason = outcome.custodian_word if isinstance(outcome, Absent) else outcome.reason
            after = count_absence(attempt, now, self._can) if can_look else attempt
            after = replace(after, looks=attempt.looks + 1)
            soon = absence_delay_s(after, now, self._can) if can_look else None
            delay = delay if soon is None else min(delay, soon)
            safe = not can_look and self._can.keys.repeat_is_safe
            if may_repeat(after, now, self._can, can_look=can_look, repeat_is_safe=safe):
                after, delay = replace(after, state=AttemptState.PREPARED), 0.0
            elif attempt.state is AttemptState.UNKNOWN and attempt.moves >= MAX_MOVES:
                told = (Attention.UNRESOLVED, f"{attempt.moves} moving calls; last word: {reason}")
            elif attempt.state is AttemptState.UNKNOWN and not can_look:
                told = (Attention.CANNOT_LOOK, str(reason))
            elif attempt.state is AttemptState.ACCEPTED and attempt.looks >= _LOOKS_TOLD:
                told = (Attention.UNRESOLVED, f"taken, and not shown now; last word: {reason}")
        else:
            after = replace(attempt, failures=attempt.failures + 1)
            delay = self._curve(after.failures)
            if after.failures >= _FAILURES_TOLD:
                told = (Attention.CUSTODIAN_UNREACHABLE, f"{type(outcome).__name__}: {outcome}")
        await self._settle(job, after, reports, delay, reason, told)

    async def _settle(  # noqa: PLR0913 - attempt, items and lease end together
        self,
        job: SetJob,
        attempt: Attempt,
        reports: Mapping[str, Report],
        delay: float,
        reason: str | None,
        told: tuple[Attention, str] | None,
        refused: Sequence[str | None] | None = None,
    ) -> None:
        """Write the attempt first, then the news of the items in pages, then give the lease back.

        Whoever dies in between is followed by a look that brings the same news again.
        """
        lease = job.lease
        if refused is not None:
            # Durable before the first item is told: a set of which one item has failed by its refusal
            # is never submitted again.
            notes = {"rejected": list(refused)}
            if await self._db.run(self._settlement.refuse, lease, notes) is None:
                return
        if not await self._db.run(
            self._settlement.write, lease, attempt, reason, told, job.items[0].id
        ):
            return
        news = [
            (each.id, reports[each.id])
            for each in job.items
            if each.id in reports and self._said.get(each.id) != reports[each.id]
        ]
        changed = False
        for at in range(0, len(news), _AT_ONCE):
            applied = await self._db.run(self._settlement.apply, lease, news[at : at + _AT_ONCE])
            if applied is None:
                return
            changed = changed or any(each.changed for each in applied)
            for (payout_id, report), each in zip(news[at:], applied, strict=False):
                self._said[payout_id] = report
                if each.final:
                    self._said.pop(payout_id, None)
            self._tell(applied)
        if changed and attempt.looks:
            attempt, delay = replace(attempt, looks=0), min(delay, self._curve(0))
        await self._db.run(self._settlement.release, lease, attempt, delay, reason)

    def _tell(self, applied: list[Applied]) -> None:
        for each in applied:
            for status in each.reached:
                self._metrics.payout(status)
            if each.woke_inbox:
                self._wake("inbox")
        if any(each.changed for each in applied):
            self._wake("deliveries")

    @asynccontextmanager
    async def _keeping(self, lease: SetLease) -> AsyncIterator[None]:
        beat = asyncio.create_task(self._keep_lease(lease))
        try:
            yield
        finally:
            beat.cancel()

    async def _keep_lease(self, lease: SetLease) -> None:
        while True:
            await self._runtime.clock.sleep(self._settings.lease_s / 3)
            now = self._runtime.clock.now()
            until = now + timedelta(seconds=self._settings.lease_s)
            if not await self._db.run(
                sets.extend_set, lease.set_id, lease.token, to_us(now), to_us(until)
            ):
                return

    def _curve(self, count: int) -> float:
        return delay_s(self._can.polling_s, count) * self._runtime.ids.jitter()
