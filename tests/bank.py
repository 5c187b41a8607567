"""A bench whose payouts reserve from an account, and an account whose balance is read."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from sqlalchemy import select

from gateway.adapter import Balance, Failure, FailureCode, Report, SubStatus
from gateway.config.routes import RouteSettings
from gateway.errors import Refused
from gateway.funds.balances import Balances, find_ended
from gateway.funds.reservations import AccountRule, Funds
from gateway.funds.rules import Sums
from gateway.model import Account, FundsMoved
from gateway.payouts import Payouts
from gateway.planning import QuoteRequest
from gateway.quotes import Quotes
from gateway.routing.router import Instance, Router
from gateway.runtime import Moment, Runtime
from gateway.store import funds as rows
from gateway.store.database import Database, Row, Tx
from gateway.store.schema_funds import reservations
from gateway.store.statements import Query
from gateway.vault import Vault
from tests.execution.conftest import Bench
from tests.routing.pricing import TakesEverything

ACCOUNT = Account(id="A", type="VAULT")
OTHER = Account(id="B", type="VAULT")
VISIBILITY_S, MAX_AGE_S = 30, 300
_US = 1_000_000
_RESERVATIONS = Query(select(reservations).order_by(reservations.c.owner_id))
RULE = AccountRule(
    custodian="acme",
    account=ACCOUNT,
    reserves=True,
    every=10 * _US,
    max_age=MAX_AGE_S * _US,
    waits_when_old=False,
    visibility=VISIBILITY_S * _US,
)


async def all_reservations(tx: Tx) -> list[Row]:
    """Store function: return every reservation."""
    return await tx.all(_RESERVATIONS)


class Process:
    """The balances of one process: its memory is its own, and so may its clock be."""

    def __init__(
        self, db: Database, runtime: Runtime, rules: list[AccountRule], route: Any
    ) -> None:
        self.db = db
        self.runtime = runtime
        self.funds = Funds(runtime, {each.key: each for each in rules}, [route])
        self.balances = Balances(runtime, self.funds, frozenset({"acme"}))
        self.payouts = Payouts(runtime, Vault(bytes(32), runtime.ids), funds=self.funds)

    async def refresh(self) -> None:
        """Look into the store."""
        moment = self.runtime.clock.moment()
        self.funds.learn(await self.db.read(rows.all_accounts), moment)

    async def begin_read(self, rule: AccountRule = RULE) -> tuple[int, Moment]:
        """Begin a read, as the loop does; another process does not."""
        ended = await self.db.scan(find_ended, rule.key)
        started = self.runtime.clock.moment()
        number = await self.db.run(self.balances.begin_read, rule, ended, started, 0)
        assert number is not None
        return number, started

    async def end_read(
        self,
        begun: tuple[int, Moment],
        *told: tuple[str, str | None, str],
        rule: AccountRule = RULE,
    ) -> bool:
        """Write what a read has shown: asset, network, amount."""
        at = self.runtime.clock.now()
        balances = [
            Balance(asset, Decimal(each), None, at, network) for asset, network, each in told
        ]
        return await self.db.run(self.balances.note_read, rule, *begun, balances)

    async def read(self, amount: str = "100", rule: AccountRule = RULE) -> bool:
        """Read a balance in USDC at once."""
        return await self.end_read(await self.begin_read(rule), ("USDC", None, amount), rule=rule)


class Bank(Bench):
    """A bench whose payouts reserve."""

    process: Process
    #: the same database as another process has it open
    other: Any

    def configure(
        self,
        *more: AccountRule,
        rule: AccountRule = RULE,
        on_shortage: str = "refuse",
        **changed: Any,
    ) -> None:
        """Set the rules of the account, and what becomes of a shortage."""
        self.route = route = RouteSettings.model_validate(
            {
                "destination": "custodian_account",
                "custodian": "acme",
                "account": ACCOUNT.model_dump(),
                "on_shortage": on_shortage,
                **changed,
            }
        )
        self.process = Process(self.db, self.runtime, [rule, *more], route)
        self.payouts = self.process.payouts
        self.funds = self.process.funds
        router = Router([Instance("acme", frozenset({"live", "test"}), self.capabilities)], [route])
        pricers = {"acme": TakesEverything()}
        self.quotes = Quotes(router, self.assets, self.runtime, pricers, None, None, self.funds)
        self.recorder = type(self.recorder)(
            self.runtime, self.payouts, "acme", self.capabilities, submit_within_s=6 * 3600
        )

    @staticmethod
    def request(amount: str) -> QuoteRequest:
        """Return the request of a quote."""
        return QuoteRequest.model_validate(
            {
                "external_ref": "u",
                "destination": {"type": "custodian_account", "account_type": "X", "id": "p"},
                "asset": "USDC",
                "amount": Decimal(amount),
            }
        )

    async def settle(self) -> None:
        """Begin and end reserving, as the configuration says."""
        await self.db.run(self.process.balances.settle, self.runtime.clock.moment())

    async def pay(self, amount: str = "5") -> str | None:
        """Accept a payout; None: the account does not cover it."""
        quote_id = await self.quote(amount)
        try:
            return (await self.db.run(self.payouts.accept, self.caller, quote_id)).id
        except Refused as error:
            if error.code != "insufficient_funds":
                raise
            self.lacks = error.members["needed"]
            return None

    async def end(self, payout_id: str, moved: FundsMoved | None) -> None:
        """End a payout: as failed, or, without a word of funds, as delivered."""
        if moved is None:
            await self.db.run(self.payouts.apply, payout_id, Report(SubStatus.DELIVERED, "DONE"))
            return
        await self.db.run(self.payouts.apply, payout_id, failed_report(moved))

    async def account(self, account: Account = ACCOUNT) -> Row:
        """Return an account's row."""
        key = rows.account_key("acme", account)
        return next(each for each in await self.db.read(rows.all_accounts) if each["id"] == key)

    async def reserved(self, account: Account = ACCOUNT) -> tuple[Any, Any]:
        """Return what is reserved of an account, and what waits; they are what their rows add up to."""
        row = await self.account(account)
        held = {"held": Sums(), "waiting": Sums()}
        for each in await self.db.read(all_reservations):
            if each["account_key"] == row["id"]:
                total = Decimal(each["amount"]) + Decimal(each["fee"]) - Decimal(each["released"])
                sums = held[each["state"]]
                held[each["state"]] = sums.plus(each["asset"], each["network"], total)
        assert held["held"].text == row["reserved"]
        assert held["waiting"].text == row["waiting"]
        return (
            sum(held["held"].amounts.values(), Decimal(0)),
            sum(held["waiting"].amounts.values(), Decimal(0)),
        )


def failed_report(moved: FundsMoved) -> Report:
    """Return the news that a payout has failed."""
    failure = Failure(code=FailureCode.POLICY_REJECTED, message="no", funds_moved=moved)
    return Report(SubStatus.FAILED, "NO", failure=failure)


def waiting_rule() -> AccountRule:
    """Return the rule of an account whose payouts wait where its balance is not known."""
    return replace(RULE, waits_when_old=True)
