"""Tests of the card-passcode twin's door: tokens, gates, credentials, and what is not shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.adapters.card_passcode.merchant import Merchant, noon, open_merchant

_NOT_VALID = {"detail": "Could not validate credentials"}


async def test_a_token_lives_for_minutes() -> None:
    """`expires_in` counts minutes, by the time that both sides share."""
    base = noon()
    offset = [0.0]
    async with open_merchant(lambda: base() + offset[0], token_minutes=7) as merchant:
        reply = await merchant.obtain()
        assert (reply.json["expires_in"], reply.json["token_type"]) == (7, "bearer")
        assert (await merchant.session()).status == 200
        await merchant.advance(3600)  # the twin's own clock ends no token
        assert (await merchant.session()).status == 200
        offset[0] = 7 * 60 + 1
        late = await merchant.session()
        assert (late.status, late.json) == (401, _NOT_VALID)


@pytest.mark.parametrize("change", [{"client_id": "cli_else"}, {"client_secret": "else"}])
async def test_wrong_credentials(merchant: Merchant, change: dict[str, str]) -> None:
    """401 with one text, whichever was wrong."""
    reply = await merchant.obtain(**change)
    assert (reply.status, reply.json) == (401, _NOT_VALID)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"client_id": 1, "client_secret": "x"}', b'{"client_id": "x"}']
)
async def test_a_token_request_is_checked(merchant: Merchant, body: bytes) -> None:
    """422 in FastAPI's shape."""
    reply = await merchant.send("POST", "/jwt/client/obtain/token", body, None)
    assert reply.fields[0].startswith("body")


@pytest.mark.parametrize("token", [None, "", "nonsense", "a.b.c"])
async def test_no_call_without_a_good_token(merchant: Merchant, token: str | None) -> None:
    """401 with a text, before anything else is looked at."""
    for method, path in (
        ("POST", "/sessions/payout"),
        ("POST", "/executions/payout"),
        ("POST", "/passcodes/send"),
        ("POST", "/parties/create"),
        ("GET", "/status/payout/x"),
    ):
        reply = await merchant.send(method, path, None, token)
        assert reply.status == 401
        assert isinstance(reply.json["detail"], str)


async def test_tokens_can_be_revoked(merchant: Merchant) -> None:
    """Every older token is refused; a new one works."""
    old = await merchant.token()
    await merchant.steer("POST", "revoke-tokens")
    assert (await merchant.session()).status == 401
    merchant._token = None
    assert (await merchant.session()).status == 200
    assert await merchant.token() != old


async def test_an_unverified_merchant_is_stopped(merchant: Merchant) -> None:
    """403 with a text, at the session and at the execution; nothing is used up by it."""
    body = merchant.execution(await merchant.opened())
    await merchant.switch(verified=False)
    for reply in (await merchant.session(), await merchant.execute(body)):
        assert (reply.status, reply.json) == (403, {"detail": "Merchant account is not verified"})
    await merchant.switch(verified=True)
    assert (await merchant.execute(body)).status == 200


async def test_the_seeded_world(merchant: Merchant) -> None:
    """A fresh twin has the documented wallet, and nothing has happened."""
    assert (await merchant.steer("GET", "balances"))["balances"] == [
        {"account": "3", "asset": "USD", "amount": "1000000"}
    ]
    assert await merchant.ledger() == []
    assert await merchant.inbox() == []
    assert set(merchant.credentials) == {"client_id", "client_secret", "passcode", "phone"}
    await merchant.steer(
        "PUT", "balances", {"balances": [{"account": "3", "asset": "EUR", "amount": "1"}]}, 422
    )


async def test_no_secret_is_shown(merchant: Merchant) -> None:
    """Calls and reprs tell no credential, token or passcode."""
    await merchant.paid()
    seen = json.dumps(await merchant.steer("GET", "calls")) + repr(merchant.twin.gate)
    for secret in (merchant.passcode, await merchant.token(), merchant.credentials["client_id"]):
        assert secret not in seen


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/parties/create", {"fullname": "Amara Kamara", "phone": "231771234567"}),
        ("/counterparties/create", {"relationship_type": "BENEFICIARY", "party_id": 42}),
        (
            "/payment-accounts/create?operation_type=PAYOUT",
            {
                "account_name": "Amara MTN",
                "provider": "MTN_MOMO_LBR",
                "method": "MTN_MOMO_LBR",
                "party_id": 42,
                "insensitive_account_number": "231771234567",
            },
        ),
    ],
)
async def test_people_and_accounts_can_be_registered(
    merchant: Merchant, path: str, body: dict[str, Any]
) -> None:
    """Each gets an id and echoes what was sent; an unknown member is refused."""
    reply = await merchant.call("POST", path, body)
    assert reply.status == 200, reply
    assert {**reply.json, **body} == reply.json
    assert isinstance(reply.json["id"], int)
    assert (await merchant.call("POST", path, {**body, "extra": 1})).fields == ["body.extra"]


async def test_a_registered_account_can_be_paid(merchant: Merchant) -> None:
    """A payout account of ours is as good as a seeded one; one for collections is none."""
    body = {"account_name": "A", "provider": "PAWAPAY", "method": "AIRTEL_RWA", "party_id": 42}
    made = [
        (await merchant.call("POST", f"/payment-accounts/create?operation_type={kind}", body)).json
        for kind in ("PAYOUT", "COLLECTION")
    ]
    assert made[0]["is_active"] is True
    assert (await merchant.session(account=made[0]["id"])).status == 200
    assert (await merchant.session(account=made[1]["id"])).fields == ["body.payout_account_id"]
    wrong = await merchant.call("POST", "/payment-accounts/create", body)
    assert wrong.fields == ["query.operation_type"]
    stranger = await merchant.call(
        "POST", "/payment-accounts/create?operation_type=PAYOUT", {**body, "party_id": 7}
    )
    assert stranger.fields == ["body.party_id"]
