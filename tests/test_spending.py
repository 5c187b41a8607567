"""Limits: what they refuse, what they count, and that they add up whatever happens in between."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from gateway.adapter import Failure, FailureCode, FundsMoved, Report, SubStatus
from gateway.assets import AssetRegistry
from gateway.batches.service import Batches
from gateway.caller import Caller
from gateway.config.spending import PriceSettings, SpendingSettings, limit_faults
from gateway.errors import Refused
from gateway.model import (
    Account,
    AddressDestination,
    CustodianAccountDestination,
)
from gateway.model import (
    FundsMoved as Moved,
)
from gateway.payouts import Payouts
from gateway.quotes import Quotes
from gateway.routing.prices import PriceTable
from gateway.runtime import Ids, real_runtime
from gateway.spending import Spending, counter_view
from gateway.spending_rules import (
    Rules,
    Spend,
    destination_of,
    digest_of_destination,
    window_of,
)
from gateway.store import batches as batch_rows
from gateway.store.database import Database, Query, Tx
from gateway.store.payouts import payout_row
from gateway.store.schema import payouts
from gateway.store.schema_spending import spending_entries
from gateway.store.spending import all_counters, entries_of, purge_counters
from gateway.vault import Vault
from tests.clock import SetClock
from tests.databases import make_database
from tests.execution.conftest import CAN, Bench
from tests.execution.script import as_set

ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
SPEND = Spend(
    org="acme",
    mode="live",
    key_id="key_1",
    custodian="fb",
    account=Account(id="A", type="VAULT"),
    asset="USDC",
    destination="X/p",
    amount=Decimal(100),
)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def rules(prices: dict[str, str] | None = None, **settings: Any) -> Rules:
    """Return the rules of a configuration."""
    table = PriceTable(AssetRegistry(), PriceSettings.model_validate({"usd": prices or {}}))
    return Rules(SpendingSettings.model_validate(settings), table.usd)


def refused(made: Rules, **changed: Any) -> tuple[str, Any] | None:
    """Return which limit refuses a payout alone, and when it frees."""
    try:
        made.check(replace(SPEND, **changed))
    except Refused as error:
        assert error.code == "limit_exceeded"  # noqa: PT017 - a value is returned
        return error.members["limit"], error.members["frees_at"]
    return None


def test_every_payout_has_a_cap() -> None:
    """100,000 US dollars, unless it is raised on purpose; equal to the cap is allowed."""
    assert refused(rules(), amount=Decimal(100_000)) is None
    assert refused(rules(), amount=Decimal("100000.000001")) == ("payout_cap_usd", None)
    assert refused(rules(payout_cap_usd="250000"), amount=Decimal(200_000)) is None
    assert refused(rules({"ETH": "3000"}), asset="ETH", amount=Decimal(33)) is None
    assert refused(rules({"ETH": "3000"}), asset="ETH", amount=Decimal(34)) == (
        "payout_cap_usd",
        None,
    )


def test_an_asset_without_a_price_needs_a_cap_of_its_own() -> None:
    """Otherwise no limit could hold for it."""
    assert refused(rules(), asset="ETH", amount=Decimal("0.001")) == ("asset_caps", None)
    own = rules(asset_caps={"ETH": "2"})
    assert refused(own, asset="ETH", amount=Decimal(2)) is None
    assert refused(own, asset="ETH", amount=Decimal("2.01")) == ("asset_caps", None)
    both = rules({"ETH": "300000"}, asset_caps={"ETH": "2"})
    assert refused(both, asset="ETH", amount=Decimal(1)) == ("payout_cap_usd", None)


@pytest.mark.parametrize(
    ("only", "is_about"),
    [
        ({}, True),
        ({"org": "acme"}, True),
        ({"org": "other"}, False),
        ({"key": "key_2"}, False),
        ({"custodian": "fb", "account": "A"}, True),
        ({"account": "B"}, False),
        ({"asset": "EURC"}, False),
        ({"unit": "USDC"}, True),
        ({"unit": "ETH"}, False),
        ({"destination": "X/p"}, True),
        ({"destination": "p"}, False),
    ],
)
def test_what_a_limit_is_about(only: dict[str, Any], is_about: bool) -> None:
    """All that it names must fit."""
    made = rules(limits=[{"name": "small", "per": "payout", "amount": "50", **only}])
    assert (refused(made) == ("small", None)) is is_about


def test_a_limit_of_an_address_holds_in_any_case_of_letters() -> None:
    """Payouts have it with its checksum; an operator copies it from wherever it is shown."""
    made = rules(
        limits=[{"name": "small", "per": "payout", "amount": "50", "destination": ADDRESS.lower()}]
    )
    assert refused(made, destination=ADDRESS) == ("small", None)
    assert refused(made, destination="0x" + "1" * 40) is None
    solana = "9xQeWvG816bUx9EPjHmaT23yvVM2ZWbrrpZb9PusVFin"
    other = rules(
        limits=[{"name": "small", "per": "payout", "amount": "50", "destination": solana.lower()}]
    )
    assert refused(other, destination=solana) is None


def test_windows_end_at_midnight_utc() -> None:
    """A day and a month, the last of a year included, by UTC and nothing else."""
    last = datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    first = datetime(2027, 1, 1, tzinfo=UTC)
    assert window_of("day", last) == ("2026-12-31", first)
    assert window_of("month", last) == ("2026-12", first)
    assert window_of("day", first)[0] == "2027-01-01"
    assert window_of("month", first) == ("2027-01", datetime(2027, 2, 1, tzinfo=UTC))


def test_what_a_payee_is_called() -> None:
    """By its address, or its id."""
    assert destination_of(AddressDestination(network="Ethereum", address=ADDRESS)) == ADDRESS
    assert destination_of(CustodianAccountDestination(account_type="X", id="p")) == "X/p"


def test_limits_that_cannot_be_meant() -> None:
    """Each is named at start."""
    settings = SpendingSettings.model_validate(
        {
            "limits": [
                {"name": "a", "per": "day"},
                {"name": "a", "per": "payout", "count": 3},
                {"name": "b", "per": "day", "amount": "1", "unit": "USDC", "asset": "EURC"},
                {"name": "c", "per": "day", "count": 1, "custodian": "gone"},
            ]
        }
    )
    found = "\n".join(limit_faults(settings, frozenset({"fb"})))
    assert found.count("spending.limits") == 5
    for words in (
        "another limit",
        "amount, count",
        "no count",
        "only of EURC",
        "no custodian gone",
    ):
        assert words in found


def test_a_price_is_exact() -> None:
    """Zero, and more digits than a product could have, are refused."""
    for text in ("0", "1." + "3" * 30):
        with pytest.raises(ValueError, match="usd"):
            PriceSettings.model_validate({"usd": {"ETH": text}})


# --- Counted -------------------------------------------------------------------------------------

DAILY = {"name": "daily", "per": "day", "amount": "100", "each": ["org"]}
COUNTED = {"name": "five", "per": "month", "count": 5, "each": ["key"]}


class Till(Bench):
    """A bench whose payouts are counted."""

    def limit(self, *limits: dict[str, Any], prices: dict[str, str] | None = None) -> None:
        """Set limits."""
        self.spending = Spending(rules(prices, limits=limits))
        vault = Vault(bytes(32), self.runtime.ids)
        self.payouts = Payouts(self.runtime, vault, spending=self.spending)
        self.recorder = type(self.recorder)(self.runtime, self.payouts, "acme", self.capabilities)

    async def pay(self, amount: str = "5") -> str | None:
        """Accept a payout; None: a limit refused it."""
        quote_id = await self.quote(amount)
        try:
            return (await self.db.run(self.payouts.accept, self.caller, quote_id)).id
        except Refused as error:
            assert error.code == "limit_exceeded"  # noqa: PT017 - a value is returned
            self.frees_at = error.members["frees_at"]
            return None

    async def fail(self, payout_id: str, moved: Moved) -> None:
        """End a payout as failed."""
        failure = Failure(code=FailureCode.POLICY_REJECTED, message="no", funds_moved=moved)
        news = Report(SubStatus.FAILED, "NO", failure=failure)
        await self.db.run(self.payouts.apply, payout_id, news)

    async def spent(self) -> dict[str, tuple[int, Decimal]]:
        """Return the counters, by limit and window."""
        return {
            f"{row['rule']} {row['mode']} {row['window']}": (row["count"], Decimal(row["amount"]))
            for row in await self.db.read(all_counters)
        }


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database."""
    return make_database(tmp_path_factory.mktemp("empty") / "empty.db")


