"""Requests keep below a custodian's rate, and a 429 pauses the instance, not each payout alone.

The custodian is a real HTTP server that counts every request against a strict limit, by the clock that
the test sets. Between it and the engine stands the gateway's own custodian instance.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import aiohttp
import pytest
from aiohttp import web
from pydantic import BaseModel

from gateway.adapter import (
    Absent,
    Adapter,
    CannotLook,
    Capabilities,
    KeySemantics,
    NotSent,
    Order,
    OutcomeUnknown,
    Rate,
    Report,
    SubStatus,
    Tools,
)
from gateway.config.settings import EngineSettings
from gateway.custodians.dates import Dates
from gateway.custodians.instance import CustodianInstance
from gateway.custodians.pacer import MOST_PAUSE_S, Pacer
from gateway.errors import RateLimited
from gateway.execution.engine import Engine
from gateway.execution.state import Job, Verb
from gateway.metrics import Metrics
from gateway.planning import QuoteRequest
from gateway.runtime import Ids, offload
from gateway.store import payouts as payout_rows
from gateway.store.database import Tx
from gateway.store.payout_lists import list_payouts
from tests.clock import SetClock
from tests.execution.conftest import LEASE_S, Bench

PER_S = 30
STEP_S = 0.25
CAN = Capabilities(
    frozenset({"custodian_account"}),
    keys=KeySemantics(repeat_is_safe=True),
    call_life_s=60,
    visibility_s=30,
    polling_s=(2, 4, 8, 15, 30),
    in_flight=32,
    rate=Rate(PER_S - 1, burst=8, refusal_proves_unsent=True),
)


class Settings(BaseModel):
    """No settings."""


class Limited(Adapter[Settings]):
    """One POST pays, one GET looks. A 429 is told as plain "not sent", as a simple adapter does."""

    name: ClassVar[str] = "limited"
    Settings: ClassVar[type[BaseModel]] = Settings
    capabilities = CAN
    url = ""

    async def submit(self, order: Order) -> Report:
        """Pay."""
        await order.moving()
        found: Report = await self._ask("POST", order)
        return found

    async def fetch(self, order: Order) -> Report | Absent | CannotLook:
        """Look."""
        found: Report | Absent | CannotLook = await self._ask("GET", order)
        return found

    async def _ask(self, method: str, order: Order) -> Any:
        async with self.tools.http.request(method, f"{self.url}/{order.payout_id}") as answer:
            if answer.status == 429:
                raise NotSent("HTTP 429")
            if answer.status == 404:
                return Absent("404")
            if answer.status != 200:
                raise OutcomeUnknown(f"HTTP {answer.status}")
            return Report(SubStatus(await answer.text()), "WORD")


class Custodian:
    """A server with a strict limit: so many requests in any second. What it refuses counts as well."""

    def __init__(self, clock: SetClock, per_s: int) -> None:
        self._clock = clock
        self._per_s = per_s
        self._recent: deque[float] = deque()
        self.closed_until = 0.0
        self.answered: Counter[int] = Counter()
        self.ledger: Counter[str] = Counter()

    async def handle(self, request: web.Request) -> web.Response:
        """Pay, or show what was paid."""
        status, text = self._answer(request.method, request.path)
        self.answered[status] += 1
        return web.Response(status=status, text=text)

    def _answer(self, method: str, path: str) -> tuple[int, str]:
        now = self._clock.monotonic()
        while self._recent and self._recent[0] <= now - 1:
            self._recent.popleft()
        if now < self.closed_until or len(self._recent) >= self._per_s:
            return 429, "too many"
        self._recent.append(now)
        if method == "GET":
            return (200, "delivered") if self.ledger[path] else (404, "")
        self.ledger[path] = 1
        return 200, "submitted"


class Place:
    """An engine whose loop runs, its instance, and the custodian behind a socket."""

    def __init__(self, bench: Bench, custodian: Custodian, engine: Engine, pacer: Pacer) -> None:
        self.bench = bench
        self.custodian = custodian
        self.engine = engine
        self.pacer = pacer

    async def accept(self, count: int) -> list[str]:
        """Accept so many payouts at once."""
        return await self.bench.db.run(self._accept, count)

    async def _accept(self, tx: Tx, count: int) -> list[str]:
        bench, ids = self.bench, []
        request = QuoteRequest.model_validate(
            {
                "external_ref": "u",
                "destination": {"type": "custodian_account", "account_type": "X", "id": "p"},
                "asset": "USDC",
                "amount": "5",
            }
        )
        for _ in range(count):
            quote, account = bench.quotes.draft(bench.caller, request)
            await bench.quotes.store(tx, bench.caller, quote, account)
            ids.append((await bench.payouts.accept(tx, bench.caller, quote.quote_id)).id)
        return ids

    async def delivered(self, count: int, *, within_s: float) -> None:
        """Let time pass until so many payouts are delivered."""
        for _ in range(round(within_s / STEP_S)):
            if await self.bench.db.read(_delivered) == count:
                return
            await self.passes(STEP_S)
        raise AssertionError(f"{await self.bench.db.read(_delivered)} of {count} are delivered")

    async def passes(self, seconds: float) -> None:
        """Let time pass once nothing is being worked on."""
        for _ in range(2000):
            await asyncio.sleep(0.002)
            if not self.engine._tasks:
                break
        await self.bench.clock.advance(seconds)


async def _delivered(tx: Tx) -> int:
    return len(await list_payouts(tx, {"status": "delivered"}, 2000))


async def _attention(tx: Tx) -> list[str]:
    return [row["code"] for row in await payout_rows.attention_list(tx, 100)]


@asynccontextmanager
async def opened(
    bench: Bench, *, per_s: int = PER_S, can: Capabilities = CAN, paced: bool = True
) -> AsyncIterator[Place]:
    """Run an engine against a custodian that takes so many requests a second."""
    custodian = Custodian(bench.clock, per_s)
    app = web.Application()
    app.router.add_route("*", "/{payout}", custodian.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    pacer = Pacer(bench.clock, can.rate)
    http = aiohttp.ClientSession(trace_configs=[pacer.tracing()])
    tools = Tools(http, bench.clock, Ids(bench.clock), offload, bench.assets)
    adapter = Limited(Settings(), tools)
    adapter.url, adapter.capabilities = f"http://127.0.0.1:{port}", can
    instance = CustodianInstance(
        "acme",
        "limited",
        adapter,
        tools,
        Metrics(),
        30.0,
        fingerprints=(lambda *parts: "/".join(parts),),
        dates=Dates(bench.clock),
        pacer=pacer,
    )
    engine = Engine(
        db=bench.db,
        runtime=bench.runtime,
        payouts=bench.payouts,
        assets=bench.assets,
        custodian=instance,
        settings=EngineSettings(lease_s=LEASE_S, idle_s=1),
        owner="one",
        metrics=Metrics(),
        wake=lambda _: None,
        pacer=pacer if paced else None,
    )
    loop = asyncio.create_task(engine.run())
    try:
        yield Place(bench, custodian, engine, pacer)
        assert not loop.done(), "the loop ended"
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await engine.finish(5)
        await http.close()
        await runner.cleanup()


@pytest.fixture
def capabilities() -> Capabilities:
    """What the custodian of these tests can do."""
    return CAN


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_burst_of_payouts_keeps_below_the_limit(bench: Bench) -> None:
    """400 payouts at once, 30 requests a second: each is paid once, and hardly a call is refused."""
    async with opened(bench) as place:
        await place.accept(400)
        await place.delivered(400, within_s=80)
        custodian = place.custodian
        calls = custodian.answered.total()
        assert len(custodian.ledger) == 400
        assert custodian.answered[429] < 0.03 * calls, custodian.answered
        assert calls < 1400, "polls of what is not done yet are few"
        assert await bench.db.read(_attention) == []


@pytest.mark.timeout(200)
async def test_ten_minutes_of_429_lose_nothing_and_make_no_storm(bench: Bench) -> None:
    """Some requests a minute for the whole instance; nobody is alerted; then everything is paid."""
    async with opened(bench, per_s=1000) as place:
        place.custodian.closed_until = bench.clock.monotonic() + 600
        await place.accept(40)
        for _ in range(600):
            await place.passes(1)
        refused = place.custodian.answered[429]
        assert place.custodian.answered.total() == refused
        # Those that were on their way at the first one, and one after each pause.
        assert refused < CAN.in_flight + 20, refused
        await place.delivered(40, within_s=200)
        assert len(place.custodian.ledger) == 40
        assert await bench.db.read(_attention) == []


@pytest.mark.timeout(200)
async def test_without_a_pause_of_the_instance_there_is_a_storm(bench: Bench) -> None:
    """The control: each payout retries alone."""
    async with opened(bench, per_s=1000, paced=False) as place:
        place.custodian.closed_until = bench.clock.monotonic() + 600
        await place.accept(40)
        for _ in range(60):
            await place.passes(1)
        assert place.custodian.answered[429] > 300


async def test_nothing_waits_between_a_mark_and_its_call(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted: the commit of the mark comes next before the request, whatever the bucket lacks."""
    events: list[str] = []

    def noted(name: str, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            task = asyncio.current_task()
            # The engine's loop and the keeper of the lease have tasks of their own.
            if task is not None and task.get_name().startswith("execution-"):
                first = getattr(args[0], "__name__", "") if args else ""
                events.append(f"{name} {first}".strip())
            return await function(*args, **kwargs)

        return call

    async with opened(bench) as place:
        allow = place.pacer.allow_mark

        def allowed() -> None:
            events.append("allowed")
            # From here on the bucket is empty, and in debt.
            for _ in range(50):
                place.pacer.request()
            allow()

        request = place.pacer.request

        def sent() -> None:
            events.append("sent")
            request()

        monkeypatch.setattr(place.pacer, "allow_mark", allowed)
        monkeypatch.setattr(bench.db, "run", noted("run", bench.db.run))
        monkeypatch.setattr(bench.clock, "sleep", noted("sleep", bench.clock.sleep))
        monkeypatch.setattr(place.pacer, "request", sent)
        await place.accept(1)
        place.engine.wakeup.ring()
        for _ in range(200):
            await asyncio.sleep(0.005)
            if place.custodian.answered:
                break
    begin = events.index("allowed")
    marked = events.index("run set_mark", begin)
    of_test = [each for each in events[begin:marked] if each != "sent"]
    assert of_test == ["allowed"], "the token and the clock come before the mark"
    assert events[marked + 1] == "sent", events[marked:]


async def test_a_pause_that_begins_while_a_call_is_prepared_stops_it_before_its_mark(
    bench: Bench,
) -> None:
    """What is in preparation when a 429 comes is not sent, and waits as the others do."""
    async with opened(bench) as place:
        place.pacer.answered(429, "30")
        await place.accept(1)
        job = await bench.begin()
        order = place.engine.order(job)
        with pytest.raises(RateLimited) as refused:
            await order.moving()
        assert refused.value.again_after_s == pytest.approx(30)
        await place.engine.record(
            job, Verb.SUBMIT, refused.value, order=order, started=bench.clock.moment()
        )
        await place.passes(29)
        assert not place.custodian.answered
        await place.delivered(1, within_s=20)


async def test_calls_that_move_money_come_before_looks_that_keep_a_share(bench: Bench) -> None:
    """Of eight tokens two are offered to looks first, however many payouts wait to be sent."""
    for _ in range(8):
        await bench.accept()
    looked_at = [each for each in await bench.claim(8) if isinstance(each, Job)]
    for job in looked_at:
        order = bench.order(job)
        await order.moving()
        await bench.record(job, Verb.SUBMIT, OutcomeUnknown("lost"), order=order)
    await bench.clock.advance(60)
    for _ in range(20):
        await bench.accept()
    share = Pacer(bench.clock, Rate(10, burst=24)).share(8)
    assert (share.works, share.looks) == (8, 2)
    until = bench.runtime.timeline.now() + 60_000_000
    for limit, looks, verbs in (
        (8, 2, {Verb.FETCH: 2, Verb.SUBMIT: 6}),
        (8, 2, {Verb.FETCH: 2, Verb.SUBMIT: 6}),
        (8, 2, {Verb.FETCH: 2, Verb.SUBMIT: 6}),
        # Only two wait to be sent: looks have the rest.
        (8, 2, {Verb.FETCH: 2, Verb.SUBMIT: 2}),
    ):
        begun = await bench.db.run(bench.recorder.claim, "test", until, limit, looks)
        found = Counter(each.next_verb for each in begun if isinstance(each, Job))
        assert found == verbs


def test_a_retry_after_is_capped_and_pauses_grow_without_one() -> None:
    """A day is a mistake of theirs; what names no time is asked again later and later."""
    for told, pause in ((str(86_400), MOST_PAUSE_S), ("9" * 400, MOST_PAUSE_S), ("7", 7.0)):
        pacer = Pacer(SetClock())
        pacer.answered(429, told)
        assert pacer.paused_s() == pause
    clock = SetClock()
    pacer, pauses = Pacer(clock), []
    for _ in range(9):
        pacer.answered(429, "soon")
        pacer.answered(429, "soon")
        pauses.append(pacer.paused_s())
        clock._elapsed += type(clock._elapsed)(seconds=pacer.paused_s())
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_after_a_pause_one_request_goes_first() -> None:
    """The others wait for what it is answered."""
    clock = SetClock()
    pacer = Pacer(clock)
    assert pacer.share(16).works == 16
    pacer.answered(429, "5")
    assert pacer.share(16).works == 0
    clock._elapsed += type(clock._elapsed)(seconds=5)
    assert pacer.share(16).works == 1
    pacer.begin(1)
    assert pacer.share(16).works == 0
    pacer.answered(200)
    assert pacer.share(16).works == 16


def test_tokens_that_work_did_not_need_go_back() -> None:
    """Work pays for what it is expected to ask; what it asks beyond that is a debt."""
    pacer = Pacer(SetClock(), Rate(1, burst=30))
    assert pacer.share(100).works == 10
    pacer.begin(1)
    with pacer.working():
        pacer.request()
    assert pacer._count() == 29
    pacer.begin(1)
    with pacer.working():
        for _ in range(20):
            pacer.request()
    assert pacer._count() == 9
    assert pacer.wait_s() is None
