"""Tests of the webhooks the Fireblocks twin sends."""

from __future__ import annotations

import base64
import itertools
import json
from datetime import datetime
from typing import Any

import jwt
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from adapters.fireblocks.twin.webhooks import RETRY_DELAYS_S
from tests.adapters.fireblocks.workspace import Receiver, Workspace, eventually

_LIFE = ["SUBMITTED", "BROADCASTING", "CONFIRMING", "COMPLETED"]


async def _verify(workspace: Workspace, headers: dict[str, str], body: bytes) -> None:
    """Verify a v2 delivery with PyJWT against the JWKS, or raise PyJWT's error."""
    protected, _, signature = headers["Fireblocks-Webhook-Signature"].split(".")
    payload = base64.urlsafe_b64encode(body).rstrip(b"=").decode()
    keys = jwt.PyJWKSet.from_dict((await workspace.send("GET", "/.well-known/jwks.json")).json)
    header = jwt.get_unverified_header(f"{protected}.{payload}.{signature}")
    assert header["alg"] == "RS512"
    key = next((key for key in keys.keys if key.key_id == header["kid"]), None)
    if key is None:
        raise jwt.InvalidKeyError("unknown kid")
    jwt.PyJWS().decode(f"{protected}.{payload}.{signature}", key, algorithms=["RS512"])


async def _life(workspace: Workspace) -> str:
    """Run one payout through; return its transaction's id."""
    payout_id = await workspace.started("43")
    await workspace.steps(8)
    return str((await workspace.payout(payout_id))["instructionSet"][0]["transactions"][0]["id"])


def _statuses(receiver: Receiver) -> list[str]:
    return [body["data"]["status"] for body in receiver.bodies()]


async def test_every_transaction_step_is_told_and_signed(workspace: Workspace) -> None:
    """One signed event per status, created first; the envelope and the details are complete."""
    async with workspace.receiver() as receiver:
        transaction_id = await _life(workspace)
        await eventually(lambda: len(receiver.got) == 4)
    assert sorted(_statuses(receiver)) == sorted(_LIFE)
    for (headers, body), document in zip(receiver.got, receiver.bodies(), strict=True):
        await _verify(workspace, headers, body)
        assert headers["Content-Type"] == "application/json"
        assert "Fireblocks-Signature" not in headers
        assert set(document) == {
            "id", "eventType", "resourceId", "workspaceId", "webhookId", "createdAt", "data",
        }  # fmt: skip
        created = document["data"]["status"] == "SUBMITTED"
        event = "transaction.created" if created else "transaction.status.updated"
        assert document["eventType"] == event
        assert document["resourceId"] == document["data"]["id"] == transaction_id
        assert document["createdAt"] > 10**12
    assert len({document["id"] for document in receiver.bodies()}) == 4


async def test_nothing_is_told_before_a_transaction_exists(workspace: Workspace) -> None:
    """Insufficient balance and translation errors are seen by polling only."""
    async with workspace.receiver() as receiver:
        await workspace.started("43.000404")
        await workspace.started("43.000401")
        await workspace.steps(20)
        assert (await workspace.steer("GET", "webhooks"))["deliveries"] == []
        assert receiver.got == []


async def test_the_jwks_may_be_kept_for_an_hour(workspace: Workspace) -> None:
    """Keys are RSA signature keys for RS512, with the vendor's cache header."""
    reply = await workspace.send("GET", "/.well-known/jwks.json")
    assert reply.headers["Cache-Control"] == "public, max-age=3600"
    (key,) = reply.json["keys"]
    assert (key["kty"], key["use"], key["alg"]) == ("RSA", "sig", "RS512")
    assert set(key) == {"kty", "use", "alg", "kid", "n", "e"}


@pytest.mark.parametrize(("keep_old", "count"), [(True, 2), (False, 1)])
async def test_keys_rotate(workspace: Workspace, keep_old: bool, count: int) -> None:
    """After a rotation webhooks carry a new kid, which the JWKS shows."""
    rotated = await workspace.steer("POST", "webhook-keys", {"keep_old": keep_old})
    keys = (await workspace.send("GET", "/.well-known/jwks.json")).json["keys"]
    assert len(keys) == count
    async with workspace.receiver() as receiver:
        await _life(workspace)
        await eventually(lambda: len(receiver.got) == 4)
    for headers, body in receiver.got:
        await _verify(workspace, headers, body)
        protected = headers["Fireblocks-Webhook-Signature"].split(".")[0]
        assert json.loads(base64.urlsafe_b64decode(protected + "=="))["kid"] == rotated["kid"]


