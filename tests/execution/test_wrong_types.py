"""Adapters that return what they must not, or raise whatever: the engine's loop lives on.

After a moving mark the outcome is unknown, and it is looked up; without one it is tried again. Between
engine and adapter stands the gateway's own custodian instance, as in production.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar, cast

import aiohttp
import pytest
import structlog
from pydantic import BaseModel

from gateway.adapter import (
    Absent,
    Action,
    Adapter,
    BatchReport,
    CannotLook,
    Capabilities,
    Echo,
    Execution,
    KeySemantics,
    Ref,
    Report,
    SubStatus,
    Tools,
    Transaction,
)
from gateway.config.settings import EngineSettings
from gateway.custodians.dates import Dates
from gateway.custodians.instance import CustodianInstance
from gateway.errors import AdapterError, Refused
from gateway.execution.actions import Actions
from gateway.execution.engine import Engine
from gateway.metrics import Metrics
from gateway.model import Payout
from gateway.store.database import Tx
from tests.execution.conftest import LEASE_S, Bench
from tests.execution.script import as_set

CAN = Capabilities(
    frozenset({"custodian_account"}), keys=KeySemantics(), call_life_s=60, visibility_s=30
)
#: What an adapter says: made of the order, or raised.
Says = Callable[[Any], Any]
NAIVE = datetime(2026, 3, 2, 10, 0)  # noqa: DTZ001 - the very mistake


class Odd(Exception):
    """An error that cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Settings(BaseModel):
    """No settings."""


class Wild(Adapter[Settings]):
    """An adapter that says what the test wrote down, of one payout or of many."""

    name: ClassVar[str] = "wild"
    Settings: ClassVar[type[BaseModel]] = Settings

    def __init__(self, can: Capabilities, tools: Tools) -> None:
        super().__init__(Settings(), tools)
        self.capabilities = can
        #: whether `submit` and `confirm` set their mark before they answer
        self.moves = True
        self.says: dict[str, Says] = {}
        self.story: list[str] = []

    async def submit(self, order: Any) -> Any:
        """Set the mark and say it."""
        return await self._say("submit", order)

    async def fetch(self, order: Any) -> Any:
        """Say it."""
        return await self._say("fetch", order)

    async def submit_batch(self, batch: Any) -> Any:
        """Set the mark and say it."""
        return await self._say("submit", batch)

    async def fetch_batch(self, batch: Any) -> Any:
        """Say it."""
        return await self._say("fetch", batch)

    async def confirm(self, order: Any, answer: Mapping[str, Any]) -> Any:
        """Set the mark and say it."""
        return await self._say("confirm", order)

    async def cancel(self, order: Any) -> Any:
        """Say it."""
        return await self._say("cancel", order)

    async def _say(self, verb: str, order: Execution) -> Any:
        self.story.append(verb)
        if verb in {"submit", "confirm"} and self.moves:
            await order.moving()
            self.story.append("moved")
        said = self.says[verb](order)
        if isinstance(said, BaseException):
            raise said
        return said


def good(sub_status: SubStatus, **members: Any) -> Says:
    """Say something that is right, of one payout or of every item of a set."""

    def say(order: Any) -> Any:
        report = Report(sub_status, "WORD", **members)
        if len(order.items) == 1 and not order._can.batch:
            return report
        return BatchReport("WORD", {each.payout_id: report for each in order.items})

    return say


def spoiled(**members: Any) -> Says:
    """Say something right, but for some members of the report."""

    def say(order: Any) -> Any:
        report = replace(Report(SubStatus.SUBMITTED, "WORD"), **members)
        if len(order.items) == 1 and not order._can.batch:
            return report
        first = order.items[0].payout_id
        return BatchReport("WORD", {first: report})

    return say


def _transaction(at: datetime) -> Transaction:
    # As an adapter might build it of an answer, past every check.
    return Transaction.model_construct(id="t", tx_hash=None, network=None, status=None, at=at)


