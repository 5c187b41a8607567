"""A twin as a process, the adapter as the gateway wraps it, and the course of one order between them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp import web

from gateway.adapter import (
    Absent,
    AssetRegistry,
    BatchReport,
    CannotLook,
    NotListed,
    Report,
    SubStatus,
    Tools,
)
from gateway.config.settings import EngineSettings
from gateway.custodians.instance import CustodianInstance
from gateway.custodians.registry import Wanted, build
from gateway.errors import AdapterError, NotSent, OutcomeUnknown, Rejected
from gateway.metrics import Metrics
from gateway.model import Status
from gateway.runtime import Ids, Moment, SystemClock
from gateway.states import STATUS_OF
from gateway.testing.orders import Elapsed, OrderForTest

#: A step of a life at the twin: only advancing its clock gets there.
STEP_S = 100.0
#: More turns than any payout takes.
MOST_TURNS = 120
_NUMBERS = itertools.count(1)
Outcome = Report | Absent | NotListed | CannotLook | AdapterError


class Crashed(Exception):
    """The process died at an await."""


@dataclass(frozen=True)
class Sent:
    """A request that the adapter made, as it left."""

    method: str
    path: str
    body: bytes


class BenchClock(SystemClock):
    """The machine's time, plus what a test let pass. Sleeping takes no time."""

    def __init__(self) -> None:
        super().__init__()
        #: how far the wall clock was set wrong, in seconds
        self.off_s = 0.0
        #: how much time a test let pass, in seconds; credentials are dated by the time that both share
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        """Return seconds on a clock that never steps back."""
        return super().monotonic() + self.ahead_s

    def now(self) -> datetime:
        """Return the wall clock."""
        return datetime.fromtimestamp(super().now().timestamp() + self.off_s, UTC)

    def moment(self) -> Moment:
        """Return this moment by all clocks."""
        now = super().moment()
        return Moment(now.clock_id, now.elapsed, now.wall + round(self.off_s * 1e6))

    async def sleep(self, seconds: float) -> None:
        """Let others run."""
        del seconds
        await asyncio.sleep(0)


async def at_once(work: Callable[[], Any]) -> Any:
    """Run a slow computation at once, on the event loop."""
    return work()


