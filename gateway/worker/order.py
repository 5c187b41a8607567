"""The order that an adapter is handed: one attempt, its durable notes and its moving mark."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from uuid_utils import UUID

from gateway.errors import LeaseLost
from gateway.model import Account, Destination, Payout
from gateway.recovery import Attempt, AttemptState
from gateway.runtime import Failpoint, Runtime
from gateway.store import work
from gateway.store.database import Database, Tx
from gateway.store.rows import to_us


@dataclass(frozen=True)
class Lease:
    """A claim on a payout: the fencing token, and the `due_at` that the claim wrote."""

    payout_id: str
    token: int
    claimed_due: int


def step_key(payout_id: str, attempt: int, step: str) -> str:
    """Return the key of one POST: UUIDv4-shaped, stable per payout, attempt and step."""
    digest = bytearray(hashlib.sha256(f"{payout_id}/{attempt}/{step}".encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x40
    digest[8] = digest[8] & 0x3F | 0x80
    return str(UUID(bytes=bytes(digest)))


class LiveOrder:
    """An order backed by the store. One per call of an adapter's verb."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        *,
        db: Database,
        runtime: Runtime,
        lease: Lease,
        lease_s: float,
        payout: Payout,
        attempt: Attempt,
        notes: Mapping[str, Any],
        decimals: int,
    ) -> None:
        self._db = db
        self._runtime = runtime
        self._lease = lease
        self._lease_life = timedelta(seconds=lease_s)
        self._payout = payout
        self._attempt = attempt
        self._notes = dict(notes)
        self._decimals = decimals
        self._moved_now = False

    @property
    def payout_id(self) -> str:
        """The gateway's id of the payout."""
        return self._payout.id

    @property
    def attempt(self) -> int:
        """The number of the attempt, from 1."""
        return self._attempt.number

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
        return self._decimals

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

    @property
    def notes(self) -> Mapping[str, Any]:
        """What was remembered for this attempt."""
        return self._notes

    @property
    def moved(self) -> bool:
        """Whether a moving call of this attempt was begun before this call of the verb."""
        return self._attempt.moves > 0

    @property
    def moved_now(self) -> bool:
        """Whether the moving mark was set through this very object."""
        return self._moved_now

    def key(self, step: str) -> str:
        """Return the key of one POST."""
        return step_key(self._payout.id, self._attempt.number, step)

    async def remember(self, **notes: Any) -> None:
        """Add durable notes; committed when this returns. Raises LeaseLost."""
        self._runtime.failpoint(Failpoint.REMEMBERING)
        merged = await self._db.run(self._write_notes, notes)
        if merged is None:
            raise LeaseLost(self._payout.id)
        self._notes = merged
        self._runtime.failpoint(Failpoint.REMEMBERED)

    async def moving(self) -> None:
        """Set the durable moving mark and check the lease. Raises LeaseLost: make no call then."""
        self._runtime.failpoint(Failpoint.MOVING)
        until = self._runtime.clock.now() + self._lease_life
        if not await self._db.run(self._write_mark, to_us(until)):
            raise LeaseLost(self._payout.id)
        # The commit itself may have been slow; past the lease another worker may be at it already.
        if self._runtime.clock.now() >= until:
            raise LeaseLost(self._payout.id)
        self._moved_now = True
        self._runtime.failpoint(Failpoint.MOVED)

    async def _write_notes(self, tx: Tx, notes: Mapping[str, Any]) -> dict[str, Any] | None:
        """Store function: add to what is stored, which a webhook may have added to meanwhile."""
        if not await work.holds_lease(tx, self._lease.payout_id, self._lease.token):
            return None
        return await work.add_notes(tx, self._payout.id, self._attempt.number, notes)

    async def _write_mark(self, tx: Tx, until: int) -> bool:
        now = to_us(self._runtime.clock.now())
        if not await work.extend_lease(tx, self._lease.payout_id, self._lease.token, now, until):
            return False
        await work.update_attempt(
            tx,
            self._payout.id,
            self._attempt.number,
            state=AttemptState.MOVING,
            moves=self._attempt.moves + 1,
            moving_at=now,
            last_call_at=now,
        )
        return True
