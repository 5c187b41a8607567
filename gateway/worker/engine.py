"""The engine of one custodian instance: claim due payouts, call the adapter, settle.

Each instance has its own loop and its own cap on work under way, so that a slow or dead custodian
costs the others nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Protocol

from gateway.adapter import Absent, CannotLook, Capabilities, Report
from gateway.assets import AssetRegistry
from gateway.config import EngineSettings
from gateway.errors import LeaseLost
from gateway.logs import get_logger
from gateway.metrics import Metrics
from gateway.payouts import Payouts
from gateway.recovery import Next, next_step
from gateway.runtime import Failpoint, Runtime
from gateway.store import work
from gateway.store.database import Database, Row
from gateway.store.rows import from_us, to_us
from gateway.wakeup import Wakeup
from gateway.worker.order import Lease, LiveOrder
from gateway.worker.settle import Job, Settled, Settlement

_log = get_logger("engine")


class Custodian(Protocol):
    """A custodian instance as the engine uses it; `gateway.custodians.registry` builds it."""

    name: str

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    async def submit(self, order: LiveOrder) -> Report:
        """Do the next thing for the order."""

    async def fetch(self, order: LiveOrder) -> Report | Absent | CannotLook:
        """Ask how the order stands."""

    async def confirm(self, order: LiveOrder, answer: Mapping[str, Any]) -> Report:
        """Answer a required action."""

    async def cancel(self, order: LiveOrder) -> Report:
        """Ask to cancel."""


class Engine:
    """Works on the payouts of one custodian instance."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        *,
        db: Database,
        runtime: Runtime,
        payouts: Payouts,
        assets: AssetRegistry,
        custodian: Custodian,
        settings: EngineSettings,
        owner: str,
        metrics: Metrics,
        wake: Callable[[str], None],
    ) -> None:
        self._db = db
        self._runtime = runtime
        self._assets = assets
        self.custodian = custodian
        self._settings = settings
        self._owner = owner
        self._metrics = metrics
        self._wake = wake
        self.settlement = Settlement(runtime, payouts, custodian.name, custodian.capabilities)
        self._tasks: set[asyncio.Task[None]] = set()
        self.wakeup = Wakeup(runtime.clock)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            free = self.custodian.capabilities.in_flight - len(self._tasks)
            claims = await self._claim(free) if free else []
            for claim in claims:
                task = asyncio.create_task(self._work(claim), name=f"work-{claim.payout_id}")
                self._tasks.add(task)
                task.add_done_callback(self._done)
            if not claims or len(claims) < free:
                await self._rest()

    async def finish(self, grace_s: float) -> None:
        """Let work under way end, for a bounded time. What is cut off is settled by its next owner."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _rest(self) -> None:
        due = await self._db.read(work.next_due, self.custodian.name)
        busy = len(self._tasks) >= self.custodian.capabilities.in_flight
        at = None if due is None or busy else from_us(due)
        await self.wakeup.sleep_until(at, self._settings.idle_s)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.wakeup.ring()
        if not task.cancelled() and task.exception() is not None:
            # The lease ends by itself; the payout is taken up again by whoever is next.
            _log.error("work_crashed", custodian=self.custodian.name, exc_info=task.exception())

    async def _claim(self, limit: int) -> list[Lease]:
        now = self._runtime.clock.now()
        until = to_us(now + timedelta(seconds=self._settings.lease_s))
        rows: list[Row] = await self._db.run(
            work.claim_work, self.custodian.name, self._owner, to_us(now), until, limit
        )
        return [Lease(row["payout_id"], row["lease_token"], row["due_at"]) for row in rows]

    async def _work(self, lease: Lease) -> None:
        self._runtime.failpoint(Failpoint.CLAIMED)
        job = await self._db.run(self.settlement.begin, lease)
        if job is None:
            return
        if isinstance(job, Settled):
            self.tell(lease.payout_id, job)
            return
        self._runtime.failpoint(Failpoint.ATTEMPT_COMMITTED)
        async with self.keeping(lease):
            if next_step(job.attempt) is Next.SUBMIT:
                settled = await self._submit(job)
            else:
                settled = await self._fetch(job)
        self.tell(lease.payout_id, settled)
        if job.payout.batch_id is not None:
            # There is room for another one of its batch.
            self._wake("batches")

    @asynccontextmanager
    async def keeping(self, lease: Lease) -> AsyncIterator[None]:
        """Prolong a lease meanwhile; its length is bounded by the call's deadline."""
        beat = asyncio.create_task(self._keep_lease(lease))
        try:
            yield
        finally:
            beat.cancel()

    async def _submit(self, job: Job) -> Settled:
        order = self.order(job)
        outcome: Report | Exception
        try:
            outcome = await self.custodian.submit(order)
        except LeaseLost:
            return Settled(None)
        except Exception as error:  # noqa: BLE001 - every outcome is settled, none escapes
            outcome = error
        self._runtime.failpoint(Failpoint.SUBMITTED)
        settled = await self._db.run(
            self.settlement.submitted, job, moved_now=order.moved_now, outcome=outcome
        )
        self._runtime.failpoint(Failpoint.SETTLED)
        return settled

    async def _fetch(self, job: Job) -> Settled:
        outcome: Report | Absent | CannotLook | Exception
        try:
            outcome = await self.custodian.fetch(self.order(job))
        except Exception as error:  # noqa: BLE001 - a failed look is an outcome, too
            outcome = error
        self._runtime.failpoint(Failpoint.FETCHED)
        settled = await self._db.run(self.settlement.fetched, job, outcome)
        self._runtime.failpoint(Failpoint.APPLIED)
        return settled

    def order(self, job: Job) -> LiveOrder:
        """Return the order of a job."""
        terms = job.payout.terms
        asset = self._assets.find(terms.recipient_asset)
        notes: Mapping[str, object] = job.notes
        return LiveOrder(
            db=self._db,
            runtime=self._runtime,
            lease=job.lease,
            lease_s=self._settings.lease_s,
            payout=job.payout,
            attempt=job.attempt,
            notes=notes,
            decimals=asset.decimals_on(terms.route.to_network),
        )

    async def _keep_lease(self, lease: Lease) -> None:
        while True:
            await self._runtime.clock.sleep(self._settings.lease_s / 3)
            now = self._runtime.clock.now()
            until = now + timedelta(seconds=self._settings.lease_s)
            if not await self._db.run(
                work.extend_lease, lease.payout_id, lease.token, to_us(now), to_us(until)
            ):
                return

    def tell(self, payout_id: str, settled: Settled) -> None:
        """Wake whoever waits for what was settled, and count it."""
        if settled.applied is None:
            _log.warning("lease_lost", custodian=self.custodian.name, payout_id=payout_id)
            return
        if settled.applied.changed:
            self._wake("deliveries")
        for status in settled.applied.reached:
            self._metrics.payout(status)
        if settled.applied.woke_inbox:
            self._wake("inbox")
        if settled.applied.final:
            self.wakeup.ring()
