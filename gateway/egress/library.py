"""The library's client (aiohttp) for deliveries. It serves egress proxies, and comparisons with our own client.

Both clients must treat every receiver alike: tests/egress/test_clients.py runs them side by side.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Self

import aiohttp

from gateway.egress.addresses import DeniedAddressError
from gateway.egress.lookups import LookupTimeoutError, looking_up_for
from gateway.egress.posting import (
    BODY_S,
    CONNECT_S,
    READ_BYTES,
    READ_HEADERS,
    Answer,
    BrokenError,
    NotConnectedError,
)


class LibraryClient:
    """Posts by aiohttp. Use it with `async with`."""

    def __init__(self, connector: aiohttp.TCPConnector, *, proxy: str | None = None) -> None:
        self._session = aiohttp.ClientSession(
            trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), connector=connector
        )
        self._proxy = proxy
        # Our own deadline ends with the status; aiohttp's would include the body.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)

    async def __aenter__(self) -> Self:
        """Return the client; nothing is opened before the first post."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        await self.close()

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float, scope: str
    ) -> Answer:
        """Post once. See `Poster`."""
        try:
            with looking_up_for(scope):
                async with asyncio.timeout(timeout_s):
                    answer = await self._session.post(
                        url,
                        data=body,
                        headers=headers,
                        allow_redirects=False,
                        timeout=self._timeout,
                        proxy=self._proxy,
                    )
        except (aiohttp.ClientError, OSError) as error:
            raise _plain(error) from error
        got, whole = await _body(answer)
        found = {name: answer.headers[name] for name in READ_HEADERS if answer.headers.get(name)}
        return Answer(answer.status, found, got, whole)

    async def close(self) -> None:
        """Close every connection, and the resolver."""
        await self._session.close()


async def _body(answer: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """Read the beginning of an answer, and release it. The status stays valid however the body ends."""
    got = b""
    if not answer.content.at_eof():
        try:
            async with asyncio.timeout(BODY_S):
                while len(got) < READ_BYTES:
                    chunk = await answer.content.read(READ_BYTES - len(got))
                    if not chunk:
                        break
                    got += chunk
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            pass
    whole = answer.content.at_eof() and answer.content.exception() is None
    if answer.content.at_eof():
        answer.release()
    else:
        # The rest is not read, so the connection cannot serve another delivery.
        answer.close()
    return got, whole


def _plain(error: Exception) -> Exception:
    """Return the error of `Poster.post` for an error of the library."""
    if isinstance(error, TimeoutError):
        return TimeoutError(str(error))
    cause = getattr(error, "os_error", None)
    for each in (error, cause):
        if isinstance(each, DeniedAddressError | LookupTimeoutError):
            return type(each)(str(each))
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return ssl.SSLError(str(error))
    if isinstance(error, aiohttp.ClientConnectorError):
        return NotConnectedError(str(error))
    if isinstance(error, ValueError):
        # aiohttp.InvalidURL belongs to both classes.
        return ValueError(str(error))
    return BrokenError(str(error))
