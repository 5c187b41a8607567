"""The adapter with a standing passcode against its twin over real sockets: every end, every fault."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from gateway.adapter import (
    Absent,
    Account,
    CannotLook,
    CustodianAccountDestination,
    FailureCode,
    FundsMoved,
    NotSent,
    OutcomeUnknown,
    PayoutAccountDestination,
    Rejected,
    Report,
    SubStatus,
    Unsupported,
)
from gateway.errors import InvalidSignature
from tests.adapters.card_passcode.rig import order, pair
from tests.adapters.orders import Elapsed

_SENT = (
    "remember attempts_left device earlier_references owner reference_id references sent "
    "session_created_at session_ends_at session_id session_life_s session_stamp session_took_s"
)


async def test_session_execute_deliver() -> None:
    """Remembered before it moves, executed once, followed to its end with the network's id."""
    async with pair() as both:
        mine = order()
        report = await both.adapter.submit(mine)
        assert mine.story == [_SENT, "moving"]
        assert report.sub_status is SubStatus.SUBMITTED
        words: list[SubStatus | None] = []
        for _ in range(3):
            seen = await both.adapter.fetch(mine.again())
            assert isinstance(seen, Report)
            assert seen.echo is not None
            assert seen.echo.differences() == ()
            assert seen.final_recipient_amount is None or seen.sub_status is SubStatus.DELIVERED
            words.append(seen.sub_status)
            await both.merchant.steps(1)
        assert words == [SubStatus.SUBMITTED, SubStatus.BROADCAST, SubStatus.DELIVERED]
        assert isinstance(seen, Report)
        assert seen.transactions[0].id.startswith("MP")
        assert seen.transactions[0].tx_hash is None
        assert seen.custodian_reference == mine.key("execution-1")
        assert seen.fees_paid_usd == Decimal("0.90")
        assert seen.final_recipient_amount == Decimal("75.00")
        (entry,) = await both.merchant.ledger()
        assert (entry["reference"], entry["amount"]) == (mine.key("execution-1"), "75.00")
        assert entry["destination"] == "18"
        assert seen.echo is not None
        assert seen.reference == seen.echo.reference == mine.key("execution-1")


async def test_the_passcode_is_not_remembered() -> None:
    """Nor is any other secret: notes are kept in clear."""
    async with pair() as both:
        mine = order()
        await both.adapter.submit(mine)
        kept = json.dumps(dict(mine.notes))
        for name in ("passcode", "client_secret", "client_id"):
            assert both.merchant.credentials[name] not in kept
        assert mine.notes["device"]["client_ip"] == "198.51.100.7"
        assert mine.notes["owner"] == {"phone": "231770000001"}


async def test_what_is_odd_is_told() -> None:
    """Another payee amount, another operation, an unknown word, an action of cards: for a person."""
    async with pair() as both:
        seen = {}
        for number, amount in enumerate(("4000.06", "4000.08", "4000.09", "4000.11")):
            mine = order(amount, payout_id=f"pay_{number}")
            await both.adapter.submit(mine)
            await both.merchant.advance(101)
            report = await both.adapter.fetch(mine.again())
            assert isinstance(report, Report)
            seen[amount] = report
        assert seen["4000.06"].sub_status is None
        assert seen["4000.06"].unknown_words == ("UNDER_THE_STARS",)
        assert seen["4000.08"].echo is not None
        assert seen["4000.08"].echo.differences() == (
            "amount: ordered 4000.08, custodian says 3999.08",
        )
        assert seen["4000.09"].sub_status is None
        assert seen["4000.09"].unknown_words == ("operation_type TRANSFER",)
        assert seen["4000.11"].unknown_words == ("requires_action",)
        # Not on the network until the action is answered, whatever else is told.
        assert seen["4000.11"].sub_status is SubStatus.SUBMITTED


@pytest.mark.parametrize("fault", ["lose_reply", "error_after", "half_response", "bad_json"])
@pytest.mark.parametrize("repeat", ["session", "reference", "current"])
async def test_a_lost_execution_is_found_and_paid_once(fault: str, repeat: str) -> None:
    """Unknown, then found by the reference; a repeat is refused, stays unknown, and pays nothing."""
    async with pair({"repeat": repeat}) as both:
        await both.merchant.fault("execute", fault)
        mine = order()
        with pytest.raises(OutcomeUnknown):
            await both.adapter.submit(mine)
        again = mine.again()
        if repeat == "current":
            assert (await both.adapter.submit(again)).sub_status is SubStatus.SUBMITTED
        else:
            with pytest.raises(OutcomeUnknown):
                await both.adapter.submit(again)
        assert again.notes["reference_id"] == mine.notes["reference_id"]
        assert both.merchant.calls("session") == 1
        assert (await both.end(again)).sub_status is SubStatus.DELIVERED
        assert len(await both.merchant.ledger()) == 1


