"""Going on at another custodian: with proof alone, before anything is told, and never twice."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest

from gateway.adapter import Absent, Capabilities, Failure, Report, SubStatus
from gateway.cli.story import print_story
from gateway.config.routes import RouteSettings
from gateway.config.settings import EngineSettings
from gateway.config.spending import SpendingLimitSettings
from gateway.custodians.breaker import Breaker
from gateway.errors import CustodianDown, LeaseLost, NotSent, OutcomeUnknown, Rejected
from gateway.execution.failover import SERVED_ELSEWHERE
from gateway.execution.gate import MarkRefused, Refusal
from gateway.execution.inbox import Inbox
from gateway.execution.operator import NotAllowedError, Resolution, resolve
from gateway.execution.order import LiveOrder
from gateway.execution.proof import Source
from gateway.execution.record import Recorded, Recorder
from gateway.execution.state import Job, Verb
from gateway.failover import Failover
from gateway.funds.balances import Balances
from gateway.funds.reservations import Funds
from gateway.metrics import Metrics
from gateway.model import Account, FailureCode, FundsMoved, Payout
from gateway.pause import PauseScope
from gateway.pausing import Wanted, pause, resume
from gateway.payouts import Payouts
from gateway.planning import QuoteRequest
from gateway.quotes import Quotes
from gateway.report import Notice, Ref
from gateway.routing.durations import Durations
from gateway.routing.facts import KnownFacts
from gateway.routing.router import Instance, Router
from gateway.spending import Spending
from gateway.store import executions
from gateway.store import payouts as rows
from gateway.store.audit import Act
from gateway.store.database import Row
from gateway.store.rules import activate
from gateway.store.spending import all_counters
from gateway.store.state import freeze
from gateway.story import tell
from gateway.vault import Vault
from tests.bank import RULE, VISIBILITY_S, Process, all_reservations
from tests.execution.conftest import Bench
from tests.execution.script import as_set
from tests.routing.pricing import TakesEverything
from tests.test_spending import rules

ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
SHORT = Rejected(FailureCode.INSUFFICIENT_FUNDS, "the account is empty")


@pytest.fixture
def capabilities() -> Capabilities:
    """What both custodians can do."""
    return Capabilities(
        frozenset({"address"}), call_life_s=60, visibility_s=30, absence_looks=1, polling_s=(10, 20)
    )


@dataclass
class Pair:
    """Two custodians, `acme` and `beta`, on one database."""

    acme: Bench
    beta: Bench
    breakers: dict[str, Breaker]
    onward: Failover

    async def pay(self, **members: Any) -> str:
        """Accept a payout by acme; return its id."""
        bench = self.acme
        request = QuoteRequest.model_validate(
            {
                "external_ref": "u",
                "destination": {"type": "address", "network": "Base", "address": ADDRESS},
                "asset": "USDC",
                "amount": Decimal(5),
            }
            | members
        )
        quote, account = bench.quotes.draft(bench.caller, request)
        await bench.db.run(bench.quotes.store, bench.caller, quote, account)
        return (await bench.db.run(bench.payouts.accept, bench.caller, quote.quote_id)).id

    async def payout(self, payout_id: str) -> Payout:
        """Return a payout."""
        return await self.acme.payout(payout_id)

    async def executions(self, payout_id: str) -> list[Row]:
        """Return its executions."""
        return await self.acme.db.read(executions.executions_of, payout_id)


def pair(
    bench: Bench,
    *,
    failover: str = "on_refusal",
    first: dict[str, Any] | None = None,
    second: dict[str, Any] | None = None,
    limits: tuple[SpendingLimitSettings, ...] = (),
    within_s: float | None = None,
    funds: Funds | None = None,
) -> Pair:
    """Return two custodians. Settings of the route of each may be given."""
    plain = {"destination": "address", "networks": ["Base"], "fee": {"flat": "1"}}
    routes = [
        RouteSettings.model_validate(
            plain
            | {"custodian": "acme", "account": {"id": "A", "type": "VAULT"}, "failover": failover}
            | (first or {})
        ),
        RouteSettings.model_validate(
            plain | {"custodian": "beta", "account": {"id": "B", "type": "WALLET"}} | (second or {})
        ),
    ]
    names = ("acme", "beta")
    can, runtime = bench.capabilities, bench.runtime
    router = Router([Instance(name, frozenset({"live"}), can) for name in names], routes)
    takes = {name: TakesEverything() for name in names}
    breakers = {name: Breaker(bench.clock, faults=1) for name in names}
    facts = KnownFacts(breakers, Durations())
    onward = Failover(router, bench.assets, facts, takes, limits, funds)
    bench.quotes = Quotes(router, bench.assets, runtime, takes)
    other = copy.copy(bench)
    other.fingerprint = "beta/B"
    for name, each in zip(names, (bench, other), strict=True):
        each.recorder = Recorder(
            runtime, bench.payouts, name, can, submit_within_s=within_s, onward=onward
        )
    return Pair(bench, other, breakers, onward)


async def refused(two: Pair, payout_id: str, outcome: Any = SHORT, *, moved: bool = True) -> Job:
    """Have acme refuse a payout; return the job that it was refused for."""
    job = await two.acme.begin()
    assert job.items[0].id == payout_id
    await two.acme.submitted(job, outcome, moved=moved)
    return job


async def went_on(two: Pair, payout_id: str) -> bool:
    """Whether a payout is at beta now; then nothing is told of acme's refusal."""
    payout = await two.payout(payout_id)
    if payout.custodian == "acme":
        return False
    assert (payout.status, payout.failure) == ("pending", None)
    assert [kind for _, kind in await two.acme.events(payout_id)] == ["payout.created"]
    first, second = await two.executions(payout_id)
    assert (first["state"], first["custodian"]) == ("closed", "acme")
    assert (second["state"], second["custodian"], second["number"]) == ("prepared", "beta", 2)
    return True