@pytest.mark.parametrize("form", ["v1", "v2_and_v1_header"])
async def test_legacy_signature(workspace: Workspace, form: str) -> None:
    """The v1 signature verifies; the envelope is v1's own, or v2's with both headers."""
    await workspace.steer("PUT", "settings", {"webhook_format": form})
    async with workspace.receiver() as receiver:
        await _life(workspace)
        await eventually(lambda: len(receiver.got) == 4)
    pem = workspace.twin.credentials(workspace.root)["webhook_v1_public_key"].encode()
    key = serialization.load_pem_public_key(pem)
    assert isinstance(key, rsa.RSAPublicKey)
    for headers, body in receiver.got:
        signature = base64.b64decode(headers["Fireblocks-Signature"])
        key.verify(signature, body, padding.PKCS1v15(), hashes.SHA512())
        with pytest.raises(InvalidSignature):
            key.verify(signature, body + b" ", padding.PKCS1v15(), hashes.SHA512())
        document: dict[str, Any] = json.loads(body)
        if form == "v1":
            assert "Fireblocks-Webhook-Signature" not in headers
            assert set(document) == {"type", "tenantId", "timestamp", "data"}
            assert document["type"] in ("TRANSACTION_CREATED", "TRANSACTION_STATUS_UPDATED")
        else:
            await _verify(workspace, headers, body)


@pytest.mark.parametrize("answer", [500, 503, 408, 429])
async def test_a_failed_delivery_comes_again_as_it_was(workspace: Workspace, answer: int) -> None:
    """Ten attempts in all at the vendor's delays by the twin's clock, with the same id and bytes."""
    async with workspace.receiver() as receiver:
        receiver.answer = answer
        await workspace.started("43")
        await workspace.steps(2)
        # The next event comes after the last retry of this one.
        await workspace.steer("PUT", "settings", {"step_s": 86_400})
        await workspace.steps(1)
        for number, delay_s in enumerate(RETRY_DELAYS_S, start=1):
            assert (await _attempted(workspace, number))["state"] == "waiting"
            await workspace.steer("POST", "clock", {"advance_s": delay_s - 1})
            assert not workspace.twin.outbox._tasks
            await workspace.steer("POST", "clock", {"advance_s": 2})
        delivery = await _attempted(workspace, 10)
        assert delivery["state"] == "failed"
        assert [attempt["status"] for attempt in delivery["attempts"]] == [answer] * 10
        times = [datetime.fromisoformat(str(a["at"])).timestamp() for a in delivery["attempts"]]
        waits = [after - before for before, after in itertools.pairwise(times)]
        assert waits == pytest.approx(RETRY_DELAYS_S, abs=5)
        assert len(receiver.got) == 10
        assert len({body for _, body in receiver.got}) == 1
        assert len({headers["Fireblocks-Webhook-Signature"] for headers, _ in receiver.got}) == 1


async def _attempted(workspace: Workspace, count: int) -> dict[str, Any]:
    """Return the first delivery once it was attempted so often."""
    (delivery, *_) = workspace.twin.outbox._deliveries
    await eventually(lambda: len(delivery.attempts) >= count)
    return delivery.document()


@pytest.mark.parametrize("answer", [301, 400, 401, 404, 422])
async def test_a_refused_delivery_is_lost(workspace: Workspace, answer: int) -> None:
    """A 4XX (and a redirect) is not retried."""
    async with workspace.receiver() as receiver:
        receiver.answer = answer
        await workspace.started("43")
        await workspace.steps(3)
        assert (await _attempted(workspace, 1))["state"] == "failed"


async def test_no_answer_is_retried(workspace: Workspace) -> None:
    """A receiver that is down gets the event when it is back."""
    async with workspace.receiver() as receiver:
        url = receiver.url
    await workspace.started("43")
    await workspace.steps(3)
    delivery = await _attempted(workspace, 1)
    assert (delivery["state"], delivery["attempts"][0]["status"]) == ("waiting", None)
    async with workspace.receiver() as receiver:
        assert receiver.url != url
        await workspace.steer("POST", "clock", {"advance_s": 10})
        await eventually(lambda: receiver.got)


