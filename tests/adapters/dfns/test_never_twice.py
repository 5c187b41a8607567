"""Lost replies, used tokens and repeats: what the Dfns adapter may and may not do again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from adapters.dfns.adapter import Dfns
from adapters.dfns.client import Answer
from gateway.adapter import (
    Absent,
    CredentialsRefused,
    Misconfigured,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    Report,
    SubStatus,
)
from tests.adapters.dfns.organisation import Organisation
from tests.adapters.dfns.rig import bank_order, confirmed, look, pair, transfer_order
from tests.adapters.orders import Mark, OrderForTest

Harm = Callable[[Organisation], Awaitable[None]]


async def ready(adapter: Dfns, org: Organisation) -> OrderForTest:
    """Return an off-ramp that waits for its Confirm."""
    order = bank_order()
    await adapter.submit(order)
    await org.steps(1)
    return order.again()


@pytest.mark.parametrize("fault", ["lose_reply", "error_after", "half_response"])
async def test_a_lost_confirm_is_sent_again_with_its_own_token_only(fault: str) -> None:
    """The first one arrived: the repeat is refused for its token, and nothing is paid twice."""
    async with pair() as (adapter, org):
        order = await ready(adapter, org)
        await org.fault("confirm", fault)
        with pytest.raises(OutcomeUnknown, match="earlier call has arrived"):
            await adapter.submit(order)
        assert await org.calls("confirm") == 2
        assert await org.calls("init") == 2  # one for create, one for both Confirms
        assert order.story[-2:] == ["moving", "moving again"]
        assert order.marks == [Mark()]
        assert (await look(adapter, order.again())).sub_status is SubStatus.SUBMITTED
        await org.steps(6)
        assert len(await org.ledger()) == 1


async def test_a_confirm_that_never_arrived_is_sent_again_with_its_own_token() -> None:
    """The connection broke before the custodian read it: the repeat is the one that counts."""
    async with pair() as (adapter, org):
        order = await ready(adapter, org)
        await org.fault("confirm", "drop_before")
        report = await adapter.submit(order)
        assert report.sub_status is SubStatus.SUBMITTED
        assert await org.calls("init") == 2
        await org.steps(6)
        assert len(await org.ledger()) == 1


async def test_a_confirm_without_any_answer_is_unknown() -> None:
    """Three tries, one token; then the engine looks."""
    async with pair() as (adapter, org):
        order = await ready(adapter, org)
        await org.fault("confirm", "drop_before", times=3)
        with pytest.raises(OutcomeUnknown, match="no answer"):
            await adapter.submit(order)
        assert await org.calls("confirm") == 3
        assert order.story[-3:] == ["moving", "moving again", "moving again"]
        assert await adapter.fetch(order.again()) == Absent("AwaitingPayoutConfirmation")


@pytest.mark.parametrize("arrived", [False, True])
async def test_a_resend_that_the_gateway_refuses_leaves_the_outcome_unknown(
    *, arrived: bool
) -> None:
    """It was not sent, and the one before it may have arrived: never "not sent"."""
    async with pair() as (adapter, org):
        order = await ready(adapter, org)
        order.refuse_from = 1
        await org.fault("confirm", "lose_reply" if arrived else "drop_before")
        with pytest.raises(OutcomeUnknown, match="made no call"):
            await adapter.submit(order)
        assert await org.calls("confirm") == 1


async def test_a_first_confirm_that_the_gateway_refuses_was_not_sent() -> None:
    """The refusal is passed on as it is, and nothing leaves."""
    async with pair() as (adapter, org):
        order = await ready(adapter, org)
        order.refuse_from = 0
        with pytest.raises(NotSent, match="made no call"):
            await adapter.submit(order)
        assert await org.calls("confirm") == 0


@pytest.mark.parametrize("status", [400, 403, 409, 422, 401, 429])
async def test_no_refusal_of_a_repeat_is_believed(status: int) -> None:
    """After a lost reply it may be the echo of a Confirm that arrived."""
    async with pair() as (adapter, org):
        order = await ready(adapter, org)
        await org.fault("confirm", "drop_before")
        await org.fault("confirm", "reject", status=status)
        with pytest.raises(OutcomeUnknown):
            await adapter.submit(order)


async def test_after_proven_absence_it_is_confirmed_again_with_a_fresh_token() -> None:
    """The engine calls submit again; the content is the same."""
    async with pair() as (adapter, org):
        order = await ready(adapter, org)
        await org.fault("confirm", "drop_before", times=3)
        with pytest.raises(OutcomeUnknown):
            await adapter.submit(order)
        first = order.notes["confirm"]
        order = order.again()
        report = await adapter.submit(order)
        assert report.sub_status is SubStatus.SUBMITTED
        assert order.notes["confirm"] == first
        await org.steps(6)
        assert len(await org.ledger()) == 1


async def test_a_repeat_that_finds_it_running_does_not_confirm() -> None:
    """What was confirmed is followed, whoever confirmed it."""
    async with pair() as (adapter, org):
        order = await confirmed(adapter, org, bank_order())
        report = await adapter.submit(order)
        assert report.sub_status is SubStatus.SUBMITTED
        assert await org.calls("confirm") == 1


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_refused_first_confirm_waits_for_a_person(status: int) -> None:
    """The payout stays open at Dfns: it is no failure, and it is not confirmed again."""
    async with pair() as (adapter, org):
        order = await ready(adapter, org)
        await org.fault("confirm", "reject", status=status)
        report = await adapter.submit(order)
        assert report.sub_status is SubStatus.AWAITING_APPROVAL
        assert "refused the confirmation" in str(report.detail)
        assert report.failure is None


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, CredentialsRefused),
        (402, Misconfigured),
        (403, CredentialsRefused),
        (404, Misconfigured),
        (429, RateLimited),
    ],
)
async def test_a_first_transfer_stopped_at_the_door_was_not_sent(
    status: int, error: type[Exception]
) -> None:
    """In the API's own words; a 404 on create is no refusal of the payout."""
    async with pair() as (adapter, org):
        order = transfer_order()
        await org.fault("transfer", "reject", status=status)
        with pytest.raises(error):
            await adapter.submit(order)
        assert order.story[-1] == "moving"


