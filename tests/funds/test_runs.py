"""Random runs: whatever is accepted, paid, failed, read late or lost, no more is accepted than there is.

The world is a custodian with one account. It pays what was accepted, or does not; a payment is out of
the account when it is made, and a balance may be as old as the declared visibility. Two processes accept
and read, answers come late and in any order, and a process may die before any commit.

What holds after every step: what is left in the account covers everything that was accepted and is not
paid, and the sums of the account are those of its reservations.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import gateway.funds.balances
import gateway.funds.reservations
from gateway.errors import Refused
from gateway.model import FundsMoved
from gateway.runtime import Ids, Moment, real_runtime
from gateway.store.database import Database, Tx
from tests.bank import RULE, VISIBILITY_S, Bank, Process
from tests.clock import SetClock
from tests.databases import make_database
from tests.execution.conftest import CAN

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
STEPS = (
    *("pay",) * 6,
    *("custodian_pays",) * 4,
    *("told_delivered", "told_failed_unpaid", "told_failed_unknown", "told_failed_paid"),
    *("begin_read",) * 4,
    *("end_read",) * 4,
    *("time",) * 3,
    *("top_up", "restart", "dies_accepting", "dies_reading"),
)


class DiedError(Exception):
    """The process is gone before its commit."""


@dataclass
class World:
    """What really happens at the custodian."""

    #: what is in the account, after each change: elapsed time, amount
    history: list[tuple[int, Decimal]]
    #: accepted, and not paid; they may be any time
    unpaid: dict[str, Decimal] = field(default_factory=dict)
    #: paid, and the gateway has not heard of it
    paid: dict[str, Decimal] = field(default_factory=dict)
    #: reads that were begun: by which process, with number and date
    reads: list[tuple[Process, tuple[int, Moment]]] = field(default_factory=list)

    @property
    def left(self) -> Decimal:
        """What is in the account now."""
        return self.history[-1][1]

    def seen(self, chance: random.Random, begun: Moment) -> Decimal:
        """Return a balance that a read may show: as old as `visibility` before it began."""
        earliest = begun.elapsed - round(VISIBILITY_S * 1e6)
        first = max(n for n, (at, _) in enumerate(self.history) if n == 0 or at <= earliest)
        known = self.history[first:]
        return (known[0] if chance.random() < 0.5 else chance.choice(known))[1]


class Run:
    """One run of a gateway of two processes on one database."""

    def __init__(self, bank: Bank, seed: int) -> None:
        self.bank = bank
        self.chance = random.Random(seed)
        self.world = World([(0, Decimal(100))])
        self.processes = [
            bank.process,
            Process(bank.db, bank.runtime, [RULE], bank.route),
        ]

    def now(self) -> int:
        """Return the elapsed time."""
        return self.bank.clock.moment().elapsed

    async def step(self) -> str:
        """Take a step at random; return what it was."""
        name = self.chance.choice(STEPS)
        await getattr(self, name)()
        return name

    async def pay(self) -> None:
        """A partner executes a quote."""
        amount = Decimal(self.chance.randint(1, 60_000_000)) / 1_000_000
        quote_id = await self.bank.quote(f"{amount:f}")
        process = self.chance.choice(self.processes)
        with suppress(Refused):
            made = await process.db.run(process.payouts.accept, self.bank.caller, quote_id)
            self.world.unpaid[made.id] = amount

    async def custodian_pays(self) -> None:
        """The money of a payout leaves the account."""
        if self.world.unpaid:
            payout_id = self.chance.choice(sorted(self.world.unpaid))
            amount = self.world.unpaid.pop(payout_id)
            self.world.paid[payout_id] = amount
            self.world.history.append((self.now(), self.world.left - amount))

    async def _told(self, among: dict[str, Decimal], moved: FundsMoved | None) -> None:
        if among:
            payout_id = self.chance.choice(sorted(among))
            await self.bank.end(payout_id, moved)
            if moved is not FundsMoved.UNKNOWN or among is self.world.paid:
                del among[payout_id]

    async def told_delivered(self) -> None:
        """The gateway hears of it."""
        await self._told(self.world.paid, None)

    async def told_failed_paid(self) -> None:
        """It was paid, and it failed all the same."""
        await self._told(self.world.paid, FundsMoved.YES)

    async def told_failed_unpaid(self) -> None:
        """It certainly is not paid."""
        await self._told(self.world.unpaid, FundsMoved.NO)

    async def told_failed_unknown(self) -> None:
        """It may be paid, now or later: it stays in the world as it is."""
        if self.world.unpaid and self.chance.random() < 0.05:
            payout_id = self.chance.choice(sorted(self.world.unpaid))
            with suppress(Exception):
                await self.bank.end(payout_id, FundsMoved.UNKNOWN)

    async def begin_read(self) -> None:
        """A process begins to read; its answer comes some time later."""
        process = self.chance.choice(self.processes)
        self.world.reads.append((process, await process.begin_read()))

    async def end_read(self) -> None:
        """An answer is written: any of those that are on their way."""
        if self.world.reads:
            at = self.chance.randrange(len(self.world.reads))
            process, begun = self.world.reads.pop(at)
            shown = self.world.seen(self.chance, begun[1])
            await process.end_read(begun, ("USDC", None, f"{shown:f}"))

    async def time(self) -> None:
        """Time passes; the wall clock may be set."""
        await self.bank.clock.advance(self.chance.choice([0.5, 7, *[31] * 5, 65, 400]))
        if self.chance.random() < 0.1:
            self.bank.clock.step(self.chance.choice([-86_400, 86_400]))

    async def top_up(self) -> None:
        """Money comes in."""
        self.world.history.append((self.now(), self.world.left + self.chance.randint(1, 50)))

    async def restart(self) -> None:
        """A process starts again; sometimes on a machine that was rebooted."""
        at = self.chance.randrange(2)
        if self.chance.random() < 0.3:
            self.bank.clock.reboot()
            self.world.reads.clear()
            self.world.history = [(0, each) for _, each in self.world.history[-1:]]
            # As if the machine had taken its time: nothing of before is invisible any more.
            self.processes = [
                Process(self.bank.db, self.bank.runtime, [RULE], self.bank.route) for _ in range(2)
            ]
            self.bank.payouts = self.processes[0].payouts
            await self.bank.clock.advance(VISIBILITY_S)
            return
        old = self.processes[at]
        self.world.reads = [each for each in self.world.reads if each[0] is not old]
        self.processes[at] = Process(self.bank.db, self.bank.runtime, [RULE], self.bank.route)

    async def dies_accepting(self) -> None:
        """Before the commit of a payout."""
        quote_id = await self.bank.quote("5")

        async def dies(tx: Tx) -> None:
            await self.bank.payouts.accept(tx, self.bank.caller, quote_id)
            raise DiedError

        with suppress(Refused, DiedError):
            await self.bank.db.run(dies)

    async def dies_reading(self) -> None:
        """Before the commit of what a read has shown."""
        if not self.world.reads:
            return
        process, begun = self.world.reads.pop()

        async def dies(tx: Tx) -> None:
            await process.balances.note_read(tx, RULE, *begun, [])
            raise DiedError

        with suppress(DiedError):
            await self.bank.db.run(dies)

    async def check(self) -> None:
        """What must hold."""
        left, promised = self.world.left, sum(self.world.unpaid.values(), Decimal(0))
        assert promised <= left, f"{promised} was promised of {left}"
        reserved, _ = await self.bank.reserved()
        assert reserved >= promised


async def runs(bank: Bank, seed: int, steps: int = 120) -> list[str]:
    """Make a run; return its steps. AssertionError where something went wrong, with the steps."""
    run, taken = Run(bank, seed), []
    for _ in range(steps):
        taken.append(await run.step())
        try:
            await run.check()
        except AssertionError as error:
            msg = f"seed {seed}, after {' '.join(taken[-40:])}: {error}"
            raise AssertionError(msg) from error
    return taken


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database."""
    return make_database(tmp_path_factory.mktemp("empty") / "empty.db")


