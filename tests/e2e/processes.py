"""Which processes a command has started, and whether they are gone. Linux only, as the gateway is."""

from __future__ import annotations

import asyncio
from pathlib import Path

_PROC = Path("/proc")


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
    while left := {pid for pid in pids if _parent(pid) is not None}:
        if asyncio.get_running_loop().time() > end:
            return left
        await asyncio.sleep(0.05)
    return set()


def _pids() -> list[int]:
    return [int(each.name) for each in _PROC.iterdir() if each.name.isdigit()]


def _parent(pid: int) -> int | None:
    """Return the parent of a running process; None where there is none, or it has ended."""
    try:
        state, parent = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state == "Z" else int(parent)
