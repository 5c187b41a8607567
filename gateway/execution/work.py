"""An execution, as the transaction that works on it sees it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from gateway.execution.proof import History
from gateway.execution.state import Job, Lease, State
from gateway.model import TERMINAL
from gateway.store.database import Columns, Row
from gateway.store.payouts import KnownRefs
from gateway.store.rows import payout_of


@dataclass
class Work:
    """An execution, its items and its evidence, as they were read in this transaction."""

    row: Columns
    items: list[Row]
    history: History
    #: the `due_at` that the claim wrote; news that comes meanwhile lowers the stored one
    claimed_due: int
    final: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    #: the owners of the reports' new ids, if they were read
    refs: KnownRefs | None = None

    @property
    def rows(self) -> dict[str, Row]:
        """The items' rows by id."""
        return {each["id"]: each for each in self.items}

    @property
    def ended(self) -> bool:
        """Whether every item has ended, before this transaction or in it."""
        return all(each["status"] in TERMINAL or each["id"] in self.final for each in self.items)


def job_of(work: Work) -> Job:
    """Return the job that an adapter is called for."""
    row = work.row
    said = row["repeat_is_safe"]
    return Job(
        lease=Lease(row["id"], row["lease_token"], row["due_at"]),
        custodian=row["custodian"],
        batch_id=row["batch_id"],
        number=row["number"],
        key_seed=row["key_seed"],
        state=State(row["state"]),
        notes=json.loads(row["notes"]),
        items=tuple(payout_of(each) for each in work.items),
        history=work.history,
        repeat_is_safe=None if said is None else bool(said),
    )
