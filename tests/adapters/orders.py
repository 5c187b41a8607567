"""An order for adapter tests, which remembers as the store does: through JSON, per attempt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from gateway.adapter import Account, CustodianAccountDestination, Destination, LeaseLost
from gateway.worker.order import step_key


@dataclass
class OrderForTest:
    """One attempt at one payout. `again()` is what a later call of a verb is handed."""

    amount: Decimal = Decimal("43.5")
    destination: Destination = field(
        default_factory=lambda: CustodianAccountDestination(account_type="ACCOUNT", id="SHOP")
    )
    source: Account = field(default_factory=lambda: Account(id="MAIN", type="ACCOUNT"))
    asset: str = "USDC"
    network: str | None = "Ethereum"
    decimals: int = 6
    payout_id: str = "pay_01hzz0000000000000000000001"
    attempt: int = 1
    reference: str | None = None
    moved: bool = False
    moved_now: bool = False
    #: The lease passes to another worker at this very moment: remembering, or moving.
    lose_lease_at: str | None = None
    #: What happened, in order: `remember <names>` and `moving`.
    story: list[str] = field(default_factory=list)
    _notes: dict[str, Any] = field(default_factory=dict)

    @property
    def notes(self) -> Mapping[str, Any]:
        """What was remembered."""
        return self._notes

    def key(self, step: str) -> str:
        """Return the key of one POST, as the engine makes it."""
        return step_key(self.payout_id, self.attempt, step)

    async def remember(self, **notes: Any) -> None:
        """Add notes; only JSON survives."""
        if self.lose_lease_at == "remember":
            raise LeaseLost(self.payout_id)
        self._notes = json.loads(json.dumps({**self._notes, **notes}))
        self.story.append("remember " + " ".join(sorted(notes)))

    async def moving(self) -> None:
        """Set the mark."""
        if self.lose_lease_at == "moving":
            raise LeaseLost(self.payout_id)
        self.story.append("moving")
        self.moved_now = True

    def again(self) -> OrderForTest:
        """Return the order as the next call of a verb sees it, perhaps in another process."""
        return OrderForTest(
            amount=self.amount,
            destination=self.destination,
            source=self.source,
            asset=self.asset,
            network=self.network,
            decimals=self.decimals,
            payout_id=self.payout_id,
            attempt=self.attempt,
            reference=self.reference,
            moved=self.moved or self.moved_now,
            _notes=json.loads(json.dumps(self._notes)),
        )
