"""What the Fireblocks twin writes on the wire, to the member and to the digit."""

from __future__ import annotations

import json
import uuid

import pytest

from adapters.fireblocks.twin.records import _number
from tests.adapters.fireblocks.workspace import (
    CREATE,
    EXTERNAL_WALLET,
    Workspace,
    eventually,
    payout_body,
)

#: The members of the vendor's example of a webhook's `data` that were missing once.
EXAMPLE = {
    "sourceAddress",
    "networkFee",
    "signedBy",
    "createdBy",
    "rejectedBy",
    "amountUSD",
    "addressType",
    "exchangeTxId",
    "destinationTag",
    "destinationAddressDescription",
    "txHash",
}


@pytest.mark.parametrize(
    ("text", "written"), [("31", "31"), ("31.0", "31"), ("0.5", "0.5"), ("0", "0")]
)
def test_whole_numbers_have_no_point(text: str, written: str) -> None:
    """The vendor writes JSON in JavaScript, and its own sample verifies what it writes anew."""
    assert json.dumps(_number(text)) == written


async def test_webhooks_have_the_members_of_the_example(workspace: Workspace) -> None:
    """An exchange's events name its own id, and no hash; the numbers are JavaScript's."""
    async with workspace.receiver() as receiver:
        await workspace.started("31")
        await workspace.steps(8)
        await eventually(lambda: len(receiver.got) == 4)
    for _, body in receiver.got:
        told = json.loads(body)
        assert set(told["data"]) >= EXAMPLE
        assert str(uuid.UUID(told["webhookId"])) == told["webhookId"]
        assert told["data"]["txHash"] == ""
        assert told["data"]["exchangeTxId"]
        assert b'"amount":31,' in body
        assert b"31.0" not in body


async def test_an_exchange_tells_a_hash_towards_vaults_only(workspace: Workspace) -> None:
    """And a bank none; of a vault's own transactions it is told from broadcasting on."""
    for source, payee, asset, hashed in (
        (("EXCHANGE_ACCOUNT", "EX_SUB3"), ("EXTERNAL_WALLET", EXTERNAL_WALLET), "USDC", False),
        (("EXCHANGE_ACCOUNT", "EX_SUB3"), ("VAULT_ACCOUNT", "8"), "USDC", True),
        (("VAULT_ACCOUNT", "7"), ("EXTERNAL_WALLET", EXTERNAL_WALLET), "USDC", True),
        (("FIAT_ACCOUNT", "FIAT1"), ("FIAT_ACCOUNT", "FIAT2"), "USD", False),
    ):
        payout_id = await workspace.started("31", source=source, payee=payee, asset=asset)
        await workspace.steps(10)
        payout = await workspace.payout(payout_id)
        (row,) = payout["instructionSet"]
        assert (row["state"], payout["state"]) == ("COMPLETED", "FINALIZED")
        assert row["name"]
        assert payout["reportUrl"]
        reply = await workspace.call("GET", f"/v1/transactions/{row['transactions'][0]['id']}")
        assert reply.headers["X-Request-ID"]
        assert ("txHash" in reply.json) is hashed


@pytest.mark.parametrize("shape", ["gateway", "documented"])
async def test_both_shapes_of_401(workspace: Workspace, shape: str) -> None:
    """The API description requires `error`; the vendor's clients show message and code."""
    await workspace.steer("PUT", "settings", {"shape_401": shape})
    url = f"{workspace.root}{CREATE}"
    async with workspace.http.post(url, json=payout_body("1")) as answer:
        assert answer.status == 401
        told = await answer.json()
    if shape == "documented":
        assert told == {"error": {"type": "AUTHENTICATION", "message": "JWT is missing"}}
    else:
        assert told == {"message": "JWT is missing", "code": -3}
