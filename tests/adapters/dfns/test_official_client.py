"""The custodian's own Python client against the twin, unchanged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from dfns_sdk import DfnsClient, DfnsClientConfig, KeySigner
from dfns_sdk.types import DfnsError

from adapters.dfns.twin.auth import private_pem, public_pem
from adapters.dfns.twin.world import EVM_WALLET, SOLANA_WALLET
from tests.adapters.dfns.organisation import (
    PAYEE,
    SOLANA_PAYEE,
    USDC_MINT,
    Organisation,
    confirm_body,
    open_organisation,
    payout_body,
    transfer_body,
)


@asynccontextmanager
async def client(org: Organisation, **change: str) -> AsyncIterator[Any]:
    """Give the official client, configured by address and credentials alone."""
    told = {**org.twin.credentials(org.root), **change}
    signer = KeySigner(credential_id=told["credential_id"], private_key=told["private_key"])
    config = DfnsClientConfig(auth_token=told["auth_token"], base_url=org.root, signer=signer)
    with DfnsClient(config) as made:
        yield made


async def call(work: Any, *arguments: Any) -> Any:
    """Run a blocking call of the client beside the twin's loop."""
    return await asyncio.to_thread(work, *arguments)


async def test_it_quotes_creates_confirms_and_follows_to_the_end() -> None:
    """The off-ramp, from the quote to `Completed`; the ledger shows one transfer."""
    async with open_organisation(time.time, step_s=0.02) as org, client(org) as dfns:
        wanted = payout_body(externalId="case-1")
        names = ("walletId", "asset", "fiatCurrency", "provider", "country")
        quote = await call(dfns.payouts.request_payout_quote, {n: wanted[n] for n in names})
        assert quote["quotes"][0]["offer"]["fiatCurrency"] == "EUR"
        made = await call(dfns.payouts.create_payout, wanted)
        assert await call(dfns.payouts.create_payout, wanted) | {"data": {}} == made | {"data": {}}
        payout = await until(dfns, made["id"], "AwaitingPayoutConfirmation")
        assert await call(dfns.payouts.create_payout_action, made["id"], confirm_body(payout)) == {}
        payout = await until(dfns, made["id"], "Completed")
        assert payout["status"] == "Completed"
        (entry,) = await org.ledger()
        assert entry["reference"] == payout["data"]["transferId"]
        assert (entry["asset"], entry["amount"]) == ("USDC", "43")
        listed = await call(
            dfns.payouts.list_payouts, {"walletId": EVM_WALLET, "status": "Processing,Completed"}
        )
        assert [each["id"] for each in listed["items"]] == [made["id"]]


async def test_it_cancels() -> None:
    """Before the confirmation; afterwards it is too late."""
    async with open_organisation(time.time, step_s=0.02) as org, client(org) as dfns:
        made = await call(dfns.payouts.create_payout, payout_body())
        await until(dfns, made["id"], "AwaitingPayoutConfirmation")
        assert await call(dfns.payouts.create_payout_action, made["id"], {"action": "Cancel"}) == {}
        payout = await call(dfns.payouts.get_payout, made["id"])
        assert (payout["status"], payout["data"]["executionStatus"]) == ("Canceled", "Canceled")
        with pytest.raises(DfnsError) as refused:
            await call(dfns.payouts.create_payout_action, made["id"], {"action": "Cancel"})
        assert refused.value.status_code == 409


@pytest.mark.parametrize(
    ("wallet", "body"),
    [
        (EVM_WALLET, transfer_body()),
        (EVM_WALLET, {"kind": "Native", "to": PAYEE, "amount": "43"}),
        (
            SOLANA_WALLET,
            {"kind": "Spl", "to": SOLANA_PAYEE, "amount": "43000000", "mint": USDC_MINT},
        ),
    ],
)
async def test_it_transfers(wallet: str, body: dict[str, Any]) -> None:
    """A wallet transfer is made once per external id, read and listed."""
    async with open_organisation(time.time, step_s=0.02) as org, client(org) as dfns:
        body = {**body, "externalId": "case-2"}
        made = await call(dfns.wallets.transfer_asset, wallet, body)
        again = await call(dfns.wallets.transfer_asset, wallet, body)
        assert again["id"] == made["id"]
        end = time.monotonic() + 10
        while (seen := await call(dfns.wallets.get_transfer, wallet, made["id"]))[
            "status"
        ] != "Confirmed":
            assert time.monotonic() < end, seen
            await asyncio.sleep(0.02)
        assert seen["txHash"]
        assert [each["reference"] for each in await org.ledger()] == [made["id"]]
        listed = await call(dfns.wallets.list_transfers, wallet)
        assert [each["id"] for each in listed["items"]] == [made["id"]]
        with pytest.raises(DfnsError) as refused:
            await call(dfns.wallets.transfer_asset, wallet, {**body, "amount": "44"})
        assert refused.value.status_code == 409


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ],
    ids=["ed25519", "p256", "secp256k1", "rsa"],
)
async def test_every_kind_of_key_signs(key: Any) -> None:
    """A key registered with its public half makes user actions."""
    async with open_organisation(time.time) as org:
        told = await org.steer("POST", "credentials", {"public_key": public_pem(key)})
        change = {"private_key": private_pem(key), "credential_id": told["credential_id"]}
        async with client(org, **change) as dfns:
            made = await call(dfns.wallets.transfer_asset, EVM_WALLET, transfer_body())
        assert made["status"] == "Executing"


async def test_strangers_are_refused() -> None:
    """A wrong token, and a key that is not registered."""
    async with open_organisation(time.time) as org:
        async with client(org, auth_token="sa-stranger") as dfns:
            with pytest.raises(DfnsError) as refused:
                await call(dfns.payouts.list_payouts)
        assert refused.value.status_code == 401
        other = private_pem(ed25519.Ed25519PrivateKey.generate())
        async with client(org, private_key=other) as dfns:
            with pytest.raises(DfnsError) as refused:
                await call(dfns.payouts.create_payout, payout_body())
        assert refused.value.status_code == 401


async def until(dfns: Any, payout_id: str, execution: str) -> dict[str, Any]:
    """Read a payout until it has an execution status."""
    end = time.monotonic() + 10
    while True:
        payout: dict[str, Any] = await call(dfns.payouts.get_payout, payout_id)
        if payout["data"]["executionStatus"] == execution:
            return payout
        assert time.monotonic() < end, payout
        await asyncio.sleep(0.02)
