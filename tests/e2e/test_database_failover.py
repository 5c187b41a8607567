"""Failover between two real servers: a synchronous standby is gone on with, an asynchronous one is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.stack import DUMMY, eventually, stack, subscribe
from tests.failover import all_know, run
from tests.pg_pair import pair

pytestmark = pytest.mark.timeout(300)


async def test_a_synchronous_standby_is_gone_on_with(tmp_path: Path) -> None:
    """Twice, under load: nothing is lost, nothing is paid twice, and nobody is asked."""
    counts = await run(2, 1, tmp_path)
    assert counts["failovers"] == 2
    transfers = counts["I2 transfers in the ledger, one for each delivered payout"]
    assert transfers == counts["I1 payouts acknowledged, there, and ended"] == 13


async def test_an_asynchronous_standby_freezes_the_database(tmp_path: Path) -> None:
    """Marks may be missing: an operator adopts it, or names the risk."""
    with pair(synchronous=False) as servers:
        async with stack(tmp_path, rail=DUMMY, database=lambda: servers.url) as made:
            await made.start_gateway("--quick", "--beat", "0.5")
            await subscribe(made)
            await made.ended(await made.pay())
            await asyncio.to_thread(servers.fail_over)

            async def reason() -> str:
                (row,) = made.rows("SELECT frozen FROM store_state")
                return str(row["frozen"] or "")

            assert "a standby was promoted" in await eventually(reason)
            assert (await made.call("POST", "/payouts", {"quote_id": "quo_x"}))[0] == 503
            code, _, told = await made.command("db", "promoted")
            assert (code, "stop every gateway" in told) == (1, True), told
            await made.stop_gateways()
            code, _, told = await made.command("db", "promoted")
            assert code == 1
            assert "did not wait for this server" in told
            assert "--accept-async" in told
            await made.run("db", "promoted", "--accept-async")
            await made.start_gateway("--quick")
            await made.ended(await made.pay())
            assert len(await made.ledger()) == 2
            acts = [
                row["detail"]
                for row in made.rows("SELECT * FROM audit_log WHERE act = 'standby_promoted'")
            ]
            assert len(acts) == 1
            assert "takes the risk" in acts[0]


async def test_without_a_gateway_from_before_an_operator_is_asked(tmp_path: Path) -> None:
    """Nobody can say that the standby was not detached before the crash; the operator knows."""
    with pair() as servers:
        async with stack(tmp_path, rail=DUMMY, database=lambda: servers.url) as made:
            await made.start_gateway("--quick", "--beat", "0.5")
            await subscribe(made)
            await made.ended(await made.pay())
            await all_know(made, servers)
            await made.kill()
            await asyncio.to_thread(servers.fail_over)
            await made.start_gateway("--quick", "--beat", "0.5")
            _, told = await made.call("GET", "/readyz")
            assert "payout-gateway db promoted" in str(told["marks"])
            await asyncio.sleep(4)
            assert (await made.call("GET", "/readyz"))[1]["marks"] is not True
            await made.stop_gateways()
            await made.run("db", "promoted")
            await made.start_gateway("--quick")
            await made.ended(await made.pay())
            assert len(await made.ledger()) == 2
