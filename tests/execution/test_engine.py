"""The engine of sets: the same rules as for one payout, and no item leaves its set without a word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.adapter import (
    Absent,
    BatchReport,
    CannotLook,
    Capabilities,
    Failure,
    FailureCode,
    FundsMoved,
    KeySemantics,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Report,
    SubStatus,
)
from gateway.assets import AssetRegistry
from gateway.config import EngineSettings
from gateway.metrics import Metrics
from gateway.model import Status
from gateway.recovery import MAX_MOVES
from gateway.store import batches, sets, work
from gateway.store import payouts as rows
from gateway.store.database import Row
from gateway.store.rows import to_us
from gateway.worker.setorder import SetLease, SetOrder
from gateway.worker.sets import SetEngine
from tests.execution.conftest import LEASE_S, Bench

CAN = Capabilities(
    frozenset({"custodian_account"}),
    batch=True,
    one_at_a_time=True,
    keys=KeySemantics(),
    call_life_s=60,
    visibility_s=30,
    polling_s=(10, 20),
)
NO = Failure(code=FailureCode.POLICY_REJECTED, message="no", funds_moved=FundsMoved.NO)
Outcome = BatchReport | Absent | CannotLook | Exception


@dataclass
class Script:
    """A custodian that answers as the test says. `moves`: whether submit sets the mark first."""

    name: str = "acme"
    capabilities: Capabilities = CAN
    moves: bool = True
    submits: list[Callable[[SetOrder], Outcome]] = field(default_factory=list)
    looks: list[Callable[[SetOrder], Outcome]] = field(default_factory=list)
    story: list[str] = field(default_factory=list)

    async def submit_batch(self, batch: SetOrder) -> BatchReport:
        """Submit."""
        self.story.append("submit")
        if self.moves:
            await batch.moving()
        return self._say(self.submits, batch)  # type: ignore[return-value]

    async def fetch_batch(self, batch: SetOrder) -> BatchReport | Absent | CannotLook:
        """Look."""
        self.story.append("look")
        return self._say(self.looks, batch)  # type: ignore[return-value]

    @staticmethod
    def _say(script: list[Callable[[SetOrder], Outcome]], batch: SetOrder) -> Outcome:
        said = (script.pop(0) if len(script) > 1 else script[0])(batch)
        if isinstance(said, Exception):
            raise said
        return said


def all_are(sub_status: SubStatus, failure: Failure | None = None) -> Callable[[SetOrder], Outcome]:
    """Say the same of every item."""
    return lambda batch: BatchReport(
        sub_status.value.upper(),
        {each.payout_id: Report(sub_status, "W", failure=failure) for each in batch.items},
    )


def raises(error: Exception) -> Callable[[SetOrder], Outcome]:
    """Fail."""
    return lambda _: error


TAKEN = all_are(SubStatus.SUBMITTED)
DONE = all_are(SubStatus.DELIVERED)


class Sets:
    """A set of three items, and the engine that works on it."""

    def __init__(self, bench: Bench, script: Script) -> None:
        self.bench = bench
        self.script = script
        self.ids: list[str] = []
        self.set_id = "set_1"
        self.engine = self.new_engine("one")

    def new_engine(self, owner: str) -> SetEngine:
        """Return an engine, as another process would have it."""
        return SetEngine(
            db=self.bench.db,
            runtime=self.bench.runtime,
            payouts=self.bench.payouts,
            assets=AssetRegistry(),
            custodian=self.script,
            settings=EngineSettings(lease_s=LEASE_S),
            owner=owner,
            metrics=Metrics(),
            wake=lambda _: None,
        )

    async def make(self) -> None:
        """Store a batch with one set."""
        now = to_us(self.bench.clock.now())
        account = '{"id":"A","type":"VAULT"}'
        self.ids = [await self.bench.accept() for _ in range(3)]

        async def put(tx: Any) -> None:
            await batches.add_batch(
                tx,
                id="bat_1",
                org="acme-org",
                mode="live",
                custodian="acme",
                account=account,
                native=1,
                init_method="api",
                reference=None,
                metadata="{}",
                state="verifying",
                items=3,
                worked_off=2,
                failure=None,
                created_at=now,
                updated_at=now,
                expires_at=now,
                executed_at=now,
                cancel_at=None,
                funds_until=None,
                finalized_at=None,
            )
            for position, each in enumerate(self.ids):
                await rows.update_payout(tx, each, batch_id="bat_1", batch_position=position)
                await work.drop_work(tx, each)
            await sets.add_set(
                tx,
                id=self.set_id,
                batch_id="bat_1",
                number=1,
                custodian="acme",
                account=account,
                first_position=0,
                last_position=2,
                left_out="[]",
                created_at=now,
                due_at=now,
            )

        await self.bench.db.run(put)

    async def turn(self, engine: SetEngine | None = None) -> bool:
        """Claim the set if it is due and work on it once; whether it was."""
        now = self.bench.clock.now()
        until = to_us(now) + int(LEASE_S * 1e6)
        claimed = await self.bench.db.run(sets.claim_sets, "acme", "t", to_us(now), until, 1)
        for row in claimed:
            lease = SetLease(row["id"], row["lease_token"], row["due_at"])
            await (engine or self.engine)._work(lease)
        return bool(claimed)

    async def row(self) -> Row:
        """Return the set's row."""
        found = await self.bench.db.read(sets.set_row, self.set_id)
        assert found is not None
        return found

    async def stand(self) -> list[str]:
        """Return the sub-status of each item."""
        return [(await self.bench.payout(each)).sub_status.value for each in self.ids]


