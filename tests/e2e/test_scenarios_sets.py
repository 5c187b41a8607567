"""Sets: an item is ended by an operator while its set has not moved, or may have; a gateway is stopped."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.holding_proxy import holding_proxy
from tests.e2e.stack import FIREBLOCKS, SharedStacks, Stack, eventually, stack, subscribe
from tests.e2e.test_batches import create, ends, execute, item
from tests.e2e.witness import evidence, ledger_pays, more_looks, never_said_unpaid

pytestmark = [pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]
AMOUNTS = ["21", "22", "23"]
_ITS_PAYOUTS = "SELECT id FROM payouts WHERE batch_id = ? ORDER BY batch_position"
_ITS_EXECUTION = """
SELECT executions.* FROM executions JOIN execution_items ON execution_id = id
WHERE payout_id = ? ORDER BY number
"""


@pytest_asyncio.fixture(loop_scope="module")
async def made(stacks: SharedStacks) -> AsyncIterator[Stack]:
    """A stack at Fireblocks."""
    async with stacks.lend("fireblocks", FIREBLOCKS) as built:
        yield built


async def _begun(made: Stack) -> tuple[dict[str, Any], list[str]]:
    """Execute a batch of three; return it and the ids of its payouts, in order.

    The ids are read from the database: a gateway that stops at a failpoint may be gone by now.
    """
    batch = await create(made, [item(each) for each in AMOUNTS])
    await execute(made, batch)
    return batch, [row["id"] for row in made.rows(_ITS_PAYOUTS, batch["id"])]


async def _resolve_unpaid(made: Stack, payout_id: str, *more: str) -> tuple[int, str]:
    """Say by the command line that a payout failed and that no money moved."""
    code, _, err = await made.command(
        *("payouts", "resolve", payout_id, "--yes", "--as", "failed", "--funds-moved", "no"),
        *("--evidence", "the payee is a stranger; nothing is in the console", *more),
    )
    return code, err


async def _executions(made: Stack, payout_id: str) -> list[dict[str, Any]]:
    return made.rows(_ITS_EXECUTION, payout_id)


async def _ended_unpaid(made: Stack, payout_id: str) -> None:
    payout = await made.payout(payout_id)
    assert payout["status"] == "failed"
    assert payout["failure"]["code"] == "operator_decision"
    assert payout["failure"]["funds_moved"] == "no"


async def test_an_item_is_ended_while_its_set_waits(made: Stack) -> None:
    """The custodian answers "too many requests" to create: nothing was sent, the set waits.

    An operator ends one item as not paid. That content is never sent again: the two others go on as a
    set of their own, are paid once, and the third one never is.
    """
    await made.start_gateway()
    await subscribe(made)
    limit = {"call": "create", "fault": "rate_limit", "retry_after_s": 15, "times": 1}
    await made.steer("POST", "faults", limit)
    batch, ids = await _begun(made)

    async def waits() -> bool:
        return any(
            row["state"] == "prepared" and row["outcome"] and not row["lease_until"]
            for row in await _executions(made, ids[0])
        )

    await eventually(waits)

    async def resolved() -> bool:
        code, err = await _resolve_unpaid(made, ids[1])
        assert code == 0 or "a worker" in err, err
        return code == 0

    await eventually(resolved)
    done = await ends(made, batch, 60)
    assert (done["state"], done["delivered_count"], done["failed_count"]) == ("finalized", 2, 1)
    await _ended_unpaid(made, ids[1])
    for each in (ids[0], ids[2]):
        never_said_unpaid(await made.reaches(each, "delivered"))
    first, second = await _executions(made, ids[0])
    assert (first["size"], second["size"]) == (3, 2)
    assert first["key_seed"] != second["key_seed"]
    assert [each["id"] for each in await _executions(made, ids[1])] == [first["id"]]
    await ledger_pays(made, ["21", "23"])

    async def told() -> bool:
        return made.receiver.types(ids[1]) == ["payout.created", "payout.failed"]

    await eventually(told)


async def test_no_item_is_ended_while_its_set_may_have_moved(made: Stack) -> None:
    """The reply to execute is lost, and the set was executed. "Not paid" is refused for an item of it.

    The gateway looks, and all three are delivered. Then they are final, for operators as well.
    """
    dying = await made.start_gateway("--at", "submit.returned")
    batch, ids = await _begun(made)
    assert await dying.died() == -signal.SIGKILL
    for _ in range(2):
        code, err = await _resolve_unpaid(made, ids[1])
        assert code == 1
        assert "a worker" in err or "may still arrive" in err
    await made.start_gateway("--short-looks")
    done = await ends(made, batch, 60)
    assert (done["state"], done["delivered_count"]) == ("finalized", 3)
    code, err = await _resolve_unpaid(made, ids[1])
    assert code == 1
    assert "final" in err
    await ledger_pays(made, AMOUNTS)


async def test_an_item_is_ended_after_the_life_of_its_call(made: Stack) -> None:
    """A gateway died between its mark and its call. An operator may say "not paid" only in the end.

    It is refused while the call may still arrive. Then the operator is asked to look at the
    custodian's records, and says so. The others are not sent again: the gateway cannot tell the set
    from one that waits for its account. They are on the operator's list, who decides in the same way.
    """
    dying = await made.start_gateway("--quick", "--call-life", "10", "--at", "order.moved")
    batch, ids = await _begun(made)
    assert await dying.died() == -signal.SIGKILL
    code, err = await _resolve_unpaid(made, ids[1])
    assert code == 1
    assert "a worker" in err or "may still arrive" in err
    code, err = await _resolve_unpaid(made, ids[1], "--looked", "1")
    assert code == 1, "a look that nobody was asked for was accepted"

    async def look_and_end(payout_id: str) -> None:
        async def asked_to_look() -> str | None:
            code, err = await _resolve_unpaid(made, payout_id)
            assert code == 1
            found = re.search(r"--looked (\d+)", err)
            return found[1] if found else None

        number = await eventually(asked_to_look, 60)
        assert number is not None

        async def ended() -> bool:
            code, err = await _resolve_unpaid(made, payout_id, "--looked", number)
            assert code == 0 or "a worker" in err, err
            return code == 0

        # The gateway may be looking at it just now.
        await eventually(ended, 60)

    async def on_the_list() -> bool:
        codes = made.rows("SELECT code FROM attention WHERE payout_id = ?", ids[0])
        return {"code": "item_ended"} in codes

    await look_and_end(ids[1])
    await made.start_gateway("--quick", "--call-life", "10")
    await _ended_unpaid(made, ids[1])
    await eventually(on_the_list)
    looks = [each["answer"] for each in await more_looks(made, ids[2])]
    assert set(looks) == {"blind"}
    assert await made.calls("execute") == []
    (only,) = await _executions(made, ids[2])
    assert only["size"] == 3
    for each in (ids[0], ids[2]):
        await look_and_end(each)
    done = await ends(made, batch, 60)
    assert (done["delivered_count"], done["failed_count"]) == (0, 3)
    await ledger_pays(made, [])


async def test_a_gateway_that_is_told_to_stop_ends_its_call_first(tmp_path: Path) -> None:
    """SIGTERM while the reply to a set's execute is on its way: the call is not cut off.

    The gateway waits for the reply, writes what it said, and ends. The next one only follows the set.
    """
    async with (
        holding_proxy("/actions/execute") as proxy,
        stack(tmp_path, through=proxy.in_front_of) as made,
    ):
        first = await made.start_gateway()
        batch, ids = await _begun(made)
        await proxy.held.wait()
        os.kill(first.pid, signal.SIGTERM)

        async def closed() -> bool:
            try:
                async with made.http.get(made.url + "/healthz"):
                    return False
            except OSError:
                return True

        await eventually(closed)
        assert first.exit_code is None
        proxy.let_go.set()
        assert await first.died() == 0
        assert proxy.waited_for
        (row,) = await _executions(made, ids[0])
        assert (row["state"], row["lease_until"]) == ("accepted", 0)
        assert [each["answer"] for each in evidence(made, ids[0], "call")] == ["accepted"]
        await made.start_gateway("--short-looks")
        done = await ends(made, batch, 60)
        assert (done["state"], done["delivered_count"]) == ("finalized", 3)
        assert await made.calls("execute") == ["execute"]
        await ledger_pays(made, AMOUNTS)
