"""Several worker processes under one parent, which starts a dead one again and stops all of them together.

The parent binds the listener and hands it to each worker; the kernel shares connections out among them. It
opens no database and serves nothing itself. A worker stops when its parent is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway import logs
from gateway.config.settings import Settings
from gateway.server import address_of, listen

#: A worker that dies is started again after so long, twice as long each time it dies before it has served
#: for a while.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _SETTLED_S = 0.5, 30.0, 60.0
#: How much longer than it may take a worker has to stop before it is killed.
_MARGIN_S = 2.0
#: The exit code of a worker whose set-up is wrong.
_WRONG = 2
_log = logs.get_logger("supervisor")


def pause_after(pause_s: float, served_s: float) -> float:
    """Return how long to wait before a worker is started again, given the pause before. Pure."""
    if served_s >= _SETTLED_S:
        return _FIRST_PAUSE_S
    return min(max(pause_s * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)


class Supervisor:
    """Keeps so many workers running. `command`: how one is started, without what only the parent knows."""

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str],
        workers: int,
        *,
        listens: bool,
        port: int | None,
    ) -> None:
        self._settings = settings
        self._command = command
        self._workers = workers
        self._listens = listens
        self._port = settings.listen.port if port is None else port
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        #: whether a worker has ever served
        self._served = False
        self._code = 0

    async def run(self, ready: Callable[[str], None] = lambda _: None) -> int:
        """Run until SIGTERM or SIGINT; return the exit code. `ready`: called when the first one serves.

        2: no worker has ever served, and one says that the set-up is wrong. 1: one had to be killed.
        ConfigError if the port cannot be used.
        """
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stopping.set)
        with contextlib.ExitStack() as held:
            listener = None
            if self._listens:
                host = self._settings.listen.host
                listener = held.enter_context(listen("listen", host, self._port))
                listener.listen(1024)
            address = "" if listener is None else address_of(listener)
            keeping = [
                asyncio.create_task(self._keep(number, listener, lambda: ready(address)))
                for number in range(self._workers)
            ]
            _log.info("supervising", workers=self._workers, url=address)
            await self._stopping.wait()
            await self._stop(keeping)
        _log.info("supervisor_stopped")
        return self._code

    async def _keep(
        self, number: int, listener: socket.socket | None, ready: Callable[[], None]
    ) -> None:
        """Run a worker, and start it again when it dies."""
        loop = asyncio.get_running_loop()
        pause_s = 0.0
        while not self._stopping.is_set():
            begun = loop.time()
            code = await self._worker(number, listener, ready)
            if self._stopping.is_set():
                return
            if code == _WRONG and not self._served:
                # It has said why. Nothing gets better by itself.
                self._code = _WRONG
                self._stopping.set()
                return
            pause_s = pause_after(pause_s, loop.time() - begun)
            _log.error("worker_died", worker=number, code=code, again_in_s=pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def _worker(
        self, number: int, listener: socket.socket | None, ready: Callable[[], None]
    ) -> int:
        own, theirs = socket.socketpair()
        with own, theirs:
            own.setblocking(False)  # noqa: FBT003 - as it is called
            handed = [theirs.fileno(), *([] if listener is None else [listener.fileno()])]
            process = await asyncio.create_subprocess_exec(
                *self._command,
                *("--part", ",".join(map(str, (number, *handed)))),
                pass_fds=handed,
            )
            theirs.close()
            self._running[number] = process
            _log.info("worker_started", worker=number, pid=process.pid)
            telling = asyncio.create_task(self._hear(own, ready))
            try:
                return await process.wait()
            finally:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)
                del self._running[number]

    async def _hear(self, own: socket.socket, ready: Callable[[], None]) -> None:
        """Wait until a worker says that it serves."""
        if await asyncio.get_running_loop().sock_recv(own, 1) and not self._served:
            self._served = True
            ready()

    async def _stop(self, keeping: list[asyncio.Task[None]]) -> None:
        """Pass the signal on, and wait; kill what does not stop."""
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        within_s = self._settings.process.stop_within_s + _MARGIN_S
        _, late = await asyncio.wait(keeping, timeout=within_s)
        for number, process in self._running.items():
            _log.error("worker_killed", worker=number)
            self._code = self._code or 1
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if late:
            await asyncio.wait(late)


def run(  # noqa: PLR0913 - the options of the command
    settings: Settings,
    config: Path,
    *,
    workers: int,
    role: str,
    listens: bool,
    port: int | None,
    allow_removed: bool,
) -> int:
    """Supervise on an event loop of its own; for the command line."""
    logs.configure(settings.log.format, settings.log.level)
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(config), "--role", role]
    if allow_removed:
        command.append("--allow-removed")

    async def supervise() -> int:
        made = Supervisor(settings, command, workers, listens=listens, port=port)
        return await made.run()

    return asyncio.run(supervise())
