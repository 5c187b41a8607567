"""Publishing: the one place that writes events, with a delivery for each subscribed endpoint."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.runtime import Runtime
from gateway.store import deliveries, endpoints
from gateway.store import events as rows
from gateway.store.database import Tx
from gateway.store.rows import to_us


@dataclass(frozen=True)
class Event:
    """What is published."""

    type: str
    #: the bytes that are sent, frozen from now on
    body: bytes
    payout_id: str | None = None
    #: its number among the payout's events, from 1
    sequence: int | None = None


@dataclass(frozen=True)
class Published:
    """An event as it was written: all that a sender needs to deliver it."""

    event: Event
    id: str
    position: int
    #: the endpoints that it is due at
    endpoint_ids: tuple[str, ...]


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
    subscribed = [
        (row["id"], row["status"] == "enabled", json.loads(row["event_types"]))
        for row in await endpoints.subscribed_endpoints(tx, org, mode)
        if row["id"] != but
    ]
    columns = [
        {
            "id": runtime.ids.new("evt"),
            "org": org,
            "mode": mode,
            "type": event.type,
            "payout_id": event.payout_id,
            "sequence": event.sequence,
            "body": event.body,
            "created_at": to_us(at),
        }
        for event in events
    ]
    positions = await rows.add_events(tx, columns)
    due, now = runtime.timeline.now(), to_us(runtime.clock.now())
    written, published = [], []
    for event, event_id, position in zip(
        events, (str(each["id"]) for each in columns), positions, strict=True
    ):
        wanted = [
            (endpoint_id, enabled)
            for endpoint_id, enabled, patterns in subscribed
            if subscribes(patterns, event.type)
        ]
        written += [
            deliveries.new_delivery(position, endpoint_id, due, skipped_at=None if enabled else now)
            for endpoint_id, enabled in wanted
        ]
        ready = tuple(endpoint_id for endpoint_id, enabled in wanted if enabled)
        published.append(Published(event, event_id, position, ready))
    if written:
        await deliveries.add_deliveries(tx, written)
    return published


def subscribes(patterns: Sequence[str], event_type: str) -> bool:
    """Whether an endpoint with these patterns receives an event type; no pattern means all."""
    return not patterns or any(fnmatch.fnmatchcase(event_type, pattern) for pattern in patterns)
