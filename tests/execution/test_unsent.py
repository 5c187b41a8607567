"""Payouts that could not be sent in time end: by elapsed time, under the lease, and never wrongly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete

from adapters.dummy.adapter import Dummy
from gateway.adapter import Failure, NotSent, OutcomeUnknown, Report, SubStatus
from gateway.app import open_gateway
from gateway.config.settings import EngineSettings, Settings
from gateway.errors import ConfigError
from gateway.execution.proof import Kind, Source
from gateway.execution.record import Recorder
from gateway.execution.unsent import waited_to_be_sent
from gateway.model import FailureCode, FundsMoved
from gateway.store.database import Query, Tx
from gateway.store.rules import activate
from gateway.store.schema import evidence
from gateway.store.state import freeze
from tests.databases import make_database
from tests.execution.conftest import Bench
from tests.execution.rows import at, look, rows
from tests.execution.script import ABSENT, TAKEN, Desk, all_are, raises
from tests.execution.test_actions import ASKS, Counter
from tests.execution.test_pause import stop

HOUR = 3600
_FORGET_WORDS = Query(delete(evidence).where(evidence.c.kind == "word"))
LIFE = EngineSettings().submit_within_s
BUSY = raises(NotSent("the custodian is busy"))


@pytest.fixture
async def desk(bench: Bench) -> Counter:
    """A payout whose custodian takes nothing now."""
    made = Counter(bench)
    await made.open(1)
    made.script.submits, made.script.looks, made.script.moves = [BUSY], [ABSENT], False
    return made


async def ended(desk: Desk) -> tuple[FailureCode, FundsMoved] | None:
    """Return how the payout failed; None: it is open."""
    failure = (await desk.bench.payout(desk.ids[0])).failure
    return None if failure is None else (failure.code, failure.funds_moved)


NOT_SENT = (FailureCode.NOT_SENT_IN_TIME, FundsMoved.NO)


async def test_what_cannot_be_sent_ends(desk: Counter) -> None:
    """At its time, whatever the next look would be; closed and published in one transaction."""
    await desk.turn()
    for _ in range(int(LIFE // 600) - 1):
        await desk.turns(1, 600)
    assert await ended(desk) is None
    assert await desk.due_in() <= LIFE - (LIFE // 600 - 1) * 600
    await desk.turns(1, 601)
    assert await ended(desk) == NOT_SENT
    assert await desk.stand() == ["expired"]
    assert (await desk.row())["ended_at"] is not None
    events = await desk.bench.events(desk.ids[0])
    assert [kind for _, kind in events] == ["payout.created", "payout.failed"]
    assert not await desk.turn()


async def test_the_last_look_is_not_later_than_the_end(desk: Counter) -> None:
    """However slow the curve is."""
    desk.bench.capabilities = replace(desk.bench.capabilities, polling_s=(50_000,))
    slow = Desk(desk.bench)
    slow.ids, slow.script.submits, slow.script.moves = desk.ids, [BUSY], False
    await slow.turn()
    assert await slow.due_in() == pytest.approx(LIFE)


async def test_a_call_that_the_adapter_vouches_for_was_not_sent(bench: Bench) -> None:
    """Its mark was set, and nothing left: the custodian could not be reached."""
    desk = Desk(bench)
    await desk.open(1)
    desk.script.submits = [BUSY]
    await desk.turn()
    assert [each.kind for each in await desk.rows()] == [Kind.CALL]
    await desk.turns(2, LIFE)
    assert await ended(desk) == NOT_SENT


async def test_what_may_have_arrived_never_ends_by_time(bench: Bench) -> None:
    """It is looked up, or a person decides."""
    desk = Desk(bench)
    await desk.open(1)
    desk.script.submits, desk.script.looks = [raises(OutcomeUnknown("lost"))], [ABSENT]
    await desk.turn()
    desk.script.submits = [BUSY]
    await desk.turns(20, LIFE)
    assert await ended(desk) is None


async def test_news_keeps_a_payout(desk: Counter) -> None:
    """Money that is said to be on its way, though no call is known."""
    await desk.turn()
    news = Report(SubStatus.SUBMITTED, "W")
    await desk.bench.db.run(desk.bench.recorder.news, desk.ids[0], news, Source.WEBHOOK)
    await desk.turns(2, LIFE)
    assert await ended(desk) is None


async def test_a_person_who_is_asked_has_a_time_of_their_own(desk: Counter) -> None:
    """That of the action, which is longer."""
    desk.script.submits = [ASKS]
    await desk.turn()
    await desk.turns(1, LIFE + 60)
    assert await desk.stand() == ["requires_action"]
    await desk.turns(1, 24 * HOUR)
    assert await ended(desk) == (FailureCode.AUTHENTICATION_EXPIRED, FundsMoved.NO)


async def test_paused_payouts_end(desk: Counter) -> None:
    """A pause is not a reason to wait for ever: `pause` says when."""
    await stop(desk.bench)
    await desk.turns(2, LIFE / 2 + 1)
    assert await ended(desk) == NOT_SENT


async def test_nothing_ends_in_an_old_copy(desk: Counter) -> None:
    """That there is no mark proves nothing there; it ends once the copy is known to be the database."""
    bench = desk.bench
    await bench.db.run(freeze, bench.runtime.ids, 0, "an old copy")
    await desk.turns(3, LIFE)
    assert await ended(desk) is None


@pytest.mark.parametrize("digest", ["mine", "of another configuration"])
async def test_a_gateway_with_other_rules_ends_nothing_by_its_own_time(
    desk: Counter, digest: str
) -> None:
    """The time is one of the rules: a gateway that has others does not claim what waits, or leaves it."""
    bench = desk.bench
    desk.script.submits = [all_are(SubStatus.AWAITING_APPROVAL)]
    await desk.turn()
    assert (await desk.row())["state"] == "parked"
    at = bench.clock.moment().wall
    await bench.db.run(activate, bench.runtime.ids, at, digest, "{}", "ann", "why")
    short = Recorder(
        bench.runtime, bench.payouts, "acme", bench.capabilities, "acme", HOUR, rules="mine"
    )
    await bench.clock.advance(2 * HOUR)
    until = bench.runtime.timeline.now() + 1
    for moves in (False, True):
        await bench.db.run(short.claim, "test", until, 1, moves=moves)
        await bench.clock.advance(60)
    assert await ended(desk) == (NOT_SENT if digest == "mine" else None)


async def test_an_earlier_execution_that_may_have_paid_keeps_it(bench: Bench) -> None:
    """Nothing was sent by this one; what became of the other one is not known any more."""
    desk = Desk(bench)
    await desk.open(1)
    again = Failure(code=FailureCode.POLICY_REJECTED, message="again", funds_moved=FundsMoved.NO)
    desk.script.submits = [all_are(SubStatus.FAILED, again, reopens=True)]
    await desk.turn()
    assert (await desk.row())["number"] == 2
    desk.script.submits, desk.script.moves = [BUSY], False

    async def forget_the_word(tx: Tx) -> None:
        await tx.all(_FORGET_WORDS)

    await bench.db.run(forget_the_word)
    await desk.turns(2, LIFE)
    assert await ended(desk) is None


def test_time_on_other_clocks_is_no_time_here() -> None:
    """A row of this clock begins it; one of another clock says nothing, whatever it shows."""
    created, now = at(0, "before"), at(90_000, "now")
    known = look(1, 5, clock="before"), look(2, 7, clock="third")
    assert waited_to_be_sent(rows(*known), created, now) is None
    assert waited_to_be_sent(rows(*known, look(3, 89_000, clock="now")), created, now) == 1000


async def test_the_wall_clock_ends_nothing(desk: Counter) -> None:
    """Set forward by a year, it is not the time that has passed; set back, it keeps nothing."""
    desk.bench.clock.step(365 * 24 * HOUR)
    await desk.turns(1, 60)
    assert await ended(desk) is None
    desk.bench.clock.step(-2 * 365 * 24 * HOUR)
    await desk.turns(1, LIFE)
    assert await ended(desk) == NOT_SENT


async def test_another_clock_starts_anew(desk: Counter) -> None:
    """After a reboot its time counts from the first row of the new clock: one row, written once."""
    await desk.turns(1, LIFE - 60)
    desk.bench.clock.reboot()
    await desk.turns(1, 61)
    assert await ended(desk) is None
    await desk.turns(2, LIFE / 2 - 60)
    assert await ended(desk) is None
    assert [each.kind for each in await desk.rows()] == [Kind.WAIT]
    await desk.turns(1, 200)
    assert await ended(desk) == NOT_SENT


async def test_an_older_worker_writes_nothing(desk: Counter) -> None:
    """It ends under a new lease: whoever held it before neither marks nor records."""
    job = await desk.work()
    order = desk.bench.order(job)
    await desk.bench.clock.advance(LIFE + 1)
    assert (await desk.claim())[0].ended  # type: ignore[union-attr]
    with pytest.raises(Exception, match=desk.bench.order(job).set_id):
        await order.moving()
    assert await ended(desk) == NOT_SENT


async def test_a_mark_that_comes_first_keeps_the_payout(desk: Counter) -> None:
    """The worker sets its mark a moment before another one finds that the time is over."""
    desk.script.looks = [TAKEN]
    job = await desk.work()
    await desk.bench.clock.advance(LIFE + 1)
    await desk.bench.order(job).moving()
    # The mark prolongs the lease: nobody claims it, and then it is an unknown outcome.
    assert await desk.claim() == []
    await desk.turns(3, 120)
    assert await ended(desk) is None


async def test_a_set_ends_whole(bench: Bench) -> None:
    """Each of its payouts fails; none of them was sent."""
    desk = Desk(bench)
    await desk.open(3)
    desk.script.submits = [BUSY]
    await desk.turn()
    await desk.turns(2, LIFE)
    assert await desk.stand() == ["expired"] * 3


async def test_without_a_time_nothing_ends(bench: Bench) -> None:
    """A recorder that is told of none."""
    await bench.accept()
    recorder = Recorder(bench.runtime, bench.payouts, "acme", bench.capabilities)
    await bench.clock.advance(1000 * LIFE)
    until = bench.runtime.timeline.now() + 1
    (job,) = await bench.db.run(recorder.claim, "test", until, 1)
    assert job.items  # type: ignore[union-attr]


@pytest.mark.parametrize(("within", "refused"), [(21_600, False), (43_200, False), (43_201, True)])
async def test_start_refuses_a_time_that_outlives_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: float, refused: bool
) -> None:
    """At most half the life of a key, of every instance on a route; all faults are listed at once."""
    keys = replace(Dummy.capabilities.keys, life_s=86_400)
    monkeypatch.setattr(Dummy, "capabilities", replace(Dummy.capabilities, keys=keys))
    dummy = {
        "adapter": "dummy",
        "base_url": "http://127.0.0.1:1",
        "webhook_secret": "s",
        "api_key": "k",
    }
    account = {"id": "A", "type": "ACCOUNT"}
    settings = Settings.model_validate(
        {
            "database": make_database(tmp_path / "g.db"),
            "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "engine": {"submit_within_s": within},
            "custodians": {"on_a_route": dummy, "on_none": dummy},
            "routes": [{"destination": "address", "custodian": "on_a_route", "account": account}],
        }
    )
    faults: tuple[str, ...] = ()
    try:
        async with open_gateway(settings):
            pass
    except ConfigError as error:
        faults = error.faults
    wanted = (
        "engine.submit_within_s: 43201 is above half of the 86400 s for which on_a_route remembers a "
        "key; set 43200 or less"
    )
    assert faults == ((wanted,) if refused else ())
