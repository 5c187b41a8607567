"""The interface of every client that posts to addresses that customers name: parameters, results and errors."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

#: The most bytes of an answer's body that are read, because a receiver may send without end.
READ_BYTES = 16 * 1024
#: How long the client waits for the rest of an answer after its status; only the log uses it.
BODY_S = 1.0
#: The longest wait for one connection, its TLS handshake included.
CONNECT_S = 5.0
#: Idle connections are closed before the usual server closes them (Node: 5 s). A POST on a connection
#: that is just being closed fails, and it is unknown whether it arrived.
KEEPALIVE_S = 3.0
#: The headers of an answer that are used.
READ_HEADERS = frozenset({"retry-after", "webhook-delivery", "content-encoding"})
#: Headers of every post that does not set its own.
DEFAULT_HEADERS = {"accept": "*/*", "accept-encoding": "gzip, deflate"}
#: The `zlib` parameters of the common content encodings.
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_RAW_DEFLATE = -15


class NotConnectedError(OSError):
    """No connection was made, so nothing was sent. Its cause says why."""


class BrokenError(OSError):
    """Before a final status, the connection broke or invalid bytes came. The post may have arrived."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The final answer to one post."""

    status: int
    #: those of `READ_HEADERS` that it has, by lower-case name; the first value of each
    headers: Mapping[str, str]
    #: its beginning, `READ_BYTES` at most, decoded
    body: bytes
    #: whether the body was read to its end
    whole: bool


class Poster(Protocol):
    """A client of deliveries. It follows no redirect, keeps no cookie and reads no environment variable."""

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float, scope: str
    ) -> Answer:
        """Post once; return the answer when its body has come, was cut off or is no longer awaited.

        `timeout_s` covers everything until the final status, including look-up and connecting. `scope`
        names the owner of the look-up. Raises TimeoutError, NotConnectedError, BrokenError,
        DeniedAddressError, LookupTimeoutError, ssl.SSLError; ValueError if the URL or the headers
        cannot be sent.
        """

    async def close(self) -> None:
        """Close every connection. May be called twice."""


def decoded(body: bytes, encoding: str, *, whole: bool) -> tuple[bytes, bool]:
    """Return a body without its content encoding, `READ_BYTES` at most, and whether that is all of it.

    A body that does not decode is dropped, because an echoed secret could not be found and removed in
    it. Pure.
    """
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        return body, whole
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        return b"", False
    if encoding == "deflate" and body[:1] and body[0] & 0x0F != zlib.DEFLATED:
        # Some servers omit the zlib header.
        bits = _RAW_DEFLATE
    decoder = zlib.decompressobj(bits)
    try:
        # The output is bounded, because a small body may decode to gigabytes.
        out = decoder.decompress(body, READ_BYTES)
    except zlib.error:
        return b"", False
    return out, whole and decoder.eof
