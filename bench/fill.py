"""Fills a database with copies of real payouts: every row that a gateway wrote for them, under new ids.

What was copied is then read back with the store's own functions. Nothing is invented but the ids and
the times: copies are spread over the last days.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ceiling import OF_PAYOUT, columns, rows_of_payout
from harness import Failed

from gateway.store import payouts as payout_rows
from gateway.store.database import Database, Tx
from gateway.store.payout_lists import list_payouts

_SPREAD_US = 10 * 86_400 * 1_000_000
#: Beyond the end of any run: an open payout's next look.
_LATER_US = 86_400 * 1_000_000
_AT_ONCE = 500
_CACHE_KIB = 200_000
#: What names a row, by table; each is replaced wherever it stands in the rows of its payout.
_NAMES = {
    "quotes": "id",
    "payouts": "id",
    "executions": "id",
    "events": "id",
    "refs": "value",
    "payout_hashes": "tx_hash",
    "inbox": "dedup_key",
}
_TIMES = {"created_at", "updated_at", "received_at", "started_at"}
_OF_EVENTS = {"events", "deliveries", "delivery_attempts"}
_DIGITS = 12
#: Ids that a payout may have at most.
_IDS = 50
_PAGE = 50


@dataclass
class Template:
    """The rows of one payout, and where its ids, times and positions stand in them."""

    number: int
    rows: dict[str, list[tuple[Any, ...]]]
    columns: Mapping[str, list[str]]

    def __post_init__(self) -> None:
        """Find the ids and positions."""
        found = {
            row[self.columns[table].index(name)]
            for table, name in _NAMES.items()
            for row in self.rows.get(table, ())
        }
        # The longest first: an id may be a part of another one.
        self.ids = sorted(found, key=len, reverse=True)
        text = "|".join(map(re.escape, self.ids))
        self._text, self._bytes = re.compile(text), re.compile(text.encode())
        self._positions = [
            row[self.columns["events"].index("position")] for row in self.rows["events"]
        ]
        #: each row with what changes in it: the place of a value, and what it is
        self._plan = [
            (table, row, [(at, what) for at, what in enumerate(self._kinds(table, row)) if what])
            for table, rows in self.rows.items()
            for row in rows
        ]

    def _kinds(self, table: str, row: tuple[Any, ...]) -> Iterator[str]:
        """Give what each value of a row is that differs from copy to copy; empty: it does not."""
        for name, value in zip(self.columns[table], row, strict=True):
            if isinstance(value, str):
                yield "text" if self._text.search(value) else ""
            elif isinstance(value, bytes):
                yield "bytes" if self._bytes.search(value) else ""
            elif name in _TIMES:
                yield "time"
            else:
                yield "position" if name == "position" and table in _OF_EVENTS else ""

    def copy(
        self, number: int, first_position: int, ago_us: int
    ) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Give the rows of a copy, each with its table."""
        # Ids of one moment may differ at their end alone; so it has a number of the id as well.
        first = self.number * _IDS
        names = {
            each: f"{each[:-_DIGITS]}{first + at:04}{number:08}" for at, each in enumerate(self.ids)
        }
        raw = {each.encode(): name.encode() for each, name in names.items()}
        positions = {each: first_position + at for at, each in enumerate(self._positions)}
        change: dict[str, Callable[[Any], Any]] = {
            "text": lambda value: self._text.sub(lambda found: names[found[0]], value),
            "bytes": lambda value: self._bytes.sub(lambda found: raw[found[0]], value),
            "time": lambda value: value - ago_us,
            "position": positions.__getitem__,
        }
        for table, row, changes in self._plan:
            values = list(row)
            for at, what in changes:
                values[at] = change[what](values[at])
            yield table, tuple(values)


def fill(database: Path, count: int, *, still_open: bool = False) -> list[str]:
    """Add copies of the payouts that have ended, or of those that are open, until there are `count`.

    No gateway may run on the database. Returns the ids of some copies.
    """
    with closing(sqlite3.connect(database, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=OFF")
        db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        tables = ("quotes", *OF_PAYOUT)
        found = {name: columns(db, name) for name in tables}
        _refuse_other_tables(db, tables)
        status = "IN" if still_open else "NOT IN"
        ids = db.execute(f"SELECT id FROM payouts WHERE status {status} ('pending', 'broadcast')")
        templates = [
            Template(at, rows_of_payout(db, each), found)
            for at, (each,) in enumerate(ids.fetchall())
        ]
        if not templates:
            raise Failed("there is no payout to be copied")
        (stored,) = db.execute("SELECT count(*) FROM payouts").fetchone()
        (position,) = db.execute("SELECT max(position) FROM events").fetchone()
        wanted = max(0, count - stored)
        for at in range(0, wanted, _AT_ONCE):
            written: dict[str, list[tuple[Any, ...]]] = {name: [] for name in tables}
            for number in range(at, min(wanted, at + _AT_ONCE)):
                template = templates[number % len(templates)]
                ago_us = _SPREAD_US * (wanted - number) // wanted
                for table, row in template.copy(number, position + 1, ago_us):
                    written[table].append(row)
                position += len(template.rows["events"])
            db.execute("BEGIN IMMEDIATE")
            for table, rows in written.items():
                marks = ",".join("?" * len(found[table]))
                db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
            db.execute("COMMIT")
        if still_open:
            db.execute(
                "UPDATE executions SET due_at = due_at + ? WHERE ended_at IS NULL", [_LATER_US]
            )
        some = db.execute(
            f"SELECT id FROM payouts WHERE status {status} ('pending', 'broadcast') AND rowid % ? = 0",
            [max(1, count // 500)],
        ).fetchall()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    sampled = [each for (each,) in some]
    asyncio.run(_verify(database, sampled, count, still_open=still_open))
    return sampled


def _refuse_other_tables(db: sqlite3.Connection, known: tuple[str, ...]) -> None:
    """Refuse where a table has rows of payouts that would not be copied."""
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        if name not in known and "payout_id" in columns(db, name):
            (rows,) = db.execute(f"SELECT count(*) FROM {name}").fetchone()
            if rows:
                raise Failed(f"rows of {name} belong to payouts, and fill.py does not know it")


async def _verify(database: Path, sampled: list[str], count: int, *, still_open: bool) -> None:
    """Read the copies with the store's own functions."""

    async def check(tx: Tx) -> None:
        for payout_id in sampled:
            payout = await payout_rows.find_payout(tx, payout_id)
            assert payout is not None, payout_id
            assert payout.status.value in (
                {"pending", "broadcast"} if still_open else {"delivered"}
            )
            for ref in await payout_rows.refs_of(tx, payout_id):
                key = (ref["custodian"], ref["kind"], ref["value"])
                assert await payout_rows.payout_of_ref(tx, *key) == payout_id
        assert not await payout_rows.unowned_payouts(tx, 10)
        listed = await list_payouts(tx, {"org": "acme", "mode": "live"}, _PAGE)
        assert len(listed) == _PAGE

    async with Database(database, untouched=True) as db:
        await db.scan(check)
    with closing(sqlite3.connect(database)) as raw:
        assert raw.execute("SELECT count(*) FROM payouts").fetchone() == (count,)
        assert not raw.execute("PRAGMA foreign_key_check").fetchall()
