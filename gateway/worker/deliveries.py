"""Delivers events: claim due deliveries, send, settle by the retry plan."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.config import EngineSettings, WebhookSettings
from gateway.delivery import Sender, Tried
from gateway.logs import get_logger
from gateway.metrics import Metrics
from gateway.seams import Seams, Step
from gateway.store import events
from gateway.store.database import Database, Row, Tx
from gateway.store.rows import from_us, to_us
from gateway.vault import Vault
from gateway.worker.wakeup import Wakeup

_log = get_logger("deliveries")
#: A lease outlives the longest try by so much: two tries of one delivery do not overlap.
_LEASES_PER_TIMEOUT = 2


@dataclass(frozen=True)
class Claim:
    """A delivery under lease."""

    id: str
    event_id: str
    endpoint_id: str
    token: int
    attempts: int


class Deliveries:
    """Sends what is due, a bounded number at a time."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        *,
        db: Database,
        seams: Seams,
        vault: Vault,
        sender: Sender,
        settings: WebhookSettings,
        engine: EngineSettings,
        metrics: Metrics,
    ) -> None:
        self._db = db
        self._seams = seams
        self._vault = vault
        self._sender = sender
        self._settings = settings
        self._engine = engine
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()
        self.wakeup = Wakeup(seams.clock)

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            free = self._settings.in_flight - len(self._tasks)
            claims = await self._claim(free) if free else []
            for claim in claims:
                task = asyncio.create_task(self._deliver(claim), name=f"deliver-{claim.id}")
                self._tasks.add(task)
                task.add_done_callback(self._done)
            if not claims or len(claims) < free:
                await self._rest()

    async def finish(self, grace_s: float) -> None:
        """Let tries under way end, for a bounded time. What is cut off is sent again later."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _rest(self) -> None:
        due = await self._db.read(events.next_delivery_due)
        busy = len(self._tasks) >= self._settings.in_flight
        at = None if due is None or busy else from_us(due)
        await self.wakeup.sleep_until(at, self._engine.idle_s)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if len(self._tasks) == self._settings.in_flight - 1:
            self.wakeup.ring()
        if not task.cancelled() and task.exception() is not None:
            _log.error("delivery_crashed", exc_info=task.exception())

    async def _claim(self, limit: int) -> list[Claim]:
        now = self._seams.clock.now()
        until = to_us(now + timedelta(seconds=_LEASES_PER_TIMEOUT * self._settings.timeout_s))
        rows: list[Row] = await self._db.run(events.claim_deliveries, to_us(now), until, limit)
        return [
            Claim(
                row["id"], row["event_id"], row["endpoint_id"], row["lease_token"], row["attempts"]
            )
            for row in rows
        ]

    async def _deliver(self, claim: Claim) -> None:
        self._seams.step(Step.DELIVERY_CLAIMED)
        target = await self._db.read(events.delivery_target, claim.id)
        if target is None:
            return
        secret = self._vault.open(target["secret"], bound_to=claim.endpoint_id)
        begun = self._seams.clock.now()
        tried = await self._sender.send(target["url"], (secret,), claim.event_id, target["body"])
        self._seams.step(Step.DELIVERY_SENT)
        next_at = await self._db.run(self._settle, claim, tried, begun)
        self._seams.step(Step.DELIVERY_SETTLED)
        if next_at is not None:
            # The loop sleeps by what was due before: tell it of the new try.
            self.wakeup.ring()
        self._metrics.webhook_attempt(tried.outcome)
        _log.info(
            "webhook_tried",
            payout_id=target["payout_id"],
            endpoint_id=claim.endpoint_id,
            event_id=claim.event_id,
            type=target["type"],
            attempt=claim.attempts + 1,
            outcome=tried.outcome,
            http_status=tried.http_status,
            duration_ms=tried.duration_ms,
            next_attempt_at=None if next_at is None else next_at.isoformat(),
        )

    async def _settle(self, tx: Tx, claim: Claim, tried: Tried, begun: datetime) -> datetime | None:
        """Store function: write the outcome of a try and plan the next one."""
        now = self._seams.clock.now()
        next_at = None if tried.ok else self._next(claim.attempts, now)
        state = "delivered" if tried.ok else "exhausted" if next_at is None else "pending"
        settled = to_us(now) if next_at is None else None
        due = to_us(next_at or now)
        number = await events.settle_delivery(tx, claim.id, claim.token, state, due, settled)
        if number is None:
            return None
        await events.add_delivery_attempt(
            tx,
            delivery_id=claim.id,
            attempt=number,
            outcome=tried.outcome,
            http_status=tried.http_status,
            response_snippet=tried.snippet,
            started_at=to_us(begun),
            duration_ms=tried.duration_ms,
            next_attempt_at=None if next_at is None else to_us(next_at),
        )
        return next_at

    def _next(self, tries_before: int, now: datetime) -> datetime | None:
        """Return when to try again by the plan, or None where it is exhausted."""
        plan = self._settings.retry_plan_s
        if tries_before >= len(plan):
            return None
        return now + timedelta(seconds=plan[tries_before] * self._seams.ids.jitter())