#: By name: what a verb must not return or raise.
WRONG: dict[str, Says] = {
    "nothing": lambda _: None,
    "a number": lambda _: 42,
    "a text": lambda _: "submitted",
    "a mapping": lambda _: {"sub_status": "submitted"},
    "a class": lambda _: Report,
    "the other kind of report": lambda order: (
        Report(SubStatus.DELIVERED, "WORD")
        if order._can.batch
        else BatchReport("WORD", {order.payout_id: Report(SubStatus.DELIVERED, "WORD")})
    ),
    "a naive time of observation": spoiled(observed_at=NAIVE),
    "a naive time of a transaction": spoiled(transactions=(_transaction(NAIVE),)),
    "a naive end of an action": spoiled(
        sub_status=SubStatus.REQUIRES_ACTION, action=Action(expires_at=NAIVE)
    ),
    "a time that is a text": spoiled(observed_at="2026-03-02T10:00:00Z"),
    "transactions that are nothing": spoiled(transactions=None),
    "a transaction that is a mapping": spoiled(transactions=({"id": "t"},)),
    "references that are nothing": spoiled(refs=None),
    "a reference that is a text": spoiled(refs=("t-1",)),
    "a reference without a value": spoiled(refs=(Ref("transfer", cast("str", None)),)),
    "a word that is nothing": spoiled(custodian_word=None),
    "unknown words that are nothing": spoiled(unknown_words=None),
    "a detail that is a number": spoiled(detail=5),
    "an echo that is a mapping": spoiled(echo={"amount": "5"}),
    "an echo of a wrong amount type": spoiled(
        echo=Echo(amount=cast("Any", "5"), ordered_amount=cast("Any", 5))
    ),
    "a failure that is a text": spoiled(sub_status=SubStatus.FAILED, failure="no"),
    "a status that is a text": spoiled(sub_status="paid"),
    "a status that is an object": spoiled(sub_status=object()),
    "fees that are a text": spoiled(fees_paid_usd="a lot"),
    "a wait that is a text": spoiled(again_after_s="soon"),
    "a wait without end": spoiled(again_after_s=math.inf),
    "a wait that is no number": spoiled(again_after_s=math.nan),
    "ValueError": lambda _: ValueError("bad"),
    "KeyError": lambda _: KeyError("id"),
    "AssertionError": lambda _: AssertionError(),
    "TimeoutError": lambda _: TimeoutError(),
    "OSError": lambda _: OSError(5, "input/output error"),
    "ClientError": lambda _: aiohttp.ServerDisconnectedError(),
    "RecursionError": lambda _: RecursionError("too deep"),
    "MemoryError": lambda _: MemoryError(),
    "StopIteration": lambda _: StopIteration(),
    "StopAsyncIteration": lambda _: StopAsyncIteration(),
    "a group": lambda _: ExceptionGroup("many", [ValueError("one"), OSError("two")]),
    "CancelledError": lambda _: asyncio.CancelledError(),
    "an error of the contract's base": lambda _: AdapterError("of no kind"),
    "an error without words": lambda _: Odd(),
}
#: What no program may raise. Nothing of it is caught; the next owner of the lease goes on.
DEADLY: dict[str, Says] = {
    "GeneratorExit": lambda _: GeneratorExit(),
    "an error of the base": lambda _: BaseException("base"),
}
#: What one verb may return and another one must not.
ONLY_LOOKS: dict[str, Says] = {"absent": lambda _: Absent("404"), "blind": lambda _: CannotLook("")}
_SETS_ONLY: dict[str, Says] = {
    "items that are nothing": lambda _: BatchReport("WORD", cast("Any", None)),
    "items that are a list": lambda order: BatchReport("WORD", cast("Any", list(order.items))),
    "an item that is nothing": lambda order: BatchReport(
        "WORD", {order.items[0].payout_id: cast("Any", None)}
    ),
    "an item that is absent": lambda order: BatchReport(
        "WORD", {order.items[0].payout_id: cast("Any", Absent("404"))}
    ),
    "a set's word that is nothing": lambda order: BatchReport(
        cast("Any", None), {order.items[0].payout_id: Report(SubStatus.SUBMITTED, "WORD")}
    ),
}


