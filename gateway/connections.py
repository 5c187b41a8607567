"""The limits of a connection: what a client may use up before anybody knows who it is.

uvicorn limits neither headers nor time nor the number of connections. This protocol does, for each
listener by a table of its connections:

- A connection from which the gateway waits for a request costs next to nothing, and can be closed for
  a new one. So can one whose request was refused and whose answer is held back, and one that still
  sends the body of a request that is answered already, or that nobody known has sent: no key was
  recognised, and a signature or a client secret in the body was not checked yet. So can one where nobody
  known has sent anything, and the client takes less than 64 KiB of the answer in a second. The
  one that waits longest goes where there are too many, in total or of one address. A new connection is refused only where all the others are in the middle of a request.
- A look at all connections once a second finds those that are late: headers, bodies, answers that
  nobody reads. No request pays for a timer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
from collections import Counter, OrderedDict
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from gateway.config.settings import ListenSettings, Settings
from gateway.errors import ConfigError
from gateway.limits import ARRIVED, HELD, RECOGNISED, client_group
from gateway.logs import get_logger
from gateway.metrics import Metrics

#: How often all connections are looked at.
SWEEP_S = 1.0
#: A body may take longer by its size: this many bytes a second are always enough.
_LEAST_BYTES_PER_S = 16 * 1024
#: How much later than the request itself gives up its connection is closed: its answer comes first.
_AFTER_THE_ANSWER_S = 2.0
#: How long the rest of a body is read and thrown away once its request is answered. A sender that is cut
#: off at once may see a broken connection instead of the answer.
_DRAIN_S = 5.0
#: What a client has to take of an answer within `write_s`, or all of it where less is left.
_LEAST_TAKEN = 64 * 1024
#: How long that is not met until the connection of a client that nobody knows may be replaced.
_UNREAD_S = 1.0
#: Requests that one connection may send ahead. Each of them is kept until those before it are answered.
_MOST_AHEAD = 8
#: Files that are no connections of clients: database, log, standard streams, DNS, this listener, spare.
_OTHER_FILES = 128
_FILES_PER_CUSTODIAN = 32
_FEWEST = 16
#: How long an address counts as refused after one of its requests had its refusal held back, in seconds.
_REFUSED_S = 1.0
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: The statuses whose answers have a body and nothing else that is special.
_PLAIN = frozenset(range(200, 600)) - {204, 304}
#: Header fields that decide how a body ends, beside its length.
_FRAMING = frozenset({b"connection", b"transfer-encoding"})
_STATUS = {
    400: b"400 Bad Request",
    408: b"408 Request Timeout",
    431: b"431 Request Header Fields Too Large",
    503: b"503 Service Unavailable",
}
_log = get_logger("connections")
#: uvicorn's own, without its line for each request that cannot be read: those are counted.
_uvicorn_log = logging.getLogger("uvicorn.error.connection")
_uvicorn_log.setLevel(logging.ERROR)


class Closed(Enum):
    """Why a connection was closed by us."""

    TOO_MANY = auto()  #: refused: all the others are in the middle of a request
    REPLACED = (
        auto()
    )  #: it had nothing under way for anybody known, and a new connection needed its place
    HEADERS_LONG = auto()
    HEADERS_LATE = auto()
    BODY_LATE = auto()
    NOT_READ = auto()  #: the client does not take the answer
    UNREADABLE = auto()  #: not HTTP
    TOO_FAR_AHEAD = auto()  #: too many requests sent before the first was answered


class _Part(Enum):
    """What is expected on a connection."""

    REQUEST = auto()
    HEADERS = auto()
    BODY = auto()


@dataclass(frozen=True)
class Limits:
    """What a listener allows. Times in seconds."""

    most: int
    most_per_address: int
    header_bytes: int
    header_s: float
    body_s: float
    write_s: float
    trusted: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    @classmethod
    def of(cls, listen: ListenSettings, most: int) -> Limits:
        """Return the limits of a configuration, with so many connections."""
        return cls(
            most=most,
            most_per_address=listen.max_connections_per_address,
            header_bytes=listen.max_header_bytes,
            header_s=listen.header_s,
            body_s=listen.body_s,
            write_s=listen.write_s,
            trusted=tuple(ipaddress.ip_network(each) for each in listen.trusted_proxies),
        )

    def trusts(self, host: str) -> bool:
        """Whether an address is that of a configured proxy: it stands for many clients."""
        if not self.trusted:
            return False
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self.trusted)


class Connections:
    """The open connections of one listener, and which of them has to go."""

    def __init__(self, limits: Limits, metrics: Metrics | None = None) -> None:
        self.limits = limits
        self._metrics = metrics
        self._open: dict[LimitedProtocol, None] = {}
        self._of: Counter[str] = Counter()
        #: those that may be replaced, the one that waits longest first
        self._waiting: OrderedDict[LimitedProtocol, None] = OrderedDict()
        self._waiting_of: dict[str, OrderedDict[LimitedProtocol, None]] = {}
        self._closed: Counter[str] = Counter()
        #: by address, when a refusal of it was held back last
        self._refused_at: dict[str, float] = {}

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    def of(self, group: str) -> int:
        """Return how many of a client's address are open."""
        return self._of.get(group, 0)

    def note_refused(self, group: str, now: float) -> None:
        """Note that an address has had so many refusals that one more was held back, or closed it."""
        self._refused_at[group] = now

    def is_refused(self, group: str, now: float) -> bool:
        """Return whether that was noted within the last second."""
        at = self._refused_at.get(group)
        return at is not None and now - at <= _REFUSED_S

    def protocol(self) -> Any:
        """Return what makes the protocol of a new connection; for uvicorn's `http`."""
        return partial(LimitedProtocol, self)

    def admit(self, new: LimitedProtocol) -> bool:
        """Take a new connection in, perhaps in the place of another one. False: there is no place."""
        limits, group = self.limits, new.group
        of_group = self._waiting_of.get(group, ())
        if not new.trusted and self._of[group] >= limits.most_per_address:
            if not of_group:
                return False
            self._replace(next(iter(of_group)))
        if len(self._open) >= limits.most:
            if not self._waiting:
                return False
            self._replace(next(iter(self._waiting)))
        self._open[new] = None
        self._of[group] += 1
        self.waits(new)
        return True

    def _replace(self, old: LimitedProtocol) -> None:
        self.forget(old)
        old.cut(Closed.REPLACED)

    def waits(self, connection: LimitedProtocol) -> None:
        """Note that a connection may be replaced, and waits from now on. May be called twice."""
        if connection in self._open:
            of_group = self._waiting_of.get(connection.group)
            if of_group is None:
                of_group = self._waiting_of[connection.group] = OrderedDict()
            for each in (self._waiting, of_group):
                each[connection] = None
                each.move_to_end(connection)

    def works(self, connection: LimitedProtocol) -> None:
        """Note that a connection is in the middle of a request. May be called twice."""
        self._waiting.pop(connection, None)
        of_group = self._waiting_of.get(connection.group)
        if of_group is not None:
            of_group.pop(connection, None)
            if not of_group:
                del self._waiting_of[connection.group]

    def forget(self, connection: LimitedProtocol) -> None:
        """Note that a connection is closed. May be called twice."""
        if connection not in self._open:
            return
        self.works(connection)
        del self._open[connection]
        self._of[connection.group] -= 1
        if not self._of[connection.group]:
            del self._of[connection.group]

    def count(self, why: Closed) -> None:
        """Count a connection that we closed."""
        word = why.name.lower()
        self._closed[word] += 1
        if self._metrics is not None:
            self._metrics.connection_closed(word)

    async def watch(self) -> None:
        """Close what is late, once a second, until cancelled."""
        while True:
            await asyncio.sleep(min(SWEEP_S, self.limits.header_s / 4, self.limits.write_s / 4))
            self.sweep(asyncio.get_running_loop().time())

    def sweep(self, now: float) -> None:
        """Look at every connection once; close those that are late."""
        for each in list(self._open):
            each.check(now)
        for group in [each for each in self._refused_at if not self.is_refused(each, now)]:
            del self._refused_at[group]
        if self._metrics is not None:
            self._metrics.connections(len(self._open))
        if self._closed:
            # One line for all of them: nobody shall fill the log by connecting.
            _log.warning("connections_closed", open=len(self._open), **self._closed)
            self._closed.clear()


