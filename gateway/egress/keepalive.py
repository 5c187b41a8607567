"""The client of deliveries: a pool of kept connections, each dialled under the guard (decision 0022)."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, Self

import aiohappyeyeballs
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.egress.addresses import LITERAL, DeniedAddressError
from gateway.egress.connectors import Guard
from gateway.egress.exchange import ClosedUnansweredError, Connection
from gateway.egress.lookups import LookupTimeoutError, looking_up_for
from gateway.egress.posting import (
    CONNECT_S,
    DEFAULT_HEADERS,
    KEEPALIVE_S,
    Answer,
    NotConnectedError,
)

#: How long the next address of a name waits for the previous one (RFC 8305).
_NEXT_ADDRESS_S = 0.25
_Key = tuple[str, str, int]
#: The default headers of a request: the beginnings of their lines, and the lines.
_DEFAULTS = tuple((f"{name}:", f"{name}: {value}\r\n") for name, value in DEFAULT_HEADERS.items())


class _Place(NamedTuple):
    """The destination of a URL."""

    key: _Key
    host: str
    port: int
    tls: bool
    #: the first lines of every request to it
    head: str


class KeepAliveClient:
    """Posts over connections of its own. Use it with `async with`; it serves one event loop.

    Closing it closes `resolver`. No look-up is cached: each connection resolves and is checked again.
    """

    def __init__(
        self, guard: Guard, resolver: AbstractResolver, *, keepalive_s: float = KEEPALIVE_S
    ) -> None:
        self._guard = guard
        self._resolver = guard.resolver(resolver)
        self._keepalive_s = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._idle: dict[_Key, deque[Connection]] = {}
        self._all: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> Self:
        """Return the client; nothing is opened before the first post."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        await self.close()

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float, scope: str
    ) -> Answer:
        """Post once. See `Poster`.

        If a kept connection was closed under the request and no part of an answer came, the request is
        sent once more over a new one. Servers close idle connections at any time, and events are
        delivered at least once.
        """
        until = self._loop.time() + timeout_s
        place = _place(url)
        request = _request(place, headers, body)
        kept = self._kept(place.key)
        if kept is not None:
            try:
                return await self._exchange(kept, request, until)
            except ClosedUnansweredError:
                pass
        async with asyncio.timeout_at(until):
            connection = await self._dial(place, scope)
        return await self._exchange(connection, request, until)

    async def close(self) -> None:
        """Close every connection, and the resolver. May be called twice."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._idle.clear()
        for each in list(self._all):
            each.abort()
        # The loop closes the sockets on its next turn.
        await asyncio.sleep(0)
        await self._resolver.close()

    def free(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        connection.idle_since = self._loop.time()
        self._idle.setdefault(connection.key, deque()).append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._keepalive_s, self._close_idle)

    def gone(self, connection: Connection) -> None:
        """Forget a connection."""
        self._all.discard(connection)

    async def _exchange(self, connection: Connection, request: bytes, until: float) -> Answer:
        answer = connection.exchange(request, until)
        try:
            return await answer
        except asyncio.CancelledError:
            connection.give_up(answer)
            raise

    def _kept(self, key: _Key) -> Connection | None:
        """Return the connection that was used last, as it is the least likely to be closed."""
        idle = self._idle.get(key)
        now = self._loop.time()
        while idle:
            connection = idle.pop()
            if connection.closed:
                continue
            if now - connection.idle_since < self._keepalive_s:
                return connection
            connection.abort()
        return None

    def _close_idle(self) -> None:
        self._sweep = None
        now = self._loop.time()
        for key, idle in list(self._idle.items()):
            while idle and (idle[0].closed or now - idle[0].idle_since >= self._keepalive_s):
                connection = idle.popleft()
                if not connection.closed:
                    connection.abort()
            if not idle:
                del self._idle[key]
        if self._idle:
            oldest = min(idle[0].idle_since for idle in self._idle.values())
            self._sweep = self._loop.call_at(oldest + self._keepalive_s, self._close_idle)

    async def _dial(self, place: _Place, scope: str) -> Connection:
        """Connect, trying one address of the name after the other. If it fails, nothing was sent."""
        try:
            with looking_up_for(scope):
                found = await self._addresses(place)
            async with asyncio.timeout(CONNECT_S):
                return await self._connect(place, found)
        except (ssl.SSLError, DeniedAddressError, LookupTimeoutError):
            raise
        except OSError as error:
            if isinstance(error, TimeoutError) and error.errno is None:
                # Our own deadline has passed; the kernel has said nothing about the peer.
                raise
            raise NotConnectedError(f"no connection: {error}") from error

    async def _addresses(self, place: _Place) -> list[ResolveResult]:
        if not _is_literal(place.host):
            return await self._resolver.resolve(place.host, place.port, socket.AF_UNSPEC)
        return [
            ResolveResult(
                hostname=place.host,
                host=place.host,
                port=place.port,
                family=socket.AF_INET6 if ":" in place.host else socket.AF_INET,
                proto=0,
                flags=0,
            )
        ]

    async def _connect(self, place: _Place, found: list[ResolveResult]) -> Connection:
        sock = await aiohappyeyeballs.start_connection(
            [_address(each) for each in found],
            happy_eyeballs_delay=_NEXT_ADDRESS_S,
            loop=self._loop,
            socket_factory=self._guard.socket_for,
        )
        tls = await self._context() if place.tls else None
        _, connection = await self._loop.create_connection(
            lambda: Connection(self, place.key),
            sock=sock,
            ssl=tls,
            server_hostname=place.host.rstrip(".") if place.tls else None,
        )
        if connection.closed:
            # It was closed unnoticed, and the next request would not learn about it.
            raise NotConnectedError("no connection: the server closed it at once")
        self._all.add(connection)
        return connection

    async def _context(self) -> ssl.SSLContext:
        """Return the TLS context. It is made once, off the loop, because that reads files."""
        if self._tls is None:
            made = await asyncio.to_thread(ssl.create_default_context)
            made.set_alpn_protocols(["http/1.1"])
            self._tls = made
        return self._tls


@lru_cache(maxsize=4096)
def _place(url: str) -> _Place:
    """Return the destination of a URL, with the first lines of its requests. Raises ValueError if it is invalid."""
    parts = URL(url)
    host, port = parts.raw_host, parts.port
    if parts.scheme not in {"http", "https"} or not host or port is None:
        msg = "an absolute http or https URL is needed"
        raise ValueError(msg)
    if LITERAL.fullmatch(host) and not _is_literal(host):
        # Libraries read forms such as 127.1 and 0x7f000001 differently.
        msg = "the host is an address in an unusual spelling"
        raise ValueError(msg)
    head = f"POST {parts.raw_path_qs} HTTP/1.1\r\nhost: {parts.host_port_subcomponent}\r\n"
    return _Place((parts.scheme, host, port), host, port, parts.scheme == "https", head)


def _request(place: _Place, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return the bytes of a request. Raises ValueError if a header would break it."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    # Any further line break is inside a name or a value.
    breaks = lines.count("\r"), lines.count("\n"), lines.count("\0")
    if breaks != (len(headers), len(headers), 0):
        msg = "a header contains a line break"
        raise ValueError(msg)
    low = lines.lower()
    for begin, line in _DEFAULTS:
        if begin not in low:
            lines += line
    return f"{place.head}{lines}content-length: {len(body)}\r\n\r\n".encode() + body


def _address(found: ResolveResult) -> tuple[int, int, int, str, tuple[str | int, ...]]:
    host, port = found["host"], found["port"]
    if ":" in host:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