@pytest.mark.parametrize("moved", [True, False])
async def test_a_refused_payout_goes_on_and_is_paid_once(bench: Bench, *, moved: bool) -> None:
    """Pending all the while, with the promised terms, under keys of its own; every execution is kept."""
    two = pair(bench)
    payout_id = await two.pay()
    promised = (await two.payout(payout_id)).terms
    old = await refused(two, payout_id, moved=moved)
    assert await went_on(two, payout_id)
    payout = await two.payout(payout_id)
    assert (payout.custodian, payout.account) == ("beta", Account(id="B", type="WALLET"))
    assert payout.terms == promised
    assert payout.timeline[-1].detail == "not paid by acme; goes on at beta"
    # A worker that slept cannot use the old keys any more.
    with pytest.raises(LeaseLost):
        await two.acme.order(old).moving()
    new = await two.beta.begin()
    assert new.custodian == "beta"
    assert two.acme.order(old).key("pay") != two.beta.order(new).key("pay")
    assert two.beta.order(new).amount == promised.recipient_gets
    await two.beta.submitted(new, Report(SubStatus.SUBMITTED, "TAKEN"), moved=True)
    await two.beta.clock.advance(30)
    await two.beta.fetched(await two.beta.begin(), Report(SubStatus.DELIVERED, "DONE"))
    events = [kind for _, kind in await bench.events(payout_id)]
    assert events == ["payout.created", "payout.broadcast", "payout.delivered"]
    assert await bench.attention(payout_id) == []


@pytest.mark.parametrize("code", [*FailureCode, "some_code"])
async def test_only_refusals_that_another_custodian_could_serve(bench: Bench, code: str) -> None:
    """What a policy, an approver or a screening refused, or what is wrong with the payee, ends the payout."""
    two = pair(bench)
    payout_id = await two.pay()
    await refused(two, payout_id, Rejected(code, "no"))
    if code in SERVED_ELSEWHERE:
        assert await went_on(two, payout_id)
    else:
        payout = await two.payout(payout_id)
        assert (payout.status, payout.custodian) == ("failed", "acme")


async def test_never_is_the_default(bench: Bench) -> None:
    """A route without the setting ends its payouts as the custodian has said."""
    assert RouteSettings.model_fields["failover"].default == "never"
    two = pair(bench, failover="never")
    payout_id = await two.pay()
    await refused(two, payout_id)
    payout = await two.payout(payout_id)
    assert payout.failure is not None
    assert payout.failure.funds_moved is FundsMoved.NO


