"""Bounds on the parts of an answer besides its body.

A server may send any number of interim answers (`103 Early Hints`) before the final one, and any number
of chunk extensions and trailers after it. aiohttp reads them all: it parses up to 256 KB at a time and
blocks the event loop meanwhile. This handler parses the bytes in small pieces, and closes a connection
that exceeds a bound.
"""

from __future__ import annotations

from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.streams import StreamReader

#: Interim answers (1xx) to one request. Servers send one or two.
MOST_INTERIM = 8
#: Bytes of status lines and headers until the final status has come, interim answers included.
MOST_HEAD_BYTES = 64 * 1024
#: Bytes after the final status that are not body (sizes and extensions of chunks, trailers), in
#: addition to as many as the body has. The library may hold back that much of a body that nobody reads
#: at the moment.
MOST_FRAMING_BYTES = 1024 * 1024
#: Bytes that are parsed before the bounds are checked again. Before the final status the number is
#: smaller, because an interim answer may have only thirty bytes, and the parser makes an object of
#: each.
_PIECE, _HEAD_PIECE = 4096, 512
_SWITCHING = 101


class AnswerTooLongError(aiohttp.ClientConnectionError):
    """The server sent more before its final status than is read. The request may have arrived."""


class BoundedHandler(ResponseHandler):
    """aiohttp's client connection with bounds on interim answers, on header bytes and on what follows."""

    _head_bytes = 0
    _interim = 0
    #: Final answers since the last request; the second one answers nothing.
    _final = 0
    #: Bytes since the final answer began to be queued, its body and what frames it.
    _tail_bytes = 0
    _body: StreamReader | None = None
    _cut = False

    def set_response_params(self, **params: Any) -> None:
        """Begin a new request on this connection."""
        self._head_bytes = self._interim = self._final = self._tail_bytes = 0
        self._body = None
        super().set_response_params(**params)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Queue a parsed answer, unless a bound is exceeded."""
        status = data[0].code
        if 100 <= status < 200 and status != _SWITCHING:  # noqa: PLR2004
            self._interim += 1
        elif self._interim <= MOST_INTERIM:
            self._final += 1
            self._body = data[1]
        if self._interim > MOST_INTERIM or self._final > 1:
            return
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Parse the received bytes, a piece at a time. Once a bound is exceeded, nothing more is parsed."""
        if not data:
            # aiohttp itself calls this to resume a paused body.
            super().data_received(data)
            return
        at = 0
        while at < len(data) and not self._cut:
            piece = data[at : at + (_PIECE if self._final else _HEAD_PIECE)]
            at += len(piece)
            if self._final:
                self._tail_bytes += len(piece)
            else:
                self._head_bytes += len(piece)
            super().data_received(piece)
            if self._interim > MOST_INTERIM:
                self._close(f"more than {MOST_INTERIM} interim answers")
            elif self._head_bytes > MOST_HEAD_BYTES and not self._final:
                self._close(f"more than {MOST_HEAD_BYTES} bytes before a final status")
            elif self._final > 1:
                self._close("more than one answer to one request")
            elif self._framing_is_long():
                self._close(f"more than {MOST_FRAMING_BYTES} bytes that are no body")

    def _framing_is_long(self) -> bool:
        body_bytes = 0 if self._body is None else self._body.total_bytes
        return self._tail_bytes - body_bytes > MOST_FRAMING_BYTES + body_bytes

    def _close(self, reason: str) -> None:
        self._cut = True
        if not self._final:
            self.set_exception(AnswerTooLongError(f"the server sent {reason}"))
        # A final status that has come stays valid; the connection serves no other request.
        self.force_close()
        if self.transport is not None:
            self.transport.abort()
