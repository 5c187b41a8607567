"""A circuit breaker per custodian instance: it stops payments to a custodian that does not answer.

Only the custodian's failures open it: no connection, no answer, or a status of 500 or above. Refusals
(4xx) are answers. While it is open, moving calls wait before their mark and quotes leave the instance
out; looks continue, and no outcome changes. After a while one read decides whether it closes.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from gateway.errors import CustodianDown
from gateway.runtime import Clock

#: How often the interval doubles after which the custodian is asked again.
_MOST_S = 300.0


class BreakerState(StrEnum):
    """Whether calls are let through."""

    CLOSED = "closed"  #: everything is sent
    OPEN = "open"  #: nothing that may move money is sent
    HALF_OPEN = "half_open"  #: as open; the next read decides


class Breaker:
    """The breaker of one instance, in this process."""

    def __init__(self, clock: Clock, faults: int = 5, open_s: float = 30.0) -> None:
        self._clock = clock
        self._most = faults
        self._open_s = open_s
        self._faults = 0
        self._word = ""
        #: until when it is open, by the monotonic clock; None if it is closed
        self._until: float | None = None
        self._wait = open_s
        #: called when it opens or closes
        self.changed: Callable[[], None] = lambda: None

    @property
    def state(self) -> BreakerState:
        """The state at this moment."""
        if self._until is None:
            return BreakerState.CLOSED
        over = self._clock.monotonic() >= self._until
        return BreakerState.HALF_OPEN if over else BreakerState.OPEN

    @property
    def word(self) -> str | None:
        """Return why nothing should be sent; None if it is closed."""
        return None if self._until is None else f"the custodian does not answer ({self._word})"

    def wait_s(self) -> float | None:
        """Return the seconds until a read decides; None if it is closed."""
        return None if self._until is None else max(0.0, self._until - self._clock.monotonic())

    def fault(self, word: str) -> None:
        """Note a failure of the custodian: `unreachable` or `failing`."""
        state, self._word = self.state, word
        if state is BreakerState.CLOSED:
            self._faults += 1
            if self._faults >= self._most:
                self._open(self._open_s)
        elif state is BreakerState.HALF_OPEN:
            self._open(min(2 * self._wait, max(_MOST_S, self._open_s)))

    def answered(self) -> None:
        """Note that the custodian answered. While it is open, answers to earlier requests do not count."""
        if self.state is BreakerState.OPEN:
            return
        was_closed = self._until is None
        self._faults, self._until = 0, None
        if not was_closed:
            self.changed()

    def nothing_to_ask(self) -> None:
        """Close on trial, because the adapter has no read to ask with. The next failure opens it again."""
        if self.state is BreakerState.HALF_OPEN:
            self.answered()
            self._faults = self._most - 1

    def allow_mark(self) -> None:
        """Refuse a moving call unless it is closed. Raises CustodianDown: nothing was sent."""
        if self._until is not None:
            raise CustodianDown(f"{self.word}; not sent", again_after_s=self.wait_s())

    def _open(self, seconds: float) -> None:
        self._wait, self._until = seconds, self._clock.monotonic() + seconds
        self._faults = 0
        self.changed()