@pytest.mark.parametrize(("failover", "goes"), [("on_absence", True), ("on_refusal", False)])
async def test_proven_absence(bench: Bench, failover: str, *, goes: bool) -> None:
    """Only where the route says so, and only once it is proven: an early look is no proof."""
    two = pair(bench, failover=failover)
    payout_id = await two.pay()
    await two.acme.submitted(await two.acme.begin(), OutcomeUnknown("lost"), moved=True)
    await two.acme.clock.advance(15)
    await two.acme.fetched(await two.acme.begin(), Absent(""))
    assert (await two.payout(payout_id)).custodian == "acme"
    await two.acme.clock.advance(100)
    await two.acme.fetched(await two.acme.begin(), Absent(""))
    assert await went_on(two, payout_id) is goes


async def test_an_unknown_outcome_stays(bench: Bench) -> None:
    """A refusal of the repeat may mean that the first call has arrived."""
    two = pair(bench, failover="on_absence")
    payout_id = await two.pay()
    await two.acme.submitted(await two.acme.begin(), OutcomeUnknown("lost"), moved=True)
    await two.acme.clock.advance(15)
    job = await two.acme.begin()
    await two.acme.record(job, Verb.SUBMIT, SHORT)
    payout = await two.payout(payout_id)
    assert (payout.custodian, payout.sub_status) == ("acme", "outcome_unknown")


async def test_what_was_not_sent_goes_on_only_while_the_custodian_is_down(bench: Bench) -> None:
    """And only while nothing was ever marked."""
    two = pair(bench)
    payout_id = await two.pay()
    await refused(two, payout_id, NotSent("no connection"), moved=False)
    assert not await went_on(two, payout_id)
    await two.acme.clock.advance(60)
    await refused(two, payout_id, CustodianDown("it does not answer"), moved=False)
    assert await went_on(two, payout_id)
    second = await two.pay()
    await refused(two, second, NotSent("no connection"))
    await two.acme.clock.advance(60)
    await refused(two, second, CustodianDown("it does not answer"), moved=False)
    assert not await went_on(two, second)


async def test_never_in_a_database_that_may_be_an_old_copy(bench: Bench) -> None:
    """It may miss a call."""
    two = pair(bench)
    payout_id = await two.pay()
    job = await two.acme.begin()
    order = two.acme.order(job)
    await order.moving()
    await bench.db.run(freeze, bench.runtime.ids, bench.clock.moment().wall, "older")
    await two.acme.record(job, Verb.SUBMIT, SHORT, order=order)
    assert not await went_on(two, payout_id)


async def test_never_while_an_operator_has_to_look(bench: Bench) -> None:
    """What blocks a mark blocks this."""
    two = pair(bench)
    payout_id = await two.pay()
    job = await two.acme.begin()
    await bench.write(payout_id, blocked="mismatch")
    await two.acme.record(job, Verb.SUBMIT, SHORT)
    assert not await went_on(two, payout_id)


async def test_never_after_news(bench: Bench) -> None:
    """The custodian had it, and failed it later: the partner decides, with `funds_moved`."""
    two = pair(bench, failover="on_absence")
    payout_id = await two.pay()
    await two.acme.submitted(
        await two.acme.begin(), Report(SubStatus.SUBMITTED, "TAKEN"), moved=True
    )
    await two.acme.clock.advance(200)
    failure = Failure(code=FailureCode.INSUFFICIENT_FUNDS, message="no", funds_moved=FundsMoved.NO)
    await two.acme.fetched(
        await two.acme.begin(), Report(SubStatus.FAILED, "NO FUNDS", failure=failure)
    )
    payout = await two.payout(payout_id)
    assert (payout.status, payout.custodian) == ("failed", "acme")


