"""How far our wall clock is off a custodian's, by the `Date` of its answers."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from types import SimpleNamespace

import aiohttp

from gateway.runtime import Clock

#: An answer older than this says nothing about the clocks of now.
_FRESH_S = 600.0


class Dates:
    """Remembers the newest `Date` header of one instance's answers, against elapsed time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: tuple[float, float, str] | None = None

    def tracing(self) -> aiohttp.TraceConfig:
        """Return what a session needs to note every answer's date."""
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._note)
        return trace

    def note(self, date: str | None) -> None:
        """Note the `Date` header of an answer that has just come."""
        try:
            theirs = parsedate_to_datetime(date) if date else None
        except ValueError:
            theirs = None
        if theirs is None or theirs.tzinfo is None:
            return
        now = self._clock.moment()
        # What the custodian's clock shows when ours has run so long.
        self._seen = (theirs.timestamp() - now.elapsed / 1e6, now.elapsed / 1e6, now.clock_id)

    def skew_s(self) -> float | None:
        """Return our wall clock minus the custodian's, in seconds; None where nothing is known now."""
        now = self._clock.moment()
        if self._seen is None or self._seen[2] != now.clock_id:
            return None
        offset, noted, _ = self._seen
        if now.elapsed / 1e6 - noted > _FRESH_S:
            return None
        return now.wall / 1e6 - (offset + now.elapsed / 1e6)

    async def _note(
        self,
        _session: aiohttp.ClientSession,
        _context: SimpleNamespace,
        params: aiohttp.TraceRequestEndParams,
    ) -> None:
        self.note(params.response.headers.get("Date"))
