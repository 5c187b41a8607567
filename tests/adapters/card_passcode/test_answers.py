"""Answers that the twin never gives: every shape an adapter must survive, over real sockets."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from gateway.adapter import (
    Absent,
    FailureCode,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Report,
    SubStatus,
)
from gateway.runtime import SystemClock
from tests.adapters.card_passcode.rig import CREDENTIALS, adapter_for, execution, order, wired

_PAGE = "<html>gateway</html>"


def _detail(*path: str, message: str = "wrong") -> dict[str, Any]:
    return {"detail": [{"loc": list(path), "msg": message, "type": "value_error"}]}


@pytest.mark.parametrize(
    "told",
    [
        (200, {}),
        (200, {"access_token": "t"}),
        (200, {"access_token": "", "expires_in": 60}),
        (200, {"access_token": 5, "expires_in": 60}),
        (200, {"access_token": "t", "expires_in": 0}),
        (200, {"access_token": "t", "expires_in": "60"}),
        (200, {"access_token": "t", "expires_in": True}),
        (200, {"access_token": "t\r\nX: y", "expires_in": 60}),
        (200, {"access_token": "t", "expires_in": 1e300}),
        (200, []),
        (200, _PAGE),
        (302, {}),
        (401, {"detail": "Could not validate credentials"}),
        (500, _PAGE),
    ],
    ids=str,
)
async def test_no_token(told: tuple[int, Any]) -> None:
    """Not sent, and no secret in the words."""
    async with wired() as (adapter, wire):
        wire.answers["token"] = told
        mine = order()
        with pytest.raises(NotSent) as caught:
            await adapter.submit(mine)
        assert mine.story == []
        assert not any(each in str(caught.value) for each in CREDENTIALS.values())
        assert wire.made("session") == []


@pytest.mark.parametrize(
    ("change", "odd"),
    [
        ({"amount": "74.99"}, ()),
        ({"amount": 74.99}, ()),
        ({"currency": "LRD"}, ()),
        ({"payout_account_id": 19}, ()),
        ({"wallet_id": 4}, ("wallet_id 4",)),
        ({"wallet_id": None}, ("wallet_id None",)),
        ({"amount": None}, ("session",)),
        ({"amount": "NaN"}, ("session",)),
        ({"amount": True}, ("session",)),
        ({"currency": None}, ("session",)),
        ({"payout_account_id": None}, ("session",)),
    ],
    ids=str,
)
async def test_another_session_than_was_ordered(
    change: dict[str, Any], odd: tuple[str, ...]
) -> None:
    """It is not executed, and a person is told what differs."""
    async with wired() as (adapter, wire):
        wire.change["session"] = change
        mine = order()
        report = await adapter.submit(mine)
        assert report.sub_status is SubStatus.AWAITING_APPROVAL
        assert report.unknown_words == odd
        assert report.echo is not None
        assert bool(report.echo.differences()) is not bool(odd)
        assert (mine.story, wire.made("execute")) == ([], [])


@pytest.mark.parametrize("amount", ["75.00", "75", 75, 75.0, "7.5E1"])
async def test_amounts_in_any_form(amount: object) -> None:
    """Text or number: the same amount is the same amount."""
    async with wired() as (adapter, wire):
        wire.change["session"] = {"amount": amount, "payout_account_id": "18", "wallet_id": "3"}
        wire.change["execute"] = {"payee_amount": amount}
        report = await adapter.submit(order())
        assert report.sub_status is SubStatus.BROADCAST
        assert report.echo is not None
        assert report.echo.differences() == ()


@pytest.mark.parametrize(
    "change",
    [
        {"id": None},
        {"id": True},
        {"expires_at": None},
        {"expires_at": "soon"},
        {"expires_at": "2026-03-02T10:15:00"},
        {"created_at": None},
        {"created_at": "2026-03-02T10:15:00Z"},
    ],
    ids=str,
)
async def test_a_session_without_an_id_or_an_end(change: dict[str, Any]) -> None:
    """It cannot be executed safely: not sent."""
    async with wired() as (adapter, wire):
        wire.change["session"] = change
        with pytest.raises(NotSent):
            await adapter.submit(order())
        assert wire.made("execute") == []


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (_detail("body", "payout_account_id"), FailureCode.DESTINATION_REJECTED),
        (_detail("body", "amount"), FailureCode.AMOUNT_REJECTED),
        (_detail("body", "currency"), FailureCode.SUBMISSION_REJECTED),
        (_detail("body"), FailureCode.SUBMISSION_REJECTED),
    ],
)
async def test_a_refused_session(told: Any, code: FailureCode) -> None:
    """A 422 of the API's own is final, by the member that it names."""
    async with wired() as (adapter, wire):
        wire.answers["session"] = (422, told)
        with pytest.raises(Rejected) as caught:
            await adapter.submit(order())
        assert caught.value.code == code


