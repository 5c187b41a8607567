"""Solana at Dfns: the provider's deposit addresses, token accounts of recipients, memos."""

from __future__ import annotations

from typing import Any

import base58
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adapters.dfns.twin.world import EVM_WALLET, SOLANA_WALLET
from gateway.adapter import (
    Account,
    AddressDestination,
    FailureCode,
    Rejected,
    SubStatus,
    address_fault,
)
from tests.adapters.dfns.organisation import (
    PAYEE,
    SOLANA_PAYEE,
    USDC,
    USDC_MINT,
    open_organisation,
    transfer_body,
)
from tests.adapters.dfns.rig import (
    bank_order,
    confirmed,
    look,
    pair,
    solana_order,
    transfer_order,
)

PARTIES = {"kind": "Notabene", "originator": {"name": "A"}, "beneficiary": {"name": "B"}}
SPL = {"kind": "Spl", "mint": USDC_MINT, "to": SOLANA_PAYEE, "amount": "1"}
SOL = {"kind": "Native", "to": SOLANA_PAYEE, "amount": "1"}


@pytest.mark.parametrize("deposits", ["on_curve", "off_curve"])
async def test_an_off_ramp_is_confirmed_to_whatever_address_the_provider_made(
    deposits: str,
) -> None:
    """The provider's address may be a key's or a program's: the vendor's pattern says neither."""
    async with pair(solana_deposits=deposits) as (adapter, org):
        for number in range(16):
            source = Account(id=SOLANA_WALLET, type="WALLET")
            order = bank_order("43", network="SolanaDevnet", source=source, attempt=number + 1)
            order = await confirmed(adapter, org, order)
            address = str(order.notes["deposit_address"])
            assert (address_fault("SolanaDevnet", address) is None) == (deposits == "on_curve")
            await org.steps(6)
            assert (await look(adapter, order)).sub_status is SubStatus.DELIVERED
        assert len(await org.ledger()) == 16


def stranger(memo: str | None = None) -> AddressDestination:
    """Return a recipient without a token account."""
    key = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    address = base58.b58encode(key).decode()
    return AddressDestination(network="SolanaDevnet", address=address, memo=memo)


async def test_a_recipient_without_a_token_account_is_refused_unless_we_pay_for_it() -> None:
    """Nothing moves without the setting; with it, the vendor's member is sent."""
    payee = stranger()
    async with pair() as (adapter, org):
        with pytest.raises(Rejected, match="createDestinationAccount") as refused:
            await adapter.submit(solana_order(destination=payee))
        assert refused.value.code == FailureCode.DESTINATION_REJECTED
        assert await org.ledger() == []
    async with pair({"create_destination_account": True}) as (adapter, org):
        order = solana_order(destination=payee)
        await adapter.submit(order)
        order = order.again()
        await org.steps(3)
        report = await look(adapter, order)
        assert report.sub_status is SubStatus.DELIVERED
        assert report.echo is not None
        assert report.echo.differences() == ()
        (entry,) = await org.ledger()
        assert entry["destination"] == payee.address
        transfer = org.twin.transfers.transfers[str(order.notes["transfer_id"])]
        assert transfer.request["createDestinationAccount"] is True


@pytest.mark.parametrize("order", [transfer_order("1"), solana_order("1", asset="SOL", decimals=9)])
async def test_only_tokens_on_solana_need_the_account(order: Any) -> None:
    """The member is no part of other bodies, whatever the setting."""
    async with pair({"create_destination_account": True}) as (adapter, org):
        await adapter.submit(order)
        (transfer,) = org.twin.transfers.transfers.values()
        assert "createDestinationAccount" not in transfer.request


async def test_a_token_on_solana_carries_a_memo() -> None:
    """It is sent and compared: another memo may be another customer of the same exchange."""
    payee = AddressDestination(network="SolanaDevnet", address=SOLANA_PAYEE, memo="order 7")
    async with pair() as (adapter, org):
        order = solana_order(destination=payee)
        assert adapter.check(order) is None
        report = await adapter.submit(order)
        (transfer,) = org.twin.transfers.transfers.values()
        assert transfer.request["memo"] == "order 7"
        assert report.echo is not None
        assert report.echo.differences() == ()
        transfer.request["memo"] = "order 8"
        transfer.history.add(org.twin.clock.now(), transfer.document())
        report = await look(adapter, order.again())
        assert report.echo is not None
        assert "order 8" in report.echo.differences()[0]


async def test_a_coin_of_solana_carries_none() -> None:
    """It is said at the quote, before Dfns would refuse it."""
    payee = AddressDestination(network="SolanaDevnet", address=SOLANA_PAYEE, memo="order 7")
    async with pair() as (adapter, _):
        fault = adapter.check(solana_order(destination=payee, asset="SOL", decimals=9))
        assert fault is not None
        assert "memo" in fault


@pytest.mark.parametrize(
    ("wallet", "body", "status"),
    [
        (EVM_WALLET, transfer_body(travelRule=PARTIES, priority="Fast", gasLimit="21000"), 200),
        (SOLANA_WALLET, {**SPL, "travelRule": PARTIES, "memo": "7"}, 200),
        (SOLANA_WALLET, {**SPL, "useDurableNonce": True, "createDestinationAccount": True}, 200),
        (SOLANA_WALLET, {**SPL, "createDestinationAccount": False}, 200),
        (SOLANA_WALLET, {**SOL, "useDurableNonce": True, "travelRule": PARTIES}, 200),
        (SOLANA_WALLET, {**SOL, "createDestinationAccount": True}, 200),
        (SOLANA_WALLET, {**SOL, "memo": "7"}, 400),
        (EVM_WALLET, transfer_body(memo="7"), 400),
        (EVM_WALLET, transfer_body(createDestinationAccount=True), 400),
        (EVM_WALLET, {"kind": "Native", "to": PAYEE, "amount": "1", "useDurableNonce": True}, 400),
        (EVM_WALLET, transfer_body(travelRule={"kind": "Notabene"}), 400),
        (EVM_WALLET, {**transfer_body(), "contract": USDC, "note": "x"}, 400),
    ],
)
async def test_the_twin_takes_the_members_of_the_official_bodies(
    wallet: str, body: dict[str, Any], status: int
) -> None:
    """And refuses those of another kind or network."""
    async with open_organisation() as org:
        made = await org.act(f"/wallets/{wallet}/transfers", body)
        assert made.status == status, made
