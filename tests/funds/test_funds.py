"""Reservations: what is accepted, what is released when, and that it is never more than the balance."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.adapter import Report
from gateway.batches.runner import BatchSteps, Handover
from gateway.batches.service import Batches
from gateway.errors import Refused
from gateway.execution.record import Recorded
from gateway.execution.state import Job
from gateway.funds.balances import Balances
from gateway.funds.reservations import AccountRule, Funds
from gateway.model import FundsMoved, Status, SubStatus
from gateway.payouts import Payouts
from gateway.runtime import Ids, real_runtime
from gateway.spending import Spending
from gateway.store import batches as batch_rows
from gateway.store import executions
from gateway.store.database import Database, Tx
from gateway.store.funds import distrust_balances, is_waiting
from gateway.store.payouts import find_payout, payout_row
from gateway.store.postgres.database import PostgresDatabase
from gateway.vault import Vault
from tests import postgres
from tests.bank import (
    ACCOUNT,
    MAX_AGE_S,
    OTHER,
    RULE,
    VISIBILITY_S,
    Bank,
    Process,
    failed_report,
    waiting_rule,
)
from tests.clock import SetClock
from tests.databases import make_database
from tests.execution.conftest import CAN
from tests.execution.script import as_set
from tests.live_rows import compared
from tests.test_spending import COUNTED, DAILY, rules

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
NO, YES, UNKNOWN = FundsMoved.NO, FundsMoved.YES, FundsMoved.UNKNOWN


@pytest.fixture(autouse=True)
def exact_rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compare the writer's live rows with the database after every change of every test here."""
    with compared(monkeypatch):
        yield


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database."""
    return make_database(tmp_path_factory.mktemp("empty") / "empty.db")


@asynccontextmanager
async def opened(path: Path, empty: Path, store: str) -> AsyncIterator[tuple[Any, Any]]:
    """Open two stores on one fresh database, as two processes would."""
    if store == "postgresql":
        with postgres.fresh() as server:
            async with PostgresDatabase(server) as one, PostgresDatabase(server) as other:
                yield one, other
        return
    shutil.copy(empty, path)
    async with Database(path) as one, Database(path) as other:
        yield one, other


@pytest.fixture
async def bank(tmp_path: Path, empty: Path, store: str) -> AsyncIterator[Bank]:
    """A bench on a fresh database, whose account holds 100 USDC."""
    clock = SetClock(NOON)
    runtime = replace(real_runtime(), clock=clock, ids=Ids(clock))
    async with opened(tmp_path / "bank.db", empty, store) as (db, other):
        made = Bank(db, clock, runtime, replace(CAN, one_at_a_time=False))
        made.other = other
        made.configure()
        await made.settle()
        await made.process.read("100")
        yield made


@pytest.mark.both_stores
async def test_no_more_is_accepted_than_the_balance_covers(bank: Bank) -> None:
    """Exactly up to it. The refusal says how much is missing, and the quote serves once it is there."""
    assert await bank.pay("60")
    quote_id = await bank.quote("40.000001")
    with pytest.raises(Refused) as refused:
        await bank.db.run(bank.payouts.accept, bank.caller, quote_id)
    assert refused.value.code == "insufficient_funds"
    assert refused.value.members == {
        "needed": "0.000001",
        "asset": "USDC",
        "network_with_lowest_top_up_fee": None,
    }
    assert await bank.reserved() == (60, 0)
    await bank.process.read("100.000001")
    assert (await bank.db.run(bank.payouts.accept, bank.caller, quote_id)).id
    assert await bank.pay("0.000001") is None
    assert await bank.reserved() == (Decimal("100.000001"), 0)


async def test_a_fee_is_reserved_with_its_amount(bank: Bank) -> None:
    """Both leave the account."""
    bank.configure(fee={"flat": "3"})
    assert await bank.pay("100")
    assert await bank.reserved() == (100, 0)
    assert await bank.pay("3.5") is None


async def test_a_quote_reserves_nothing_and_tells_of_a_shortage(bank: Bank) -> None:
    """By what is known of the account; a payout that is unpaid makes room for it."""
    assert bank.funds.shortage("acme", ACCOUNT, "USDC", Decimal(100)) is None
    paid = await bank.pay("60")
    assert paid
    await bank.quote("70")
    assert await bank.reserved() == (60, 0)
    request = bank.request("70")
    quote, _ = bank.quotes.draft(bank.caller, request)
    assert quote.insufficient_funds is not None
    assert quote.insufficient_funds.model_dump() == {
        "needed": "30",
        "asset": "USDC",
        "network_with_lowest_top_up_fee": None,
    }
    told = bank.funds.shortage("acme", ACCOUNT, "USDC", Decimal(41))
    assert told == "VAULT A lacks 1 USDC"
    assert bank.funds.shortage("acme", ACCOUNT, "EURC", Decimal(1)) == "VAULT A lacks 1 EURC"
    assert bank.funds.shortage("acme", OTHER, "USDC", Decimal(41)) is None
    await bank.end(paid, NO)
    assert bank.quotes.draft(bank.caller, request)[0].insufficient_funds is None
    await bank.clock.advance(MAX_AGE_S + 1)
    assert bank.funds.shortage("acme", ACCOUNT, "USDC", Decimal(10**9)) is None


@pytest.mark.both_stores
@pytest.mark.parametrize("moved", [None, YES, UNKNOWN, NO])
async def test_what_releases_a_reservation(bank: Bank, moved: FundsMoved | None) -> None:
    """An end that is certainly unpaid at once; one that moved money by a later read; an unknown one by nobody."""
    paid = await bank.pay("60")
    assert paid
    await bank.end(paid, moved)
    kept = 0 if moved is NO else 60
    assert await bank.reserved() == (kept, 0)
    # The end is noted when a read begins, and released by one that begins `visibility` later.
    await bank.process.read("40")
    assert await bank.reserved() == (kept, 0)
    await bank.clock.advance(VISIBILITY_S - 0.001)
    await bank.process.read("40")
    assert await bank.reserved() == (kept, 0)
    await bank.clock.advance(0.001)
    await bank.process.read("40")
    assert await bank.reserved() == (60 if moved is UNKNOWN else 0, 0)
    for _ in range(3):
        await bank.clock.advance(3600)
        await bank.process.read("40")
    assert await bank.reserved() == (60 if moved is UNKNOWN else 0, 0)


@pytest.mark.both_stores
async def test_an_unknown_outcome_is_released_by_an_operator(bank: Bank) -> None:
    """Once, and nothing else is."""
    paid, unknown = await bank.pay("60"), await bank.pay("30")
    assert paid
    assert unknown
    await bank.end(unknown, UNKNOWN)

    async def release(tx: Tx, payout_id: str) -> str | None:
        row = await payout_row(tx, payout_id)
        assert row is not None
        return await bank.funds.release(tx, row)

    assert "has not failed" in str(await bank.db.run(release, paid))
    assert await bank.db.run(release, unknown) is None
    assert await bank.db.run(release, unknown) == "nothing is reserved for it"
    assert await bank.reserved() == (60, 0)


async def test_a_read_that_began_before_the_end_releases_nothing(bank: Bank) -> None:
    """However late its answer is written."""
    paid = await bank.pay("60")
    assert paid
    begun = await bank.process.begin_read()
    await bank.end(paid, None)
    await bank.clock.advance(3600)
    assert await bank.process.end_read(begun, ("USDC", None, "100"))
    assert await bank.reserved() == (60, 0)


async def test_a_slow_answer_brings_no_old_balance_back(bank: Bank) -> None:
    """A read that was begun earlier, and is written later, is dropped."""
    paid = await bank.pay("60")
    assert paid
    slow = await bank.process.begin_read()
    await bank.end(paid, None)
    await bank.process.read("40")
    await bank.clock.advance(VISIBILITY_S)
    await bank.process.read("40")
    assert await bank.reserved() == (0, 0)
    assert not await bank.process.end_read(slow, ("USDC", None, "100"))
    assert await bank.pay("41") is None
    assert bank.lacks == "1"


async def test_an_old_balance_refuses(bank: Bank) -> None:
    """Its age is elapsed time since its read began; a wall clock that is set changes nothing."""
    bank.clock.step(10 * MAX_AGE_S)
    await bank.clock.advance(MAX_AGE_S)
    assert await bank.pay("1")
    bank.clock.step(-20 * MAX_AGE_S)
    await bank.clock.advance(0.001)
    quote_id = await bank.quote("1")
    with pytest.raises(Refused) as refused:
        await bank.db.run(bank.payouts.accept, bank.caller, quote_id)
    assert refused.value.code == "balance_unknown"
    assert refused.value.headers["Retry-After"] == "10"
    await bank.process.read("100")
    assert (await bank.db.run(bank.payouts.accept, bank.caller, quote_id)).id


async def test_a_balance_of_another_clock_has_no_age(bank: Bank) -> None:
    """After a reboot, or on another machine, until this process knows when its read cannot have begun."""
    bank.clock.reboot()
    bank.configure()
    with pytest.raises(Refused, match="balance_unknown"):
        await bank.pay("1")
    await bank.process.refresh()
    with pytest.raises(Refused, match="balance_unknown"):
        await bank.pay("1")
    # Another machine reads. This one has seen, ten seconds ago, that it had not begun.
    clock = SetClock(NOON)
    runtime = replace(real_runtime(), clock=clock, ids=Ids(clock))
    other = Process(bank.db, runtime, [RULE], bank.route)
    await bank.clock.advance(10)
    await other.read("100")
    await bank.process.refresh()
    assert await bank.pay("1")
    await bank.clock.advance(MAX_AGE_S - 10)
    assert await bank.pay("1")
    await bank.clock.advance(0.001)
    with pytest.raises(Refused, match="balance_unknown"):
        await bank.pay("1")


async def test_an_end_that_another_clock_has_dated(bank: Bank) -> None:
    """The wait starts again when this process sees it."""
    paid = await bank.pay("60")
    assert paid
    await bank.end(paid, None)
    await bank.process.read("40")
    bank.clock.reboot()
    bank.configure()
    await bank.clock.advance(10 * VISIBILITY_S)
    await bank.process.read("40")
    assert await bank.reserved() == (60, 0)
    await bank.clock.advance(VISIBILITY_S)
    await bank.process.read("40")
    assert await bank.reserved() == (0, 0)


@pytest.mark.both_stores
async def test_fifty_callers_and_one_balance(bank: Bank) -> None:
    """As many pass as fit, exactly; no quote of the others is used up.

    On PostgreSQL transactions are undone because of each other, and run again: nothing is reserved twice.
    """
    quotes = [await bank.quote("7") for _ in range(50)]
    second = Process(bank.other, bank.runtime, [RULE], bank.route)

    async def one(number: int, quote_id: str) -> bool:
        process = (bank.process, second)[number % 2]
        try:
            await process.db.run(process.payouts.accept, bank.caller, quote_id)
        except Refused as error:
            assert error.code == "insufficient_funds"  # noqa: PT017 - the others must not be refused
            return False
        return True

    passed = await asyncio.gather(*(one(n, each) for n, each in enumerate(quotes)))
    assert sum(passed) == 14
    assert await bank.reserved() == (98, 0)
    if isinstance(bank.db, PostgresDatabase):
        assert bank.db.conflicts + bank.other.conflicts > 0
    await bank.process.read("105")
    left = [each for each, done in zip(quotes, passed, strict=True) if not done]
    assert (await bank.db.run(bank.payouts.accept, bank.caller, left[0])).id


@pytest.mark.both_stores
async def test_releases_and_callers_at_once(bank: Bank) -> None:
    """Reads, ends and payouts of two processes change one account at the same time."""
    second = Process(bank.other, bank.runtime, [RULE], bank.route)
    ids = [await bank.pay("10") for _ in range(10)]
    quotes = [await bank.quote("10") for _ in range(20)]

    async def pay(number: int, quote_id: str) -> int:
        process = (bank.process, second)[number % 2]
        try:
            await process.db.run(process.payouts.accept, bank.caller, quote_id)
        except Refused:
            return 0
        return 1

    async def fail(number: int, payout_id: str | None) -> None:
        assert payout_id is not None
        process = (bank.process, second)[number % 2]
        await process.db.run(process.payouts.apply, payout_id, failed_report(NO))

    done = await asyncio.gather(
        *(fail(n, each) for n, each in enumerate(ids[:5])),
        *(pay(n, each) for n, each in enumerate(quotes)),
        *(each.read("100") for each in (bank.process, second)),
    )
    passed = sum(each for each in done[5:25] if isinstance(each, int))
    assert passed <= 5
    assert await bank.reserved() == (50 + 10 * passed, 0)
    assert [await bank.pay("10") is not None for _ in range(6)].count(True) == 5 - passed


async def test_test_keys_pay_from_the_same_account(bank: Bank) -> None:
    """A repeated payout reserves once."""
    bank.caller = bank.caller._replace(mode="test")
    quote_id = await bank.quote("70")
    first = await bank.db.run(bank.payouts.accept, bank.caller, quote_id)
    again = await bank.db.run(bank.payouts.accept, bank.caller, quote_id)
    assert first.id == again.id
    assert await bank.reserved() == (70, 0)


async def test_a_restart_keeps_what_is_reserved(bank: Bank) -> None:
    """Rows are the truth, and memory is not."""
    assert await bank.pay("60")
    bank.configure()
    await bank.settle()
    assert await bank.pay("41") is None
    assert await bank.reserved() == (60, 0)


async def test_an_expired_or_used_quote_is_told_as_that(bank: Bank) -> None:
    """Also where the account would not cover it."""
    quote_id, late = await bank.quote("60"), await bank.quote("60")
    payout = await bank.db.run(bank.payouts.accept, bank.caller, quote_id)
    with pytest.raises(Refused) as used:
        await bank.db.run(bank.payouts.accept, bank.caller, quote_id)
    assert used.value.members["payout_id"] == payout.id
    await bank.clock.advance(61)
    with pytest.raises(Refused, match="quote_expired"):
        await bank.db.run(bank.payouts.accept, bank.caller, late)


@pytest.mark.both_stores
async def test_an_account_without_balances_has_no_reservations(bank: Bank) -> None:
    """Its custodian says so when it is asked; what was reserved is forgotten, and what waited goes on."""
    bank.configure(on_shortage="wait")
    waits = await bank.pay("150")
    assert waits
    number, started = await bank.process.begin_read()
    await bank.db.run(bank.process.balances.note_unsupported, RULE, number, started)
    assert await bank.reserved() == (0, 0)
    assert not (await bank.execution(waits))["awaits_funds"]
    assert await bank.pay("10000")
    assert await bank.reserved() == (0, 0)


async def test_a_read_that_fails_leaves_the_balance_as_it_is(bank: Bank) -> None:
    """It grows older, and says why."""
    number, _ = await bank.process.begin_read()
    await bank.db.run(bank.process.balances.note_fault, RULE, number, "HTTP 503")
    assert (await bank.account())["fault"] == "HTTP 503"
    assert await bank.pay("100")
    await bank.process.read("100")
    assert (await bank.account())["fault"] is None


async def test_one_process_reads_an_account(bank: Bank) -> None:
    """The next read is due later, for everybody."""
    now = bank.runtime.clock.moment()
    later = bank.runtime.timeline.now() + 10_000_000
    first = await bank.db.run(bank.process.balances.begin_read, RULE, [], now, later)
    assert first is not None
    assert await bank.db.run(bank.process.balances.begin_read, RULE, [], now, later) is None
    await bank.clock.advance(10)
    again = await bank.db.run(bank.process.balances.begin_read, RULE, [], now, later)
    assert again == first + 1


# --- Waiting -------------------------------------------------------------------------------------


async def begun(bank: Bank) -> list[str]:
    """Claim what is due; return the payouts that would be sent."""
    jobs = [each for each in await bank.claim() if isinstance(each, Job)]
    return [job.items[0].id for job in jobs]


@pytest.mark.both_stores
async def test_a_payout_waits_where_its_route_says_so(bank: Bank) -> None:
    """It is accepted, nothing is sent, and no later one overtakes it; then they go on in their order."""
    bank.configure(on_shortage="wait")
    first = await bank.pay("60")
    big, small = await bank.pay("70"), await bank.pay("10")
    assert first
    assert big
    assert small
    assert await bank.reserved() == (60, 80)
    assert await begun(bank) == [first]
    assert (await bank.payout(big)).sub_status is SubStatus.AWAITING_FUNDS
    await bank.process.read("129")
    assert await bank.reserved() == (60, 80)
    assert await begun(bank) == []
    await bank.process.read("130")
    assert await bank.reserved() == (130, 10)
    assert await begun(bank) == [big]
    await bank.end(first, NO)
    assert await bank.reserved() == (80, 0)
    assert await begun(bank) == [small]


async def test_the_gate_asks_again(bank: Bank) -> None:
    """A worker that has begun nevertheless sets no mark."""
    bank.configure(on_shortage="wait")
    waits = await bank.pay("150")
    assert waits
    await bank.write(waits, awaits_funds=0)
    job = await bank.begin()
    await bank.write(waits, awaits_funds=1)
    order = bank.order(job)
    with pytest.raises(Exception, match="awaiting_funds"):
        await order.moving()


async def test_an_unknown_balance_waits_by_setting(bank: Bank) -> None:
    """Also on a route that refuses a shortage: whether there is one is not known."""
    bank.configure(rule=waiting_rule())
    await bank.clock.advance(MAX_AGE_S + 1)
    waits = await bank.pay("5")
    assert waits
    assert await begun(bank) == []
    await bank.process.read("100")
    assert await begun(bank) == [waits]
    assert await bank.pay("96") is None


@pytest.mark.parametrize("how", ["expiry", "cancel"])
async def test_what_waits_in_vain_ends_and_frees_its_place(bank: Bank, how: str) -> None:
    """A payout that could not be sent in time, or is canceled, waits for nothing any more."""
    bank.configure(on_shortage="wait")
    big, small = await bank.pay("150"), await bank.pay("50")
    assert big
    assert small
    if how == "cancel":
        await bank.end(big, NO)
    else:
        await bank.clock.advance(6 * 3600 + 1)
        ended = await bank.claim()
        assert all(isinstance(each, Recorded) for each in ended)
        assert (await bank.payout(big)).status is Status.FAILED
        assert (await bank.payout(small)).status is Status.FAILED
        assert await bank.reserved() == (0, 0)
        return
    assert await bank.reserved() == (50, 0)
    assert await begun(bank) == [small]


# --- Batches -------------------------------------------------------------------------------------


async def batch_of(bank: Bank, *amounts: str) -> tuple[Batches, list[str]]:
    """Store a batch that can be executed; return the use cases of batches, and its items."""
    kept, bank.payouts = bank.payouts, Process(bank.db, bank.runtime, [], bank.route).payouts
    ids = [await bank.accept(each) for each in amounts]
    await bank.db.run(as_set, bank, ids, "bat_1")

    async def ready(tx: Tx) -> None:
        for row in await executions.executions_of_batch(tx, "bat_1"):
            await executions.close(tx, row["id"], 0)
        later = 2**60
        await batch_rows.update_batch(
            tx, "bat_1", state="requested", executed_at=None, expires_at=later
        )

    await bank.db.run(ready)
    bank.payouts = kept
    none = frozenset[str]()
    return Batches(bank.runtime, bank.quotes, none, "https://g.example", None, bank.funds), ids


@pytest.mark.both_stores
async def test_a_batch_reserves_its_whole_sum(bank: Bank) -> None:
    """Or nothing, before its first set; each item gives back its own."""
    batches, ids = await batch_of(bank, "30", "30", "30.5")
    other = await bank.pay("20")
    assert other
    with pytest.raises(Refused) as refused:
        await bank.db.run(batches.execute, bank.caller, "bat_1")
    assert (refused.value.code, refused.value.members["needed"]) == ("insufficient_funds", "10.5")
    assert await bank.reserved() == (20, 0)
    await bank.end(other, NO)
    await bank.db.run(batches.execute, bank.caller, "bat_1")
    assert await bank.reserved() == (Decimal("90.5"), 0)
    await bank.end(ids[0], NO)
    assert await bank.reserved() == (Decimal("60.5"), 0)
    await bank.end(ids[1], None)
    await bank.process.read("70")
    await bank.end(ids[2], UNKNOWN)
    await bank.clock.advance(VISIBILITY_S)
    await bank.process.read("70")
    assert await bank.reserved() == (Decimal("30.5"), 0)

    async def release(tx: Tx) -> str | None:
        row = await payout_row(tx, ids[2])
        assert row is not None
        return await bank.funds.release(tx, row)

    await bank.db.run(release)
    assert await bank.reserved() == (0, 0)


@pytest.mark.both_stores
async def test_the_items_of_a_batch_end_one_after_another(bank: Bank) -> None:
    """What has ended is released in steps, each by a read that shows it."""
    batches, ids = await batch_of(bank, "10", "20", "30")
    await bank.db.run(batches.execute, bank.caller, "bat_1")
    await bank.end(ids[0], None)
    await bank.process.read("90")
    await bank.end(ids[1], YES)
    await bank.clock.advance(VISIBILITY_S)
    await bank.process.read("70")
    assert await bank.reserved() == (50, 0)
    await bank.process.read("70")
    await bank.clock.advance(VISIBILITY_S)
    await bank.process.read("70")
    assert await bank.reserved() == (30, 0)
    await bank.end(ids[2], None)
    await bank.process.read("40")
    await bank.clock.advance(VISIBILITY_S)
    await bank.process.read("40")
    assert await bank.reserved() == (0, 0)
    assert await bank.pay("40")


@pytest.mark.both_stores
async def test_a_batch_waits_where_its_route_says_so(bank: Bank) -> None:
    """Whole; until midnight UTC."""
    bank.configure(on_shortage="wait")
    batches, _ = await batch_of(bank, "60", "60")
    await bank.db.run(batches.execute, bank.caller, "bat_1")
    assert await bank.reserved() == (0, 120)
    assert await bank.db.read(is_waiting, "bat_1")
    row = await bank.db.read(batch_rows.batch_row, "bat_1")
    assert row is not None
    assert row["funds_until"] == round(datetime(2026, 3, 3, tzinfo=UTC).timestamp() * 1e6)
    await bank.process.read("119")
    assert await bank.db.read(is_waiting, "bat_1")
    await bank.process.read("120")
    assert not await bank.db.read(is_waiting, "bat_1")
    assert await bank.reserved() == (120, 0)


def steps_of(bank: Bank, batches: Batches) -> BatchSteps:
    """Return the steps of batches whose payouts go one by one."""
    handovers = {"acme": Handover(set_size=10, window=10)}
    recorders = {"acme": bank.recorder}
    return BatchSteps(
        bank.runtime,
        bank.payouts,
        bank.quotes,
        batches,
        handovers,
        recorders,
        # What waits for funds has until midnight, whatever this says.
        submit_within_s=3600,
    )


async def stepped(bank: Bank, steps: BatchSteps) -> str:
    """Take every step that there is; return the state of the batch."""
    while (await bank.db.run(steps.step, "bat_1")).more:
        pass
    row = await bank.db.read(batch_rows.batch_row, "bat_1")
    assert row is not None
    return str(row["state"])


async def test_a_batch_that_waits_begins_once_it_is_covered(bank: Bank) -> None:
    """Not before; then its payouts are handed over."""
    bank.configure(on_shortage="wait")
    batches, ids = await batch_of(bank, "60", "60")
    await bank.db.run(batches.execute, bank.caller, "bat_1")
    steps = steps_of(bank, batches)
    assert await stepped(bank, steps) == "requested"
    assert await bank.claim() == []
    await bank.process.read("120")
    assert await stepped(bank, steps) != "requested"
    row = await bank.db.read(batch_rows.batch_row, "bat_1")
    assert row is not None
    assert row["funds_until"] is None
    assert {(await bank.payout(each)).status for each in ids} == {Status.PENDING}
    assert await bank.reserved() == (120, 0)


async def test_a_batch_that_is_never_covered_ends_at_midnight(bank: Bank) -> None:
    """Nothing of it was sent; what it waited for is free, and one that is covered in time goes on."""
    bank.configure(on_shortage="wait")
    batches, ids = await batch_of(bank, "60", "60")
    await bank.db.run(batches.execute, bank.caller, "bat_1")
    steps = steps_of(bank, batches)
    await bank.clock.advance(12 * 3600 - 1)
    assert await stepped(bank, steps) == "requested"
    await bank.clock.advance(1)
    assert await stepped(bank, steps) == "failed"
    for each in ids:
        failure = (await bank.payout(each)).failure
        assert failure is not None
        assert (failure.code, failure.funds_moved) == ("insufficient_funds", NO)
    assert await bank.reserved() == (0, 0)
    row = await bank.db.read(batch_rows.batch_row, "bat_1")
    assert row is not None
    assert row["funds_until"] is None


async def test_a_batch_that_is_covered_at_midnight_goes_on(bank: Bank) -> None:
    """What counts is whether it waits for funds, not when its turn comes."""
    bank.configure(on_shortage="wait")
    batches, ids = await batch_of(bank, "60", "60")
    await bank.db.run(batches.execute, bank.caller, "bat_1")
    await bank.process.read("120")
    await bank.clock.advance(12 * 3600)
    assert await stepped(bank, steps_of(bank, batches)) != "failed"
    assert {(await bank.payout(each)).status for each in ids} == {Status.PENDING}


async def test_a_batch_that_waits_can_be_canceled(bank: Bank) -> None:
    """Its place is free."""
    bank.configure(on_shortage="wait")
    batches, _ = await batch_of(bank, "60", "60")
    await bank.db.run(batches.execute, bank.caller, "bat_1")
    single = await bank.pay("50")
    assert single
    assert await bank.reserved() == (0, 170)
    await bank.db.run(batches.cancel, bank.caller, "bat_1")
    assert await stepped(bank, steps_of(bank, batches)) == "canceled"
    assert await bank.reserved() == (50, 0)


# --- Another account, another configuration, another copy -------------------------------------------


@pytest.mark.both_stores
async def test_a_reservation_moves_once(bank: Bank) -> None:
    """In the transaction of the failover, and back never by being asked twice."""
    second = replace(RULE, account=OTHER)
    bank.configure(second)
    await bank.settle()
    await bank.process.read("100", rule=second)
    await bank.clock.advance(VISIBILITY_S)
    await bank.process.read("50", rule=second)
    paid, filler = await bank.pay("60"), await bank.pay("40")
    assert paid
    assert filler

    async def move(tx: Tx, payout_id: str) -> bool:
        row = await payout_row(tx, payout_id)
        assert row is not None
        payout = await find_payout(tx, payout_id)
        assert payout is not None
        return await bank.funds.move(tx, row, payout.terms, "acme", OTHER)

    assert not await bank.db.run(move, paid)
    assert (await bank.reserved(), await bank.reserved(OTHER)) == ((100, 0), (0, 0))
    for _ in range(2):
        assert await bank.db.run(move, filler)
        assert (await bank.reserved(), await bank.reserved(OTHER)) == ((60, 0), (40, 0))
    assert await bank.pay("40")
    await bank.end(filler, NO)
    assert (await bank.reserved(), await bank.reserved(OTHER)) == ((100, 0), (0, 0))


@pytest.mark.both_stores
async def test_an_account_that_begins_to_reserve(bank: Bank) -> None:
    """What was accepted before is reserved, too; no balance counts before one that shows what has ended."""
    bank.configure(rule=replace(RULE, reserves=False))
    await bank.settle()
    before = await bank.pay("60")
    gone = await bank.pay("70")
    assert before
    assert gone
    await bank.end(gone, None)
    bank.configure()
    await bank.settle()
    assert await bank.reserved() == (60, 0)
    await bank.process.read("100")
    with pytest.raises(Refused, match="balance_unknown"):
        await bank.pay("1")
    await bank.clock.advance(VISIBILITY_S)
    await bank.process.read("100")
    assert await bank.pay("41") is None
    assert await bank.pay("40")


@pytest.mark.both_stores
async def test_an_account_that_ends_to_reserve(bank: Bank) -> None:
    """Nothing is reserved any more, and what waits goes on."""
    bank.configure(on_shortage="wait")
    waits = await bank.pay("150")
    assert waits
    bank.configure(rule=replace(RULE, reserves=False))
    await bank.settle()
    assert await bank.reserved() == (0, 0)
    assert await begun(bank) == [waits]


async def test_a_custodian_that_is_not_configured_keeps_its_reservations(bank: Bank) -> None:
    """Its payouts are parked, and may be paid once it is back."""
    paid = await bank.pay("60")
    assert paid
    none: dict[str, AccountRule] = {}
    away = Balances(bank.runtime, Funds(bank.runtime, none), frozenset({"other"}))
    assert not away.unsettled([await bank.account()])
    await bank.db.run(away.settle, bank.clock.moment())
    assert await bank.reserved() == (60, 0)
    # An operator's command ends it without any configuration.
    payouts = Payouts(bank.runtime, Vault(bytes(32), bank.runtime.ids))
    await bank.db.run(payouts.apply, paid, failed_report(NO))
    assert await bank.reserved() == (0, 0)


async def test_an_adopted_copy_trusts_no_balance(bank: Bank) -> None:
    """What left the account after the copy was made is reserved nowhere."""
    now = bank.clock.moment()
    await bank.db.run(distrust_balances, now.clock_id, now.elapsed)
    with pytest.raises(Refused, match="balance_unknown"):
        await bank.pay("1")
    await bank.process.read("100")
    with pytest.raises(Refused, match="balance_unknown"):
        await bank.pay("1")
    await bank.clock.advance(VISIBILITY_S)
    await bank.process.read("100")
    assert await bank.pay("1")


async def test_reservations_cost_few_statements(bank: Bank) -> None:
    """None where nothing is reserved; at most 8 with limits, for the whole life of a payout."""

    async def cost() -> int:
        quote_id = await bank.quote("1")
        before = bank.db.statements
        payout = await bank.db.run(bank.payouts.accept, bank.caller, quote_id)
        job = await bank.begin()
        order = bank.order(job)
        await order.moving()
        await bank.record(job, job.next_verb, Report(SubStatus.DELIVERED, "DONE"), order=order)
        assert (await bank.payout(payout.id)).status is Status.DELIVERED
        return bank.db.statements - before

    def use(spending: Spending | None, funds: Funds | None) -> None:
        vault = Vault(bytes(32), bank.runtime.ids)
        bank.payouts = Payouts(bank.runtime, vault, spending=spending, funds=funds)
        bank.recorder = type(bank.recorder)(bank.runtime, bank.payouts, "acme", bank.capabilities)

    use(None, None)
    await cost()
    plain = await cost()
    bank.configure(rule=replace(RULE, reserves=False))
    assert await cost() == plain
    bank.configure()
    use(Spending(rules(limits=[DAILY, COUNTED])), bank.funds)
    assert plain < await cost() <= plain + 8