async def test_a_request_that_arrives_late_pays_once() -> None:
    """Not found, later found: a repeat meanwhile went under the same reference."""
    async with pair() as both:
        await both.merchant.fault("execute", "late_arrival", seconds=50)
        mine = order()
        with pytest.raises(OutcomeUnknown):
            await both.adapter.submit(mine)
        assert isinstance(await both.adapter.fetch(mine.again()), Absent)
        await both.adapter.submit(mine.again())
        await both.advance(51)
        assert (await both.end(mine)).sub_status is SubStatus.DELIVERED
        assert len(await both.merchant.ledger()) == 1


async def test_a_new_session_only_after_the_end_of_the_old_one() -> None:
    """Something was sent in it: wait; when it is over, another session and another reference."""
    async with pair({"session_life_s": 300}) as both:
        await both.merchant.fault("execute", "drop_before")
        mine = order()
        with pytest.raises(OutcomeUnknown):
            await both.adapter.submit(mine)
        await both.advance(280)
        waiting = mine.again()
        with pytest.raises(NotSent, match="end of its session") as caught:
            await both.adapter.submit(waiting)
        assert caught.value.again_after_s is not None
        assert 79 < caught.value.again_after_s <= 82
        assert waiting.story == []
        assert both.merchant.calls("session") == 1
        await both.advance(82)
        again = mine.again(closed=True)
        assert (await both.adapter.submit(again)).sub_status is SubStatus.SUBMITTED
        assert again.notes["reference_id"] == mine.key("execution-2")
        assert again.notes["earlier_references"] == [mine.key("execution-1")]
        assert (await both.end(again)).sub_status is SubStatus.DELIVERED
        assert [each["reference"] for each in await both.merchant.ledger()] == [
            mine.key("execution-2")
        ]


async def test_what_is_not_proven_closed_goes_on_being_looked_at() -> None:
    """The gateway refuses another reference: the old one is looked at, and found when it arrives."""
    async with pair({"session_life_s": 300}) as both:
        await both.merchant.fault("execute", "late_arrival", seconds=100)
        mine = order()
        with pytest.raises(OutcomeUnknown):
            await both.adapter.submit(mine)
        both.pass_here(400)
        again = mine.again()
        with pytest.raises(NotSent, match="not_closed"):
            await both.adapter.submit(again)
        # Nothing was sent under the second reference; the first one counts.
        assert again.notes["sent"] == mine.key("execution-1")
        assert isinstance(await both.adapter.fetch(again.again()), Absent)
        await both.merchant.advance(101)
        seen = await both.adapter.fetch(again.again())
        assert isinstance(seen, Report)
        assert seen.reference == mine.key("execution-1")
        assert both.merchant.calls("execute") == 1


async def test_a_call_lives_as_long_as_its_session() -> None:
    """Until the end that the provider told, from before it was asked; a repeat so much shorter."""
    async with pair({"session_life_s": 900}) as both:
        await both.merchant.fault("execute", "error_before")
        mine = order()
        with pytest.raises(OutcomeUnknown):
            await both.adapter.submit(mine)
        await both.advance(500)
        again = mine.again()
        await both.adapter.submit(again)
        first, second = again.marks
        assert first.reference == second.reference == mine.key("execution-1")
        assert first.call_life_s is not None
        assert second.call_life_s is not None
        assert 900 + 59 <= first.call_life_s <= 900 + 65
        assert first.call_life_s - second.call_life_s == pytest.approx(500)


