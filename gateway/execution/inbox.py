"""Custodians' webhooks are stored and applied in one transaction; one that cannot be applied yet waits."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from gateway.adapter import Notice, Report
from gateway.config.settings import EngineSettings
from gateway.execution.late import news_of_closed
from gateway.execution.proof import Source
from gateway.execution.record import Recorder
from gateway.logs import get_logger
from gateway.metrics import Metrics
from gateway.model import TERMINAL, Attention, Status
from gateway.report import FaultyNotice
from gateway.runtime import Failpoint, Runtime
from gateway.store import executions, inbox
from gateway.store import payouts as payout_rows
from gateway.store.database import Database, Row, Tx
from gateway.store.rows import to_us
from gateway.store.state import note_unmatched
from gateway.wakeup import Wakeup, looks_bell

_BATCH = 100
#: States besides `applied`, `waiting` and `ignored`; the raw body of such a webhook is kept.
_KEPT = frozenset({"unreadable", "unconfigured", "failed"})
_log = get_logger("inbox")


class Parser(Protocol):
    """Parses a custodian's webhooks."""

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Turn a webhook into notices."""


@dataclass
class _Result:
    """The result of processing a webhook."""

    #: `applied`, `waiting`, `ignored` or one of `_KEPT`; `new` if the loop is to process it
    state: str
    payout_id: str | None = None
    #: each notice with its payout; None if no payout has its ids yet
    matched: Sequence[tuple[Notice, Row | None]] = ()
    reached: list[Status] = field(default_factory=list)
    woke_inbox: bool = False
    #: failed payouts with a notice that has no status: the custodian is asked once
    ended: list[tuple[str, str]] = field(default_factory=list)
    #: whether a look after the delivery was brought forward or scheduled
    looks: bool = False


class Inbox:
    """Matches notices with payouts. A notice that comes early waits until a payout has its ids."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        *,
        db: Database,
        runtime: Runtime,
        custodians: Mapping[str, Parser],
        recorders: Mapping[str, Recorder],
        settings: EngineSettings,
        metrics: Metrics,
        wake: Callable[[str], None],
        look_after_end: Callable[[str, str], None] = lambda _custodian, _payout_id: None,
    ) -> None:
        self._db = db
        self._runtime = runtime
        self._recorders = recorders
        self._custodians = custodians
        self._settings = settings
        self._metrics = metrics
        self._wake = wake
        self._look_after_end = look_after_end
        self.wakeup = Wakeup(runtime.clock)

    async def receive(self, custodian: str, body: bytes) -> None:
        """Store and apply a verified webhook of a configured custodian. It is durable when this returns.

        If applying it fails, it is stored for the loop. May be called again with the same webhook.
        Raises sqlite3.OperationalError if the store cannot be written: the custodian must send it
        again.
        """
        notices: Sequence[Notice] | None
        try:
            notices = self._custodians[custodian].parse(body)
        except ValueError:
            notices = None
        key = _dedup_key(notices, body)
        try:
            result = await self._db.run(self._take, custodian, key, body, notices)
        except sqlite3.OperationalError:
            raise
        except Exception as error:  # noqa: BLE001 - it is stored in any case
            _log.error("webhook_postponed", custodian=custodian, dedup_key=key, exc_info=error)
            now = to_us(self._runtime.clock.now())
            fresh = await self._db.run(inbox.add_webhook, custodian, key, body, now)
            result = _Result("new") if fresh else None
        self._runtime.failpoint(Failpoint.INBOX_STORED)
        if result is None:
            self._metrics.inbox(custodian, "doubled")
        elif result.state == "new":
            self._wake("inbox")
        else:
            self._notify(custodian, key, result)

    async def run(self) -> None:
        """Process webhooks that waited or failed, until cancelled."""
        while True:
            rows = await self._db.read(inbox.new_webhooks, _BATCH)
            for row in rows:
                await self._one(row)
            if len(rows) < _BATCH:
                await self.wakeup.sleep(self._settings.idle_s)

    async def _one(self, row: Row) -> None:
        custodian, key = row["custodian"], row["dedup_key"]
        try:
            result = await self._process(row)
        except sqlite3.OperationalError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad row must not block the others
            _log.error("webhook_failed", custodian=custodian, dedup_key=key, exc_info=error)
            result = _Result("failed")
        if result.state in _KEPT:
            # The raw body is kept: an operator can read it, and a later version may understand it.
            now = to_us(self._runtime.clock.now())
            await self._db.run(inbox.settle_webhook, custodian, key, result.state, None, now)
        self._notify(custodian, key, result)

    async def _process(self, row: Row) -> _Result:
        """Parse and apply a webhook that was stored as `new`."""
        custodian = self._custodians.get(row["custodian"])
        if custodian is None:
            return _Result("unconfigured")
        try:
            notices = custodian.parse(row["body"])
        except ValueError:
            return _Result("unreadable")
        # Judge its age by when it was received, so that it does not become too old while it waits.
        believed = _believed(notices, row["received_at"])
        return await self._db.run(self._apply_stored, row["custodian"], row["dedup_key"], believed)

    def _notify(self, custodian: str, key: str, result: _Result) -> None:
        """Count a webhook, and wake the loops that continue from it."""
        if result.state in _KEPT:
            _log.warning("webhook_kept", custodian=custodian, dedup_key=key, outcome=result.state)
        self._runtime.failpoint(Failpoint.INBOX_APPLIED)
        self._metrics.inbox(custodian, result.state)
        for status in result.reached:
            self._metrics.payout(status)
        self._wake(custodian)
        if result.looks:
            self._wake(looks_bell(custodian))
        for payout in result.ended:
            self._look_after_end(*payout)
        if result.woke_inbox:
            self._wake("inbox")

    async def _take(
        self,
        tx: Tx,
        custodian: str,
        key: str,
        body: bytes,
        notices: Sequence[Notice] | None,
    ) -> _Result | None:
        """Store a webhook in its final state and apply it; None if it is already stored. Store function."""
        now = to_us(self._runtime.clock.now())
        if notices is None:
            result = _Result("unreadable")
        else:
            result = await self._match(tx, custodian, _believed(notices, now))
        fresh = await inbox.add_webhook(
            tx, custodian, key, body, now, state=result.state, payout_id=result.payout_id
        )
        if not fresh:
            return None
        await self._apply_matched(tx, custodian, key, result)
        return result

    async def _apply_stored(
        self, tx: Tx, custodian: str, key: str, notices: Sequence[Notice]
    ) -> _Result:
        """Apply a webhook that was stored as `new`. Store function."""
        now = to_us(self._runtime.clock.now())
        result = await self._match(tx, custodian, notices)
        await inbox.settle_webhook(tx, custodian, key, result.state, result.payout_id, now)
        await self._apply_matched(tx, custodian, key, result)
        return result

    @staticmethod
    async def _match(tx: Tx, custodian: str, notices: Sequence[Notice]) -> _Result:
        """Find the payout of each notice by its ids."""
        with_refs = [notice for notice in notices if notice.refs]
        pairs = list(dict.fromkeys(each for notice in with_refs for each in _refs(notice)))
        known = await payout_rows.payouts_of_refs(tx, custodian, pairs) if pairs else {}
        matched = [
            (notice, next((known[each] for each in _refs(notice) if each in known), None))
            for notice in with_refs
        ]
        found = [row["id"] for _, row in matched if row is not None]
        state = "waiting" if len(found) < len(matched) else "applied" if found else "ignored"
        return _Result(state, found[-1] if found else None, matched)

    async def _apply_matched(self, tx: Tx, custodian: str, key: str, result: _Result) -> None:
        """Apply each notice to its payout; a notice without a payout waits."""
        waiting = [each for notice, row in result.matched if row is None for each in _refs(notice)]
        if waiting:
            await inbox.wait_for_refs(tx, custodian, key, waiting)
            now = to_us(self._runtime.clock.now())
            for kind, value in waiting:
                await note_unmatched(tx, self._runtime.ids, now, custodian, kind, value)
        for notice, row in result.matched:
            if row is None:
                continue
            if row["custodian"] != custodian:
                await self._apply_to_closed(tx, row["id"], custodian, notice)
            else:
                await self._apply_notice(tx, row, notice, result)

    async def _apply_to_closed(
        self, tx: Tx, payout_id: str, custodian: str, notice: Notice
    ) -> None:
        """Apply a notice of a custodian that the payout has left; it says nothing about the current one."""
        report = _report_of(notice)
        if report is not None:
            now = self._runtime.clock.moment()
            await news_of_closed(tx, payout_id, custodian, report, Source.WEBHOOK, now)

    async def _apply_notice(self, tx: Tx, row: Row, notice: Notice, result: _Result) -> None:
        """Apply one notice, and bring the next look at its payout forward."""
        payout_id, final = row["id"], row["status"] in TERMINAL
        if notice.told:
            execution = await executions.open_execution_of(tx, payout_id)
            if execution is not None:
                await executions.add_told(tx, execution, notice.told)
        if isinstance(notice, FaultyNotice):
            at = to_us(self._runtime.clock.now())
            code = Attention.ADAPTER_ERROR
            await payout_rows.add_attention(tx, payout_id, code, notice.fault[:300], at)
        report = _report_of(notice)
        if report is not None:
            applied = await self._recorders[row["custodian"]].news(
                tx, payout_id, report, Source.WEBHOOK
            )
            if applied is not None:
                result.reached += applied.reached
                result.woke_inbox |= applied.woke_inbox
                final = applied.final
        result.looks |= final
        if not final:
            await executions.wake(tx, payout_id, self._runtime.timeline.now())
        elif row["status"] == Status.FAILED:
            if _says_status(notice):
                return
            # Nothing looks at this payout by itself any more, and yet the custodian reports a change.
            open_one = await executions.wake(tx, payout_id, self._runtime.timeline.now())
            if open_one is None:
                result.ended.append((row["custodian"], payout_id))
        else:
            await self._recorders[row["custodian"]].look_after_delivery(tx, payout_id)


