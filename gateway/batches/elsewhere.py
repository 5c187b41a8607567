"""Checks the files of batches in a process of their own, so that its lines hold up no request.

The process is started when the first file arrives, and ended once there has been none for a while. It works on the
files in turn, a page at a time, at the lowest priority. One that dies, or that does not answer in time, fails
the checks in progress: nobody sees what was stored of a file before all of it was checked, and it is deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pickle
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from gateway.batches.frames import BEGIN, END, FAILED, LENGTH, PAGE, Order, Page, Work
from gateway.errors import Refused
from gateway.logs import get_logger

#: How long the process may take for one answer, in seconds: long, because it runs only where nothing else
#: wants to. How long it stays without a file.
ANSWER_S = 300.0
IDLE_S = 60.0
#: Pages of a file that are asked for before they are needed: the process works while the gateway does.
_AHEAD = 2
#: The longest answer: a page has far less.
_MOST_BYTES = 64 * 1024 * 1024
#: What it gets of the gateway's environment: nothing that could be a secret.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TMPDIR")
COMMAND = (sys.executable, "-P", "-m", "gateway.batches.child")
_log = get_logger("batches")


class NoProcessError(OSError):
    """The process could not be started. Nothing was done."""


class FileChecks:
    """The process, and who makes use of it."""

    def __init__(
        self,
        command: Sequence[str] = COMMAND,
        *,
        answer_s: float = ANSWER_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self._command = command
        self._answer_s, self._idle_s = answer_s, idle_s
        self._process: _Process | None = None
        self._numbers = itertools.count(1)
        self._users = 0
        self._idle: asyncio.TimerHandle | None = None
        self._starting = asyncio.Lock()
        self._starts: set[asyncio.Task[_Process]] = set()
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int | None:
        """The id of the process; None: there is none."""
        return None if self._process is None or self._process.ended else self._process.pid

    @asynccontextmanager
    async def checking(self, work: Work) -> AsyncIterator[FileCheck]:
        """Check a file. NoProcessError where there is no process for it.

        Refused: `internal_error`, where the process ends or fails; the file may be sent again.
        """
        with self._used():
            process, number = await self._running(), next(self._numbers)
            try:
                await process.ask(Order(BEGIN, number, pickle.dumps(work)))
                yield FileCheck(process, number)
            finally:
                process.tell(Order(END, number))

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Start the process, if there is none, for a file that is still being received."""
        with self._used():
            starting = asyncio.create_task(self._running())
            # If it cannot be started, the caller that checks the file gets the error.
            starting.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._starts.add(starting)
            starting.add_done_callback(self._starts.discard)
            yield

    @contextmanager
    def _used(self) -> Iterator[None]:
        """Keep the process meanwhile, and for a while after the last file."""
        self._users += 1
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._end_idle)

    async def _running(self) -> _Process:
        async with self._starting:
            if self._process is None or self._process.ended:
                environment = {
                    name: os.environ[name] for name in _ENVIRONMENT if name in os.environ
                }
                try:
                    made = await asyncio.create_subprocess_exec(
                        *self._command,
                        stdin=asyncio.subprocess.PIPE,
                        stdout=asyncio.subprocess.PIPE,
                        # A trace would have the payees in it.
                        stderr=asyncio.subprocess.DEVNULL,
                        env=environment,
                    )
                except OSError as error:
                    _log.warning("file_checks_not_started", error=str(error))
                    raise NoProcessError(str(error)) from error
                self._process = _Process(made, self._answer_s)
            return self._process

    def _end_idle(self) -> None:
        self._idle = None
        process, self._process = self._process, None
        if process is not None:
            task = asyncio.create_task(process.end())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End the process; checks in progress fail. May be called twice."""
        if self._idle is not None:
            self._idle.cancel()
        await asyncio.gather(*self._starts, return_exceptions=True)
        self._end_idle()
        await asyncio.gather(*self._ending)


class FileCheck:
    """The check of one file."""

    def __init__(self, process: _Process, number: int) -> None:
        self._process = process
        self._number = number

    async def pages(self) -> AsyncGenerator[Page, None]:
        """Give what came of the lines, a page at a time. The next ones are made meanwhile."""
        asked = deque(self._ask() for _ in range(_AHEAD))
        while True:
            page = Page.of(await asked.popleft())
            if not page.head["last"]:
                asked.append(self._ask())
            yield page
            if page.head["last"]:
                return

    def _ask(self) -> asyncio.Future[bytes]:
        return self._process.ask(Order(PAGE, self._number))


class _Process:
    """The process, and what it was asked for, in this order."""

    def __init__(self, process: asyncio.subprocess.Process, answer_s: float) -> None:
        self._process = process
        self._answer_s = answer_s
        self._asked: deque[asyncio.Future[bytes]] = deque()
        self._late: asyncio.TimerHandle | None = None
        self.ended = False
        self._why = "it ended"
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    def ask(self, order: Order) -> asyncio.Future[bytes]:
        """Send an order; the future gets what is answered. Refused there: `internal_error`."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        # It may be that nobody waits for it any more.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self.ended:
            answer.set_exception(_broken_off(self._why))
            return answer
        self._asked.append(answer)
        if len(self._asked) == 1:
            self._wait()
        self.tell(order)
        return answer

    def tell(self, order: Order) -> None:
        """Send an order that has no answer."""
        if not self.ended and self._process.stdin is not None:
            self._process.stdin.write(order.frame())

    def _wait(self) -> None:
        """Wait for the next answer, if one is due, for a bounded time."""
        if self._late is not None:
            self._late.cancel()
            self._late = None
        if self._asked:
            loop = asyncio.get_running_loop()
            self._late = loop.call_later(self._answer_s, self._kill, "it did not answer in time")

    def _kill(self, why: str) -> None:
        self._why = why
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _read(self) -> None:
        answers = self._process.stdout
        assert answers is not None  # noqa: S101 - it is a pipe
        try:
            while True:
                size = int.from_bytes(await answers.readexactly(LENGTH))
                if size > _MOST_BYTES:
                    raise EOFError  # noqa: TRY301 - as if it had ended
                content = await answers.readexactly(size)
                answer = self._asked.popleft()
                self._wait()
                if answer.done():
                    continue
                if content[:1] == FAILED:
                    answer.set_exception(_broken_off(content[1:].decode()))
                else:
                    answer.set_result(content[1:])
        except (OSError, EOFError, IndexError):
            # It has ended, or it says something that nobody has asked for.
            pass
        finally:
            self.ended = True
            self._kill(self._why)
            left, self._asked = self._asked, deque()
            self._wait()
            if left:
                _log.error("file_checks_broken_off", reason=self._why, files=len(left))
            for each in left:
                if not each.done():
                    each.set_exception(_broken_off(self._why))
            await self._process.wait()

    async def end(self) -> None:
        """End it, and wait until it has ended."""
        self._kill("the gateway stops")
        await asyncio.wait({self._reading})


def _broken_off(why: str) -> Refused:
    detail = f"The file could not be checked to its end ({why}). Nothing was stored. Send it again."
    return Refused("internal_error", detail)