@pytest.mark.parametrize("status", [401, 402, 403, 429])
async def test_a_first_confirm_stopped_at_the_door_was_not_sent(status: int) -> None:
    """Credentials and rate are ours to mend."""
    async with pair() as (adapter, org):
        order = await ready(adapter, org)
        await org.fault("confirm", "reject", status=status)
        with pytest.raises(NotSent):
            await adapter.submit(order)


async def test_a_used_token_on_a_first_call_is_unknown() -> None:
    """Burnt by somebody: never a rejection, neither of a Confirm nor of a transfer."""
    async with pair() as (adapter, org):
        order = await ready(adapter, org)
        await org.fault("confirm", "burn_key")
        with pytest.raises(OutcomeUnknown):
            await adapter.submit(order)
        await org.fault("transfer", "burn_key")
        with pytest.raises(OutcomeUnknown):
            await adapter.submit(transfer_order())


async def test_a_repeat_says_the_same_whatever_the_configuration_says_now() -> None:
    """The body is remembered with the attempt; other content under its id is a conflict, so unknown."""
    async with pair({"spl2022_assets": ["PYUSD", "USDC"]}) as (adapter, org):
        order = transfer_order()
        await adapter.submit(order)
        again = order.again()
        assert (await adapter.submit(again)).sub_status is SubStatus.SUBMITTED
        changed = again.again()
        await changed.remember(transfer=order.notes["transfer"].replace("43000000", "44000000"))
        with pytest.raises(OutcomeUnknown, match="409"):
            await adapter.submit(changed)
        await org.steps(3)
        assert len(await org.ledger()) == 1