async def test_a_session_that_took_long_to_open_ends_later() -> None:
    """It began before its answer came, nobody knows when: its end counts from the answer."""
    async with pair({"session_life_s": 900}) as both:
        ask = both.adapter._client.ask

        async def slow(method: str, path: str, document: Any = None) -> Any:
            both.pass_here(100)
            return await ask(method, path, document)

        both.adapter._client.ask = slow  # type: ignore[method-assign]
        mine = order()
        await both.adapter.submit(mine)
        (mark,) = mine.marks
        assert mark.call_life_s is not None
        # 100 s have passed since the stamp; the session lives 900 s from now at the latest.
        assert 900 + 59 <= mark.call_life_s <= 900 + 65


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_a_stepped_wall_clock_changes_nothing(seconds: float) -> None:
    """Neither whether a session is used, nor when another one is opened, nor what a look finds."""
    async with pair({"session_life_s": 300}) as both:
        await both.merchant.fault("execute", "error_before", times=2)
        mine = order()
        with pytest.raises(OutcomeUnknown):
            await both.adapter.submit(mine)
        both.set_wrong(seconds)
        again = mine.again()
        with pytest.raises(OutcomeUnknown):
            await both.adapter.submit(again)
        assert again.notes["reference_id"] == mine.key("execution-1")
        await both.advance(280)
        with pytest.raises(NotSent, match="end of its session"):
            await both.adapter.submit(again.again())
        both.set_wrong(-2 * seconds)
        with pytest.raises(NotSent, match="end of its session"):
            await both.adapter.submit(again.again())
        await both.advance(82)
        third = again.again(closed=True)
        await both.adapter.submit(third)
        assert third.notes["reference_id"] == mine.key("execution-2")
        assert (await both.end(third)).sub_status is SubStatus.DELIVERED
        assert both.merchant.calls("session") == 2
        assert both.merchant.calls("token") == 1
        assert len(await both.merchant.ledger()) == 1


async def test_after_a_reboot_a_session_counts_from_then() -> None:
    """The old elapsed time says nothing on another clock: it ends later than it did."""
    async with pair({"session_life_s": 300}) as both:
        await both.merchant.fault("execute", "error_before", times=2)
        mine = order(time=Elapsed())
        with pytest.raises(OutcomeUnknown):
            await both.adapter.submit(mine)
        mine.time.advance(290)
        mine.time.reboot()
        again = mine.again()
        with pytest.raises(OutcomeUnknown):
            await both.adapter.submit(again)
        assert again.marks[1].call_life_s is not None
        assert again.marks[1].call_life_s >= 300


async def test_notes_from_before_sessions_had_stamps() -> None:
    """An execution in flight is looked at by its references; its session is used no more."""
    async with pair() as both:
        first = order()
        await both.adapter.submit(first)
        reference = first.key("execution-1")
        old = order(
            moved=True,
            _notes={
                "session_id": "43",
                "references": 1,
                "session_ends_at": "2026-03-02T12:15:00+00:00",
                "reference_id": reference,
                "owner": {"phone": "231770000001"},
                "device": {},
                "sent": reference,
                "confirmed_at": "2026-03-02T12:00:00+00:00",
            },
        )
        seen = await both.adapter.fetch(old)
        assert isinstance(seen, Report)
        assert seen.sub_status is SubStatus.SUBMITTED
        # Its call was marked without a reference: a word that names none speaks of it.
        assert seen.reference is None
        again = old.again(closed=True)
        await both.adapter.submit(again)
        assert again.notes["reference_id"] == first.key("execution-2")
        assert again.notes["earlier_references"] == [reference]


async def test_a_session_that_nothing_was_sent_in_is_replaced_at_once() -> None:
    """Stopped at the door, then too old: nothing can arrive in it, so there is nothing to wait for."""
    async with pair() as both:
        await both.merchant.fault("execute", "rate_limit")
        mine = order()
        with pytest.raises(NotSent):
            await both.adapter.submit(mine)
        await both.advance(880)
        again = mine.again(own_word=True)
        await both.adapter.submit(again)
        assert again.notes["reference_id"] == mine.key("execution-2")
        assert again.notes["earlier_references"] == []
        await both.end(again)
        assert len(await both.merchant.ledger()) == 1


async def test_an_earlier_reference_that_lives_is_found() -> None:
    """Whatever the later one says; two that live are shown to a person."""
    async with pair() as both:
        first = order()
        await both.adapter.submit(first)
        mine = order(_notes={"sent": order().key("x")})
        assert isinstance(await both.adapter.fetch(mine), Absent)
        await mine.remember(earlier_references=[first.notes["reference_id"]])
        seen = await both.adapter.fetch(mine)
        assert isinstance(seen, Report)
        assert seen.custodian_reference == first.notes["reference_id"]
        other = order(payout_id="pay_other")
        await both.adapter.submit(other)
        await other.remember(earlier_references=[first.notes["reference_id"]])
        twice = await both.adapter.fetch(other)
        assert isinstance(twice, Report)
        assert twice.unknown_words[0].startswith("more than one execution")


