"""Tests of the card-passcode twin's sessions and one-time codes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.adapters.card_passcode.merchant import Merchant, Reply


async def test_a_session_echoes_what_was_asked(merchant: Merchant) -> None:
    """It names the wallet that the server chose, and when it ends."""
    reply = await merchant.session("75.00")
    told = reply.json
    assert isinstance(told["id"], int)
    assert told["wallet_id"] == 3
    assert (told["payout_account_id"], told["amount"], told["currency"]) == (18, "75.00", "USD")
    assert told["status"] == "active"
    assert told["created_at"] < told["expires_at"]
    assert told["created_at"].endswith("Z")


@pytest.mark.parametrize("amount", ["75", 75, 75.5, "0.01"])
async def test_amounts_are_numbers_or_texts(merchant: Merchant, amount: object) -> None:
    """The schema shows no single type."""
    assert (await merchant.session(amount)).status == 200


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"amount": "0.001"}, "amount"),
        ({"amount": "-1"}, "amount"),
        ({"amount": "1.001"}, "amount"),
        ({"amount": "NaN"}, "amount"),
        ({"amount": "1e400"}, "amount"),
        ({"amount": True}, "amount"),
        ({"amount": None}, "amount"),
        ({"amount": "seventy"}, "amount"),
        ({"currency": "usd"}, "currency"),
        ({"currency": "USDC"}, "currency"),
        ({"currency": "LRD"}, "currency"),
        ({"payout_account_id": "18"}, "payout_account_id"),
        ({"payout_account_id": 4711}, "payout_account_id"),
        ({"payout_account_id": 17}, "payout_account_id"),
        ({"wallet_id": 3}, "wallet_id"),
    ],
)
async def test_a_wrong_session_names_its_field(
    merchant: Merchant, change: dict[str, Any], field: str
) -> None:
    """422 with the field's path, a message and a type."""
    body = {"payout_account_id": 18, "amount": "75.00", "currency": "USD", **change}
    reply = await merchant.call("POST", "/sessions/payout", body)
    assert reply.fields == [f"body.{field}"]
    assert {"loc", "msg", "type"} <= set(reply.json["detail"][0])


async def test_a_session_ends(merchant: Merchant) -> None:
    """By the twin's clock; then nothing can be executed in it."""
    body = merchant.execution(await merchant.opened())
    await merchant.advance(899)
    other = merchant.execution(await merchant.opened())
    await merchant.advance(2)
    reply = await merchant.execute(body)
    assert reply.fields == ["body.session_id"]
    assert "expired" in reply.json["detail"][0]["msg"]
    assert (await merchant.execute(other)).status == 200
    assert (await merchant.status(body["reference_id"])).status == 404


@pytest.mark.parametrize("session_id", ["0", "4711", "", "x", "9" * 30, "٣", 42])
async def test_an_unknown_session(merchant: Merchant, session_id: object) -> None:
    """422 on the session; one that is no text is refused, too."""
    reply = await merchant.execute({**merchant.execution("1"), "session_id": session_id})
    assert reply.fields == ["body.session_id"]


async def test_a_session_is_for_its_account(merchant: Merchant) -> None:
    """Another account, or a number instead of a text, is refused; the session stays open."""
    session_id = await merchant.opened()
    for wrong in ("19", "018", 18):
        reply = await merchant.execute(merchant.execution(session_id, payout_account_id=wrong))
        assert reply.fields == ["body.payout_account_id"]
    assert (await merchant.execute(merchant.execution(session_id))).status == 200


async def test_a_session_is_executed_once(merchant: Merchant) -> None:
    """A second reference in the same session is refused."""
    session_id = await merchant.opened()
    assert (await merchant.execute(merchant.execution(session_id))).status == 200
    reply = await merchant.execute(merchant.execution(session_id))
    assert reply.fields == ["body.session_id"]
    await merchant.steps(3)
    assert len(await merchant.ledger()) == 1


async def _send(merchant: Merchant, session_id: str) -> Reply:
    body = {"session_id": session_id, "channel": "sms"}
    return await merchant.call("POST", "/passcodes/send", body)


async def test_a_one_time_code_reaches_the_inbox(merchant: Merchant) -> None:
    """Eight letters and digits, with what it is for; the answer shows neither code nor target."""
    session_id = await merchant.opened(account=19)
    reply = await _send(merchant, session_id)
    (message,) = await merchant.inbox()
    assert re.fullmatch(r"[A-Z0-9]{8}", message["code"])
    assert (message["amount"], message["currency"]) == ("75.00", "USD")
    assert (message["session_id"], message["payout_account_id"]) == (session_id, "19")
    assert set(reply.json) == {"challenge_id", "expires_at", "resend_after", "masked_target"}
    assert message["code"] not in reply.text
    assert reply.json["masked_target"] == "+231••••0001"
    body = merchant.execution(session_id, payout_account_id="19", code=message["code"])
    assert (await merchant.execute(body)).status == 200


async def test_the_standing_passcode_opens_no_one_time_account(merchant: Merchant) -> None:
    """Nor does a code that was sent for another session, nor one before any was sent."""
    first, second = [await merchant.opened(account=19) for _ in range(2)]
    await _send(merchant, first)
    (message,) = await merchant.inbox()
    for session_id, code in ((first, merchant.passcode), (second, message["code"])):
        body = merchant.execution(session_id, payout_account_id="19", code=code)
        assert (await merchant.execute(body)).fields == ["body.passcode"]


async def test_a_code_ends_after_five_minutes(merchant: Merchant) -> None:
    """The session outlives it; a fresh code works."""
    session_id = await merchant.opened(account=19)
    await _send(merchant, session_id)
    await merchant.advance(301)
    (old,) = await merchant.inbox()
    body = merchant.execution(session_id, payout_account_id="19", code=old["code"])
    assert (await merchant.execute(body)).fields == ["body.passcode"]
    await _send(merchant, session_id)
    body = merchant.execution(
        session_id, payout_account_id="19", code=(await merchant.inbox())[-1]["code"]
    )
    assert (await merchant.execute(body)).status == 200


async def test_a_resend_waits_replaces_and_is_counted(merchant: Merchant) -> None:
    """Not within 30 s; the old code is void then; three in all."""
    session_id = await merchant.opened(account=19)
    assert (await _send(merchant, session_id)).status == 200
    assert (await _send(merchant, session_id)).fields == ["body.session_id"]
    for _ in range(2):
        await merchant.advance(31)
        assert (await _send(merchant, session_id)).status == 200
    await merchant.advance(31)
    assert (await _send(merchant, session_id)).fields == ["body.session_id"]
    codes = [each["code"] for each in await merchant.inbox()]
    assert len(codes) == 3
    for code, status in ((codes[0], 422), (codes[2], 200)):
        body = merchant.execution(session_id, payout_account_id="19", code=code)
        assert (await merchant.execute(body)).status == status


async def test_no_code_for_a_standing_passcode(merchant: Merchant) -> None:
    """Nothing is sent for an account that takes the merchant's own."""
    assert (await _send(merchant, await merchant.opened())).fields == ["body.session_id"]
    assert await merchant.inbox() == []


async def test_reset_forgets_sessions(merchant: Merchant) -> None:
    """The seeded world again; credentials stay."""
    reference = await merchant.paid()
    session_id = await merchant.opened(account=19)
    await _send(merchant, session_id)
    await merchant.steer("POST", "reset")
    assert await merchant.inbox() == []
    assert (await merchant.status(reference)).status == 404
    assert (await _send(merchant, session_id)).status == 422
    await merchant.paid()
