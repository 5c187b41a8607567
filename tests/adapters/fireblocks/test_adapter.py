"""The adapter against its twin over real sockets: kinds, faults, refusals."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from adapters.fireblocks.adapter import PAYEE_TYPES, SOURCE_TYPES
from adapters.fireblocks.twin.world import PAYEES, SOURCES
from gateway.adapter import (
    Absent,
    Account,
    CannotLook,
    CustodianAccountDestination,
    FailureCode,
    LeaseLost,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Report,
    SubStatus,
)
from tests.adapters.fireblocks.rig import executes, order, pair


async def test_create_execute_deliver() -> None:
    """Remembered before it moves, executed once, followed to its end with hash and ids."""
    async with pair() as (adapter, space):
        mine = order()
        report = await adapter.submit(mine)
        assert mine.story == ["remember instruction_id payout_id", "moving"]
        assert report.sub_status is SubStatus.SUBMITTED
        seen = []
        for _ in range(12):
            found = await adapter.fetch(mine.again())
            if isinstance(found, Report):
                seen.append(found)
                assert found.echo is not None
                assert found.echo.differences() == ()
            await space.steps(1)
        words = [each.sub_status for each in seen]
        assert words[-1] is SubStatus.DELIVERED
        assert {SubStatus.BROADCAST, SubStatus.CONFIRMING} <= set(words)
        (transaction,) = seen[-1].transactions
        assert transaction.tx_hash
        assert {ref.kind for ref in seen[-1].refs} == {"payout", "instruction", "transaction"}
        assert [each["amount"] for each in await space.ledger()] == ["43"]


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
        assert (await adapter.submit(mine)).sub_status is SubStatus.SUBMITTED
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
            await adapter.submit(mine)
        assert mine.story == ["remember create_step"]
        again = mine.again()
        await adapter.submit(again)
        assert await executes(space) == 1
        await space.steps(12)
        assert len(await space.ledger()) == 1


@pytest.mark.parametrize("fault", ["lose_reply", "error_after", "half_response", "hang_after"])
async def test_a_lost_execute_is_settled_by_reading(fault: str) -> None:
    """Unknown outcome; the remembered payout id tells."""
    async with pair() as (adapter, space):
        await space.fault("execute", fault)
        if fault == "hang_after":
            adapter._client._timeout = aiohttp.ClientTimeout(total=0.2)
        mine = order()
        with pytest.raises((OutcomeUnknown, aiohttp.ClientError, TimeoutError)):
            await adapter.submit(mine)
        assert "moving" in mine.story
        await space.steps(1)
        assert isinstance(await adapter.fetch(mine.again()), Report)


async def test_a_repeat_after_5xx_is_never_a_refusal() -> None:
    """Executed, 500; the repeat is refused (once only): still unknown, and paid once."""
    async with pair() as (adapter, space):
        await space.fault("execute", "error_after")
        mine = order()
        with pytest.raises(OutcomeUnknown):
            await adapter.submit(mine)
        again = mine.again()
        with pytest.raises(OutcomeUnknown):
            await adapter.submit(again)
        # The second one used a fresh key on the same payout id.
        assert again.notes["payout_id"] == mine.notes["payout_id"]
        assert again.notes["execute_step"] == 3
        await space.steps(12)
        assert len(await space.ledger()) == 1


async def test_an_unexecuted_set_is_absent_not_failed() -> None:
    """The mark was set and nothing arrived: the custodian knows the set and has not executed it."""
    async with pair() as (adapter, space):
        await space.fault("execute", "drop_before")
        mine = order()
        with pytest.raises((OutcomeUnknown, aiohttp.ClientError)):
            await adapter.submit(mine)
        assert await adapter.fetch(mine.again()) == Absent("REQUESTED/REGISTERED")
        await adapter.submit(mine.again())
        await space.steps(12)
        assert len(await space.ledger()) == 1


async def test_without_an_id_there_is_nothing_to_look_by() -> None:
    """And an id that is not known there is absent."""
    async with pair() as (adapter, _):
        assert isinstance(await adapter.fetch(order()), CannotLook)
        lost = order()
        await lost.remember(payout_id="0c0f4a4e-0000-4000-8000-000000000001")
        assert isinstance(await adapter.fetch(lost), Absent)


async def test_a_lost_lease_stops_before_the_call() -> None:
    """Without the mark no execute leaves."""
    async with pair() as (adapter, space):
        mine = order(lose_lease_at="moving")
        with pytest.raises(LeaseLost):
            await adapter.submit(mine)
        assert await executes(space) == 0


@pytest.mark.parametrize(
    ("members", "code"),
    [
        (
            {
                "destination": CustodianAccountDestination(
                    account_type="EXTERNAL_WALLET", id="nobody"
                )
            },
            "destination",
        ),
        ({"source": Account(id="nothing", type="VAULT_ACCOUNT")}, "source"),
    ],
)
@pytest.mark.parametrize("validate_at", ["create", "execute"])
async def test_refusals_are_final_and_nothing_moved(
    members: dict[str, Any], code: str, validate_at: str
) -> None:
    """An unknown payee or account is refused, wherever the custodian looks."""
    async with pair(validate_at=validate_at) as (adapter, space):
        with pytest.raises(Rejected) as caught:
            await adapter.submit(order(**members))
        assert caught.value.code == f"{code}_rejected"
        assert await space.ledger() == []


async def test_a_locked_account_waits() -> None:
    """Where execute on a busy account is refused, it is not a failure: later, with a fresh key."""
    async with pair(locked_source="refused") as (adapter, space):
        await adapter.submit(order(payout_id="pay_01hzz0000000000000000000001"))
        second = order(payout_id="pay_01hzz0000000000000000000002")
        with pytest.raises(NotSent) as caught:
            await adapter.submit(second)
        assert caught.value.again_after_s
        await space.steps(12)
        await adapter.submit(second.again())
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
                await adapter.submit(order(**members))
        assert space.twin.calls == []


async def test_unknown_words_are_kept_raw() -> None:
    """A word that no table has changes nothing and is told."""
    async with pair() as (adapter, space):
        mine = order(amount=Decimal("1.000408"))
        await adapter.submit(mine)
        unknown: tuple[str, ...] = ()
        for _ in range(6):
            await space.steps(1)
            found = await adapter.fetch(mine.again())
            unknown = found.unknown_words if isinstance(found, Report) else ()
            if unknown:
                assert isinstance(found, Report)
                assert found.sub_status is None
                break
        assert unknown


async def test_a_failed_look_is_no_news() -> None:
    """5xx and rate limits on status are failures of the look, not of the payout."""
    async with pair() as (adapter, space):
        mine = order()
        await adapter.submit(mine)
        for fault in ("error_before", "rate_limit", "bad_json"):
            await space.fault("status", fault)
            with pytest.raises(NotSent):
                await adapter.fetch(mine.again())


async def test_an_end_waits_for_its_sub_status() -> None:
    """While the transaction cannot be read, completed is not delivered: it may not be credited."""
    async with pair() as (adapter, space):
        mine = order(amount=Decimal("1.000406"))
        await adapter.submit(mine)
        await space.steps(12)
        await space.fault("transaction", "error_before")
        blind = await adapter.fetch(mine.again())
        assert isinstance(blind, Report)
        assert blind.sub_status is SubStatus.SETTLING
        seen = await adapter.fetch(mine.again())
        assert isinstance(seen, Report)
        assert seen.failure is not None
        assert seen.failure.code is FailureCode.THIRD_PARTY_FAILED
