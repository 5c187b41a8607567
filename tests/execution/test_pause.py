"""A pause holds every kind of moving call, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.adapter import NotSent, OutcomeUnknown, Report, SubStatus
from gateway.errors import Refused
from gateway.execution.gate import MarkRefused, Refusal
from gateway.execution.proof import Kind, Source
from gateway.execution.state import Job, Verb
from gateway.model import Account
from gateway.pause import Pause, PauseScope, Subject, account_target, held_by, holds
from gateway.pausing import Wanted, pause, resume, waiting
from gateway.store.audit import Act, newest_acts
from gateway.store.pauses import active_pauses
from tests.execution.conftest import Bench
from tests.execution.script import ABSENT, DONE, TAKEN, Desk, raises
from tests.execution.test_actions import ANSWER, ASKS, Counter

BY = Act("ann")
ALL = Wanted(PauseScope.ALL)
A = Account(id="A", type="VAULT")
#: Every pause that holds the payouts of a bench, and one of each scope that does not.
HOLDING = (
    ALL,
    Wanted(PauseScope.CUSTODIAN, "acme"),
    Wanted(PauseScope.ACCOUNT, account_target("acme", A)),
    Wanted(PauseScope.ASSET, "USDC"),
    Wanted(PauseScope.ORG, "acme-org"),
    Wanted(PauseScope.ORG, "acme-org", owner="acme-org", mode="live"),
    Wanted(PauseScope.ALL, mode="live"),
)
OTHERS = (
    Wanted(PauseScope.CUSTODIAN, "other"),
    Wanted(PauseScope.ACCOUNT, account_target("acme", Account(id="B", type="VAULT"))),
    Wanted(PauseScope.ACCOUNT, account_target("other", A)),
    Wanted(PauseScope.ASSET, "EURC"),
    Wanted(PauseScope.ORG, "acme"),
    Wanted(PauseScope.ALL, mode="test"),
)


async def stop(bench: Bench, wanted: Wanted = ALL, **terms: Any) -> Pause:
    """Pause, as an operator does."""
    return await bench.db.run(pause, bench.runtime, wanted, "fraud?", BY, **terms)


async def go_on(bench: Bench, wanted: Wanted = ALL) -> list[Pause] | None:
    """Resume, as an operator does."""
    return await bench.db.run(resume, bench.runtime, wanted, "checked", BY)


@pytest.fixture
async def desk(bench: Bench) -> Counter:
    """A payout that nothing was done with."""
    made = Counter(bench)
    await made.open(1)
    made.script.submits, made.script.looks = [TAKEN], [DONE]
    return made


def _pause(wanted: Wanted) -> Pause:
    return Pause("pau_1", wanted.scope, wanted.target, wanted.owner, wanted.mode, "", "", False, 0)


def test_what_a_pause_stops() -> None:
    """Each scope by its target, in its mode; of several payouts one is enough."""
    ours = Subject("acme-org", "live", "acme", A, "USDC")
    assert all(holds(_pause(each), ours) for each in HOLDING)
    assert not any(holds(_pause(each), ours) for each in OTHERS)
    other = Subject("acme-org", "live", "acme", A, "EURC")
    usdc = _pause(HOLDING[3])
    assert held_by([usdc], [other]) is None
    assert held_by([usdc], [other, ours]) is usdc


@pytest.mark.parametrize("wanted", HOLDING)
async def test_a_first_call_waits(desk: Counter, wanted: Wanted) -> None:
    """The custodian hears nothing of it, however long; resumed, it goes on at once."""
    await stop(desk.bench, wanted)
    await desk.turns(20, 70)
    assert desk.script.story == []
    assert await desk.stand() == ["queued"]
    assert await desk.attention() == []
    assert await go_on(desk.bench, wanted) == []
    assert await desk.turn()
    assert desk.script.moved == [desk.ids]


@pytest.mark.parametrize("wanted", OTHERS)
async def test_other_pauses_hold_nothing(desk: Counter, wanted: Wanted) -> None:
    """A pause of something else."""
    await stop(desk.bench, wanted)
    await desk.turn()
    assert desk.script.moved == [desk.ids]


async def test_a_pause_between_claim_and_mark_is_seen_by_the_gate(desk: Counter) -> None:
    """It reads it in its own transaction; nothing is counted as a failure, and nothing is alerted."""
    job = await desk.work()
    order = desk.bench.order(job)
    await stop(desk.bench)
    with pytest.raises(MarkRefused) as refused:
        await order.moving()
    assert refused.value.refusal is Refusal.PAUSED
    await desk.bench.record(job, Verb.SUBMIT, refused.value, order=order)
    assert (await desk.row())["failures"] == 0
    assert await desk.attention() == []
    assert not [each for each in await desk.rows() if each.kind is Kind.CALL]


async def test_a_call_that_is_marked_is_followed(desk: Counter) -> None:
    """Looks go on while everything is paused, to the end of the payout."""
    await desk.turn()
    await stop(desk.bench)
    await desk.turns(1, 30)
    assert await desk.stand() == ["delivered"]


@pytest.mark.parametrize("safe", [True, False])
async def test_a_repeat_waits_and_is_looked_for(bench: Bench, safe: bool) -> None:
    """What may have arrived is looked up all the time; nothing is sent, harmless or proven."""
    if safe:
        bench.capabilities = bench.repeating()
    desk = Desk(bench)
    await desk.open(1)
    desk.script.submits, desk.script.looks = [raises(OutcomeUnknown("lost"))], [ABSENT]
    await desk.turn()
    await stop(bench)
    await desk.turns(20, 61)
    assert len(desk.script.moved) == 1
    assert desk.script.story.count("look") >= 3
    desk.script.submits = [TAKEN]
    await go_on(bench)
    await desk.turns(8, 30)
    assert len(desk.script.moved) >= 2


async def test_news_of_a_paused_payout_counts(desk: Counter) -> None:
    """A custodian's webhook is applied as ever."""
    desk.script.submits = [raises(OutcomeUnknown("lost"))]
    await desk.turn()
    await stop(desk.bench)
    news = Report(SubStatus.DELIVERED, "DONE")
    await desk.bench.db.run(desk.bench.recorder.news, desk.ids[0], news, Source.WEBHOOK)
    assert await desk.stand() == ["delivered"]