class _Joined:
    """What one answer is written to: its head waits for what follows, so that both are one packet.

    uvicorn writes them one by one, and each write is a system call and a packet of its own. It has the
    part of a transport that an answer needs.
    """

    __slots__ = ("_head", "_is_first", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._is_first = True
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Write a part of the answer, together with a head that waits."""
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.writelines((head, data) if data else (head,))
        elif self._is_first and data != _CONTINUE:
            self._is_first, self._head = False, data
        else:
            self._transport.write(data)

    def is_closing(self) -> bool:
        """Whether the connection is closed or being closed."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Write the head if it still waits, then close the connection."""
        if self._head is not None:
            self.write(b"")
        self._transport.close()


class _Answer:
    """Sends one answer. A plain one is written at once, as uvicorn writes it but with less work.

    Plain: it is complete, of known length, and the connection stays open. uvicorn itself searches each header
    field for characters that would end it; here all of them are searched together. Any other answer is
    uvicorn's, with its head and the first part of its body joined. See decision 0021.
    """

    __slots__ = ("_cycle", "_send", "_start")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._send = cycle.send
        self._start: Any = None

    async def send(self, message: Any) -> None:
        """Take a message of the application. The start waits for what follows it."""
        cycle, start = self._cycle, self._start
        if message["type"] == "http.response.start" and not cycle.response_started:
            # One before it was of an answer that failed: nothing of that was sent.
            self._start = message
            return
        if start is not None:
            self._start = None
            head = self._plain_head(start, message)
            if head is not None:
                cycle.response_started = cycle.response_complete = True
                cycle.transport.writelines((head, message.get("body", b"")))
                cycle.message_event.set()
                cycle.on_response()
                return
            cycle.transport = _Joined(cycle.transport)  # type: ignore[assignment] # the part that is used
            await self._send(start)
        await self._send(message)

    def _plain_head(self, start: Any, message: Any) -> bytes | None:
        """Return the head of an answer; None: it is not plain, or something keeps it from being written."""
        cycle = self._cycle
        unusual = cycle.disconnected or cycle.flow.write_paused or cycle.waiting_for_100_continue
        if (
            unusual
            or not cycle.keep_alive
            or message.get("more_body")
            or start["status"] not in _PLAIN
        ):
            return None
        fields = cycle.default_headers + start["headers"]
        names = [name.lower() for name, _ in fields]
        length = b"%d" % len(message.get("body", b""))
        if (b"content-length", length) not in start["headers"] or not _FRAMING.isdisjoint(names):
            return None
        values = [value for _, value in fields]
        if HEADER_RE.search(b"".join(names)) or HEADER_VALUE_RE.search(b"".join(values)):
            return None
        lines = [b"%b: %b\r\n" % each for each in zip(names, values, strict=True)]
        return b"%b%b\r\n" % (STATUS_LINE[start["status"]], b"".join(lines))


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol within the limits of a listener."""

    def __init__(self, table: Connections, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _uvicorn_log
        self._table = table
        self._limits = table.limits
        self.group = ""
        self.trusted = False
        self._part = _Part.REQUEST
        self._refusal: tuple[int, str, Closed] | None = None
        #: since when a request is expected or its headers arrive; None: neither
        self._begun: float | None = None
        self._got_bytes = False
        #: of the headers that arrive: what the parser has told, and all bytes
        self._header_bytes = 0
        self._raw_bytes = 0
        self._completed = 0
        self._body_since = 0.0
        self._body_bytes = 0
        #: whether it is known who sent the newest request
        self._recognised = False
        #: whether that was known of any request of this connection
        self._is_known = False
        #: whether the newest request is refused, and its answer is held back
        self._held = False
        #: when the newest request was answered before all of its body had arrived
        self._answered_at: float | None = None
        #: bytes of a body that were none of its content: sizes of chunks, trailers
        self._frame_bytes = 0
        self._was_cut = False
        #: whether a packet has told something that may change who may be replaced
        self._is_other = False
        #: the request that is being answered; those after it wait in `pipeline`
        self._running: RequestResponseCycle | None = None
        #: an answer that was not taken at once: since when, how much was left, how much was taken since
        self._unread_since: float | None = None
        self._unread = 0
        self._taken = 0
        #: whether the client has taken too little of it for a while
        self._is_unread = False

    # --- Connection -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection in, or refuse it."""
        super().connection_made(transport)
        host = self.client[0] if self.client else ""
        self.group, self.trusted = client_group(host), self._limits.trusts(host)
        self._begun = self.loop.time()
        if not self._table.admit(self):
            self._refuse(503, "Too many connections.", Closed.TOO_MANY)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, and tell the request that is being answered."""
        self._table.forget(self)
        super().connection_lost(exc)
        running = self._running
        if running is not None and not running.response_complete:
            # uvicorn tells only the newest request. An older one would write to a closed connection, and fail.
            running.disconnected = True
            running.message_event.set()

    def cut(self, why: Closed) -> None:
        """Close the connection at once, whatever was still to be sent on it."""
        self._table.count(why)
        self._was_cut = True
        self.transport.abort()

    def _refuse(self, status: int, text: str, why: Closed) -> None:
        """Answer with a status, where no other answer has begun, and close."""
        self._table.count(why)
        if self._is_answering():
            self.transport.abort()
            return
        body = text.encode()
        head = (
            b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head % (_STATUS[status], len(body)) + body)
        self.transport.close()

    # --- What arrives -----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Read what arrived, within the limits."""
        if self.transport.is_closing():
            return
        completed, body_bytes = self._completed, self._body_bytes
        self._got_bytes = True
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_other:
            # Once per packet: nobody else has a turn between the callbacks of the parser.
            self._is_other = False
            self._take_place()
        if self._part is _Part.BODY:
            self._count_frame(len(data) if body_bytes == self._body_bytes else None)
        elif self._part is _Part.HEADERS and completed == self._completed:
            # The parser reports a header once it is complete, and keeps the part received so far.
            self._raw_bytes += len(data)
            if self._raw_bytes > self._limits.header_bytes:
                self._refuse(*_TOO_LONG)
        elif self._begun is None and self.timeout_keep_alive_task is None and self._is_idle():
            # Bytes that begin no request have ended uvicorn's wait for one: this is another.
            self._begun = self.loop.time()

    def _count_frame(self, size: int | None) -> None:
        """Count bytes that brought no content; the parser keeps a trailer that does not end."""
        self._frame_bytes = 0 if size is None else self._frame_bytes + size
        if self._frame_bytes > self._limits.header_bytes:
            self.cut(Closed.HEADERS_LONG)

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read, or what one of the limits refused while it was read."""
        if self._refusal is not None:
            self._refuse(*self._refusal)
        elif self._is_answering():
            # Not in the middle of another answer.
            self.cut(Closed.UNREADABLE)
        else:
            self._table.count(Closed.UNREADABLE)
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._recognised = self._held = False
        self._answered_at = None
        scope: Any = self.scope
        scope["state"][RECOGNISED] = partial(self._recognise, scope)
        scope["state"][HELD] = partial(self._hold, scope)
        self._part = _Part.HEADERS
        self._header_bytes = self._raw_bytes = self._frame_bytes = 0
        if self._begun is None:
            self._begun = self.loop.time()

    def on_url(self, url: bytes) -> None:
        """Count the request's address as a part of its headers."""
        self._header_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header. One after the body (a trailer) counts as well, and is not used."""
        self._header_bytes += len(name) + len(value) + 4
        if self._part is not _Part.BODY:
            super().on_header(name, value)
        elif self._header_bytes > self._limits.header_bytes:
            self._stop_reading(*_TOO_LONG)

    def on_headers_complete(self) -> None:
        """Hand the request on, unless it is over a limit."""
        if self._header_bytes > self._limits.header_bytes:
            self._stop_reading(*_TOO_LONG)
        if len(self.pipeline) >= _MOST_AHEAD:
            self._stop_reading(503, "Too many requests sent ahead.", Closed.TOO_FAR_AHEAD)
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() >= "1.1"):
            # RFC 9112, section 3.2: two readers of such a request could take it for another host each.
            self._stop_reading(400, "Send one Host header.", Closed.UNREADABLE)
        self._part = _Part.BODY
        self._begun = None
        self._body_since, self._body_bytes = self.loop.time(), 0
        super().on_headers_complete()
        cycle: Any = self.cycle
        if cycle is not None and self.scope["method"] != "HEAD":
            # An answer to HEAD has nothing that its head could wait for.
            cycle.send = _Answer(cycle).send
        self._is_other = True

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin to answer a request."""
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Count what arrives of a body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request; its answer may be complete already."""
        super().on_message_complete()
        scope: Any = self.scope
        scope["state"][ARRIVED] = True
        self._completed += 1
        self._part = _Part.REQUEST
        self._is_other = True

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of the one that is answered."""
        super().on_response_complete()
        if self.transport.is_closing():
            # It closes by itself, once the loop has written the answer: nobody takes its place before.
            self._table.works(self)
            return
        if self._part is _Part.BODY and not self._is_answering():
            self._answered_at = self.loop.time()
        self._take_place()

    def _recognise(self, scope: Any) -> None:
        """Note that it is known who sent a request: its connection is not replaced any more."""
        self._is_known = True
        if scope is self.scope:
            self._recognised = True
            if self._part is _Part.BODY:
                self._take_place()

    def _hold(self, scope: Any) -> None:
        """Note that a request is refused, and only its answer waits: its connection may be replaced."""
        self._table.note_refused(self.group, self.loop.time())
        if scope is self.scope:
            self._held = True
            self._take_place()

    def _take_place(self) -> None:
        """Tell the table whether this connection may be replaced."""
        if self._may_go():
            self._table.waits(self)
        else:
            self._table.works(self)

    def _may_go(self) -> bool:
        """Whether nobody loses anything that was asked for when this connection is closed."""
        if self._is_unread and not self._is_known:
            # The answer would keep its place until `write_s`, and requests after it theirs.
            return True
        if self.pipeline:
            return False
        answered = not self._is_answering()
        return answered or self._held or (self._part is _Part.BODY and not self._recognised)

    def resume_writing(self) -> None:
        """Note that the client has taken most of what waited for it."""
        self._taken += _LEAST_TAKEN
        super().resume_writing()

    def _stop_reading(self, status: int, text: str, why: Closed) -> None:
        """End the parser, from within one of its callbacks; the answer follows."""
        self._refusal = (status, text, why)
        raise httptools.HttpParserError(text)

    def _is_idle(self) -> bool:
        """Whether every request so far has been answered and has arrived."""
        busy = self._is_answering() or self.pipeline or self._part is _Part.BODY
        return not busy

    def _is_answering(self) -> bool:
        """Whether the answer to the newest request is not complete."""
        newest: Any = self.cycle
        return newest is not None and not newest.response_complete

    # --- What is late -----------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Close the connection if anything on it is late."""
        limits = self._limits
        if self._begun is not None and now - self._begun > limits.header_s and self._is_idle():
            if self._got_bytes and not self.transport.is_closing():
                self._begun = None
                self._refuse(408, "The request did not arrive in time.", Closed.HEADERS_LATE)
            elif not self.transport.is_closing():
                self._table.count(Closed.HEADERS_LATE)
                self.transport.close()
        elif self._part is _Part.BODY:
            self._check_body(now)
        if not self._was_cut:
            self._check_answer(now)

    def _check_body(self, now: float) -> None:
        if self.flow.read_paused:
            # It is the gateway that has not read on.
            self._body_since = now
            return
        if self._answered_at is not None:
            late = now - self._answered_at > min(_DRAIN_S, self._limits.body_s)
        else:
            by_size = self._body_bytes / _LEAST_BYTES_PER_S
            late = now - self._body_since > self._limits.body_s + by_size + _AFTER_THE_ANSWER_S
        if late:
            self.cut(Closed.BODY_LATE)

    def _check_answer(self, now: float) -> None:
        left = self.transport.get_write_buffer_size()
        if left == 0:
            self._unread_since = None
        else:
            self._count_taken(now, left)
        waits_s = 0.0 if self._unread_since is None else now - self._unread_since
        if waits_s > self._limits.write_s:
            self.cut(Closed.NOT_READ)
        elif (waits_s >= _UNREAD_S) != self._is_unread:
            self._is_unread = not self._is_unread
            if self._is_unread or not self.transport.is_closing():
                self._take_place()
            else:
                self._table.works(self)

    def _count_taken(self, now: float, left: int) -> None:
        if self._unread_since is None:
            self._unread_since, self._taken = now, 0
        elif left < self._unread:
            self._taken += self._unread - left
        self._unread = left
        if self._taken >= _LEAST_TAKEN:
            self._unread_since, self._taken = now, 0


_TOO_LONG = (431, "The headers are too long.", Closed.HEADERS_LONG)


def files_wanted(settings: Settings) -> int:
    """Return how many open files a process needs for everything that its settings allow at once."""
    return settings.listen.max_connections + _other_files(settings)


def _other_files(settings: Settings) -> int:
    """Return how many open files are no connections of clients."""
    others = _OTHER_FILES + settings.webhooks.in_flight
    return others + _FILES_PER_CUSTODIAN * len(settings.custodians)


def most_connections(settings: Settings) -> int:
    """Return how many connections the public listener may have, by its setting and by the system.

    Allows the process as many open files as that needs, if the system lets it. ConfigError: too few.
    """
    wanted = settings.listen.max_connections
    others = _other_files(settings)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted + others:
        enough = wanted + others if hard == resource.RLIM_INFINITY else min(hard, wanted + others)
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
        soft = enough
    most = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft - others)
    if most < _FEWEST:
        raise ConfigError(
            [
                (
                    f"this process may have {soft} open files, and {others} of them are no "
                    "connections of clients: allow more (ulimit -n, LimitNOFILE)"
                )
            ]
        )
    if most < wanted:
        _log.warning("fewer_connections", open_files=soft, connections=most, wanted=wanted)
    return most