def _says_status(notice: Notice) -> bool:
    return notice.report is not None and notice.report.sub_status is not None


def _believed(notices: Sequence[Notice], received_at: int) -> list[Notice]:
    """Return the notices; one that is too old loses its status and only triggers a look-up.

    A genuine webhook can be captured and replayed years later, when its row has been deleted.
    """
    return [
        each if _is_timely(each, received_at) else replace(each, report=None, told={}, returned=())
        for each in notices
    ]


def _report_of(notice: Notice) -> Report | None:
    """Return what a notice reports about its payout, including money that came back."""
    if not notice.returned:
        return notice.report
    said = notice.report or Report(None, notice.returned[-1].word)
    return replace(said, returned=(*said.returned, *notice.returned))


def _is_timely(notice: Notice, received_at: int) -> bool:
    if notice.believed_for_s is None:
        return True
    if notice.observed_at is None:
        return False
    return abs(received_at - to_us(notice.observed_at)) <= notice.believed_for_s * 1_000_000


def _refs(notice: Notice) -> list[tuple[str, str]]:
    return [(ref.kind, ref.value) for ref in notice.refs]


def _dedup_key(notices: Sequence[Notice] | None, body: bytes) -> str:
    """Return the custodian's own id of a delivery, or a digest of the body if it has none."""
    keys = [notice.dedup_key for notice in notices or ()]
    return "|".join(keys) or "sha256:" + hashlib.sha256(body).hexdigest()
