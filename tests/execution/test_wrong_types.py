"""Adapters that return what they must not, or raise whatever: the engine's loop lives on.

After a moving mark the outcome is unknown, and it is looked up; without one it is tried again. Between
engine and adapter stands the gateway's own custodian instance, as in production.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, ClassVar, cast

import aiohttp
import pytest
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
from gateway.custodians.dates import Dates
from gateway.custodians.instance import CustodianInstance
from gateway.errors import AdapterError, Refused
from gateway.execution.actions import Actions
from gateway.execution.engine import Engine
from gateway.metrics import Metrics
from tests.execution.conftest import LEASE_S, Bench
from tests.execution.script import Desk

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
    "GeneratorExit": lambda _: GeneratorExit(),
    "an error of the base": lambda _: BaseException("base"),
    "an error of the contract's base": lambda _: AdapterError("of no kind"),
    "an error without words": lambda _: Odd(),
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
SIZES = [1, 3]


@dataclass
class Place:
    """An engine, its custodian instance and the adapter behind it."""

    desk: Desk
    adapter: Wild
    actions: Actions

    @property
    def engine(self) -> Engine:
        """The engine."""
        return self.desk.engine

    async def stands(self, *words: str) -> None:
        """Wait until every item stands like one of these; time passes meanwhile."""
        async with asyncio.timeout(30):
            while not set(await self.desk.stand()) <= set(words):
                await self.desk.bench.clock.advance(5)
                await asyncio.sleep(0.01)

    async def told(self, count: int = 1) -> None:
        """Wait until the adapter was asked so many times more."""
        before = len(self.adapter.story)
        async with asyncio.timeout(30):
            while len(self.adapter.story) < before + count:
                await self.desk.bench.clock.advance(5)
                await asyncio.sleep(0.01)


async def place(bench: Bench, size: int) -> Place:
    """Build it, with an execution of so many payouts."""
    can = replace(CAN, batch=size > 1)
    desk = Desk(bench)
    await desk.open(size)
    tools = cast("Tools", _Tools(bench))
    adapter = Wild(can, tools)
    instance = CustodianInstance(
        "acme",
        "wild",
        adapter,
        tools,
        Metrics(),
        30.0,
        fingerprint=lambda *parts: "/".join(parts),
        dates=Dates(bench.clock),
    )
    desk.script = cast("Any", instance)
    desk.engine = desk.new_engine("one")
    actions = Actions(
        db=bench.db,
        runtime=bench.runtime,
        engines={"acme": desk.engine},
        owner="one",
        lease_s=LEASE_S,
    )
    adapter.says = {
        "submit": good(SubStatus.SUBMITTED),
        "fetch": good(SubStatus.DELIVERED),
        "confirm": good(SubStatus.SUBMITTED),
        "cancel": good(SubStatus.CANCELED),
    }
    return Place(desk, adapter, actions)


class _Tools:
    """What an adapter is handed; this one uses the clock alone."""

    def __init__(self, bench: Bench) -> None:
        self.clock = bench.clock


def _cases(*kinds: Mapping[str, Says], sizes: list[int] | None = None) -> list[Any]:
    every = {name: says for kind in kinds for name, says in kind.items()}
    cases = [
        pytest.param(says, size, id=f"{name}, {size}")
        for name, says in every.items()
        for size in sizes or SIZES
    ]
    sets = [pytest.param(says, 3, id=name) for name, says in _SETS_ONLY.items()]
    return cases + sets if sizes is None else cases


@pytest.mark.parametrize(("says", "size"), _cases(WRONG, ONLY_LOOKS))
async def test_after_the_mark_the_outcome_is_unknown(bench: Bench, says: Says, size: int) -> None:
    """Whatever `submit` gives after its mark: unknown at once, looked up, never called again."""
    here = await place(bench, size)
    here.adapter.says["submit"] = says
    here.adapter.says["fetch"] = lambda _: CannotLook("not yet")
    async with here.desk.running():
        await here.desk.until("outcome_unknown")
        assert here.adapter.story[:2] == ["submit", "moved"]
        here.adapter.says["fetch"] = good(SubStatus.DELIVERED)
        await here.stands("delivered")
    assert here.adapter.story.count("submit") == 1


@pytest.mark.parametrize(("says", "size"), _cases(WRONG, ONLY_LOOKS))
async def test_before_the_mark_it_is_tried_again(bench: Bench, says: Says, size: int) -> None:
    """Whatever `submit` gives without a mark: nothing was sent, and it is called again."""
    here = await place(bench, size)
    here.adapter.moves = False
    here.adapter.says["submit"] = says
    async with here.desk.running():
        await here.told(2)
        assert set(here.adapter.story) == {"submit"}
        assert set(await here.desk.stand()) <= {"created", "submitting"}
        here.adapter.moves = True
        here.adapter.says["submit"] = good(SubStatus.SUBMITTED)
        await here.stands("delivered")
    assert here.adapter.story.count("moved") == 1


@pytest.mark.parametrize(("says", "size"), _cases(WRONG))
async def test_a_look_that_fails_changes_nothing(bench: Bench, says: Says, size: int) -> None:
    """Whatever `fetch` gives of a payout that the custodian has: it is asked again."""
    here = await place(bench, size)
    here.adapter.says["fetch"] = says
    async with here.desk.running():
        await here.told(4)
        assert set(await here.desk.stand()) == {"submitted"}
        here.adapter.says["fetch"] = good(SubStatus.DELIVERED)
        await here.stands("delivered")
    assert here.adapter.story.count("moved") == 1


@pytest.mark.parametrize(("says", "size"), _cases(WRONG, ONLY_LOOKS, sizes=[1]))
@pytest.mark.parametrize("moves", [True, False], ids=["after the mark", "before the mark"])
async def test_an_answer_that_fails(bench: Bench, says: Says, size: int, *, moves: bool) -> None:
    """Whatever `confirm` gives: unknown after its mark; without one the payout asks as before."""
    here = await place(bench, size)
    here.adapter.moves = False
    here.adapter.says["submit"] = good(SubStatus.REQUIRES_ACTION, action=Action())
    here.adapter.says["fetch"] = lambda _: CannotLook("nobody has answered")
    await here.desk.turn()
    payout = await bench.payout(here.desk.ids[0])
    assert payout.requires_action is not None
    here.adapter.moves, here.adapter.says["confirm"] = moves, says
    number = payout.requires_action.number
    confirming = asyncio.ensure_future(here.actions.confirm(payout, number, {"code": "1"}))
    await asyncio.gather(confirming, return_exceptions=True)
    stands = await here.desk.stand()
    if moves:
        assert stands == ["outcome_unknown"]
        assert here.adapter.story.count("moved") == 1
    else:
        assert stands == ["requires_action"]
        refused = confirming.exception() if not confirming.cancelled() else None
        if isinstance(refused, Refused):
            assert refused.code == "confirm_not_sent"


@pytest.mark.parametrize(("says", "size"), _cases(WRONG, ONLY_LOOKS, sizes=[1]))
async def test_a_cancel_that_fails(bench: Bench, says: Says, size: int) -> None:
    """Whatever `cancel` gives of a payout that was sent: it is refused, and the payout goes on."""
    here = await place(bench, size)
    await here.desk.turn()
    payout = await bench.payout(here.desk.ids[0])
    here.adapter.says["cancel"] = says
    canceling = asyncio.ensure_future(here.actions.cancel(payout))
    await asyncio.gather(canceling, return_exceptions=True)
    refused = canceling.exception() if not canceling.cancelled() else None
    if isinstance(refused, Refused):
        assert refused.code in {"cancel_too_late", "cancel_unsupported", "payout_busy"}
    assert await here.desk.stand() == ["submitted"]
    async with here.desk.running():
        await here.stands("delivered")
    assert here.adapter.story.count("moved") == 1
