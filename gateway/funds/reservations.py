"""Balances of accounts, and what accepted payouts reserve of them.

A reservation is written with the payout, under a lock of the account's row. If the payout is certainly
unpaid, the reservation is released at once; if it was paid, a balance that was read afterwards releases
it (`gateway.funds.balances`); if the outcome is unknown, it stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any

from gateway.assets import EXACT
from gateway.config.routes import RouteSettings
from gateway.config.settings import Settings
from gateway.errors import Refused
from gateway.funds.rules import (
    ANY,
    ZERO,
    Need,
    Sums,
    balances_of,
    by_network,
    is_fresh,
    may_release_at_once,
    need_of,
    room,
)
from gateway.model import Account, FundsMoved, QuoteTerms, Status, format_amount
from gateway.runtime import Moment, Runtime
from gateway.store import funds as rows
from gateway.store.database import Columns, Row, Tx
from gateway.store.rows import to_us

#: The most waiting payouts, oldest first, that one transaction examines and resumes.
_GRANTS = 1000
#: The number of reads whose earliest start is remembered.
_MOST_NUMBERS = 200
_US = 1_000_000


@dataclass(frozen=True)
class AccountRule:
    """The configuration of an account whose adapter reports balances. Times are in microseconds."""

    custodian: str
    account: Account
    reserves: bool
    every: int
    max_age: int
    waits_when_old: bool
    #: how long a completed transfer may stay invisible at the custodian
    visibility: int

    @property
    def key(self) -> str:
        """The key of its row."""
        return rows.account_key(self.custodian, self.account)


def account_rules(settings: Settings, visibility_s: Mapping[str, float]) -> dict[str, AccountRule]:
    """Return the rules of every configured account, by key. Pure.

    `visibility_s` has the instances whose adapters report balances.
    """
    found: dict[str, AccountRule] = {}
    for name, visibility in visibility_s.items():
        own = settings.custodians[name]
        said = {(each.type, each.id): each.reserve for each in settings.accounts.get(name, ())}
        accounts = [each.account for each in settings.routes if each.custodian == name]
        accounts += [
            Account(id=each.id, type=each.type) for each in settings.accounts.get(name, ())
        ]
        for account in accounts:
            reserves = said.get((account.type, account.id))
            rule = AccountRule(
                custodian=name,
                account=account,
                reserves=own.reserve if reserves is None else reserves,
                every=round(own.balance_every_s * _US),
                max_age=round(own.balance_max_age_s * _US),
                waits_when_old=own.on_old_balance == "wait",
                visibility=round(visibility * _US),
            )
            found[rule.key] = rule
    return found


@dataclass(frozen=True)
class Hold:
    """The amount that a locked account will reserve for a payout or a batch, before it is written."""

    rule: AccountRule
    needs: tuple[Need, ...]
    #: accepted before the account covers it
    waits: bool
    reserved: Sums
    waiting: Sums


@dataclass(frozen=True)
class _Known:
    """An account as this process has last seen it."""

    row: Mapping[str, Any]
    #: when the newest number was last seen as the newest, by this process's clock
    observed: int
    #: the earliest moment of this clock at which a read can have started, by its number
    not_before: Mapping[int, int] = field(default_factory=dict)


class Funds:
    """The balances of a gateway. Its async methods are store functions."""

    def __init__(
        self,
        runtime: Runtime,
        rules: Mapping[str, AccountRule],
        routes: Sequence[RouteSettings] = (),
        *,
        judges_age: bool = True,
    ) -> None:
        """`judges_age` is False in a command, which cannot date a balance that another machine has read."""
        self._judges_age = judges_age
        self._runtime = runtime
        self._rules = rules
        self._routes = routes
        self._known: dict[str, _Known] = {}
        #: is called with the name of a custodian instance, or `batches`, whose work may resume
        self.wake: Callable[[str], None] = lambda _: None

    @property
    def rules(self) -> Mapping[str, AccountRule]:
        """The rules of every account, by key."""
        return self._rules

    @property
    def reserves(self) -> bool:
        """Whether any account reserves."""
        return any(each.reserves for each in self._rules.values())

    def rule(self, custodian: str, account: Account) -> AccountRule | None:
        """Return the rule of an account; None if its adapter reports no balances."""
        return self._rules.get(rows.account_key(custodian, account))

    # --- What this process has seen ---------------------------------------------------------------

    def learn(self, found: Iterable[Columns], moment: Moment) -> None:
        """Remember accounts as they were read; `moment` is from before the read began."""
        for row in found:
            before = self._known.get(row["id"])
            bounds: dict[int, int] = {}
            if before is not None:
                bounds = {n: at for n, at in before.not_before.items() if n >= row["read_number"]}
                # A read with a newer number cannot have started before the newest number was last seen.
                first = before.row["asked"] + 1
                bounds |= dict.fromkeys(
                    range(first, row["asked"] + 1)[-_MOST_NUMBERS:], before.observed
                )
            whole = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a row has no items
            self._known[row["id"]] = _Known(whole, moment.elapsed, bounds)

    def known_row(self, key: str) -> Mapping[str, Any] | None:
        """Return an account as this process has last seen it; None if it has not."""
        known = self._known.get(key)
        return None if known is None else known.row

    def age(self, row: Columns, now: Moment) -> int | None:
        """Return the maximum age of an account's balances, in microseconds; None if it is not known."""
        if row["read_elapsed"] is None:
            return None
        if row["read_clock_id"] == now.clock_id:
            return int(now.elapsed - row["read_elapsed"])
        known = self._known.get(row["id"])
        begun = None if known is None else known.not_before.get(row["read_number"])
        return None if begun is None else now.elapsed - begun

    def missing(
        self, custodian: str, account: Account, asset: str, network: str | None, amount: Decimal
    ) -> Decimal | None:
        """Return how much an account lacks for a payout; None if it lacks nothing or that is not known.

        It serves quotes and routes from memory, at most a few seconds old. The payout itself asks the
        store.
        """
        rule = self.rule(custodian, account)
        known = None if rule is None else self._known.get(rule.key)
        if rule is None or known is None or not self.counts(known.row, rule):
            return None
        left = room_of(known.row, asset, network or ANY)
        return EXACT.subtract(amount, left) if amount > left else None

    def shortage(
        self,
        instance: str,
        account: Account,
        asset: str,
        needed: Decimal,
        network: str | None = None,
    ) -> str | None:
        """Return why an account cannot pay an amount; None if it can or that is not known. Reads memory only."""
        lacks = self.missing(instance, account, asset, network, needed)
        if lacks is None:
            return None
        return f"{account.type} {account.id} lacks {format_amount(lacks)} {asset}"

    def would_refuse(
        self, org: str, account: Account, terms: Mapping[str, Any], lacks: Decimal
    ) -> Refused | None:
        """Return the refusal of a payout whose account does not cover its terms; None if it is accepted.

        `lacks` is what `missing` returns. Nothing is read, as this serves dry runs.
        """
        rule = self.rule(terms["route"]["custodian"], account)
        quote = {"org": org, "account": account.model_dump_json()}
        if rule is None or not rule.reserves or self._may_wait(quote, terms):
            return None
        return _insufficient(rule, need_of(terms), lacks)

    def without_balance(
        self, custodian: str, account: Account
    ) -> tuple[str | None, Refused | None]:
        """Return what happens to a payout from an account whose balance is unknown or too old.

        That is a remark if it is accepted, or the refusal; neither if the account does not reserve or
        its balance counts. It reads memory only, for dry runs.
        """
        rule = self.rule(custodian, account)
        if rule is None or not rule.reserves:
            return None, None
        known = self._known.get(rule.key)
        row = None if known is None else known.row
        if row is not None and (row["supported"] == 0 or self.counts(row, rule)):
            return None, None
        name = f"{account.type} {account.id}"
        if rule.waits_when_old:
            waits = "is not known, or too old: a payout would wait for the next read"
            return f"the balance of {name} {waits}", None
        elsewhere = row is not None and row["read_elapsed"] is not None and self._age(row) is None
        if elsewhere and not self._judges_age:
            return f"the age of the balance of {name} is known to the running gateway alone", None
        return None, _balance_unknown(rule)

    def _age(self, row: Columns) -> int | None:
        return self.age(row, self._runtime.clock.moment())

    def counts(self, row: Columns, rule: AccountRule) -> bool:
        """Whether an account's balances are fresh enough to count."""
        return (
            row["balances"] is not None
            and row["blind_clock_id"] is None
            and (not rule.reserves or row["reserving"] == 1)
            and is_fresh(self._age(row), rule.max_age)
        )

    # --- Reserving --------------------------------------------------------------------------------

    async def hold(self, tx: Tx, quote: Columns) -> Hold | None:
        """Check whether an account covers a quote that becomes a payout; nothing is written.

        Refused: `insufficient_funds`, `balance_unknown`. None if nothing is reserved for it.
        """
        terms = json.loads(quote["terms"])
        account = Account.model_validate_json(quote["account"])
        rule = self.rule(terms["route"]["custodian"], account)
        if rule is None or not rule.reserves:
            return None
        return await self._hold(tx, rule, [need_of(terms)], may_wait=self._may_wait(quote, terms))

    async def _hold(
        self, tx: Tx, rule: AccountRule, needs: Sequence[Need], *, may_wait: bool
    ) -> Hold | None:
        row = await rows.lock_account(tx, rule.key)
        if row is not None and row["supported"] == 0:
            return None
        reserved = Sums() if row is None else Sums.of(row["reserved"])
        waiting = Sums() if row is None else Sums.of(row["waiting"])
        waits = False
        if row is None or not self.counts(row, rule):
            if not rule.waits_when_old:
                raise _balance_unknown(rule)
            waits = True
        else:
            short = self._short(row, needs)
            if short is not None and not may_wait:
                raise _insufficient(rule, *short)
            waits = short is not None
        for need in needs:
            if waits:
                waiting = waiting.plus(need.asset, need.network, need.total)
            else:
                reserved = reserved.plus(need.asset, need.network, need.total)
        return Hold(rule, tuple(needs), waits, reserved, waiting)

    @staticmethod
    def _short(row: Columns, needs: Sequence[Need]) -> tuple[Need, Decimal] | None:
        """Return which of several needs an account does not cover, and how much it lacks."""
        balances = balances_of(row["balances"]) or ()
        reserved, waiting = Sums.of(row["reserved"]), Sums.of(row["waiting"])
        for need in needs:
            taken = (reserved.of_asset(need.asset), waiting.of_asset(need.asset))
            left = room(by_network(balances, need.asset), taken, need.network)
            if need.total > left:
                return need, EXACT.subtract(need.total, left)
            reserved = reserved.plus(need.asset, need.network, need.total)
        return None

    async def write(self, tx: Tx, owner_id: str, hold: Hold) -> None:
        """Reserve what was held, in the transaction that holds it, for a payout or a whole batch."""
        rule, now = hold.rule, to_us(self._runtime.clock.now())
        await self._write_sums(tx, rule, hold.reserved, hold.waiting)
        state = rows.WAITING if hold.waits else rows.HELD
        await rows.add_reservations(
            tx, [columns_of(owner_id, rule, each, state, now) for each in hold.needs]
        )

    async def _write_sums(self, tx: Tx, rule: AccountRule, reserved: Sums, waiting: Sums) -> None:
        await rows.write_sums(tx, rule.custodian, rule.account, reserved.text, waiting.text)
        tx.when_over(partial(self._written, rule.key, reserved.text, waiting.text))

    def _written(self, key: str, reserved: str, waiting: str, committed: bool) -> None:  # noqa: FBT001 - as the store calls it
        """Remember sums that are durable."""
        known = self._known.get(key)
        if committed and known is not None:
            row = {**known.row, "reserved": reserved, "waiting": waiting}
            self._known[key] = _Known(row, known.observed, known.not_before)

    async def hold_batch(self, tx: Tx, batch: Row) -> Hold | None:
        """Check whether an account covers the whole sum of a batch that is executed, as `hold` does."""
        account = Account.model_validate_json(batch["account"])
        rule = self.rule(batch["custodian"], account)
        if rule is None or not rule.reserves:
            return None
        needs = sum_needs(await rows.batch_needs(tx, batch["id"]))
        may_wait = any(
            each.on_shortage == "wait" and each.account == account
            for each in self._routes
            if each.custodian == rule.custodian
        )
        return await self._hold(tx, rule, needs, may_wait=may_wait) if needs else None

    def _may_wait(self, quote: Columns, terms: Mapping[str, Any]) -> bool:
        """Whether the route of a quote, the first configured one that fits, lets its payout wait."""
        route, account = terms["route"], json.loads(quote["account"])
        fitting = [
            each
            for each in self._routes
            if each.custodian == route["custodian"]
            and each.destination == terms["destination"]["type"]
            and (each.assets is None or terms["asset"] in each.assets)
            and (each.orgs is None or quote["org"] in each.orgs)
            and (each.networks is None or route["to_network"] in each.networks)
        ]
        own = [each for each in fitting if each.account.model_dump() == account]
        return any(each.on_shortage == "wait" for each in (own or fitting)[:1])

    # --- Giving back ------------------------------------------------------------------------------

    async def give_back(self, tx: Tx, payout: Columns) -> None:
        """Release the reservation of a payout that is certainly unpaid, once; waiting payouts may resume."""
        if self.reserves:
            await self._drop(tx, payout)

    async def release(self, tx: Tx, payout: Columns) -> str | None:
        """Release the reservation of a payout with an unknown outcome, on an operator's decision.

        Return why not, or None. It works once: afterwards nothing is reserved any more.
        """
        unknown = (Status.FAILED, FundsMoved.UNKNOWN)
        if (payout["status"], payout["funds_moved"]) != unknown:
            return "it has not failed with funds_moved: unknown; its reservation ends by itself"
        return None if await self._drop(tx, payout) else "nothing is reserved for it"

    async def _drop(self, tx: Tx, payout: Columns) -> bool:
        taken = await _take_out(tx, payout)
        if taken is not None:
            await self._settle_sums(tx, *taken)
        return taken is not None

    async def _settle_sums(self, tx: Tx, account: Columns, reserved: Sums, waiting: Sums) -> None:
        """Write the lower sums of an account; waiting payouts may resume."""
        rule = self._rules.get(account["id"])
        if waiting.amounts and rule is not None and self.counts(account, rule):
            reserved, waiting = await self.grant(tx, account, reserved, waiting)
        await rows.write_sums(tx, *_of(account), reserved.text, waiting.text)
        tx.when_over(partial(self._written, account["id"], reserved.text, waiting.text))

    async def move(
        self, tx: Tx, payout: Columns, terms: QuoteTerms, custodian: str, account: Account
    ) -> bool:
        """Move a payout's reservation to another account, in the transaction of its failover.

        The caller has proven that nothing was paid from the first account. False: the other account does
        not cover it, its balance is not known, or the payout is of a batch; nothing is changed then. May
        be called twice: what was moved is not moved again.
        """
        if payout["batch_id"] is not None:
            return False
        found = await rows.reservations_of(tx, [payout["id"]])
        rule = self.rule(custodian, account)
        key = rows.account_key(custodian, account)
        if any(each["account_key"] == key for each in found):
            return True
        # Lock accounts always in the same order, to avoid deadlocks.
        for each in sorted({key, *(row["account_key"] for row in found)}):
            await rows.lock_account(tx, each)
        hold = None
        if rule is not None and rule.reserves:
            need = need_of(terms.model_dump(mode="json"))
            try:
                hold = await self._hold(tx, rule, [need], may_wait=False)
            except Refused:
                return False
            if hold is not None and hold.waits:
                return False
        if found:
            await self._drop(tx, payout)
        if hold is not None:
            await self.write(tx, payout["id"], hold)
        return True

    async def grant(
        self, tx: Tx, account: Columns, reserved: Sums, waiting: Sums
    ) -> tuple[Sums, Sums]:
        """Resume payouts that an account now covers, in the order of acceptance; return the sums.

        One that it does not cover blocks later ones of the same asset. A batch resumes as a whole.
        """
        balances = balances_of(account["balances"]) or ()
        by_owner: dict[str, list[Row]] = {}
        found = await rows.waiting_reservations(tx, account["id"], _GRANTS)
        for row in found if len(found) < _GRANTS else found[: _whole(found)]:
            by_owner.setdefault(row["owner_id"], []).append(row)
        short: set[str] = set()
        granted: list[Row] = []
        for owned in by_owner.values():
            after = reserved
            for row in owned:
                total = total_of(row)
                held = by_network(balances, row["asset"])
                left = room(held, [after.of_asset(row["asset"])], row["network"])
                if row["asset"] in short or total > left:
                    short |= {each["asset"] for each in owned}
                    break
                after = after.plus(row["asset"], row["network"], total)
            else:
                reserved = after
                granted += owned
        for row in granted:
            waiting = waiting.minus(row["asset"], row["network"], total_of(row))
        if granted:
            await rows.change_reservations(
                tx, [changed(row, new_state=rows.HELD) for row in granted]
            )
            await self._go_on(tx, account["custodian"], [row["owner_id"] for row in granted])
        return reserved, waiting

    async def _go_on(self, tx: Tx, custodian: str, owners: Sequence[str]) -> None:
        """Resume payouts and batches that waited for funds."""
        await rows.fund(tx, owners, self._runtime.timeline.now())
        tx.when_over(partial(self._woken, custodian))

    def _woken(self, custodian: str, committed: bool) -> None:  # noqa: FBT001 - as the store calls it
        if committed:
            self.wake(custodian)
            self.wake("batches")

    async def let_go(self, tx: Tx, key: str) -> None:
        """Drop every reservation of an account; waiting payouts resume."""
        custodian = json.loads(key)[0]
        while waiting := await rows.waiting_reservations(tx, key, _GRANTS):
            await self._go_on(tx, custodian, [row["owner_id"] for row in waiting])
            await rows.change_reservations(
                tx, [changed(row, new_state=rows.HELD) for row in waiting]
            )
        await rows.drop_all(tx, key)


