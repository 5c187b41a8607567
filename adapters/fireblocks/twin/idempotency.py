"""Idempotency keys of the Fireblocks API (fireblocks protocol notes, section 6).

A key is remembered for 24 h and replays the first response. A key whose request ended in an internal
error is burnt: a repeat gets a 400, which does not say whether the first request was carried out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

LONGEST_KEY = 40
KEY_LIFE_S = 24 * 3600


@dataclass(frozen=True)
class _Remembered:
    body_hash: bytes
    #: The first response's status and bytes; None when the key is burnt.
    response: tuple[int, bytes] | None
    until: float


class KeyBook:
    """The keys of the last 24 h by the twin's clock."""

    def __init__(self, now: Callable[[], float], refuse: Callable[[str], web.Response]) -> None:
        self._now = now
        self._refuse = refuse
        self._keys: dict[tuple[str, str], _Remembered] = {}
        self.scope: Literal["global", "endpoint"] = "global"
        self.other_body: Literal["replay", "refuse"] = "replay"
        self.remember_refusals = True

    def clear(self) -> None:
        """Forget every key."""
        self._keys.clear()

    def run(
        self, call: str, key: str | None, body: bytes, act: Callable[[], web.Response]
    ) -> web.Response:
        """Run `act` once per key and replay its answer; without a key, run it every time."""
        if key is None:
            return act()
        if not 0 < len(key) <= LONGEST_KEY:
            return self._refuse(f"Idempotency-Key must have 1 to {LONGEST_KEY} characters")
        place, body_hash = self._place(call, key), hashlib.sha256(body).digest()
        known = self._keys.get(place)
        if known is None or known.until <= self._now():
            answer = act()
            if answer.status < 400 or self.remember_refusals:
                content = answer.body if isinstance(answer.body, bytes) else b""
                self._remember(place, body_hash, (answer.status, content))
            return answer
        if known.response is None:
            return self._refuse(
                "Idempotency-Key was used by a request that ended in an internal error "
                "and cannot be used again"
            )
        if known.body_hash != body_hash and self.other_body == "refuse":
            return self._refuse("Idempotency-Key was used with another body")
        status, content = known.response
        return web.Response(status=status, body=content, content_type="application/json")

    def burn(self, call: str, key: str | None) -> None:
        """Refuse a key for the next 24 h."""
        if key is not None:
            self._remember(self._place(call, key), b"", None)

    def _place(self, call: str, key: str) -> tuple[str, str]:
        return ("" if self.scope == "global" else call, key)

    def _remember(
        self, place: tuple[str, str], body_hash: bytes, response: tuple[int, bytes] | None
    ) -> None:
        self._keys[place] = _Remembered(body_hash, response, self._now() + KEY_LIFE_S)
