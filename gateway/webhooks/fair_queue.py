"""Fair turns: one bounded queue per endpoint, a cap and a rate for each, a share for the slow ones.

Pure bookkeeping of one process; what is claimed, and by whom, is in the store.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

#: How many claims wait in a queue for each delivery that may be under way, at most.
_AHEAD = 16
#: Of what may be under way in all, the endpoints that do not answer share one part in so many.
_SLOW_SHARE = 4
#: Of it, the tries of one org at endpoints that have not answered yet take one part in so many: an org
#: that names a hundred hosts that never answer must not fill the room with first tries.
_UNPROVEN_SHARE = 8
#: Queues of endpoints that have had nothing to do are forgotten above so many.
_MOST_QUEUES = 10_000


class Claim(NamedTuple):
    """A delivery under lease."""

    #: of the event; with the endpoint it names the delivery
    position: int
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

    @property
    def lease(self) -> tuple[int, str, int]:
        """What the store knows it by."""
        return self.position, self.endpoint_id, self.token


class Ready(NamedTuple):
    """An endpoint with something due."""

    id: str
    org: str
    rate: float


@dataclass
class EndpointQueue:
    """The claimed deliveries of one endpoint, its rate and how it answers."""

    endpoint_id: str
    org: str
    rate: float
    tokens: float
    filled_at: float
    claims: deque[Claim] = field(default_factory=deque)
    under_way: int = 0
    #: Room that is kept for deliveries whose transaction is not over.
    reserved: int = 0
    #: How many of them began while nobody knew that it answers.
    unproven: int = 0
    #: Whether it may have more due than was claimed.
    more: bool = False
    #: Seconds of its last try; None before the first.
    last_s: float | None = None
    answers: bool = True
    served: int = 0

    @property
    def proven(self) -> bool:
        """Whether its last try was answered."""
        return self.answers and self.last_s is not None

    def refill(self, now: float) -> None:
        """Give it the tokens of the time that has passed, one second's worth at most."""
        self.tokens = min(max(self.rate, 1.0), self.tokens + (now - self.filled_at) * self.rate)
        self.filled_at = now

    def wait_s(self, now: float) -> float:
        """Return the seconds until it has a token."""
        self.refill(now)
        return max(0.0, (1.0 - self.tokens) / self.rate)


