"""Long work of one request on many lines: how much of it runs at once, and in which steps.

A batch has up to 100 000 lines. What is done to each of them in Python holds up everybody else while it
runs, on the event loop as well as in a thread. So it is done a few lines at a time, with a pause before
each step in which all others go on. All jobs of a process share these pauses: ten jobs take no more of
the process than one, they take longer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.config import LimitSettings
from gateway.errors import Refused
from gateway.metrics import Metrics

T = TypeVar("T")

#: Lines of one step: one or two milliseconds.
LINES = 20
#: The pause before a step, in seconds: about as long as the step.
PAUSE_S = 0.001
_NAME = "batch_jobs"
_RETRY_S = 5


class Jobs:
    """The long jobs of one process: reports, and checks and creations of batches."""

    def __init__(self, settings: LimitSettings, metrics: Metrics) -> None:
        self._most, self._most_per_org = settings.batch_jobs, settings.batch_jobs_per_org
        self._metrics = metrics
        self._running: Counter[str] = Counter()
        self._turn = asyncio.Lock()

    @contextmanager
    def running(self, org: str) -> Iterator[None]:
        """Hold a place for a job of an org. Refused: `rate_limited`, where there is none."""
        for count, most in (
            (self._running[org], self._most_per_org),
            (self._running.total(), self._most),
        ):
            if count >= most:
                self._metrics.rate_limited(_NAME)
                raise _too_many(most)
        self._running[org] += 1
        try:
            yield
        finally:
            self._running[org] -= 1
            if not self._running[org]:
                del self._running[org]

    async def steps(self, lines: Iterable[T]) -> AsyncIterator[list[T]]:
        """Give the lines a few at a time, and let everybody else go on before each few."""
        left = iter(lines)
        while True:
            # One job after the other: no two steps follow each other without a pause.
            async with self._turn:
                await asyncio.sleep(PAUSE_S)
            step = list(islice(left, LINES))
            if not step:
                return
            yield step


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
