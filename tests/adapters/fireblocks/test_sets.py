"""Sets of many instructions: compared, mapped, executed once, each item with its own fate."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from typing import Any

import pytest

from gateway.adapter import (
    Absent,
    BatchReport,
    CannotLook,
    CustodianAccountDestination,
    LeaseLost,
    NotSent,
    OutcomeUnknown,
    Rejected,
    SubStatus,
)
from tests.adapters.fireblocks.rig import answering, executes, order, pair
from tests.adapters.fireblocks.workspace import EXTERNAL_WALLET, NETWORK_CONNECTION
from tests.adapters.orders import ItemForTest, OrderForTest


def item(number: int, amount: str, payee: str = EXTERNAL_WALLET) -> ItemForTest:
    """Return one payout."""
    kind = "EXTERNAL_WALLET" if payee == EXTERNAL_WALLET else "NETWORK_CONNECTION"
    return ItemForTest(
        amount=Decimal(amount),
        destination=CustodianAccountDestination(account_type=kind, id=payee),
        source=order().source,
        payout_id=f"pay_01hzz000000000000000000000{number}",
    )


def a_set(*items: ItemForTest) -> OrderForTest:
    """Return one execution of some payouts."""
    return OrderForTest(source=order().source, payouts=items)


def three() -> OrderForTest:
    """Two equal items, and one to somebody else."""
    return a_set(item(1, "5"), item(2, "5"), item(3, "7", NETWORK_CONNECTION))


async def ends(adapter: Any, space: Any, mine: OrderForTest) -> BatchReport:
    """Follow a set to the end of its items."""
    for _ in range(20):
        found = await adapter.fetch_batch(mine.again())
        done = {SubStatus.DELIVERED, SubStatus.FAILED}
        if (
            isinstance(found, BatchReport)
            and {each.sub_status for each in found.items.values()} <= done
        ):
            return found
        await space.steps(1)
    raise AssertionError("it did not end")


@pytest.mark.parametrize("own_ids", [True, False])
@pytest.mark.parametrize("reorder", [True, False])
async def test_one_set_executed_once(*, own_ids: bool, reorder: bool) -> None:
    """In whatever order and under whatever ids it comes back, every item is its own instruction."""
    switches = {"server_instruction_ids": not own_ids, "reorder_instructions": reorder}
    async with pair(**switches) as (adapter, space):
        mine = three()
        report = await adapter.submit_batch(mine)
        assert mine.story == ["remember instructions payout_id positions", "moving"]
        assert {each.sub_status for each in report.items.values()} == {SubStatus.SUBMITTED}
        done = await ends(adapter, space, mine)
        assert {each.sub_status for each in done.items.values()} == {SubStatus.DELIVERED}
        assert all(
            each.echo is not None and each.echo.differences() == () for each in done.items.values()
        )
        ids = [
            ref.value
            for each in done.items.values()
            for ref in each.refs
            if ref.kind == "instruction"
        ]
        assert len(set(ids)) == 3
        owners = [
            key for key, each in done.items.items() if any(r.kind == "payout" for r in each.refs)
        ]
        assert owners == [mine.items[0].payout_id]
        assert sorted(each["amount"] for each in await space.ledger()) == ["5", "5", "7"]
        assert await executes(space) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"amount": {"amount": "8", "assetId": "USDC"}},
        {"amount": {"amount": 5, "assetId": "USDC"}},
        {"amount": {"amount": "5", "assetId": "USD"}},
        {"payeeAccount": {"id": "evil", "type": "EXTERNAL_WALLET"}},
        {"payeeAccount": {}},
        {"double": True},
        {"paymentAccount": {"id": "8", "type": "VAULT_ACCOUNT"}},
    ],
    ids=str,
)
async def test_what_is_not_as_ordered_is_not_executed(change: dict[str, Any]) -> None:
    """Parked, with one row for the operator; never executed."""
    async with answering(change=change) as (adapter, wire):
        mine = three()
        report = await adapter.submit_batch(mine)
        assert {each.sub_status for each in report.items.values()} == {SubStatus.AWAITING_APPROVAL}
        # One row for the operator: the words of the set, or the difference of the one item.
        told = [
            each.unknown_words or (each.echo.differences() if each.echo else ())
            for each in report.items.values()
        ]
        assert sum(map(bool, told)) == 1
        assert mine.story == []
        assert wire.made("execute") == []
        assert isinstance(await adapter.fetch_batch(mine.again()), CannotLook)


async def test_a_lost_lease_moves_nothing() -> None:
    """At the note, and at the mark."""
    for at in ("remember", "moving"):
        async with pair() as (adapter, space):
            mine = three()
            mine.lose_lease_at = at
            with pytest.raises(LeaseLost):
                await adapter.submit_batch(mine)
            await space.steps(5)
            assert await executes(space) == 0
            assert await space.ledger() == []


@pytest.mark.parametrize("fault", ["lose_reply", "error_after", "half_response"])
async def test_a_lost_execute_is_found(fault: str) -> None:
    """Unknown; then looked for and found; a repeat is no refusal, and pays nothing again."""
    async with pair() as (adapter, space):
        mine = three()
        await space.fault("execute", fault)
        with pytest.raises(OutcomeUnknown):
            await adapter.submit_batch(mine)
        again = mine.again()
        with contextlib.suppress(OutcomeUnknown):
            # Under the same key it is told what the first was told; under a fresh one, nothing new.
            await adapter.submit_batch(again)
        done = await ends(adapter, space, again)
        assert len(done.items) == 3
        assert len(await space.ledger()) == 3


async def test_a_lost_create_is_made_anew() -> None:
    """Nothing was remembered of the first: it is never executed."""
    async with pair() as (adapter, space):
        mine = three()
        await space.fault("create", "lose_reply")
        with pytest.raises(NotSent):
            await adapter.submit_batch(mine)
        again = mine.again()
        await adapter.submit_batch(again)
        await ends(adapter, space, again)
        assert len(await space.ledger()) == 3


async def test_registered_is_no_absence_once_an_execute_may_have_arrived() -> None:
    """An executed set that waits for its account looks the same; its repeat is executed once."""
    async with pair() as (adapter, space):
        mine = three()
        await space.fault("execute", "drop_before")
        with pytest.raises(OutcomeUnknown):
            await adapter.submit_batch(mine)
        found = await adapter.fetch_batch(mine.again())
        assert isinstance(found, CannotLook)
        assert found.repeat_is_safe
        # What was certainly not sent is absent.
        assert isinstance(await adapter.fetch_batch(mine.again(own_word=True)), Absent)
        await adapter.submit_batch(mine.again())
        await ends(adapter, space, mine)
        assert len(await space.ledger()) == 3


async def test_a_refused_create_is_a_refusal() -> None:
    """Of the whole set, before anything moved."""
    async with pair() as (adapter, _):
        mine = a_set(item(1, "5"), item(2, "5", "nobody"))
        with pytest.raises(Rejected):
            await adapter.submit_batch(mine)
        assert mine.story == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((401, {"message": "no", "code": -1}), NotSent),
        ((429, {}), NotSent),
        ((500, "<html>"), OutcomeUnknown),
        ((200, {"payoutId": "another"}), OutcomeUnknown),
        ((403, {}), NotSent),
    ],
)
async def test_answers_to_execute(answer: tuple[int, Any], error: type[Exception]) -> None:
    """Stopped at the door is not sent; whatever is unclear is unknown."""
    async with answering({"execute": answer}) as (adapter, _):
        with pytest.raises(error):
            await adapter.submit_batch(three())


async def test_a_status_of_another_set_changes_nothing() -> None:
    """It is shown to the operator."""
    async with answering() as (adapter, wire):
        mine = three()
        await adapter.submit_batch(mine)
        wire.answers["status"] = (200, {**wire.registered, "payoutId": "p-2"})
        found = await adapter.fetch_batch(mine.again())
        assert isinstance(found, BatchReport)
        (report,) = found.items.values()
        assert (report.sub_status, bool(report.unknown_words)) == (None, True)


async def test_an_instruction_that_is_gone_changes_nothing() -> None:
    """Of that item; the others are read."""
    async with answering() as (adapter, wire):
        mine = three()
        await adapter.submit_batch(mine)
        left = [
            {**each, "state": "COMPLETED", "transactions": [{"id": "t", "state": "COMPLETED"}]}
            for each in wire.registered["instructionSet"][1:]
        ]
        told = {**wire.registered, "state": "SUBMITTED", "status": "IN_PROGRESS"}
        wire.answers["status"] = (200, {**told, "instructionSet": left})
        found = await adapter.fetch_batch(mine.again())
        assert isinstance(found, BatchReport)
        seen = [found.items[each.payout_id].sub_status for each in mine.items]
        assert seen == [None, SubStatus.DELIVERED, SubStatus.DELIVERED]


async def test_a_set_that_is_not_found_after_a_refusal_is_unknown() -> None:
    """Unseen is not unexecuted, for many as for one."""
    refusal = {"error": {"type": "VALIDATION", "message": "bad payee account"}}
    gone = {"error": {"type": "NOT_FOUND", "message": "payout"}}
    async with answering({"execute": (400, refusal), "status": (404, gone)}) as (adapter, _):
        with pytest.raises(OutcomeUnknown):
            await adapter.submit_batch(three())


async def test_a_set_with_an_instruction_that_runs_is_not_absent() -> None:
    """Whatever the set says of itself: what has begun was executed."""
    async with answering() as (adapter, wire):
        mine = three()
        await adapter.submit_batch(mine)
        assert isinstance(await adapter.fetch_batch(mine.again()), CannotLook)
        running = {"state": "COMPLETED", "transactions": [{"id": "t", "state": "COMPLETED"}]}
        wire.registered["instructionSet"][1].update(running)
        found = await adapter.fetch_batch(mine.again())
        assert isinstance(found, BatchReport)
        # Of the others nothing is known: they are left as they were.
        assert {key: each.sub_status for key, each in found.items.items()} == {
            mine.items[1].payout_id: SubStatus.DELIVERED
        }


async def test_notes_of_a_set_from_before() -> None:
    """By id where one was told, else by place."""
    async with answering() as (adapter, wire):
        mine = three()
        await adapter.submit_batch(mine)
        first, second, third = (each.payout_id for each in mine.items)
        old = three()
        await old.remember(
            payout_id="p-1",
            instructions={first: mine.items[0].key, second: "", third: mine.items[2].key},
            positions={second: 1},
        )
        del wire.registered["instructionSet"][1]["id"]
        wire.registered.update(state="PROCESSING", status="IN_PROGRESS")
        found = await adapter.fetch_batch(old)
        assert isinstance(found, BatchReport)
        references = [found.items[each].echo for each in (first, second, third)]
        assert [each.reference if each else "" for each in references] == [
            mine.items[0].key,
            None,
            mine.items[2].key,
        ]
