"""Fair turns: one bounded queue per endpoint, a cap and a rate for each, a share for the slow ones.

Pure bookkeeping of one process; what is claimed, and by whom, is in the store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

#: How many claims wait in a queue for each delivery that may be under way, at most.
_AHEAD = 16
#: Of what may be under way in all, the endpoints that do not answer share one part in so many.
_SLOW_SHARE = 4
#: Queues of endpoints that have had nothing to do are forgotten above so many.
_MOST_LANES = 10_000


class Claim(NamedTuple):
    """A delivery under lease."""

    id: str
    event_id: str
    endpoint_id: str
    token: int
    attempts: int
    plan_from: int
    trigger: str
    type: str
    payout_id: str | None
    body: bytes
    #: Until when it is ours, on the monotonic clock.
    until: float


class Ready(NamedTuple):
    """An endpoint with something due."""

    id: str
    org: str
    rate: float


@dataclass
class Lane:
    """The queue of one endpoint."""

    endpoint_id: str
    rate: float
    tokens: float
    filled_at: float
    queue: deque[Claim] = field(default_factory=deque)
    under_way: int = 0
    #: Whether it may have more due than was claimed.
    more: bool = False
    #: Seconds of its last try; None before the first.
    last_s: float | None = None
    answers: bool = True
    served: int = 0

    def refill(self, now: float) -> None:
        """Give it the tokens of the time that has passed, one second's worth at most."""
        self.tokens = min(max(self.rate, 1.0), self.tokens + (now - self.filled_at) * self.rate)
        self.filled_at = now

    def wait_s(self, now: float) -> float:
        """Return the seconds until it has a token."""
        self.refill(now)
        return max(0.0, (1.0 - self.tokens) / self.rate)


class Lanes:
    """Every lane of a process."""

    def __init__(self, total: int, per_endpoint: int, timeout_s: float) -> None:
        self._total = total
        self._cap = per_endpoint
        self._timeout_s = timeout_s
        self._lanes: dict[str, Lane] = {}
        #: Lanes with something in their queue, in the order of their turns.
        self._queued: dict[str, Lane] = {}
        self._turn = 0
        self._under_way = 0
        self._slow_under_way = 0

    def share(self, ready: Sequence[Ready], now: float) -> list[tuple[str, int]]:
        """Return how many deliveries to claim for whom: turns between orgs, then between endpoints.

        Whoever was served longest ago comes first. Nobody is given more than its queue, its cap and
        its rate allow.
        """
        self._forget()
        by_org: dict[str, deque[tuple[Lane, int]]] = {}
        for each in ready:
            lane = self._lanes.setdefault(
                each.id, Lane(each.id, each.rate, max(each.rate, 1.0), now)
            )
            lane.rate = each.rate
            room = self._room(lane, now)
            lane.more = True
            if room > 0:
                by_org.setdefault(each.org, deque()).append((lane, room))
        orgs = deque(
            deque(sorted(lanes, key=lambda pair: pair[0].served)) for lanes in by_org.values()
        )
        orgs = deque(sorted(orgs, key=lambda lanes: lanes[0][0].served))
        wanted: dict[str, int] = {}
        left = self._total * _AHEAD - sum(len(lane.queue) for lane in self._queued.values())
        while orgs and left > 0:
            lanes = orgs.popleft()
            lane, room = lanes.popleft()
            self._turn += 1
            lane.served = self._turn
            # A handful at a turn: one statement claims them.
            count = min(room, left, self._cap)
            wanted[lane.endpoint_id] = wanted.get(lane.endpoint_id, 0) + count
            left -= count
            if room > count:
                lanes.append((lane, room - count))
            if lanes:
                orgs.append(lanes)
        return list(wanted.items())

    def claimed(self, wanted: Sequence[tuple[str, int]], claims: Sequence[Claim]) -> None:
        """Queue what was claimed."""
        got: dict[str, int] = {}
        for claim in claims:
            lane = self._lanes[claim.endpoint_id]
            lane.queue.append(claim)
            self._queued[lane.endpoint_id] = lane
            got[lane.endpoint_id] = got.get(lane.endpoint_id, 0) + 1
        for endpoint_id, count in wanted:
            self._lanes[endpoint_id].more = got.get(endpoint_id, 0) >= count

    def start(self, now: float, begin: Callable[[Claim], None]) -> None:
        """Begin what may begin now, one per endpoint and round."""
        waiting = deque(self._queued.values())
        while waiting and self._under_way < self._total:
            lane = waiting.popleft()
            lane.refill(now)
            while lane.queue and lane.queue[0].until < now + self._timeout_s:
                # Its lease would end before the try does: left for whoever claims it then.
                lane.queue.popleft()
                lane.more = True
            if not lane.queue:
                self._queued.pop(lane.endpoint_id, None)
                continue
            if not self._may_begin(lane):
                continue
            claim = lane.queue.popleft()
            lane.tokens -= 1
            lane.under_way += 1
            self._under_way += 1
            self._slow_under_way += not lane.answers
            # Its next turn comes after everybody else's.
            self._queued.pop(lane.endpoint_id, None)
            if lane.queue:
                self._queued[lane.endpoint_id] = lane
                waiting.append(lane)
            begin(claim)

    def ended(self, endpoint_id: str, seconds: float, *, answered: bool) -> bool:
        """Note the end of a try; whether its queue wants to be filled again."""
        lane = self._lanes[endpoint_id]
        lane.under_way -= 1
        self._under_way -= 1
        if lane.answers != answered:
            # What is under way there is now counted on the other side.
            self._slow_under_way += -lane.under_way - 1 if answered else lane.under_way
        elif not answered:
            self._slow_under_way -= 1
        lane.answers, lane.last_s = answered, seconds
        return lane.more and len(lane.queue) <= self._depth(lane) // 2

    def rest_s(self, now: float) -> float | None:
        """Return the seconds until a lane that only waits for its rate may go on; None: none does."""
        waits = [
            lane.wait_s(now)
            for lane in self._lanes.values()
            if (lane.queue or lane.more) and lane.under_way < self._cap and lane.tokens < 1
        ]
        return min(waits, default=None)

    def _may_begin(self, lane: Lane) -> bool:
        if lane.tokens < 1:
            return False
        if lane.answers:
            return lane.under_way < (self._cap if lane.last_s is not None else 1)
        # One try at a time at a receiver that does not answer, and all of them on a part of the room:
        # the others must not wait for its deadline.
        return lane.under_way < 1 and self._slow_under_way < max(1, self._total // _SLOW_SHARE)

    def _room(self, lane: Lane, now: float) -> int:
        lane.refill(now)
        held = len(lane.queue)
        return min(self._depth(lane) - held - lane.under_way, int(lane.tokens) - held)

    def _depth(self, lane: Lane) -> int:
        """Return how many claims it may hold: so many as it sends within one deadline."""
        if lane.last_s is None or not lane.answers:
            return 1
        ahead = int(self._timeout_s / max(lane.last_s, 1e-3))
        return self._cap * max(1, min(_AHEAD, ahead))

    def _forget(self) -> None:
        if len(self._lanes) > _MOST_LANES:
            idle = [
                key for key, lane in self._lanes.items() if not lane.queue and not lane.under_way
            ]
            for key in idle:
                del self._lanes[key]
