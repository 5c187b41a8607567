"""Payouts that need a person: the passcode by the caller, and one-time codes, against the twin."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable
from typing import Any

import pytest

from gateway.adapter import (
    Absent,
    CannotLook,
    FundsMoved,
    NotSent,
    OutcomeUnknown,
    Report,
    SubStatus,
    UnreadableAnswer,
    WrongAnswer,
)
from tests.adapters.card_passcode.rig import Pair, answer, order, pair
from tests.adapters.orders import OrderForTest

_CALLER: dict[str, Any] = {"passcode_mode": "caller", "passcode": None}


async def _asked(both: Pair, mine: OrderForTest) -> Report:
    report = await both.adapter.submit(mine)
    assert isinstance(report, Report)
    assert report.sub_status is SubStatus.REQUIRES_ACTION
    return report


async def _wrong(attempt: Awaitable[Report]) -> WrongAnswer:
    with pytest.raises(WrongAnswer) as caught:
        await attempt
    return caught.value


async def _inbox_code(both: Pair) -> str:
    return (await both.merchant.inbox())[-1]["code"]


async def test_the_caller_is_asked_without_a_call() -> None:
    """Submit calls nothing and remembers nothing; there is nothing to look by yet."""
    async with pair(**_CALLER) as both:
        mine = order()
        report = await _asked(both, mine)
        assert report.action is not None
        assert (report.action.type, report.action.attempts_left) == ("enter_passcode", 5)
        assert (report.action.channel, report.action.expires_at) == (None, None)
        assert both.merchant.twin.calls == []
        assert mine.story == []
        assert isinstance(await both.adapter.fetch(mine), CannotLook)


async def test_the_callers_passcode_pays() -> None:
    """Confirm opens the session, remembers, marks, executes; the answer's device is sent."""
    async with pair(**_CALLER) as both:
        mine = order()
        await _asked(both, mine)
        code = both.merchant.passcode
        given = answer(code)
        given["passcode"]["device"] = {"client_ip": "203.0.113.9", "name": "phone"}
        report = await both.adapter.confirm(mine, given)
        assert report.sub_status is SubStatus.SUBMITTED
        assert [each.partition(" ")[0] for each in mine.story] == ["remember", "moving"]
        assert mine.notes["device"] == {
            "name": "phone",
            "type": "SERVER",
            "platform": "PYTHON",
            "user_agent": "test/1.0",
            "client_ip": "203.0.113.9",
        }
        assert code not in json.dumps(dict(mine.notes))
        assert (await both.end(mine)).sub_status is SubStatus.DELIVERED
        assert len(await both.merchant.ledger()) == 1


async def test_the_owner_may_be_named() -> None:
    """A user id instead of the phone of the settings; one of them must be known."""
    async with pair(**_CALLER) as both:
        mine = order()
        await both.adapter.confirm(mine, answer(both.merchant.passcode, user_id="1001"))
        assert mine.notes["owner"] == {"user_id": "1001"}
    async with pair(**_CALLER, phone=None) as both:
        with pytest.raises(UnreadableAnswer):
            await both.adapter.confirm(order(), answer("1"))
        await both.adapter.confirm(order(), answer(both.merchant.passcode, phone="231770000001"))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"passcode": None},
        {"passcode": {"token": {}}},
        answer(""),
        answer("S3CRET" * 11),
        answer("S3CRET" * 200_000),
        {"passcode": {"token": {"code": 815}}},
        answer("S3CRET", phone="+231"),
        answer("S3CRET", phone="231770000001", user_id="1"),
        answer("S3CRET", extra="S3CRET"),
        {**answer("S3CRET"), "extra": "S3CRET"},
        {"passcode": {"token": {"code": "S3CRET"}, "device": {"name": ""}}},
        {"passcode": {"token": {"code": "S3CRET"}, "device": {"os": "S3CRET"}}},
    ],
    ids=str,
)
async def test_an_answer_that_is_not_usable(given: dict[str, Any]) -> None:
    """Refused with the names of its members and none of its values; nothing was called."""
    async with pair(**_CALLER) as both:
        mine = order()
        with pytest.raises(UnreadableAnswer) as caught:
            await both.adapter.confirm(mine, given)
        assert caught.value.fields
        assert caught.value.__cause__ is None
        assert "S3CRET" not in str(caught.value) + str(caught.value.__context__)
        assert both.merchant.twin.calls == []
        assert mine.story == []