@pytest.fixture
async def till(tmp_path: Path, empty: Path) -> AsyncIterator[Till]:
    """A bench on a fresh database, at noon."""
    path = tmp_path / "till.db"
    shutil.copy(empty, path)
    clock = SetClock(NOON)
    runtime = replace(real_runtime(), clock=clock, ids=Ids(clock))
    async with Database(path) as db:
        yield Till(db, clock, runtime, CAN)


async def test_a_limit_names_itself_and_when_it_frees(till: Till) -> None:
    """Exactly up to it; the quote is not used up, and counts once the window has ended."""
    till.limit(DAILY)
    assert await till.pay("60") is not None
    assert await till.pay("40.000001") is None
    assert till.frees_at == "2026-03-03T00:00:00.000Z"
    assert await till.pay("40") is not None
    assert await till.pay("0.000001") is None
    assert await till.pay("101") is None
    assert till.frees_at is None
    await till.clock.advance(12 * 3600 - 1)
    quote_id = await till.quote("5")
    with pytest.raises(Refused, match="daily"):
        await till.db.run(till.payouts.accept, till.caller, quote_id)
    await till.clock.advance(1)
    assert (await till.db.run(till.payouts.accept, till.caller, quote_id)).id
    assert await till.spent() == {
        "daily live 2026-03-02": (2, Decimal(100)),
        "daily live 2026-03-03": (1, Decimal(5)),
    }


