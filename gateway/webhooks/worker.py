"""Delivers events: claim what is due in fair turns, send, settle by the retry plan.

What is published in this process comes by the handover, where there is room, and is not claimed. A lane
is free again only after the receipt is durable: what a crash sends twice is what was under way.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from gateway.config.settings import EngineSettings, WebhookSettings
from gateway.errors import Refused, SchemaMismatch
from gateway.logs import get_logger
from gateway.metrics import Metrics
from gateway.model import format_time
from gateway.runtime import Failpoint, Runtime
from gateway.store import deliveries
from gateway.store import endpoints as endpoint_rows
from gateway.store.database import Database, Tx
from gateway.store.lanes import Held, LeaseTokens
from gateway.store.receipts import Tried, settle_tries
from gateway.store.rows import to_us
from gateway.wakeup import Wakeup
from gateway.webhooks.endpoints import Endpoints, Found, SetAside
from gateway.webhooks.fair_queue import Claim, FairQueue, Ready
from gateway.webhooks.handover import Handover
from gateway.webhooks.health import Health, Verdict, after_failure
from gateway.webhooks.receipts import Receipts
from gateway.webhooks.sender import DeliveryOutcome, DeliveryResult, Sender, Target
from gateway.webhooks.share import Share

_log = get_logger("deliveries")
#: A lease outlives a full queue and the longest try.
_LEASES_PER_TIMEOUT = 4
#: How long what is known of an endpoint is used for further deliveries.
_TARGET_S = 1.0
#: However far away a receiver wants the next try.
_LONGEST_WAIT_S = 86_400.0
#: How long an endpoint is left alone whose secret does not open; then it is read again.
_ASIDE_S = 60.0
_SKIPPED_AT_ONCE = 500
_FREED_AT_ONCE = 500
_SECOND = 1_000_000
#: Later than any time of the timeline.
_NEVER = 2**63 - 1
#: How long a test waits for its turn; a person waits for its answer.
_TURN_S = 10.0
_TEST = "test"


@dataclass
class _Known:
    """An endpoint as it was read."""

    target: Target
    failing: bool
    #: when it was last known to be so (monotonic clock)
    read_at: float
    #: the store's count of other processes' commits, from before it was read
    foreign_commits: int


@dataclass(frozen=True)
class _Test:
    """A test that waits for its turn, or is under way."""

    target: Target
    result: asyncio.Future[DeliveryResult]


class _Try(NamedTuple):
    """A try and what came of it."""

    claim: Claim
    result: DeliveryResult
    begun: datetime
    #: seconds until the next one by the plan; None: there is none
    again_s: float | None
    #: whether the endpoint has been failing, as far as is known
    failing: bool

    @property
    def affects_health(self) -> bool:
        """Whether it changes what is known of the endpoint's health."""
        return not self.result.ok or self.failing or self.result.disabled_reason is not None


class Pulse(Protocol):
    """The sign of life of this process, which others go by when they free its leases."""

    def is_fresh(self) -> bool:
        """Whether nobody can have reported this process as gone since."""

    async def refresh(self) -> None:
        """Give one now, unless the last one is fresh."""


class _NotWatched:
    """The pulse of a process that nobody watches."""

    def is_fresh(self) -> bool:
        """Nobody reports it as gone."""
        return True

    async def refresh(self) -> None:
        """Do nothing."""