@pytest.mark.parametrize("code", ["1", "naïve-påsscode ✓", "4" * 64, "a\nb\x00"])
async def test_odd_passcodes_are_only_wrong(code: str) -> None:
    """One character, non-ASCII, the longest, control characters: sent as they are."""
    async with pair(**_CALLER) as both:
        error = await _wrong(both.adapter.confirm(order(), answer(code)))
        assert error.attempts_left == 4


async def test_wrong_codes_are_counted_and_lock_the_session() -> None:
    """Five tries in one session, each under its own reference; then a new session begins."""
    async with pair(**_CALLER) as both:
        mine = order()
        for left in (4, 3, 2, 1, 0):
            error = await _wrong(both.adapter.confirm(mine, answer("NOPE")))
            assert error.attempts_left == left
            mine = mine.again(own_word=True)
            assert not mine.moved
        assert both.merchant.calls("session") == 1
        report = await _asked(both, mine)
        assert report.action is not None
        assert report.action.attempts_left == 5
        await both.adapter.confirm(mine, answer(both.merchant.passcode))
        assert both.merchant.calls("session") == 2
        # Each under a reference of its own; the sixth goes with the new session.
        names = [f"execution-{number}" for number in range(1, 7)]
        assert [each.reference for each in mine.marks] == [mine.key(name) for name in names]
        assert (await both.end(mine)).sub_status is SubStatus.DELIVERED
        assert len(await both.merchant.ledger()) == 1


async def test_a_right_code_after_a_wrong_one() -> None:
    """In the same session, under a fresh reference; the device may be another one."""
    async with pair(**_CALLER) as both:
        mine = order()
        await _wrong(both.adapter.confirm(mine, answer("NOPE")))
        again = mine.again(own_word=True)
        given = answer(both.merchant.passcode)
        given["passcode"]["device"] = {"name": "tablet"}
        await both.adapter.confirm(again, given)
        assert again.notes["device"]["name"] == "tablet"
        assert again.notes["reference_id"] == mine.key("execution-2")
        assert both.merchant.calls("session") == 1


async def test_phone_and_user_id_go_together_where_it_is_configured() -> None:
    """As in the provider's own sample; elsewhere only one of them is taken."""
    both_of = {"phone": "231770000001", "user_id": "1001"}
    async with pair({"both_ids": "accept"}, both_ids=True, **_CALLER) as both:
        mine = order()
        await both.adapter.confirm(mine, answer(both.merchant.passcode, **both_of))
        assert mine.notes["owner"] == both_of
        await both.end(mine)
        assert len(await both.merchant.ledger()) == 1
    async with pair({"both_ids": "accept"}, **_CALLER) as both:
        with pytest.raises(UnreadableAnswer):
            await both.adapter.confirm(order(), answer(both.merchant.passcode, **both_of))
    async with pair({"both_ids": "accept"}, both_ids=True, user_id="1001") as both:
        mine = order()
        await both.adapter.submit(mine)
        assert mine.notes["owner"] == both_of
        await both.end(mine)
        assert len(await both.merchant.ledger()) == 1


async def test_403_counts_nothing_down() -> None:
    """Of a passcode or of a right: nobody can tell. Not sent; the action stays as it was."""
    async with pair({"passcode_trouble": "403"}, **_CALLER) as both:
        mine = order()
        for _ in range(2):
            with pytest.raises(NotSent) as caught:
                await both.adapter.confirm(mine, answer("NOPE"))
            assert not isinstance(caught.value, WrongAnswer)
            mine = mine.again(own_word=True)
        report = await _asked(both, mine)
        assert report.action is not None
        assert report.action.attempts_left == 5
        await both.adapter.confirm(mine, answer(both.merchant.passcode))
        await both.end(mine)
        assert len(await both.merchant.ledger()) == 1


async def _refused_late(both: Pair) -> OrderForTest:
    """Return an order whose code was taken, and was seen refused five seconds later."""
    mine = order()
    await both.adapter.confirm(mine, answer("NOPE"))
    await both.advance(5)
    mine = mine.again()
    seen = await both.adapter.fetch(mine)
    assert isinstance(seen, Report)
    assert seen.reopens
    return mine.again()


