"""The registry of gateways: a row per process that serves, with a counter that it raises.

A timestamp never shows whether a gateway is running: its clock may be wrong, and so may ours.
An observer watches the counter and measures the time by its own clock (`Watch`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import and_, bindparam, delete, exists, func, insert, null, or_, select, update

from gateway.runtime import Clock, Moment
from gateway.store.database import Query, Row, Tx
from gateway.store.schema import (
    clocks,
    evidence,
    execution_items,
    gateways,
    heartbeats,
    payouts,
    store_state,
)

#: How often a gateway raises its counter.
BEAT_S = 5.0
#: A counter that stands still for so long: the gateway is gone, or stopped in the middle.
STALE_S = 2 * BEAT_S + 1
_US = 1_000_000

_PULSE = Query(
    select(
        gateways.c.counter, gateways.c.stopped_at, gateways.c.clock_id, gateways.c.elapsed
    ).where(gateways.c.id == bindparam("gateway_id"))
)
_ADD = Query(insert(gateways))
_BEAT = Query(
    update(gateways)
    .where(gateways.c.id == bindparam("gateway_id"))
    .values(
        counter=gateways.c.counter + 1,
        elapsed=bindparam("new_elapsed"),
        wall=bindparam("new_wall"),
        marks=select(store_state.c.marks).where(store_state.c.id == 1).scalar_subquery(),
        stopped_at=null(),
    )
    .returning(gateways.c.counter, gateways.c.marks)
)
_STOP = Query(
    update(gateways)
    .where(gateways.c.id == bindparam("gateway_id"))
    .values(stopped_at=bindparam("at"))
)
_RUNNING = Query(select(gateways).where(gateways.c.stopped_at.is_(None)).order_by(gateways.c.id))
#: The same for a database whose schema may be an older one: only columns that each of them has.
_RUNNING_ON_ANY_SCHEMA = Query(
    select(gateways.c.id, gateways.c.counter, gateways.c.host, gateways.c.pid)
    .where(gateways.c.stopped_at.is_(None))
    .order_by(gateways.c.id)
)
#: Once for each value of its counter, and not of one that raised it or signed off since it was judged.
_REPORT_GONE = Query(
    update(gateways)
    .where(
        and_(
            gateways.c.id == bindparam("gateway_id"),
            gateways.c.counter == bindparam("stood_at"),
            gateways.c.stopped_at.is_(None),
            gateways.c.gone_counter.is_distinct_from(gateways.c.counter),
        )
    )
    .values(gone_counter=gateways.c.counter)
    .returning(gateways.c.id)
)
_ALL = Query(select(gateways).order_by(gateways.c.id))
_ADD_HEARTBEAT = Query(
    insert(heartbeats), columns=("gateway_id", "clock_id", "elapsed", "wall", "marks")
)
#: The oldest mark of a call of a payout that has not ended: heartbeats since then may be needed to
#: prove how much time has passed since that call.
_OLDEST_CALL = Query(
    select(func.min(evidence.c.mark).label("mark"))
    .select_from(payouts)
    .join(execution_items, execution_items.c.payout_id == payouts.c.id)
    .join(evidence, evidence.c.execution_id == execution_items.c.execution_id)
    .where(
        and_(
            or_(payouts.c.status == "pending", payouts.c.status == "broadcast"),
            evidence.c.kind == "call",
        )
    )
)
_OFFSET = (
    select(clocks.c.offset).where(clocks.c.clock_id == heartbeats.c.clock_id).scalar_subquery()
)
_PURGE_HEARTBEATS = Query(
    delete(heartbeats).where(
        and_(
            or_(
                bindparam("oldest_mark", type_=heartbeats.c.marks.type).is_(None),
                heartbeats.c.marks < bindparam("oldest_mark", type_=heartbeats.c.marks.type),
            ),
            heartbeats.c.elapsed + func.coalesce(_OFFSET, 0) < bindparam("before"),
        )
    )
)
_GATEWAY_OFFSET = (
    select(clocks.c.offset).where(clocks.c.clock_id == gateways.c.clock_id).scalar_subquery()
)
_PURGE_GATEWAYS = Query(
    delete(gateways).where(
        gateways.c.elapsed + func.coalesce(_GATEWAY_OFFSET, 0) < bindparam("before")
    )
)
#: A clock that nothing refers to any more, and that nobody goes by now.
_PURGE_CLOCKS = Query(
    delete(clocks).where(
        and_(
            clocks.c.first_at < bindparam("before"),
            clocks.c.clock_id != bindparam("own_clock_id"),
            ~exists().where(gateways.c.clock_id == clocks.c.clock_id),
            ~exists().where(heartbeats.c.clock_id == clocks.c.clock_id),
        )
    )
)


async def gateway_pulse(tx: Tx, gateway_id: str) -> Row | None:
    """Return `counter`, which rises while a gateway runs, and `stopped_at`; None for an unknown one.

    `elapsed` is when it was raised last, in microseconds of the clock `clock_id`.
    """
    return await tx.one(_PULSE, gateway_id=gateway_id)


@dataclass(frozen=True)
class Identity:
    """What a gateway reports about itself."""

    id: str
    host: str  #: for display
    pid: int
    version: str
    config_digest: str
    schema_from: str  #: the range of schema revisions that it can work with
    schema_to: str
    gate_version: int


async def register(tx: Tx, identity: Identity, at: Moment, started_at: int) -> None:
    """Add a gateway. `started_at`: time of the timeline."""
    await tx.all(
        _ADD,
        **asdict(identity),
        counter=0,
        clock_id=at.clock_id,
        elapsed=at.elapsed,
        wall=at.wall,
        marks=0,
        started_at=started_at,
        stopped_at=None,
        gone_counter=None,
    )


async def raise_counter(tx: Tx, gateway_id: str, at: Moment) -> Row | None:
    """Raise a gateway's counter; return `counter` and the newest mark as `marks`.

    None: the database does not know this gateway.
    """
    return await tx.one(_BEAT, gateway_id=gateway_id, new_elapsed=at.elapsed, new_wall=at.wall)


async def mark_stopped(tx: Tx, gateway_id: str, at: int) -> None:
    """Note that a gateway has stopped. `at`: time of the timeline."""
    await tx.all(_STOP, gateway_id=gateway_id, at=at)


async def running_gateways(tx: Tx) -> list[Row]:
    """Return the gateways that have not signed off, dead ones included; see `Watch`."""
    return await tx.all(_RUNNING)


async def report_gone(tx: Tx, gateway_id: str, counter: int) -> bool:
    """Note that a gateway is gone whose counter stood still at a value; False where that is noted already.

    Also False where it has raised its counter or signed off meanwhile.
    """
    return await tx.one(_REPORT_GONE, gateway_id=gateway_id, stood_at=counter) is not None


async def all_gateways(tx: Tx) -> list[Row]:
    """Return every gateway that is kept, first one first."""
    return await tx.all(_ALL)


async def add_heartbeat(tx: Tx, gateway_id: str, at: Moment, marks: int) -> None:
    """Add a heartbeat: every mark up to `marks` was committed before `at`.

    So `marks` was read before `at` was taken. From this row on, time counts for those calls on this
    clock; a heartbeat that was dated too early would prove a wait that has not happened.
    """
    await tx.all(
        _ADD_HEARTBEAT,
        gateway_id=gateway_id,
        clock_id=at.clock_id,
        elapsed=at.elapsed,
        wall=at.wall,
        marks=marks,
    )


async def oldest_call(tx: Tx) -> int | None:
    """Return the oldest mark of a call of a payout that has not ended. Looks at all of them."""
    row = await tx.one(_OLDEST_CALL)
    return None if row is None else row["mark"]


async def purge(
    tx: Tx, oldest_mark: int | None, clock_id: str, before: int, long_before: int
) -> None:
    """Delete heartbeats from before a time that no call still needs, and gateways long gone.

    `oldest_mark`: of `oldest_call`, read any time before: new calls have higher marks. `before` and
    `long_before`: times of the timeline. `clock_id`: the clock of this process.
    """
    await tx.all(_PURGE_HEARTBEATS, oldest_mark=oldest_mark, before=before)
    await tx.all(_PURGE_GATEWAYS, before=long_before)
    await tx.all(_PURGE_CLOCKS, before=long_before, own_clock_id=clock_id)


class Watch:
    """Shows which gateways are running: their counters change while they are watched.

    Every time is elapsed time of the watcher's own clock, in microseconds.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}
        self._moved: set[str] = set()

    def look(self, counters: Mapping[str, int], elapsed: int) -> None:
        """Note the counters of all gateways as they are now."""
        for gateway_id, counter in counters.items():
            known = self._seen.get(gateway_id)
            if known is None or known[0] != counter:
                self._seen[gateway_id] = (counter, elapsed)
                if known is not None:
                    self._moved.add(gateway_id)
        for gone in self._seen.keys() - counters.keys():
            del self._seen[gone]
            self._moved.discard(gone)

    def moved(self) -> set[str]:
        """Return the gateways whose counter was seen to move."""
        return set(self._moved)

    def stale(self, elapsed: int) -> set[str]:
        """Return the gateways whose counter has stood still for `STALE_S`."""
        return {
            gateway_id
            for gateway_id, (_, since) in self._seen.items()
            if elapsed - since >= STALE_S * _US
        }


