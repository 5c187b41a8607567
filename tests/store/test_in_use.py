"""The lock of everybody who uses a database, between real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.errors import InUse
from gateway.store import in_use

HOLD = (
    "import sys\nfrom pathlib import Path\nfrom gateway.store import in_use\n"
    "with getattr(in_use, sys.argv[1])(Path(sys.argv[2])):\n"
    "    print('held', flush=True)\n    sys.stdin.read()\n"
)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A file that stands for a database."""
    path = tmp_path / "g.db"
    path.touch(0o600)
    return path


def holder(how: str, database: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, how, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def let_go(process: subprocess.Popen[str]) -> None:
    """End the process."""
    process.communicate()
    assert process.returncode == 0


def test_many_use_it_and_nobody_has_it_alone_meanwhile(database: Path) -> None:
    """The processes are named; afterwards it can be had alone."""
    processes = [holder("shared", database) for _ in range(2)]
    with in_use.shared(database, 0), pytest.raises(InUse) as refused, in_use.alone(database, 0):
        pass
    expected = sorted((os.getpid(), *(each.pid for each in processes)))
    assert [int(each.split()[1]) for each in refused.value.holders.split(", ")] == expected
    for each in processes:
        let_go(each)
    with in_use.alone(database, 0):
        pass


def test_who_has_it_alone_may_open_it(database: Path) -> None:
    """Its own process; any other one gets the name of the holder."""
    with in_use.alone(database, 0):
        with in_use.shared(database, 0):
            pass
        with in_use.shared(database, 0):
            pass
    process = holder("alone", database)
    for how in (in_use.shared, in_use.alone):
        with pytest.raises(InUse, match=f"process {process.pid} on"), how(database, 0):
            pass
    let_go(process)
    with in_use.shared(database, 0):
        pass


def test_a_moment_is_waited_for(database: Path) -> None:
    """A command that is about to end stops nobody."""
    process = holder("shared", database)
    assert process.stdin is not None
    process.stdin.close()
    with in_use.alone(database, 20):
        pass
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_links_are_followed(database: Path) -> None:
    """One database is one lock, whatever name it goes by."""
    link = database.with_name("link.db")
    link.symlink_to(database)
    assert in_use.lock_file(link) == in_use.lock_file(database)
    process = holder("shared", link)
    with pytest.raises(InUse), in_use.alone(database, 0):
        pass
    let_go(process)


def test_the_lock_file_is_private_and_the_databases_owners(database: Path) -> None:
    """A command of another user must not lock out the gateway's own."""
    if os.geteuid() == 0:
        os.chown(database, 1234, 1234)
    with in_use.shared(database):
        pass
    found, model = in_use.lock_file(database).stat(), database.stat()
    assert found.st_mode & 0o777 == 0o600
    assert (found.st_uid, found.st_gid) == (model.st_uid, model.st_gid)


def test_whoever_is_first_knows_it(database: Path) -> None:
    """Also after the one before has died; and never beside another one."""
    process = holder("shared", database)
    with in_use.shared(database, 0) as first:
        assert not first
    process.kill()
    process.communicate()
    with in_use.shared(database, 0) as first:
        assert first
        # It has not stayed alone.
        let_go(holder("shared", database))
