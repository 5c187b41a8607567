"""The timeline's offset to each clock, so that all processes on one database agree about what is due."""

from __future__ import annotations

from sqlalchemy import bindparam, func, select, union_all

from gateway.runtime import Moment
from gateway.store.database import Query, Tx, upsert
from gateway.store.schema import clocks, gateways, heartbeats

_OFFSET = Query(select(clocks.c.offset).where(clocks.c.clock_id == bindparam("clock_id")))
_ADD = Query(upsert(clocks).on_conflict_do_nothing())


_KNOWN = union_all(
    select(func.max(clocks.c.first_at).label("at")),
    *(
        select(func.max(each.c.elapsed + clocks.c.offset))
        .select_from(each)
        .join(clocks, clocks.c.clock_id == each.c.clock_id)
        for each in (gateways, heartbeats)
    ),
).subquery()
_HIGHEST = Query(select(func.max(_KNOWN.c.at).label("at")))


async def known_offset(tx: Tx, clock_id: str) -> int | None:
    """Return the offset of a clock; None if no process has run by it."""
    row = await tx.one(_OFFSET, clock_id=clock_id)
    return None if row is None else int(row["offset"])


async def anchor(tx: Tx, moment: Moment) -> int:
    """Return the timeline's offset to the clock of `moment`; the first process on it decides.

    The timeline begins at the wall clock, but never before a time that was written under another
    clock: it does not go back, whatever the wall clock was set to.
    """
    known = await known_offset(tx, moment.clock_id)
    if known is not None:
        return known
    highest = await tx.one(_HIGHEST)
    latest = 0 if highest is None or highest["at"] is None else int(highest["at"])
    begin = max(moment.wall, latest)
    await tx.all(_ADD, clock_id=moment.clock_id, offset=begin - moment.elapsed, first_at=begin)
    offset = await known_offset(tx, moment.clock_id)
    assert offset is not None  # noqa: S101 - written above, or by another process before
    return offset