async def test_counts_count_each_of_what_they_are_for(till: Till) -> None:
    """A key of its own has a counter of its own; an org shares one."""
    till.limit(COUNTED)
    assert [await till.pay() is not None for _ in range(6)] == [True] * 5 + [False]
    assert till.frees_at == "2026-04-01T00:00:00.000Z"
    till.caller = Caller("acme-org", "live", "key_2")
    assert await till.pay() is not None


async def test_only_what_is_certainly_unpaid_is_given_back(till: Till) -> None:
    """To the window that it was counted in; whatever else becomes of a payout is spent."""
    till.limit(DAILY, COUNTED)
    ids = [await till.pay("20") for _ in range(5)]
    assert all(ids)
    await till.clock.advance(24 * 3600)
    for payout_id, moved in zip(ids, (Moved.NO, Moved.UNKNOWN, Moved.YES), strict=False):
        assert payout_id is not None
        await till.fail(payout_id, moved)
        await till.fail(payout_id, Moved.NO)
    assert ids[3] is not None
    await till.db.run(till.payouts.apply, ids[3], Report(SubStatus.DELIVERED, "DONE"))
    spent = await till.spent()
    assert spent["daily live 2026-03-02"] == (4, Decimal(80))
    assert spent["five live 2026-03"] == (4, Decimal(0))
    assert ids[0] is not None
    assert await till.db.read(entries_of, [ids[0]]) == []


async def test_an_operators_command_gives_back_as_the_gateway_does(till: Till) -> None:
    """It knows no limits; what was counted is in the rows."""
    till.limit(DAILY, COUNTED)
    payout_id = await till.pay("100")
    assert payout_id is not None
    plain = Payouts(till.runtime, Vault(bytes(32), till.runtime.ids))
    failure = Failure(
        code=FailureCode.OPERATOR_DECISION, message="looked", funds_moved=FundsMoved.NO
    )
    await till.db.run(plain.apply, payout_id, Report(SubStatus.FAILED, "", failure=failure))
    assert (await till.spent())["daily live 2026-03-02"] == (0, Decimal(0))
    assert await till.pay("100") is not None


async def test_a_price_that_changes_gives_back_what_was_taken(till: Till) -> None:
    """An entry has its price with it."""
    till.limit({**DAILY, "amount": "1000"}, prices={"USDC": "1.25"})
    payout_id = await till.pay("8")
    assert payout_id is not None
    assert await till.spent() == {"daily live 2026-03-02": (1, Decimal(10))}
    till.limit({**DAILY, "amount": "1000"}, prices={"USDC": "2"})
    await till.fail(payout_id, Moved.NO)
    assert await till.spent() == {"daily live 2026-03-02": (0, Decimal(0))}


