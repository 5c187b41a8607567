"""Work on a payout gives way to requests of other orgs, before it begins and before it is recorded."""

from __future__ import annotations

import asyncio

from gateway.calling import Calling
from gateway.execution.engine import GIVES_WAY_S
from tests.execution.conftest import Bench
from tests.execution.script import TAKEN, Desk


async def test_work_waits_for_requests_of_other_orgs(bench: Bench) -> None:
    """Neither the custodian is called nor its answer recorded meanwhile; and an org never waits for itself."""
    desk = Desk(bench)
    desk.script.submits = [TAKEN]
    calling = Calling(bench.clock)
    waited: list[tuple[str, float, list[str]]] = []

    async def quiet(org: str, most_s: float) -> None:
        waited.append((org, most_s, list(desk.script.story)))
        await calling.quiet(org, 60)

    desk.engine._quiet = quiet
    await desk.open(1)
    own = bench.caller.org
    with calling.request(own):
        other = calling.request("another")
        other.__enter__()
        turn = asyncio.create_task(desk.turn())
        while not waited:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert desk.script.story == []
        other.__exit__(None, None, None)
        await turn
    assert waited == [(own, GIVES_WAY_S, []), (own, GIVES_WAY_S, ["submit"])]


async def test_nothing_waits_between_the_mark_and_the_call(bench: Bench) -> None:
    """Whatever waits there would age the mark: the engine asks before and after, and nowhere else."""
    desk = Desk(bench)
    desk.script.submits = [TAKEN]
    asked = 0

    async def quiet(_: str, __: float) -> None:
        nonlocal asked
        asked += 1

    desk.engine._quiet = quiet
    await desk.open(1)
    await desk.turn()
    assert asked == 2
    assert len(desk.script.moved) == 1
