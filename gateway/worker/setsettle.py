"""Beginning and settling one piece of work on a set: store functions around an adapter's call.

Each writes under the set's lease: a stale token writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from gateway.adapter import Capabilities, Report
from gateway.model import Account, Attention
from gateway.payouts import Applied, Payouts
from gateway.recovery import Attempt, AttemptState, taken_over
from gateway.runtime import Runtime
from gateway.store import batches, sets, work
from gateway.store import payouts as payout_rows
from gateway.store.database import Row, Tx
from gateway.store.rows import payout_of, to_us
from gateway.worker.says import attempt_of
from gateway.worker.setorder import SetJob, SetLease

#: A set that waits for its turn is looked at again after so long, should the hand-over be missed.
_QUEUE_LOOK_S = 60.0


class SetSettlement:
    """Store functions of the engine of sets."""

    def __init__(self, runtime: Runtime, payouts: Payouts, capabilities: Capabilities) -> None:
        self._runtime = runtime
        self._payouts = payouts
        self._can = capabilities

    async def begin(self, tx: Tx, lease: SetLease) -> SetJob | None:
        """Store function: the job of a lease; None where it has ended, or it is not its turn."""
        row = await sets.set_row(tx, lease.set_id)
        if row is None or not await sets.holds_set(tx, lease.set_id, lease.token):
            return None
        now = self._runtime.clock.now()
        rows = await batches.items_of_set(
            tx, row["batch_id"], row["first_position"], row["last_position"]
        )
        left_out = set(json.loads(row["left_out"]))
        items = [payout_of(each) for each in rows if each["id"] not in left_out]
        attempt = attempt_of(row)
        if all(each.final for each in items):
            await self._end(tx, row, attempt, now)
            return None
        parked = attempt.state is AttemptState.PARKED
        if self._can.one_at_a_time and not parked and not await self._turn(tx, row, now):
            due = to_us(now + timedelta(seconds=_QUEUE_LOOK_S))
            await sets.release_set(tx, lease.set_id, lease.token, lease.claimed_due, due)
            return None
        seen = taken_over(attempt, now)
        if seen is not attempt:
            await self._store(tx, lease.set_id, seen, "taken over while moving")
        source = Account.model_validate_json(row["account"])
        return SetJob(lease, row["batch_id"], source, seen, json.loads(row["notes"]), items)

    async def _turn(self, tx: Tx, row: Row, now: datetime) -> bool:
        account = Account.model_validate_json(row["account"])
        taken = await work.take_account(
            tx, row["custodian"], account.type, account.id, row["id"], to_us(now)
        )
        since = None if taken else (row["waiting_since"] or row["created_at"])
        if since != row["waiting_since"]:
            await sets.update_set(tx, row["id"], waiting_since=since)
        return taken

    async def refuse(
        self, tx: Tx, lease: SetLease, notes: Mapping[str, object]
    ) -> Mapping[str, object] | None:
        """Keep a refusal of the whole set, before the first item is told of it; None: lease lost."""
        if not await sets.holds_set(tx, lease.set_id, lease.token):
            return None
        await sets.update_set(tx, lease.set_id, state=AttemptState.ENDED)
        return await sets.add_set_notes(tx, lease.set_id, notes)

    async def write(  # noqa: PLR0913 - what is written together
        self,
        tx: Tx,
        lease: SetLease,
        attempt: Attempt,
        reason: str | None,
        told: tuple[Attention, str] | None,
        first_item: str,
    ) -> bool:
        """Write the attempt, and what an operator should know of it; False: lease lost."""
        if not await sets.holds_set(tx, lease.set_id, lease.token):
            return False
        await self._store(tx, lease.set_id, attempt, reason)
        if told is not None:
            now = to_us(self._runtime.clock.now())
            await payout_rows.add_attention(tx, first_item, told[0], told[1][:200], now)
        return True

    async def apply(
        self, tx: Tx, lease: SetLease, news: list[tuple[str, Report]]
    ) -> list[Applied] | None:
        """Bring news to some items; None: lease lost."""
        if not await sets.holds_set(tx, lease.set_id, lease.token):
            return None
        return [await self._payouts.apply(tx, payout_id, report) for payout_id, report in news]

    async def release(
        self, tx: Tx, lease: SetLease, attempt: Attempt, delay: float, reason: str | None
    ) -> None:
        """Give the lease back with the time of the next look, or end the set with its last item."""
        row = await sets.set_row(tx, lease.set_id)
        if row is None or not await sets.holds_set(tx, lease.set_id, lease.token):
            return
        now = self._runtime.clock.now()
        rows = await batches.items_of_set(
            tx, row["batch_id"], row["first_position"], row["last_position"]
        )
        if all(payout_of(each).final for each in rows):
            await self._end(tx, row, attempt, now)
            return
        await self._store(tx, lease.set_id, attempt, reason)
        if attempt.state is AttemptState.PARKED:
            await work.free_account(tx, lease.set_id, row["custodian"], row["account"], to_us(now))
        due = to_us(now + timedelta(seconds=delay))
        await sets.release_set(tx, lease.set_id, lease.token, lease.claimed_due, due)

    async def _end(self, tx: Tx, row: Row, attempt: Attempt, now: datetime) -> None:
        await self._store(tx, row["id"], replace(attempt, state=AttemptState.ENDED), None)
        await sets.update_set(tx, row["id"], ended_at=to_us(now), lease_until=0)
        await work.free_account(tx, row["id"], row["custodian"], row["account"], to_us(now))

    @staticmethod
    async def _store(tx: Tx, set_id: str, attempt: Attempt, outcome: str | None) -> None:
        columns: dict[str, Any] = {
            "state": attempt.state,
            "moves": attempt.moves,
            "ever_unknown": int(attempt.ever_unknown),
            "absences": attempt.absences,
            "looks": attempt.looks,
            "failures": attempt.failures,
        }
        for name in ("last_call_at", "first_absence_at", "last_absence_at"):
            at = getattr(attempt, name)
            columns[name] = None if at is None else to_us(at)
        if outcome:
            columns["outcome"] = outcome[:500]
        await sets.update_set(tx, set_id, **columns)
