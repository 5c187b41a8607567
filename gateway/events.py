"""Publishing: the one place that writes events, with a delivery for each subscribed endpoint."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.runtime import Runtime
from gateway.store import deliveries
from gateway.store import events as rows
from gateway.store.database import Later, Tx
from gateway.store.rows import to_us
from gateway.views import ATTENTION_EVENT

#: So many events are written by one statement at most: all of them need room in the lane of an endpoint,
#: or none of them is handed over there.
_TOGETHER = 16


@dataclass(frozen=True)
class Event:
    """What is published."""

    type: str
    #: the bytes that are sent, without the id, which `publish` adds; frozen from then on
    body: bytes
    payout_id: str | None = None
    #: its number among the payout's events, from 1
    sequence: int | None = None


@dataclass(frozen=True)
class Published:
    """An event as it was written."""

    event: Event
    id: str
    position: int


@dataclass(frozen=True)
class _Fresh:
    """Events that are published together, as they are written."""

    org: str
    mode: str
    columns: Sequence[Mapping[str, Any]]
    due: int
    now: int
    #: the endpoint that gets none of them
    but: str | None = None


async def publish(  # noqa: PLR0913 - the events and their scope
    tx: Tx,
    runtime: Runtime,
    org: str,
    mode: str,
    at: datetime,
    events: Sequence[Event],
    *,
    but: str | None = None,
) -> list[Published]:
    """Write events of an org in their order, and have them delivered to every endpoint but one.

    For a disabled endpoint a delivery is stored as skipped, so that it can be recovered.
    """
    fresh = _fresh(runtime, org, mode, at, events, but)
    positions = await _write(tx, fresh)
    return [
        Published(event, str(each["id"]), position)
        for event, each, position in zip(events, fresh.columns, positions, strict=True)
    ]


async def publish_later(  # noqa: PLR0913 - the events and their scope
    tx: Tx, runtime: Runtime, org: str, mode: str, at: datetime, events: Sequence[Event]
) -> None:
    """As `publish`, together with the events of other changes: nobody asks for their positions.

    The order of an org's events is kept, within a change and between changes.
    """
    await tx.later(_PUBLISH, [_fresh(runtime, org, mode, at, events)])


def _fresh(  # noqa: PLR0913 - the events and their scope
    runtime: Runtime,
    org: str,
    mode: str,
    at: datetime,
    events: Sequence[Event],
    but: str | None = None,
) -> _Fresh:
    columns = [
        {
            "id": event_id,
            "org": org,
            "mode": mode,
            "type": event.type,
            "payout_id": event.payout_id,
            "sequence": event.sequence,
            "body": with_id(event_id, event.body),
            "created_at": to_us(at),
        }
        for event_id, event in ((runtime.ids.new("evt"), each) for each in events)
    ]
    return _Fresh(org, mode, columns, runtime.timeline.now(), to_us(runtime.clock.now()), but)


async def _write(tx: Tx, fresh: _Fresh) -> list[int]:
    """Write events and their deliveries; return their positions."""
    positions = await rows.add_events(tx, fresh.columns)
    await deliveries.fan_out(
        tx,
        dict(zip(positions, fresh.columns, strict=True)),
        fresh.org,
        fresh.mode,
        due=fresh.due,
        now=fresh.now,
        but=fresh.but,
    )
    return positions


async def _write_all(tx: Tx, published: Sequence[_Fresh]) -> None:
    """Write what was published, for each org in its order, by as few statements as fit."""
    orgs: dict[tuple[str, str], list[_Fresh]] = {}
    for each in published:
        orgs.setdefault((each.org, each.mode), []).append(each)
    for (org, mode), found in orgs.items():
        part: list[_Fresh] = []
        for each in found:
            if part and sum(len(one.columns) for one in part) + len(each.columns) > _TOGETHER:
                await _write(tx, _joined(org, mode, part))
                part = []
            part.append(each)
        await _write(tx, _joined(org, mode, part))


def _joined(org: str, mode: str, part: Sequence[_Fresh]) -> _Fresh:
    columns = [row for each in part for row in each.columns]
    # The times of one group differ by less than a commit takes; what is due is due by the last of them.
    return _Fresh(org, mode, columns, part[-1].due, part[-1].now)


_PUBLISH = Later(frozenset({"events", "deliveries"}), _write_all)


_ID = b'{"id":'


def with_id(event_id: str, body: bytes) -> bytes:
    """Return the body of an event with its id as the first member. Pure; may be called again.

    Events that releases before 0.2 stored have none in their bodies.
    """
    return body if body.startswith(_ID) else _ID + b'"' + event_id.encode() + b'",' + body[1:]


def subscribes(patterns: Sequence[str], event_type: str) -> bool:
    """Whether an endpoint with these patterns receives an event type; no pattern means all.

    But for the types that an endpoint has to name.
    """
    if event_type == ATTENTION_EVENT:
        return event_type in patterns
    return not patterns or any(fnmatch.fnmatchcase(event_type, pattern) for pattern in patterns)