@dataclass
class Receiver:
    """A webhook receiver that keeps what it got."""

    url: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        """Take one delivery."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append((headers, await request.read()))
        return web.Response()

    async def wait_for(self, count: int, seconds: float = 10) -> list[tuple[dict[str, str], bytes]]:
        """Wait until so many webhooks have come."""
        async with asyncio.timeout(seconds):
            while len(self.got) < count:
                await asyncio.sleep(0.005)
        return self.got


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    """Serve an application on loopback; yields its address."""
    runner = web.AppRunner(app, shutdown_timeout=1, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Bench:
    """One adapter, its twin, and what was sent between them."""

    def __init__(
        self,
        adapter: str,
        line: Mapping[str, Any],
        settings: Mapping[str, Any],
        terms: Mapping[str, Any],
        http: aiohttp.ClientSession,
    ) -> None:
        self.adapter_name = adapter
        self.control = str(line["control_url"])
        self.credentials: Mapping[str, str] = line["credentials"]
        self.settings = dict(settings)
        self.terms = dict(terms)
        self.clock = BenchClock()
        self.time = Elapsed()
        #: Every request that the adapter made, in order.
        self.sent: list[Sent] = []
        self._http = http
        self._sessions: list[aiohttp.ClientSession] = []
        self.instance = self.new_process()

    def new_process(self, **settings: Any) -> CustodianInstance:
        """Return the adapter as a process that has just started has it; settings may differ."""
        tracing = aiohttp.TraceConfig()
        tracing.on_request_start.append(self._note_request)
        tracing.on_request_chunk_sent.append(self._note_chunk)
        http = aiohttp.ClientSession(trace_configs=[tracing], trust_env=False)
        self._sessions.append(http)
        tools = Tools(http, self.clock, Ids(self.clock), at_once, AssetRegistry())
        wanted = Wanted(self.adapter_name, self.adapter_name, {**self.settings, **settings})
        engine = EngineSettings(call_deadline_s=20)
        self.instance = build(wanted, tools, Metrics(), engine)
        return self.instance

    @property
    def adapter(self) -> Any:
        """The adapter itself, without the wrapper that translates and scrubs."""
        return self.instance._adapter  # noqa: SLF001 - what the wrapper hides is what is tested

    async def close(self) -> None:
        """Close the connections of every process."""
        for each in self._sessions:
            await each.close()

    def order(self, **terms: Any) -> OrderForTest:
        """Return a new payout's order: the kit's terms, but for what is named."""
        members = {**self.terms, **terms}
        return OrderForTest(
            **{
                "payout_id": f"pay_{next(_NUMBERS):026}",
                "time": self.time,
                "now": self.clock.now,
                **members,
            }
        )

    async def steer(self, method: str, what: str, body: Any = None) -> Any:
        """Use the twin's control API."""
        url = f"{self.control}/_twin/{what}"
        async with self._http.request(method, url, json=body) as answer:
            document = await answer.json()
            assert answer.status in {200, 201}, document
            return document

    async def fault(self, call: str, fault: str, **more: Any) -> None:
        """Let something go wrong at the next call of that name."""
        await self.steer("POST", "faults", {"call": call, "fault": fault, **more})

    async def waiting(self) -> list[Any]:
        """Return the faults that have not happened yet."""
        return list((await self.steer("GET", "faults"))["faults"])

    async def ledger(self) -> list[dict[str, str]]:
        """Return every transfer that moved money."""
        return list((await self.steer("GET", "ledger"))["transfers"])

    async def calls(self, *names: str) -> list[dict[str, Any]]:
        """Return the calls that the twin received, in order; only those of some names."""
        calls = (await self.steer("GET", "calls"))["calls"]
        return [each for each in calls if not names or each["call"] in names]

    async def step(self, count: int = 1) -> None:
        """Let so many steps of every payout's life pass at the twin."""
        await self.steer("POST", "clock", {"advance_s": STEP_S * count + 1})

    async def pass_time(self, seconds: float) -> None:
        """Let time pass on both sides."""
        self.time.advance(seconds)
        self.clock.ahead_s += seconds
        await self.steer("POST", "clock", {"advance_s": seconds})

    @asynccontextmanager
    async def receiver(self) -> AsyncIterator[Receiver]:
        """Run a webhook receiver and name it to the twin."""
        receiver = Receiver()
        app = web.Application()
        app.router.add_post("/hook", receiver.handle)
        async with listening(app) as root:
            receiver.url = f"{root}/hook"
            await self.steer("PUT", "webhooks", {"url": receiver.url})
            yield receiver

    @asynccontextmanager
    async def between(
        self, matches: Callable[[web.Request], bool], answer: Callable[[], web.Response]
    ) -> AsyncIterator[None]:
        """Put a proxy before the twin that answers some requests by itself."""
        base = str(self.settings["base_url"])
        root = self.control

        async def forward(request: web.Request) -> web.StreamResponse:
            if matches(request):
                return answer()
            headers = {k: v for k, v in request.headers.items() if k.lower() != "host"}
            async with self._http.request(
                request.method,
                root + request.raw_path,
                data=await request.read() or None,
                headers=headers,
            ) as told:
                kept = {k: v for k, v in told.headers.items() if k in {"Content-Type", "Date"}}
                return web.Response(status=told.status, body=await told.read(), headers=kept)

        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", forward)
        async with listening(app) as proxy:
            self.new_process(base_url=base.replace(root, proxy))
            yield
        self.new_process()

    async def _note_request(
        self, _: aiohttp.ClientSession, context: SimpleNamespace, params: Any
    ) -> None:
        self.sent.append(Sent(params.method, params.url.raw_path_qs, b""))
        context.index = len(self.sent) - 1

    async def _note_chunk(
        self, _: aiohttp.ClientSession, context: SimpleNamespace, params: Any
    ) -> None:
        had = self.sent[context.index]
        self.sent[context.index] = Sent(had.method, had.path, had.body + params.chunk)


