"""New deliveries go from the change that made them to their lanes, without a claim in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.runtime import Failpoint, Runtime
from gateway.store.lanes import Handed, LeaseTokens
from gateway.webhooks.fair_queue import Claim, FairQueue

_SECOND = 1_000_000


class Handover:
    """The lanes of this process as the store sees them: `gateway.store.lanes.Lanes`."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        queue: FairQueue,
        runtime: Runtime,
        tokens: LeaseTokens,
        *,
        life_s: float,
        may_lease: Callable[[], bool],
        usable: Callable[[str], bool],
        reserved: Callable[[Sequence[str], float], None],
        begin: Callable[[], None],
        claim: Callable[[], None],
    ) -> None:
        self.queue = queue
        self.runtime = runtime
        #: begins what is in the lanes
        self.begin = begin
        #: has the loop claim what is not
        self.claim = claim
        self._tokens = tokens
        self._life_s = life_s
        self._may_lease = may_lease
        self._usable = usable
        #: hears of each endpoint that gets deliveries, in the transaction that makes them, and when
        self._reserved = reserved

    def reserve(self, org: str, events: int) -> ReservedRoom:
        """Reserve room for so many events in the lanes of an org's endpoints, as far as there is any."""
        now = self.runtime.clock.monotonic()
        endpoint_ids: Sequence[str] = ()
        if self._may_lease():
            endpoint_ids = self.queue.reserve(org, events, now, self._usable)
        self._reserved(endpoint_ids, now)
        return ReservedRoom(
            self,
            endpoint_ids,
            events,
            token=self._tokens.new(),
            until=self.runtime.timeline.now() + round(self._life_s * _SECOND),
            until_s=now + self._life_s,
        )


class ReservedRoom:
    """Room that one change has reserved: `gateway.store.lanes.Room`."""

    def __init__(  # noqa: PLR0913 - the parts of a lease
        self,
        owner: Handover,
        endpoint_ids: Sequence[str],
        events: int,
        *,
        token: int,
        until: int,
        until_s: float,
    ) -> None:
        self.endpoint_ids = endpoint_ids
        self.token = token
        self.until = until
        self._until_s = until_s
        self._owner = owner
        self._events = events
        self._handed: Sequence[Handed] = ()
        self._others = False

    def take(self, handed: Sequence[Handed], *, others: bool) -> None:
        """Note what was inserted under the lease, and whether anything was without one."""
        self._handed, self._others = handed, others

    def over(self, *, committed: bool) -> None:
        """Begin to send what was taken; in any case the room is not reserved any more."""
        owner = self._owner
        owner.queue.release(self.endpoint_ids, self._events)
        if not committed:
            return
        if self._handed:
            owner.runtime.failpoint(Failpoint.DELIVERY_COMMITTED)
            owner.queue.hand_over([self._claim(each) for each in self._handed])
            owner.begin()
        if self._others:
            owner.claim()

    def _claim(self, each: Handed) -> Claim:
        event = each.event
        return Claim(
            position=each.position,
            event_id=event["id"],
            endpoint_id=each.endpoint_id,
            token=self.token,
            attempts=0,
            plan_from=0,
            trigger="scheduled",
            type=event["type"],
            payout_id=event["payout_id"],
            body=event["body"],
            until=self._until_s,
        )