@pytest.fixture
async def made(bench: Bench) -> Sets:
    """A set that nothing was done with."""
    built = Sets(bench, Script())
    await built.make()
    return built


async def test_the_whole_way(made: Sets) -> None:
    """Submitted once, looked at until every item has ended; the account is free then."""
    made.script.submits, made.script.looks = [TAKEN], [all_are(SubStatus.BROADCAST), DONE]
    assert await made.turn()
    assert await made.stand() == ["submitted"] * 3
    assert (await made.row())["state"] == "accepted"
    assert not await made.turn()
    for _ in range(2):
        await made.bench.clock.advance(30)
        assert await made.turn()
    assert await made.stand() == ["delivered"] * 3
    assert made.script.story == ["submit", "look", "look"]
    assert (await made.row())["ended_at"] is not None
    await made.bench.clock.advance(1000)
    assert not await made.turn()
    free = await made.bench.db.run(work.take_account, "acme", "VAULT", "A", "pay_x", 1)
    assert free


async def test_silence_is_unknown_and_never_submitted_again_unproven(made: Sets) -> None:
    """Only looks follow; absence must be proven first, then the same set is submitted again."""
    made.script.submits = [raises(OutcomeUnknown("silence")), TAKEN]
    made.script.looks = [lambda _: Absent("404")]
    await made.turn()
    assert await made.stand() == ["outcome_unknown"] * 3
    for _ in range(40):
        await made.bench.clock.advance(10)
        await made.turn()
        if made.script.story.count("submit") > 1:
            break
    assert made.script.story.count("submit") == 2
    assert made.script.story.count("look") >= CAN.absence_looks
    row = await made.row()
    assert (row["moves"], row["ever_unknown"], row["state"]) == (2, 1, "accepted")


async def test_a_refusal_after_silence_is_none(made: Sets) -> None:
    """It may mean that the first call arrived."""
    made.script.submits = [
        raises(OutcomeUnknown("silence")),
        raises(Rejected("submission_rejected", "already used")),
    ]
    made.script.looks = [lambda _: Absent("404")]
    await made.turn()
    for _ in range(40):
        await made.bench.clock.advance(10)
        await made.turn()
    assert made.script.story.count("submit") == MAX_MOVES
    assert set(await made.stand()) == {"outcome_unknown"}
    assert await made.bench.attention(made.ids[0]) == ["unresolved"]


async def test_a_refused_set_fails_as_a_whole(made: Sets) -> None:
    """Before anything moved: every item, with the same words."""
    made.script.submits = [raises(Rejected("destination_rejected", "unknown payee"))]
    made.script.moves = False
    await made.turn()
    assert await made.stand() == ["rejected"] * 3
    payout = await made.bench.payout(made.ids[1])
    assert payout.failure is not None
    assert (payout.failure.code, payout.failure.funds_moved) == ("destination_rejected", "no")