async def test_test_keys_have_counters_of_their_own(till: Till) -> None:
    """What is played with leaves live limits as they are. A repeated payout counts once."""
    till.limit(DAILY)
    router = till.quotes._router
    instance = replace(router.instances()[0], modes=frozenset({"live", "test"}))
    till.quotes._router = type(router)([instance], [each for _, each in router._routes])
    assert await till.pay("100") is not None
    till.caller = Caller("acme-org", "test", "key_1")
    quote_id = await till.quote("70")
    first = await till.db.run(till.payouts.accept, till.caller, quote_id)
    again = await till.db.run(till.payouts.accept, till.caller, quote_id)
    assert first.id == again.id
    assert await till.spent() == {
        "daily live 2026-03-02": (1, Decimal(100)),
        "daily test 2026-03-02": (1, Decimal(70)),
    }


async def test_a_clock_that_is_set_counts_in_the_day_that_it_says(till: Till) -> None:
    """Back and forth: each day keeps what it has counted."""
    till.limit(DAILY)
    assert await till.pay("60") is not None
    till.clock.step(24 * 3600)
    assert await till.pay("60") is not None
    till.clock.step(-24 * 3600)
    assert await till.pay("60") is None
    assert await till.pay("40") is not None


async def test_fifty_callers_reach_a_limit_in_the_same_second(till: Till) -> None:
    """As many pass as fit, exactly; no quote of the others is used up."""
    till.limit({**DAILY, "amount": "100"}, {**COUNTED, "count": 17})
    quotes = [await till.quote("7") for _ in range(50)]

    async def one(quote_id: str) -> bool:
        try:
            await till.db.run(till.payouts.accept, till.caller, quote_id)
        except Refused as error:
            assert error.code == "limit_exceeded"  # noqa: PT017 - the others must not be refused
            return False
        return True

    passed = await asyncio.gather(*map(one, quotes))
    assert sum(passed) == 14
    assert await till.spent() == {
        "daily live 2026-03-02": (14, Decimal(98)),
        "five live 2026-03": (14, Decimal(0)),
    }


async def test_fifty_callers_on_two_gateways(till: Till) -> None:
    """Two processes have connections of their own, and one counter."""
    till.limit(DAILY)
    quotes = [await till.quote("7") for _ in range(50)]
    async with Database(till.db.path) as other:

        async def one(number: int, quote_id: str) -> bool:
            db = (till.db, other)[number % 2]
            try:
                await db.run(till.payouts.accept, till.caller, quote_id)
            except Refused:
                return False
            return True

        passed = await asyncio.gather(*(one(n, each) for n, each in enumerate(quotes)))
    assert sum(passed) == 14
    assert (await till.spent())["daily live 2026-03-02"] == (14, Decimal(98))


@pytest.mark.parametrize("seed", range(12))
async def test_counters_add_up(till: Till, seed: int) -> None:  # noqa: C901 - one per step
    """Whatever is accepted, refused, failed, delivered and lost in between, days included.

    Each counter is the sum of the payouts of its window that are not certainly unpaid.
    """
    chance = random.Random(seed)
    till.limit({**DAILY, "amount": "60"}, COUNTED | {"count": 30})
    alive: dict[str, tuple[str, Decimal]] = {}
    open_ones: list[str] = []

    async def dies(tx: Tx, quote_id: str) -> None:
        await till.payouts.accept(tx, till.caller, quote_id)
        raise OSError("the process dies before its commit")

    for _ in range(60):
        step = chance.choice(["pay"] * 4 + ["no", "unknown", "done", "day", "crash"])
        amount = Decimal(chance.randint(1, 20_000_000)) / 1_000_000
        if step == "pay":
            day = f"{till.clock.now():%Y-%m-%d}"
            before = sum((each for at, each in alive.values() if at == day), Decimal(0))
            payout_id = await till.pay(f"{amount:f}")
            assert (payout_id is not None) == (before + amount <= 60 and len(alive) < 30)
            if payout_id is not None:
                alive[payout_id] = (day, amount)
                open_ones.append(payout_id)
        elif step == "crash":
            quote_id = await till.quote("1")
            with pytest.raises((OSError, Refused)):
                await till.db.run(dies, quote_id)
        elif step == "day":
            await till.clock.advance(chance.choice([3600, 24 * 3600]))
        elif open_ones:
            payout_id = open_ones.pop(chance.randrange(len(open_ones)))
            if step == "no":
                await till.fail(payout_id, Moved.NO)
                del alive[payout_id]
            elif step == "unknown":
                await till.fail(payout_id, Moved.UNKNOWN)
            else:
                done = Report(SubStatus.DELIVERED, "DONE")
                await till.db.run(till.payouts.apply, payout_id, done)
    days = {day for day, _ in alive.values()}
    spent = await till.spent()
    for day in days:
        of_day = [amount for at, amount in alive.values() if at == day]
        assert spent[f"daily live {day}"] == (len(of_day), sum(of_day))
    assert all(
        value == (0, Decimal(0))
        for name, value in spent.items()
        if name.startswith("daily") and name.rsplit(" ", 1)[1] not in days
    )
    assert spent["five live 2026-03"][0] == len(alive)