@pytest.mark.parametrize(
    "told",
    [
        (422, _PAGE),
        (422, {"detail": "no"}),
        (422, {"detail": [1, {"loc": "body"}, {"loc": ["query", "x"]}]}),
        (400, _detail("body", "amount")),
        (404, {"detail": "Not found"}),
        (403, {"detail": "Forbidden"}),
        (201, {}),
        (200, []),
        (503, _PAGE),
    ],
    ids=str,
)
async def test_a_session_that_nobody_refused(told: tuple[int, Any]) -> None:
    """Proxies, other paths and lacking rights fail no payout."""
    async with wired() as (adapter, wire):
        wire.answers["session"] = told
        with pytest.raises(NotSent):
            await adapter.submit(order())


@pytest.mark.parametrize(
    "told",
    [
        (200, _PAGE),
        (200, []),
        (200, {}),
        (200, execution("0f8fad5b-d9cb-469f-a165-70867728950e")),
        (201, {}),
        (302, _PAGE),
        (400, {"detail": "no"}),
        (404, {"detail": "Not found"}),
        (409, {"detail": "conflict"}),
        (422, _PAGE),
        (422, {"detail": "no"}),
        (422, _detail("body", "reference_id")),
        (
            422,
            {
                "detail": _detail("body", "passcode")["detail"]
                + _detail("body", "reference_id")["detail"]
            },
        ),
        (500, {"detail": "internal error"}),
        (502, _PAGE),
    ],
    ids=str,
)
async def test_an_execution_of_unknown_outcome(told: tuple[int, Any]) -> None:
    """Whatever is no clear no: it may have been accepted."""
    async with wired() as (adapter, wire):
        wire.answers["execute"] = told
        mine = order()
        with pytest.raises(OutcomeUnknown):
            await adapter.submit(mine)
        assert mine.story[-1] == "moving"
        assert mine.notes["sent"] == mine.notes["reference_id"]


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("payout_account_id", FailureCode.DESTINATION_REJECTED),
        ("device", FailureCode.SUBMISSION_REJECTED),
    ],
)
async def test_a_refused_execution(field: str, code: FailureCode) -> None:
    """A clear no to the first call is one; to a repeat it is none."""
    async with wired() as (adapter, wire):
        wire.answers["execute"] = (422, _detail("body", field))
        mine = order()
        with pytest.raises(Rejected) as caught:
            await adapter.submit(mine)
        assert caught.value.code == code
        with pytest.raises(OutcomeUnknown):
            await adapter.submit(mine.again())


@pytest.mark.parametrize(
    "change",
    [{"status": "ON_HOLD"}, {"status": None}, {"operation_type": "TRANSFER"}],
    ids=str,
)
async def test_an_accepted_execution_with_odd_words(change: dict[str, Any]) -> None:
    """It was taken under our reference: submitted, and a person is told."""
    async with wired() as (adapter, wire):
        wire.change["execute"] = change
        report = await adapter.submit(order())
        assert report.sub_status is SubStatus.SUBMITTED
        assert report.unknown_words


@pytest.mark.parametrize(
    "change",
    [
        {"status": "ON_HOLD"},
        {"status": 5},
        {"operation_type": None},
        {"reference_id": "another"},
        {"status": "COMPLETED", "operation_type": "REFUND"},
        {"status": "FAILED", "reference_id": None},
    ],
    ids=str,
)
async def test_a_status_with_odd_words_changes_nothing(change: dict[str, Any]) -> None:
    """Kept raw and shown; never an end."""
    async with wired() as (adapter, wire):
        mine = order()
        await adapter.submit(mine)
        wire.change["status"] = change
        report = await adapter.fetch(mine.again())
        assert isinstance(report, Report)
        assert report.sub_status is None
        assert report.unknown_words