async def test_an_earlier_reference_that_failed_is_not_hidden() -> None:
    """The network has given it an id: nobody knows about its money, whatever the latest one says."""
    async with pair() as both:
        first = order("4000.03")
        await both.adapter.submit(first)
        await both.merchant.steps(3)
        mine = order("4000.03", _notes={"sent": order().key("x"), "session_stamp": ""})
        await mine.remember(earlier_references=[first.notes["reference_id"]])
        seen = await both.adapter.fetch(mine)
        assert isinstance(seen, Report)
        assert seen.reference == first.notes["reference_id"]
        assert seen.failure is not None
        assert seen.failure.funds_moved is FundsMoved.UNKNOWN


@pytest.mark.parametrize(
    ("fault", "more"),
    [("reject", {"status": 401}), ("reject", {"status": 403}), ("rate_limit", {})],
)
async def test_stopped_at_the_door(fault: str, more: dict[str, Any]) -> None:
    """Not sent; the same session and reference serve again, and a clear no of that call is one."""
    async with pair() as both:
        await both.merchant.fault("execute", fault, **more)
        mine = order()
        with pytest.raises(NotSent):
            await both.adapter.submit(mine)
        assert mine.story == [_SENT, "moving"]
        await both.advance(61)
        again = mine.again(own_word=True)
        await both.adapter.submit(again)
        assert again.notes["reference_id"] == mine.notes["reference_id"]
        assert both.merchant.calls("session") == 1
        await both.end(again)
        assert len(await both.merchant.ledger()) == 1


async def test_retry_after_is_told() -> None:
    """The provider's own wish reaches the engine."""
    async with pair() as both:
        for call in ("token", "session", "execute"):
            await both.merchant.fault(call, "rate_limit", retry_after_s=17)
            with pytest.raises(NotSent) as caught:
                await both.adapter.submit(order())
            assert caught.value.again_after_s == 17


async def test_an_unverified_merchant_fails_no_payout() -> None:
    """403 at the session: not sent."""
    async with pair({"verified": False}) as both:
        with pytest.raises(NotSent, match="not verified"):
            await both.adapter.submit(order())


@pytest.mark.parametrize("trouble", ["422", "403"])
async def test_a_wrong_standing_passcode_fails_no_payout(trouble: str) -> None:
    """Our secret is wrong, not the payout: not sent, and no more tries for a while, for anybody."""
    async with pair({"passcode_trouble": trouble}, passcode="WRONG") as both:
        mine = order()
        with pytest.raises(NotSent) as caught:
            await both.adapter.submit(mine)
        assert "WRONG" not in str(caught.value)
        for other in (mine.again(), order(payout_id="pay_other")):
            with pytest.raises(NotSent, match="was refused") as caught:
                await both.adapter.submit(other)
            assert caught.value.again_after_s is not None
            assert other.story == []
        assert both.merchant.calls("execute") == 1
        await both.advance(301)
        with pytest.raises(NotSent):
            await both.adapter.submit(mine.again(own_word=True))
        assert both.merchant.calls("execute") == 2


async def test_a_wrong_standing_passcode_told_late() -> None:
    """A 200 and then FAILED: nobody can tell it from another failure; nothing moved."""
    async with pair({"passcode_trouble": "failed"}, passcode="WRONG") as both:
        mine = order()
        await both.adapter.submit(mine)
        seen = await both.end(mine)
        assert seen.sub_status is SubStatus.FAILED
        assert seen.failure is not None
        assert seen.failure.funds_moved is FundsMoved.NO
        assert seen.detail == "Passcode verification failed"
        assert "Passcode" not in seen.failure.message


async def test_a_session_that_ended_early_is_replaced() -> None:
    """The provider says it is over, to the first call in it: not sent, another one next time."""
    async with pair() as both:
        mine = order()
        await both.merchant.fault("execute", "rate_limit")
        with pytest.raises(NotSent):
            await both.adapter.submit(mine)
        await both.merchant.advance(901)  # on the provider's side only
        again = mine.again(own_word=True)
        with pytest.raises(NotSent, match="session_id"):
            await both.adapter.submit(again)
        third = again.again(own_word=True)
        await both.adapter.submit(third)
        assert third.notes["reference_id"] == mine.key("execution-2")
        await both.end(third)
        assert len(await both.merchant.ledger()) == 1


