"""Finds what nobody owns, deletes what has ended, and measures what waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from gateway import attention
from gateway.config.settings import EngineSettings, RetentionSettings, WebhookSettings
from gateway.erasure import erase
from gateway.execution.record import Recorder
from gateway.logs import get_logger
from gateway.metrics import Metrics
from gateway.runtime import Runtime
from gateway.store import attention as attention_rows
from gateway.store import deliveries, idempotency, inbox, quotes, spending
from gateway.store import erasure as erasure_rows
from gateway.store import payouts as payout_rows
from gateway.store.audit import GATEWAY
from gateway.store.database import Database, Tx
from gateway.store.due import oldest_due
from gateway.store.rows import to_us
from gateway.store.state import frozen

_BATCH = 500
#: Events that are deleted in one transaction; each takes its deliveries with it.
_EVENTS = 100
#: Endpoints whose lag is reported one by one; the others are in the oldest of all.
_MOST_LAGS = 50
#: Open payouts of a status that are counted; a long backlog is not read as a whole each minute.
_MOST_COUNTED = 50_000
#: Sweeps in a row that delete nothing, after one that found nothing to be deleted: it is kept for days.
_FORGETS_NOTHING = 9
#: How long the counters of limits are kept after their windows.
_WINDOWS_KEPT = timedelta(days=400)
_log = get_logger("sweeper")


class Sweeper:
    """One look now and then over the whole store, in bounded batches."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        *,
        db: Database,
        runtime: Runtime,
        settings: EngineSettings,
        metrics: Metrics,
        wake: Callable[[str], None],
        webhooks: WebhookSettings,
        retention: RetentionSettings,
        recorders: Mapping[str, Recorder],
    ) -> None:
        self._recorders = recorders
        self._retention = retention
        self._db = db
        self._runtime = runtime
        self._settings = settings
        self._metrics = metrics
        self._wake = wake
        self._webhooks = webhooks

    async def run(self) -> None:
        """Sweep until cancelled."""
        left_out = 0
        while True:
            found = await self.sweep(forget=left_out == 0)
            left_out = 0 if found else (left_out + 1) % (_FORGETS_NOTHING + 1)
            await self._runtime.clock.sleep(self._settings.sweep_s * self._runtime.ids.jitter())

    async def sweep(self, *, forget: bool = True) -> bool:
        """Sweep once; return whether what was kept long enough may have been deleted. May be called any number of times.

        `forget`: whether to look for that.
        """
        # Long reads run in a reader thread; only what they found is then written.
        unowned = await self._db.scan(payout_rows.unowned_payouts, 1)
        owned = await self._db.run(self._own) if unowned else []
        for payout_id, custodian in owned:
            _log.error("unowned_payout", payout_id=payout_id, custodian=custodian)
            self._metrics.unowned()
            self._wake(custodian)
        now = to_us(self._runtime.clock.now())
        while await self._db.run(idempotency.purge_answers, now, _BATCH) >= _BATCH:
            pass
        # What an endpoint missed while it was disabled waits for a recovery, not for its turn.
        while await self._db.run(deliveries.skip_deliveries, now, _BATCH) >= _BATCH:
            pass
        await self._attend(now)
        before = self._db.commits
        if forget:
            await self._forget()
        found = self._db.commits != before
        await self._measure()
        return found

    async def _attend(self, now: int) -> None:
        """Close attention whose cause has ended, and tell subscribers of what is new."""
        await self._db.run(attention_rows.close_ended, now, tuple(self._recorders))
        told = False
        while new := await self._db.scan(attention_rows.untold, _BATCH):
            for row in new:
                names = row["payout_id"], row["code"], row["detail"]
                told = await self._db.run(attention.tell, self._runtime, *names) or told
        if told:
            self._wake("deliveries")

    async def _forget(self) -> None:
        """Delete what was kept long enough, a batch per transaction."""
        now = self._runtime.clock.now()
        await self._forget_events(now)
        if await self._db.read(frozen) is None:
            # A database that may be an old copy is evidence: nothing of it goes by itself.
            await self._forget_webhooks(now)
            await self._forget_quotes(now)
            await self._erase(now)
            await self._forget_windows(now)

    async def _forget_events(self, now: datetime) -> None:
        """Drop months of events that are over, or delete what is old where there are no months."""
        tried_before = to_us(now - timedelta(days=self._webhooks.keep_attempts_days))
        told_before = to_us(now - timedelta(days=self._webhooks.keep_events_days))
        events: Sequence[tuple[int, int] | None] = (None,)
        tries = events
        if self._db.months is not None:
            now_at = self._runtime.timeline.now()
            events, tries = await self._db.months.sweep(now_at, told_before, tried_before)
        for span in tries:
            while tried := await self._db.scan(deliveries.old_attempts, tried_before, _BATCH, span):
                await self._db.run(deliveries.purge_attempts, tried, tried_before)
        for span in events:
            while told := await self._db.scan(deliveries.old_events, told_before, _BATCH, span):
                await self._db.run(deliveries.purge_events, told, told_before)

    async def _forget_webhooks(self, now: datetime) -> None:
        """Delete custodians' webhooks that match nothing, or whose payout has ended."""
        for matched, days in (
            (False, self._retention.unmatched_webhooks_days),
            (True, self._retention.webhooks_days),
        ):
            before = to_us(now - timedelta(days=days))
            while found := await self._db.scan(inbox.old_webhooks, before, _BATCH, matched=matched):
                if not await self._db.run(inbox.purge_webhooks, found, before, matched=matched):
                    break

    async def _forget_quotes(self, now: datetime) -> None:
        """Delete expired quotes that never became a payout."""
        before = to_us(now - timedelta(days=self._retention.quotes_days))
        while await self._db.run(quotes.purge_quotes, before, _BATCH) >= _BATCH:
            pass

    async def _forget_windows(self, now: datetime) -> None:
        """Delete counters of limits whose windows ended long ago."""
        before = f"{now - _WINDOWS_KEPT:%Y-%m}"
        while await self._db.run(spending.purge_counters, before, _BATCH) >= _BATCH:
            pass

    async def _erase(self, now: datetime) -> None:
        """Erase the personal data of payouts that ended long enough ago, where that is wanted."""
        if self._retention.personal_data_days is None:
            return
        before, at = to_us(now - timedelta(days=self._retention.personal_data_days)), to_us(now)
        while found := await self._db.scan(erasure_rows.erasable, before, _BATCH):
            needed = [
                await self._db.run(erase, self._runtime.ids, at, each, GATEWAY) for each in found
            ]
            if all(needed):
                # Something has needed each of them since they were found; the next sweep looks again.
                return

    async def _own(self, tx: Tx) -> list[tuple[str, str]]:
        """Store function: give payouts that nobody would ever work on back to the engine."""
        owned = []
        for row in await payout_rows.unowned_payouts(tx, _BATCH):
            recorder = self._recorders.get(row["custodian"])
            if recorder is not None and await recorder.own(tx, row["id"]):
                owned.append((row["id"], row["custodian"]))
        return owned

    async def _measure(self) -> None:
        """Set the gauges. Scrapes read nothing from the database."""
        timeline = self._runtime.timeline.now()
        now = self._runtime.clock.now()
        found = await self._db.scan(payout_rows.open_counts, _MOST_COUNTED)
        self._metrics.open_payouts(
            (
                (row["mode"], row["custodian"], status.value, row["sub_status"]),
                row["payouts"],
                max(0.0, now.timestamp() - row["oldest"] / 1e6),
            )
            for status, row in found
        )
        due = await self._db.scan(oldest_due)
        self._metrics.work_age(0.0 if due is None else max(0.0, (timeline - due) / 1e6))
        due = await self._db.scan(deliveries.oldest_delivery_due)
        self._metrics.delivery_age(0.0 if due is None else max(0.0, (timeline - due) / 1e6))
        lags = await self._db.scan(deliveries.lags, timeline, _MOST_LAGS)
        self._metrics.endpoint_lags(
            {row["endpoint_id"]: max(0.0, (timeline - row["due"]) / 1e6) for row in lags}
        )
        counts = await self._db.scan(payout_rows.attention_counts)
        self._metrics.attention({row["code"]: row["rows"] for row in counts})
        self._metrics.measured(now.timestamp())
