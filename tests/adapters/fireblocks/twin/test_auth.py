"""Tests of who may call the Fireblocks twin."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from email.utils import parsedate_to_datetime
from typing import Any

import jwt
import pytest

from tests.adapters.fireblocks.workspace import CREATE, Workspace, payout_body, stranger_key

_UNKNOWN = f"{CREATE}/{uuid.UUID(int=0)}"


async def test_admits_a_token_as_the_official_client_makes_it(workspace: Workspace) -> None:
    """A fresh token for exactly this request passes."""
    assert (await workspace.create("43")).status == 200


async def test_answers_are_dated_by_the_time_that_tokens_are_judged_by(
    workspace: Workspace,
) -> None:
    """Whatever was advanced: a caller can compare its own clock."""
    await workspace.steps(100)
    reply = await workspace.read(str(uuid.UUID(int=0)))
    assert reply.status == 404
    dated = parsedate_to_datetime(reply.headers["Date"]).timestamp()
    assert abs(dated - workspace.twin.clock.shared()) < 5


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"sub": None}, -2),
        ({"uri": "/v1/payments/payouts"}, -4),
        ({"uri": CREATE + "?a=1"}, -4),
        ({"uri": None}, -4),
        ({"iat": "now"}, -5),
        ({"exp": None}, -5),
        ({"exp": True}, -5),
        ({"nonce": None}, -5),
        ({"nonce": 7}, -5),
        ({"sub": "somebody-else"}, -6),
        ({"bodyHash": hashlib.sha256(b"other").hexdigest()}, -7),
        ({"bodyHash": None}, -7),
    ],
    ids=str,
)
async def test_refuses_a_token_with_a_wrong_claim(
    workspace: Workspace, claims: dict[str, Any], code: int
) -> None:
    """Each claim is checked, and the refusal has the gateway's shape and code."""
    reply = await workspace.call("POST", CREATE, payout_body("43"), **claims)
    assert (reply.status, reply.json["code"]) == (401, code)
    assert set(reply.json) == {"message", "code"}


@pytest.mark.parametrize(
    ("issued", "life", "code"),
    [
        (-60, 55, -10),
        (-56, 55, -10),
        (0, 56, -10),
        (0, 0, -10),
        (30, 55, -12),
    ],
)
async def test_refuses_a_token_out_of_its_time(
    workspace: Workspace, issued: int, life: int, code: int
) -> None:
    """Stale, too long-lived and future tokens are refused."""
    now = workspace.now() + issued
    reply = await workspace.call("POST", CREATE, payout_body("43"), iat=now, exp=now + life)
    assert (reply.status, reply.json["code"]) == (401, code)


async def test_skew_can_be_allowed(workspace: Workspace) -> None:
    """The switch lets a token in that a strict clock refuses."""
    now = workspace.now() + 20
    await workspace.steer("PUT", "settings", {"skew_s": 30})
    reply = await workspace.call("POST", CREATE, payout_body("43"), iat=now, exp=now + 55)
    assert reply.status == 200


async def test_tokens_are_judged_by_the_shared_time(workspace: Workspace) -> None:
    """Advancing the twin's clock does not make clients' tokens stale."""
    await workspace.steer("POST", "clock", {"advance_s": 86_400})
    assert (await workspace.create("43")).status == 200


async def test_refuses_a_stranger_s_signature(workspace: Workspace) -> None:
    """A token signed with another key is refused."""
    body = json.dumps(payout_body("43")).encode()
    token = workspace.token(CREATE, body, key=stranger_key())
    headers = {"X-API-Key": workspace.twin.user.api_key, "Authorization": f"Bearer {token}"}
    reply = await workspace.send("POST", CREATE, body, headers)
    assert (reply.status, reply.json["code"]) == (401, -1)


