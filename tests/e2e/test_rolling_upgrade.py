"""Two releases on one PostgreSQL database: the schema is upgraded while the older one runs.

The older release is this program, the newer one this program with one more migration and one more condition
for marks (`--next-release`).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from gateway.config.settings import load
from gateway.store import migrate
from gateway.store.postgres import schema
from gateway.store.postgres.opening import server_of
from tests import postgres
from tests.e2e.stack import DUMMY, SharedStacks, Stack, eventually, subscribe
from tests.store.test_postgres_upgrade import NEXT

pytestmark = [pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]
_EVENTS = ["payout.created", "payout.broadcast", "payout.delivered"]


async def upgrade(made: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upgrade the schema, as `db upgrade` of the newer release does."""
    url = load(made.config, {}).postgres
    assert url is not None
    server = server_of(url)
    assert await schema.may_run_beside(server)
    with monkeypatch.context() as newer:
        newer.setattr(migrate, "FOLDERS", [*migrate.FOLDERS, NEXT])
        assert (await schema.upgrade(server))[1] == "9000"


async def ready(made: Stack) -> Any:
    """Return what a gateway reports about itself."""
    status, told = await made.call("GET", "/readyz")
    assert status == 200
    return told


async def test_an_older_release_goes_on_without_marks(
    stacks: SharedStacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads, accepts, fetches and delivers on the newer schema, and a newer process pays what waits."""
    async with stacks.lend("rolling", DUMMY, database=postgres.place_of("postgresql")) as made:
        old = await made.start_gateway("--quick")
        await subscribe(made)
        before = await made.pay()
        await made.ended(before)
        # One whose reply is lost: what became of it can only be learned by fetching.
        await made.fault("transfer", "hang_after", seconds=60)
        unknown = await made.pay()
        await eventually(lambda: _has_call(made, unknown))

        await upgrade(made, monkeypatch)
        refused = await eventually(lambda: _refused(made))
        assert "too old to set marks" in refused
        # Fetching and delivering go on, and what the last mark started ends.
        await made.ended(unknown)
        await eventually(lambda: _told(made, unknown))
        # New payouts are taken in, and wait.
        waiting = [await made.pay() for _ in range(5)]
        status, payout = await made.call("GET", f"/payouts/{waiting[0]}")
        assert (status, payout["status"]) == (200, "pending")
        await asyncio.sleep(1)
        assert len(await made.ledger()) == 2
        # An older process that is started again meanwhile works, too.
        assert await old.stop() == 0
        await made.start_gateway("--quick")
        assert (await made.call("GET", f"/payouts/{before}"))[0] == 200

        await made.start_second("--quick", "--next-release", str(NEXT))
        for each in waiting:
            await made.ended(each)
        assert len(await made.ledger()) == 7
        for each in waiting:
            await eventually(partial(_told, made, each))


async def _has_call(made: Stack, payout_id: str) -> bool:
    rows = made.rows(
        "SELECT 1 FROM evidence JOIN execution_items USING (execution_id) "
        "WHERE payout_id = ? AND kind = 'call'",
        payout_id,
    )
    return bool(rows)


async def _refused(made: Stack) -> str:
    marks = (await ready(made))["marks"]
    return "" if marks is True else str(marks)


async def _told(made: Stack, payout_id: str) -> bool:
    return made.receiver.types(payout_id) == _EVENTS
