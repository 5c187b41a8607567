"""A listener for development: reads the feed, signs, posts to a program on this machine."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Awaitable, Callable
from functools import partial
from secrets import token_bytes
from typing import Any

import aiohttp

from gateway.cli.printing import say
from gateway.runtime import SystemClock
from gateway.signing import SECRET_BYTES, headers, secret_bytes, secret_text

_TIMEOUT = aiohttp.ClientTimeout(total=15)
_AT_ONCE = 100


class ListenError(Exception):
    """The listener cannot continue; the message says what to do."""


class Listener:
    """Forwards each event once, in order. A failing receiver is reported and not retried."""

    def __init__(  # noqa: PLR0913 - one argument per option
        self,
        *,
        gateway: str,
        api_key: str,
        forward_to: str,
        secret: str,
        events: str,
        every_s: float,
        tell: Callable[[str], object] = say,
    ) -> None:
        self._gateway = gateway.rstrip("/")
        self._authorization = {"authorization": f"Bearer {api_key}"}
        self._forward_to = forward_to
        self._events = events
        self._every_s = every_s
        self._tell = tell
        self._clock = SystemClock()
        for name, url in (("--gateway", gateway), ("--forward-to", forward_to)):
            if not url.startswith(("http://", "https://")):
                msg = f"{name} {url}: give a URL with http:// or https://"
                raise ListenError(msg)
        if not secret:
            # The secret may be shown, because only this listener signs with it.
            secret = secret_text(token_bytes(SECRET_BYTES))
        try:
            self._secret = secret_bytes(secret)
        except ValueError:
            msg = "the secret is no whsec_ followed by base64"
            raise ListenError(msg) from None
        self._secret_text = secret

    async def run(self) -> None:
        """Forward until cancelled. Raises ListenError if it is refused."""
        async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=False) as http:
            cursor = await self._until_there(partial(self._page, http, {"start": "now"}))
            self._tell(f"forwarding {self._events} to {self._forward_to}")
            self._tell(f"signing secret: {self._secret_text}")
            place = cursor["next_cursor"]
            while True:
                wanted = {"cursor": place, "limit": str(_AT_ONCE)}
                page = await self._until_there(partial(self._page, http, wanted))
                for event in page["data"]:
                    if fnmatch.fnmatchcase(event["type"], self._events):
                        await self._forward(http, event)
                place = page["next_cursor"]
                if not page["has_more"]:
                    await self._clock.sleep(self._every_s)

    async def _until_there(self, look: Callable[[], Awaitable[Any]]) -> Any:
        """Retry until the gateway answers; print once that it does not."""
        silent = False
        while True:
            try:
                page = await look()
            except (aiohttp.ClientError, TimeoutError) as error:
                if not silent:
                    self._tell(
                        f"{self._gateway} does not answer ({type(error).__name__}); trying on"
                    )
                silent = True
                await self._clock.sleep(max(1.0, self._every_s))
            else:
                if silent:
                    self._tell(f"{self._gateway} answers again; nothing was missed")
                return page

    async def _page(self, http: aiohttp.ClientSession, wanted: dict[str, str]) -> Any:
        url = f"{self._gateway}/events"
        async with http.get(url, params=wanted, headers=self._authorization) as answer:
            if answer.status >= 500 or answer.status == 429:  # noqa: PLR2004 - it may pass
                answer.raise_for_status()
            if answer.status != 200:  # noqa: PLR2004 - anything else is no feed
                hint = "check the API key" if answer.status == 401 else "check --gateway"  # noqa: PLR2004
                msg = f"{url} answered {answer.status}: {hint}"
                raise ListenError(msg)
            return await answer.json(content_type=None)

    async def _forward(self, http: aiohttp.ClientSession, event: dict[str, Any]) -> None:
        event_id = event["id"]
        # Write it as the gateway does, with the same members in the same order, so that the bytes are
        # the same.
        body = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
        now = self._clock.now()
        signed = headers([self._secret], event_id, now, body)
        sent = {**signed, "content-type": "application/json"}
        try:
            async with http.post(
                self._forward_to, data=body, headers=sent, allow_redirects=False
            ) as answer:
                word = str(answer.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            word = f"no answer ({type(error).__name__})"
        self._tell(f"{now:%H:%M:%S} {event['type']} {event_id} -> {word}")
