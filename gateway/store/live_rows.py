"""Rows of what is being paid, kept beside the writer so that they are not read again at every step.

What is kept is what the writer's open transaction would read, or the transaction would show one thing
and its caller believe another:

- Each store function that writes one of these tables says here what it wrote (`Query(…, keeps=True)`);
  every other statement that writes one of them drops everything.
- Another process's commit clears the cache: SQLite reports it (`PRAGMA data_version`) once the write
  lock is held, and from then on nobody else commits.
- A change that is rolled back drops everything.

Only the writer has them. Reads, and a store without one writer, go to the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from gateway.store.schema import executions, payouts
from gateway.store.statements import columns_by_name

if TYPE_CHECKING:
    from gateway.store.statements import Columns, Row

#: Above so many rows of a table all are dropped: more than any number of calls in progress.
MOST = 2048
_PAYOUT = tuple(each.name for each in payouts.columns)
_FLAGS = ("frozen", "accepting", "pauses", "rules_digest")
_EXECUTION = tuple(each.name for each in executions.columns)


class LiveRows:
    """Executions with their payouts and evidence. A row is replaced, never changed: who has it keeps it."""

    def __init__(self) -> None:
        self._executions: dict[str, Mapping[str, Any]] = {}
        #: the payouts of an execution, in their order
        self._items: dict[str, tuple[str, ...]] = {}
        #: the execution that a payout was read with last
        self._read_with: dict[str, str] = {}
        self._payouts: dict[str, Mapping[str, Any]] = {}
        self._evidence: dict[str, tuple[Mapping[str, Any], ...]] = {}
        #: the payout that an id (custodian, kind, value) belongs to: that never changes
        self._owners: dict[tuple[str, str, str], str] = {}
        #: whether new payouts are taken: members of the store's state
        self.flags: Mapping[str, Any] | None = None

    @property
    def tables(self) -> Mapping[str, Mapping[Any, Any]]:
        """The cached rows of each table, for tests and for inspection."""
        return {
            "executions": self._executions,
            "execution_items": self._items,
            "payouts": self._payouts,
            "evidence": self._evidence,
            "refs": self._owners,
        }

    def clear(self) -> None:
        """Drop everything."""
        self.flags = None
        for each in (
            self._executions,
            self._items,
            self._read_with,
            self._payouts,
            self._evidence,
            self._owners,
        ):
            each.clear()

    def drop(self, execution_id: str) -> None:
        """Drop an execution with its payouts and evidence."""
        self._executions.pop(execution_id, None)
        self._evidence.pop(execution_id, None)
        for each in self._items.pop(execution_id, ()):
            self._payouts.pop(each, None)
            self._read_with.pop(each, None)

    def put_flags(self, row: Columns) -> None:
        """Cache what the store's state says about new payouts. What it says about marks is always read."""
        self.flags = {name: row[name] for name in _FLAGS}

    # --- Executions and their payouts -------------------------------------------------------------

    def execution(self, execution_id: str) -> Row | None:
        """Return the row of an execution, if it is kept."""
        return _as_row(self._executions.get(execution_id))

    def put_executions(self, rows: Iterable[Columns]) -> None:
        """Keep rows of executions as a statement returned them; other columns are left out."""
        for row in rows:
            self._make_room(self._executions)
            self._executions[row["id"]] = _these(_EXECUTION, row)

    def change_execution(self, execution_id: str, columns: Mapping[str, Any]) -> None:
        """Note what was written of an execution."""
        row = self._executions.get(execution_id)
        if row is not None:
            self._executions[execution_id] = {**row, **columns}

    def items(self, execution_id: str) -> list[Row] | None:
        """Return the payouts of an execution in their order, if all are kept."""
        ids = self._items.get(execution_id)
        if ids is None:
            return None
        rows = [self.payout(each) for each in ids]
        return None if None in rows else [each for each in rows if each is not None]

    def put_items(self, execution_id: str, rows: Sequence[Columns]) -> None:
        """Keep the payouts of an execution, all of them, in their order."""
        self._make_room(self._items)
        self.put_payouts(rows)
        self._items[execution_id] = tuple(each["id"] for each in rows)
        self._read_with.update(dict.fromkeys(self._items[execution_id], execution_id))

    def open_execution_of(self, payout_id: str) -> Row | None:
        """Return the open execution of a payout, if it is kept. A payout is in no other open one."""
        execution_id = self._read_with.get(payout_id, "")
        row = self.execution(execution_id)
        if row is None or row["ended_at"] is not None:
            return None
        return row if payout_id in self._items.get(execution_id, ()) else None

    def payout(self, payout_id: str) -> Row | None:
        """Return the row of a payout, if it is kept."""
        return _as_row(self._payouts.get(payout_id))

    def put_payouts(self, rows: Iterable[Columns]) -> None:
        """Keep rows of payouts; columns of other tables beside them are left out."""
        for row in rows:
            if self._payouts.get(row["id"]) is not row:
                self._make_room(self._payouts)
                self._payouts[row["id"]] = _these(_PAYOUT, row)

    def change_payout(self, payout_id: str, columns: Mapping[str, Any]) -> None:
        """Note what was written of a payout."""
        row = self._payouts.get(payout_id)
        if row is not None:
            self._payouts[payout_id] = {**row, **columns}

    # --- Evidence ---------------------------------------------------------------------------------

    def evidence(self, execution_id: str) -> list[Row] | None:
        """Return the evidence of an execution in its order, if it is kept."""
        rows = self._evidence.get(execution_id)
        return None if rows is None else [cast("Row", each) for each in rows]

    def put_evidence(self, execution_id: str, rows: Iterable[Row]) -> None:
        """Keep the evidence of an execution, all of it, in its order."""
        self._make_room(self._evidence)
        self._evidence[execution_id] = tuple(map(columns_by_name, rows))

    def add_evidence(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Note evidence that was appended: whole rows."""
        for row in rows:
            known = self._evidence.get(row["execution_id"])
            if known is not None:
                self._evidence[row["execution_id"]] = (*known, row)

    def change_answer(self, execution_id: str, number: int, answer: str | None) -> None:
        """Note what was written as the answer of a call."""
        known = self._evidence.get(execution_id)
        if known is not None:
            self._evidence[execution_id] = tuple(
                {**each, "answer": answer} if each["number"] == number else each for each in known
            )

    def forget_evidence(self, execution_ids: Iterable[str] | None) -> None:
        """Have the evidence of executions read from the database again. None: of all."""
        for each in list(self._evidence) if execution_ids is None else execution_ids:
            self._evidence.pop(each, None)

    # --- Ids at custodians ------------------------------------------------------------------------

    def owner(self, custodian: str, pair: tuple[str, str]) -> Row | None:
        """Return the payout that an id (kind, value) at a custodian belongs to, if both are kept."""
        payout_id = self._owners.get((custodian, *pair))
        return None if payout_id is None else self.payout(payout_id)

    def put_owner(self, custodian: str, pair: tuple[str, str], row: Columns) -> None:
        """Keep whose an id is, as it was read, and that payout's row."""
        self._make_room(self._owners)
        self.put_payouts([row])
        self._owners[custodian, *pair] = row["id"]

    def _make_room(self, table: Mapping[Any, Any]) -> None:
        if len(table) >= MOST:
            self.clear()


def _these(names: Sequence[str], row: Columns) -> Mapping[str, Any]:
    columns = columns_by_name(row)
    return {name: columns[name] for name in names}


def _as_row(found: Mapping[str, Any] | None) -> Row | None:
    # A dict answers as a row does: by the names of the columns.
    return cast("Row | None", found)
