"""What a subscriber missed, sent again: one event, a span of time; and the log of every try."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.caller import Caller
from gateway.errors import Refused
from gateway.events import subscribes
from gateway.model import RequestBody, Time
from gateway.runtime import Runtime
from gateway.store import deliveries, events
from gateway.store import endpoints as rows
from gateway.store.database import Row, Tx
from gateway.store.rows import from_us, maybe_from_us, to_us
from gateway.views import ENDPOINT_EVENTS, EventType
from gateway.webhooks.endpoints import Endpoints
from gateway.webhooks.sender import DeliveryOutcome
from gateway.webhooks.subscriptions import EndpointChange, EndpointView

#: Events that one step of a recovery looks at; each step is a transaction of its own.
STEP_EVENTS = 200
#: The states of a delivery that never arrived; none where the endpoint did not exist or subscribe yet.
_MISSED = frozenset({None, "skipped", "exhausted"})
#: Where a list of tries goes on: `started_at`, `position` of the event and `endpoint_id` of the last one.
Place = tuple[int, int, str]
#: Before every try.
NEWEST: Place = (2**62, 0, "")


class ResendRequest(RequestBody):
    """Where an event is sent again."""

    endpoint_id: str | None = Field(
        default=None, description="One endpoint; every enabled one that subscribes, if not given."
    )


class RecoveryRequest(RequestBody):
    """Which span of time is recovered."""

    since: Time = Field(description="Events of this time and later.")
    until: Time | None = Field(
        default=None, description="Events before this time; now, if not given."
    )


class Resent(BaseModel):
    """An event that is on its way again."""

    model_config = ConfigDict(frozen=True, title="Resend")

    object: Literal["resend"] = "resend"
    event_id: str
    endpoint_ids: list[str]


class Recovery(BaseModel):
    """A job that sends again what an endpoint missed; it survives restarts."""

    model_config = ConfigDict(frozen=True, title="Recovery")

    id: str
    object: Literal["recovery"] = "recovery"
    endpoint_id: str
    state: Literal["running", "finished"]
    since: Time
    until: Time
    events_looked_at: int
    events_recovered: int = Field(
        description="Events that were missed, or waited for their next try, and are sent again."
    )
    created_at: Time
    finished_at: Time | None


class AttemptView(BaseModel):
    """One try of a delivery."""

    model_config = ConfigDict(frozen=True, title="DeliveryAttempt")

    id: str
    object: Literal["delivery_attempt"] = "delivery_attempt"
    event_id: str
    event_type: EventType
    endpoint_id: str
    attempt: int = Field(description="1 for the first try of this event at this endpoint.")
    trigger: Literal["scheduled", "manual", "recover"]
    outcome: DeliveryOutcome
    http_status: int | None
    response_snippet: str | None
    started_at: Time
    duration_ms: int
    next_attempt_at: Time | None


class Replays:
    """Use cases of replays. Its methods are store functions."""

    def __init__(self, runtime: Runtime, endpoints: Endpoints) -> None:
        self._runtime = runtime
        self._endpoints = endpoints

    async def resend(
        self, tx: Tx, caller: Caller, event_id: str, endpoint_id: str | None
    ) -> Resent:
        """Make an event due again, whatever its state; its retry plan starts again.

        May be called again. Refused: `event_not_found`, `endpoint_not_found`, `endpoint_disabled`.
        """
        event = await events.find_event(tx, event_id, caller.org, caller.mode)
        if event is None:
            raise unknown_event(event_id)
        if endpoint_id is not None:
            row = await self._endpoints.row(tx, caller, endpoint_id)
            if row["status"] != "enabled":
                raise _disabled(endpoint_id)
            wanted = [endpoint_id]
        else:
            wanted = [
                each["id"]
                for each in await rows.subscribed_endpoints(tx, caller.org, caller.mode)
                if each["status"] == "enabled"
                and subscribes(json.loads(each["event_types"]), event["type"])
            ]
        if wanted:
            await deliveries.deliver_again(
                tx,
                [(event["position"], each) for each in wanted],
                self._runtime.timeline.now(),
                "manual",
            )
        return Resent(event_id=event_id, endpoint_ids=wanted)

    async def recover(
        self, tx: Tx, caller: Caller, endpoint_id: str, since: datetime, until: datetime | None
    ) -> Recovery:
        """Begin to send again what an endpoint missed. Refused: `endpoint_not_found`, `endpoint_disabled`."""
        row = await self._endpoints.row(tx, caller, endpoint_id)
        if row["status"] != "enabled":
            raise _disabled(endpoint_id)
        now = self._runtime.clock.now()
        # An event of this very microsecond counts as missed, too.
        end = now + timedelta(microseconds=1)
        until = min(until or end, end)
        if since >= until:
            raise Refused(
                "invalid_request",
                "since must be before until, and in the past.",
                errors=[
                    {"pointer": "/since", "code": "invalid", "detail": "since is not before until"}
                ],
            )
        recovery_id = self._runtime.ids.new("rec")
        await rows.add_recovery(
            tx,
            id=recovery_id,
            org=caller.org,
            mode=caller.mode,
            endpoint_id=endpoint_id,
            since=to_us(since),
            until=to_us(until),
            created_at=to_us(now),
        )
        return await self.recovery(tx, caller, endpoint_id, recovery_id)

    async def change(
        self, tx: Tx, caller: Caller, endpoint_id: str, change: EndpointChange
    ) -> tuple[EndpointView, Recovery | None]:
        """Change an endpoint; enabled again, it is sent what it missed, by the recovery returned.

        Refused: `endpoint_not_found`, `invalid_request`.
        """
        view, missed = await self._endpoints.update(tx, caller, endpoint_id, change)
        if missed is None:
            return view, None
        return view, await self.recover(tx, caller, endpoint_id, from_us(missed), None)

    async def recovery(
        self, tx: Tx, caller: Caller, endpoint_id: str, recovery_id: str
    ) -> Recovery:
        """Return a recovery and how far it is. Refused: `recovery_not_found`."""
        row = await rows.find_recovery(tx, recovery_id, caller.org, caller.mode)
        if row is None or row["endpoint_id"] != endpoint_id:
            raise Refused(
                "recovery_not_found", f"This endpoint has no recovery {recovery_id[:64]}."
            )
        return _recovery(row)

    async def recoveries(self, tx: Tx, caller: Caller, endpoint_id: str) -> list[Recovery]:
        """Return the newest recoveries of an endpoint. Refused: `endpoint_not_found`."""
        await self._endpoints.row(tx, caller, endpoint_id)
        return [_recovery(row) for row in await rows.recoveries_of(tx, endpoint_id, 100)]

    async def running(self, tx: Tx) -> list[str]:
        """Return the recoveries that run, oldest first, a bounded number."""
        return [row["id"] for row in await rows.running_recoveries(tx, 20)]

    async def step(self, tx: Tx, recovery_id: str) -> int:
        """Take one step of a recovery; how many deliveries are due by it.

        May be called twice, also by two processes: a step begins where the last one was written.
        """
        job = await rows.any_recovery(tx, recovery_id)
        if job is None or job["state"] != "running":
            return 0
        endpoint = await rows.endpoint_row(tx, job["endpoint_id"])
        assert endpoint is not None  # noqa: S101 - its foreign key holds
        gone = endpoint["deleted_at"] is not None
        found = (
            []
            if gone
            else await events.events_between(
                tx,
                job["org"],
                job["mode"],
                job["position"],
                job["since"],
                job["until"],
                endpoint["id"],
                self._runtime.timeline.now(),
                STEP_EVENTS,
            )
        )
        patterns = json.loads(endpoint["event_types"])
        due = [
            (int(event["position"]), str(endpoint["id"]))
            for event in found
            # An endpoint gets no events about itself.
            if (event["state"] in _MISSED or event["waits"])
            and event["type"] not in ENDPOINT_EVENTS
            and subscribes(patterns, event["type"])
        ]
        if due:
            await deliveries.deliver_again(tx, due, self._runtime.timeline.now(), "recover")
        ended = len(found) < STEP_EVENTS
        await rows.step_recovery(
            tx,
            job["id"],
            now_at=found[-1]["position"] if found else job["position"],
            looked_at=len(found),
            recovered=len(due),
            finished=to_us(self._runtime.clock.now()) if ended else None,
        )
        return len(due)

    async def attempts(  # noqa: PLR0913 - the cursor and its scope
        self,
        tx: Tx,
        caller: Caller,
        *,
        endpoint_id: str | None = None,
        event_id: str | None = None,
        before: Place,
        limit: int,
    ) -> list[tuple[AttemptView, Place]]:
        """Return the tries at an endpoint or of an event, newest first, each with its place.

        Refused: `endpoint_not_found`, `event_not_found`.
        """
        position: int | None = None
        if endpoint_id is not None:
            await self._endpoints.row(tx, caller, endpoint_id)
        else:
            event = await events.find_event(tx, event_id or "", caller.org, caller.mode)
            if event is None:
                raise unknown_event(event_id or "")
            position = event["position"]
        found = await deliveries.attempt_log(
            tx, endpoint_id=endpoint_id, position=position, before=before, limit=limit
        )
        return [
            (_attempt(row), (row["started_at"], row["position"], row["endpoint_id"]))
            for row in found
        ]


def _recovery(row: Row) -> Recovery:
    return Recovery(
        id=row["id"],
        endpoint_id=row["endpoint_id"],
        state=row["state"],
        since=from_us(row["since"]),
        until=from_us(row["until"]),
        events_looked_at=row["looked_at"],
        events_recovered=row["recovered"],
        created_at=from_us(row["created_at"]),
        finished_at=maybe_from_us(row["finished_at"]),
    )


def delivery_id(event_id: str, endpoint_id: str) -> str:
    """Return what a delivery is called outside: an event goes to an endpoint once."""
    return f"whd_{event_id.removeprefix('evt_')}_{endpoint_id.removeprefix('whe_')}"


def _attempt(row: Row) -> AttemptView:
    return AttemptView(
        id=f"{delivery_id(row['event_id'], row['endpoint_id'])}-{row['attempt']}",
        event_id=row["event_id"],
        event_type=row["type"],
        endpoint_id=row["endpoint_id"],
        attempt=row["attempt"],
        trigger=row["trigger"],
        outcome=row["outcome"],
        http_status=row["http_status"],
        response_snippet=row["response_snippet"],
        started_at=from_us(row["started_at"]),
        duration_ms=row["duration_ms"],
        next_attempt_at=maybe_from_us(row["next_attempt_at"]),
    )


def unknown_event(event_id: str) -> Refused:
    """Return the refusal of an event that the caller has not."""
    return Refused("event_not_found", f"There is no event {event_id[:64]} under this API key.")


def _disabled(endpoint_id: str) -> Refused:
    return Refused(
        "endpoint_disabled",
        f"The endpoint {endpoint_id} is disabled. Enable it first: that recovers what it missed, too.",
    )