@pytest.fixture
async def banks(tmp_path: Path, empty: Path) -> AsyncIterator[Callable[[], Any]]:
    """What makes banks on fresh databases, whose account holds 100 USDC."""
    opened: list[Database] = []

    async def make() -> Bank:
        path = tmp_path / f"bank{len(opened)}.db"
        shutil.copy(empty, path)
        clock = SetClock(NOON)
        runtime = replace(real_runtime(), clock=clock, ids=Ids(clock))
        db = await Database(path).__aenter__()
        opened.append(db)
        made = Bank(db, clock, runtime, replace(CAN, one_at_a_time=False))
        made.configure()
        await made.settle()
        await made.process.read("100")
        return made

    yield make
    for each in opened:
        await each.__aexit__()


@pytest.mark.parametrize("seed", range(16))
async def test_what_is_accepted_can_be_paid(banks: Any, seed: int) -> None:
    """Whatever happens in between; and enough happens for that to mean something."""
    bank = await banks()
    taken = await runs(bank, seed, 200)
    assert {"pay", "custodian_pays", "end_read"} <= set(taken)


def _never(*_: object) -> bool:
    return False


def _always(*_: object) -> bool:
    return True


def _without_others(held: dict[str, Decimal], _: object, network: str) -> Decimal:
    return sum(held.values(), Decimal(0)) + 0 * len(network)


#: A rule, and what it is replaced by.
MUTANTS = {
    "shows_end": _always,
    "is_newer": _always,
    "may_release_at_once": _always,
    "room": _without_others,
}


@pytest.mark.parametrize("rule", MUTANTS)
async def test_every_rule_is_missed(banks: Any, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, more is accepted than there is."""
    for module in (gateway.funds.reservations, gateway.funds.balances):
        if hasattr(module, rule):
            monkeypatch.setattr(module, rule, MUTANTS[rule])

    async def search() -> None:
        for seed in range(60):
            await runs(await banks(), seed, 200)

    with pytest.raises(AssertionError, match="was promised of"):
        await search()
