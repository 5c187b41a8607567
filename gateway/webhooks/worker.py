"""Delivers events: claim what is due in fair turns, send, settle by the retry plan."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.config import EngineSettings, WebhookSettings
from gateway.logs import get_logger
from gateway.metrics import Metrics
from gateway.runtime import Failpoint, Runtime
from gateway.store import deliveries
from gateway.store import endpoints as endpoint_rows
from gateway.store.database import Database, Row, Tx
from gateway.store.receipts import Receipt
from gateway.store.rows import from_us, to_us
from gateway.wakeup import Wakeup
from gateway.webhooks.endpoints import Endpoints
from gateway.webhooks.fair_queue import Claim, FairQueue, Ready
from gateway.webhooks.health import Health, Verdict, after_failure
from gateway.webhooks.receipts import Receipts
from gateway.webhooks.sender import DeliveryOutcome, DeliveryResult, Sender, Target

_log = get_logger("deliveries")
#: A lease outlives a full queue and the longest try.
_LEASES_PER_TIMEOUT = 4
#: How long what is known of an endpoint is used for further deliveries.
_TARGET_S = 1.0
#: However far away a receiver wants the next try.
_LONGEST_WAIT_S = 86_400.0
_SKIPPED_AT_ONCE = 500


@dataclass(frozen=True)
class _Known:
    """An endpoint as it was read a moment ago."""

    target: Target
    failing: bool
    read_at: float


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
    ) -> None:
        self._db = db
        self._runtime = runtime
        self._endpoints = endpoints
        self._sender = sender
        self._settings = settings
        self._engine = engine
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()
        self._queue = FairQueue(
            settings.in_flight, settings.in_flight_per_endpoint, settings.timeout_s
        )
        self._known: dict[str, _Known] = {}
        self._receipts = Receipts(db)
        self.wakeup = Wakeup(runtime.clock)

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            now = self._runtime.clock.now()
            ready = await self._db.read(deliveries.ready_endpoints, to_us(now))
            wanted = self._queue.share(
                [Ready(row["id"], row["org"], row["rate_limit_per_second"]) for row in ready],
                self._runtime.clock.monotonic(),
            )
            if wanted:
                self._queue.claimed(wanted, await self._claim(wanted))
            self._start()
            if not wanted:
                await self._rest(to_us(now))

    async def finish(self, grace_s: float) -> None:
        """Let tries under way end, for a bounded time. What is cut off is sent again later."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _rest(self, now: int) -> None:
        due = await self._db.read(deliveries.next_delivery_due, now)
        rate_s = self._queue.rest_s(self._runtime.clock.monotonic())
        longest = self._engine.idle_s if rate_s is None else min(rate_s, self._engine.idle_s)
        await self.wakeup.sleep_until(None if due is None else from_us(due), longest)

    def _start(self) -> None:
        self._queue.start(self._runtime.clock.monotonic(), self._begin)

    def _begin(self, claim: Claim) -> None:
        task = asyncio.create_task(self._deliver(claim))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("delivery_crashed", exc_info=task.exception())

    async def _claim(self, wanted: Sequence[tuple[str, int]]) -> list[Claim]:
        life_s = _LEASES_PER_TIMEOUT * self._settings.timeout_s
        now, until = self._runtime.clock.now(), self._runtime.clock.monotonic() + life_s
        rows: list[Row] = await self._db.run(
            deliveries.claim_deliveries, wanted, to_us(now), to_us(now + timedelta(seconds=life_s))
        )
        return [
            Claim(
                id=row["id"],
                event_id=row["event_id"],
                endpoint_id=row["endpoint_id"],
                token=row["lease_token"],
                attempts=row["attempts"],
                plan_from=row["plan_from"],
                trigger=row["trigger"],
                type=row["type"],
                payout_id=row["payout_id"],
                body=row["body"],
                until=until,
            )
            for row in rows
        ]

    async def _deliver(self, claim: Claim) -> None:
        begun_s = self._runtime.clock.monotonic()
        result: DeliveryResult | None = None
        try:
            self._runtime.failpoint(Failpoint.DELIVERY_CLAIMED)
            known = await self._target(claim.endpoint_id)
            if known is None:
                # Disabled since: the sweeper puts it with what was missed.
                return
            begun = self._runtime.clock.now()
            result = await self._sender.send(known.target, claim.event_id, claim.body)
            self._runtime.failpoint(Failpoint.DELIVERY_SENT)
        finally:
            answered = result is None or result.outcome is not DeliveryOutcome.TIMEOUT
            took_s = self._runtime.clock.monotonic() - begun_s
            hungry = self._queue.ended(claim.endpoint_id, took_s, answered=answered)
            self._start()
            if hungry:
                self.wakeup.ring()
        next_at, verdict = None, Verdict.NOTHING
        if result.ok and not known.failing and result.disabled_reason is None:
            await self._receipts.settle(self._receipt(claim, result, begun))
        else:
            next_at, verdict = await self._db.run(self._settle, claim, result, begun)
        self._runtime.failpoint(Failpoint.DELIVERY_SETTLED)
        if verdict is Verdict.DISABLE or (not result.ok and not known.failing):
            self._known.pop(claim.endpoint_id, None)
        if verdict is Verdict.DISABLE:
            await self._skip_missed()
        if next_at is not None or verdict is not Verdict.NOTHING:
            # The loop sleeps by what was due before: tell it of the new try, or of the new event.
            self.wakeup.ring()
        self._tell(claim, result, next_at)

    async def _target(self, endpoint_id: str) -> _Known | None:
        """Return where an endpoint's events go; None where it is disabled or gone."""
        now = self._runtime.clock.monotonic()
        known = self._known.get(endpoint_id)
        if known is None or now - known.read_at >= _TARGET_S:
            found = await self._db.read(self._endpoints.target, endpoint_id)
            if found is None:
                self._known.pop(endpoint_id, None)
                return None
            if len(self._known) > 10 * self._settings.in_flight:
                self._known.clear()
            known = self._known[endpoint_id] = _Known(found.target, found.failing, now)
        return known

    def _receipt(self, claim: Claim, result: DeliveryResult, begun: datetime) -> Receipt:
        return Receipt(
            claim.id,
            claim.token,
            to_us(self._runtime.clock.now()),
            result.outcome,
            result.http_status,
            result.snippet,
            to_us(begun),
            result.duration_ms,
        )

    async def _settle(
        self, tx: Tx, claim: Claim, result: DeliveryResult, begun: datetime
    ) -> tuple[datetime | None, Verdict]:
        """Store function: write the outcome of a try, plan the next one, judge the endpoint.

        For whatever is no plain receipt of an endpoint that has been well.
        """
        now = self._runtime.clock.now()
        next_at = None if result.ok else self._next(claim, result, now)
        state = "delivered" if result.ok else "exhausted" if next_at is None else "pending"
        settled = to_us(now) if next_at is None else None
        due = to_us(next_at or now)
        number = await deliveries.settle_delivery(tx, claim.id, claim.token, state, due, settled)
        if number is None:
            return None, Verdict.NOTHING
        await deliveries.add_delivery_attempt(
            tx,
            delivery_id=claim.id,
            attempt=number,
            outcome=result.outcome,
            http_status=result.http_status,
            response_snippet=result.snippet,
            started_at=to_us(begun),
            duration_ms=result.duration_ms,
            next_attempt_at=None if next_at is None else to_us(next_at),
            trigger=claim.trigger,
            endpoint_id=claim.endpoint_id,
        )
        verdict = await self._judge(
            tx, claim.endpoint_id, result, to_us(now), gave_up=next_at is None
        )
        return next_at, verdict

    async def _judge(
        self, tx: Tx, endpoint_id: str, result: DeliveryResult, now: int, *, gave_up: bool
    ) -> Verdict:
        """Store function: remember the endpoint's health, warn of it or disable it."""
        row = await endpoint_rows.endpoint_row(tx, endpoint_id)
        if row is None or row["status"] != "enabled" or row["deleted_at"] is not None:
            return Verdict.NOTHING
        health, verdict = (
            (Health(), Verdict.NOTHING)
            if result.ok
            else after_failure(
                Health.of(row),
                now,
                gave_up=gave_up,
                warn_after_s=self._settings.warn_after_s,
                disable_after_s=self._settings.disable_after_s,
            )
        )
        await endpoint_rows.update_endpoint(tx, endpoint_id, **health.columns)
        reason = result.disabled_reason or ("failing" if verdict is Verdict.DISABLE else None)
        if reason is not None:
            await self._endpoints.disable(tx, endpoint_id, reason)
            return Verdict.DISABLE
        if verdict is Verdict.WARN:
            await self._endpoints.warn(tx, endpoint_id)
        return verdict

    async def _skip_missed(self) -> None:
        """Put what a disabled endpoint waits for with what it missed, in bounded batches."""
        now = to_us(self._runtime.clock.now())
        while (
            await self._db.run(deliveries.skip_deliveries, now, _SKIPPED_AT_ONCE)
            >= _SKIPPED_AT_ONCE
        ):
            pass

    def _next(self, claim: Claim, result: DeliveryResult, now: datetime) -> datetime | None:
        """Return when to try again by the plan, or None where it is exhausted."""
        plan, done = self._settings.retry_plan_s, claim.attempts - claim.plan_from
        if done >= len(plan):
            return None
        least = self._settings.slow_down_s if result.overloaded else 0.0
        planned = max(least, max(plan[done], least) * self._runtime.ids.jitter())
        if result.retry_after_s is not None:
            # Honoured between once and twice the plan: a receiver may slow us down, not put us off.
            planned = min(max(planned, result.retry_after_s), 2 * planned)
        return now + timedelta(seconds=min(planned, _LONGEST_WAIT_S))

    def _tell(self, claim: Claim, result: DeliveryResult, next_at: datetime | None) -> None:
        self._metrics.webhook_attempt(result.outcome)
        # A receipt is in the log of tries; what went wrong is in this one, too.
        tell = _log.debug if result.ok else _log.info
        tell(
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
            next_attempt_at=None if next_at is None else next_at.isoformat(),
        )
