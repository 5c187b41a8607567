"""Publishing: the one place that writes events, with a delivery for each subscribed endpoint."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.runtime import Runtime
from gateway.store import deliveries
from gateway.store import events as rows
from gateway.store.database import Tx
from gateway.store.rows import to_us
from gateway.views import ATTENTION_EVENT


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
    positions = await rows.add_events(tx, columns)
    await deliveries.fan_out(
        tx,
        dict(zip(positions, columns, strict=True)),
        org,
        mode,
        due=runtime.timeline.now(),
        now=to_us(runtime.clock.now()),
        but=but,
    )
    return [
        Published(event, str(each["id"]), position)
        for event, each, position in zip(events, columns, positions, strict=True)
    ]


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
