"""One HTTP/1.1 connection that is kept alive; it sends requests and parses answers within bounds.

The parser is llhttp (through httptools), which aiohttp uses as well, with the same leniencies. Bytes
are parsed as they come, on the event loop's thread, and nothing is copied twice, which makes a delivery
cheap. Decision 0022 has the gain and the differences from the library's client.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.egress.answers import MOST_HEAD_BYTES, MOST_INTERIM
from gateway.egress.posting import (
    BODY_S,
    READ_BYTES,
    READ_HEADERS,
    Answer,
    BrokenError,
    decoded,
)

#: Bytes that are parsed before the bounds are checked again.
_PIECE = 4096
#: The limits of aiohttp: headers of one answer, and bytes of one header line.
_MOST_HEADERS = 128
_MOST_LINE = 8190
_INTERIM = range(100, 200)
_SWITCHING = 101
#: Bytes after the final status that are not body: sizes and extensions of chunks, and trailers.
_MOST_FRAMING_BYTES = 64 * 1024
_READ_HEADERS = frozenset(name.encode() for name in READ_HEADERS)
_BODY_HEADERS = frozenset({b"content-length", b"transfer-encoding"})


class ClosedUnansweredError(BrokenError):
    """A reused connection was closed before any part of an answer came."""


class Owner(Protocol):
    """The owner of connections."""

    def free(self, connection: Connection) -> None:
        """Take a connection back that can serve another request."""

    def gone(self, connection: Connection) -> None:
        """Forget a connection that is closed."""


class Connection(asyncio.Protocol):
    """A connection to one server. One exchange at a time."""

    def __init__(self, owner: Owner, key: tuple[str, str, int]) -> None:
        self.key = key
        #: since when it has been idle, by the loop's clock
        self.idle_since = 0.0
        #: how many answers it has received
        self.served = 0
        self.closed = False
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        self._answer: asyncio.Future[Answer] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._begin()

    def _begin(self) -> None:
        """Forget the previous answer."""
        self._came = 0
        self._head_bytes = 0
        #: bytes after the final status: the body and its framing
        self._tail_bytes = 0
        self._interim = 0
        self._header_count = 0
        #: the final status; None until all of its headers have come
        self._status: int | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._complete = False
        #: whether the body ends with the connection
        self._until_end = True
        self._keep = False
        #: whether more than one answer came
        self._extra = False
        #: why the received bytes are not an answer
        self._fault: str | None = None
        self._waits_for_body = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin. Called by the loop."""
        # uvloop's transports share no class that could be checked.
        self._transport = cast("asyncio.Transport", transport)

    def exchange(self, request: bytes, until: float) -> asyncio.Future[Answer]:
        """Send a request; the future gets its answer or its error. See `Poster.post`.

        `until` is the loop's time by which the final status must have come. It fails with
        ClosedUnansweredError if a reused connection was closed under the request.
        """
        self._begin()
        answer = self._answer = self._loop.create_future()
        self._deadline = self._loop.call_at(until, self._too_late)
        self._transport.write(request)
        return answer

    def give_up(self, answer: asyncio.Future[Answer]) -> None:
        """Close the connection if it still waits for this answer, which nobody needs any more.

        If the exchange has ended, the connection may serve another one by now.
        """
        if self._answer is answer:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once; a waiting caller gets no answer."""
        self._stop()
        self.closed = True
        self._transport.abort()

    # Called by the loop.

    def data_received(self, data: bytes) -> None:
        """Parse the received bytes, a piece at a time."""
        if not self._waits():
            # There was no request, so these bytes could be mistaken for the answer to the next one.
            self.abort()
            return
        self._came += len(data)
        if len(data) <= _PIECE:
            self._parse(data)
            return
        for at in range(0, len(data), _PIECE):
            self._parse(data[at : at + _PIECE])
            if not self._waits():
                if at + _PIECE < len(data):
                    # Bytes came after the answer. They could be mistaken for the next answer.
                    self.abort()
                return

    def _waits(self) -> bool:
        """Whether a caller waits for an answer."""
        return self._answer is not None

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        self.closed = True
        self._owner.gone(self)
        if self._answer is None:
            return
        if self._status is not None:
            self._finish(whole=self._until_end and error is None)
        elif self.served and not self._came:
            self._fail(ClosedUnansweredError("the server closed the connection"))
        else:
            self._fail(BrokenError(f"the connection ended without an answer: {error or 'closed'}"))

    def _too_late(self) -> None:
        if self._status is None:
            self._fail(TimeoutError())
        else:
            # The status has come, and it stays valid however the body ends.
            self._finish(whole=False)

    def _parse(self, piece: bytes) -> None:
        if self._status is None:
            self._head_bytes += len(piece)
        else:
            self._tail_bytes += len(piece)
        try:
            self._parser.feed_data(piece)
        except HttpParserUpgrade:
            # A 101 is final, and the connection changes its protocol from here on.
            self._complete = True
            self._keep = False
        except HttpParserError as error:
            if self._complete:
                self._extra = True
            elif self._fault is None:
                self._fault = f"the server's answer cannot be read: {error}"
        self._parsed()

    def _parsed(self) -> None:
        """Check how far the answer has come."""
        if self._status is None:
            if self._fault is None and self._head_bytes > MOST_HEAD_BYTES:
                self._fault = (
                    f"the server sent more than {MOST_HEAD_BYTES} bytes before a final status"
                )
            if self._fault is not None:
                self._fail(BrokenError(self._fault))
        elif self._complete:
            self._finish(whole=True)
        elif (
            self._fault is not None
            or self._body_bytes > READ_BYTES
            or self._tail_bytes - self._body_bytes > _MOST_FRAMING_BYTES
        ):
            self._finish(whole=False)
        else:
            self._wait_for_body()

    def _wait_for_body(self) -> None:
        if not self._waits_for_body:
            self._waits_for_body = True
            if self._deadline is not None:
                self._deadline.cancel()
            self._deadline = self._loop.call_later(BODY_S, self._too_late)

    # The parser calls these, and loses what they raise, so they only take notes.

    def on_message_begin(self) -> None:
        """Begin an answer, which may be an interim or a surplus one."""
        if self._complete:
            self._extra = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer, which nobody reads."""
        if self._status is not None:
            return
        self._header_count += 1
        if self._header_count > _MOST_HEADERS or len(name) + len(value) > _MOST_LINE:
            self._fault = "the server sent more headers, or longer ones, than are read"
            return
        low = name.lower()
        if low in _READ_HEADERS:
            self._headers.setdefault(low, value)
        elif low in _BODY_HEADERS:
            self._until_end = False

    def on_headers_complete(self) -> None:
        """Take the status."""
        status = self._parser.get_status_code()
        if self._complete or self._fault is not None:
            return
        if status in _INTERIM and status != _SWITCHING:
            self._interim += 1
            self._header_count = 0
            self._headers.clear()
            if self._interim > MOST_INTERIM:
                self._fault = f"the server sent more than {MOST_INTERIM} interim answers"
            return
        self._status = status
        self._keep = self._parser.should_keep_alive() and status != _SWITCHING

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, up to the limit of what is read."""
        if self._body_bytes <= READ_BYTES and not self._complete:
            self._body.append(body)
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        """End an answer, an interim one or the final one."""
        if self._status is not None:
            self._complete = True

    # The end of an exchange.

    def _finish(self, *, whole: bool) -> None:
        """Pass the answer to the waiting caller; keep the connection if it can serve another request."""
        answer, status = self._answer, self._status
        keep = (
            whole
            and self._complete
            and self._keep
            and not self._extra
            and not self.closed
            and not self._transport.is_closing()
            # A server that answers before it has read the request may never read the rest of it.
            and not self._transport.get_write_buffer_size()
        )
        self.served += 1
        self._stop()
        if keep:
            self._owner.free(self)
        else:
            self.abort()
        if answer is None or answer.done() or status is None:
            return
        body = b"".join(self._body)
        if len(body) > READ_BYTES:
            body, whole = body[:READ_BYTES], False
        headers = {
            name.decode(): value.decode("utf-8", "replace") for name, value in self._headers.items()
        }
        encoding = headers.get("content-encoding")
        if encoding and body:
            body, whole = decoded(body, encoding, whole=whole)
        answer.set_result(Answer(status, headers, body, whole))

    def _fail(self, error: Exception) -> None:
        answer = self._answer
        self.abort()
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def _stop(self) -> None:
        self._answer = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