_LATE: dict[str, Any] = {"passcode_trouble": "failed", "step_s": 2}


async def test_a_code_that_is_refused_late_may_be_tried_again_by_another_execution() -> None:
    """FAILED within ten seconds reopens the order; PROCESSING meanwhile is not believed."""
    async with pair(_LATE, **_CALLER) as both:
        mine = order()
        await both.adapter.confirm(mine, answer("NOPE"))
        await both.advance(3)
        seen = await both.adapter.fetch(mine.again())
        assert isinstance(seen, Report)
        assert (seen.sub_status, seen.custodian_word) == (SubStatus.SUBMITTED, "PROCESSING")
        await both.advance(2)
        seen = await both.adapter.fetch(mine.again())
        assert isinstance(seen, Report)
        assert (seen.sub_status, seen.reopens) == (SubStatus.FAILED, True)
        assert seen.reference == mine.marks[0].reference == mine.key("execution-1")
        assert seen.failure is not None
        assert seen.failure.funds_moved is FundsMoved.NO
        # The engine closes this execution and opens another one, with fresh notes and keys.
        fresh = order(attempt=2)
        report = await _asked(both, fresh)
        assert report.action is not None
        assert report.action.attempts_left == 5
        await both.adapter.confirm(fresh, answer(both.merchant.passcode))
        assert fresh.notes["reference_id"] == fresh.key("execution-1")
        assert fresh.notes["reference_id"] != mine.notes["reference_id"]
        assert (await both.end(fresh)).sub_status is SubStatus.DELIVERED
        assert len(await both.merchant.ledger()) == 1


async def test_a_code_that_is_refused_in_the_answer() -> None:
    """The 200 itself says FAILED: the same."""
    async with pair(**_CALLER) as both:
        mine = order("4000.07")
        report = await both.adapter.confirm(mine, answer(both.merchant.passcode))
        assert (report.sub_status, report.reopens) == (SubStatus.FAILED, True)


async def test_what_was_refused_late_stays_refused() -> None:
    """A look long after the refusal says the same: the first one may not have been written."""
    async with pair(_LATE, **_CALLER) as both:
        mine = await _refused_late(both)
        for wait in (0, 20, 300):
            await both.advance(wait)
            mine = mine.again()
            seen = await both.adapter.fetch(mine)
            assert isinstance(seen, Report)
            assert (seen.sub_status, seen.reopens) == (SubStatus.FAILED, True)


async def test_a_confirm_after_a_late_refusal_is_told_of_it() -> None:
    """In the execution that was refused nothing is sent any more."""
    async with pair(_LATE, **_CALLER) as both:
        mine = await _refused_late(both)
        report = await both.adapter.confirm(mine, answer(both.merchant.passcode))
        assert report.reopens
        assert both.merchant.calls("execute") == 1


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_a_stepped_wall_clock_makes_no_code_older_or_younger(seconds: float) -> None:
    """Ten seconds are ten seconds of elapsed time."""
    async with pair(_LATE, **_CALLER) as both:
        late, later = order(), order(payout_id="pay_later")
        await both.adapter.confirm(late, answer("NOPE"))
        both.set_wrong(seconds)
        await both.advance(5)
        seen = await both.adapter.fetch(late.again())
        assert isinstance(seen, Report)
        assert seen.reopens
        await both.adapter.confirm(later, answer("NOPE"))
        both.set_wrong(-seconds)
        await both.advance(11)
        seen = await both.adapter.fetch(later.again())
        assert isinstance(seen, Report)
        assert (seen.sub_status, seen.reopens) == (SubStatus.FAILED, False)


async def test_a_look_counts_from_its_beginning() -> None:
    """A process that was suspended after its look judges what was seen then."""
    async with pair(_LATE, **_CALLER) as both:
        mine = order()
        await both.adapter.confirm(mine, answer("NOPE"))
        await both.advance(5)
        ask = both.adapter._client.ask

        async def slow(method: str, path: str, document: Any = None) -> Any:
            found = await ask(method, path, document)
            both.pass_here(100)
            return found

        both.adapter._client.ask = slow  # type: ignore[method-assign]
        seen = await both.adapter.fetch(mine.again())
        assert isinstance(seen, Report)
        assert seen.reopens


