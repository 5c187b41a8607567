"""The database file is moved away under a gateway, and another one is put in its place."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.runtime import Failpoint
from gateway.store import in_use
from gateway.testing.processes import Process
from tests.e2e.stack import Stack, eventually, stack
from tests.e2e.test_crashes import stopped
from tests.e2e.witness import evidence, ledger_pays, never_said_unpaid

pytestmark = [pytest.mark.timeout(180)]
#: Long enough that another gateway can be started meanwhile.
_LATER_S = 15


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Stack]:
    """A stack of its own: its database does not stay what it was."""
    async with stack(tmp_path) as built:
        yield built


def database(made: Stack) -> Path:
    """Return the path of the database."""
    return made.folder / "gateway.db"


def move(made: Stack, source: str, target: str) -> None:
    """Rename the database and what SQLite has beside it."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            (made.folder / (source + suffix)).rename(made.folder / (target + suffix))


_ITS_EXECUTION = """
SELECT executions.* FROM executions JOIN execution_items ON execution_id = id WHERE payout_id = ?
"""


async def put_off(made: Stack) -> None:
    """Have the custodian put the next call off for a while."""
    limit = {"call": "create", "fault": "rate_limit", "retry_after_s": _LATER_S, "times": 1}
    await made.steer("POST", "faults", limit)


async def was_put_off(made: Stack, payout_id: str) -> None:
    """Wait until a payout's first request has been put off: nothing was sent."""

    async def look() -> bool:
        (row,) = made.rows(_ITS_EXECUTION, payout_id)
        return row["state"] == "prepared" and "RateLimited" in (row["outcome"] or "")

    await eventually(look)


async def ready(made: Stack) -> Any:
    """Return what `/readyz` says."""
    return (await made.call("GET", "/readyz"))[1]


async def refused(made: Stack, gateway: Process, *command: str) -> None:
    """Fail unless a command is refused, and names the process that has to be stopped."""
    code, _, err = await made.command(*command)
    assert code in {1, 2}, command
    assert "stop every gateway on it first" in err
    assert f"process {gateway.pid} on" in err


async def test_nothing_takes_its_place_while_it_is_used(made: Stack) -> None:
    """Every command that would put another file there names the process. Nothing is written meanwhile.

    Back at its place it is used as before, by the same process, and the payout is made once.
    """
    gateway = await made.start_gateway("--short-looks")
    await made.reaches(await made.pay("31"), "delivered")
    await put_off(made)
    payout_id = await made.pay("32")
    await was_put_off(made, payout_id)
    backup = str(made.folder / "b.db")
    await made.run("db", "backup", backup)
    move(made, "gateway.db", "away.db")
    await refused(made, gateway, "db", "restore", backup)
    assert not database(made).exists()
    shutil.copyfile(backup, database(made))
    await refused(made, gateway, "db", "moved")
    now = datetime.now(UTC).isoformat()
    await refused(made, gateway, "db", "adopt", "--last-mark-at", now)
    await refused(made, gateway, "db", "upgrade")
    await refused(made, gateway, "db", "restore", backup, "--force")
    # Nothing of what partners ask for is written into the file that is away.
    assert (await made.call("POST", f"/payouts/{payout_id}/cancel"))[0] == 503
    assert "moved away" in (await ready(made))["reason"]
    assert (await ready(made))["status"] == "store_unavailable"

    database(made).unlink()
    move(made, "away.db", "gateway.db")
    never_said_unpaid(await made.reaches(payout_id, "delivered", seconds=60))
    assert gateway.exit_code is None
    await ledger_pays(made, ["31", "32"])


@pytest.mark.parametrize("how", ["restore", "moved"])
async def test_it_pays_nothing_from_the_file_that_is_away(made: Stack, how: str) -> None:
    """Also where the lock went away with it, so that another gateway goes on with a copy.

    The first one is suspended right before its mark. What the other one ends as not paid meanwhile,
    it never pays, although its own file has nothing against it.
    """
    first = await made.start_gateway(*("--short-looks", "--at", Failpoint.MOVING, "--how", "stop"))
    payout_id = await made.pay("32")
    await stopped(first.pid)
    backup = str(made.folder / "b.db")
    await made.run("db", "backup", backup)
    move(made, "gateway.db", "away.db")
    in_use.lock_file(database(made)).unlink()
    if how == "restore":
        await made.run("db", "restore", backup)
    else:
        shutil.copyfile(backup, database(made))
        await made.run("db", "moved")
    # Refused at the door: nothing is sent, and it is tried again.
    door = {"call": "execute", "fault": "reject", "status": 401, "times": 100}
    await made.steer("POST", "faults", door)
    await made.start_second("--short-looks")
    assert (await ready(made))["marks"] is True

    async def refused_at_the_door() -> bool:
        answers = {each["answer"] for each in evidence(made, payout_id, "call")}
        return answers == {"not_sent"}

    await eventually(refused_at_the_door)

    async def canceled() -> bool:
        status, _ = await made.call("POST", f"/payouts/{payout_id}/cancel")
        return status == 202

    await eventually(canceled)
    await made.steer("DELETE", "faults")
    payout = await made.reaches(payout_id, "failed")
    assert payout["failure"]["funds_moved"] == "no"
    os.kill(first.pid, signal.SIGCONT)

    async def tried() -> bool:
        return "moved away" in first.log.read_text() or bool(await made.ledger())

    await eventually(tried, 60)
    await made.reaches(await made.pay("33"), "delivered")
    await ledger_pays(made, ["33"])
    made.url = made.own_url
    assert (await ready(made))["status"] == "store_unavailable"
    assert (await made.payout(payout_id))["status"] == "pending"
