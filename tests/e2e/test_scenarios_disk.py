"""The disk is full: nothing is sent that was not written, and everything goes on once there is room."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.store import migrate
from gateway.testing.processes import Process, command
from tests.e2e.holding_proxy import holding_proxy
from tests.e2e.stack import FIREBLOCKS, Stack, eventually, stack
from tests.e2e.witness import ledger_pays, never_said_unpaid

pytestmark = pytest.mark.timeout(180)
#: More than an empty database needs, and little enough to be filled at once.
_SIZE = "8m"

_ITS_EXECUTION = """
SELECT executions.* FROM executions JOIN execution_items ON execution_id = id WHERE payout_id = ?
"""


class Disk:
    """A small file system, and what fills it."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "gateway.db"
        self._ballast = folder / "ballast"

    def stuff(self) -> None:
        """Leave no room for another file."""
        with self._ballast.open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError:
                pass

    async def fill(self, made: Stack) -> None:
        """Leave no room on it, not even in what the database has for its next changes."""
        self.stuff()
        for number in range(500):
            status, problem = await made.call(
                "POST",
                "/payouts/quote",
                {
                    "external_ref": "user-1",
                    "asset": "USDC",
                    "amount": "1",
                    "destination": dict(FIREBLOCKS.destination),
                },
                idempotency_key=f"full-{number}",
            )
            if status == 503:
                assert problem["code"] == "store_unavailable"
                assert problem["retryable"]
                return
            assert status == 200, problem
        raise AssertionError("the disk never became full")

    def free(self) -> None:
        """Make room."""
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small disk for the database; skipped where this machine lets nobody mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def _logged(gateway: Process, words: str) -> None:
    """Wait until the gateway has written such a line."""

    async def look() -> bool:
        return words in gateway.log.read_text()

    await eventually(look, 60)


async def test_nothing_is_sent_that_cannot_be_written(tmp_path: Path, disk: Disk) -> None:
    """A payout waits to be sent again when the disk fills up. It is due, and its mark cannot be set.

    No call is made. Partners are told that the store cannot be written now, and may still read. With
    room again the same process sends it, once.
    """
    async with stack(tmp_path, database=disk.database) as made:
        gateway = await made.start_gateway("--short-looks")
        await made.reaches(await made.pay("31"), "delivered")
        limit = {"call": "create", "fault": "rate_limit", "retry_after_s": 12, "times": 1}
        await made.steer("POST", "faults", limit)
        payout_id = await made.pay("32")

        async def waits() -> bool:
            (row,) = made.rows(_ITS_EXECUTION, payout_id)
            return row["state"] == "prepared" and "RateLimited" in (row["outcome"] or "")

        await eventually(waits)
        await disk.fill(made)
        await _logged(gateway, '"loop": "engine-fireblocks"')
        assert (await made.payout(payout_id))["status"] == "pending"
        assert await made.calls("execute") == ["execute"]
        assert gateway.exit_code is None
        disk.free()
        never_said_unpaid(await made.reaches(payout_id, "delivered", seconds=60))
        assert await made.calls("execute") == ["execute"] * 2
        await made.reaches(await made.pay("33"), "delivered")
        await ledger_pays(made, ["31", "32", "33"])
        assert gateway.exit_code is None
        assert made.rows("PRAGMA integrity_check") == [{"integrity_check": "ok"}]


async def test_a_reply_that_cannot_be_written_is_looked_up(tmp_path: Path, disk: Disk) -> None:
    """The disk fills up between a call and its reply. What the reply says cannot be kept.

    The call is an unknown outcome, then: with room again the same process looks it up, and the payout
    is delivered by the one call that was made.
    """
    async with (
        holding_proxy("/actions/execute") as proxy,
        stack(tmp_path, through=proxy.in_front_of, database=disk.database) as made,
    ):
        gateway = await made.start_gateway("--short-looks")
        payout_id = await made.pay("34")
        await proxy.held.wait()
        await disk.fill(made)
        proxy.let_go.set()
        await _logged(gateway, "work_crashed")
        never_said_unpaid(await made.payout(payout_id))
        assert gateway.exit_code is None
        disk.free()
        never_said_unpaid(await made.reaches(payout_id, "delivered", seconds=60))
        assert await made.calls("execute") == ["execute"]
        await ledger_pays(made, ["34"])
        assert gateway.exit_code is None
        assert made.rows("PRAGMA integrity_check") == [{"integrity_check": "ok"}]


_ALONE = """
server_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
database = "{database}"
[listen]
port = 0
"""


async def _ends(folder: Path, database: Path, *arguments: str) -> str:
    """Run a command that must end with 2 and words about the database; return them."""
    config = folder / "alone.toml"
    config.write_text(_ALONE.format(database=database))
    code, out, err = await command(folder, *arguments, "--config", str(config))
    told = out + err
    assert code == 2, told
    assert "Traceback" not in told
    assert str(database) in told
    return told


@pytest.fixture
def immutable(tmp_path: Path) -> Iterator[Path]:
    """A database that nobody may write, root included; skipped where no file can be made so."""
    path = tmp_path / "immutable.db"
    migrate.prepare(path)
    done = subprocess.run(["chattr", "+i", path], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file can be made immutable here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


async def test_a_disk_that_is_full_at_the_start(tmp_path: Path, disk: Disk) -> None:
    """The problem is named; no message suggests restoring a sound database."""
    migrate.prepare(disk.database)
    with closing(sqlite3.connect(disk.database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL").fetchone()
        # The connection that ends last takes the log with it: it has to be made again.
    disk.stuff()
    for arguments in (("serve",), ("keys", "list"), ("db", "upgrade")):
        told = await _ends(tmp_path, disk.database, *arguments)
        assert "the disk is full" in told
        assert "restore" not in told
    disk.free()


async def test_a_database_that_cannot_be_written(tmp_path: Path, immutable: Path) -> None:
    """Serving it ends at once, and so does a command that writes."""
    for arguments in (("serve",), ("keys", "create", "--org", "o", "--mode", "live")):
        assert "cannot be written" in await _ends(tmp_path, immutable, *arguments)


async def test_a_database_that_another_program_keeps_locked(tmp_path: Path) -> None:
    """It is named as what it is."""
    path = tmp_path / "locked.db"
    migrate.prepare(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "is locked" in await _ends(tmp_path, path, "serve")


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """As before."""
    path = tmp_path / "junk.db"
    path.write_bytes(b"junk" * 1000)
    assert "is not a database" in await _ends(tmp_path, path, "serve")
