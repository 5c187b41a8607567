"""The single changes that recording an outcome consists of: evidence, status updates, blocks and ends."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.adapter import Capabilities, Report
from gateway.execution.ended import look_later
from gateway.execution.history import columns_of, next_number
from gateway.execution.proof import Evidence, closed, open_calls
from gateway.execution.work import Work
from gateway.model import Attention
from gateway.payout_change import Applied
from gateway.payouts import Payouts
from gateway.runtime import Moment, Runtime
from gateway.store import account_turns, executions
from gateway.store import evidence as stored
from gateway.store import payouts as payout_rows
from gateway.store.database import Tx

#: Alerts that an operator has to resolve before anything more is sent.
_BLOCKS = (Attention.MISMATCH, Attention.FOREIGN_REF)


class Changes:
    """Store functions that change one execution. The caller holds its lease, or may end it."""

    def __init__(
        self, runtime: Runtime, payouts: Payouts, custodian: str, capabilities: Capabilities
    ) -> None:
        self._runtime = runtime
        self._payouts = payouts
        self._can = capabilities
        self._custodian = custodian

    async def add_evidence(
        self, tx: Tx, work: Work, rows: Sequence[Evidence], detail: str | None
    ) -> None:
        """Write new rows of evidence, and the answers of rows that exist. May be called twice."""
        known = work.history.last_number
        fresh = [each for each in rows if each.number > known]
        for each in rows:
            if each.number <= known:
                await stored.note_answer(tx, work.row["id"], each.number, each.answer)
        if fresh:
            columns = [columns_of(work.row["id"], each, detail) for each in fresh]
            await stored.note_evidence(tx, columns)
        work.history = work.history.having(*rows)

    async def tell(
        self, tx: Tx, work: Work, news: Sequence[tuple[str, Report]]
    ) -> tuple[Applied, ...]:
        """Apply reports to items; one that does not fit the order blocks the execution."""
        applied = []
        for payout_id, report in news:
            # The row as it was read in this transaction, unless it was changed since.
            row = None if payout_id in work.told else work.rows.get(payout_id)
            work.told.add(payout_id)
            done = await self._payouts.apply(tx, payout_id, report, row, work.refs)
            work.refs = None
            applied.append(done)
            if done.final:
                work.final.add(payout_id)
            odd = next((each for each in _BLOCKS if each in done.attention), None)
            if odd is not None and work.row["blocked"] is None:
                await executions.update_execution(tx, work.row["id"], blocked=odd)
        return tuple(applied)

    async def reopen(self, tx: Tx, work: Work, items: Sequence[str], now: Moment) -> None:
        """Close an execution and open another one for some of its items, with new keys.

        The caller has asked the second gate: everything that was sent for them is closed.
        """
        await self.close(tx, work, now)
        await executions.open_execution(
            tx,
            execution_id=self._runtime.ids.new("exe"),
            custodian=self._custodian,
            account=work.row["account"],
            items=items,
            at=now,
            due=self._runtime.timeline.now(),
            number=await next_number(tx, work.row),
            batch_id=work.row["batch_id"],
            rank=work.row["rank"],
        )

    async def close(self, tx: Tx, work: Work, now: Moment, reason: str | None = None) -> None:
        """End an execution and give back its turn; if a call may still arrive, it is looked at later."""
        columns: dict[str, object] = {
            "rows": work.history.last_number,
            "open_calls": len(open_calls(work.history)),
            "refusal": None,
        }
        if reason:
            columns["outcome"] = reason[:500]
        await executions.close(tx, work.row["id"], now.wall, **columns)
        await self.release_account(tx, work, now)
        if not all(closed(work.history, each["id"]) for each in work.items):
            timeline = self._runtime.timeline.now()
            await look_later(tx, self._can, self._custodian, work.row["id"], timeline)

    async def release_account(self, tx: Tx, work: Work, now: Moment) -> None:
        """Give back the turn at an account that pays one payout at a time."""
        if self._can.one_at_a_time:
            await account_turns.release_account(
                tx,
                work.row["id"],
                self._custodian,
                work.row["account"],
                now.wall,
                self._runtime.timeline.now(),
            )

    async def close_if_ended(self, tx: Tx, work: Work, now: Moment, last: Report) -> None:
        """End an execution whose items have all ended, with the last report as the reason."""
        if work.ended:
            await self.close(tx, work, now, last.custodian_word or last.detail or "ended")

    async def block(self, tx: Tx, work: Work, code: Attention, detail: str, now: Moment) -> None:
        """Set no further mark for an execution, and tell the operator why."""
        await payout_rows.add_attention(tx, work.items[0]["id"], code, detail, now.wall)
        if work.row["blocked"] is None:
            await executions.update_execution(tx, work.row["id"], blocked=code.value)