async def test_a_batch_is_counted_whole(till: Till) -> None:
    """At its execution, or not at all; each item that is certainly unpaid gives its own back."""
    till.limit(DAILY, {**COUNTED, "count": 4}, {**DAILY, "name": "payee", "each": ["destination"]})
    quotes = Quotes(
        till.quotes._router, AssetRegistry(), till.runtime, till.quotes._custodians, None
    )
    batches = Batches(till.runtime, quotes, frozenset(), "https://g.example", till.spending)
    plain = Payouts(till.runtime, Vault(bytes(32), till.runtime.ids))
    counted, till.payouts = till.payouts, plain
    ids = [await till.accept("30") for _ in range(3)]
    await till.db.run(as_set, till, ids, "bat_1")

    async def ready(tx: Tx) -> None:
        later = 2**60
        await batch_rows.update_batch(
            tx, "bat_1", state="requested", executed_at=None, expires_at=later
        )

    await till.db.run(ready)
    till.payouts = counted
    other = await till.pay("20")
    assert other is not None
    with pytest.raises(Refused, match="daily"):
        await till.db.run(batches.execute, till.caller, "bat_1")
    assert (await till.spent())["daily live 2026-03-02"] == (1, Decimal(20))
    await till.fail(other, Moved.NO)
    await till.db.run(batches.execute, till.caller, "bat_1")
    assert await till.spent() == {
        "daily live 2026-03-02": (3, Decimal(90)),
        "five live 2026-03": (3, Decimal(0)),
        "payee live 2026-03-02": (3, Decimal(90)),
    }
    await till.fail(ids[0], Moved.NO)
    await till.fail(ids[1], Moved.UNKNOWN)
    assert await till.spent() == {
        "daily live 2026-03-02": (2, Decimal(60)),
        "five live 2026-03": (2, Decimal(0)),
        "payee live 2026-03-02": (2, Decimal(60)),
    }


async def test_an_operator_sees_of_what_a_counter_is(till: Till) -> None:
    """By name: of a payee the counter has a digest, and a payout or batch that it counted has the name."""
    each = ["org", "account", "destination"]
    till.limit({**DAILY, "each": each}, {**COUNTED, "name": "all"})

    async def shown() -> dict[Any, Any]:
        async def read(tx: Tx) -> list[dict[str, object]]:
            wanted = {"daily": each, "all": []}
            return [
                await counter_view(tx, row, wanted[row["rule"]]) for row in await all_counters(tx)
            ]

        return {row["limit"]: row["subject"] for row in await till.db.read(read)}

    payout_id = await till.accept()
    named = "org acme-org, account VAULT A of acme, payee"
    assert await shown() == {"all": None, "daily": f"{named} X/p"}

    async def hand_to_a_batch(tx: Tx) -> None:
        await tx.all(Query(update(spending_entries).values(owner_id="bat_1")))

    await till.db.run(as_set, till, [payout_id], "bat_1")
    await till.db.run(hand_to_a_batch)
    assert (await shown())["daily"] == f"{named} X/p"

    async def erase(tx: Tx) -> None:
        destination = {"type": "custodian_account", "account_type": "X", "id": "erased"}
        row = await payout_row(tx, payout_id)
        assert row is not None
        terms = json.loads(row["terms"]) | {"destination": destination}
        await tx.all(Query(update(payouts).values(terms=json.dumps(terms))))

    await till.db.run(erase)
    digest = digest_of_destination("X/p")
    assert (await shown())["daily"] == f"{named} {digest} (erased)"


