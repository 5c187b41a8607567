"""What the Dfns adapter's tests run it against: its twin, by the twin's own clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import aiohttp

from adapters.dfns.adapter import Dfns
from adapters.dfns.settings import DfnsSettings
from adapters.dfns.twin.world import EUR_BANK_ACCOUNT, EVM_WALLET, SOLANA_WALLET
from gateway.adapter import (
    Account,
    AddressDestination,
    BankAccountDestination,
    Report,
    SubStatus,
    Tools,
)
from gateway.assets import AssetRegistry
from gateway.runtime import Ids, Moment, SystemClock, offload
from tests.adapters.dfns.organisation import (
    PAYEE,
    SOLANA_PAYEE,
    Organisation,
    open_organisation,
)
from tests.adapters.orders import OrderForTest

WALLETS = {"EthereumSepolia": EVM_WALLET, "SolanaDevnet": SOLANA_WALLET}


class TwinTime:
    """The twin's time as the gateway's clock. It sleeps not at all."""

    def __init__(self, org: Organisation) -> None:
        self._org = org
        #: How far the wall clock was set wrong.
        self.off = timedelta()

    def now(self) -> datetime:
        """Return the time that both sides share, unless the clock was set wrong."""
        return datetime.fromtimestamp(self._org.twin.clock.shared(), UTC) + self.off

    def moment(self) -> Moment:
        """Return the twin's time by all clocks."""
        wall = round(self.now().timestamp() * 1e6)
        return Moment("twin", round(self.monotonic() * 1e6), wall)

    def monotonic(self) -> float:
        """Return the shared time in seconds."""
        return self._org.twin.clock.shared()

    async def sleep(self, _: float) -> None:
        """Sleep not at all: resends are told apart by their tokens, not by their time."""


@asynccontextmanager
async def adapter_for(org: Organisation, clock: Any, **settings: Any) -> AsyncIterator[Dfns]:
    """Return an adapter of a twin's organisation."""
    members = {**org.twin.credentials(org.root), "base_url": org.root, "wallets": WALLETS}
    async with aiohttp.ClientSession() as http:
        tools = Tools(http, clock, Ids(SystemClock()), offload, AssetRegistry())
        yield Dfns(DfnsSettings.model_validate({**members, "timeout_s": 5, **settings}), tools)


def set_wrong(adapter: Dfns, seconds: float) -> None:
    """Set the wall clock of an adapter forward or back; no time passes."""
    assert isinstance(adapter.tools.clock, TwinTime)
    adapter.tools.clock.off += timedelta(seconds=seconds)


@asynccontextmanager
async def pair(
    settings: dict[str, Any] | None = None, **switches: Any
) -> AsyncIterator[tuple[Dfns, Organisation]]:
    """Run a twin and an adapter that talks to it."""
    async with (
        open_organisation(**switches) as org,
        adapter_for(org, TwinTime(org), **settings or {}) as adapter,
    ):
        yield adapter, org


def transfer_order(amount: str = "43", **change: Any) -> OrderForTest:
    """Return an order to an address on EthereumSepolia."""
    members: dict[str, Any] = {
        "amount": Decimal(amount),
        "network": "EthereumSepolia",
        "source": Account(id=EVM_WALLET, type="WALLET"),
        "destination": AddressDestination(network="EthereumSepolia", address=PAYEE),
    }
    return OrderForTest(**{**members, **change})


def solana_order(amount: str = "43", **change: Any) -> OrderForTest:
    """Return an order to an address on SolanaDevnet."""
    members: dict[str, Any] = {
        "network": "SolanaDevnet",
        "source": Account(id=SOLANA_WALLET, type="WALLET"),
        "destination": AddressDestination(network="SolanaDevnet", address=SOLANA_PAYEE),
    }
    return transfer_order(amount, **{**members, **change})


def bank_order(amount: str = "43", **change: Any) -> OrderForTest:
    """Return an order to a bank account."""
    payee = BankAccountDestination(
        payment_instructions_id=EUR_BANK_ACCOUNT,
        country="DE",
        fiat_currency="EUR",
        purpose="salary payment",
    )
    return transfer_order(amount, **{"destination": payee, **change})


async def confirmed(adapter: Dfns, org: Organisation, order: OrderForTest) -> OrderForTest:
    """Submit an off-ramp until it is confirmed; return the order as the next call sees it."""
    first = await adapter.submit(order)
    assert first.sub_status is SubStatus.SUBMITTING, first
    assert first.again_after_s, first
    await org.steps(1)
    order = order.again()
    report = await adapter.submit(order)
    assert report.sub_status in {SubStatus.SUBMITTED, SubStatus.AWAITING_APPROVAL}, report
    return order.again()


async def look(adapter: Dfns, order: OrderForTest) -> Report:
    """Fetch a report."""
    report = await adapter.fetch(order)
    assert isinstance(report, Report), report
    return report