async def test_duplicate(workspace: Workspace) -> None:
    """`duplicate` sends the same bytes again."""
    await workspace.fault("webhook", "duplicate", copies=3)
    async with workspace.receiver() as receiver:
        await _life(workspace)
        await eventually(lambda: len(receiver.got) == 7)
    assert sorted(_statuses(receiver))[-4:] == ["SUBMITTED"] * 4
    assert len({document["id"] for document in receiver.bodies()}) == 4


async def test_delay(workspace: Workspace) -> None:
    """`delay` sends it so much later by the twin's clock."""
    await workspace.fault("webhook", "delay", seconds=3600)
    async with workspace.receiver() as receiver:
        await _life(workspace)
        await eventually(lambda: len(receiver.got) == 3)
        assert "SUBMITTED" not in _statuses(receiver)
        await workspace.steer("POST", "clock", {"advance_s": 3600})
        await eventually(lambda: len(receiver.got) == 4)
    assert _statuses(receiver)[-1] == "SUBMITTED"


async def test_reorder(workspace: Workspace) -> None:
    """`reorder` lets the next event overtake, even if there is none for a while."""
    await workspace.fault("webhook", "reorder", seconds=10_000)
    async with workspace.receiver() as receiver:
        await workspace.started("43")
        await workspace.steps(3)
        assert not workspace.twin.outbox._tasks
        await workspace.steps(1)
        await eventually(lambda: len(receiver.got) == 2)
        assert _statuses(receiver) == ["BROADCASTING", "SUBMITTED"]
        await workspace.fault("webhook", "reorder", seconds=5)
        await workspace.steps(1)
        await workspace.steer("POST", "clock", {"advance_s": 6})
        await eventually(lambda: len(receiver.got) == 3)


async def test_drop(workspace: Workspace) -> None:
    """`drop` never sends it."""
    await workspace.fault("webhook", "drop", times=3)
    async with workspace.receiver() as receiver:
        await _life(workspace)
        await eventually(lambda: len(receiver.got) == 1)
    assert _statuses(receiver) == ["COMPLETED"]
    told = (await workspace.steer("GET", "webhooks"))["deliveries"]
    assert [delivery["state"] for delivery in told][:3] == ["dropped"] * 3


@pytest.mark.parametrize("how", ["unsigned", "wrong_key", "changed_body"])
@pytest.mark.parametrize("form", ["v1", "v2"])
async def test_forge(workspace: Workspace, how: str, form: str) -> None:
    """A stranger's event, claiming completion, comes beside the true one and does not verify."""
    await workspace.steer("PUT", "settings", {"webhook_format": form})
    await workspace.fault("webhook", "forge", how=how)
    async with workspace.receiver() as receiver:
        await workspace.started("43")
        await workspace.steps(3)
        await eventually(lambda: len(receiver.got) == 2)
    forged = [got for got in receiver.got if json.loads(got[1])["data"]["status"] == "COMPLETED"]
    ((headers, body),) = forged
    if how == "unsigned":
        assert not {"Fireblocks-Webhook-Signature", "Fireblocks-Signature"} & set(headers)
    elif form == "v2":
        with pytest.raises(jwt.InvalidSignatureError):
            await _verify(workspace, headers, body)
    else:
        pem = workspace.twin.credentials(workspace.root)["webhook_v1_public_key"].encode()
        key = serialization.load_pem_public_key(pem)
        assert isinstance(key, rsa.RSAPublicKey)
        signature = base64.b64decode(headers["Fireblocks-Signature"])
        with pytest.raises(InvalidSignature):
            key.verify(signature, body, padding.PKCS1v15(), hashes.SHA512())
    assert await workspace.ledger() == []


async def test_the_jwks_can_be_out_of_reach(workspace: Workspace) -> None:
    """A fault on `jwks` is a 503, once."""
    await workspace.fault("jwks", "error_before", status=503)
    assert (await workspace.send("GET", "/.well-known/jwks.json")).status == 503
    assert (await workspace.send("GET", "/.well-known/jwks.json")).status == 200
