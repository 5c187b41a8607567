"""An execution in the transaction that works on it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.execution.proof import History
from gateway.store.database import Columns, Row
from gateway.store.payouts import KnownRefs


@dataclass
class Work:
    """An execution, its items and its evidence, as they were read in this transaction."""

    row: Columns
    items: list[Row]
    history: History
    #: the `due_at` that the claim wrote: news that comes meanwhile lowers it
    claimed_due: int
    final: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    #: whose the new ids of the reports are, where that was read
    refs: KnownRefs | None = None

    @property
    def rows(self) -> dict[str, Row]:
        """The items' rows by id."""
        return {each["id"]: each for each in self.items}