async def test_a_set_waits_for_one_of_its_items(bench: Bench) -> None:
    """Whole: no part of it is sent."""
    desk = Desk(bench)
    await desk.open(3)
    desk.script.submits = [TAKEN]
    await stop(bench, Wanted(PauseScope.ASSET, "USDC"))
    await desk.turns(3, 70)
    assert desk.script.story == []
    await go_on(bench, Wanted(PauseScope.ASSET, "USDC"))
    await desk.turn()
    assert desk.script.moved == [desk.ids]


async def test_an_answer_is_refused(desk: Counter) -> None:
    """Before the adapter hears of it: the payout still asks, and may be answered later."""
    desk.script.moves, desk.script.submits = False, [ASKS]
    await desk.turn()
    desk.script.moves, desk.script.confirms = True, [TAKEN]
    # Also where new quotes are given meanwhile.
    await stop(desk.bench, keep_accepting=True)
    with pytest.raises(Refused) as refused:
        await desk.confirm()
    assert refused.value.code == "paused"
    assert "confirm" not in desk.script.story
    await go_on(desk.bench)
    await desk.confirm()
    assert desk.script.moved == [desk.ids]


async def test_an_answer_that_a_pause_overtakes_is_refused_at_the_mark(
    desk: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause is committed after the check of the request, and before the mark."""
    desk.script.moves, desk.script.submits = False, [ASKS]
    await desk.turn()
    desk.script.moves, desk.script.confirms = True, [TAKEN]
    move = desk.script.move

    async def late(order: Any) -> None:
        await stop(desk.bench)
        await move(order)

    monkeypatch.setattr(desk.script, "move", late)
    with pytest.raises(Refused) as refused:
        await desk.acting().confirm(await desk.payout(), 1, ANSWER)
    assert refused.value.code == "paused"
    assert desk.script.moved == []
    assert await desk.stand() == ["requires_action"]


async def test_a_paused_payout_can_be_canceled(desk: Counter) -> None:
    """That moves nothing."""
    await stop(desk.bench)
    await desk.turn()
    await desk.bench.clock.advance(61)
    await desk.cancel()
    assert await desk.stand() == ["canceled"]


async def test_a_paused_payout_gives_its_turn_at_the_account_back(bench: Bench) -> None:
    """Another org's payout at the same account does not wait for it."""
    desk = Desk(bench)
    await desk.open(1)
    desk.script.submits = [raises(NotSent("busy")), TAKEN]
    desk.script.moves = False
    await desk.turn()
    await stop(bench, Wanted(PauseScope.ORG, "acme-org"))
    await desk.turns(1, 30)
    bench.caller = type(bench.caller)("other-org", "live", "key_2")
    other = await bench.accept()
    await desk.turn()
    assert (await bench.payout(other)).sub_status is SubStatus.SUBMITTED


async def test_marks_and_pauses_at_once(bench: Bench) -> None:
    """Whatever their order: no mark has a number from after the pause."""
    desk = Desk(bench)
    desk.ids = [await bench.accept() for _ in range(12)]
    bench.capabilities = desk.script.capabilities
    jobs = []
    for _ in desk.ids:
        jobs += [each for each in await desk.claim() if isinstance(each, Job)]
    marked_at: list[int] = []

    async def mark(job: Job) -> None:
        try:
            await bench.order(job).moving()
        except MarkRefused as error:
            assert error.refusal is Refusal.PAUSED  # noqa: PT017 - the others must not be refused
        else:
            marked_at.append(len(await bench.db.read(active_pauses)))

    await asyncio.gather(*(mark(job) for job in jobs[:6]), stop(bench), *map(mark, jobs[6:]))
    for job in jobs:
        with pytest.raises(MarkRefused):
            await bench.order(job).moving()


async def test_the_same_pause_again_is_one_pause(bench: Bench) -> None:
    """With the new reason and terms; each act is in the audit log."""
    first = await stop(bench)
    again = await bench.db.run(pause, bench.runtime, ALL, "worse", BY, keep_accepting=True)
    assert (again.id, again.since, again.reason, again.keep_accepting) == (
        first.id,
        first.since,
        "worse",
        True,
    )
    assert await bench.db.read(active_pauses) == [again]
    assert await go_on(bench) == []
    assert await go_on(bench) is None
    acts = [(row["act"], row["detail"]) for row in await bench.db.read(newest_acts, 9)]
    assert acts == [("resumed", "checked"), ("paused", "worse"), ("paused", "fraud?")]


async def test_what_a_pause_does_not_end(bench: Bench) -> None:
    """The operator's pause of an org and the org's own are two; each has its own end."""
    mine = Wanted(PauseScope.ORG, "acme-org", owner="acme-org", mode="live")
    theirs = Wanted(PauseScope.ORG, "acme-org")
    own, ops = await stop(bench, mine), await stop(bench, theirs)
    assert await go_on(bench, mine) == [ops]
    assert own.id != ops.id
    desk = Desk(bench)
    await desk.open(1)
    await desk.turn()
    assert desk.script.story == []


async def test_what_waits_is_counted_with_its_time(bench: Bench) -> None:
    """By elapsed time since it was accepted; what was sent does not wait."""
    desk = Desk(bench)
    desk.script.submits = [TAKEN]
    await desk.open(1)
    await desk.turn()
    for _ in range(3):
        await bench.accept()
        await bench.clock.advance(60)
    made = await stop(bench)
    now = bench.clock.moment()
    found = await bench.db.read(waiting, made, now, 6 * 3_600_000_000)
    assert found.payouts == 3
    assert found.first_expiry == now.wall + 6 * 3_600_000_000 - 180_000_000
    assert found.last_expiry == now.wall + 6 * 3_600_000_000 - 60_000_000
    other = await stop(bench, OTHERS[0])
    assert (await bench.db.read(waiting, other, now, 1)).payouts == 0