async def test_notes_of_a_late_refusal_from_before() -> None:
    """The payout asks already: its execution is closed, and another one asks anew."""
    async with pair(_LATE, **_CALLER) as both:
        mine = await _refused_late(both)
        await both.advance(60)
        reference = mine.key("execution-1")
        old = order(
            moved=True,
            _notes={
                "session_id": None,
                "reference_id": None,
                "references": 1,
                "sent": reference,
                "earlier_references": [reference],
                "refused_references": [reference],
            },
        )
        seen = await both.adapter.fetch(old)
        assert isinstance(seen, Report)
        assert (seen.sub_status, seen.reopens, seen.reference) == (SubStatus.FAILED, True, None)


async def test_a_late_failure_is_one() -> None:
    """After ten seconds FAILED is the payout's end; so is one for lack of money at any time."""
    async with pair({"passcode_trouble": "failed", "step_s": 2}, **_CALLER) as both:
        mine = order()
        await both.adapter.confirm(mine, answer("NOPE"))
        await both.advance(11)
        seen = await both.adapter.fetch(mine.again())
        assert isinstance(seen, Report)
        assert (seen.sub_status, seen.reopens) == (SubStatus.FAILED, False)
        poor = order("4000.04", payout_id="pay_poor")
        await both.adapter.confirm(poor, answer(both.merchant.passcode))
        await both.advance(3)
        seen = await both.adapter.fetch(poor.again())
        assert isinstance(seen, Report)
        assert (seen.sub_status, seen.reopens) == (SubStatus.FAILED, False)


@pytest.mark.parametrize("fault", ["lose_reply", "error_after", "half_response"])
async def test_a_lost_confirm_is_looked_for_before_it_is_repeated(fault: str) -> None:
    """Confirm, lost reply, confirm again: found, one execution, whatever the second code is."""
    async with pair(**_CALLER) as both:
        mine = order()
        await both.merchant.fault("execute", fault)
        with pytest.raises(OutcomeUnknown):
            await both.adapter.confirm(mine, answer(both.merchant.passcode))
        again = mine.again()
        report = await both.adapter.confirm(again, answer("ANOTHER"))
        assert report.sub_status is SubStatus.SUBMITTED
        assert again.story == []
        assert both.merchant.calls("execute") == 1
        await both.end(again)
        assert len(await both.merchant.ledger()) == 1


async def test_a_confirm_that_never_arrived_is_repeated_as_it_was() -> None:
    """Same reference, same device, whatever the second answer's device; the code is the new one."""
    async with pair({"repeat": "current"}, **_CALLER) as both:
        mine = order()
        await both.merchant.fault("execute", "late_arrival", seconds=60)
        with pytest.raises(OutcomeUnknown):
            await both.adapter.confirm(mine, answer(both.merchant.passcode))
        assert isinstance(await both.adapter.fetch(mine.again()), Absent)
        again = mine.again()
        given = answer(both.merchant.passcode)
        given["passcode"]["device"] = {"name": "tablet"}
        await both.adapter.confirm(again, given)
        assert again.notes["device"] == mine.notes["device"]
        await both.advance(61)
        assert (await both.end(again)).sub_status is SubStatus.DELIVERED
        assert len(await both.merchant.ledger()) == 1


async def test_a_wrong_code_in_a_repeat_proves_nothing() -> None:
    """It may be the echo of a first call that arrived: unknown, and nothing is counted."""
    async with pair(**_CALLER) as both:
        mine = order()
        await both.merchant.fault("execute", "error_before")
        with pytest.raises(OutcomeUnknown):
            await both.adapter.confirm(mine, answer(both.merchant.passcode))
        with pytest.raises(OutcomeUnknown):
            await both.adapter.confirm(mine.again(), answer("NOPE"))


