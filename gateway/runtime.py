"""Where the outside world comes in: time, randomness, identifiers, slow computation, failpoints.

Everything in the gateway takes these from a `Runtime` value, so that a test or a simulation can hand
in its own. Nothing else reads the clock, draws a random number or starts a thread.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Moment:
    """A point in time: elapsed time on one clock, which is evidence, and the wall clock, for people.

    Microseconds. Elapsed times may be compared only where `clock_id` is the same.
    """

    clock_id: str
    elapsed: int
    wall: int


class Clock(Protocol):
    """Time as the gateway sees it."""

    def moment(self) -> Moment:
        """Return this moment by all clocks at once."""

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never steps back."""

    async def sleep(self, seconds: float) -> None:
        """Sleep for so many seconds."""


class SystemClock:
    """The machine's clock. Elapsed time continues while the machine sleeps, and starts again at a boot."""

    def __init__(self) -> None:
        boot_id = _boot_id()
        self._boottime = boot_id is not None
        self._clock_id = boot_id or f"process-{secrets.token_hex(16)}"

    def moment(self) -> Moment:
        """Return this moment by all clocks at once."""
        elapsed_ns = (
            time.clock_gettime_ns(time.CLOCK_BOOTTIME) if self._boottime else time.monotonic_ns()
        )
        return Moment(self._clock_id, elapsed_ns // 1000, time.time_ns() // 1000)

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds on the process's monotonic clock."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep for so many seconds."""
        await asyncio.sleep(seconds)


#: The inode of the initial time namespace (Linux, `PROC_TIME_INIT_INO`): its clocks are the machine's.
_INITIAL_TIME_NAMESPACE = 0xEFFFFFFA


def _boot_id() -> str | None:
    """Return what names the machine's boottime clock; None where processes may see different ones."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/time").stat().st_ino
        time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError, ValueError):
        return None
    return f"boot-{boot_id}" if boot_id and namespace == _INITIAL_TIME_NAMESPACE else None


class Timeline:
    """The time by which work falls due and leases end, in microseconds. It never steps.

    It begins at the wall clock and goes on with elapsed time: a wall clock that is set neither stalls
    what is due nor prolongs a lease. Processes on one database agree on it (`anchor`). It decides only
    when something is done, never whether money may move.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        begin = clock.moment()
        self._offset = begin.wall - begin.elapsed

    def now(self) -> int:
        """Return the time now."""
        return self._clock.moment().elapsed + self._offset

    def anchor(self, offset: int) -> None:
        """Go by the offset that the database holds for this clock."""
        self._offset = offset

    @property
    def offset(self) -> int:
        """The difference to the clock's elapsed time."""
        return self._offset


_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
#: The digits that Python reads a number of base 32 by.
_TO_PYTHON = str.maketrans(_DIGITS, "0123456789abcdefghijklmnopqrstuv")
_NO_DIGITS = str.maketrans("", "", _DIGITS)
_ID_DIGITS = 26
#: Every two digits, by their value.
_TWO_DIGITS = tuple(first + second for first in _DIGITS for second in _DIGITS)


def _base32(bits: int) -> str:
    """Return 128 bits as the 26 digits of a TypeID. The library's own way costs four times as much."""
    return "".join([_TWO_DIGITS[(bits >> shift) & 0x3FF] for shift in range(120, -1, -10)])


def uuid_bytes_of(made: str) -> bytes:
    """Return the 16 bytes of an identifier that `Ids.new` made. ValueError for any other text."""
    digits = made.rpartition("_")[2]
    if len(digits) != _ID_DIGITS or not digits.isascii() or digits.translate(_NO_DIGITS):
        msg = "not an identifier of ours"
        raise ValueError(msg)
    try:
        return int(digits.translate(_TO_PYTHON), 32).to_bytes(16)
    except OverflowError:
        msg = "an identifier with more than 128 bits"
        raise ValueError(msg) from None


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
        return f"{prefix}_{_base32(bits)}"

    def random_bytes(self, count: int) -> bytes:
        """Return `count` unpredictable bytes."""
        return self._random_bytes(count)

    def jitter(self, share: float = 0.2) -> float:
        """Return a factor drawn evenly from 1 - share to 1 + share."""
        unit = int.from_bytes(self._random_bytes(4)) / 0xFFFFFFFF
        return 1.0 - share + 2.0 * share * unit


class Failpoint(StrEnum):
    """A named point between two effects. Crash tests stop the process at each of them."""

    ACCEPT_BEGUN = "accept.begun"  #: the request is checked, nothing is written
    ACCEPT_COMMITTED = (
        "accept.committed"  #: payout, event and execution are durable, no response is sent
    )
    CLAIMED = "work.claimed"  #: the lease is acquired, nothing is done with it
    ATTEMPT_COMMITTED = "attempt.committed"  #: the attempt is durable, the adapter was not called
    REMEMBERING = "order.remembering"  #: the custodian answered, the note is not written
    REMEMBERED = "order.remembered"  #: the note is durable
    MOVING = "order.moving"  #: about to write the moving mark
    MOVED = "order.moved"  #: the mark is durable, the moving call was not made
    SUBMITTED = "submit.returned"  #: the moving call returned, its outcome is not written
    SETTLED = "submit.settled"  #: the outcome of submit is durable
    FETCHED = "fetch.returned"  #: the custodian reported a status, it is not written
    APPLIED = "apply.committed"  #: status, event and deliveries are durable
    INBOX_STORED = "inbox.stored"  #: a custodian's webhook is durable, but not answered
    INBOX_APPLIED = "inbox.applied"  #: a custodian's webhook was processed
    DELIVERY_COMMITTED = "delivery.committed"  #: an event and its leased deliveries are durable, the sender does not have them
    DELIVERY_CLAIMED = "delivery.claimed"  #: a webhook delivery is leased, nothing sent
    DELIVERY_SENT = "delivery.sent"  #: the receiver answered, the outcome is not written
    DELIVERY_SETTLED = "delivery.settled"  #: the outcome is durable, its lane is not free yet


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
    #: by which work falls due and leases end
    timeline: Timeline = field(init=False)

    def __post_init__(self) -> None:
        """Begin the timeline of this clock."""
        object.__setattr__(self, "timeline", Timeline(self.clock))


def real_runtime() -> Runtime:
    """Return the machine's own clock, randomness and threads."""
    clock = SystemClock()
    return Runtime(clock=clock, ids=Ids(clock))
