"""Which orgs call the API of this process now: work for one org gives way to requests of others."""

from __future__ import annotations

from collections import Counter

from gateway.runtime import Clock

#: How long an org counts as calling after its last request has ended, in seconds.
RECENT_S = 0.5


class Calling:
    """The requests in progress, by org, and who called last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._in_progress: Counter[str] = Counter()
        self._total = 0
        #: the org that called last; when it did; when any other org did
        self._last = ""
        self._last_at = self._others_at = -RECENT_S

    def request(self, org: str) -> _Request:
        """Count a request of an org while it is in progress: within `with`."""
        return _Request(self, org)

    def begin(self, org: str) -> None:
        """Count a request of an org from now on."""
        self._note(org)
        self._in_progress[org] += 1
        self._total += 1

    def end(self, org: str) -> None:
        """Note that a request has ended. Once for each that has begun."""
        self._total -= 1
        self._in_progress[org] -= 1
        if not self._in_progress[org]:
            del self._in_progress[org]
        self._note(org)

    def _note(self, org: str) -> None:
        if org != self._last:
            self._last, self._others_at = org, self._last_at
        self._last_at = self._clock.monotonic()

    def others_now(self, org: str) -> bool:
        """Return whether a request of another org is in progress."""
        return self._total > self._in_progress.get(org, 0)

    def several_lately(self) -> bool:
        """Return whether two orgs have called within the last half second, or are calling."""
        return len(self._in_progress) > 1 or self._clock.monotonic() - self._others_at < RECENT_S


class _Request:
    """A request that is counted. A class of its own costs a third of a generator, at every request."""

    __slots__ = ("_calling", "_org")

    def __init__(self, calling: Calling, org: str) -> None:
        self._calling = calling
        self._org = org

    def __enter__(self) -> None:
        self._calling.begin(self._org)

    def __exit__(self, *_: object) -> None:
        self._calling.end(self._org)