async def test_after_an_unknown_confirm_a_person_is_asked_when_the_session_is_over() -> None:
    """Until then not even asked; afterwards a new session and reference, once absence is proven."""
    async with pair({"session_life_s": 300}, **_CALLER) as both:
        mine = order()
        await both.merchant.fault("execute", "drop_before")
        with pytest.raises(OutcomeUnknown):
            await both.adapter.confirm(mine, answer(both.merchant.passcode))
        await both.advance(290)
        for attempt in (
            both.adapter.confirm(mine.again(), answer(both.merchant.passcode)),
            both.adapter.submit(mine.again()),
        ):
            with pytest.raises(NotSent, match="end of its session"):
                await attempt
        await both.advance(10 + 62)
        assert isinstance(await both.adapter.fetch(mine.again()), Absent)
        again = mine.again(closed=True)
        report = await _asked(both, again)
        assert report.action is not None
        assert (report.action.attempts_left, report.action.expires_at) == (5, None)
        again = again.again(closed=True)
        await both.adapter.confirm(again, answer(both.merchant.passcode))
        assert again.notes["reference_id"] == mine.key("execution-2")
        assert (await both.end(again)).sub_status is SubStatus.DELIVERED
        assert both.merchant.calls("session") == 2
        assert len(await both.merchant.ledger()) == 1


async def test_a_wrong_answer_whose_outcome_was_not_written_is_looked_for() -> None:
    """The worker died: the mark has no outcome. The refused reference is absent, and pays nothing."""
    async with pair(**_CALLER) as both:
        mine = order()
        await _wrong(both.adapter.confirm(mine, answer("NOPE")))
        again = mine.again()
        assert isinstance(await both.adapter.fetch(again), Absent)
        # Another reference is refused by the gateway until that is proven.
        with pytest.raises(NotSent, match="not_closed"):
            await both.adapter.confirm(again, answer(both.merchant.passcode))
        assert isinstance(await both.adapter.fetch(again.again()), Absent)
        assert both.merchant.calls("execute") == 1


async def test_a_repeat_is_declared_safe_only_where_nobody_is_asked() -> None:
    """Without its person an execution cannot be repeated by the gateway itself."""
    for settings, safe in (
        ({"payout_accounts": {}}, True),
        ({}, False),
        (_CALLER, False),
        ({"payout_accounts": {"18": "caller"}}, False),
    ):
        async with pair(**settings) as both:
            keys = both.adapter.capabilities.keys
            assert (keys.repeat_is_safe, keys.life_s) == (safe, None)
    assert type(both.adapter).capabilities.keys.repeat_is_safe


async def test_nothing_is_sent_while_the_provider_is_away() -> None:
    """Between session and execution, too: the action stays; the next answer pays once."""
    async with pair(**_CALLER) as both:
        for call, fault in (("token", "error_before"), ("session", "lose_reply")):
            await both.merchant.fault(call, fault)
            mine = order()
            with pytest.raises(NotSent):
                await both.adapter.confirm(mine, answer(both.merchant.passcode))
            assert mine.story == []
        mine = order()
        await both.adapter.confirm(mine, answer(both.merchant.passcode))
        await both.end(mine)
        assert len(await both.merchant.ledger()) == 1


async def test_two_confirms_at_once_pay_once() -> None:
    """Even without the engine's lease: one reference, accepted once."""
    async with pair(**_CALLER) as both:
        mine = order()
        both_orders = [mine.again(), mine.again()]
        await asyncio.gather(
            *(both.adapter.confirm(each, answer(both.merchant.passcode)) for each in both_orders),
            return_exceptions=True,
        )
        await both.merchant.steps(3)
        assert len(await both.merchant.ledger()) == 1


async def test_a_one_time_code_is_sent_for_a_session() -> None:
    """The session comes first; the action shows channel, masked target, and the code's end."""
    async with pair() as both:
        mine = order(account="19")
        report = await _asked(both, mine)
        assert report.action is not None
        assert report.action.channel == "sms"
        assert report.action.masked_target == "+231••••0001"
        assert report.action.expires_at is not None
        assert 290 < (report.action.expires_at - both.clock.now()).total_seconds() <= 302
        assert len(await both.merchant.inbox()) == 1
        again = mine.again()
        assert (await _asked(both, again)).action == report.action
        assert (len(await both.merchant.inbox()), again.story) == (1, [])
        code = await _inbox_code(both)
        assert code not in json.dumps(dict(mine.notes))
        await both.adapter.confirm(again, answer(code))
        assert (await both.end(again)).sub_status is SubStatus.DELIVERED
        (entry,) = await both.merchant.ledger()
        assert entry["destination"] == "19"


