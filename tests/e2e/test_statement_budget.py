"""What a payout's whole life costs in SQL statements. Counted, not timed."""

from __future__ import annotations

import asyncio
import json
import secrets
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapters.dummy.adapter import Dummy
from gateway.api.application import create_api
from gateway.app import open_gateway
from gateway.config.settings import Settings
from gateway.keys import mint_key
from gateway.testing.processes import Process
from tests.e2e.stack import eventually, free_port

PAYOUTS, CALLERS, EVENTS, ENDPOINTS = 96, 96, 3, 2
#: Statements of one payout, evidence rows and deliveries included: 21 to 24. Where each change writes its
#: own events and evidence it is 42, without the rows that the writer keeps 52, and it was 95.
MOST = 27
#: On a busy machine fewer payouts share a statement: the best round counts.
ROUNDS = 6


def _quote(number: int) -> dict[str, Any]:
    return {
        "external_ref": f"user-{number}",
        "asset": "USDC",
        "amount": "5",
        "destination": {
            "type": "custodian_account",
            "account_type": "ACCOUNT",
            "id": f"SHOP-{number}",
        },
    }


@pytest.mark.timeout(240)
async def test_a_payouts_life_costs_few_statements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the dummy custodian, with two endpoints and three events, from quote to last receipt."""
    # The custodian's webhooks are faster than the first look, except on a busy machine.
    can = replace(Dummy.capabilities, polling_s=(60,))
    monkeypatch.setattr(Dummy, "capabilities", can)
    arrived: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        arrived.append(await request.read())
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/{name}", take)
    port = free_port()
    twin = await Process.start(
        tmp_path / "twin.log",
        "adapters.dummy.twin.app",
        *("--port", "0", "--step-s", "0.5"),
        *("--webhook-url", f"http://127.0.0.1:{port}/custodians/dummy/webhooks"),
    )
    try:
        async with TestServer(app) as receiver:
            await _live(tmp_path, json.loads(twin.line), port, str(receiver.make_url("/")), arrived)
    finally:
        await twin.stop()


async def _live(
    folder: Path, twin: dict[str, Any], port: int, receiver: str, arrived: list[bytes]
) -> None:
    sandbox = Path("adapters/dummy/twin/sandbox.toml")
    shipped = tomllib.loads((Path(__file__).parents[2] / sandbox).read_text(encoding="utf-8"))
    route = {
        **shipped["routes"][0],
        "destination": "custodian_account",
        "custodian": "dummy",
    }
    settings = Settings.model_validate(
        {
            "database": folder / "g.db",
            "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "webhooks": {"allow_private_addresses": True, "in_flight_per_endpoint": 32},
            "custodians": {
                "dummy": {
                    "adapter": "dummy",
                    "base_url": twin["url"],
                    **twin["credentials"],
                }
            },
            "routes": [route],
        }
    )

    def fail(error: BaseException) -> None:
        raise AssertionError(f"a loop died: {error!r}")

    async with open_gateway(settings) as gateway:
        config = uvicorn.Config(
            create_api(gateway.context),
            host="127.0.0.1",
            port=port,
            log_config=None,
            lifespan="off",
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        try:
            async with gateway.workers.running(fail):
                while not server.started:
                    await asyncio.sleep(0.01)
                key = (await gateway.db.run(mint_key, gateway.context.runtime, "acme", "live")).key
                async with aiohttp.ClientSession(
                    f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}
                ) as http:
                    for name in range(ENDPOINTS):
                        body = {"url": f"{receiver}{name}", "rate_limit_per_second": 1000}
                        answer = await http.post(
                            "/webhook-endpoints",
                            json=body,
                            headers={"Idempotency-Key": secrets.token_hex(8)},
                        )
                        assert answer.status == 201, await answer.text()
                    await _pay(http, range(CALLERS))
                    await _settled(gateway.db, arrived, CALLERS)
                    costs: list[float] = []
                    paid = CALLERS
                    while len(costs) < ROUNDS and min(costs, default=MOST + 1.0) > MOST:
                        before, seen = gateway.db.statements, len(arrived)
                        await _pay(http, range(paid, paid + PAYOUTS))
                        paid += PAYOUTS
                        await _settled(gateway.db, arrived, paid)
                        assert len(arrived) - seen == PAYOUTS * EVENTS * ENDPOINTS
                        costs.append((gateway.db.statements - before) / PAYOUTS)
                        print(f"{costs[-1]:.1f} statements a payout")
                    assert min(costs) <= MOST
        finally:
            server.should_exit = True
            await serving


async def _pay(http: aiohttp.ClientSession, numbers: range) -> None:
    """Quote and pay, as many at once as there are callers."""
    room = asyncio.Semaphore(CALLERS)

    async def one(number: int) -> None:
        async with room:
            quoted = await http.post(
                "/payouts/quote",
                json=_quote(number),
                headers={"Idempotency-Key": secrets.token_hex(8)},
            )
            assert quoted.status == 200, await quoted.text()
            quote_id = (await quoted.json())["quote_id"]
            paid = await http.post("/payouts", json={"quote_id": quote_id})
            assert paid.status == 201, await paid.text()

    await asyncio.gather(*(one(number) for number in numbers))


async def _settled(db: Any, arrived: list[bytes], payouts: int) -> None:
    """Wait until every delivery has arrived; what is still written then belongs to the payouts, too."""
    del db

    async def all_arrived() -> bool:
        return len(arrived) >= payouts * EVENTS * ENDPOINTS

    await eventually(all_arrived, 120)
    await asyncio.sleep(0.3)
