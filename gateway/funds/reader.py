"""Reads the balance of each account periodically, and keeps what is known in memory."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping

from gateway.adapter import Account, Balance
from gateway.custodians.instance import CustodianInstance
from gateway.errors import NotSent, Unsupported
from gateway.funds.balances import Balances, find_ended, lines_of
from gateway.funds.reservations import AccountRule, Funds
from gateway.logs import get_logger
from gateway.metrics import Metrics
from gateway.rules import OwnRules
from gateway.runtime import Runtime
from gateway.store import funds as rows
from gateway.store.database import Columns, Database

#: How often a process checks whether another one has read balances.
REFRESH_S = 5.0
#: The most refreshes that are skipped in a row while no other process has written to the store.
_MOST_LEFT_OUT = 11
_NOTHING_TO_DO_S, _SHORTEST_S = 3600.0, 0.5
_US = 1_000_000
_log = get_logger("balances")


class BalanceReader:
    """The loop of one process. `reads` tells whether it asks custodians or only refreshes from the store."""

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
        #: the count of foreign commits, and whether the rules were active, at the last refresh
        self._refreshed_at: tuple[int, bool] | None = None
        self._left_out = 0
        self._of: dict[str, list[AccountRule]] = {}
        for rule in funds.rules.values():
            self._of.setdefault(rule.custodian, []).append(rule)

    async def run(self) -> None:
        """Read until cancelled. A custodian that does not answer delays no other one."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._look())
                for name in self._of if self._reads else ():
                    tasks.create_task(self._read_all(name))
        except* sqlite3.OperationalError as group:
            # The first error is the cause; the runner of this loop waits for the store, then restarts
            # it.
            raise group.exceptions[0] from None

    async def _look(self) -> None:
        while True:
            await self.look()
            await self._runtime.clock.sleep(REFRESH_S if self._of else _NOTHING_TO_DO_S)

    async def _read_all(self, name: str) -> None:
        """Read the accounts of one custodian, one at a time, each when it is due."""
        while True:
            for rule in self._of[name]:
                # After a 429, balance reads wait.
                if self.due_in(rule) <= 0 and not self._custodians[name].pacer.paused_s():
                    await self.read(rule)
            wait_s = min(self.due_in(each) for each in self._of[name]) / _US
            await self._runtime.clock.sleep(min(max(wait_s, _SHORTEST_S), REFRESH_S))

    def due_in(self, rule: AccountRule) -> int:
        """Return when an account is due to be read, as far as this process knows, in microseconds from now."""
        known = self._funds.known_row(rule.key)
        return 0 if known is None else int(known["due_at"] - self._runtime.timeline.now())

    async def look(self) -> None:
        """Refresh where another process may have changed what is remembered, and set the gauges.

        What this process changes itself it remembers already.
        """
        at = self._db.foreign_commits, self._rules.active
        if at == self._refreshed_at and self._left_out < _MOST_LEFT_OUT:
            self._left_out += 1
            for key in self._funds.rules:
                row = self._funds.known_row(key)
                if row is not None:
                    self._measure(row)
            return
        await self.refresh()
        self._refreshed_at, self._left_out = at, 0

    async def refresh(self) -> None:
        """Refresh from the store what other processes have read, and start or stop reserving."""
        if not self._of:
            return
        moment = self._runtime.clock.moment()
        found = await self._db.read(rows.all_accounts)
        if self._rules.active and self._balances.unsettled(found):
            await self._db.run(self._balances.settle, moment, self._rules.digest)
            moment = self._runtime.clock.moment()
            found = await self._db.read(rows.all_accounts)
        self._funds.learn(found, moment)
        for row in found:
            self._measure(row)

    async def read(self, rule: AccountRule) -> None:
        """Read an account once, unless another process does, and write the result."""
        known = self._funds.known_row(rule.key)
        # An account that does not reserve has no reservations that could have ended. If another process
        # has just started to reserve, the next read notes what has ended.
        reserves = known is None or known["reserving"]
        ended = await self._db.scan(find_ended, rule.key) if reserves else []
        started = self._runtime.clock.moment()
        every = round(rule.every * self._runtime.ids.jitter(0.1))
        due = self._runtime.timeline.now() + every
        number = await self._db.run(self._balances.begin_read, rule, ended, started, due)
        if number is None:
            # Another process has read it or reads it now; the store says when it is due next.
            await self.refresh()
            return
        try:
            told = await self._ask(rule.custodian, rule.account)
        except Unsupported:
            at = self._runtime.clock.moment()
            await self._db.run(self._balances.note_unsupported, rule, number, at)
        except NotSent as error:
            _log.warning("balance_unread", custodian=rule.custodian, account=rule.account.id)
            await self._db.run(self._balances.note_fault, rule, number, str(error)[:300])
            await self.refresh()
        else:
            await self._db.run(self._balances.note_read, rule, number, started, told)

    async def _ask(self, custodian: str, account: Account) -> list[Balance]:
        return list(await self._custodians[custodian].balances(account))

    def _measure(self, row: Columns) -> None:
        """Set the gauges of an account. Only people use these floats; no decision depends on them."""
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