@pytest.mark.parametrize(
    "told",
    [(404, _PAGE), (404, {}), (404, []), (410, {"detail": "x"}), (422, {}), (500, {}), (200, [])],
    ids=str,
)
async def test_a_look_that_failed(told: tuple[int, Any]) -> None:
    """Only the API's own 404 says that there is nothing."""
    async with wired() as (adapter, wire):
        mine = order()
        await adapter.submit(mine)
        wire.answers["status"] = told
        with pytest.raises(NotSent):
            await adapter.fetch(mine.again())
        wire.answers["status"] = (404, {"detail": "Not found"})
        assert isinstance(await adapter.fetch(mine.again()), Absent)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"wallet_message": "Insufficient balance"}, FailureCode.INSUFFICIENT_FUNDS),
        ({"wallet_message": "guthaben reicht nicht"}, FailureCode.INSUFFICIENT_FUNDS),
        ({"wallet_message": "x", "gateway_message": "y"}, FailureCode.UNKNOWN_REASON),
        ({"wallet_message": "x", "provider_transaction_id": "z"}, FailureCode.UNKNOWN_REASON),
        ({"gateway_message": "insufficient balance"}, FailureCode.UNKNOWN_REASON),
        ({"wallet_message": "", "gateway_message": None}, FailureCode.UNKNOWN_REASON),
        ({"wallet_message": 5}, FailureCode.UNKNOWN_REASON),
    ],
    ids=str,
)
async def test_messages_are_no_logic(change: dict[str, Any], code: FailureCode) -> None:
    """That there is one about the wallet counts, not what it says."""
    async with wired() as (adapter, wire):
        mine = order()
        await adapter.submit(mine)
        wire.change["status"] = {"status": "FAILED", **change}
        report = await adapter.fetch(mine.again())
        assert isinstance(report, Report)
        assert report.failure is not None
        assert report.failure.code is code


async def test_what_is_sent() -> None:
    """The bytes of each call: types as the notes say, the content fixed, the token as a bearer."""
    async with wired() as (adapter, wire):
        mine = order("75.50")
        await adapter.submit(mine)
        assert [each[0] for each in wire.calls] == ["token", "session", "execute"]
        assert wire.made("token")[0][2] == {
            "client_id": "cli_test",
            "client_secret": "s3cret-of-the-client",
        }
        _, headers, session = wire.made("session")[0]
        assert headers["Authorization"] == "Bearer token-1"
        assert session == {"payout_account_id": 18, "amount": "75.50", "currency": "USD"}
        sent = wire.made("execute")[0][2]
        assert sent["session_id"] == "42"
        assert sent["payout_account_id"] == "18"
        assert sent["reference_id"] == mine.key("execution-1")
        assert sent["passcode"]["token"] == {"phone": "231770000001", "code": "STANDING-0815"}
        assert set(sent["passcode"]["device"]) == {
            "name",
            "type",
            "platform",
            "user_agent",
            "client_ip",
        }


async def test_a_refusal_that_repeats_the_passcode_is_not_passed_on() -> None:
    """Neither its message nor its input."""
    async with wired() as (adapter, wire):
        told = _detail("body", "passcode", message="STANDING-0815 is wrong")
        wire.answers["execute"] = (422, told)
        with pytest.raises(NotSent) as caught:
            await adapter.submit(order())
        assert "STANDING" not in str(caught.value)
        wire.answers["execute"] = (500, {"detail": "cannot check STANDING-0815"})
        with pytest.raises((OutcomeUnknown, NotSent)) as other:
            await adapter.submit(order(payout_id="pay_2"))
        assert "STANDING" not in str(other.value)


async def test_a_code_without_an_end_or_a_target() -> None:
    """The session's own end counts; nothing is made up."""
    async with wired(passcode_mode="one_time_code") as (adapter, wire):
        wire.answers["send_code"] = (200, {"masked_target": 5})
        mine = order()
        report = await adapter.submit(mine)
        assert isinstance(report, Report)
        assert report.action is not None
        assert report.action.masked_target is None
        assert report.action.expires_at is not None


async def test_nobody_listens() -> None:
    """Not sent."""
    async with adapter_for("http://127.0.0.1:1/v1", SystemClock()) as adapter:
        with pytest.raises(NotSent, match="no answer"):
            await adapter.submit(order())


async def test_the_connection_breaks_before_the_execution(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is refused sent nothing: the next call under the reference is a first one."""
    async with wired() as (adapter, wire):
        send = adapter._client.send

        async def refuse(prepared: Any) -> Any:
            if prepared.url.path.endswith("/executions/payout"):
                key: Any = None
                raise aiohttp.ClientConnectorError(key, OSError(111, "refused"))
            return await send(prepared)

        monkeypatch.setattr(adapter._client, "send", refuse)
        mine = order()
        with pytest.raises(NotSent, match="no connection"):
            await adapter.submit(mine)
        monkeypatch.setattr(adapter._client, "send", send)
        wire.answers["execute"] = (422, _detail("body", "device"))
        with pytest.raises(Rejected):
            await adapter.submit(mine.again(own_word=True))
