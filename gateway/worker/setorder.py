"""The set that an adapter is handed: its items, its durable notes and its moving mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from gateway.assets import AssetRegistry
from gateway.errors import LeaseLost
from gateway.model import Account, Destination, Payout
from gateway.recovery import Attempt, AttemptState
from gateway.runtime import Failpoint, Runtime
from gateway.store import sets
from gateway.store.database import Database, Tx
from gateway.store.rows import to_us
from gateway.worker.order import step_key


@dataclass(frozen=True)
class SetLease:
    """A claim on a set: the fencing token, and the `due_at` that the claim wrote."""

    set_id: str
    token: int
    claimed_due: int


@dataclass(frozen=True)
class SetJob:
    """A claimed set, as it stood when the claim was made."""

    lease: SetLease
    batch_id: str
    source: Account
    attempt: Attempt
    notes: Mapping[str, Any]
    items: Sequence[Payout]


class LiveItem:
    """One payout of a set."""

    def __init__(self, payout: Payout, assets: AssetRegistry) -> None:
        self._payout = payout
        self._assets = assets

    @property
    def payout_id(self) -> str:
        """The gateway's id of the payout."""
        return self._payout.id

    @property
    def key(self) -> str:
        """A key of its own within the set."""
        return step_key(self._payout.id, 1, "instruction")

    @property
    def asset(self) -> str:
        """The asset code."""
        return self._payout.terms.recipient_asset

    @property
    def network(self) -> str | None:
        """The network on which the recipient is paid."""
        return self._payout.terms.route.to_network

    @property
    def decimals(self) -> int:
        """The decimals of the asset on that network."""
        return self._assets.find(self.asset).decimals_on(self.network)

    @property
    def amount(self) -> Decimal:
        """What the custodian is told to transfer."""
        return self._payout.terms.recipient_gets

    @property
    def source(self) -> Account:
        """The account that pays."""
        return self._payout.account

    @property
    def destination(self) -> Destination:
        """Who is paid."""
        return self._payout.terms.destination

    @property
    def reference(self) -> str | None:
        """The partner's own reference."""
        return self._payout.reference


class SetOrder:
    """A set backed by the store. One per call of an adapter's verb."""

    def __init__(
        self, *, db: Database, runtime: Runtime, lease_s: float, job: SetJob, assets: AssetRegistry
    ) -> None:
        self._db = db
        self._runtime = runtime
        self._lease = job.lease
        self._lease_life = timedelta(seconds=lease_s)
        self._attempt = job.attempt
        self._source = job.source
        self._items = [LiveItem(each, assets) for each in job.items]
        self._notes = dict(job.notes)
        self._moved_now = False

    @property
    def set_id(self) -> str:
        """The gateway's id of the set."""
        return self._lease.set_id

    @property
    def source(self) -> Account:
        """The account that pays all of it."""
        return self._source

    @property
    def items(self) -> Sequence[LiveItem]:
        """Every payout of the set, always in the same order."""
        return self._items

    @property
    def notes(self) -> Mapping[str, Any]:
        """What was remembered."""
        return self._notes

    @property
    def moved(self) -> bool:
        """Whether a moving call was begun before this call of the verb."""
        return self._attempt.moves > 0

    @property
    def moved_now(self) -> bool:
        """Whether the moving mark was set through this very object."""
        return self._moved_now

    def key(self, step: str) -> str:
        """Return the key of one POST."""
        return step_key(self._lease.set_id, 1, step)

    async def remember(self, **notes: Any) -> None:
        """Add durable notes; committed when this returns. Raises LeaseLost."""
        self._runtime.failpoint(Failpoint.REMEMBERING)
        merged = await self._db.run(self._write_notes, notes)
        if merged is None:
            raise LeaseLost(self.set_id)
        self._notes = merged
        self._runtime.failpoint(Failpoint.REMEMBERED)

    async def moving(self) -> None:
        """Set the durable moving mark and check the lease. Raises LeaseLost: make no call then."""
        self._runtime.failpoint(Failpoint.MOVING)
        until = self._runtime.clock.now() + self._lease_life
        if not await self._db.run(self._write_mark, to_us(until)):
            raise LeaseLost(self.set_id)
        # The commit itself may have been slow; past the lease another worker may be at it already.
        if self._runtime.clock.now() >= until:
            raise LeaseLost(self.set_id)
        self._moved_now = True
        self._runtime.failpoint(Failpoint.MOVED)

    async def _write_notes(self, tx: Tx, notes: Mapping[str, Any]) -> dict[str, Any] | None:
        if not await sets.holds_set(tx, self._lease.set_id, self._lease.token):
            return None
        return await sets.add_set_notes(tx, self._lease.set_id, notes)

    async def _write_mark(self, tx: Tx, until: int) -> bool:
        now = to_us(self._runtime.clock.now())
        if not await sets.extend_set(tx, self._lease.set_id, self._lease.token, now, until):
            return False
        await sets.update_set(
            tx,
            self._lease.set_id,
            state=AttemptState.MOVING,
            moves=self._attempt.moves + 1,
            last_call_at=now,
        )
        return True
