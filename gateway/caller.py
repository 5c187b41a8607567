"""Who asks."""

from __future__ import annotations

from typing import NamedTuple

from gateway.config.settings import Mode


class Caller(NamedTuple):
    """Who asks: an org in a mode. Every look and every change is scoped by it.

    `org` is empty for a key of the operator, which no route of an org takes.
    """

    org: str
    mode: Mode
    key_id: str
    scopes: frozenset[str] = frozenset()
    operator: bool = False
    #: by the wall clock, in microseconds, at most a minute old; None: not used yet
    used_at: int | None = None