async def test_refuses_a_body_changed_on_the_way(workspace: Workspace) -> None:
    """The hash is over the raw bytes: even another spacing is another body."""
    body = json.dumps(payout_body("43")).encode()
    headers = {
        "X-API-Key": workspace.twin.user.api_key,
        "Authorization": f"Bearer {workspace.token(CREATE, body)}",
    }
    reply = await workspace.send("POST", CREATE, body.replace(b": ", b":"), headers)
    assert (reply.status, reply.json["code"]) == (401, -7)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, -3),
        ({"Authorization": "Bearer "}, -3),
        ({"Authorization": "Basic abc"}, -3),
        ({"Authorization": "Bearer not.a.token"}, -5),
        ({"Authorization": "Bearer TOKEN", "X-API-Key": "another"}, -7),
        ({"Authorization": "Bearer TOKEN", "X-API-Key": None}, -7),
    ],
    ids=str,
)
async def test_refuses_without_the_headers(
    workspace: Workspace, headers: dict[str, str | None], code: int
) -> None:
    """Both headers are needed, and the API key must be known."""
    token = workspace.token(_UNKNOWN, b"")
    known = {"X-API-Key": workspace.twin.user.api_key, **headers}
    sent = {k: v.replace("TOKEN", token) for k, v in known.items() if v is not None}
    reply = await workspace.send("GET", _UNKNOWN, headers=sent)
    assert (reply.status, reply.json["code"]) == (401, code)


@pytest.mark.parametrize("algorithm", ["HS256", "none", "RS512"])
async def test_refuses_another_algorithm(workspace: Workspace, algorithm: str) -> None:
    """Only RS256 is taken, whatever the header of the token says."""
    claims = jwt.decode(workspace.token(_UNKNOWN, b""), options={"verify_signature": False})
    if algorithm == "RS512":
        token = jwt.encode(claims, workspace.twin.user.private_pem(), algorithm)
    else:
        header = base64.urlsafe_b64encode(json.dumps({"alg": algorithm}).encode()).rstrip(b"=")
        payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
        token = b".".join([header, payload, b"c2ln"]).decode()
    headers = {"X-API-Key": workspace.twin.user.api_key, "Authorization": f"Bearer {token}"}
    reply = await workspace.send("GET", _UNKNOWN, headers=headers)
    assert (reply.status, reply.json["code"]) == (401, -5)


async def test_uri_is_compared_as_sent(workspace: Workspace) -> None:
    """Query and percent-encoding belong to the signed uri, undecoded."""
    odd = f"{CREATE}/a%2Fb%20c?x=%41"
    assert (await workspace.call("GET", odd)).error == (404, "NOT_FOUND")
    reply = await workspace.call("GET", odd, uri=f"{CREATE}/a%2Fb%20c?x=A")
    assert (reply.status, reply.json["code"]) == (401, -4)


async def test_a_nonce_is_good_once_on_post(workspace: Workspace) -> None:
    """The second POST with a nonce is refused."""
    nonce = str(uuid.uuid4())
    first = await workspace.call("POST", CREATE, payout_body("43"), nonce=nonce)
    second = await workspace.call("POST", CREATE, payout_body("43"), nonce=nonce)
    assert (first.status, second.status, second.json["code"]) == (200, 401, -7)


async def test_a_get_may_come_again_with_its_nonce(workspace: Workspace) -> None:
    """The official client repeats GETs with the same token; on another call the nonce is spent."""
    uri, nonce = f"{CREATE}/{(await workspace.create()).json['payoutId']}", str(uuid.uuid4())
    first = await workspace.call("GET", uri, nonce=nonce)
    again = await workspace.call("GET", uri, nonce=nonce)
    post = await workspace.call("POST", CREATE, payout_body("43"), nonce=nonce)
    other = await workspace.call("GET", _UNKNOWN, nonce=nonce)
    assert (first.status, again.status, post.status, other.status) == (200, 200, 401, 401)


async def test_a_refused_request_burns_and_does_nothing(workspace: Workspace) -> None:
    """A stranger neither consumes a fault that acts nor a key."""
    await workspace.fault("create", "error_after")
    refused = await workspace.call("POST", CREATE, payout_body("43"), key="k-1", sub="x")
    assert refused.status == 401
    assert (await workspace.create(key="k-1")).status == 200