class Course:
    """The course of one order: which verb is next, as the engine decides it, in short.

    The rules about money are the engine's, and are tested with it; here is only what gets an order on.
    """

    def __init__(
        self,
        bench: Bench,
        order: OrderForTest,
        answer: Callable[[Bench], Awaitable[Mapping[str, Any]]] | None = None,
    ) -> None:
        self.bench = bench
        self.order = order
        self.verb = "submit"
        #: Every outcome, with its verb.
        self.outcomes: list[tuple[str, Outcome]] = []
        self._answer = answer
        self._absences = 0
        #: whether it is proven that nothing sent before can pay
        self._closed = False
        #: whether the newest moving call was answered with a report: it is followed, not repeated
        self._accepted = False

    @property
    def reports(self) -> list[Report]:
        """Every report, in order."""
        return [each for _, each in self.outcomes if isinstance(each, Report)]

    @property
    def last(self) -> Outcome:
        """The newest outcome."""
        return self.outcomes[-1][1]

    @property
    def ended(self) -> bool:
        """Whether the payout is final."""
        if not self.outcomes:
            return False
        if isinstance(self.last, Rejected):
            return not self.order.moved
        return isinstance(self.last, Report) and _is_final(self.last)

    async def turn(self, crash_at: int | None = None) -> Outcome:
        """Make the next call; `crash_at`: the process dies at so-manieth await of it."""
        verb = self.verb
        order = self.order
        try:
            call = self._call(verb, order)
            outcome: Outcome = await (call if crash_at is None else _crashing(call, crash_at))
        except Crashed:
            self.order = order.again()
            self.verb = "fetch" if self.order.moved else "submit"
            raise
        except AdapterError as error:
            outcome = error
        self.outcomes.append((verb, outcome))
        await self._next(verb, order, outcome)
        return outcome

    async def until(self, reached: Callable[[], bool]) -> None:
        """Go on until something holds; AssertionError with the whole course where it never does."""
        for _ in range(MOST_TURNS):
            if reached():
                return
            await self.turn()
        raise AssertionError(f"never reached, {MOST_TURNS} turns:\n{self.told()}")

    async def until_ended(self) -> Outcome:
        """Go on until the payout is final; return the last outcome."""
        await self.until(lambda: self.ended)
        return self.last

    async def until_handed_over(self) -> Report:
        """Go on until the moving call was made and answered with a report; return that."""
        await self.until(
            lambda: (self.order.moved and isinstance(self.outcomes[-1][1], Report)) or self.ended
        )
        assert isinstance(self.last, Report), self.told()
        return self.last

    def told(self) -> str:
        """Return the course, a line for each call; of a long one its end."""
        return "\n".join(f"  {verb}: {_words(outcome)}" for verb, outcome in self.outcomes[-12:])

    async def _call(
        self, verb: str, order: OrderForTest
    ) -> Report | Absent | NotListed | CannotLook:
        instance = self.bench.instance
        found: BatchReport | Absent | NotListed | CannotLook
        if verb == "submit":
            found = await instance.submit(order)
        elif verb == "confirm":
            assert self._answer is not None, "an action is required: the kit needs an `answer`"
            found = await instance.confirm(order, await self._answer(self.bench))
        else:
            found = await instance.fetch(order)
        return found.items[order.payout_id] if isinstance(found, BatchReport) else found

    async def _next(  # noqa: C901, PLR0912 - one branch for each kind of outcome
        self, verb: str, order: OrderForTest, outcome: Outcome
    ) -> None:
        bench, can = self.bench, self.bench.instance.capabilities
        own_word = isinstance(outcome, NotSent) and verb != "fetch"
        # Trusted for the first moving call only.
        own_word = own_word or (isinstance(outcome, Rejected) and not order.moved)
        self._closed = self._closed and not order.moved_now
        if verb != "fetch":
            self._accepted = isinstance(outcome, Report) and order.moved_now
        self.order = order.again(own_word=own_word, closed=self._closed)
        if isinstance(outcome, Report):
            self._absences = 0
            if outcome.sub_status is SubStatus.REQUIRES_ACTION:
                self.verb = "confirm"
            elif outcome.again_after_s is not None and not self.order.moved:
                self.verb = "submit"
                await bench.step()
            else:
                if verb == "fetch":
                    await bench.step()
                self.verb = "fetch"
        elif isinstance(outcome, NotSent) and verb != "fetch":
            self.verb = "fetch" if self.order.moved else verb
            await bench.pass_time(outcome.again_after_s or 1)
        elif isinstance(outcome, Absent | NotListed | CannotLook) and self._accepted:
            await bench.step()
        elif isinstance(outcome, Absent | NotListed):
            self._expect_whole_window(outcome)
            self._absences += 1
            if not self.order.moved or can.keys.repeat_is_safe:
                self.verb = "submit"
            elif self._absences >= can.absence_looks:
                await bench.pass_time((can.call_life_s or 0) + can.visibility_s)
                self._closed = True
                self.order = self.order.again(closed=True)
                self.verb = "submit"
        elif isinstance(outcome, CannotLook):
            safe = outcome.repeat_is_safe
            safe = can.keys.repeat_is_safe if safe is None else safe
            if safe or not self.order.moved:
                self.verb = "submit"
        elif isinstance(outcome, OutcomeUnknown) or self.order.moved:
            self.verb = "fetch" if self.order.moved else verb

    def _expect_whole_window(self, outcome: Absent | NotListed) -> None:
        """Refuse a list that may begin after a call: the engine never counts it, and looks for ever."""
        if isinstance(outcome, Absent) or outcome.since is None or self.order.marked_at is None:
            return
        skew_s = self.bench.instance.capabilities.clock_skew_s
        latest = self.order.marked_at - timedelta(seconds=skew_s)
        assert outcome.since < latest, (
            f"NotListed.since is {outcome.since}, and the first call was marked at "
            f"{self.order.marked_at}: the list must begin earlier by more than clock_skew_s ({skew_s:g} s)"
        )


