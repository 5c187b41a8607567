"""Posting to an address that a customer names: what every client of deliveries takes, gives and raises."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

#: How much of an answer's body is read at all; a receiver may answer without end.
READ_BYTES = 16 * 1024
#: How long the rest of an answer is waited for once its status is known; only the log gains by it.
BODY_S = 1.0
#: The longest wait for one connection, its TLS handshake included.
CONNECT_S = 5.0
#: Idle connections are closed before the usual server does it (Node: 5 s): a POST on a connection that
#: is just being closed fails, and whether it arrived is not known.
KEEPALIVE_S = 3.0
#: The headers of an answer that anybody reads.
READ_HEADERS = frozenset({"retry-after", "webhook-delivery", "content-encoding"})
#: Headers of every post, unless it has its own.
DEFAULT_HEADERS = {"accept": "*/*", "accept-encoding": "gzip, deflate"}
#: What `zlib` takes for the encodings that every server knows.
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_RAW_DEFLATE = -15


class NotConnectedError(OSError):
    """No connection came about, so nothing was sent. Its cause says why."""


class BrokenError(OSError):
    """The connection broke, or what came is no answer, before a final status. The post may have arrived."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The final answer to one post."""

    status: int
    #: those of `READ_HEADERS` that it has, by lower-case name; of several the first
    headers: Mapping[str, str]
    #: its beginning, `READ_BYTES` at most, decoded
    body: bytes
    #: whether the body was read to its end
    whole: bool


class Poster(Protocol):
    """A client of deliveries. It follows no redirect, keeps no cookie and asks no environment."""

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float, scope: str
    ) -> Answer:
        """Post once; return the answer once its body has come, was cut off or is not waited for.

        `timeout_s`: until the final status, look-up and connecting included. `scope`: whose look-up of a
        name it is. Raises TimeoutError, NotConnectedError, BrokenError, DeniedAddressError,
        LookupTimeoutError, ssl.SSLError; ValueError where URL or headers cannot be sent.
        """

    async def close(self) -> None:
        """Close every connection. May be called twice."""


def decoded(body: bytes, encoding: str, *, whole: bool) -> tuple[bytes, bool]:
    """Return a body without its content encoding, `READ_BYTES` at most, and whether that is all of it.

    A body that does not decode is dropped: what a receiver echoes must not be stored in a form in which
    nobody finds it. Pure.
    """
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        return body, whole
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        return b"", False
    if encoding == "deflate" and body[:1] and body[0] & 0x0F != zlib.DEFLATED:
        # Some servers leave the zlib header out.
        bits = _RAW_DEFLATE
    decoder = zlib.decompressobj(bits)
    try:
        # Bounded: a small body may decode to gigabytes.
        out = decoder.decompress(body, READ_BYTES)
    except zlib.error:
        return b"", False
    return out, whole and decoder.eof
