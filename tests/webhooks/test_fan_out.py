"""Fan-out: an event becomes deliveries by one statement, however many endpoints an org has."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from gateway.adapter import Report, SubStatus
from gateway.events import Event, publish, subscribes
from gateway.store import deliveries as rows
from gateway.store.database import Tx
from gateway.views import EVENT_TYPES
from tests.execution.conftest import Bench
from tests.webhooks.test_worker import endpoints_of, subscribe

_URL = "http://127.0.0.1:9/0"
_SUBSCRIPTIONS: list[list[str]] = [
    [],
    ["*"],
    ["payout.*"],
    ["payout.delivered", "batch.*"],
    ["*.delivered"],
    ["*d*"],
    ["payout.delivered*"],
    ["payout_delivered"],
    ["payout."],
    ["payout", "*."],
]


def _copy(bench: Bench, endpoint_id: str, count: int, **changed: Any) -> None:
    """Store copies of an endpoint, as many as there may be from before there was a quota."""
    with _elsewhere(bench) as db:
        db.row_factory = sqlite3.Row
        found = db.execute("SELECT * FROM endpoints WHERE id = ?", (endpoint_id,)).fetchone()
        base = dict(found) | changed
        names = ", ".join(base)
        marks = ", ".join(f":{name}" for name in base)
        copies = [{**base, "id": f"{base['id']}_{changed}_{number}"} for number in range(count)]
        if "id" in changed:
            (copies[0]["id"],) = (changed["id"],)
        db.executemany(f"INSERT INTO endpoints ({names}) VALUES ({marks})", copies)


@contextmanager
def _elsewhere(bench: Bench) -> Iterator[sqlite3.Connection]:
    """Open the database beside the store, and commit."""
    with closing(sqlite3.connect(bench.db._path)) as db, db:
        yield db


def _receivers(bench: Bench, position: int) -> dict[str, tuple[str, bool]]:
    """Return state, and whether it is settled, of an event's deliveries, by endpoint."""
    with _elsewhere(bench) as db:
        found = db.execute(
            "SELECT endpoint_id, state, settled_at FROM deliveries WHERE position = ?", (position,)
        ).fetchall()
    return {name: (state, settled is not None) for name, state, settled in found}


async def _publish(bench: Bench, kind: str, but: str | None = None) -> int:
    """Publish an event of the bench's org; return its position."""

    async def work(tx: Tx) -> int:
        now = bench.clock.now()
        (published,) = await publish(
            tx, bench.runtime, "acme-org", "live", now, [Event(kind, b"{}")], but=but
        )
        return published.position

    return await bench.db.run(work)


async def _life(bench: Bench) -> tuple[int, int]:
    """Accept and deliver a payout; return its deliveries, and how often SQLite ran a statement."""
    texts: list[str] = []
    quote_id = await bench.quote()
    raw = bench.db._write_connection._usable()
    raw.set_trace_callback(texts.append)
    try:
        payout = await bench.db.run(bench.payouts.accept, bench.caller, quote_id)
        await bench.db.run(bench.payouts.apply, payout.id, Report(SubStatus.DELIVERED, "DONE"))
    finally:
        raw.set_trace_callback(None)
    return len(await bench.db.read(rows.deliveries_of, payout.id)), len(texts)


async def test_the_statements_do_not_grow_with_the_endpoints(bench: Bench) -> None:
    """Counted where SQLite runs them: many rows handed to the driver at once would count each."""
    made = await subscribe(bench, _URL)
    sent, alone = await _life(bench)
    assert sent == 3
    _copy(bench, made.id, 499)
    sent, crowded = await _life(bench)
    assert sent == 3 * 500
    assert crowded == alone


async def test_sql_and_python_agree_on_who_subscribes(bench: Bench) -> None:
    """Of every event type: the statement of the fan-out, and what a resend and a recovery ask."""
    made = await subscribe(bench, _URL)
    for number, patterns in enumerate(_SUBSCRIPTIONS):
        _copy(bench, made.id, 1, id=f"whe_{number}", event_types=json.dumps(patterns))
    for kind in (*EVENT_TYPES, "payout.Delivered", "new.kind"):
        receivers = _receivers(bench, await _publish(bench, kind))
        everything = {made.id} if subscribes([], kind) else set()
        assert receivers.keys() == everything | {
            f"whe_{number}"
            for number, patterns in enumerate(_SUBSCRIPTIONS)
            if subscribes(patterns, kind)
        }, kind


async def test_who_gets_none(bench: Bench) -> None:
    """Not a deleted endpoint, another org's, another mode's or the one left out; a disabled one skips."""
    made = await subscribe(bench, _URL)
    _copy(bench, made.id, 1, org="other")
    _copy(bench, made.id, 1, mode="test")
    _copy(bench, made.id, 1, id="whe_off", status="disabled")
    gone, left_out = [await subscribe(bench, _URL) for _ in range(2)]
    await bench.db.run(endpoints_of(bench).delete, bench.caller, gone.id)
    position = await _publish(bench, "payout.delivered", but=left_out.id)
    assert _receivers(bench, position) == {
        made.id: ("pending", False),
        "whe_off": ("skipped", True),
    }


async def test_deleted_endpoints_cost_nothing(bench: Bench) -> None:
    """An org that creates and deletes endpoints all day is within its quota, and slows no event of its own.

    Counted in steps of SQLite's virtual machine.
    """

    async def steps() -> int:
        count = 0

        def step() -> int:
            nonlocal count
            count += 1
            return 0

        raw = bench.db._write_connection._usable()
        raw.set_progress_handler(step, 1)
        try:
            await _publish(bench, "payout.delivered")
        finally:
            raw.set_progress_handler(None, 1)
        return count

    made = await subscribe(bench, _URL)
    await steps()
    few = await steps()
    _copy(bench, made.id, 2000, status="deleted", deleted_at=1)
    await steps()
    assert await steps() <= few + 10