async def end_reservation(
    tx: Tx, funds: Funds | None, payout: Columns, funds_moved: str | None
) -> None:
    """Release the reservation of a payout that has ended as certainly unpaid, once.

    An operator's command has no `funds`; then waiting payouts resume with the next read.
    """
    if not may_release_at_once(funds_moved):
        return
    if funds is not None:
        await funds.give_back(tx, payout)
        return
    taken = await _take_out(tx, payout)
    if taken is not None:
        account, reserved, waiting = taken
        await rows.write_sums(tx, *_of(account), reserved.text, waiting.text)


async def _take_out(tx: Tx, payout: Columns) -> tuple[Columns, Sums, Sums] | None:
    """Remove a payout's share from its reservation or from that of its batch.

    Return the locked account and its new sums, for the caller to write; None if nothing was reserved.
    """
    owners = [payout["id"], *([payout["batch_id"]] if payout["batch_id"] else [])]
    need = need_of(json.loads(payout["terms"]))
    found = [
        each
        for each in await rows.reservations_of(tx, owners)
        if each["asset"] == need.asset and each["network"] == need.network
    ]
    if not found:
        return None
    # A payout of a batch has no reservation of its own.
    row = next((each for each in found if each["owner_id"] == payout["id"]), found[0])
    account = await rows.lock_account(tx, row["account_key"])
    assert account is not None  # noqa: S101 - a foreign key
    name = "reserved" if row["state"] == rows.HELD else "waiting"
    sums = {each: Sums.of(account[each]) for each in ("reserved", "waiting")}
    sums[name] = sums[name].minus(row["asset"], row["network"], need.total)
    left = EXACT.subtract(total_of(row), need.total)
    if left == Decimal(row["released"]):
        await rows.drop_reservations(tx, [name_of(row)])
    else:
        # The fee of a batch's payout may have changed since the batch was executed.
        fee = min(max(EXACT.subtract(Decimal(row["fee"]), need.fee), ZERO), left)
        amount = EXACT.subtract(left, fee)
        columns = changed(row, new_amount=format_amount(amount), new_fee=format_amount(fee))
        await rows.change_reservations(tx, [columns])
    return account, sums["reserved"], sums["waiting"]


