"""Works off the custodians' webhooks that were stored before they were answered."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from gateway.adapter import Notice
from gateway.config import EngineSettings
from gateway.logs import get_logger
from gateway.metrics import Metrics
from gateway.model import Status
from gateway.payouts import Payouts
from gateway.runtime import Failpoint, Runtime
from gateway.store import inbox, sets, work
from gateway.store import payouts as payout_rows
from gateway.store.database import Database, Row, Tx
from gateway.store.rows import to_us
from gateway.store.state import note_unmatched
from gateway.wakeup import Wakeup

_BATCH = 100
#: What a webhook may come to besides `applied`, `waiting` and `ignored`.
_KEPT = frozenset({"unreadable", "unconfigured", "failed"})
_log = get_logger("inbox")


class Parser(Protocol):
    """What reads a custodian's webhook."""

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Turn a webhook into notices."""


class Inbox:
    """Matches notices with payouts. Early ones wait until a payout learns their ids."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        *,
        db: Database,
        runtime: Runtime,
        payouts: Payouts,
        custodians: Mapping[str, Parser],
        settings: EngineSettings,
        metrics: Metrics,
        wake: Callable[[str], None],
    ) -> None:
        self._db = db
        self._runtime = runtime
        self._payouts = payouts
        self._custodians = custodians
        self._settings = settings
        self._metrics = metrics
        self._wake = wake
        self.wakeup = Wakeup(runtime.clock)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            rows = await self._db.read(inbox.new_webhooks, _BATCH)
            for row in rows:
                await self._one(row)
            if len(rows) < _BATCH:
                await self.wakeup.sleep(self._settings.idle_s)

    async def _one(self, row: Row) -> None:
        custodian, inbox_id = row["custodian"], row["id"]
        try:
            state = await self._read(row)
        except sqlite3.OperationalError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad row must not hold up the others
            _log.error("webhook_failed", custodian=custodian, inbox_id=inbox_id, exc_info=error)
            state = "failed"
        if state in _KEPT:
            # Kept raw: an operator can read it, and a later version may understand it.
            now = to_us(self._runtime.clock.now())
            await self._db.run(inbox.settle_webhook, inbox_id, state, None, now)
            _log.warning("webhook_kept", custodian=custodian, inbox_id=inbox_id, outcome=state)
        self._runtime.failpoint(Failpoint.INBOX_APPLIED)
        self._metrics.inbox(custodian, state)
        self._wake(custodian)
        self._wake(f"sets-{custodian}")
        self._wake("deliveries")

    async def _read(self, row: Row) -> str:
        """Read one webhook and apply its notices; return what became of it."""
        custodian = self._custodians.get(row["custodian"])
        if custodian is None:
            return "unconfigured"
        try:
            notices = custodian.parse(row["body"])
        except ValueError:
            return "unreadable"
        state, reached = await self._db.run(self._apply, row["id"], row["custodian"], notices)
        for status in reached:
            self._metrics.payout(status)
        return state

    async def _apply(
        self, tx: Tx, inbox_id: str, custodian: str, notices: Sequence[Notice]
    ) -> tuple[str, list[Status]]:
        """Store function: bring each notice to its payout, or let the webhook wait."""
        reached: list[Status] = []
        now = to_us(self._runtime.clock.now())
        found: str | None = None
        waiting = False
        for notice in (each for each in notices if each.refs):
            payout_id = await self._match(tx, custodian, notice)
            if payout_id is None:
                waiting = True
                for ref in notice.refs:
                    await inbox.wait_for_ref(tx, inbox_id, custodian, ref.kind, ref.value)
                    await note_unmatched(tx, self._runtime.ids, now, custodian, ref.kind, ref.value)
                continue
            found = payout_id
            await work.add_told(tx, payout_id, notice.told)
            if notice.report is not None:
                reached += (await self._payouts.apply(tx, payout_id, notice.report)).reached
            if not await work.hasten_work(tx, payout_id, now):
                await sets.hasten_set_of(tx, payout_id, now)
        state = "waiting" if waiting else "applied" if found else "ignored"
        await inbox.settle_webhook(tx, inbox_id, state, found, now)
        return state, reached

    @staticmethod
    async def _match(tx: Tx, custodian: str, notice: Notice) -> str | None:
        for ref in notice.refs:
            payout_id = await payout_rows.payout_of_ref(tx, custodian, ref.kind, ref.value)
            if payout_id is not None:
                return payout_id
        return None