@pytest.mark.parametrize("each", ["asset", "destination"])
async def test_a_payout_gives_back_its_own_part_alone(till: Till, each: str) -> None:
    """Of a batch in several assets, or to several payees, each counter has its own payouts."""
    till.limit({**DAILY, "each": [each]}, prices={"EURC": "1"})
    payout_id = await till.pay("20")
    assert payout_id is not None
    spend = replace(SPEND, amount=Decimal(7), destination="X/q")
    if each == "asset":
        spend = replace(spend, asset="EURC", destination="X/p")

    async def of_another(tx: Tx) -> None:
        held = await till.spending._hold(tx, [spend], till.clock.now())
        assert held is not None
        await Spending.write(tx, payout_id, held)

    await till.db.run(of_another)
    await till.fail(payout_id, Moved.NO)
    left = sorted(Decimal(row["amount"]) for row in await till.db.read(all_counters))
    assert left == [0, 7]


@pytest.mark.parametrize("each", [["org"], ["destination"]])
async def test_what_has_ended_before_the_execution_is_not_counted(
    till: Till, each: list[str]
) -> None:
    """An item that an operator has ended meanwhile: it could not give anything back any more."""
    till.limit({**DAILY, "each": each})
    batches = Batches(till.runtime, till.quotes, frozenset(), "https://g.example", till.spending)
    counted, till.payouts = till.payouts, Payouts(till.runtime, Vault(bytes(32), till.runtime.ids))
    ids = [await till.accept("30") for _ in range(3)]
    await till.db.run(as_set, till, ids, "bat_1")
    terms = {"state": "requested", "executed_at": None, "expires_at": 2**60}

    async def ready(tx: Tx) -> None:
        await batch_rows.update_batch(tx, "bat_1", **terms)

    await till.db.run(ready)
    till.payouts = counted
    await till.fail(ids[0], Moved.NO)
    await till.db.run(batches.execute, till.caller, "bat_1")
    assert await till.spent() == {"daily live 2026-03-02": (2, Decimal(60))}


async def test_another_execution_counts_nothing_again(till: Till) -> None:
    """A retry, or a new session, is the same payout."""
    till.limit(DAILY)
    assert await till.pay("60") is not None
    job = await till.begin()
    failure = Failure(code=FailureCode.POLICY_REJECTED, message="again", funds_moved=FundsMoved.NO)
    again = Report(SubStatus.FAILED, "NO", failure=failure, reopens=True)
    await till.submitted(job, again, moved=True)
    assert (await till.execution(job.items[0].id))["number"] == 2
    assert await till.spent() == {"daily live 2026-03-02": (1, Decimal(60))}


async def test_limits_cost_few_statements(till: Till) -> None:
    """None where nothing is counted; at most 8 more, however many limits there are."""

    async def cost() -> int:
        quote_id = await till.quote("1")
        before = till.db.statements
        await till.db.run(till.payouts.accept, till.caller, quote_id)
        return till.db.statements - before

    plain = await cost()
    till.limit({"name": "cap", "per": "payout", "amount": "50"})
    assert await cost() == plain
    many = [{**DAILY, "name": f"n{n}", "each": ["org", "asset"]} for n in range(20)]
    till.limit(*many)
    assert plain < await cost() <= plain + 8


async def test_old_windows_are_forgotten(till: Till) -> None:
    """With what payouts have added to them; later ones stay."""
    till.limit(DAILY, COUNTED)
    assert await till.pay("5") is not None
    await till.clock.advance(40 * 24 * 3600)
    assert await till.pay("5") is not None
    assert await till.db.run(purge_counters, "2026-04", 100) == 2
    assert set(await till.spent()) == {"daily live 2026-04-11", "five live 2026-04"}
