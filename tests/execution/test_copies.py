"""The gate and the engine on a database that is, or was, an older copy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.adapter import Absent, CannotLook, Report, SubStatus
from gateway.adoption import Adoption
from gateway.errors import NotSent
from gateway.execution.gate import MarkRefused, Refusal
from gateway.execution.operator import LookAsked, NotAllowedError, Resolution, resolve, retry
from gateway.execution.proof import Kind
from gateway.execution.reports import ADOPTED_ABSENT, ADOPTED_BLIND
from gateway.execution.state import Verb
from gateway.model import FundsMoved
from gateway.store import executions, state
from gateway.store import payouts as rows
from gateway.store.database import Tx
from gateway.store.state_file import StateFile
from tests.execution.conftest import Bench
from tests.execution.script import ABSENT, Desk


@pytest.fixture
def state_file(bench: Bench, tmp_path: Path) -> StateFile:
    """The state file of the database."""
    made = StateFile(tmp_path / "state", bench.db._path, bench.clock.moment().clock_id)
    made.rewrite(0)
    return made


async def adopt(bench: Bench, state_file: StateFile) -> None:
    """Adopt the database."""
    await Adoption(
        db=bench.db,
        runtime=bench.runtime,
        payouts=bench.payouts,
        custodians={"acme": bench},
        state_file=state_file,
        operator="root",
    ).run(bench.clock.moment().wall)


async def calls(bench: Bench, payout_id: str) -> int:
    """Return how many calls a payout's execution has."""
    return sum(each.kind is Kind.CALL for each in await bench.evidence(payout_id))


async def test_no_mark_in_a_frozen_database(bench: Bench) -> None:
    """The gate refuses, and no call is written."""
    payout_id = await bench.accept()
    job = await bench.begin()
    await bench.db.run(state.freeze, bench.runtime.ids, 0, "a copy")
    with pytest.raises(MarkRefused) as refused:
        await bench.order(job).moving()
    assert refused.value.refusal is Refusal.FROZEN
    assert await calls(bench, payout_id) == 0


async def test_no_mark_where_a_seen_one_is_missing(bench: Bench, state_file: StateFile) -> None:
    """A copy was put in place since this process has seen a newer mark."""
    payout_id = await bench.accept()
    order = bench.order(await bench.begin())
    order._witness = state_file
    state_file.seen.note(1)
    with pytest.raises(MarkRefused) as refused:
        await order.moving()
    assert refused.value.refusal is Refusal.FROZEN
    assert await calls(bench, payout_id) == 0


async def test_no_mark_while_the_state_file_cannot_be_written(
    bench: Bench, state_file: StateFile
) -> None:
    """It would be committed, and its call never made."""
    payout_id = await bench.accept()
    order = bench.order(await bench.begin())
    order._witness = state_file
    state_file.failing = "the state file cannot be written: no space"
    with pytest.raises(NotSent, match="state_file") as refused:
        await order.moving()
    assert refused.value.alert == "state_file"
    assert await calls(bench, payout_id) == 0
    state_file.failing = None
    await order.moving()
    assert await calls(bench, payout_id) == 1


@pytest.mark.parametrize("repeat_is_safe", [True, False])
async def test_after_an_adoption_nothing_is_sent_again_by_itself(
    bench: Bench, state_file: StateFile, repeat_is_safe: bool
) -> None:
    """It may have ended after the copy, and been paid in another way: not even absence allows a call."""
    if repeat_is_safe:
        bench.capabilities = bench.repeating()
    bench.capabilities = replace(bench.capabilities, finds_lost_calls=True)
    payout_id = await bench.accept()
    await adopt(bench, state_file)
    for seconds in (0, 61, 31):
        await bench.clock.advance(seconds)
        job = await bench.begin()
        assert job.next_verb is Verb.FETCH
        with pytest.raises(MarkRefused) as refused:
            await bench.order(job).moving()
        assert refused.value.refusal is Refusal.BLOCKED
        await bench.fetched(job, Absent("404"))
    # Absence is proven now: it is only looked at all the same, and an operator hears what to do.
    assert await bench.attention(payout_id) == ["adopted"]
    await bench.clock.advance(20)
    job = await bench.begin()
    assert job.next_verb is Verb.FETCH
    with pytest.raises(MarkRefused) as refused:
        await bench.order(job).moving()
    assert refused.value.refusal is Refusal.BLOCKED
    assert await calls(bench, payout_id) == 1
    assert (await bench.payout(payout_id)).status == "pending"


