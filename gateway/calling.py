"""Which orgs call the API of this process now: work for one org gives way to requests of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

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

    @contextmanager
    def request(self, org: str) -> Iterator[None]:
        """Count a request of an org while it is in progress."""
        self._note(org)
        self._in_progress[org] += 1
        self._total += 1
        try:
            yield
        finally:
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
