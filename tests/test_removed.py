"""A custodian that is taken out of the configuration while it has something open."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from gateway.config.settings import load
from gateway.errors import ConfigError
from gateway.execution.reports import canceled_report
from gateway.model import Attention
from gateway.removed import find_removed, refuse_removed
from gateway.runtime import real_runtime
from gateway.store.opening import open_database
from gateway.store.payouts import attention_list, attention_of
from tests.cli.test_commands import run
from tests.execution.conftest import Bench, bench, capabilities, empty_database
from tests.execution.script import DONE, TAKEN, Desk
from tests.execution.test_operator import end
from tests.store.rows import add_payout

__all__ = ["bench", "capabilities", "empty_database"]


async def test_start_is_refused_and_names_what_is_open(bench: Bench) -> None:
    """Payouts and batches, by custodian; what has ended is not in the way."""
    ids = [await bench.accept() for _ in range(7)]
    with pytest.raises(ConfigError) as refused:
        await refuse_removed(bench.db, bench.runtime, ["other"], allowed=False)
    (fault,) = refused.value.faults
    assert "custodians.acme is not configured any more and has 7 open payouts" in fault
    assert all(each in fault for each in sorted(ids)[:5])
    assert "--allow-removed" in fault
    assert await refuse_removed(bench.db, bench.runtime, ["acme"], allowed=False) == []


async def test_a_batch_is_named_too(bench: Bench) -> None:
    """With its payouts."""
    desk = Desk(bench)
    await desk.open(3)
    (found,) = await bench.db.read(find_removed, ())
    assert (found.payouts, found.batches) == (3, 1)
    assert "3 open payouts and 1 open batch" in found.fault


async def test_what_is_parked_is_on_the_list_and_goes_on_later(bench: Bench) -> None:
    """Nothing else is changed: configured again, it is paid."""
    desk = Desk(bench)
    await desk.open(1)
    (found,) = await refuse_removed(bench.db, bench.runtime, ["other"], allowed=True)
    assert (found.name, found.payouts) == ("acme", 1)
    rows = await bench.db.read(attention_list, 10)
    assert [(row["payout_id"], row["code"]) for row in rows] == [
        (desk.ids[0], Attention.CUSTODIAN_REMOVED)
    ]
    desk.script.submits, desk.script.looks = [TAKEN], [DONE]
    await desk.turns(2, 60)
    assert await desk.stand() == ["delivered"]
    assert await refuse_removed(bench.db, bench.runtime, ["other"], allowed=False) == []


@pytest.mark.both_stores
@pytest.mark.parametrize("way", ["failed", "delivered", "canceled"])
async def test_the_end_of_a_parked_payout_takes_it_off_the_list(bench: Bench, way: str) -> None:
    """In the transaction that ends it, although its custodian is not configured; only its own row."""
    payout_id, other = await bench.accept(), await bench.accept()
    await refuse_removed(bench.db, bench.runtime, ["other"], allowed=True)
    await bench.clock.advance(5)
    if way == "canceled":
        await bench.db.run(bench.payouts.apply, payout_id, canceled_report())
    else:
        delivered = way == "delivered"
        await end(bench, payout_id, delivered=delivered, transfer="t-1" if delivered else None)
    assert [row["payout_id"] for row in await bench.db.read(attention_list, 10)] == [other]
    (row,) = await bench.db.read(attention_of, payout_id)
    assert (row["code"], row["closed_by"]) == ("custodian_removed", "gateway")


def test_serve_ends_with_2(tmp_path: Path) -> None:
    """Before it takes a request, naming what is open."""
    config = tmp_path / "g.toml"
    key = base64.b64encode(bytes(32)).decode()
    config.write_text(f'server_key = "{key}"\ndatabase = "g.db"\n[listen]\nport = 0\n')
    run("db", "upgrade", "--config", config)

    async def pay() -> str:
        async with open_database(load(config), real_runtime()) as db:
            return await db.run(add_payout)

    payout_id = asyncio.run(pay())
    said = run("serve", "--config", config, code=2)
    assert f"custodians.acme is not configured any more and has 1 open payout ({payout_id})" in said