async def test_what_had_no_execution_is_never_proven_absent(
    bench: Bench, state_file: StateFile
) -> None:
    """It may have been paid under a reference that only the lost database knew: never sent again."""
    payout_id = await bench.accept()
    execution = await bench.execution(payout_id)

    async def close(tx: Tx) -> None:
        await executions.close(tx, execution["id"], 1)

    await bench.db.run(close)
    await adopt(bench, state_file)
    for _ in range(6):
        job = await bench.begin()
        assert job.next_verb is Verb.FETCH
        with pytest.raises(MarkRefused) as refused:
            await bench.order(job).moving()
        assert refused.value.refusal is Refusal.BLOCKED
        await bench.fetched(job, Absent("404"))
        await bench.clock.advance(3600)
    assert (await bench.payout(payout_id)).status == "pending"
    assert await calls(bench, payout_id) == 1
    (line,) = await bench.db.read(rows.attention_of, payout_id)
    assert (line["code"], line["detail"], line["times"]) == ("adopted", ADOPTED_BLIND, 7)
    with pytest.raises(NotAllowedError):
        await bench.db.run(retry, bench.runtime, payout_id, bench.capabilities)


async def test_what_cannot_be_looked_at_after_an_adoption_is_adopted(
    bench: Bench, state_file: StateFile
) -> None:
    """Something was remembered, and the adapter finds nothing to ask by: it says so of what it knows."""
    payout_id = await bench.accept()
    await bench.order(await bench.begin()).remember(session="s")
    await adopt(bench, state_file)
    assert await bench.attention(payout_id) == ["adopted"]
    for _ in range(6):
        await bench.fetched(await bench.begin(), CannotLook("nothing was sent yet"))
        await bench.clock.advance(3600)
    (line,) = await bench.db.read(rows.attention_of, payout_id)
    assert (line["code"], line["detail"]) == ("adopted", ADOPTED_BLIND)


async def test_an_adopted_payout_that_is_not_found_is_not_submitted(
    bench: Bench, state_file: StateFile
) -> None:
    """Nothing is prepared for it again, no code is sent to anybody: the operator is told to end it."""
    bench.capabilities = replace(bench.capabilities, finds_lost_calls=True)
    payout_id = await bench.accept()
    await bench.order(await bench.begin()).remember(wallet="w")
    await adopt(bench, state_file)
    desk = Desk(bench)
    desk.ids, desk.script.looks = [payout_id], [ABSENT]
    await desk.turns(40, 60)
    assert set(desk.script.story) == {"look"}
    (line,) = await bench.db.read(rows.attention_of, payout_id)
    assert (line["code"], line["detail"]) == ("adopted", ADOPTED_ABSENT)
    for detail in (ADOPTED_ABSENT, ADOPTED_BLIND):
        assert len(detail) <= 200  # more is cut off


async def test_an_adopted_payout_says_that_its_outcome_is_unknown(
    bench: Bench, state_file: StateFile
) -> None:
    """To its partner, too; without an event, because its status stays. What is on its way stays so."""
    payout_id, sent = await bench.accept(), await bench.accept()
    await bench.db.run(bench.payouts.apply, sent, Report(SubStatus.CONFIRMING, "W"))
    events = [await bench.events(each) for each in (payout_id, sent)]
    await adopt(bench, state_file)
    payout = await bench.payout(payout_id)
    assert (payout.status, payout.sub_status) == ("pending", "outcome_unknown")
    assert "restored from a copy" in (payout.timeline[-1].detail or "")
    assert (await bench.payout(sent)).sub_status == "confirming"
    assert [await bench.events(each) for each in (payout_id, sent)] == events


async def test_a_transfer_that_is_found_settles_it(bench: Bench, state_file: StateFile) -> None:
    """The payout goes on as usual."""
    payout_id = await bench.accept()
    await adopt(bench, state_file)
    await bench.fetched(await bench.begin(), Report(SubStatus.DELIVERED, "DONE"))
    assert (await bench.payout(payout_id)).status == "delivered"


async def test_an_operator_ends_it_after_a_look_of_their_own(
    bench: Bench, state_file: StateFile
) -> None:
    """Once no call can arrive any more, by elapsed time since the adoption."""
    payout_id = await bench.accept()
    await adopt(bench, state_file)
    found = Resolution(delivered=False, evidence="console", funds_moved=FundsMoved.NO)

    async def end(how: Resolution) -> LookAsked | None:
        return await bench.db.run(resolve, bench.recorder, bench.runtime, payout_id, how, lag=True)

    with pytest.raises(NotAllowedError, match="may still arrive"):
        await end(found)
    bench.clock.step(3600)
    with pytest.raises(NotAllowedError, match="may still arrive"):
        await end(found)
    await bench.clock.advance(91)
    asked = await end(found)
    assert asked is not None
    assert await end(replace(found, looked=asked.number)) is None
    assert (await bench.payout(payout_id)).status == "failed"
