"""The adapter against its twin over real sockets: kinds, faults, refusals."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from adapters.fireblocks.adapter import PAYEE_TYPES, SOURCE_TYPES, Fireblocks
from adapters.fireblocks.client import TOKEN_LIFE_S
from adapters.fireblocks.twin.world import PAYEES, SOURCES
from gateway.adapter import (
    Absent,
    Account,
    CannotLook,
    CustodianAccountDestination,
    FailureCode,
    NotSent,
    OutcomeUnknown,
    Ref,
    Rejected,
    Report,
    SubStatus,
)
from tests.adapters.fireblocks.rig import answering, executes, fetch, order, pair, submit
from tests.adapters.fireblocks.workspace import CREATE, payout_body


@pytest.mark.parametrize(
    ("source", "payee"), list(itertools.product(SOURCES, PAYEES)), ids="-".join
)
async def test_every_source_and_payee_kind(source: tuple[str, str], payee: tuple[str, str]) -> None:
    """Three kinds of source, six kinds of payee."""
    fiat = source[0] == "FIAT_ACCOUNT"
    async with pair() as (adapter, _):
        mine = order(
            source=Account(type=source[0], id=source[1]),
            destination=CustodianAccountDestination(account_type=payee[0], id=payee[1]),
            asset="USD" if fiat else "USDC",
            network=None if fiat else "Ethereum",
        )
        assert (await submit(adapter, mine)).sub_status is SubStatus.SUBMITTED
    assert {each[0] for each in SOURCES} == SOURCE_TYPES
    assert {each[0] for each in PAYEES} == PAYEE_TYPES


@pytest.mark.parametrize(
    "fault", ["lose_reply", "error_after", "error_before", "half_response", "bad_json", "burn_key"]
)
async def test_a_lost_create_is_made_again_under_a_fresh_key(fault: str) -> None:
    """Nothing has moved: not sent, a fresh step key, and only the remembered set is executed."""
    async with pair() as (adapter, space):
        await space.fault("create", fault)
        mine = order()
        with pytest.raises(NotSent):
            await submit(adapter, mine)
        assert mine.story == ["remember create_step"]
        again = mine.again()
        await submit(adapter, again)
        assert await executes(space) == 1
        await space.steps(12)
        assert len(await space.ledger()) == 1


async def test_a_repeat_after_5xx_finds_the_first_one() -> None:
    """Executed, 500; the repeat is told so under a fresh key, and it is paid once."""
    async with pair() as (adapter, space):
        await space.fault("execute", "error_after")
        mine = order()
        with pytest.raises(OutcomeUnknown):
            await submit(adapter, mine)
        again = mine.again()
        report = await submit(adapter, again)
        assert (report.sub_status, report.custodian_word) == (
            SubStatus.SUBMITTED,
            "executed before",
        )
        assert again.notes["payout_id"] == mine.notes["payout_id"]
        assert again.notes["execute_step"] == 3
        await space.steps(12)
        assert len(await space.ledger()) == 1


async def test_an_executed_set_that_waits_for_its_account_is_accepted_by_a_repeat() -> None:
    """It is shown as if it had not been executed, for hours: only a repeat tells."""
    async with pair() as (adapter, space):
        await space.started("1", source=("EXCHANGE_ACCOUNT", "EX_SUB3"))  # somebody else's
        mine = order()
        await space.fault("execute", "lose_reply")
        with pytest.raises(OutcomeUnknown):
            await submit(adapter, mine)
        assert isinstance(await fetch(adapter, mine.again()), CannotLook)
        await space.fault("execute", "error_before")
        with pytest.raises(OutcomeUnknown):
            await submit(adapter, mine.again())
        mine = mine.again()
        await mine.remember(execute_step=7)
        assert (await submit(adapter, mine)).sub_status is SubStatus.SUBMITTED
        assert isinstance(await fetch(adapter, mine.again()), CannotLook)
        await space.steps(24)
        assert sorted(each["amount"] for each in await space.ledger()) == ["1", "43"]


async def test_an_unexecuted_set_is_neither_absent_nor_failed() -> None:
    """The mark was set and nothing arrived: the set looks as if it waited. Its repeat pays it."""
    async with pair() as (adapter, space):
        await space.fault("execute", "drop_before")
        mine = order()
        with pytest.raises(OutcomeUnknown):
            await submit(adapter, mine)
        found = await fetch(adapter, mine.again())
        assert isinstance(found, CannotLook)
        assert found.repeat_is_safe
        assert "REQUESTED/REGISTERED" in found.reason
        await submit(adapter, mine.again())
        await space.steps(12)
        assert len(await space.ledger()) == 1


async def test_without_an_id_there_is_nothing_to_look_by() -> None:
    """And an id that is not known there is absent."""
    async with pair() as (adapter, _):
        assert isinstance(await fetch(adapter, order()), CannotLook)
        lost = order()
        await lost.remember(payout_id="0c0f4a4e-0000-4000-8000-000000000001")
        assert isinstance(await fetch(adapter, lost), Absent)


async def test_a_locked_account_waits() -> None:
    """Where execute on a busy account is refused, it is not a failure: later, with a fresh key."""
    async with pair(locked_source="refused") as (adapter, space):
        await submit(adapter, order(payout_id="pay_01hzz0000000000000000000001"))
        second = order(payout_id="pay_01hzz0000000000000000000002")
        with pytest.raises(NotSent) as caught:
            await submit(adapter, second)
        assert caught.value.again_after_s
        await space.steps(12)
        second = second.again(own_word=True)
        assert not second.moved
        await submit(adapter, second)
        await space.steps(12)
        assert len(await space.ledger()) == 2


async def test_orders_it_could_never_pay() -> None:
    """Refused without a call."""
    async with pair() as (adapter, space):
        for members in (
            {"asset": "EURC"},
            {"network": "Polygon"},
            {"source": Account(id="x", type="WALLET")},
            {"destination": CustodianAccountDestination(account_type="MERCHANT", id="x")},
        ):
            with pytest.raises(Rejected):
                await submit(adapter, order(**members))
        assert space.twin.calls == []


async def test_an_end_waits_for_its_sub_status() -> None:
    """While the transaction cannot be read, completed is not delivered: it may not be credited."""
    async with pair() as (adapter, space):
        mine = order(amount=Decimal("1.000406"))
        await submit(adapter, mine)
        await space.steps(12)
        await space.fault("transaction", "error_before")
        blind = await fetch(adapter, mine.again())
        assert isinstance(blind, Report)
        assert blind.sub_status is SubStatus.SETTLING
        seen = await fetch(adapter, mine.again())
        assert isinstance(seen, Report)
        assert seen.failure is not None
        assert seen.failure.code is FailureCode.THIRD_PARTY_FAILED


def test_what_is_declared() -> None:
    """A token lives 55 s by our clock, which may be ahead of theirs by the declared skew."""
    can = Fireblocks.capabilities
    assert can.batch
    assert can.dated_by_clock
    assert can.call_life_s is not None
    assert can.call_life_s >= TOKEN_LIFE_S + can.clock_skew_s


async def test_a_probe_is_a_harmless_read() -> None:
    """Of a payout that cannot exist; its answer is dated by the custodian."""
    async with pair() as (adapter, space):
        await adapter.probe()
        await adapter.probe()
        (first, second) = space.twin.calls
        assert (first.method, first.status) == ("GET", 404)
        assert first.path.startswith("/v1/payments/payout/")
        assert first.path != second.path


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_a_stepped_wall_clock_ends_nothing(seconds: float) -> None:
    """Tokens are refused then: nothing is sent, nothing is absent, nothing is rejected."""
    async with pair() as (adapter, space):
        lost, unexecuted = order(payout_id="pay_lost"), order(payout_id="pay_unexecuted")
        await submit(adapter, lost)
        await space.fault("execute", "drop_before")
        with pytest.raises(OutcomeUnknown):
            await submit(adapter, unexecuted)
        await space.steps(1)
        right = adapter.tools.clock

        class Stepped:
            """The same time, set wrong."""

            def __getattr__(self, name: str) -> Any:
                return getattr(right, name)

            def now(self) -> datetime:
                return right.now() + timedelta(seconds=seconds)

        adapter._client._tools = replace(adapter.tools, clock=Stepped())
        for verb in (submit, fetch):
            for mine in (order(), lost.again(), unexecuted.again()):
                if verb is fetch and not mine.notes:
                    continue
                with pytest.raises(NotSent, match="401"):
                    await verb(adapter, mine)
        adapter._client._tools = adapter.tools
        assert isinstance(await fetch(adapter, lost.again()), Report)
        assert isinstance(await fetch(adapter, unexecuted.again()), CannotLook)


async def test_notes_from_before_single_payouts_were_sets() -> None:
    """An execution in flight goes on: by the id of its instruction, which was the key of its step."""
    async with pair(server_instruction_ids=False) as (adapter, space):
        mine = order(attempt=2)
        old_id = mine.key("instruction")
        assert old_id != mine.items[0].key
        body = payout_body("43")
        body["instructionSet"][0]["id"] = old_id
        made = (await space.call("POST", CREATE, body)).json
        await mine.remember(payout_id=made["payoutId"], instruction_id=old_id, create_step=2)
        assert isinstance(await fetch(adapter, mine.again()), Absent)
        await submit(adapter, mine)
        assert mine.story == ["remember create_step instruction_id payout_id", "moving"]
        await space.steps(12)
        seen = await fetch(adapter, mine.again())
        assert isinstance(seen, Report)
        assert seen.sub_status is SubStatus.DELIVERED
        assert seen.echo is not None
        assert (seen.echo.reference, seen.echo.differences()) == (old_id, ())
        assert Ref("instruction", old_id) in seen.refs
        assert Ref("payout", made["payoutId"]) in seen.refs
        assert await executes(space) == 1


@pytest.mark.parametrize("noted", ["", "theirs"])
async def test_notes_of_a_workspace_with_ids_of_its_own(noted: str) -> None:
    """The remembered id, or the only instruction there is; nothing is compared as our reference."""
    async with pair(server_instruction_ids=True) as (adapter, space):
        made = (await space.create("43")).json
        (instruction,) = made["instructionSet"]
        mine = order()
        known = instruction["id"] if noted else ""
        await mine.remember(payout_id=made["payoutId"], instruction_id=known, execute_step=2)
        await submit(adapter, mine)
        await space.steps(12)
        seen = await fetch(adapter, mine.again())
        assert isinstance(seen, Report)
        assert seen.sub_status is SubStatus.DELIVERED
        assert seen.echo is not None
        assert (seen.echo.reference, seen.echo.differences()) == (None, ())


async def test_another_id_than_was_echoed_is_a_difference() -> None:
    """The workspace took our id over, and tells of another one now: a person looks."""
    async with answering() as (adapter, wire):
        mine = order()
        await submit(adapter, mine)
        wire.registered.update(state="FINALIZED", status="DONE")
        wire.registered["instructionSet"][0].update(id="another", state="COMPLETED")
        seen = await fetch(adapter, mine.again())
        assert isinstance(seen, Report)
        assert seen.echo is not None
        assert seen.echo.differences() == (
            f"reference: ordered {mine.items[0].key}, custodian says another",
        )