class Deliveries:
    """Sends what is due: a bounded number at a time, fairly shared."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        *,
        db: Database,
        runtime: Runtime,
        endpoints: Endpoints,
        sender: Sender,
        settings: WebhookSettings,
        engine: EngineSettings,
        metrics: Metrics,
        gateway_id: str,
        share: Share,
    ) -> None:
        self._share = share
        self._db = db
        self._runtime = runtime
        self._gateway_id = gateway_id
        self._endpoints = endpoints
        self._sender = sender
        self._settings = settings
        self._engine = engine
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()
        #: the next few tries that begin
        self._starting: asyncio.Handle | None = None
        #: when tries begin that give way to other orgs' requests
        self._held: asyncio.TimerHandle | None = None
        self._queue = FairQueue(
            settings.in_flight, settings.in_flight_per_endpoint, settings.timeout_s
        )
        self._known: dict[str, _Known] = {}
        #: how often this process has changed an endpoint: what was read before is not kept
        self._changes = 0
        endpoints.on_change(self._forget)
        #: Endpoints whose secrets do not open, and until when they are left alone (monotonic clock).
        self._aside: dict[str, float] = {}
        #: The one test of each endpoint.
        self._tests: dict[str, _Test] = {}
        self._receipts = Receipts(db, self._settle, share.receipts_pause_s)
        self._tokens = LeaseTokens(gateway_id)
        #: A gateway that is gone is reported once, and its leases are freed then. One that goes on after a
        #: long pause gives a sign of life before it leases anything: if it dies then, it is reported again.
        self.pulse: Pulse = _NotWatched()
        self._begun = False
        self.wakeup = Wakeup(runtime.clock, runtime.timeline)
        self._handover = Handover(
            self._queue,
            runtime,
            self._tokens,
            life_s=self._life_s,
            may_lease=self._may_lease,
            usable=lambda endpoint_id: not self._left_alone(endpoint_id),
            reserved=self._still_known,
            begin=self._start,
            claim=self.wakeup.ring,
        )

    def _may_lease(self) -> bool:
        return self.pulse.is_fresh()

    @property
    def _life_s(self) -> float:
        return _LEASES_PER_TIMEOUT * self._settings.timeout_s

    async def run(self) -> None:
        """Deliver until cancelled."""
        if not self._begun and self._db.opened_alone:
            # Every leaseholder is gone: nothing waits for the end of a lease. A gateway that was
            # started since leases, too, and keeps what it leases from now on.
            await self._free(Held.by_others(self._gateway_id), self._end_of_new_leases)
        self._begun = True
        self._db.lanes = self._handover
        # What ran before, without lanes, rings nobody: it is committed when this returns, and found below.
        await self._db.run(_nothing)
        while True:
            waiting = await self._db.read(deliveries.waiting_endpoints)
            now = self._runtime.timeline.now()
            for gone in self._aside.keys() - {row["id"] for row in waiting}:
                # Disabled or deleted: nothing waits there any more.
                self._set_aside(gone, None, 0.0)
            wanted = self._queue.share(
                [
                    Ready(row["id"], row["org"], row["rate_limit_per_second"])
                    for row in waiting
                    if row["due"] <= now and not self._left_alone(row["id"])
                ],
                self._runtime.clock.monotonic(),
            )
            if wanted:
                await self.pulse.refresh()
                await self._claim(wanted)
            self._start()
            if not wanted:
                later = (row["due"] for row in waiting if row["due"] > now)
                await self._rest(min(later, default=None))

    async def test(
        self, endpoint: Ready, target: Target, event_id: str, kind: str, body: bytes
    ) -> DeliveryResult:
        """Post an event that is not in the store, once, when it is the endpoint's turn.

        The cap, the rate and the room of every delivery hold for it; its result goes to nobody else.
        Refused: `endpoint_busy` while another test is in progress (in this process), or where its turn
        does not come within 10 s.
        """
        if endpoint.id in self._tests:
            raise _busy(f"A test event is on its way to {endpoint.id}")
        result: asyncio.Future[DeliveryResult] = asyncio.get_running_loop().create_future()
        claim = Claim(
            position=0,
            event_id=event_id,
            endpoint_id=endpoint.id,
            token=0,
            attempts=0,
            plan_from=0,
            trigger=_TEST,
            type=kind,
            payout_id=None,
            body=body,
            until=math.inf,
        )
        self._tests[endpoint.id] = _Test(target, result)
        try:
            self._queue.offer(endpoint, claim, self._runtime.clock.monotonic())
            self._start()
            # The loop may have to wait for its rate.
            self.wakeup.ring()
            await asyncio.wait({result}, timeout=_TURN_S)
            if result.done() or not self._withdraw(claim):
                return await result
        finally:
            # One that has begun keeps its place until it ends, also where nobody waits for it any more.
            self._withdraw(claim)
        raise _busy(f"{endpoint.id} takes no more deliveries just now")

    def _withdraw(self, claim: Claim) -> bool:
        """Take a test back; whether it had not begun."""
        withdrawn = self._queue.withdraw(claim)
        if withdrawn:
            del self._tests[claim.endpoint_id]
        return withdrawn

    async def finish(self, grace_s: float) -> None:
        """Let tries under way end, for a bounded time. What is cut off, or never began, is due now."""
        self._db.lanes = None
        self._receipts.close()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._begun:
            # A store that cannot be written keeps them until their leases end.
            with suppress(sqlite3.Error, SchemaMismatch):
                await self._free(Held.by(self._gateway_id))

    async def free_leases(self, gateway_id: str) -> None:
        """End the leases of a gateway that is gone. May be called twice, and by several processes.

        Only of deliveries: one that is alive all the same sends an event twice at worst, and keeps what
        it leases from now on.
        """
        await self._free(Held.by(gateway_id), self._end_of_new_leases)

    @property
    def _end_of_new_leases(self) -> int:
        """When a lease ends that is taken now, on the timeline: those of before end before it."""
        return self._runtime.timeline.now() + round(self._life_s * _SECOND)

    async def _free(self, held: Held, ends_before: int = _NEVER) -> None:
        """End such leases, those that end before a time."""
        freed = 0
        while found := await self._db.scan(
            deliveries.leased_deliveries, held, ends_before, _FREED_AT_ONCE
        ):
            now = self._runtime.timeline.now()
            freed += await self._db.run(deliveries.free_deliveries, found, held, now)
        if freed:
            _log.info("delivery_leases_freed", deliveries=freed)
            self.wakeup.ring()

    async def _rest(self, due: int | None) -> None:
        rate_s = self._queue.rest_s(self._runtime.clock.monotonic())
        longest = self._engine.idle_s if rate_s is None else min(rate_s, self._engine.idle_s)
        await self.wakeup.sleep_until_due(due, longest)

    def _start(self) -> None:
        if self._starting is None:
            self._start_some()

    def _start_some(self) -> None:
        """Begin a few tries, and more in the next turns of the loop: as many as the orgs' shares allow."""
        self._starting = None
        now = self._runtime.clock.monotonic()
        share = self._share
        next_s = self._queue.start(now, self._begin, share.at_once(), share.held_s)
        if self._queue.crowded:
            self._receipts.hurry()
        if self._held is not None:
            self._held.cancel()
            self._held = None
        if next_s is None:
            return
        loop = asyncio.get_running_loop()
        if next_s == 0:
            self._starting = loop.call_soon(self._start_some)
        else:
            self._held = loop.call_later(next_s, self._start)

    def _begin(self, claim: Claim, org: str) -> None:
        self._share.begun(org)
        work = self._deliver_test if claim.trigger == _TEST else self._deliver
        task = asyncio.create_task(work(claim))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("delivery_crashed", exc_info=task.exception())

    async def _claim(self, wanted: Sequence[tuple[str, int]]) -> None:
        """Lease what is wanted; it is in its queues when this returns."""
        now = self._runtime.clock.monotonic()
        changes, foreign_commits = self._changes, self._db.foreign_commits
        stale = [each for each, _ in wanted if self._fresh(each, now) is None]
        found = await self._db.run(self._claim_with_targets, wanted, stale, now + self._life_s)
        for endpoint_id in stale:
            self._learn(endpoint_id, found.get(endpoint_id), now, changes, foreign_commits)

    async def _claim_with_targets(
        self, tx: Tx, wanted: Sequence[tuple[str, int]], stale: Sequence[str], until_s: float
    ) -> dict[str, Found | SetAside]:
        """Store function: lease what is wanted, and read where it goes."""
        now = self._runtime.timeline.now()
        until = now + round(self._life_s * _SECOND)
        rows = await deliveries.claim_deliveries(tx, wanted, now, until, self._tokens.new())
        targets = await self._endpoints.targets(tx, stale) if stale else {}
        claims = [
            Claim(
                position=row["position"],
                event_id=event["id"],
                endpoint_id=row["endpoint_id"],
                token=row["lease_token"],
                attempts=row["attempts"],
                plan_from=row["plan_from"],
                trigger=row["trigger"],
                type=event["type"],
                payout_id=event["payout_id"],
                body=event["body"],
                until=until_s,
            )
            for row, event in rows
        ]
        self._queue.found(wanted, claims)
        tx.when_over(lambda committed: self._queue.claimed(wanted, claims, committed=committed))
        return targets

    async def _deliver_test(self, claim: Claim) -> None:
        begun_s = self._runtime.clock.monotonic()
        test = self._tests[claim.endpoint_id]
        result: DeliveryResult | None = None
        try:
            result = await self._sender.send(test.target, claim.event_id, claim.body)
        finally:
            del self._tests[claim.endpoint_id]
            self._leave(claim, self._runtime.clock.monotonic() - begun_s, result)
            if result is not None:
                test.result.set_result(result)
            else:
                test.result.set_exception(_busy("The try was broken off"))
                # Nobody may wait any more.
                test.result.exception()

    def _leave(self, claim: Claim, took_s: float, result: DeliveryResult | None) -> None:
        """Give the place of a try to the next one."""
        answered = result is None or result.outcome is not DeliveryOutcome.TIMEOUT
        hungry = self._queue.ended(claim.endpoint_id, took_s, answered=answered)
        self._start()
        if hungry:
            self.wakeup.ring()

    async def _deliver(self, claim: Claim) -> None:
        begun_s = self._runtime.clock.monotonic()
        took_s = 0.0
        result: DeliveryResult | None = None
        try:
            self._runtime.failpoint(Failpoint.DELIVERY_CLAIMED)
            known = await self._target(claim.endpoint_id)
            if known is None:
                # Disabled since: the sweeper puts it with what was missed.
                return
            begun = self._runtime.clock.now()
            result = await self._sender.send(known.target, claim.event_id, claim.body)
            took_s = self._runtime.clock.monotonic() - begun_s
            self._runtime.failpoint(Failpoint.DELIVERY_SENT)
            again_s = None if result.ok else self._again_s(claim, result)
            tried = _Try(claim, result, begun, again_s, known.failing)
            place_wanted = self._queue.needs_place(claim.endpoint_id)
            may_wait = not (tried.affects_health or place_wanted)
            verdict = await self._receipts.settle(tried, may_wait=may_wait)
            self._runtime.failpoint(Failpoint.DELIVERY_SETTLED)
        finally:
            # After the receipt: a crash sends again what was sent and is not durable, and that must be
            # no more than the lanes hold.
            self._leave(claim, took_s, result)
        if verdict is None:
            # The lease was lost: its next owner settles it.
            again_s = None
        if verdict is Verdict.DISABLE or result.ok == known.failing:
            # What is known of its health has changed.
            self._known.pop(claim.endpoint_id, None)
        if verdict is Verdict.DISABLE:
            await self._skip_missed()
        if again_s is not None or verdict in {Verdict.DISABLE, Verdict.WARN}:
            # The loop sleeps by what was due before: tell it of the new try, or of the new event.
            self.wakeup.ring()
        self._tell(claim, result, again_s)

    def _fresh(self, endpoint_id: str, now: float) -> _Known | None:
        """Return what is known of an endpoint, unless it was read too long ago, or another process may have changed it."""
        known = self._known.get(endpoint_id)
        if known is None or now - known.read_at >= _TARGET_S:
            return None
        if self._db.counts_foreign_commits and known.foreign_commits != self._db.foreign_commits:
            return None
        return known

    def _left_alone(self, endpoint_id: str) -> bool:
        until = self._aside.get(endpoint_id)
        return until is not None and self._runtime.clock.monotonic() < until

    def _set_aside(self, endpoint_id: str, found: Found | SetAside | None, now: float) -> None:
        """Leave an endpoint alone whose secrets do not open; its deliveries wait. Logged once."""
        if isinstance(found, SetAside):
            if endpoint_id not in self._aside:
                _log.error(
                    "endpoint_set_aside",
                    endpoint_id=endpoint_id,
                    reason=found.why,
                    next="payout-gateway webhooks list",
                )
            self._aside[endpoint_id] = now + _ASIDE_S
        elif self._aside.pop(endpoint_id, None) is not None:
            _log.info("endpoint_usable_again", endpoint_id=endpoint_id)
        else:
            return
        self._metrics.endpoints_set_aside(len(self._aside))

    def _forget(self, endpoint_id: str) -> None:
        """Have an endpoint that was changed read again before the next try."""
        self._known.pop(endpoint_id, None)
        self._changes += 1

    def _still_known(self, endpoint_ids: Sequence[str], now: float) -> None:
        """Keep what is known of endpoints, where nobody else has committed since it was read.

        Called in a transaction of the writer. What this process changes itself is forgotten (`_forget`).
        An old secret ends with time, and without a commit: an endpoint that has one is read again.
        """
        foreign_commits = self._db.foreign_commits
        for endpoint_id in endpoint_ids:
            known = self._known.get(endpoint_id)
            if (
                known is not None
                and known.foreign_commits == foreign_commits
                and len(known.target.secrets) == 1
            ):
                known.read_at = now

    def _learn(
        self,
        endpoint_id: str,
        found: Found | SetAside | None,
        now: float,
        changes: int,
        foreign_commits: int,
    ) -> _Known | None:
        """Return what was read of an endpoint, and keep it; None where it is disabled, gone or set aside.

        `changes`, `foreign_commits`: as they were before the read.
        """
        self._set_aside(endpoint_id, found, now)
        if found is None or isinstance(found, SetAside):
            self._known.pop(endpoint_id, None)
            return None
        # What is handed over is never looked for in the store, where the rate is read as well.
        self._queue.set_rate(endpoint_id, found.rate)
        if len(self._known) > 10 * self._settings.in_flight:
            self._known.clear()
        known = _Known(found.target, found.failing, now, foreign_commits)
        if changes == self._changes:
            self._known[endpoint_id] = known
        return known

    async def _target(self, endpoint_id: str) -> _Known | None:
        """Return where an endpoint's events go; None where it is disabled or gone."""
        now = self._runtime.clock.monotonic()
        known = self._fresh(endpoint_id, now)
        if known is None:
            changes, foreign_commits = self._changes, self._db.foreign_commits
            found = await self._db.read(self._endpoints.targets, [endpoint_id])
            known = self._learn(endpoint_id, found.get(endpoint_id), now, changes, foreign_commits)
        return known

    async def _settle(self, tx: Tx, tries: Sequence[_Try]) -> list[Verdict | None]:
        """Store function: write the results of tries, and judge their endpoints.

        Returns the verdict of each; None where the lease is lost and nothing was written.
        """
        held = await settle_tries(tx, [self._tried(each) for each in tries])
        verdicts: list[Verdict | None] = [
            Verdict.NOTHING if each.claim.lease in held else None for each in tries
        ]
        judged = {
            at: each
            for at, each in enumerate(tries)
            if verdicts[at] is not None and each.affects_health
        }
        if judged:
            for at, verdict in (await self._judge(tx, judged)).items():
                verdicts[at] = verdict
        return verdicts

    def _tried(self, each: _Try) -> Tried:
        now, result = self._runtime.clock.now(), each.result
        due, next_at, settled = self._runtime.timeline.now(), None, None
        if each.again_s is None:
            state, settled = "delivered" if result.ok else "exhausted", to_us(now)
        else:
            state, due = "pending", due + round(each.again_s * _SECOND)
            next_at = to_us(now + timedelta(seconds=each.again_s))
        return Tried(
            position=each.claim.position,
            endpoint_id=each.claim.endpoint_id,
            token=each.claim.token,
            attempt=each.claim.attempts + 1,
            trigger=each.claim.trigger,
            state=state,
            due=due,
            settled=settled,
            outcome=result.outcome,
            http_status=result.http_status,
            snippet=result.snippet,
            started_at=to_us(each.begun),
            duration_ms=result.duration_ms,
            next_attempt_at=next_at,
        )

    async def _judge(self, tx: Tx, tries: Mapping[int, _Try]) -> dict[int, Verdict]:
        """Store function: remember the health of endpoints, warn of them or disable them."""
        now = to_us(self._runtime.clock.now())
        ids = sorted({each.claim.endpoint_id for each in tries.values()})
        rows = {row["id"]: row for row in await endpoint_rows.endpoint_rows(tx, ids)}
        active = {
            name
            for name, row in rows.items()
            if row["status"] == "enabled" and row["deleted_at"] is None
        }
        health = {name: Health.of(rows[name]) for name in active}
        verdicts: dict[int, Verdict] = {}
        ends: dict[str, str] = {}
        for at, each in tries.items():
            name, result = each.claim.endpoint_id, each.result
            if name not in active or name in ends:
                continue
            if result.ok:
                health[name], verdicts[at] = Health(), Verdict.NOTHING
            else:
                health[name], verdicts[at] = after_failure(
                    health[name],
                    now,
                    gave_up=each.again_s is None,
                    warn_after_s=self._settings.warn_after_s,
                    disable_after_s=self._settings.disable_after_s,
                )
            disables = verdicts[at] is Verdict.DISABLE
            reason = result.disabled_reason or ("failing" if disables else None)
            if reason is not None:
                ends[name], verdicts[at] = reason, Verdict.DISABLE
        if health:
            await endpoint_rows.update_endpoints(
                tx, [(name, each.columns) for name, each in health.items()]
            )
        for name, reason in ends.items():
            await self._endpoints.disable(tx, name, reason)
        for at, verdict in verdicts.items():
            if verdict is Verdict.WARN and tries[at].claim.endpoint_id not in ends:
                await self._endpoints.warn(tx, tries[at].claim.endpoint_id)
        return verdicts

    async def _skip_missed(self) -> None:
        """Put what a disabled endpoint waits for with what it missed, in bounded batches."""
        now = to_us(self._runtime.clock.now())
        while (
            await self._db.run(deliveries.skip_deliveries, now, _SKIPPED_AT_ONCE)
            >= _SKIPPED_AT_ONCE
        ):
            pass

    def _again_s(self, claim: Claim, result: DeliveryResult) -> float | None:
        """Return the seconds until the next try by the plan, or None where it is exhausted."""
        plan, done = self._settings.retry_plan_s, claim.attempts - claim.plan_from
        if done >= len(plan):
            return None
        least = self._settings.slow_down_s if result.overloaded else 0.0
        planned = max(least, max(plan[done], least) * self._runtime.ids.jitter())
        if result.retry_after_s is not None:
            # Honoured between once and twice the plan: a receiver may slow us down, not put us off.
            planned = min(max(planned, result.retry_after_s), 2 * planned)
        return min(planned, _LONGEST_WAIT_S)

    def _tell(self, claim: Claim, result: DeliveryResult, again_s: float | None) -> None:
        self._metrics.webhook_attempt(result.outcome)
        # A receipt is in the log of tries; what went wrong is in this one, too.
        level = logging.DEBUG if result.ok else logging.INFO
        if not _log.shows(level):
            return
        next_at = None
        if again_s is not None:
            next_at = self._runtime.clock.now() + timedelta(seconds=again_s)
        _log.log(
            level,
            "webhook_tried",
            payout_id=claim.payout_id,
            endpoint_id=claim.endpoint_id,
            event_id=claim.event_id,
            type=claim.type,
            attempt=claim.attempts + 1,
            trigger=claim.trigger,
            outcome=result.outcome,
            http_status=result.http_status,
            duration_ms=result.duration_ms,
            next_attempt_at=None if next_at is None else format_time(next_at),
        )


async def _nothing(_: Tx) -> None:
    """Store function: change nothing."""


def _busy(why: str) -> Refused:
    return Refused("endpoint_busy", f"{why}. Repeat it later.", headers={"Retry-After": "10"})