@pytest.mark.parametrize(
    ("account", "code"),
    [("17", FailureCode.DESTINATION_REJECTED), ("4711", FailureCode.DESTINATION_REJECTED)],
)
async def test_an_account_that_cannot_be_paid(account: str, code: FailureCode) -> None:
    """Unknown or not active: rejected at the session, nothing was marked."""
    async with pair() as both:
        mine = order(account=account)
        with pytest.raises(Rejected) as caught:
            await both.adapter.submit(mine)
        assert caught.value.code == code
        assert mine.story == []


async def test_an_amount_that_cannot_be_paid() -> None:
    """Too precise for the currency: rejected."""
    async with pair() as both:
        with pytest.raises(Rejected) as caught:
            await both.adapter.submit(order("1.001"))
        assert caught.value.code == FailureCode.AMOUNT_REJECTED


async def test_another_wallet_than_the_routes_is_not_used() -> None:
    """The server chooses the wallet; one that the route does not name is not executed from."""
    async with pair() as both:
        mine = order(source=Account(id="4", type="WALLET"))
        report = await both.adapter.submit(mine)
        assert report.sub_status is SubStatus.AWAITING_APPROVAL
        assert report.unknown_words == ("wallet_id 3",)
        assert mine.story == []
        assert both.merchant.calls("execute") == 0


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"destination": PayoutAccountDestination(payout_account_id="18a")}, "whole number"),
        ({"destination": PayoutAccountDestination(payout_account_id="0")}, "whole number"),
        ({"destination": CustodianAccountDestination(account_type="X", id="18")}, "no payout"),
        ({"source": Account(id="3", type="VAULT")}, "no wallet"),
        ({"asset": "USDC"}, "no currency"),
    ],
)
async def test_what_can_never_be_paid(change: dict[str, Any], word: str) -> None:
    """Said early, and refused without a call."""
    async with pair() as both:
        mine = order(**change)
        assert word in (both.adapter.check(mine) or "")
        for attempt in (both.adapter.submit(mine), both.adapter.confirm(mine, {})):
            with pytest.raises(Rejected):
                await attempt
        assert both.merchant.twin.calls == []
    assert both.adapter.check(order()) is None


async def test_looks() -> None:
    """Without a reference nothing can be asked; a failed look is the observer's failure."""
    async with pair() as both:
        assert isinstance(await both.adapter.fetch(order()), CannotLook)
        mine = order()
        await both.adapter.submit(mine)
        for fault, times in (("reject", 1), ("error_before", 1), ("lose_reply", 2)):
            await both.merchant.fault("status", fault, times=times)
            with pytest.raises(NotSent):
                await both.adapter.fetch(mine.again())
        await both.merchant.steer("POST", "revoke-tokens")
        assert isinstance(await both.adapter.fetch(mine.again()), Report)


async def test_a_token_is_kept_refreshed_and_replaced() -> None:
    """One for many calls; a fresh one with less than five minutes left, or after a 401."""
    async with pair() as both:
        for number in range(3):
            await both.adapter.submit(order(payout_id=f"pay_{number}"))
        assert both.merchant.calls("token") == 1
        await both.merchant.steer("POST", "revoke-tokens")
        await both.adapter.submit(order(payout_id="pay_3"))
        assert both.merchant.calls("token") == 2
        await both.advance(54 * 60)
        await both.adapter.submit(order(payout_id="pay_4"))
        assert both.merchant.calls("token") == 2
        await both.advance(62)
        await both.adapter.submit(order(payout_id="pay_5"))
        assert both.merchant.calls("token") == 3


async def test_a_login_that_is_away_stops_nothing_while_the_token_lives() -> None:
    """The old one is used until its end; only then is nothing sent."""
    async with pair() as both:
        await both.adapter.submit(order())
        await both.advance(56 * 60)
        await both.merchant.fault("token", "reject", status=503, times=2)
        await both.adapter.submit(order(payout_id="pay_2"))
        await both.adapter.submit(order(payout_id="pay_3"))
        assert both.merchant.calls("token") == 2  # not asked again at once
        await both.advance(5 * 60)
        with pytest.raises(NotSent):
            await both.adapter.submit(order(payout_id="pay_4"))


async def test_no_webhooks_and_no_confirm() -> None:
    """The provider calls nobody; a standing passcode asks nobody."""
    async with pair() as both:
        with pytest.raises(InvalidSignature):
            await both.adapter.verify({}, b"{}")
        assert both.adapter.parse(b"{}") == ()
        assert not both.adapter.capabilities.webhooks
        with pytest.raises(Unsupported):
            await both.adapter.confirm(order(), {"passcode": {"token": {"code": "1"}}})
