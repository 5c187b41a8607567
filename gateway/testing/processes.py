"""Starts gateways, twins and commands as processes of their own, in a fraction of a second.

They are forked from a server process that has imported everything already (`multiprocessing`'s fork
server): importing takes longer than all that a gateway does until it is ready.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import itertools
import multiprocessing
import os
import signal
import sys
import weakref
from importlib.metadata import entry_points
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from multiprocessing.util import Finalize
from pathlib import Path

#: The entry points of the twins.
TWINS = "payout_gateway.twins"
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["gateway.testing.preload"])
_LOOK_S = 0.02
_PR_SET_PDEATHSIG = 1
_numbers = itertools.count(1)
_begun: weakref.WeakSet[ForkServerProcess] = weakref.WeakSet()


def _kill_all() -> None:
    """Kill what still runs. Tests that are cut off stop nothing, and their process waits for each."""
    for process in list(_begun):
        process.kill()


Finalize(None, _kill_all, exitpriority=100)


def twin_module(name: str) -> str:
    """Return the module that runs the twin of an adapter. AssertionError if none is installed."""
    found = {each.name: each.module for each in entry_points(group=TWINS)}
    assert name in found, (
        f"no twin named {name!r} is installed: declare it under "
        f'[project.entry-points."{TWINS}"] and install the package; installed: {sorted(found)}'
    )
    return found[name]


def _run(module: str, arguments: tuple[str, ...], out: Path, log: Path) -> None:
    """Run a program in this process, which was forked for it."""
    # Whatever becomes of the tests, no process outlives the server, and the server not the tests. It
    # ends when nobody holds its pipe any more; this process was handed it, to fork others by itself.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.close(vars(forkserver)["_forkserver"]._forkserver_alive_fd)  # noqa: SLF001 - no public way
    for path, number in ((out, 1), (log, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = [module, *arguments]
    sys.exit(importlib.import_module(module).main())


class Process:
    """A child process. One that serves tells its readiness by one line on stdout."""

    def __init__(self, process: ForkServerProcess, out: Path, log: Path) -> None:
        self._process = process
        self._out = out
        self.log = log
        self.line = ""

    @classmethod
    def begin(cls, log: Path, module: str, *arguments: str) -> Process:
        """Start a program; stdout goes to a file of its own, stderr to the log."""
        out = log.with_name(f"{log.stem}.{next(_numbers)}.out")
        process = _FORKS.Process(target=_run, args=(module, arguments, out, log))
        process.start()
        _begun.add(process)
        return cls(process, out, log)

    @classmethod
    async def start(cls, log: Path, module: str, *arguments: str, seconds: float = 60) -> Process:
        """Start a program that serves, and wait for its line."""
        begun = cls.begin(log, module, *arguments)
        end = asyncio.get_running_loop().time() + seconds
        while "\n" not in begun.out:
            late = asyncio.get_running_loop().time() > end
            if late or begun.exit_code is not None:
                begun.kill()
                raise AssertionError(f"{module} {arguments} did not start:\n{begun.told()}")
            await asyncio.sleep(_LOOK_S)
        begun.line = begun.out.splitlines()[0]
        return begun

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, the negative number of the signal that ended it, or None while it runs."""
        return self._process.exitcode

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return self._out.read_text() if self._out.exists() else ""

    def told(self) -> str:
        """Return the last lines of its log."""
        return self.log.read_text()[-3000:] if self.log.exists() else ""

    def kill(self) -> None:
        """Kill it, if it still runs."""
        if self.exit_code is None:
            self._process.kill()

    async def died(self, seconds: float = 30) -> int:
        """Wait for the end; return the exit code."""
        async with asyncio.timeout(seconds):
            while (code := self.exit_code) is None:
                await asyncio.sleep(_LOOK_S)
        return code

    async def stop(self, seconds: float = 30) -> int:
        """Ask it to stop and wait."""
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGCONT)
            self._process.terminate()
        try:
            return await self.died(seconds)
        except TimeoutError:
            self.kill()
            raise AssertionError(f"did not stop in time:\n{self.told()}") from None


async def command(folder: Path, *arguments: str, seconds: float = 60) -> tuple[int, str, str]:
    """Run a command of the gateway; return its exit code, stdout and stderr."""
    errors = folder / f"command-{next(_numbers)}.err"
    process = Process.begin(errors, "gateway.__main__", *arguments)
    try:
        code = await process.died(seconds)
    finally:
        process.kill()
    return code, process.out, errors.read_text() if errors.exists() else ""