class Place:
    """An engine whose loop runs, its custodian instance and the adapter behind it."""

    def __init__(self, bench: Bench, size: int) -> None:
        self.bench = bench
        self.size = size
        self._batches = itertools.count(1)
        tools = cast("Tools", _Tools(bench))
        self.adapter = Wild(replace(CAN, batch=size > 1), tools)
        instance = CustodianInstance(
            "acme",
            "wild",
            self.adapter,
            tools,
            Metrics(),
            30.0,
            fingerprints=(lambda *parts: "/".join(parts),),
            dates=Dates(bench.clock),
        )
        self.engine = Engine(
            db=bench.db,
            runtime=bench.runtime,
            payouts=bench.payouts,
            assets=bench.assets,
            custodian=instance,
            settings=EngineSettings(lease_s=LEASE_S),
            owner="one",
            metrics=Metrics(),
            wake=lambda _: None,
        )
        self.actions = Actions(
            db=bench.db,
            runtime=bench.runtime,
            engines={"acme": self.engine},
            owner="one",
            lease_s=LEASE_S,
            payouts=bench.payouts,
            metrics=Metrics(),
            wake=lambda _: None,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let the engine's loop run meanwhile; it must still run at the end."""
        loop = asyncio.create_task(self.engine.run())
        try:
            yield
            assert not loop.done(), "the loop ended"
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            await self.engine.finish(5)

    async def new(self) -> list[str]:
        """Accept one payout, or a set of many; return their ids. The adapter is good at first."""
        self.adapter.story.clear()
        self.adapter.moves = True
        self.adapter.says = {
            "submit": good(SubStatus.SUBMITTED),
            "fetch": good(SubStatus.DELIVERED),
            "confirm": good(SubStatus.SUBMITTED),
            "cancel": good(SubStatus.CANCELED),
        }
        if self.size == 1:
            return [await self.bench.accept()]
        quotes = [await self.bench.quote() for _ in range(self.size)]
        return await self.bench.db.run(self._new_set, quotes, f"bat_{next(self._batches)}")

    async def _new_set(self, tx: Tx, quotes: list[str], batch_id: str) -> list[str]:
        """Store function: accept payouts as the items of a set, before the engine can claim one."""
        bench = self.bench
        accepted = [await bench.payouts.accept(tx, bench.caller, each) for each in quotes]
        ids = [each.id for each in accepted]
        await as_set(tx, bench, ids, batch_id)
        return ids

    async def confirm(self, payout: Payout) -> None:
        """Answer what a payout asks for; again, while the engine looks at it this very moment."""
        assert payout.requires_action is not None
        number = payout.requires_action.number
        while True:
            try:
                await self.act(self.actions.confirm(payout, number, {"code": "1"}))
            except Refused as refusal:
                if refusal.code == "confirm_in_progress":
                    continue
                raise
            return

    async def act(self, act: Coroutine[Any, Any, None]) -> None:
        """Do what a person asked for, while time passes."""
        acting = asyncio.create_task(act)

        async def ended() -> bool:
            return acting.done()

        await self.until(ended)
        await acting

    async def stand(self, ids: list[str]) -> set[str]:
        """Return the sub-statuses of payouts."""
        return {(await self.bench.payout(each)).sub_status.value for each in ids}

    async def until(self, done: Callable[[], Awaitable[bool]], *, every_s: float = 5) -> None:
        """Wait for something; so much time passes by the clock with every look."""
        async with asyncio.timeout(40):
            while not await done():
                await self.bench.clock.advance(every_s)
                await asyncio.sleep(0.005)

    async def stands(self, ids: list[str], *words: str, every_s: float = 5) -> None:
        """Wait until every payout stands like one of these."""

        async def look() -> bool:
            return await self.stand(ids) <= set(words)

        await self.until(look, every_s=every_s)

    async def asked(self, count: int) -> None:
        """Wait until the adapter was asked so many times more."""
        before = len(self.adapter.story)

        async def look() -> bool:
            return len(self.adapter.story) >= before + count

        await self.until(look)


class _Tools:
    """What an adapter is handed; this one uses the clock alone."""

    def __init__(self, bench: Bench) -> None:
        self.clock = bench.clock


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep the tracebacks of every case out of the output: they are what is expected."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture(params=[1, 3], ids=["one", "many"])
def place(bench: Bench, request: pytest.FixtureRequest) -> Place:
    """An engine for payouts one by one, or for sets of many."""
    return Place(bench, request.param)


@pytest.fixture
def single(bench: Bench) -> Place:
    """An engine for payouts one by one."""
    return Place(bench, 1)


def cases(place: Place, *kinds: Mapping[str, Says]) -> dict[str, Says]:
    """Return the cases of some kinds, and of sets those that only sets know."""
    every = {name: says for kind in kinds for name, says in kind.items()}
    return every | (_SETS_ONLY if place.size > 1 else {})


async def test_after_the_mark_the_outcome_is_unknown(place: Place) -> None:
    """Whatever `submit` gives after its mark: unknown at once, looked up, never called again."""
    async with place.running():
        for name, says in cases(place, WRONG, ONLY_LOOKS).items():
            ids = await place.new()
            place.adapter.says |= {"submit": says, "fetch": lambda _: CannotLook("not yet")}
            place.engine.wakeup.ring()
            await place.stands(ids, "outcome_unknown", every_s=0)
            assert place.adapter.story[:2] == ["submit", "moved"], name
            place.adapter.says["fetch"] = good(SubStatus.DELIVERED)
            await place.stands(ids, "delivered")
            assert place.adapter.story.count("submit") == 1, name


async def test_what_nobody_catches_is_taken_over(place: Place) -> None:
    """What no program may raise ends the work, but not the loop: the next owner finds the mark."""
    async with place.running():
        for name, says in DEADLY.items():
            ids = await place.new()
            place.adapter.says["submit"] = says
            await place.stands(ids, "delivered")
            assert place.adapter.story.count("submit") == 1, name
            entries = [each.sub_status for each in (await place.bench.payout(ids[0])).timeline]
            assert SubStatus.OUTCOME_UNKNOWN in entries, name


async def test_before_the_mark_it_is_tried_again(place: Place) -> None:
    """Whatever `submit` gives without a mark: nothing was sent, and it is called again."""
    async with place.running():
        for name, says in cases(place, WRONG, ONLY_LOOKS, DEADLY).items():
            ids = await place.new()
            place.adapter.moves, place.adapter.says["submit"] = False, says
            await place.asked(2)
            assert set(place.adapter.story) == {"submit"}, name
            assert await place.stand(ids) <= {"created", "submitting"}, name
            place.adapter.moves, place.adapter.says["submit"] = True, good(SubStatus.SUBMITTED)
            await place.stands(ids, "delivered")
            assert place.adapter.story.count("moved") == 1, name


async def test_a_look_that_fails_changes_nothing(place: Place) -> None:
    """Whatever `fetch` gives of a payout that the custodian has: it is asked again."""
    async with place.running():
        for name, says in cases(place, WRONG, DEADLY).items():
            ids = await place.new()
            place.adapter.says["fetch"] = says
            await place.stands(ids, "submitted")
            await place.asked(2)
            assert await place.stand(ids) == {"submitted"}, name
            place.adapter.says["fetch"] = good(SubStatus.DELIVERED)
            await place.stands(ids, "delivered")
            assert place.adapter.story.count("moved") == 1, name


@pytest.mark.parametrize("moves", [True, False], ids=["after the mark", "before the mark"])
async def test_an_answer_that_fails(single: Place, *, moves: bool) -> None:
    """Whatever `confirm` gives: unknown after its mark; without one the payout asks as before."""
    async with single.running():
        for name, says in cases(single, WRONG, ONLY_LOOKS).items():
            ids = await single.new()
            single.adapter.moves = False
            single.adapter.says |= {
                "submit": good(SubStatus.REQUIRES_ACTION, action=Action()),
                "fetch": lambda _: CannotLook("nobody has answered"),
                "confirm": says,
            }
            await single.stands(ids, "requires_action")
            payout = await single.bench.payout(ids[0])
            single.adapter.moves = moves
            if moves:
                await single.confirm(payout)
                assert await single.stand(ids) == {"outcome_unknown"}, name
            else:
                with pytest.raises(Refused) as refused:
                    await single.confirm(payout)
                assert refused.value.code == "confirm_not_sent", name
                assert await single.stand(ids) == {"requires_action"}, name
                single.adapter.moves = True
                single.adapter.says["confirm"] = good(SubStatus.SUBMITTED)
                await single.confirm(payout)
            single.adapter.says["fetch"] = good(SubStatus.DELIVERED)
            await single.stands(ids, "delivered")
            assert single.adapter.story.count("moved") == 1, name


async def test_a_cancel_that_fails(single: Place) -> None:
    """Whatever `cancel` gives of a payout that was sent: it is refused, and the payout goes on."""
    async with single.running():
        for name, says in cases(single, WRONG, ONLY_LOOKS).items():
            ids = await single.new()
            single.adapter.says |= {"cancel": says, "fetch": good(SubStatus.SUBMITTED)}
            await single.stands(ids, "submitted")
            code = "payout_busy"  # A worker may look at it just now.
            async with asyncio.timeout(40):
                while code == "payout_busy":
                    with pytest.raises(Refused) as refused:
                        await single.act(single.actions.cancel(await single.bench.payout(ids[0])))
                    code = refused.value.code
            assert code in {"cancel_too_late", "cancel_unsupported"}, name
            assert await single.stand(ids) == {"submitted"}, name
            single.adapter.says["fetch"] = good(SubStatus.DELIVERED)
            await single.stands(ids, "delivered")
            assert single.adapter.story.count("moved") == 1, name
