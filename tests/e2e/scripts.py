"""The commands of a page, run by bash as a reader would run them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path


async def run_script(script: str, folder: Path, *, timeout_s: float = 150) -> str:
    """Run a script in a folder, with this environment's commands first; return what it printed.

    Raises AssertionError with the end of the output if the script fails, and TimeoutError if it does not end.
    In every case, nothing that it started is left running.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if "PAYOUT_GATEWAY" not in name}
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", script),
        cwd=folder,
        env={**kept, "PATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), timeout_s)
    finally:
        # The sandbox and the gateway belong to its group, if the script did not get to its end.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    text = out.decode()
    assert process.returncode == 0, text[-4000:]
    return text
