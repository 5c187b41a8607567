"""Commands as processes, what these have started, and whether it is gone. Linux only, as the gateway is."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PROC = Path("/proc")
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


@asynccontextmanager
async def started(
    *arguments: str, cwd: Path = ROOT, one_stream: bool = False, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command of the gateway until the end of the block, and however that ends.

    `one_stream`: what goes to stderr comes by stdout.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT if one_stream else asyncio.subprocess.PIPE,
        cwd=cwd,
        env={**os.environ, **environment},
        preexec_fn=_end_with_the_tests,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.communicate(), 20)


def _end_with_the_tests() -> None:
    """Be told to stop when the process of the tests dies: the command stops what it has started."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def descendants(pid: int) -> set[int]:
    """Return the ids of all processes that a process started, and that those started."""
    parents = {each: parent for each in _pids() if (parent := _parent(each)) is not None}
    found: set[int] = set()
    wave = {pid}
    while wave := {child for child, parent in parents.items() if parent in wave} - found:
        found |= wave
    return found


async def all_gone(pids: set[int], seconds: float = 10) -> set[int]:
    """Wait until none of the processes runs; return those that still do."""
    end = asyncio.get_running_loop().time() + seconds
    while left := still_run(pids):
        if asyncio.get_running_loop().time() > end:
            return left
        await asyncio.sleep(0.05)
    return set()


def still_run(pids: set[int]) -> set[int]:
    """Return those of the processes that run."""
    return {pid for pid in pids if _parent(pid) is not None}


def _pids() -> list[int]:
    return [int(each.name) for each in _PROC.iterdir() if each.name.isdigit()]


def _parent(pid: int) -> int | None:
    """Return the parent of a running process; None where there is none, or it has ended."""
    try:
        state, parent = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state == "Z" else int(parent)
