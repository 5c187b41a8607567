"""Reads the balances of accounts, each of them now and then, and keeps what is known of them in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gateway.adapter import Account, Balance
from gateway.balances import Balances, find_ended, lines_of
from gateway.custodians.instance import CustodianInstance
from gateway.errors import NotSent, Unsupported
from gateway.funds import AccountRule, Funds
from gateway.logs import get_logger
from gateway.metrics import Metrics
from gateway.rules import OwnRules
from gateway.runtime import Runtime
from gateway.store import funds as rows
from gateway.store.database import Columns, Database
from gateway.wakeup import Wakeup

#: How old what a process remembers of balances may be, where it does not read them itself.
REFRESH_S = 5.0
_US = 1_000_000
_log = get_logger("balances")


class BalanceReader:
    """The loop of one process. `reads`: whether it asks custodians, or only looks into the store."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        *,
        db: Database,
        runtime: Runtime,
        funds: Funds,
        balances: Balances,
        custodians: Mapping[str, CustodianInstance],
        metrics: Metrics,
        rules: OwnRules,
        reads: bool,
    ) -> None:
        self._db = db
        self._runtime = runtime
        self._funds = funds
        self._balances = balances
        self._custodians = custodians
        self._metrics = metrics
        self._rules = rules
        self._reads = reads
        self.wakeup = Wakeup(runtime.clock, runtime.timeline)

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self.turn()
            due = min(self._dues(), default=None)
            longest = REFRESH_S if self._funds.rules else 3600.0
            await self.wakeup.sleep_until_due(due if self._reads else None, longest)

    def _dues(self) -> list[int]:
        known = {row["id"]: row for row in self._funds.known_rows()}
        return [
            known[key]["due_at"] if key in known else 0
            for key, rule in self._funds.rules.items()
            if not self._custodians[rule.custodian].pacer.paused_s()
        ]

    async def refresh(self) -> list[Columns]:
        """Look into the store; return the accounts."""
        if not self._funds.rules:
            return []
        moment = self._runtime.clock.moment()
        found = await self._db.read(rows.all_accounts)
        self._funds.learn(found, moment)
        return list(found)

    async def turn(self) -> None:
        """Read what is due, one account of each custodian at a time."""
        found = await self.refresh()
        if self._rules.active and self._balances.unsettled(found):
            await self._db.run(self._balances.settle, self._runtime.clock.moment())
            found = await self.refresh()
        for row in found:
            self._measure(row)
        if not self._reads:
            return
        now = self._runtime.timeline.now()
        dues = {row["id"]: row["due_at"] for row in found}
        due: dict[str, list[AccountRule]] = {}
        for key, rule in self._funds.rules.items():
            if dues.get(key, 0) <= now:
                due.setdefault(rule.custodian, []).append(rule)
        await asyncio.gather(*(self._read_all(each) for each in due.values()))

    async def _read_all(self, due: list[AccountRule]) -> None:
        for rule in due:
            # After a 429 nothing is asked that can wait.
            if not self._custodians[rule.custodian].pacer.paused_s():
                await self.read(rule)

    async def read(self, rule: AccountRule) -> None:
        """Read an account once, unless another process does. What it shows is written."""
        ended = await self._db.scan(find_ended, rule.key)
        started = self._runtime.clock.moment()
        every = round(rule.every * self._runtime.ids.jitter(0.1))
        due = self._runtime.timeline.now() + every
        number = await self._db.run(self._balances.begin_read, rule, ended, started, due)
        if number is None:
            return
        try:
            told = await self._ask(rule.custodian, rule.account)
        except Unsupported:
            at = self._runtime.clock.moment()
            await self._db.run(self._balances.note_unsupported, rule, number, at)
        except NotSent as error:
            _log.warning("balance_unread", custodian=rule.custodian, account=rule.account.id)
            await self._db.run(self._balances.note_fault, rule, number, str(error)[:300])
        else:
            await self._db.run(self._balances.note_read, rule, number, started, told)

    async def _ask(self, custodian: str, account: Account) -> list[Balance]:
        return list(await self._custodians[custodian].balances(account))

    def _measure(self, row: Columns) -> None:
        """Set the gauges of an account. For people: nothing is decided by a float."""
        age = self._funds.age(row, self._runtime.clock.moment())
        names = (row["custodian"], row["account_id"])
        self._metrics.balance_age(*names, None if age is None else age / _US)
        for each in lines_of(row):
            self._metrics.balance(
                *names,
                each["asset"],
                each["network"] or "",
                balance=float(each["balance"]),
                reserved=float(each["reserved"]),
                waiting=float(each["waiting"]),
            )
