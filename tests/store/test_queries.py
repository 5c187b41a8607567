"""Every statement of the store compiles, once and for all; none on the event loop is a long one."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import bindparam, insert, select, update

from gateway import store
from gateway.store.database import Query
from gateway.store.schema import events, quotes

QUERIES = [
    pytest.param(value, id=f"{module.name}.{name}")
    for module in pkgutil.iter_modules(store.__path__)
    if module.name != "migrations"
    for name, value in vars(importlib.import_module(f"gateway.store.{module.name}")).items()
    if isinstance(value, Query)
]


@pytest.mark.parametrize("query", QUERIES)
def test_it_compiles(query: Query) -> None:
    """A statement that cannot be built fails here, not in a worker at night."""
    text, _ = query.compiled()
    assert text
    assert query.compiled() is query.compiled()


def test_constants_are_in_the_text() -> None:
    """A bound value that an index is limited to would have SQLite compile the statement at every run."""
    queries = {str(each.id): each.values[0] for each in QUERIES}
    bound = {name: each.compiled()[1] for name, each in queries.items() if isinstance(each, Query)}
    assert {name: fixed for name, fixed in bound.items() if fixed} == {}


def test_a_constant_is_written_as_a_literal() -> None:
    """Whatever it consists of; what callers give is still bound, and a column keeps its marker."""
    query = Query(
        select(events.c.id).where(events.c.type == "it's :org", events.c.org == bindparam("org"))
    )
    text, fixed = query.compiled()
    assert "events.type = 'it''s :org' AND events.org = :org" in text
    assert fixed == {}
    text, fixed = Query(insert(events), columns=("id", "org")).compiled()
    assert text.endswith("VALUES (:id, :org)")
    assert fixed == {}


#: What grows with every payout that there ever was.
GROWING = {
    "attention",
    "deliveries",
    "delivery_attempts",
    "events",
    "evidence",
    "execution_items",
    "executions",
    "idempotency",
    "inbox",
    "inbox_refs",
    "payout_hashes",
    "payouts",
    "quotes",
    "refs",
    "reservations",
}
#: Indexes of what is open, and of nothing else: short, however many payouts there were.
OF_WHAT_IS_OPEN = (
    "ix_deliveries_pending",
    "ix_attention_open",
    "ix_attention_untold",
    "ix_inbox_new",
    "ix_executions_due",
    "uq_execution_items_open",
)
#: Run only by `db.scan`, in a reader thread.
LONG = {
    "audit._WITHOUT_CHAIN",
    "payouts._ANY_REF",
    "payouts._COLLISIONS",
}


#: An adoption is made by hand, while nothing is paid. `_STATE` asks whether there is any payout at all.
ONCE = ("adoption.", "state._STATE")


def test_nothing_on_the_event_loop_reads_a_whole_table(path: Path) -> None:
    """Changes and point reads run on the event loop: each of their statements has an index."""
    connection = sqlite3.connect(path)
    scanning = set()
    for each in QUERIES:
        (query,) = each.values
        assert isinstance(query, Query)
        text, fixed = query.compiled()
        values = {name: fixed.get(name) for name in re.findall(r":(\w+)", text)}
        plan = connection.execute(f"EXPLAIN QUERY PLAN {text}", values).fetchall()
        # SQLite names a table as the statement does.
        names = {alias: table for table, alias in re.findall(r"(\w+) AS (\w+)", text)}
        tables = {
            names.get(step[3].split()[1], step[3].split()[1])
            for step in plan
            if step[3].startswith("SCAN ") and not step[3].endswith(OF_WHAT_IS_OPEN)
        }
        if tables & GROWING and not str(each.id).startswith(ONCE):
            scanning.add(each.id)
    connection.close()
    assert scanning == LONG


def test_many_rows_are_bound_by_place() -> None:
    """Each value goes where its name stands, also where it stands twice and the row has more than that."""
    query = Query(
        update(quotes)
        .where(quotes.c.id == bindparam("at"))
        .values(external_ref=bindparam("said"), reference=bindparam("said"), mode="test")
    )
    text, names = query.by_place()
    assert sorted(names) == ["at", "said"]
    assert text.count(f"?{names.index('said') + 1}") == 2
    assert "'test'" in text
