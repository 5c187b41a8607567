"""Money comes back after the delivery, no webhook says so, and the gateway's own loops find it."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from decimal import Decimal
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from adapters.dummy.adapter import Dummy
from gateway.adapter import Order, Report, Returned, SubStatus
from gateway.app import Gateway, open_gateway
from gateway.caller import Caller
from gateway.config.settings import Settings
from gateway.custodians import registry
from gateway.model import Payout
from gateway.planning import QuoteRequest
from gateway.store import events
from gateway.store import payouts as rows
from gateway.testing.processes import Process
from tests.e2e.stack import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]


class Bank(Dummy):
    """Dummy, as a bank has it: what was delivered may come back."""

    capabilities = replace(
        Dummy.capabilities, polling_s=(0.1, 0.3), looked_after_delivery_s=86_400.0
    )
    #: whether the money is back
    back = False

    def _report(self, order: Order, told: Any) -> Report:
        report = super()._report(order, told)
        if not self.back or report.sub_status is not SubStatus.DELIVERED:
            return report
        made = Returned("r-1", order.amount, order.asset, self.tools.clock.now(), "AC04")
        return replace(report, returned=(made,))


async def test_what_came_back_is_found_and_paid_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delivered, looked at again, returned: one transfer in the custodian's ledger, then and later."""
    entry = EntryPoint("dummy", f"{__name__}:Bank", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    twin = await Process.start(
        tmp_path / "twin.log", "adapters.dummy.twin.app", "--port", "0", "--step-s", "0.1"
    )
    try:
        told = json.loads(twin.line)
        async with open_gateway(_settings(tmp_path, told)) as gateway:
            await _live(gateway, told["control_url"], monkeypatch)
    finally:
        await twin.stop()


async def _live(gateway: Gateway, control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: BaseException) -> None:
        raise AssertionError(f"a loop died: {error!r}")

    async with gateway.workers.running(fail):
        payout_id = await _pay(gateway)

        async def payout() -> Payout:
            found = await gateway.db.read(rows.find_payout, payout_id)
            assert found is not None
            return found

        async def is_delivered() -> bool:
            return (await payout()).status == "delivered"

        async def is_back() -> bool:
            return (await payout()).returned_amount is not None

        await eventually(is_delivered)
        assert not await is_back()
        monkeypatch.setattr(Bank, "back", True)
        await eventually(is_back)
        found = await payout()
        assert found.status == "delivered"
        assert found.returned_amount == Decimal(5)
        told = await gateway.db.read(events.events_of, payout_id)
        assert [each["type"] for each in told][-2:] == ["payout.delivered", "payout.returned"]
        async with aiohttp.ClientSession() as http:
            answer = await http.get(f"{control}/_twin/ledger")
            assert len((await answer.json())["transfers"]) == 1


async def _pay(gateway: Gateway) -> str:
    caller = Caller("acme", "live", "key_1")
    request = QuoteRequest.model_validate(
        {
            "external_ref": "u",
            "destination": {"type": "custodian_account", "account_type": "ACCOUNT", "id": "SHOP"},
            "asset": "USDC",
            "amount": Decimal(5),
        }
    )
    context = gateway.context
    quote, account = context.quotes.draft(caller, request)
    await gateway.db.run(context.quotes.store, caller, quote, account)
    made = await gateway.db.run(context.payouts.accept, caller, quote.quote_id)
    gateway.workers.wake("dummy")
    return made.id


def _settings(folder: Path, twin: dict[str, Any]) -> Settings:
    shipped = Path(__file__).parents[2] / "adapters/dummy/twin/sandbox.toml"
    route = tomllib.loads(shipped.read_text(encoding="utf-8"))["routes"][0]
    return Settings.model_validate(
        {
            "database": folder / "g.db",
            "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "custodians": {
                "dummy": {"adapter": "dummy", "base_url": twin["url"], **twin["credentials"]}
            },
            "routes": [{**route, "destination": "custodian_account", "custodian": "dummy"}],
        }
    )
