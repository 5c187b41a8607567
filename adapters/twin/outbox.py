"""Sends a twin's webhooks: one delivery per event, retried as the custodian does, by the twin's clock."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import aiohttp

from adapters.twin.clock import TwinClock
from adapters.twin.faults import WEBHOOK_FAULTS, Fault, FaultBook

_WEBHOOK_FAULT_NAMES = frozenset(kind.name for kind in WEBHOOK_FAULTS)


@dataclass(frozen=True)
class Message:
    """The bytes of one webhook request."""

    headers: Mapping[str, str]
    body: bytes


@dataclass
class Delivery:
    """One event on its way to the receiver, and the result of each attempt."""

    id: int
    event: str
    #: Makes the request of attempt n (from 1), because some custodians sign each attempt again.
    make: Callable[[int], Message]
    attempts_allowed: int
    state: str = "waiting"  # waiting, delivered, failed, dropped
    forged: bool = False
    attempts: list[dict[str, object]] = field(default_factory=list)

    def document(self) -> dict[str, object]:
        """Return it as the control API shows it."""
        return {
            "id": self.id,
            "event": self.event,
            "state": self.state,
            "forged": self.forged,
            "attempts": self.attempts,
        }


class Outbox:
    """Sends webhooks to the one receiver named by `url`; without a receiver, events are not sent.

    `delays_s` are the waits between attempts, so there is one attempt more than delays. `retries` tells
    for a status (None: no answer) whether the custodian tries again; `accepts` tells whether a status
    is a receipt. Deliveries of different events run in parallel, in no particular order.
    """

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        clock: TwinClock,
        faults: FaultBook,
        delays_s: Sequence[float],
        retries: Callable[[int | None], bool],
        forge: Callable[[Message, str], Message],
        timeout_s: float = 10.0,
        accepts: Callable[[int], bool] = lambda status: 200 <= status < 300,
    ) -> None:
        self.url: str | None = None
        self._clock = clock
        self._faults = faults
        self._delays_s = tuple(delays_s)
        self._retries = retries
        self._forge = forge
        self._accepts = accepts
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._ids = itertools.count(1)
        self._deliveries: list[Delivery] = []
        self._held: list[Delivery] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    def documents(self) -> list[dict[str, object]]:
        """Return every delivery, oldest first."""
        return [delivery.document() for delivery in self._deliveries]

    def post(self, event: str, make: Callable[[int], Message]) -> None:
        """Send an event; returns at once."""
        if self.url is None:
            return
        fault = self._faults.take("webhook", _WEBHOOK_FAULT_NAMES, self._clock.now())
        delivery = self._new(event, make)
        if fault is None:
            self._start(delivery)
        else:
            self._misbehave(fault, delivery)
        if fault is None or fault.name != "reorder":
            self._release()

    async def reset(self) -> None:
        """Forget every delivery and stop those under way; the receiver stays named."""
        self._deliveries.clear()
        self._held.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Stop sending and close the connections."""
        await self.reset()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _new(self, event: str, make: Callable[[int], Message], *, forged: bool = False) -> Delivery:
        allowed = 1 if forged else len(self._delays_s) + 1
        delivery = Delivery(next(self._ids), event, make, allowed, forged=forged)
        self._deliveries.append(delivery)
        return delivery

    def _misbehave(self, fault: Fault, delivery: Delivery) -> None:
        match fault.name:
            case "drop":
                delivery.state = "dropped"
            case "delay":
                self._clock.call_later(fault.number("seconds"), partial(self._start, delivery))
            case "reorder":
                # It waits until the next event overtakes it, or for the given time.
                self._held.append(delivery)
                self._clock.call_later(fault.number("seconds"), self._release)
            case "duplicate":
                message = delivery.make(1)
                for _ in range(int(fault.number("copies"))):
                    self._start(self._new(delivery.event, lambda _: message))
                self._start(delivery)
            case _:
                forged = self._forge(delivery.make(1), fault.word("how"))
                self._start(self._new(delivery.event, lambda _: forged, forged=True))
                self._start(delivery)

    def _release(self) -> None:
        held, self._held = self._held, []
        for delivery in held:
            # Send it after the attempt that was just started, so that it really arrives later.
            self._clock.call_later(0.1, partial(self._start, delivery))

    def _start(self, delivery: Delivery) -> None:
        task = asyncio.get_running_loop().create_task(self._attempt(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attempt(self, delivery: Delivery) -> None:
        status = await self._send(delivery.make(len(delivery.attempts) + 1))
        delivery.attempts.append({"status": status, "at": self._clock.stamp()})
        tried = len(delivery.attempts)
        if status is not None and self._accepts(status):
            delivery.state = "delivered"
        elif tried < delivery.attempts_allowed and self._retries(status):
            self._clock.call_later(self._delays_s[tried - 1], partial(self._start, delivery))
        else:
            delivery.state = "failed"

    async def _send(self, message: Message) -> int | None:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, trust_env=False)
        try:
            async with self._session.post(
                self.url or "", data=message.body, headers=message.headers, allow_redirects=False
            ) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None