async def test_an_old_code_is_replaced_and_an_old_session_too() -> None:
    """Submit again sends a fresh code; in the same session while it lasts."""
    async with pair() as both:
        mine = order(account="19")
        await _asked(both, mine)
        await both.advance(301)
        again = mine.again()
        await _asked(both, again)
        assert len(await both.merchant.inbox()) == 2
        assert both.merchant.calls("session") == 1
        await both.advance(900)
        with pytest.raises(NotSent, match="new code"):
            await both.adapter.confirm(again.again(), answer(await _inbox_code(both)))
        third = again.again()
        await _asked(both, third)
        assert both.merchant.calls("session") == 2
        await both.adapter.confirm(third, answer(await _inbox_code(both)))
        await both.end(third)
        assert len(await both.merchant.ledger()) == 1


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_a_stepped_wall_clock_makes_no_code_old(seconds: float) -> None:
    """Neither a code nor its session."""
    async with pair() as both:
        mine = order(account="19")
        await _asked(both, mine)
        both.set_wrong(seconds)
        await both.advance(200)
        again = mine.again()
        await _asked(both, again)
        assert len(await both.merchant.inbox()) == 1
        await both.advance(102)
        await _asked(both, again)
        assert len(await both.merchant.inbox()) == 2
        await both.adapter.confirm(again.again(), answer(await _inbox_code(both)))
        assert both.merchant.calls("session") == 1


async def test_no_more_codes_for_a_session() -> None:
    """The provider refuses a fourth one: another session is opened for it."""
    async with pair({"session_life_s": 3600}) as both:
        mine = order(account="19")
        for _ in range(3):
            await _asked(both, mine)
            await both.advance(301)
            mine = mine.again()
        with pytest.raises(NotSent, match="no more codes"):
            await both.adapter.submit(mine)
        mine = mine.again()
        await _asked(both, mine)
        assert both.merchant.calls("session") == 2


async def test_wrong_one_time_codes_need_a_new_session() -> None:
    """After five the session is locked; the next code comes with another one."""
    async with pair() as both:
        mine = order(account="19")
        await _asked(both, mine)
        for left in (4, 3, 2, 1, 0):
            error = await _wrong(both.adapter.confirm(mine, answer("NOPE")))
            assert error.attempts_left == left
            mine = mine.again(own_word=True)
            assert not mine.moved
        with pytest.raises(NotSent, match="new code"):
            await both.adapter.confirm(mine, answer(await _inbox_code(both)))
        await _asked(both, mine)
        await both.adapter.confirm(mine, answer(await _inbox_code(both)))
        assert (await both.end(mine)).sub_status is SubStatus.DELIVERED


@pytest.mark.parametrize("call", ["token", "session", "send_code"])
@pytest.mark.parametrize("fault", ["error_before", "lose_reply", "rate_limit"])
async def test_asking_can_be_repeated(call: str, fault: str) -> None:
    """Whatever fails on the way to the code: not sent; the next submit asks."""
    async with pair() as both:
        await both.merchant.fault(call, fault)
        mine = order(account="19")
        with pytest.raises(NotSent):
            await both.adapter.submit(mine)
        await _asked(both, mine.again())


async def test_a_passcode_is_nowhere_but_in_its_call(caplog: pytest.LogCaptureFixture) -> None:
    """Not in notes, errors, their causes, reprs or logs: after success, refusal, loss and echo."""
    caplog.set_level(logging.DEBUG)
    secret = "ZX-PASS-4711"
    seen: list[str] = []
    for fault in (None, "lose_reply", "error_after", "reject", "drop_before"):
        async with pair(**_CALLER) as both:
            if fault is not None:
                await both.merchant.fault("execute", fault)
            mine = order()
            try:
                await both.adapter.confirm(mine, answer(secret))
            except Exception as error:  # noqa: BLE001 - every one is looked into
                chain: BaseException | None = error
                while chain is not None:
                    seen.append(repr(chain) + str(vars(chain)))
                    chain = chain.__cause__ or chain.__context__
            seen.append(json.dumps(dict(mine.notes)) + repr(vars(both.adapter)))
            seen.append(repr(vars(both.adapter._client)))
    assert len(seen) > 10
    assert secret not in "".join(seen) + caplog.text
