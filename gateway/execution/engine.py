"""The engine of one custodian instance: it claims due executions, calls the adapter and records the outcome.

The same loop handles one payout or many. Each instance has its own loop and its own cap on calls in
progress, so that a slow or dead custodian costs the others nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, Protocol

from gateway.adapter import Absent, BatchReport, CannotLook, Capabilities, NotListed
from gateway.assets import AssetRegistry
from gateway.config.settings import EngineSettings
from gateway.errors import CustodianDown, LeaseLost
from gateway.execution.decide import Outcome, microseconds
from gateway.execution.failover import Onward
from gateway.execution.order import LiveOrder, Witness
from gateway.execution.record import Recorded, Recorder
from gateway.execution.state import Job, Verb
from gateway.logs import get_logger
from gateway.metrics import Metrics
from gateway.model import Account
from gateway.payout_change import Applied
from gateway.payouts import Payouts
from gateway.rules import OwnRules
from gateway.runtime import Failpoint, Moment, Runtime
from gateway.store import executions
from gateway.store.database import Database
from gateway.store.due import next_due
from gateway.wakeup import Wakeup, looks_bell

#: The shortest wait for a token: clocks do not resolve shorter ones.
_LEAST_REST_S = 0.005
#: How long work on a payout waits while requests of other orgs are answered, in seconds.
GIVES_WAY_S = 0.02
_log = get_logger("engine")


class Custodian(Protocol):
    """A custodian instance as the engine uses it; `gateway.custodians` builds it."""

    name: str

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    def fingerprint(self, account: Account, *, livemode: bool) -> str:
        """Return a text that identifies the account that is asked."""

    async def check_clock(self) -> None:
        """Refuse a call whose credentials would be dated by a wrong clock. Raises NotSent."""

    async def submit(self, order: LiveOrder) -> BatchReport:
        """Do the next thing for an execution."""

    async def fetch(self, order: LiveOrder) -> BatchReport | Absent | NotListed | CannotLook:
        """Ask how an execution stands."""

    async def confirm(self, order: LiveOrder, answer: Mapping[str, Any]) -> BatchReport:
        """Answer a required action."""

    async def cancel(self, order: LiveOrder) -> BatchReport:
        """Ask to cancel."""


class Pace(Protocol):
    """Decides how much work may start now; `gateway.custodians.pacer` implements it."""

    @property
    def paced(self) -> bool:
        """Whether a rate is kept to."""

    def share(self, most: int) -> Any:
        """Return how much work may start (`works`), and how many looks come first (`looks`)."""

    def begin(self, works: int) -> None:
        """Take the tokens for this amount of work."""

    def wait_s(self) -> float | None:
        """Return the seconds until there is a token."""

    def working(self) -> AbstractContextManager[None]:
        """Make the requests of work that was begun."""

    def allow_mark(self) -> None:
        """Refuse a moving call while nothing is sent. Raises RateLimited."""


class Health(Protocol):
    """Knows whether the custodian answers; `gateway.custodians.breaker` implements it."""

    @property
    def word(self) -> str | None:
        """Return why nothing should be sent; None if the custodian answers."""

    def wait_s(self) -> float | None:
        """Return the seconds until the custodian is asked again."""

    def allow_mark(self) -> None:
        """Refuse a moving call while the custodian does not answer. Raises CustodianDown."""


class Engine:
    """Works on the executions of one custodian instance."""

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
        witness: Witness | None = None,
        pacer: Pace | None = None,
        rules: OwnRules | None = None,
        health: Health | None = None,
        onward: Onward | None = None,
        quiet: Callable[[str, float], Awaitable[None]] | None = None,
    ) -> None:
        self._quiet = quiet
        self._pacer = pacer
        self._health = health
        self._rules = rules
        self._db = db
        self._witness = witness
        self._runtime = runtime
        self._assets = assets
        self.custodian = custodian
        self._settings = settings
        self._owner = owner
        self._metrics = metrics
        self._wake = wake
        self._lease = microseconds(settings.lease_s) or 0
        adapter = getattr(custodian, "adapter_name", custodian.name)
        self.recorder = Recorder(
            runtime,
            payouts,
            custodian.name,
            custodian.capabilities,
            adapter,
            settings.submit_within_s,
            onward,
            None if rules is None else rules.digest,
        )
        can = custodian.capabilities
        first_look_s = min(can.looked_after_delivery_s, can.polling_s[-1])
        #: whether the first look after a delivery is due before the loop of these looks wakes by itself
        self._looks_soon = 0 < first_look_s < settings.idle_s
        self._tasks: set[asyncio.Task[object]] = set()
        #: failed payouts that are looked at once more
        self._ended: set[str] = set()
        self.wakeup = Wakeup(runtime.clock, runtime.timeline)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            free = self.custodian.capabilities.in_flight - len(self._tasks)
            while free and self._ended:
                payout_id = self._ended.pop()
                self._start(payout_id, self._look_at_ended(payout_id))
                free -= 1
            looks = 0
            if self._pacer is not None:
                share = self._pacer.share(free)
                free, looks = share.works, share.looks
            begun = await self._claim(free, looks) if free else []
            for each in begun:
                if isinstance(each, Job):
                    self._start(each.lease.execution_id, self._work(each))
                elif each.lease is not None:
                    self._start(each.lease.execution_id, self.tell(each))
                else:
                    self.announce(each)
            if not begun or len(begun) < free:
                await self._rest(paced=not free)

    def look_after_end(self, payout_id: str) -> None:
        """Look once, soon, at a failed payout, because the custodian's webhook about it has no status.

        It may be called again: a look that has not begun yet is made once. A restart forgets it.
        """
        self._ended.add(payout_id)
        self.wakeup.ring()

    async def finish(self, grace_s: float) -> None:
        """Let calls in progress end, for a bounded time. The next owner resolves those that are cut off."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _start(self, execution_id: str, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work, name=f"execution-{execution_id}")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def _claim(self, limit: int, looks: int = 0) -> list[Job | Recorded]:
        until = self._runtime.timeline.now() + self._lease
        paced = self._pacer is not None and self._pacer.paced
        begun = await self._db.run(
            self.recorder.claim,
            self._owner,
            until,
            limit,
            looks if paced else None,
            moves=self._moves,
        )
        if self._pacer is not None:
            # Take the tokens before any work starts, so that nothing waits for a token between a mark
            # and its call.
            self._pacer.begin(sum(isinstance(each, Job) for each in begun))
        if begun:
            self._runtime.failpoint(Failpoint.CLAIMED)
        return begun

    @property
    def _moves(self) -> bool:
        """Whether this gateway may send: only if its limits and routes are the active ones.

        Another gateway has the active ones, and must not find everything claimed.
        """
        return self._rules is None or self._rules.active

    async def _rest(self, *, paced: bool) -> None:
        wait_s = None if self._pacer is None else self._pacer.wait_s()
        if paced and wait_s is not None:
            await self.wakeup.sleep(max(wait_s, _LEAST_REST_S))
            return
        busy = paced or len(self._tasks) >= self.custodian.capabilities.in_flight
        # What is due may be something that this gateway must not send; then it checks again after a
        # while.
        if busy or not self._moves:
            await self.wakeup.sleep(self._settings.idle_s)
            return
        due = await self._db.read(next_due, self.custodian.name)
        await self.wakeup.sleep_until_due(due, self._settings.idle_s)

    def _done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        self.wakeup.ring()
        if not task.cancelled() and task.exception() is not None:
            # The lease expires, and the next worker takes the execution over.
            _log.error("work_crashed", custodian=self.custodian.name, exc_info=task.exception())

    async def _work(self, job: Job) -> None:
        with contextlib.nullcontext() if self._pacer is None else self._pacer.working():
            await self._do(job)
        if job.batch_id is not None:
            # There is room for another execution of its batch.
            self._wake("batches")

    async def _do(self, job: Job) -> None:
        # Wait before the work starts, so that nothing waits between a mark and its call.
        await self._give_way(job)
        self._runtime.failpoint(Failpoint.ATTEMPT_COMMITTED)
        async with self.keeping(job):
            order = self.order(job)
            verb = job.next_verb
            call = self.custodian.submit if verb is Verb.SUBMIT else self.custodian.fetch
            started = self._runtime.clock.moment()
            outcome: Outcome
            try:
                outcome = self._down(verb) or await call(order)
            except LeaseLost:
                self._lost(job)
                return
            except Exception as error:  # noqa: BLE001 - every outcome is recorded, none escapes
                outcome = error
            submitted = verb is Verb.SUBMIT
            self._runtime.failpoint(Failpoint.SUBMITTED if submitted else Failpoint.FETCHED)
            await self._give_way(job)
            await self.record(job, verb, outcome, order=order, started=started)
            self._runtime.failpoint(Failpoint.SETTLED if submitted else Failpoint.APPLIED)

    async def _give_way(self, job: Job) -> None:
        """Let requests of other orgs be answered first, for a bounded time."""
        if self._quiet is not None:
            await self._quiet(job.items[0].org, GIVES_WAY_S)

    def _down(self, verb: Verb) -> CustodianDown | None:
        """Return why nothing is even prepared, if the custodian does not answer; None if it does."""
        if verb is not Verb.SUBMIT or self._health is None or self._health.word is None:
            return None
        return CustodianDown(f"{self._health.word}; not sent", again_after_s=self._health.wait_s())

    async def _look_at_ended(self, payout_id: str) -> None:
        """Ask the custodian once about a payout that has ended; no look follows."""
        job = await self._db.read(self.recorder.last_ended_job, payout_id)
        if job is None:
            return
        outcome: Outcome
        try:
            outcome = await self.custodian.fetch(self.order(job))
        except Exception as error:  # noqa: BLE001 - whatever it is, the operator is alerted
            outcome = error
        applied = await self._db.run(self.recorder.looked_after_end, payout_id, outcome)
        for name in wakes([applied] if applied else [], self._metrics):
            self._wake(name)

    async def record(
        self, job: Job, verb: Verb, outcome: Outcome, *, order: LiveOrder, started: Moment
    ) -> Recorded:
        """Record an outcome in as many transactions as its items need, and announce each."""
        recorded = await self._db.run(
            self.recorder.record,
            job,
            verb,
            outcome,
            started=started,
            fingerprint=order.fingerprint,
            seen=job.history.last_number,
            call=order.call,
        )
        recorded = await self.tell(recorded)
        if recorded.lost:
            self._lost(job)
        return recorded

    async def tell(self, recorded: Recorded) -> Recorded:
        """Announce what was recorded, and update the remaining items, a page per transaction."""
        self.announce(recorded)
        while recorded.rest:
            recorded = await self._db.run(self.recorder.record_more, recorded)
            self.announce(recorded)
        return recorded

    @asynccontextmanager
    async def keeping(self, job: Job) -> AsyncIterator[None]:
        """Prolong a lease while a call runs; the call's deadline bounds its length."""
        beat = asyncio.create_task(self._keep_lease(job))
        try:
            yield
        finally:
            beat.cancel()

    async def _keep_lease(self, job: Job) -> None:
        lease = job.lease
        while True:
            await self._runtime.clock.sleep(self._settings.lease_s / 3)
            until = self._runtime.timeline.now() + self._lease
            if not await self._db.run(executions.extend, lease.execution_id, lease.token, until):
                return

    def order(self, job: Job, kind: type[LiveOrder] = LiveOrder) -> LiveOrder:
        """Return the order that an adapter is handed for a job."""
        payout = job.items[0]
        return kind(
            db=self._db,
            runtime=self._runtime,
            job=job,
            lease_s=self._settings.lease_s,
            assets=self._assets,
            capabilities=self.custodian.capabilities,
            fingerprint=self.custodian.fingerprint(payout.account, livemode=payout.livemode),
            before_mark=self._before_mark,
            witness=self._witness,
            rules=None if self._rules is None else self._rules.digest,
        )

    async def _before_mark(self) -> None:
        """Refuse a mark while the clock is wrong or the custodian takes no requests. Raises NotSent."""
        if self._health is not None:
            self._health.allow_mark()
        await self.custodian.check_clock()
        if self._pacer is not None:
            self._pacer.allow_mark()

    def _lost(self, job: Job) -> None:
        _log.warning(
            "lease_lost",
            custodian=self.custodian.name,
            execution_id=job.lease.execution_id,
            payout_id=job.items[0].id,
        )

    def announce(self, recorded: Recorded) -> None:
        """Wake the loops that a recorded outcome concerns, and count it."""
        self.announce_applied(recorded.applied)
        if recorded.onward is not None:
            self._wake(recorded.onward)
        if recorded.ended:
            self._wake(self.custodian.name)
            if self._looks_soon:
                self._wake(looks_bell(self.custodian.name))

    def announce_applied(self, applied: Iterable[Applied]) -> None:
        """Wake the loops that status updates concern, and count them."""
        for name in wakes(applied, self._metrics):
            self._wake(name)


def wakes(applied: Iterable[Any], metrics: Metrics) -> set[str]:
    """Count status updates; return the loops to wake for them."""
    names = set()
    for each in applied:
        if each.woke_inbox:
            names.add("inbox")
        for status in each.reached:
            metrics.payout(status)
    return names
