"""The PostgreSQL server of a test run goes with the run, also where that is killed."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import postgres_watcher
from tests.e2e.processes import ROOT, still_run

_SECONDS = 60
#: A process of a test run. It says where its server is, and goes on when it is told to.
_USER = """
import sys
from tests import postgres
for _ in sys.stdin:
    (row,) = postgres.admin("SELECT setting FROM pg_settings WHERE name = 'data_directory'")
    print(row["setting"], flush=True)
"""


class User:
    """A process that uses the server of a run."""

    def __init__(self, run: str, group: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _USER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTEST_XDIST_TESTRUNUID": run},
            process_group=group,
        )
        self.pid = self._process.pid

    def use(self) -> Path:
        """Have it ask its server something; return where the data are."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return Path(self._process.stdout.readline().strip())

    def kill(self) -> None:
        """Kill it, and wait for its end. May be called twice."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def users() -> Iterator[tuple[User, User]]:
    """Two processes of one run, in one process group, that are not told to do anything yet."""
    run = secrets.token_hex(8)
    first = User(run)
    second = User(run, group=first.pid)
    yield first, second
    for each in (first, second):
        each.kill()


def postmaster(data: Path) -> int:
    """Return the id of a server's first process."""
    return int((data / "postmaster.pid").read_text().split()[0])


def left(pid: int, folder: Path) -> list[object]:
    """Return what is left of a server a while after it should have gone."""
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end and (still_run({pid}) or folder.exists()):
        time.sleep(0.05)
    return [*still_run({pid}), *([folder] if folder.exists() else [])]


def test_it_goes_with_the_last_process_of_a_run_that_is_killed(users: tuple[User, User]) -> None:
    """And not with the first one. Nothing runs in a process that gets SIGKILL."""
    first, second = users
    data = first.use()
    assert second.use() == data
    pid = postmaster(data)
    assert still_run({pid})
    first.kill()
    assert second.use() == data
    assert postmaster(data) == pid
    os.killpg(first.pid, signal.SIGKILL)
    second.kill()
    assert left(pid, data.parent) == []


def test_no_other_process_is_stopped(tmp_path: Path) -> None:
    """The file of a server that was killed may name an id that another process has by now: this one."""
    (tmp_path / postgres_watcher.USERS).touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    postgres_watcher.watch(tmp_path)
    assert not tmp_path.exists()