class FairQueue:
    """Every endpoint's queue in this process."""

    def __init__(self, total: int, per_endpoint: int, timeout_s: float) -> None:
        self._total = total
        self._cap = per_endpoint
        self._timeout_s = timeout_s
        self._queues: dict[str, EndpointQueue] = {}
        #: Queues with claims in them, in the order of their turns. One that is at its cap is taken out
        #: until one of its tries has ended: nobody has to look at it meanwhile.
        self._queued: dict[str, EndpointQueue] = {}
        #: The queues of each org.
        self._of_org: dict[str, dict[str, EndpointQueue]] = {}
        #: Claims in all queues, and room that is reserved in them.
        self._held = 0
        self._turn = 0
        self._under_way = 0
        self._slow_under_way = 0
        #: By org, the tries under way at endpoints that have not answered yet.
        self._unproven: Counter[str] = Counter()
        #: Orgs of which something due was not claimed for that reason.
        self._held_back: set[str] = set()
        #: Whether something waits for the place of a try under way, as of the last `start`.
        self.crowded = False

    def share(self, ready: Sequence[Ready], now: float) -> list[tuple[str, int]]:
        """Return how many deliveries to claim for whom: turns between orgs, then between endpoints.

        The endpoint that was served longest ago comes first. None gets more than its queue, its cap and
        its rate allow.
        """
        self._forget()
        by_org: dict[str, deque[tuple[EndpointQueue, int]]] = {}
        unproven = self._unproven + Counter(
            queue.org for queue in self._queued.values() if not queue.proven
        )
        self._held_back.clear()
        due = {each.id for each in ready}
        for queue in self._queues.values():
            # Otherwise everything that was due has been claimed since.
            queue.more = queue.more and queue.endpoint_id in due
        for each in sorted(ready, key=self._last_served):
            queue = self._queue_of(each, now)
            # One that is more than half full asks again when it is not (`ended`): few claims of many.
            hungry = len(queue.claims) + queue.reserved <= self._depth(queue) // 2
            room = self._room(queue, now) if hungry else 0
            queue.more = True
            if room > 0 and not queue.proven:
                if unproven[each.org] >= self._most_unproven:
                    self._held_back.add(each.org)
                    continue
                unproven[each.org] += 1
            if room > 0:
                by_org.setdefault(each.org, deque()).append((queue, room))
        orgs = deque(
            deque(sorted(queues, key=lambda pair: pair[0].served)) for queues in by_org.values()
        )
        orgs = deque(sorted(orgs, key=lambda queues: queues[0][0].served))
        wanted: dict[str, int] = {}
        left = self._total * _AHEAD - self._held
        while orgs and left > 0:
            queues = orgs.popleft()
            queue, room = queues.popleft()
            self._turn += 1
            queue.served = self._turn
            # A handful at a turn: one statement claims them.
            count = min(room, left, self._cap)
            wanted[queue.endpoint_id] = wanted.get(queue.endpoint_id, 0) + count
            left -= count
            if room > count:
                queues.append((queue, room - count))
            if queues:
                orgs.append(queues)
        return list(wanted.items())

    def found(self, wanted: Sequence[tuple[str, int]], claims: Sequence[Claim]) -> None:
        """Note what a claim has found, while its transaction is open. Once for each `claimed`.

        Where it found less than was wanted, nothing older is left in the store: what is published after
        it, also before its commit, is handed over again. Otherwise whatever is published during one claim
        would need the next one, for as long as something is published all the time.
        """
        got = Counter(claim.endpoint_id for claim in claims)
        for endpoint_id, count in wanted:
            self._queues[endpoint_id].more = got[endpoint_id] >= count
        for endpoint_id, count in got.items():
            self._queues[endpoint_id].reserved += count
            self._held += count

    def claimed(
        self, wanted: Sequence[tuple[str, int]], claims: Sequence[Claim], *, committed: bool = True
    ) -> None:
        """Queue what was found, or give its room back where it was not committed."""
        for claim in claims:
            self.release([claim.endpoint_id], 1)
        if committed:
            self.hand_over(claims)
            return
        for endpoint_id, _ in wanted:
            self._queues[endpoint_id].more = True

    def offer(self, ready: Ready, claim: Claim, now: float) -> None:
        """Put a delivery that is not in the store first in its endpoint's queue: its cap and rate hold."""
        queue = self._queue_of(ready, now)
        queue.claims.appendleft(claim)
        self._held += 1
        self._queued.setdefault(queue.endpoint_id, queue)

    def reserve(self, org: str, count: int, now: float, usable: Callable[[str], bool]) -> list[str]:
        """Keep room for `count` new deliveries to each endpoint of an org that has it; return which.

        None has it of which something older is still in the store, or that did not answer its last try:
        its turn comes by `share`. Cap, rate and depth are those of every claim. Give it back with
        `release`.
        """
        found = []
        for queue in self._of_org.get(org, {}).values():
            if self._held + count > self._total * _AHEAD:
                break
            if queue.more or not queue.proven or not usable(queue.endpoint_id):
                continue
            if self._room(queue, now) >= count:
                queue.reserved += count
                self._held += count
                found.append(queue.endpoint_id)
        return found

    def set_rate(self, endpoint_id: str, rate: float) -> None:
        """Take over the rate of an endpoint as it was read: nothing of it may be due for a long time."""
        queue = self._queues.get(endpoint_id)
        if queue is not None:
            queue.rate = rate

    def release(self, endpoint_ids: Sequence[str], count: int) -> None:
        """Give back what was reserved, once for each `reserve`."""
        for endpoint_id in endpoint_ids:
            self._queues[endpoint_id].reserved -= count
            self._held -= count

    def hand_over(self, claims: Sequence[Claim]) -> None:
        """Queue new deliveries for which there was room."""
        for claim in claims:
            self._add(self._queues[claim.endpoint_id], claim)

    def _add(self, queue: EndpointQueue, claim: Claim) -> None:
        queue.claims.append(claim)
        self._held += 1
        self._queued[queue.endpoint_id] = queue

    def withdraw(self, claim: Claim) -> bool:
        """Take back what was offered; whether it had not begun."""
        queue = self._queues.get(claim.endpoint_id)
        if queue is None or claim not in queue.claims:
            return False
        queue.claims.remove(claim)
        self._held -= 1
        return True

    def start(
        self,
        now: float,
        begin: Callable[[Claim, str], None],
        most: int | None = None,
        held_s: Callable[[str], float] = lambda _: 0.0,
    ) -> float | None:
        """Begin what may begin now, one per endpoint and round, and `most` in all.

        `held_s` returns the seconds for which an org's tries do not begin. Returns the seconds until
        more may begin: 0 after `most`; None where nothing waits for time.
        """
        waiting = deque(self._queued.values())
        left = self._total if most is None else most
        held: dict[str, float] = {}
        self.crowded = False
        while waiting and self._under_way < self._total:
            if not left:
                return 0.0
            queue = waiting.popleft()
            queue.refill(now)
            while queue.claims and queue.claims[0].until < now + self._timeout_s:
                # Its lease would end before the attempt does: left for the next claimant.
                queue.claims.popleft()
                self._held -= 1
                queue.more = True
            if not queue.claims:
                self._queued.pop(queue.endpoint_id, None)
                continue
            if not self._may_begin(queue):
                self.crowded = self.crowded or queue.tokens >= 1
                if queue.proven and queue.under_way >= self._cap:
                    del self._queued[queue.endpoint_id]
                continue
            if (wait_s := held_s(queue.org)) > 0:
                held[queue.org] = wait_s
                continue
            claim = queue.claims.popleft()
            self._held -= 1
            queue.tokens -= 1
            queue.under_way += 1
            self._under_way += 1
            self._slow_under_way += not queue.answers
            if not queue.proven:
                queue.unproven += 1
                self._unproven[queue.org] += 1
            # Its next turn comes after everybody else's.
            self._queued.pop(queue.endpoint_id, None)
            if queue.claims:
                self._queued[queue.endpoint_id] = queue
                waiting.append(queue)
            left -= 1
            begin(claim, queue.org)
        self.crowded = self.crowded or bool(waiting)
        return min(held.values(), default=None)

    def needs_place(self, endpoint_id: str) -> bool:
        """Whether something may wait for the place of a try at an endpoint. If not, `crowded` says when."""
        queue = self._queues[endpoint_id]
        return (
            bool(queue.claims) or queue.more or not queue.proven or self._under_way >= self._total
        )

    def ended(self, endpoint_id: str, seconds: float, *, answered: bool) -> bool:
        """Note the end of a try; whether its queue wants to be filled again."""
        queue = self._queues[endpoint_id]
        queue.under_way -= 1
        self._under_way -= 1
        if queue.answers != answered:
            # What is under way there is now counted on the other side.
            self._slow_under_way += -queue.under_way - 1 if answered else queue.under_way
        elif not answered:
            self._slow_under_way -= 1
        queue.answers, queue.last_s = answered, seconds
        if queue.claims:
            self._queued.setdefault(queue.endpoint_id, queue)
        if queue.unproven:
            queue.unproven -= 1
            self._unproven[queue.org] -= 1
            if queue.org in self._held_back:
                return True
        return queue.more and len(queue.claims) <= self._depth(queue) // 2

    def rest_s(self, now: float) -> float | None:
        """Return the seconds until a queue that only waits for its rate may go on; None: none does."""
        waits = [
            queue.wait_s(now)
            for queue in self._queues.values()
            if (queue.claims or queue.more) and queue.under_way < self._cap and queue.tokens < 1
        ]
        return min(waits, default=None)

    def _queue_of(self, each: Ready, now: float) -> EndpointQueue:
        queue = self._queues.get(each.id)
        if queue is None:
            queue = EndpointQueue(each.id, each.org, each.rate, max(each.rate, 1.0), now)
            self._queues[each.id] = queue
            self._of_org.setdefault(each.org, {})[each.id] = queue
        queue.rate = each.rate
        return queue

    @property
    def _most_unproven(self) -> int:
        return max(1, self._total // _UNPROVEN_SHARE)

    def _last_served(self, each: Ready) -> int:
        queue = self._queues.get(each.id)
        return 0 if queue is None else queue.served

    def _may_begin(self, queue: EndpointQueue) -> bool:
        if queue.tokens < 1:
            return False
        if not queue.proven and self._unproven[queue.org] >= self._most_unproven:
            return False
        if queue.answers:
            return queue.under_way < (self._cap if queue.last_s is not None else 1)
        # One try at a time at a receiver that does not answer, and all of them on a part of the room:
        # the others must not wait for its deadline.
        return queue.under_way < 1 and self._slow_under_way < max(1, self._total // _SLOW_SHARE)

    def _room(self, queue: EndpointQueue, now: float) -> int:
        queue.refill(now)
        held = len(queue.claims) + queue.reserved
        return min(self._depth(queue) - held - queue.under_way, int(queue.tokens) - held)

    def _depth(self, queue: EndpointQueue) -> int:
        """Return how many claims it may hold: so many as it sends within one deadline."""
        if queue.last_s is None or not queue.answers:
            return 1
        ahead = int(self._timeout_s / max(queue.last_s, 1e-3))
        return self._cap * max(1, min(_AHEAD, ahead))

    def _forget(self) -> None:
        if len(self._queues) > _MOST_QUEUES:
            idle = [
                key
                for key, queue in self._queues.items()
                if not queue.claims and not queue.under_way and not queue.reserved
            ]
            for key in idle:
                queue = self._queues.pop(key)
                del self._of_org[queue.org][key]
                if not self._of_org[queue.org]:
                    del self._of_org[queue.org]