def _of(account: Columns) -> tuple[str, Account]:
    return account["custodian"], Account(id=account["account_id"], type=account["account_type"])


def room_of(row: Columns, asset: str, network: str) -> Decimal:
    """Return how much more can be reserved from an account, by its row. Pure."""
    taken = (Sums.of(row[name]).of_asset(asset) for name in ("reserved", "waiting"))
    return room(by_network(balances_of(row["balances"]) or (), asset), taken, network)


def sum_needs(found: Iterable[Row]) -> list[Need]:
    """Return what a batch needs, by asset and network."""
    sums: dict[tuple[str, str], tuple[Decimal, Decimal]] = {}
    for row in found:
        amount, fee = sums.get((row["asset"], row["network"]), (ZERO, ZERO))
        gets, sends, n = Decimal(row["gets"]), Decimal(row["sends"]), Decimal(row["n"])
        sums[row["asset"], row["network"]] = (
            EXACT.add(amount, EXACT.multiply(gets, n)),
            EXACT.add(fee, EXACT.multiply(EXACT.subtract(sends, gets), n)),
        )
    return [Need(*key, *each) for key, each in sorted(sums.items())]


def _whole(found: Sequence[Row]) -> int:
    """Return how many rows of a full page belong to owners that are completely in it."""
    last = found[-1]["owner_id"]
    return next(n for n, row in enumerate(found) if row["owner_id"] == last) or len(found)


