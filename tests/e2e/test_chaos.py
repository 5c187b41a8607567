"""A short run of chaos, as `make chaos` does it: on a PostgreSQL of its own, which is killed as well."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)
_ROOT = Path(__file__).parents[2]


async def _chaos(*arguments: str) -> dict[str, int]:
    """Run it; return its counts by name."""
    own = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_TESTRUNUID"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-m", "tests.chaos", *arguments),
        cwd=_ROOT,
        env=own,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    text = out.decode()
    assert process.returncode == 0, text[-6000:]
    assert "0 doubles, 0 lost, every event received" in text
    lines = [line.strip().partition(" ") for line in text.splitlines()]
    return {name: int(count) for count, _, name in lines if count.isdigit()}


async def test_kills_and_a_restart_of_the_database() -> None:
    """Processes of every role are killed, and the database once."""
    counts = await _chaos("--kills", "6", "--restarts", "1", "--seed", "5")
    assert counts["kills"] >= 6
    assert counts["database restarts"] == 1
    assert counts["I1 payouts acknowledged, there, and ended"] >= 6


async def test_one_process_of_each_role_is_killed_again_and_again() -> None:
    """Payouts alone and in a batch go on through those that are left."""
    counts = await _chaos("--payouts", "120", "--every", "2")
    assert counts["kills"] >= 3
    assert counts["batches"] == 1
    assert counts["I1 payouts acknowledged, there, and ended"] == 120
