"""Long work of one request on many lines: how much of it runs at once, and in which steps.

A batch has up to 100 000 lines. What is done to each of them in Python holds up everybody else while it
runs, on the event loop as well as in a thread. So it is done a few lines at a time, with a pause before
each step in which all others go on. The pause is a multiple of the time that the last step took: while
other requests come in, jobs use about a fifth of the process, and otherwise half of it. All jobs share
these pauses: ten jobs take no more of the process than one, they take longer. And a step waits until the
requests of other orgs in progress are answered, for a bounded time: jobs run in the gaps.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.calling import Calling
from gateway.config.rates import LimitSettings
from gateway.errors import Refused
from gateway.metrics import Metrics
from gateway.runtime import Clock

T = TypeVar("T")
R = TypeVar("R")

#: A step ends with the line that exceeds this time, in seconds, and has this many lines at most.
STEP_S = 0.001
LINES = 250
#: The pause before a step: this many times what the step before took, and never less than a step may take.
PAUSES, PAUSES_BESIDE_OTHERS = 1, 4
#: How long a step waits for requests of other orgs, in seconds. Under steady load of others, jobs use about
#: an eleventh of the process.
GIVES_WAY_S = 0.01
#: How long a request counts as one that comes in beside the jobs, in seconds.
_OTHERS_S = 0.5
_NAME = "batch_jobs"
_RETRY_S = 5


class Jobs:
    """The long jobs of one process: reports, and checks and creations of batches."""

    def __init__(
        self,
        settings: LimitSettings,
        metrics: Metrics,
        clock: Clock,
        calling: Calling | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._most, self._most_per_org = settings.batch_jobs, settings.batch_jobs_per_org
        self._metrics = metrics
        self._clock = clock
        self._calling = Calling(clock) if calling is None else calling
        self._pause = pause
        self._others_until = self._others_until_before = clock.monotonic()
        self._requests = 0
        #: how much longer the last pause was than it had to be, in seconds
        self._surplus = 0.0
        self._running: Counter[str] = Counter()
        self._turn = asyncio.Lock()

    @contextmanager
    def running(self, org: str, number: int | None = None) -> Iterator[None]:
        """Hold a place for a job of an org. Refused: `rate_limited`, where there is none.

        `number`: what `request` returned for the request whose job it is.
        """
        for count, most in (
            (self._running[org], self._most_per_org),
            (self._running.total(), self._most),
        ):
            if count >= most:
                self._metrics.rate_limited(_NAME)
                raise _too_many(most)
        self._running[org] += 1
        if number == self._requests:
            # The job does not come in beside itself.
            self._others_until = self._others_until_before
        try:
            yield
        finally:
            self._running[org] -= 1
            if not self._running[org]:
                del self._running[org]

    def request(self) -> int:
        """Note that a request came in: jobs leave more of the process to it and to those that follow.

        Returns its number, by which `running` knows the request of a job itself.
        """
        self._others_until_before = self._others_until
        self._others_until = self._clock.monotonic() + _OTHERS_S
        self._requests += 1
        return self._requests

    async def turn(self, org: str, took_s: float = 0.0) -> None:
        """Let everybody else go on before a step of an org's job. `took_s`: how long its last step took."""
        busy = self._clock.monotonic() < self._others_until
        pause = max(took_s, STEP_S)
        # One job after the other: no two steps follow each other without a pause.
        async with self._turn:
            if busy:
                self._surplus = 0.0
                await self._pause(PAUSES_BESIDE_OTHERS * pause)
            else:
                await self._pause_alone(PAUSES * pause)
            await self._calling.quiet(org, GIVES_WAY_S)

    async def _pause_alone(self, pause: float) -> None:
        """Pause; what a pause takes longer than it should counts for the next one, and for no other.

        Timers are as coarse as a step, and what is stored meanwhile holds up their end.
        """
        begun = self._clock.monotonic()
        await self._pause(max(0.0, pause - self._surplus))
        paused = self._surplus + self._clock.monotonic() - begun
        self._surplus = min(max(0.0, paused - pause), pause)

    async def steps(
        self, org: str, lines: Iterable[T], work: Callable[[T], R]
    ) -> AsyncIterator[list[R]]:
        """Do the work on each line, a few at a time; let everybody else go on before each few."""
        left, took = iter(lines), 0.0
        while True:
            await self.turn(org, took)
            done: list[R] = []
            begun = self._clock.monotonic()
            for line in left:
                done.append(work(line))
                took = self._clock.monotonic() - begun
                if took >= STEP_S or len(done) >= LINES:
                    break
            else:
                # Nothing is left. What the job does next pauses for at least what this step may have taken.
                if done:
                    yield done
                return
            yield done


def _too_many(most: int) -> Refused:
    detail = (
        f"{most} reports, checks or creations of batches are under way, and no more at once. "
        "Nothing was done."
    )
    headers = {
        "Retry-After": str(_RETRY_S),
        "RateLimit-Policy": f'"{_NAME}";q={most};qu="concurrent-requests"',
        "RateLimit": f'"{_NAME}";r=0;t={_RETRY_S}',
    }
    return Refused("rate_limited", detail, headers=headers)


def number_of(request: Request) -> int:
    """Return what `Jobs.request` returned for a request."""
    number: int = request.scope["state"]["number"]
    return number


def jobs_of(request: Request) -> Jobs:
    """Return the jobs of the application."""
    jobs: Jobs = request.app.state.jobs
    return jobs


class JobResponse(StreamingResponse):
    """A streamed answer that is a job of an org until it ends, however it ends."""

    def __init__(self, jobs: Jobs, org: str, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._jobs, self._org = jobs, org

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer. Refused: `rate_limited`, before anything of it is sent."""
        with self._jobs.running(self._org):
            await super().__call__(scope, receive, send)
