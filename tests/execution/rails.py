"""Real adapters with their twins below the engine, on a bench: all by the clock of the test."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import BaseModel

from gateway.adapter import Adapter, Tools
from gateway.adoption import Adopted, Adoption
from gateway.assets import AssetRegistry
from gateway.config.routes import RouteSettings
from gateway.custodians.dates import Dates, NotedClock
from gateway.custodians.instance import CustodianInstance
from gateway.execution.actions import Actions
from gateway.execution.operator import LookAsked, Resolution, resolve
from gateway.metrics import Metrics
from gateway.model import Account, FundsMoved
from gateway.planning import QuoteRequest
from gateway.quotes import Quotes
from gateway.routing.router import Instance, Router
from gateway.runtime import offload
from gateway.store.database import Database
from gateway.store.state_file import StateFile
from tests.execution.conftest import LEASE_S, Bench
from tests.execution.script import Desk
from tests.routing.pricing import TakesEverything

#: A mark that an adoption knows of although the copy does not.
_MARKS_SINCE = 10
_CALL_S = 30


class RightDates(Dates):
    """The twins' servers date by the machine's clock; the test's clock is right, or so much off."""

    off_s = 0.0

    def skew_s(self) -> float | None:
        """Return what the test says."""
        return self.off_s


class Rail(Desk):
    """A real adapter below the engine. `wanted` is what every quote asks for, but for the amount."""

    def __init__(
        self, bench: Bench, adapter: Adapter[Any], account: Account, wanted: Mapping[str, Any]
    ) -> None:
        super().__init__(bench)
        self.adapter = adapter
        self._account, self._wanted = account, wanted
        self.dates = RightDates(bench.clock)
        self.custodian = CustodianInstance(
            "acme",
            adapter.name,
            adapter,
            adapter.tools,
            Metrics(),
            _CALL_S,
            fingerprints=(lambda *parts: "/".join(parts),),
            dates=self.dates,
        )
        self.engine = self.new_engine("one")
        route = RouteSettings(
            destination=wanted["destination"]["type"], custodian="acme", account=account
        )
        router = Router([Instance("acme", frozenset({"live"}), adapter.capabilities)], [route])
        bench.quotes = Quotes(router, bench.assets, bench.runtime, {"acme": TakesEverything()})

    async def accept(self, amount: str) -> str:
        """Accept a payout."""
        bench = self.bench
        members = {"external_ref": "u", "amount": Decimal(amount), **self._wanted}
        quote, account = bench.quotes.draft(bench.caller, QuoteRequest.model_validate(members))
        await bench.db.run(bench.quotes.store, bench.caller, quote, account)
        payout = await bench.db.run(bench.payouts.accept, bench.caller, quote.quote_id)
        self.ids.append(payout.id)
        return payout.id

    @property
    def actions(self) -> Actions:
        """What people do."""
        return Actions(
            db=self.bench.db,
            runtime=self.bench.runtime,
            engines={"acme": self.engine},
            owner="api",
            lease_s=LEASE_S,
            payouts=self.bench.payouts,
            metrics=Metrics(),
            wake=lambda _: None,
        )

    async def confirm(self, payout_id: str, code: str) -> None:
        """Answer what a payout asks for."""
        payout = await self.bench.payout(payout_id)
        assert payout.requires_action is not None
        answer = {"passcode": {"token": {"code": code}}}
        await self.actions.confirm(payout, payout.requires_action.number, answer)

    async def cancel(self, payout_id: str) -> None:
        """Cancel a payout."""
        await self.actions.cancel(await self.bench.payout(payout_id))

    async def resolve(self, payout_id: str, moved: FundsMoved) -> LookAsked | None:
        """Say as an operator that a payout failed."""
        found = Resolution(delivered=False, evidence="seen", funds_moved=moved)
        bench = self.bench
        return await bench.db.run(
            resolve, self.engine.recorder, bench.runtime, payout_id, found, lag=True
        )

    async def says_unpaid(self, payout_id: str) -> bool:
        """Whether a payout is told as failed, and that no money moved."""
        failure = (await self.bench.payout(payout_id)).failure
        return failure is not None and failure.funds_moved is FundsMoved.NO

    def back_up(self, copy: Path) -> None:
        """Copy the database as it is now."""
        with (
            closing(sqlite3.connect(self.bench.db._path)) as now,
            closing(sqlite3.connect(copy)) as then,
        ):
            now.backup(then)

    @asynccontextmanager
    async def restored(self, copy: Path) -> AsyncIterator[tuple[Rail, Adopted]]:
        """Go on with a copy that was put in place and adopted."""
        bench = self.bench
        async with Database(copy) as db:
            again = Bench(db, bench.clock, bench.runtime, self.adapter.capabilities)
            rail = Rail(again, self.adapter, self._account, self._wanted)
            state_file = StateFile(copy.with_suffix(".state"), copy, bench.clock.moment().clock_id)
            state_file.rewrite(_MARKS_SINCE)
            adoption = Adoption(
                db=db,
                runtime=bench.runtime,
                payouts=again.payouts,
                custodians={"acme": rail.custodian},
                state_file=state_file,
                operator="root",
            )
            yield rail, await adoption.run(bench.clock.moment().wall)


def tools_of(bench: Bench, http: aiohttp.ClientSession) -> Tools:
    """Return what an adapter on a bench is handed."""
    return Tools(http, NotedClock(bench.clock), bench.runtime.ids, offload, AssetRegistry())


def settings_of(kind: type[BaseModel], credentials: Mapping[str, Any], **members: Any) -> Any:
    """Return an adapter's settings: what a twin gives away of its credentials, and what is named."""
    known = {name: each for name, each in credentials.items() if name in kind.model_fields}
    return kind.model_validate({**known, **members})
