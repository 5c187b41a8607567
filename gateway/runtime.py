"""Where the outside world comes in: time, randomness, identifiers, slow computation, failpoints.

Everything in the gateway takes these from a `Runtime` value, so that a test or a simulation can hand
in its own. Nothing else reads the clock, draws a random number or starts a thread.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol, TypeVar

from typeid import TypeID
from uuid_utils import UUID

T = TypeVar("T")


class Clock(Protocol):
    """Time as the gateway sees it."""

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never steps back."""

    async def sleep(self, seconds: float) -> None:
        """Sleep for so many seconds."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds on the process's monotonic clock."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep for so many seconds."""
        await asyncio.sleep(seconds)


class Ids:
    """Identifiers and randomness.

    Identifiers are TypeIDs over UUIDv7: prefixed, opaque, and ordered by time, because random keys
    halve the insert rate of a large table. Within one process they rise strictly, even inside one
    millisecond or when the clock steps back.
    """

    def __init__(
        self, clock: Clock, random_bytes: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._clock = clock
        self._random_bytes = random_bytes
        self._last = 0

    def new(self, prefix: str) -> str:
        """Return a new identifier such as `pay_01j…`; never the same twice."""
        ms = int(self._clock.now().timestamp() * 1000)
        tail = int.from_bytes(self._random_bytes(10)) & ((1 << 74) - 1)
        # 48 bits of time, 74 random bits; a value not above the last one becomes the next above it.
        value = max((ms << 74) | tail, self._last + 1)
        self._last = value
        ms, tail = value >> 74, value & ((1 << 74) - 1)
        bits = (
            (ms << 80) | (7 << 76) | ((tail >> 62) << 64) | (0b10 << 62) | (tail & ((1 << 62) - 1))
        )
        return str(TypeID.from_uuid(UUID(int=bits), prefix))

    def random_bytes(self, count: int) -> bytes:
        """Return `count` unpredictable bytes."""
        return self._random_bytes(count)

    def jitter(self, share: float = 0.2) -> float:
        """Return a factor drawn evenly from 1 - share to 1 + share."""
        unit = int.from_bytes(self._random_bytes(4)) / 0xFFFFFFFF
        return 1.0 - share + 2.0 * share * unit


class Failpoint(StrEnum):
    """A named point between two effects. Crash tests stop the process at each of them."""

    ACCEPT_BEGUN = "accept.begun"  #: request checked, nothing written
    ACCEPT_COMMITTED = "accept.committed"  #: payout, event and work row are durable, no answer sent
    CLAIMED = "work.claimed"  #: the lease is ours, nothing done with it
    ATTEMPT_COMMITTED = "attempt.committed"  #: the attempt is durable, the adapter was not called
    REMEMBERING = "order.remembering"  #: the custodian answered, the note is not written
    REMEMBERED = "order.remembered"  #: the note is durable
    MOVING = "order.moving"  #: about to write the moving mark
    MOVED = "order.moved"  #: the mark is durable, the moving call was not made
    SUBMITTED = "submit.returned"  #: the moving call returned, its outcome is not written
    SETTLED = "submit.settled"  #: the outcome of submit is durable
    FETCHED = "fetch.returned"  #: the custodian told a status, it is not written
    APPLIED = "apply.committed"  #: status, event and deliveries are durable
    INBOX_STORED = "inbox.stored"  #: a custodian's webhook is durable, not answered
    INBOX_APPLIED = "inbox.applied"  #: a custodian's webhook was worked off
    DELIVERY_CLAIMED = "delivery.claimed"  #: a webhook delivery is leased, nothing sent
    DELIVERY_SENT = "delivery.sent"  #: the receiver answered, the outcome is not written
    DELIVERY_SETTLED = "delivery.settled"  #: the outcome of the delivery is durable


def _no_effect(_: Failpoint) -> None:
    """Do nothing: outside crash tests a failpoint has no effect."""


async def offload(work: Callable[[], T]) -> T:
    """Run a slow computation (an RSA signature takes about 3 ms) off the event loop."""
    return await asyncio.to_thread(work)


class Offload(Protocol):
    """Runs a slow, pure computation somewhere else than on the event loop."""

    async def __call__(self, work: Callable[[], T]) -> T:
        """Return what `work` returns."""


@dataclass(frozen=True)
class Runtime:
    """The outside world, handed in."""

    clock: Clock
    ids: Ids
    offload: Offload = offload
    failpoint: Callable[[Failpoint], None] = _no_effect


def real_runtime() -> Runtime:
    """Return the machine's own clock, randomness and threads."""
    clock = SystemClock()
    return Runtime(clock=clock, ids=Ids(clock))