def id_of(row: Columns) -> tuple[str, str, str]:
    """Return the identity of a reservation: owner, asset, network."""
    """Return what tells reservations apart: owner, asset, network."""
    return row["owner_id"], row["asset"], row["network"]


def total_of(row: Columns) -> Decimal:
    """Return amount and fee of a reservation."""
    return EXACT.add(Decimal(row["amount"]), Decimal(row["fee"]))


def name_of(row: Columns) -> dict[str, object]:
    """Return the columns that identify a reservation in a statement."""
    """Return what names a reservation in a statement."""
    return {
        "of_owner": row["owner_id"],
        "of_asset": row["asset"],
        "of_network": row["network"],
    }


def changed(row: Columns, **changed: object) -> dict[str, object]:
    """Return the changed columns of a reservation, by the statement's parameter names."""
    return {
        **name_of(row),
        "new_state": row["state"],
        "new_amount": row["amount"],
        "new_fee": row["fee"],
        "new_released": row["released"],
        "new_ended": row["ended"],
        "new_clock_id": row["ended_clock_id"],
        "new_elapsed": row["ended_elapsed"],
        **changed,
    }


def columns_of(
    owner_id: str, rule: AccountRule, need: Need, state: str, at: int
) -> dict[str, object]:
    """Return the columns of a new reservation."""
    return {
        "owner_id": owner_id,
        "asset": need.asset,
        "network": need.network,
        "account_key": rule.key,
        "state": state,
        "amount": format_amount(need.amount),
        "fee": format_amount(need.fee),
        "released": "0",
        "ended": None,
        "ended_clock_id": None,
        "ended_elapsed": None,
        "visibility": rule.visibility,
        "created_at": at,
    }


def _insufficient(rule: AccountRule, need: Need, lacks: Decimal) -> Refused:
    """Return the refusal of a payout that an account does not cover."""
    detail = (
        f"The account {rule.account.type} {rule.account.id!r} at {rule.custodian!r} lacks "
        f"{format_amount(lacks)} {need.asset}. Nothing was done, and the quote was not used: fund the "
        "account, and send it again."
    )
    return Refused(
        "insufficient_funds",
        detail,
        needed=format_amount(lacks),
        asset=need.asset,
        network_with_lowest_top_up_fee=need.network or None,
    )


def _balance_unknown(rule: AccountRule) -> Refused:
    """Return the refusal of a payout from an account whose balance is unknown or too old."""
    detail = (
        f"The balance of the account {rule.account.type} {rule.account.id!r} at {rule.custodian!r} is "
        "not known, or too old. Nothing was done, and the quote was not used: send it again."
    )
    wait = max(1, min(60, rule.every // _US))
    return Refused("balance_unknown", detail, headers={"Retry-After": str(wait)})