@pytest.mark.parametrize("door", ["look", "webhook", "refusal of a look"])
@pytest.mark.parametrize("accepted", [SubStatus.SUBMITTED, SubStatus.AWAITING_APPROVAL])
async def test_what_was_accepted_and_is_refused_later_ends(
    bench: Bench, accepted: SubStatus, door: str
) -> None:
    """Whatever the setting, the code and the way it is told: the partner decides, with `funds_moved`."""
    two = pair(bench, failover="on_absence")
    payout_id = await two.pay()
    await two.acme.submitted(await two.acme.begin(), Report(accepted, "TAKEN"), moved=True)
    await two.acme.clock.advance(200)
    failure = Failure(code=FailureCode.INSUFFICIENT_FUNDS, message="no", funds_moved=FundsMoved.NO)
    late = Report(SubStatus.FAILED, "NO FUNDS", failure=failure)
    if door == "webhook":
        await bench.db.run(two.acme.recorder.news, payout_id, late, Source.WEBHOOK)
        # It ends the payout, or brings the look forward that does.
        await two.acme.clock.advance(200)
    if (await two.payout(payout_id)).status == "pending":
        job = await two.acme.begin()
        outcome = SHORT if door == "refusal of a look" else late
        await two.acme.fetched(job, outcome)
    payout = await two.payout(payout_id)
    assert payout.custodian == "acme"
    assert len(await two.executions(payout_id)) == 1
    if door == "refusal of a look":
        # No word about what was accepted: it is looked up as before.
        assert payout.status == "pending"
        return
    assert payout.failure is not None
    assert (payout.status, payout.failure.funds_moved) == ("failed", FundsMoved.NO)


@pytest.mark.parametrize("count", [1, 3])
async def test_payouts_of_a_batch_stay_at_its_account(bench: Bench, count: int) -> None:
    """A batch names the account that pays it. Refused on the first moving call, its payouts end as unpaid."""
    two = pair(bench, failover="on_absence")
    ids = [await two.pay() for _ in range(count)]
    await bench.db.run(as_set, bench, ids, "bat_1")
    job = await two.acme.begin()
    assert [each.id for each in job.items] == ids
    await two.acme.submitted(job, SHORT, moved=True)
    for each in ids:
        payout = await two.payout(each)
        assert payout.failure is not None
        assert (payout.status, payout.custodian) == ("failed", "acme")
        assert payout.failure.funds_moved is FundsMoved.NO
    assert await two.beta.claim() == []


@pytest.mark.both_stores
async def test_limits_count_a_failover_once(bench: Bench) -> None:
    """Counted where it was accepted, moved nowhere, given back once when the last custodian refuses."""
    daily = {"name": "daily", "per": "day", "amount": "100", "each": ["org"]}
    spending = Spending(rules(limits=(daily,)))
    bench.payouts = Payouts(bench.runtime, Vault(bytes(32), bench.runtime.ids), spending=spending)
    two = pair(bench)
    payout_id, other = await two.pay(), await two.pay()

    async def spent() -> list[tuple[int, str]]:
        return [(row["count"], row["amount"]) for row in await bench.db.read(all_counters)]

    assert await spent() == [(2, "10")]
    job, still = await two.acme.claim()
    assert isinstance(job, Job)
    assert isinstance(still, Job)
    await two.acme.submitted(job, SHORT, moved=True)
    assert await went_on(two, payout_id)
    assert await spent() == [(2, "10")]
    await two.acme.submitted(still, Report(SubStatus.SUBMITTED, ""), moved=True)
    await two.beta.submitted(await two.beta.begin(), SHORT, moved=True)
    assert (await two.payout(payout_id)).status == "failed"
    assert await spent() == [(1, "5")]
    assert (await two.payout(other)).status == "pending"


