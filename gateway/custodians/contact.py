"""Tracks whether a custodian answers and accepts our credentials, by the answers of its server."""

from __future__ import annotations

from types import SimpleNamespace

import aiohttp

from gateway.custodians.breaker import Breaker

#: The number of bad answers in a row that counts as a failure; a single one can happen to anybody.
_BAD_IN_A_ROW = 3
_REFUSED = frozenset({401, 403})
_SERVER_ERROR = 500


class Contact:
    """Remembers how one instance's requests ended."""

    def __init__(self, breaker: Breaker | None = None) -> None:
        self.breaker = breaker
        self._bad = 0
        self._word = ""
        #: how the last request ended: `answered`, or one of the words below; None if none was made
        self.last: str | None = None

    @property
    def degraded(self) -> str | None:
        """The problem: `unreachable`, `failing` (5xx), `refuses_credentials` or `broken_adapter`.

        None if none is known.
        """
        return self._word if self._bad >= _BAD_IN_A_ROW else None

    def broken(self) -> None:
        """Note that the adapter's package cannot be used at all."""
        self._bad, self._word = _BAD_IN_A_ROW, "broken_adapter"

    def tracing(self) -> aiohttp.TraceConfig:
        """Return what a session needs to note how every request ends."""
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._ended)
        trace.on_request_exception.append(self._failed)
        return trace

    def answered(self, status: int) -> None:
        """Note the status of an answer."""
        if status >= _SERVER_ERROR:
            self._note("failing")
            if self.breaker is not None:
                self.breaker.fault("failing")
            return
        # A refusal counts as an answer.
        if self.breaker is not None:
            self.breaker.answered()
        if status in _REFUSED:
            self._note("refuses_credentials")
        else:
            self._bad = 0
            self.last = "answered"

    def unreachable(self) -> None:
        """Note that no answer came."""
        self._note("unreachable")
        if self.breaker is not None:
            self.breaker.fault("unreachable")

    def _note(self, word: str) -> None:
        self._bad += 1
        self._word = self.last = word

    async def _ended(
        self,
        _session: aiohttp.ClientSession,
        _context: SimpleNamespace,
        params: aiohttp.TraceRequestEndParams,
    ) -> None:
        self.answered(params.response.status)

    async def _failed(
        self,
        _session: aiohttp.ClientSession,
        _context: SimpleNamespace,
        _params: aiohttp.TraceRequestExceptionParams,
    ) -> None:
        self.unreachable()
