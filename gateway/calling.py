"""Which orgs call the API of this process now: work for one org gives way to requests of others."""

from __future__ import annotations

import asyncio
import itertools

from gateway.runtime import Clock

#: How long an org counts as calling after its last request has ended, in seconds.
RECENT_S = 0.5
#: A request counts as in progress for so long at most. One that waits longer does so for its own body, for
#: a custodian or for a long job, and does not need the event loop: nobody can hold others up by it.
COUNTS_S = 0.1


class Calling:
    """The requests in progress, by org, and who called last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: by org, when each of its requests began; the newest one is the last one
        self._in_progress: dict[str, dict[int, float]] = {}
        self._numbers = itertools.count()
        #: the org that called last; when it did; when any other org did
        self._last = ""
        self._last_at = self._others_at = -RECENT_S
        #: what waits until others have been answered, and for which org it is; the oldest one first
        self._waiting: dict[asyncio.Future[None], str] = {}
        self._releasing: asyncio.Handle | None = None

    def request(self, org: str) -> _Request:
        """Count a request of an org while it is in progress: within `with`."""
        return _Request(self, org)

    def begin(self, org: str) -> int:
        """Count a request of an org from now on; `end` wants the number that it returns."""
        self._note(org)
        number = next(self._numbers)
        self._in_progress.setdefault(org, {})[number] = self._last_at
        return number

    def end(self, org: str, number: int) -> None:
        """Note that a request has ended. Once for each that has begun."""
        of_org = self._in_progress[org]
        del of_org[number]
        if not of_org:
            del self._in_progress[org]
        self._note(org)
        self._release_soon()

    def _note(self, org: str) -> None:
        if org != self._last:
            self._last, self._others_at = org, self._last_at
        self._last_at = self._clock.monotonic()

    def others_now(self, org: str) -> bool:
        """Return whether a request of another org is in progress."""
        if not self._in_progress or (len(self._in_progress) == 1 and org in self._in_progress):
            return False
        since = self._clock.monotonic() - COUNTS_S
        return any(
            next(reversed(of_org.values())) > since
            for name, of_org in self._in_progress.items()
            if name != org
        )

    def anybody_now(self) -> bool:
        """Return whether any request of an org is in progress."""
        return bool(self._in_progress) and self.others_now("")

    def several_lately(self) -> bool:
        """Return whether two orgs have called within the last half second, or are calling."""
        return len(self._in_progress) > 1 or self._clock.monotonic() - self._others_at < RECENT_S

    async def quiet(self, org: str, most_s: float) -> None:
        """Wait until no request of another org is in progress, `most_s` seconds at most.

        Of what waits, the oldest goes on first, and only one in each turn of the event loop: a request
        that arrives meanwhile is ahead of the others.
        """
        if not self.others_now(org):
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting[waiter] = org
        late = loop.call_later(most_s, _let_go, waiter)
        try:
            await waiter
        finally:
            late.cancel()
            del self._waiting[waiter]

    def _release_soon(self) -> None:
        if self._waiting and self._releasing is None:
            self._releasing = asyncio.get_running_loop().call_soon(self._release)

    def _release(self) -> None:
        """Let the oldest go on that no request keeps waiting."""
        self._releasing = None
        for waiter, org in self._waiting.items():
            if not waiter.done() and not self.others_now(org):
                waiter.set_result(None)
                # What it does comes before the next one is asked for.
                self._release_soon()
                return


def _let_go(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class _Request:
    """A request that is counted. A class of its own costs a third of a generator, at every request."""

    __slots__ = ("_calling", "_number", "_org")

    def __init__(self, calling: Calling, org: str) -> None:
        self._calling = calling
        self._org = org

    def __enter__(self) -> None:
        self._number = self._calling.begin(self._org)

    def __exit__(self, *_: object) -> None:
        self._calling.end(self._org, self._number)
