"""Every statement of the store compiles, once and for all; none on the event loop is a long one."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sqlite3
from pathlib import Path

import pytest

from gateway import store
from gateway.store.database import Query

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
}
#: Indexes of what is open, and of nothing else: short, however many payouts there were.
OF_WHAT_IS_OPEN = (
    "ix_deliveries_pending",
    "ix_inbox_new",
    "ix_executions_due",
    "uq_execution_items_open",
)
#: Run only by `db.scan`, in a reader thread.
LONG = {
    "audit._WITHOUT_CHAIN",
    "deliveries._OLD_ATTEMPTS",
    "deliveries._OLD_EVENTS",
    "payouts._ANY_REF",
    "payouts._ATTENTION",
    "payouts._ATTENTION_COUNT",
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
        tables = {
            step[3].split()[1]
            for step in plan
            if step[3].startswith("SCAN ") and not step[3].endswith(OF_WHAT_IS_OPEN)
        }
        if tables & GROWING and not str(each.id).startswith(ONCE):
            scanning.add(each.id)
    connection.close()
    assert scanning == LONG
