"""Stops a test run's PostgreSQL and removes its folder, once no process holds the lock on it any more.

A process of its own, in a session of its own: the test run may be killed with everything in it. Its only
argument is the folder of `tests.postgres`. It imports nothing of the gateway.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

#: The file in the folder that each process of the run has a shared lock on.
USERS = "users"
_STOPS_WITHIN_S = 10.0


def watch(folder: Path) -> None:
    """Wait for the end of all users; nobody can begin to use the folder from then on."""
    with (folder / USERS).open("rb") as users:
        fcntl.flock(users, fcntl.LOCK_EX)
        _stop(folder / "data")
        shutil.rmtree(folder, ignore_errors=True)


def _stop(data: Path) -> None:
    """Stop the server: at once, because its data are deleted next."""
    try:
        pid = int((data / "postmaster.pid").read_text().split()[0])
    except (FileNotFoundError, IndexError):
        return
    with suppress(ProcessLookupError):
        if not _is_server(pid, data):
            # It has ended, and its id is that of another process by now.
            return
        os.kill(pid, signal.SIGQUIT)
        end = time.monotonic() + _STOPS_WITHIN_S
        while time.monotonic() < end:
            os.kill(pid, 0)
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)


def _is_server(pid: int, data: Path) -> bool:
    """Whether a process is the server; True where the system does not show its command line."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return not Path("/proc/self").exists()
    return os.fsencode(data) in command.split(b"\0")


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