def _is_final(report: Report) -> bool:
    if report.sub_status is None:
        return False
    return STATUS_OF[report.sub_status] in {Status.DELIVERED, Status.FAILED}


def _words(outcome: Outcome) -> str:
    if isinstance(outcome, Report):
        extra = f" ({outcome.detail})" if outcome.detail else ""
        return f"{outcome.sub_status} {outcome.custodian_word!r}{extra}"
    return f"{type(outcome).__name__} {outcome}"


async def _crashing(call: Awaitable[Outcome], at: int) -> Outcome:
    """Await a call, and end it at its so-manieth await; raises Crashed there."""
    task = asyncio.create_task(_Counted(call, at).run())
    try:
        return await task
    except asyncio.CancelledError:
        raise Crashed from None
    except AdapterError:
        if task.cancelling():
            raise Crashed from None
        raise


class _Counted:
    """Counts the awaits of a call, and cancels the task it runs in at one of them."""

    def __init__(self, call: Awaitable[Outcome], at: int) -> None:
        self._call = call
        self._at = at

    async def run(self) -> Outcome:
        """Return what the call returns."""
        return await self

    def __await__(self) -> Generator[Any, Any, Outcome]:
        inner: Any = self._call.__await__()
        thrown: BaseException | None = None
        for number in itertools.count(1):
            try:
                waited_for = next(inner) if thrown is None else inner.throw(thrown)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            thrown = None
            if number == self._at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield waited_for
            except BaseException as error:  # noqa: BLE001 - it is for the call, whose end this is
                thrown = error
        raise AssertionError
