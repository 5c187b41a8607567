"""Who is told of an event: one delivery row per subscribed endpoint, in the event's transaction."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence

from gateway.runtime import Runtime
from gateway.store import deliveries, endpoints
from gateway.store.database import Tx
from gateway.store.rows import to_us


async def deliver(  # noqa: PLR0913 - the event and its scope
    tx: Tx,
    runtime: Runtime,
    org: str,
    mode: str,
    event_id: str,
    kind: str,
    *,
    but: str | None = None,
) -> None:
    """Have an event delivered to every endpoint of an org that subscribes to its type, but one.

    For a disabled endpoint it is stored as skipped, so that it can be recovered.
    """
    now = to_us(runtime.clock.now())
    for endpoint in await endpoints.subscribed_endpoints(tx, org, mode):
        if endpoint["id"] != but and subscribes(json.loads(endpoint["event_types"]), kind):
            skipped = endpoint["status"] != "enabled"
            await deliveries.add_delivery(
                tx, runtime.ids.new("whd"), event_id, endpoint["id"], now, skipped=skipped
            )


def subscribes(patterns: Sequence[str], event_type: str) -> bool:
    """Whether an endpoint with these patterns receives an event type; no pattern means all."""
    return not patterns or any(fnmatch.fnmatchcase(event_type, pattern) for pattern in patterns)
