"""Polls delivered payouts: money may come back, and the webhook that reports it may be lost.

Such a look is read-only, and it is not evidence: what was written while the execution was open decides
whether anything may be sent. Nothing that a look finds changes a status.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from gateway.adapter import BatchReport, Ref, Report
from gateway.config.settings import EngineSettings
from gateway.errors import NotSent
from gateway.execution.decide import microseconds
from gateway.execution.engine import Engine
from gateway.execution.order import LiveOrder
from gateway.execution.proof import closed
from gateway.execution.state import Job
from gateway.model import Status
from gateway.payout_change import Applied
from gateway.payouts import Payouts
from gateway.runtime import Runtime
from gateway.store import payouts as payout_rows
from gateway.store import returns
from gateway.store.database import Database, Row, Tx
from gateway.wakeup import Wakeup

#: The number of simultaneous looks at one custodian. It is low, so that payouts in progress come first.
_AT_ONCE = 4
#: The interval to the next look is the time since the delivery divided by this number.
_SHARE = 4


class ClosedOrder(LiveOrder):
    """An order whose execution has ended: it can be looked at, and it cannot move money."""

    async def remember(self, **notes: Any) -> None:
        """Keep notes in memory, for this look only."""
        self._notes = {**self._notes, **notes}

    async def expect(self, *refs: Ref, payout_id: str | None = None) -> None:
        """Register nothing, because no call follows."""

    async def moving(
        self,
        *,
        reference: str | None = None,  # noqa: ARG002 - the contract's
        call_life_s: float | None = None,  # noqa: ARG002
        same_request: bool = False,  # noqa: ARG002
    ) -> None:
        """Refuse every mark, because the payout was paid. Raises NotSent."""
        raise NotSent("the payout has ended; the gateway makes no call for it")


class AfterDelivery:
    """Looks at the delivered payouts of one custodian instance."""

    def __init__(
        self,
        *,
        db: Database,
        runtime: Runtime,
        payouts: Payouts,
        engine: Engine,
        settings: EngineSettings,
    ) -> None:
        self._payouts = payouts
        self._db = db
        self._runtime = runtime
        self._engine = engine
        self._name = engine.custodian.name
        self._settings = settings
        self._lease = microseconds(settings.lease_s) or 0
        self._shortest = microseconds(engine.custodian.capabilities.polling_s[-1]) or 0
        self.wakeup = Wakeup(runtime.clock, runtime.timeline)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            if not await self.turn():
                due = await self._db.read(returns.next_look_due, self._name)
                await self.wakeup.sleep_until_due(due, self._settings.idle_s)

    async def turn(self) -> bool:
        """Make the looks that are due, a few at once. Return whether there were any."""
        now = self._runtime.timeline.now()
        due = await self._db.run(returns.claim_looks, self._name, now, now + self._lease, _AT_ONCE)
        await asyncio.gather(*(self._look(each) for each in due))
        return bool(due)

    async def _look(self, look: Row) -> None:
        job = await self._db.read(self._engine.recorder.ended_job, look["execution_id"])
        found: object = None
        if job is not None:
            try:
                order = self._engine.order(job, ClosedOrder)
                found = await self._engine.custodian.fetch(order)
            except Exception as error:  # noqa: BLE001 - the custodian instance has logged it; the look is repeated later
                found = error
        applied = await self._db.run(self._record, look, job, found)
        self._engine.announce_applied(applied)

    async def _record(
        self, tx: Tx, look: Row, job: Job | None, found: object
    ) -> tuple[Applied, ...]:
        """Apply what a look found to the delivered payouts, and set the time of the next look. Store function."""
        applied = []
        delivered = False
        told = found.items if isinstance(found, BatchReport) else {}
        for each in () if job is None else job.items:
            row = await payout_rows.payout_row(tx, each.id)
            if row is None or row["status"] != Status.DELIVERED or _paid_elsewhere(job, each.id):
                continue
            delivered = True
            report = told.get(each.id)
            if report is not None:
                news = _without_person(report) if row["erased_at"] is not None else report
                applied.append(await self._payouts.apply(tx, each.id, news, row))
        now = self._runtime.timeline.now()
        if not delivered or now >= look["until_at"]:
            await returns.end_looks(tx, look["execution_id"], look["due_at"])
        else:
            delay = max(self._shortest, (now - look["begun_at"]) // _SHARE)
            due = min(now + delay, look["until_at"])
            await returns.put_off_look(tx, look["execution_id"], look["due_at"], due)
        return tuple(applied)


def _paid_elsewhere(job: Job | None, payout_id: str) -> bool:
    """Whether this execution certainly did not pay, so that reports about its calls are not about the payout."""
    return job is not None and closed(job.history, payout_id)


def _without_person(report: Report) -> Report:
    """Return only what came back: the payout's personal data was erased, and a report must not restore it."""
    back = tuple(replace(each, word="") for each in report.returned)
    return Report(None, "", refs=report.refs, echo=report.echo, returned=back)