async def test_an_external_id_that_stands_for_another_payout_is_not_confirmed() -> None:
    """Dfns gives the old one back under our id, or refuses: neither is taken for ours."""
    for other_body in ("return", "refuse"):
        async with pair(payout_other_body=other_body) as (adapter, _):
            first = bank_order("99")
            await adapter.submit(first)
            second = bank_order("43")  # the same payout and attempt: the same key
            if other_body == "refuse":
                with pytest.raises(NotSent):
                    await adapter.submit(second)
                report = await adapter.submit(second.again())
                assert report.again_after_s is not None
            else:
                report = await adapter.submit(second)
                assert report.sub_status is SubStatus.AWAITING_APPROVAL
                assert "payout_id" not in second.notes


async def test_a_lost_create_is_found_by_repeating() -> None:
    """Nothing has moved: the same id brings the same payout."""
    async with pair() as (adapter, org):
        order = bank_order()
        for fault in ("error_after", "lose_reply"):
            await org.fault("create", fault)
            with pytest.raises(NotSent):
                await adapter.submit(order)
            assert order.story == []
        report = await adapter.submit(order.again())
        assert isinstance(report, Report)
        assert len(org.twin.payouts.payouts) == 1


@pytest.mark.parametrize("call", ["init", "sign"])
async def test_nothing_moves_while_it_is_signed(call: str) -> None:
    """A user action that gets no answer was not sent, of a transfer and of a Confirm."""
    async with pair() as (adapter, org):
        order = await ready(adapter, org)
        for mine in (order, transfer_order(payout_id="pay_2")):
            await org.fault(call, "lose_reply")
            with pytest.raises(NotSent):
                await adapter.submit(mine)
            assert "moving" not in mine.story


async def test_a_challenge_that_ended_between_sign_and_call_is_asked_for_again() -> None:
    """Nothing was sent; the next try runs the whole flow."""
    async with pair(token_life_s=1e-6) as (adapter, org):
        with pytest.raises(NotSent):
            await adapter.submit(transfer_order())
        await org.steer("PUT", "settings", {"token_life_s": 900})
        await org.fault("sign", "reject", status=401)
        with pytest.raises(NotSent, match="user action"):
            await adapter.submit(transfer_order())
        report = await adapter.submit(transfer_order())
        assert report.sub_status is SubStatus.SUBMITTED


async def test_tokens_and_keys_are_nowhere_in_what_is_kept() -> None:
    """Notes and reports hold no user action token, no bearer token, no private key."""
    async with pair() as (adapter, org):
        order = await confirmed(adapter, org, bank_order())
        report = await look(adapter, order)
        kept = f"{order.notes} {report} {order.story}"
        secrets = [*org.twin.actions._tokens, org.twin.token, "PRIVATE KEY"]
        assert len(secrets) >= 4
        assert not [each for each in secrets if each in kept]


async def test_a_refused_confirm_of_a_payout_under_way_is_unknown() -> None:
    """It took effect, was answered with a refusal, and its settling transfer cannot be read.

    "Not sent" would be the adapter's own word that the Confirm did nothing, and allow a cancel as unpaid.
    """
    async with pair() as (adapter, org):
        order = await ready(adapter, org)
        client: Any = adapter._client
        send = client.send

        async def sent(call: Any) -> Answer:
            answer = await send(call)
            if call.path.endswith("/action"):
                assert answer.ok
                await org.steps(1)
                await org.fault("transfer_status", "reject", status=404)
                return Answer(404, {"error": {"message": "no such payout action"}})
            return answer  # type: ignore[no-any-return]

        client.send = sent
        with pytest.raises(OutcomeUnknown, match="settling transfer"):
            await adapter.submit(order)
        assert order.story[-1] == "moving"
        await org.steps(6)
        assert len(await org.ledger()) == 1