@pytest.mark.both_stores
async def test_a_reservation_goes_along(bench: Bench) -> None:
    """From the first account to the second one, in the transaction of the failover; given back there, once."""
    rule = replace(RULE, custodian="acme", account=Account(id="A", type="VAULT"))
    second = replace(RULE, custodian="beta", account=Account(id="B", type="WALLET"))
    plain = RouteSettings.model_validate(
        {"destination": "address", "custodian": "acme", "account": {"id": "A", "type": "VAULT"}}
    )
    process = Process(bench.db, bench.runtime, [rule, second], plain)
    process.balances = Balances(bench.runtime, process.funds, frozenset({"acme", "beta"}))
    bench.payouts = process.payouts
    two = pair(bench, funds=process.funds)
    await bench.db.run(process.balances.settle, bench.clock.moment())
    await process.read("100", rule)
    await process.read("100", second)
    await bench.clock.advance(VISIBILITY_S)
    await process.read("100", rule)
    await process.read("5", second)

    async def reserved() -> list[tuple[str, str]]:
        return [
            (json.loads(row["account_key"])[0], f"{Decimal(row['amount']) + Decimal(row['fee']):f}")
            for row in await bench.db.read(all_reservations)
        ]

    payout_id = await two.pay()
    assert await reserved() == [("acme", "5")]
    await refused(two, payout_id)
    assert await went_on(two, payout_id)
    assert await reserved() == [("beta", "5")]
    # The second account does not cover another one: that ends at the first one, and gives back there.
    full = await two.pay()
    assert sorted(await reserved()) == [("acme", "5"), ("beta", "5")]
    await refused(two, full)
    assert (await two.payout(full)).status == "failed"
    assert await reserved() == [("beta", "5")]
    await two.beta.submitted(await two.beta.begin(), SHORT, moved=True)
    assert await reserved() == []


async def test_not_where_the_partner_asked_for_the_custodian(bench: Bench) -> None:
    """It pinned the account; another one is not what it asked for."""
    two = pair(bench)
    account = {"id": "A", "type": "VAULT"}
    payout_id = await two.pay(route={"custodian": "acme", "account": Account(**account)})
    await refused(two, payout_id)
    assert not await went_on(two, payout_id)


@pytest.mark.parametrize(
    "second",
    [
        pytest.param({"fee": {"flat": "1.000001"}}, id="a fee above the quoted one"),
        pytest.param({"networks": ["Ethereum"]}, id="another network"),
        pytest.param({"orgs": ["rival"]}, id="of another org"),
        pytest.param({"max_amount": "4"}, id="beyond its bounds"),
        pytest.param({"custodian": "acme"}, id="another account of the same custodian"),
    ],
)
async def test_only_within_the_quoted_terms(bench: Bench, second: dict[str, Any]) -> None:
    """Otherwise it ends as it would without the setting."""
    two = pair(bench, second=second)
    payout_id = await two.pay()
    await refused(two, payout_id)
    assert (await two.payout(payout_id)).status == "failed"


async def test_only_to_a_custodian_that_could_pay_now(bench: Bench) -> None:
    """Not where it is paused, does not answer, or where a limit would have to count it."""
    act, wanted = Act("operator", ""), Wanted(PauseScope.CUSTODIAN, "beta")
    two = pair(bench)
    two.breakers["beta"].fault("unreachable")
    payout_id = await two.pay()
    await refused(two, payout_id)
    assert (await two.payout(payout_id)).status == "failed"
    for limit in ({"custodian": "beta"}, {"account": "B"}, {"each": ("account",)}):
        settings = SpendingLimitSettings.model_validate(
            {"name": "most", "per": "day", "amount": "100"} | limit
        )
        two = pair(bench, limits=(settings,))
        payout_id = await two.pay()
        await refused(two, payout_id)
        assert (await two.payout(payout_id)).status == "failed"
    two = pair(bench)
    for keep in (False, True):
        # Also where new payouts are accepted meanwhile: nothing goes on to wait there.
        await bench.db.run(pause, bench.runtime, wanted, "a rumour", act, keep_accepting=keep)
        payout_id = await two.pay()
        await refused(two, payout_id)
        assert (await two.payout(payout_id)).status == "failed"


async def test_nothing_goes_on_during_an_emergency_stop(bench: Bench) -> None:
    """The answer to a call from before it comes meanwhile; also where new payouts are accepted and wait."""
    two = pair(bench)
    payout_id = await two.pay()
    job = await two.acme.begin()
    order = two.acme.order(job)
    await order.moving()
    wanted, act = Wanted(PauseScope.ALL), Act("operator", "")
    await bench.db.run(pause, bench.runtime, wanted, "a leak", act, keep_accepting=True)
    await two.acme.record(job, Verb.SUBMIT, SHORT, order=order)
    assert not await went_on(two, payout_id)


