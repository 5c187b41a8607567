"""Whose turn it is at a custodian: orgs take turns, even if thousands of executions are due."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.store import executions
from gateway.store.database import Row, Tx

#: The most orgs whose last turn is remembered.
_MOST_ORGS = 10_000


class Turns:
    """Claims what is due at one custodian. Its memory belongs to this process and only affects the order.

    While more is due than can start, the order is looked up once per round (as many executions as run
    at once) and not at each claim, because the query costs as much as 50 statements. An org that
    arrives meanwhile waits for one round at most.
    """

    def __init__(self, custodian: str, most: int) -> None:
        self._custodian = custodian
        self._most = most
        #: the turn at which each org was served last
        self._served: dict[str, int] = {}
        self._turns = 0
        #: whether the last claim left something that was due
        self._queued = False
        #: the executions that come next; whether they are still due is asked when they are claimed
        self._next: list[str] = []

    def serve(self, items: Iterable[Row]) -> None:
        """Note whose turn it was."""
        if len(self._served) > _MOST_ORGS:
            self._served.clear()
        self._turns += 1
        for item in items:
            self._served[item["org"]] = self._turns

    async def claim(  # noqa: PLR0913 - the terms of a lease
        self,
        tx: Tx,
        owner: str,
        now: int,
        until: int,
        limit: int,
        looks: int | None = None,
        *,
        moves: bool = True,
    ) -> list[Row]:
        """Lease due executions, up to a limit; return their rows. Store function.

        `looks` is set when requests are scarce: this number of looks comes first, then submissions,
        then other looks. `moves` tells whether anything may be sent at all.
        """
        if not moves:
            # Claim looks only: another gateway makes the submissions.
            return await executions.claim(
                tx, self._custodian, owner, now, until, limit, looks, self._served, moves=False
            )
        rows: list[Row] = []
        if self._queued and looks is None:
            if not self._next:
                self._next = await executions.next_in_turn(
                    tx, self._custodian, now, self._most, self._served
                )
            mine, self._next = self._next[:limit], self._next[limit:]
            rows = await executions.claim_listed(tx, mine, owner, now, until)
        left = limit - len(rows)
        if left:
            found = await executions.claim(
                tx, self._custodian, owner, now, until, left, looks, self._served
            )
            self._queued = len(found) == left
            rows += found
        return rows
