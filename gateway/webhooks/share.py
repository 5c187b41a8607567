"""How much of the process the deliveries of one org may use while other orgs call the API."""

from __future__ import annotations

from gateway.calling import Calling
from gateway.runtime import Clock

#: While a request of another org is in progress, the tries of an org begin this far apart, after a burst.
#: A try takes about a millisecond of processor time: an org with many endpoints gets an eighth of
#: the process, and continues at full speed when the request has ended.
PACE_S = 0.008
BURST = 2
#: Tries that begin in one turn of the event loop while a single org calls.
AT_ONCE = 4
RECEIPTS_PAUSE_S = 0.02
_MOST_ORGS = 1000
#: What floating-point times may be off.
_ROUNDING_S = 1e-6


class Share:
    """When the next try of an org may begin."""

    def __init__(self, clock: Clock, calling: Calling) -> None:
        self._clock = clock
        self._calling = calling
        #: by org, when its burst is full again, on the monotonic clock
        self._full_at: dict[str, float] = {}

    def at_once(self) -> int:
        """Return how many tries may begin in one turn of the event loop.

        Each of them signs, connects and writes at once, and a request waits for a turn at each of its steps.
        """
        return 1 if self._calling.several_lately() else AT_ONCE

    def receipts_pause_s(self) -> float:
        """Return the seconds between two commits of receipts; 0 while a single org calls.

        A request waits for the commit that is in progress when it comes, and then for its own.
        """
        return RECEIPTS_PAUSE_S if self._calling.several_lately() else 0.0

    def held_s(self, org: str) -> float:
        """Return the seconds until a try of an org may begin; 0 while no other org calls."""
        full_at = self._full_at.get(org)
        if full_at is None or not self._calling.others_now(org):
            return 0.0
        wait_s = full_at - self._clock.monotonic() - (BURST - 1) * PACE_S
        return wait_s if wait_s > _ROUNDING_S else 0.0

    def begun(self, org: str) -> None:
        """Note that a try of an org has begun."""
        now = self._clock.monotonic()
        if len(self._full_at) >= _MOST_ORGS:
            self._full_at = {name: at for name, at in self._full_at.items() if at > now}
        full_at = max(now, self._full_at.get(org, now)) + PACE_S
        self._full_at[org] = min(full_at, now + BURST * PACE_S)
