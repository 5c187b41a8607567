"""The loop that reads balances: each account now and then, and a custodian that hangs holds up no other."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest

from gateway.adapter import Account, Balance
from gateway.errors import NotSent, Unsupported
from gateway.funds.balances import Balances
from gateway.funds.reader import BalanceReader
from gateway.funds.reservations import Funds
from gateway.metrics import Metrics
from gateway.runtime import Ids, Runtime
from gateway.store import funds as rows
from gateway.store.database import Database
from tests.bank import RULE
from tests.clock import SetClock
from tests.databases import make_database

ACCOUNT = RULE.account


class Teller:
    """A custodian that tells balances, or raises what it is given."""

    def __init__(self, answer: str | Exception | asyncio.Event) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.pacer = SimpleNamespace(paused_s=lambda: 0.0)

    async def balances(self, account: Account) -> Sequence[Balance]:
        """Tell what an account holds."""
        self.asked.append(account.id)
        if isinstance(self.answer, asyncio.Event):
            await self.answer.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return [Balance("USDC", Decimal(str(self.answer)), None, CLOCK.now())]


CLOCK = SetClock()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock for each test: its sleepers belong to the event loop of the test."""
    monkeypatch.setattr(sys.modules[__name__], "CLOCK", SetClock())


def reader(db: Database, *, reads: bool = True, **tellers: Teller) -> tuple[BalanceReader, Metrics]:
    """Return a reader of one account at each custodian."""
    runtime = Runtime(clock=CLOCK, ids=Ids(CLOCK))
    rules = [replace(RULE, custodian=name) for name in tellers]
    funds = Funds(runtime, {each.key: each for each in rules})
    metrics = Metrics()
    own: Any = SimpleNamespace(active=True, digest=None)
    made = BalanceReader(
        db=db,
        runtime=runtime,
        funds=funds,
        balances=Balances(runtime, funds, frozenset(tellers)),
        custodians=tellers,  # type: ignore[arg-type]  # what the loop asks of them
        metrics=metrics,
        rules=own,
        reads=reads,
    )
    return made, metrics


async def settled() -> None:
    """Let every loop come to its next sleep."""
    for _ in range(300):
        await asyncio.sleep(0.001)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it is so, in the machine's own time."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def db(tmp_path: Path) -> Any:
    """A fresh database."""
    path = make_database(tmp_path / "g.db")
    async with Database(path) as opened:
        yield opened


async def accounts(db: Database) -> dict[str, Any]:
    """Return the accounts by custodian."""
    return {row["custodian"]: row for row in await db.read(rows.all_accounts)}


async def test_a_custodian_that_hangs_holds_up_no_other(db: Database) -> None:
    """Each is read at its own pace, at most once in `balance_every_s`."""
    hanging, quick = Teller(asyncio.Event()), Teller("100")
    made, _ = reader(db, slow=hanging, quick=quick)
    running = asyncio.create_task(made.run())
    await until(lambda: (len(hanging.asked), len(quick.asked)) == (1, 1))
    for _ in range(5):
        await CLOCK.advance(2)
        await settled()
    assert len(hanging.asked) == 1
    for _ in range(6):
        await CLOCK.advance(2)
        await settled()
    await until(lambda: len(quick.asked) in {2, 3})
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    found = await accounts(db)
    assert found["slow"]["read_number"] == 0
    assert found["quick"]["read_number"] == len(quick.asked)


@pytest.mark.parametrize(
    ("answer", "supported", "fault"),
    [
        ("100", 1, None),
        (NotSent("HTTP 503"), None, "HTTP 503"),
        (Unsupported("no such account type"), 0, None),
    ],
)
async def test_what_a_read_leaves(
    db: Database, answer: str | Exception, supported: int | None, fault: str | None
) -> None:
    """A balance, why there is none now, or that there never is one."""
    made, metrics = reader(db, acme=Teller(answer))
    await made.refresh()
    await made.read(RULE)
    row = (await accounts(db))["acme"]
    assert (row["supported"], row["fault"]) == (supported, fault)
    await made.refresh()
    told = generate_latest(metrics.registry).decode()
    line = (
        'payout_gateway_account_balance{account="A",asset="USDC",custodian="acme",network=""} 100.0'
    )
    assert (line in told) is (supported == 1)
    assert "payout_gateway_account_balance_age_seconds" in told


async def test_after_a_429_nothing_is_asked(db: Database) -> None:
    """A balance can wait."""
    paused = Teller("100")
    paused.pacer = SimpleNamespace(paused_s=lambda: 30.0)
    made, _ = reader(db, acme=paused)
    running = asyncio.create_task(made.run())
    await settled()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert paused.asked == []


async def test_a_process_that_only_answers_requests_reads_nothing(db: Database) -> None:
    """It looks into the store, and knows what another process has read."""
    teller = Teller("100")
    engine, _ = reader(db, acme=teller)
    await engine.refresh()
    await engine.read(RULE)
    api, _ = reader(db, reads=False, acme=teller)
    running = asyncio.create_task(api.run())
    await settled()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(teller.asked) == 1
    told = api._funds.shortage("acme", ACCOUNT, "USDC", Decimal(101))
    assert told == "VAULT A lacks 1 USDC"


async def test_rules_that_are_not_active_change_nothing(db: Database) -> None:
    """Who reserves is decided by the active configuration."""
    made, _ = reader(db, acme=Teller("100"))
    made._rules.active = False
    await made.refresh()
    assert (await accounts(db)) == {}
    made._rules.active = True
    await made.refresh()
    assert (await accounts(db))["acme"]["reserving"] == 1


async def test_a_store_that_nobody_else_writes_is_not_read_at_every_look(db: Database) -> None:
    """This process remembers what it changes itself. Another process's commit is looked at."""
    made, metrics = reader(db, acme=Teller("100"))
    await made.read(RULE)
    await made.look()
    before = db.statements
    for _ in range(11):
        await made.look()
    assert db.statements == before
    assert 'payout_gateway_account_balance{account="A",asset="USDC"' in generate_latest(
        metrics.registry
    ).decode("utf-8")
    await made.look()
    assert db.statements == before + 1
    async with Database(db.path) as other:
        await other.run(rows.write_fault, RULE.key, "of another process")
    # A change of this process sees that another one has committed, as each heartbeat does.
    await db.run(rows.open_account, "bank", ACCOUNT)
    await made.look()
    known = made._funds.known_row(RULE.key)
    assert known is not None
    assert known["fault"] == "of another process"