async def test_a_refusal_whose_teller_dies_is_told_by_the_next(
    made: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once one item has failed by it the set is never submitted again, whoever dies when."""
    made.script.submits = [raises(Rejected("destination_rejected", "unknown payee")), TAKEN]
    monkeypatch.setattr("gateway.worker.sets._AT_ONCE", 1)
    settlement = made.engine._settlement
    apply, calls = settlement.apply, list[int]()

    async def dying(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("killed")
        return await apply(*args)

    monkeypatch.setattr(settlement, "apply", dying)
    with pytest.raises(RuntimeError):
        await made.turn()
    assert (await made.stand()).count("rejected") == 1
    await made.bench.clock.advance(LEASE_S + 1)
    await made.turn(made.new_engine("two"))
    assert await made.stand() == ["rejected"] * 3
    assert made.script.story == ["submit"]


async def test_a_worker_that_dies_with_the_mark_set(made: Sets) -> None:
    """Its successor only looks."""
    made.script.looks = [DONE]

    async def die(batch: SetOrder) -> BatchReport:
        await batch.moving()
        raise KeyboardInterrupt

    now = made.bench.clock.now()
    until = to_us(now) + int(LEASE_S * 1e6)
    (row,) = await made.bench.db.run(sets.claim_sets, "acme", "t", to_us(now), until, 1)
    lease = SetLease(row["id"], row["lease_token"], row["due_at"])
    made.script.submit_batch = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        await made.engine._work(lease)
    assert (await made.row())["state"] == "moving"
    await made.bench.clock.advance(LEASE_S + 1)
    await made.turn(made.new_engine("two"))
    assert made.script.story == ["look"]
    assert await made.stand() == ["delivered"] * 3


async def test_a_stale_worker_writes_nothing(made: Sets) -> None:
    """Taken over meanwhile: neither notes, nor mark, nor news."""
    now = made.bench.clock.now()
    until = to_us(now) + int(LEASE_S * 1e6)
    (row,) = await made.bench.db.run(sets.claim_sets, "acme", "t", to_us(now), until, 1)
    stale = SetLease(row["id"], row["lease_token"], row["due_at"])
    await made.bench.clock.advance(LEASE_S + 1)
    made.script.submits, made.script.looks = [TAKEN], [DONE]
    await made.turn(made.new_engine("two"))
    await made.engine._work(stale)
    assert made.script.story == ["submit"]
    assert await made.stand() == ["submitted"] * 3


async def test_items_end_one_by_one(made: Sets) -> None:
    """The set goes on until the last of them."""

    def some(batch: SetOrder) -> Outcome:
        first, second, third = batch.items
        return BatchReport(
            "PARTLY",
            {
                first.payout_id: Report(SubStatus.DELIVERED, "W"),
                second.payout_id: Report(SubStatus.FAILED, "W", failure=NO),
                third.payout_id: Report(SubStatus.BROADCAST, "W"),
            },
        )

    made.script.submits, made.script.looks = [TAKEN], [some, DONE]
    await made.turn()
    await made.bench.clock.advance(30)
    await made.turn()
    assert await made.stand() == ["delivered", "failed", "broadcast"]
    assert (await made.row())["ended_at"] is None
    await made.bench.clock.advance(30)
    await made.turn()
    assert await made.stand() == ["delivered", "failed", "delivered"]
    assert await made.bench.attention(made.ids[1]) == ["contradiction"]


async def test_not_sent_is_tried_again_and_told(made: Sets) -> None:
    """Nothing moves; after five times an operator hears of it, once for the set."""
    made.script.moves = False
    made.script.submits = [raises(NotSent("down", again_after_s=45))]
    for _ in range(6):
        assert await made.turn()
        await made.bench.clock.advance(46)
    assert (await made.row())["state"] == "prepared"
    assert await made.bench.attention(made.ids[0]) == ["custodian_unreachable"]
    assert await made.bench.attention(made.ids[1]) == []
    assert await made.stand() == ["created"] * 3


async def test_a_set_waits_for_its_turn(made: Sets) -> None:
    """Another payout has the account; handed over, the set begins at once."""
    other = await made.bench.accept()
    await made.bench.db.run(work.take_account, "acme", "VAULT", "A", other, 1)
    made.script.submits = [TAKEN]
    assert await made.turn()
    assert made.script.story == []
    assert (await made.row())["waiting_since"] is not None
    await made.bench.db.run(made.bench.payouts.apply, other, Report(SubStatus.DELIVERED, "DONE"))
    assert await made.turn()
    assert made.script.story == ["submit"]
    assert (await made.bench.payout(other)).status is Status.DELIVERED


async def test_a_parked_set_frees_the_account(made: Sets) -> None:
    """What the custodian made of it is not as ordered: an operator looks; others go on."""
    made.script.moves = False
    made.script.submits = [all_are(SubStatus.AWAITING_APPROVAL)]
    made.script.looks = [lambda _: CannotLook("nothing is remembered")]
    await made.turn()
    assert (await made.row())["state"] == "parked"
    assert await made.bench.db.run(work.take_account, "acme", "VAULT", "A", "pay_x", 1)
    await made.bench.clock.advance(100)
    await made.turn()
    assert made.script.story == ["submit", "look"]


async def test_an_item_that_had_ended_is_left_out(made: Sets) -> None:
    """Refused before its set was made: the set pays the others."""
    await made.bench.db.run(
        made.bench.payouts.apply, made.ids[1], Report(SubStatus.REJECTED, "", failure=NO)
    )

    async def leave_out(tx: Any) -> None:
        await sets.update_set(tx, made.set_id, left_out=f'["{made.ids[1]}"]')

    await made.bench.db.run(leave_out)
    seen: list[list[str]] = []

    def submit(batch: SetOrder) -> Outcome:
        seen.append([each.payout_id for each in batch.items])
        return TAKEN(batch)

    made.script.submits, made.script.looks = [submit], [DONE]
    await made.turn()
    await made.bench.clock.advance(30)
    await made.turn()
    assert seen == [[made.ids[0], made.ids[2]]]
    assert await made.stand() == ["delivered", "rejected", "delivered"]
    assert (await made.row())["ended_at"] is not None


async def test_a_set_that_was_taken_back_is_not_submitted(made: Sets) -> None:
    """Ended by a cancel while a worker has it in hand: the mark cannot be set any more."""

    async def take_back(batch: SetOrder) -> BatchReport:
        async def end(tx: Any) -> None:
            await sets.update_set(tx, made.set_id, state="ended", ended_at=1)

        await made.bench.db.run(end)
        await batch.moving()
        made.script.story.append("moved")
        raise AssertionError("the mark was set")

    made.script.submit_batch = take_back  # type: ignore[method-assign]
    await made.turn()
    assert made.script.story == []
    assert await made.stand() == ["created"] * 3
