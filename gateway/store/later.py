"""Writes that wait for the end of their group, so that many changes share one statement.

What a change appends and no other change of its group reads (an event, a look's evidence, the hash of a
transaction) need not be a statement of its own. `tx.later(work, items)` keeps the items, and the writer
writes those of all changes at once: right before COMMIT, or before a statement that names one of the
tables. So every statement reads what it would have read, and each change is as durable as before.

Where writing them fails, nobody knows whose item it was: the group is rolled back, and each of its changes
runs alone, as after a COMMIT that failed. A store without one writer writes them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.store.change import tell
from gateway.store.transaction import Later, SqliteTx, run_through

if TYPE_CHECKING:
    from gateway.store.connection import Connection
    from gateway.store.lanes import Lanes
    from gateway.store.statements import Query
    from gateway.store.transaction import Tx

T = TypeVar("T")


async def write_changes(
    tx: Tx,
    changes: Iterable[tuple[str, Mapping[str, object]]],
    statement: Callable[[tuple[str, ...]], Query],
) -> None:
    """Write what was changed of rows, each given by its id: each row once, as it is after all changes.

    `statement` returns the update of some columns: it has `at_id`, and `set_` before each column's name.
    """
    rows: dict[str, dict[str, object]] = {}
    for row_id, columns in changes:
        rows.setdefault(row_id, {}).update(columns)
    found: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for row_id, columns in rows.items():
        values = {"at_id": row_id, **{"set_" + name: value for name, value in columns.items()}}
        found.setdefault(tuple(sorted(columns)), []).append(values)
    for names, values_ in found.items():
        if len(values_) == 1:
            await tx.all(statement(names), **values_[0])
        else:
            await tx.many(statement(names), values_)


class Waiting:
    """What the changes of one group have left to be written."""

    def __init__(self, connection: Connection, lanes: Lanes | None) -> None:
        self._connection = connection
        self._lanes = lanes
        self._items: dict[Later[Any], list[Any]] = {}
        self._tables: frozenset[str] = frozenset()
        #: called once the group is over
        self._callbacks: list[Callable[[bool], None]] = []
        #: how many items were ever left here: a change that leaves one has written something
        self.left = 0
        #: how many rows were written for the group, and not by the change that runs
        self.written = 0
        #: why something could not be written: the group cannot be committed
        self.failure: BaseException | None = None

    def add(self, work: Later[T], items: Sequence[T]) -> None:
        """Keep items to be written."""
        waiting = self._items.get(work)
        if waiting is None:
            waiting = self._items[work] = []
            self._tables |= work.tables
        waiting.extend(items)
        self.left += len(items)

    def write_for(self, query: Query) -> None:
        """Write what a statement might read, before it runs."""
        if self._items and not self._tables.isdisjoint(query.words):
            named = [each for each in self._items if not each.tables.isdisjoint(query.words)]
            self._write({each: self._items.pop(each) for each in named})

    def write(self) -> None:
        """Write all that is waiting, in the open transaction. May be called at any time, also for nothing."""
        found, self._items = self._items, {}
        self._write(found)

    def _write(self, found: Mapping[Later[Any], Sequence[Any]]) -> None:
        if not found:
            return
        self._tables = frozenset(name for each in self._items for name in each.tables)
        tx = SqliteTx(self._connection, lanes=self._lanes)
        before = self._connection.changes
        try:
            for work, items in found.items():
                run_through(work.write, tx, items)
        except BaseException as error:
            self.failure = error
            raise
        finally:
            tx.end()
            self._callbacks += tx.callbacks
            self.written += self._connection.changes - before

    def over(self, *, committed: bool) -> None:
        """Call back those that wait for the end of the group; once, however often this is called."""
        callbacks, self._callbacks = self._callbacks, []
        tell(callbacks, committed=committed)
