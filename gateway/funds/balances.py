"""Balances as custodians report them: dated reads, the releases that follow, and the accounts that reserve.

A read is numbered and dated before its request, in a transaction that also notes what has ended. Its
result and the releases are written in one transaction, and only if there was no newer read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from gateway.adapter import Balance
from gateway.assets import EXACT
from gateway.funds.reservations import (
    AccountRule,
    Funds,
    changed,
    columns_of,
    id_of,
    name_of,
    room_of,
    sum_needs,
    total_of,
)
from gateway.funds.rules import (
    ANY,
    ZERO,
    Ended,
    Sums,
    balances_of,
    is_newer,
    need_of,
    passed_since,
    pool_of,
    shows_end,
)
from gateway.model import format_amount, format_time
from gateway.runtime import Moment, Runtime
from gateway.store import funds as rows
from gateway.store.database import Columns, Row, Tx
from gateway.store.rows import from_us, to_us
from gateway.store.rules import active_rules
from gateway.store.state import frozen, state_row


class Balances:
    """Reads accounts, and starts and stops reserving. Its async methods are store functions."""

    def __init__(self, runtime: Runtime, funds: Funds, instances: frozenset[str]) -> None:
        self._runtime = runtime
        self._funds = funds
        #: every instance that is configured
        self._instances = instances
        #: when this process, by its own clock, first saw what another clock dated; keyed by account
        self._first_seen: dict[str, dict[tuple[Any, ...], int]] = {}
        #: the same, for accounts whose reads do not count yet
        self._blind: dict[tuple[Any, ...], int] = {}

    async def begin_read(
        self, tx: Tx, rule: AccountRule, ended: Sequence[Ended], now: Moment, due: int
    ) -> int | None:
        """Begin a read of an account: note what has ended, and return the read's number.

        `now` dates the read; it was taken after `ended` was read and before this transaction. None:
        another process reads the account.
        """
        row = await rows.lock_account(tx, rule.key)
        if row is None:
            await rows.open_account(tx, rule.custodian, rule.account)
            row = await rows.lock_account(tx, rule.key)
        assert row is not None  # noqa: S101 - made above
        if row["due_at"] > self._runtime.timeline.now():
            return None
        kept = {id_of(each): each for each in await self._reservations(tx, ended)}
        changes = []
        for each in ended:
            found = kept.get((each.owner_id, each.asset, each.network))
            if found is None or found["account_key"] != rule.key or found["ended"] is not None:
                continue
            if each.amount <= Decimal(found["released"]):
                continue
            noted = {
                "new_ended": format_amount(each.amount),
                "new_clock_id": now.clock_id,
                "new_elapsed": now.elapsed,
            }
            changes.append(changed(found, **noted))
        if changes:
            await rows.change_reservations(tx, changes)
        asked = await rows.ask(tx, rule.key, due)
        assert asked is not None  # noqa: S101 - it is locked
        return int(asked["asked"])

    @staticmethod
    async def _reservations(tx: Tx, ended: Sequence[Ended]) -> list[Row]:
        owners = sorted({each.owner_id for each in ended})
        return await rows.reservations_of(tx, owners) if owners else []

    async def note_read(
        self, tx: Tx, rule: AccountRule, number: int, started: Moment, told: Sequence[Balance]
    ) -> bool:
        """Write the result of a read, release what it shows as paid, and resume what it covers.

        False: a newer read was already written, so this one is dropped.
        """
        row = await rows.lock_account(tx, rule.key)
        if row is None or not is_newer(number, row["read_number"]):
            return False
        reserved, waiting = Sums.of(row["reserved"]), Sums.of(row["waiting"])
        balances = json.dumps([_balance(each) for each in told], separators=(",", ":"))
        old_copy = await frozen(tx) is not None
        blind = (row["blind_clock_id"], row["blind_elapsed"])
        if blind[0] is not None and not old_copy:
            passed = self._passed(self._blind, (rule.key, "blind", *blind), started)
            blind = (None, None) if shows_end(passed, rule.visibility) else blind
        fresh: dict[str, Any] = {
            **{name: row[name] for name in row.keys()},  # noqa: SIM118 - a row has no items
            "supported": 1,
            "balances": balances,
            "read_number": number,
            "read_clock_id": started.clock_id,
            "read_elapsed": started.elapsed,
            "read_wall": started.wall,
            "blind_clock_id": blind[0],
            "blind_elapsed": blind[1],
            "fault": None,
        }
        if not old_copy:
            # A copy of the database that nobody has adopted may lack an end, or what came after it.
            reserved = await self._release_shown(tx, rule, started, reserved)
            if waiting.amounts and self._funds.counts(fresh, rule):
                reserved, waiting = await self._funds.grant(tx, fresh, reserved, waiting)
        fresh |= {"reserved": reserved.text, "waiting": waiting.text}
        await self._write_read(tx, fresh)
        return True

    async def note_unsupported(self, tx: Tx, rule: AccountRule, number: int, at: Moment) -> None:
        """Write that an account reports no balances, so nothing is reserved from it."""
        row = await rows.lock_account(tx, rule.key)
        if row is None or not is_newer(number, row["read_number"]):
            return
        await self._funds.let_go(tx, rule.key)
        fresh = {
            **{name: row[name] for name in row.keys()},  # noqa: SIM118 - a row has no items
            "supported": 0,
            "balances": None,
            "read_number": number,
            "read_clock_id": at.clock_id,
            "read_elapsed": at.elapsed,
            "read_wall": at.wall,
            "reserved": Sums().text,
            "waiting": Sums().text,
        }
        await self._write_read(tx, fresh)

    async def note_fault(self, tx: Tx, rule: AccountRule, number: int, fault: str) -> None:
        """Write why a read failed; the balances stay and grow older."""
        row = await rows.lock_account(tx, rule.key)
        if row is not None and is_newer(number, row["read_number"]):
            await rows.write_fault(tx, rule.key, fault)

    async def _write_read(self, tx: Tx, fresh: Mapping[str, Any]) -> None:
        await rows.write_read(
            tx,
            fresh["id"],
            new_supported=fresh["supported"],
            new_balances=fresh["balances"],
            new_reserved=fresh["reserved"],
            new_waiting=fresh["waiting"],
            new_number=fresh["read_number"],
            new_clock_id=fresh["read_clock_id"],
            new_elapsed=fresh["read_elapsed"],
            new_wall=fresh["read_wall"],
            new_blind_clock_id=fresh["blind_clock_id"],
            new_blind_elapsed=fresh["blind_elapsed"],
        )
        at = self._runtime.clock.moment()
        tx.when_over(lambda committed: self._funds.learn([fresh], at) if committed else None)

    def _passed(
        self, seen: dict[tuple[Any, ...], int], name: tuple[Any, ...], started: Moment
    ) -> int | None:
        """Return how much time has certainly passed between a dated row and the beginning of a read.

        `name` ends with the row's clock and its time. What is dated by another clock is noted in `seen`.
        """
        clock_id, elapsed = name[-2:]
        known = self._blind.get(name) or self._first_seen.get(name[0], {}).get(name)
        if clock_id != started.clock_id:
            # It was dated after it was read, so what this process first sees now has not waited yet.
            seen[name] = self._runtime.clock.moment().elapsed if known is None else known
        return passed_since(clock_id, elapsed, started, known)

    async def _release_shown(
        self, tx: Tx, rule: AccountRule, started: Moment, reserved: Sums
    ) -> Sums:
        """Release what ended long enough before a read began; return the sums after it."""
        changes, dropped = [], []
        seen: dict[tuple[Any, ...], int] = {}
        for row in await rows.noted_ends(tx, rule.key):
            name = (rule.key, *id_of(row), row["ended_clock_id"], row["ended_elapsed"])
            if not shows_end(self._passed(seen, name, started), row["visibility"]):
                continue
            ended = Decimal(row["ended"])
            shown = EXACT.subtract(ended, Decimal(row["released"]))
            reserved = reserved.minus(row["asset"], row["network"], shown)
            if ended == total_of(row):
                dropped.append(name_of(row))
            else:
                none = {"new_ended": None, "new_clock_id": None, "new_elapsed": None}
                changes.append(changed(row, new_released=row["ended"], **none))
        self._first_seen[rule.key] = seen
        if changes:
            await rows.change_reservations(tx, changes)
        if dropped:
            await rows.drop_reservations(tx, dropped)
        return reserved

    # --- Configuration ----------------------------------------------------------------------------

    def unsettled(self, found: Iterable[Columns]) -> bool:
        """Whether accounts must start or stop reserving, by the configuration. Pure."""
        reserving = {row["id"] for row in found if row["reserving"] and self._is_ours(row["id"])}
        return reserving != {key for key, each in self._funds.rules.items() if each.reserves}

    def _is_ours(self, key: str) -> bool:
        return json.loads(key)[0] in self._instances

    async def settle(self, tx: Tx, now: Moment, rules: str | None = None) -> bool:
        """Start or stop reserving from accounts, as the configuration says. May be called twice.

        Payouts that were accepted before are reserved as well; if there are any, only a balance that
        was read `visibility` later counts. False: `rules`, the digest of this process's limits and
        routes, are not the active ones, and nothing is changed.
        """
        active = await active_rules(tx)
        if rules is not None and active is not None and active["digest"] != rules:
            return False
        reserving = {row["id"] for row in await rows.all_accounts(tx) if row["reserving"]}
        wanted = {key for key, each in self._funds.rules.items() if each.reserves}
        for key in sorted(wanted - reserving):
            await self._begin_reserving(tx, self._funds.rules[key], now)
        for key in sorted(each for each in reserving - wanted if self._is_ours(each)):
            await rows.lock_account(tx, key)
            await self._funds.let_go(tx, key)
            await rows.set_reserving(tx, key, **_reserving(0, Sums(), None))
        return True

    async def _begin_reserving(self, tx: Tx, rule: AccountRule, now: Moment) -> None:
        await rows.open_account(tx, rule.custodian, rule.account)
        await rows.lock_account(tx, rule.key)
        await self._funds.let_go(tx, rule.key)
        of = (rule.custodian, rule.account.model_dump_json())
        at = to_us(self._runtime.clock.now())
        made = [
            (row["id"], need_of(json.loads(row["terms"])))
            for row in await rows.open_payouts(tx, *of)
        ]
        for batch_id in await rows.open_batches(tx, *of):
            made += [(batch_id, need) for need in sum_needs(await rows.batch_alive(tx, batch_id))]
        sums = Sums()
        for _, need in made:
            sums = sums.plus(need.asset, need.network, need.total)
        if made:
            columns = [columns_of(owner, rule, need, rows.HELD, at) for owner, need in made]
            await rows.add_reservations(tx, columns)
        blind = now if (await state_row(tx))["used"] else None
        await rows.set_reserving(tx, rule.key, **_reserving(1, sums, blind))


async def find_ended(tx: Tx, key: str) -> list[Ended]:
    """Return the reservations of an account that ended with money that moved. This is a long read."""
    found = [Ended(*id_of(row), total_of(row)) for row in await rows.ended_payouts(tx, key)]
    sums: dict[tuple[str, str, str], Decimal] = {}
    for row in await rows.ended_items(tx, key):
        amount = EXACT.multiply(Decimal(row["amount"]), Decimal(row["n"]))
        sums[id_of(row)] = EXACT.add(sums.get(id_of(row), ZERO), amount)
    return found + [Ended(*each, amount) for each, amount in sums.items()]


def _reserving(reserving: int, reserved: Sums, blind: Moment | None) -> dict[str, object]:
    return {
        "new_reserving": reserving,
        "new_reserved": reserved.text,
        "new_waiting": Sums().text,
        "new_blind_clock_id": None if blind is None else blind.clock_id,
        "new_blind_elapsed": None if blind is None else blind.elapsed,
        "new_due": 0,
    }


def _balance(told: Balance) -> dict[str, object]:
    return {
        "asset": told.asset,
        "network": told.network,
        # A negative balance cannot pay anything.
        "available": format_amount(max(told.available, ZERO)),
        "pending": None if told.pending is None else format_amount(max(told.pending, ZERO)),
        "as_of": format_time(told.as_of),
    }


def account_view(
    funds: Funds, rule: AccountRule, row: Columns | None, now: Moment
) -> dict[str, Any]:
    """Return what an account can pay, for display; operators also see the error of the last read."""
    shown: dict[str, Any] = {
        "custodian": rule.custodian,
        "account": rule.account,
        "state": "unknown",
        "reserves": rule.reserves,
        "read_at": None,
        "age_seconds": None,
        "fault": None,
        "balances": [],
    }
    if row is None:
        return shown
    shown["fault"] = row["fault"]
    if row["supported"] == 0:
        return {**shown, "state": "unsupported", "reserves": False}
    age = funds.age(row, now)
    if row["read_wall"] is not None:
        shown["read_at"] = from_us(row["read_wall"])
        # Only the wall clock gives this age, so it is as reliable as that clock.
        wall = max(0, now.wall - row["read_wall"])
        shown["age_seconds"] = (wall if age is None else age) // 1_000_000
    if row["balances"] is not None and row["blind_clock_id"] is None:
        shown["state"] = "fresh" if funds.counts(row, rule) else "old"
    shown["balances"] = lines_of(row)
    return shown


def lines_of(row: Columns) -> list[dict[str, Any]]:
    """Return a line for each asset and network that is held, reserved or awaited. Pure.

    A reservation on a network is shown with the balance that pays it.
    """
    told: dict[tuple[str, str], Mapping[str, Any]] = {
        (each["asset"], each["network"] or ANY): each for each in balances_of(row["balances"]) or ()
    }
    sums = {name: Sums.of(row[name]) for name in ("reserved", "waiting")}
    shown = {name: Sums() for name in sums}
    for name, each in sums.items():
        for (asset, network), amount in each.amounts.items():
            pool = pool_of({of: ZERO for code, of in told if code == asset}, network)
            where = network if pool is None else pool
            shown[name] = shown[name].plus(asset, where, amount)
    keys = {*told, *shown["reserved"].amounts, *shown["waiting"].amounts}
    return [
        {
            "asset": asset,
            "network": network or None,
            "balance": Decimal(told[asset, network]["available"])
            if (asset, network) in told
            else ZERO,
            "pending": told.get((asset, network), {}).get("pending"),
            "reserved": shown["reserved"].amounts.get((asset, network), ZERO),
            "waiting": shown["waiting"].amounts.get((asset, network), ZERO),
            "available": max(room_of(row, asset, network), ZERO),
            "as_of": told.get((asset, network), {}).get("as_of"),
        }
        for asset, network in sorted(keys)
    ]