async def alive(
    path: Path, clock: Clock, tell: Callable[[Iterable[Mapping[str, Any]]], None]
) -> list[Mapping[str, Any]]:
    """Return the gateways that run on a database file, watching them for up to `STALE_S` seconds.

    Reads the file directly, because its schema may be older than this program. `tell` is called with
    those that are watched, if there are any. sqlite3.Error if it cannot be read.
    """
    watch, told = Watch(), False
    begin = clock.moment().elapsed
    while True:
        rows = {row["id"]: row for row in await asyncio.to_thread(_registered, path)}
        elapsed = clock.moment().elapsed
        watch.look({each: row["counter"] for each, row in rows.items()}, elapsed)
        moved = watch.moved()
        if moved or not rows or elapsed - begin >= STALE_S * _US:
            return [rows[each] for each in sorted(moved)]
        if not told:
            tell(rows.values())
            told = True
        await clock.sleep(BEAT_S / 10)


def _registered(path: Path) -> list[Mapping[str, Any]]:
    """Return the gateways that have not signed off; nothing where the schema has no registry yet."""
    if not path.exists():
        return []
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        table = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'gateways'"
        if connection.execute(table).fetchone() is None:
            return []
        text, values = _RUNNING_ON_ANY_SCHEMA.compiled()
        return [dict(row) for row in connection.execute(text, values)]
