"""Point reads: one snapshot for a turn of the event loop.

It is begun by the first read of a turn and ended before the next turn. So a read never misses what was
committed before anything that made its caller ask: an answer to a change, a request and a webhook all
arrive in a later turn than the commit that they follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import Refused
from gateway.store.seen import SeenRows
from gateway.store.transaction import P, PointTx, R, StoreFunction, Tx, drive

if TYPE_CHECKING:
    from gateway.store.connection import Connection


class PointReads:
    """The point reads of one connection, all on the event loop's thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.seen = SeenRows()

    def run(self, fn: StoreFunction[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a store function that only reads, in the snapshot of this turn."""
        connection = self._connection
        try:
            if not connection.in_transaction:
                connection.open()
                connection.execute("BEGIN")
                self.seen.look_at(connection)
            return drive(fn, PointTx(connection, self.seen), *args, **kwargs)
        except Refused:
            raise
        except BaseException:
            # Of whatever kind it is: nothing that has failed is kept open.
            self.end()
            raise

    def run_within(
        self, seconds: float, fn: StoreFunction[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """As `run`, within a CPU time. Where it takes more, it ends with an error that `gave_up` tells."""

        async def limited(tx: Tx) -> R:
            # Of this function alone: neither BEGIN nor ROLLBACK may be given up.
            with self._connection.limited(seconds):
                return await fn(tx, *args, **kwargs)

        return self.run(limited)

    def end(self) -> None:
        """End the snapshot. The next read begins another one. May be called twice."""
        self._connection.rollback()