async def test_what_was_not_refused_waits_for_the_end_of_a_pause(bench: Bench) -> None:
    """Nothing was sent, and the only other custodian is paused: the payout neither ends nor moves."""
    two = pair(bench)
    payout_id = await two.pay()
    wanted, act = Wanted(PauseScope.CUSTODIAN, "beta"), Act("operator", "")
    await bench.db.run(pause, bench.runtime, wanted, "a rumour", act)
    down = CustodianDown("it does not answer")
    await refused(two, payout_id, down, moved=False)
    assert not await went_on(two, payout_id)
    assert (await two.payout(payout_id)).status == "pending"
    await bench.db.run(resume, bench.runtime, wanted, "checked", act)
    await two.acme.clock.advance(60)
    await refused(two, payout_id, down, moved=False)
    assert await went_on(two, payout_id)


async def test_it_never_comes_back(bench: Bench) -> None:
    """Each custodian has it once; after the last one it ends."""
    two = pair(bench, second={"failover": "on_absence"})
    payout_id = await two.pay()
    await refused(two, payout_id)
    await two.beta.submitted(await two.beta.begin(), SHORT, moved=True)
    payout = await two.payout(payout_id)
    assert (payout.status, payout.custodian) == ("failed", "beta")
    assert payout.failure is not None
    assert payout.failure.funds_moved is FundsMoved.NO
    assert len(await two.executions(payout_id)) == 2


