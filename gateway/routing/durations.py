"""Measures how long deliveries take by each way, in a bounded window in memory."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from statistics import median_low

from gateway.runtime import Clock
from gateway.store.database import Database
from gateway.store.durations import Measured, delivered_since

#: The fewest deliveries that give a usable median.
LEAST = 20
#: The most deliveries of one way that are remembered, and the most ways.
_WINDOW, _MOST_WAYS = 200, 1000
#: The most deliveries per read; if there are more in a minute, the newest are enough.
_PAGE = 1000
_READ_S = 60.0


class Durations:
    """The times of the newest deliveries of each way."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, deque[int]] = OrderedDict()
        self._medians: dict[str, int] = {}

    def seconds(self, route: str) -> int | None:
        """Return the median time of a way, in seconds; None if too few deliveries are known."""
        return self._medians.get(route)

    def medians(self) -> dict[str, int]:
        """Return the median times of all ways with enough deliveries."""
        return dict(self._medians)

    def learn(self, found: Iterable[Measured]) -> None:
        """Add deliveries, the oldest one first."""
        ways = set()
        for each in found:
            self._known.setdefault(each.route, deque(maxlen=_WINDOW)).append(each.seconds)
            self._known.move_to_end(each.route)
            ways.add(each.route)
        while len(self._known) > _MOST_WAYS:
            gone, _ = self._known.popitem(last=False)
            self._medians.pop(gone, None)
        for way in ways & self._known.keys():
            if len(self._known[way]) >= LEAST:
                self._medians[way] = median_low(self._known[way])


class DurationLoop:
    """Reads deliveries: the newest ones at the start, then new ones once a minute."""

    def __init__(self, db: Database, clock: Clock, durations: Durations) -> None:
        self._db = db
        self._clock = clock
        self._durations = durations
        #: the time of the newest delivery that was read
        self._since = 0

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self.turn()
            await self._clock.sleep(_READ_S)

    async def turn(self) -> None:
        """Read once. May be called any number of times."""
        found = await self._db.scan(delivered_since, self._since, _PAGE)
        if found:
            self._since = max(each.at for each in found)
            self._durations.learn(found)
