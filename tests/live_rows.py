"""Compares what the writer keeps beside its transaction with what the database holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.store.connection import Connection
from gateway.store.live_rows import LiveRows
from gateway.store.writer import Writer

_ITEMS = "SELECT payout_id FROM execution_items WHERE execution_id = ? ORDER BY position"
_OPEN_ONE = "SELECT execution_id FROM execution_items WHERE payout_id = ? AND open = 1"
_EVIDENCE = "SELECT * FROM evidence WHERE execution_id = ? ORDER BY number"
_FLAGS = (
    "SELECT frozen, accepting, (SELECT count(*) FROM pauses WHERE keep_accepting = 0) AS pauses, "
    "(SELECT digest FROM money_rules) AS rules_digest FROM store_state"
)
_OWNER = "SELECT payout_id FROM refs WHERE custodian = ? AND kind = ? AND value = ?"


def assert_exact(connection: Connection, live: LiveRows) -> int:
    """Compare every kept row with the one in the open transaction; return how many there are."""
    tables = live.tables
    for name in ("executions", "payouts"):
        for key, row in tables[name].items():
            (found,) = connection.execute(f"SELECT * FROM {name} WHERE id = ?", (key,))
            assert dict(row) == dict(found), name
    for key, ids in tables["execution_items"].items():
        assert list(ids) == [row[0] for row in connection.execute(_ITEMS, (key,))]
        for each in ids:
            open_ones = [row[0] for row in connection.execute(_OPEN_ONE, (each,))]
            one = live.open_execution_of(each)
            assert one is None or one["id"] in open_ones
    for key, rows in tables["evidence"].items():
        stored = [dict(row) for row in connection.execute(_EVIDENCE, (key,))]
        assert [dict(row) for row in rows] == stored
    for key, owner in tables["refs"].items():
        assert [owner] == [row[0] for row in connection.execute(_OWNER, key)]
    if live.flags is not None:
        (state,) = connection.execute(_FLAGS)
        assert dict(live.flags) == dict(state)
    return sum(map(len, tables.values()))


@contextmanager
def compared(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Compare after every group of every writer; yield how many rows were compared each time.

    In its open transaction, once everything is written: part of it waits for the end of the group.
    """
    write, counts = Writer._write_waiting, list[int]()

    def comparing(writer: Writer) -> None:
        write(writer)
        counts.append(assert_exact(writer._connection, writer._live))

    monkeypatch.setattr(Writer, "_write_waiting", comparing)
    yield counts