async def test_an_operator_sees_the_decision_and_every_execution(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """By which route it was quoted and why not by another one; where it was, and where it is now."""
    two = pair(bench, second={"max_amount": "100"})
    payout_id = await two.pay()
    await refused(two, payout_id)
    story = await bench.db.read(tell, payout_id)
    assert story is not None
    print_story(story)
    said = capsys.readouterr().out
    lines = [" ".join(line.replace("│", " ").split()) for line in said.splitlines()]
    assert "decision of the quote (fixed)" in lines
    assert "routes.0 acme VAULT A taken fee 1, 60 s" in lines
    assert "routes.1 beta WALLET B candidate fee 1, 60 s" in lines
    (first,) = [line for line in lines if line.startswith("1 acme VAULT A closed")]
    assert "refused; goes on at beta" in first
    assert any(line.startswith("2 beta WALLET B prepared") for line in lines)


async def test_its_time_to_be_sent_goes_on(bench: Bench) -> None:
    """Counted from when it was accepted, not from when it went on."""
    two = pair(bench, within_s=100)
    payout_id = await two.pay()
    await two.acme.clock.advance(60)
    await refused(two, payout_id)
    await two.beta.clock.advance(39)
    await two.beta.submitted(await two.beta.begin(), NotSent("busy"))
    await two.beta.clock.advance(2)
    (ended,) = await two.beta.claim()
    assert isinstance(ended, Recorded)
    payout = await two.payout(payout_id)
    assert payout.failure is not None
    assert payout.failure.code is FailureCode.NOT_SENT_IN_TIME


# --- Late news of the first custodian -------------------------------------------------------------


@dataclass
class Webhooks:
    """Reads a webhook of a custodian as a word about one transfer."""

    def parse(self, body: bytes) -> list[Notice]:
        """Read `[transfer, word, key]`."""
        transfer, word, key = json.loads(body)
        report = Report(SubStatus(word), word.upper())
        return [Notice((Ref("transfer", transfer),), key, report=report)]


def inbox(two: Pair) -> Inbox:
    """Return the inbox of both custodians."""
    return Inbox(
        db=two.acme.db,
        runtime=two.acme.runtime,
        custodians={"acme": Webhooks(), "beta": Webhooks()},
        recorders={"acme": two.acme.recorder, "beta": two.beta.recorder},
        settings=EngineSettings(),
        metrics=Metrics(),
        wake=lambda _: None,
    )


async def known(two: Pair, payout_id: str) -> LiveOrder:
    """Have acme know an id of the payout, and refuse it."""
    job = await two.acme.begin()
    order = two.acme.order(job)
    await order.expect(Ref("transfer", "t-1"))
    await order.moving()
    await two.acme.record(job, Verb.SUBMIT, SHORT, order=order)
    assert await went_on(two, payout_id)
    return order


@pytest.mark.parametrize("word", ["submitted", "broadcast", "delivered"])
async def test_late_news_that_money_moved_freezes_the_payout(bench: Bench, word: str) -> None:
    """Nothing of it is an outcome of the other execution; no mark follows, and a person is told."""
    two = pair(bench)
    payout_id = await two.pay()
    await known(two, payout_id)
    job = await two.beta.begin()
    await inbox(two).receive("acme", json.dumps(["t-1", word, "k"]).encode())
    payout = await two.payout(payout_id)
    assert payout.status == "pending"
    assert await bench.attention(payout_id) == ["late_news"]
    with pytest.raises(MarkRefused) as late:
        await two.beta.order(job).moving()
    assert late.value.refusal is Refusal.BLOCKED
    # Also without the block: the evidence itself forbids it.
    await bench.write(payout_id, blocked=None)
    with pytest.raises(MarkRefused) as late:
        await two.beta.order(job).moving()
    assert late.value.refusal is Refusal.NOT_CLOSED
    # And "not paid" is not said any more, whatever the other custodian answers.
    await two.beta.submitted(job, SHORT)
    assert (await two.payout(payout_id)).status == "pending"


@pytest.mark.parametrize("word", ["failed", "rejected", "awaiting_approval"])
async def test_other_late_words_change_nothing(bench: Bench, word: str) -> None:
    """A refusal that is told once more is no news of the other execution."""
    two = pair(bench)
    payout_id = await two.pay()
    await known(two, payout_id)
    before = await two.payout(payout_id)
    await inbox(two).receive("acme", json.dumps(["t-1", word, "k"]).encode())
    assert await two.payout(payout_id) == before
    assert await bench.attention(payout_id) == []
    await two.beta.submitted(await two.beta.begin(), Report(SubStatus.SUBMITTED, ""), moved=True)


async def test_late_news_after_the_end_is_for_the_operator(bench: Bench) -> None:
    """The other custodian has paid it: its status stays, and somebody has to ask the first one."""
    two = pair(bench)
    payout_id = await two.pay()
    await known(two, payout_id)
    await two.beta.submitted(await two.beta.begin(), Report(SubStatus.DELIVERED, ""), moved=True)
    await inbox(two).receive("acme", json.dumps(["t-1", "delivered", "k"]).encode())
    assert (await two.payout(payout_id)).status == "delivered"
    assert await bench.attention(payout_id) == ["late_news"]


async def test_the_ids_of_both_custodians_find_it(bench: Bench) -> None:
    """A webhook of the one that pays it is applied as ever."""
    two = pair(bench)
    payout_id = await two.pay()
    await known(two, payout_id)
    job = await two.beta.begin()
    order = two.beta.order(job)
    await order.expect(Ref("transfer", "t-1"))
    await order.moving()
    await two.beta.record(job, Verb.SUBMIT, Report(SubStatus.SUBMITTED, ""), order=order)
    await inbox(two).receive("beta", json.dumps(["t-1", "broadcast", "k"]).encode())
    assert (await two.payout(payout_id)).status == "broadcast"
    found = {each["custodian"] for each in await bench.db.read(rows.refs_of, payout_id)}
    assert found == {"acme", "beta"}


async def test_a_late_word_that_contradicts_the_proof_of_absence(bench: Bench) -> None:
    """What waits for an approval at a custodian that did not know it is paid once somebody approves it."""
    two = pair(bench, failover="on_absence")
    payout_id = await two.pay()
    await absent(two, payout_id)
    await inbox(two).receive("acme", json.dumps(["t-1", "awaiting_approval", "k"]).encode())
    assert await bench.attention(payout_id) == ["late_news"]
    with pytest.raises(MarkRefused):
        await two.beta.order(await two.beta.begin()).moving()


async def test_the_answer_of_a_worker_that_slept_meanwhile(bench: Bench) -> None:
    """It is evidence of the closed execution, although the lease is lost: nobody looks there again."""
    two = pair(bench, failover="on_absence")
    payout_id = await two.pay()
    job, order = await absent(two, payout_id)
    told = Report(SubStatus.SUBMITTED, "TAKEN")
    recorded = await two.acme.record(job, Verb.SUBMIT, told, order=order)
    assert recorded.lost
    assert await bench.attention(payout_id) == ["late_news"]
    with pytest.raises(MarkRefused):
        await two.beta.order(await two.beta.begin()).moving()


async def absent(two: Pair, payout_id: str) -> tuple[Job, LiveOrder]:
    """Have it proven that acme does not know a call whose worker has not answered yet."""
    job = await two.acme.begin()
    order = two.acme.order(job)
    await order.expect(Ref("transfer", "t-1"))
    await order.moving()
    await two.acme.clock.advance(200)
    await two.acme.fetched(await two.acme.begin(), Absent(""))
    assert await went_on(two, payout_id)
    return job, order


async def test_an_operators_end_is_decided_by_the_custodian_that_has_it(bench: Bench) -> None:
    """A command that began before the failover would keep the turn at the second one's account."""
    two = pair(bench)
    payout_id = await two.pay()
    await refused(two, payout_id)
    found = Resolution(delivered=False, evidence="seen", funds_moved=FundsMoved.UNKNOWN)
    with pytest.raises(NotAllowedError, match="gone on at beta"):
        await bench.db.run(resolve, two.acme.recorder, bench.runtime, payout_id, found)
    await bench.db.run(resolve, two.beta.recorder, bench.runtime, payout_id, found)
    assert (await two.payout(payout_id)).status == "failed"


# --- What was sent to the first custodian is nothing to the second --------------------------------


async def test_the_second_custodian_cannot_pay_before_it_was_called(bench: Bench) -> None:
    """The call that the first one refused is no mark at the second one: an operator looks."""
    two = pair(bench)
    payout_id = await two.pay()
    await refused(two, payout_id)
    job = await two.beta.begin()
    await two.beta.record(job, Verb.SUBMIT, Report(SubStatus.DELIVERED, "PAID"))
    assert (await two.payout(payout_id)).status == "pending"
    assert await bench.attention(payout_id) == ["adapter_error"]


async def test_a_transfer_of_another_reference_at_the_second_custodian(bench: Bench) -> None:
    """That the first one was called without a reference of ours excuses nothing at the second one."""
    two = pair(bench)
    payout_id = await two.pay()
    await refused(two, payout_id)
    job = await two.beta.begin()
    order = two.beta.order(job)
    await order.moving(reference="ours")
    stranger = Report(SubStatus.DELIVERED, "PAID", reference="of another one")
    await two.beta.record(job, Verb.SUBMIT, stranger, order=order)
    assert (await two.payout(payout_id)).status == "pending"
    assert await bench.attention(payout_id) == ["foreign_ref"]


async def test_early_news_of_the_second_custodian(bench: Bench) -> None:
    """A webhook before its first call is early, although the first custodian was called."""
    two = pair(bench)
    payout_id = await two.pay()
    await refused(two, payout_id)
    job = await two.beta.begin()
    await two.beta.order(job).expect(Ref("transfer", "t-2"))
    await inbox(two).receive("beta", json.dumps(["t-2", "delivered", "k"]).encode())
    assert (await two.payout(payout_id)).status == "pending"
    assert await bench.attention(payout_id) == ["early_news"]


async def test_never_while_a_person_is_asked_there(bench: Bench) -> None:
    """What stands at the first custodian may still be released there, also while it does not answer."""
    two = pair(bench)
    payout_id = await two.pay()
    asks = Report(SubStatus.AWAITING_APPROVAL, "ASKS", again_after_s=10)
    await refused(two, payout_id, asks, moved=False)
    await two.acme.clock.advance(20)
    await refused(two, payout_id, CustodianDown("it does not answer"), moved=False)
    assert not await went_on(two, payout_id)


async def test_never_by_a_gateway_whose_routes_are_not_the_active_ones(bench: Bench) -> None:
    """Its setting may be one that nobody has activated."""
    two = pair(bench)
    two.onward.rules = "mine"
    payout_id = await two.pay()
    at = bench.clock.moment().wall
    await bench.db.run(activate, bench.runtime.ids, at, "active", "{}", "ann", "why")
    await refused(two, payout_id)
    assert not await went_on(two, payout_id)
