"""The custodian's own Python client against the twin, unchanged, without one warning of the SDK."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from tests.adapters.fireblocks import official as sdk
from tests.adapters.fireblocks.workspace import (
    EXTERNAL_WALLET,
    NETWORK_CONNECTION,
    Workspace,
    open_workspace,
)


def client(space: Workspace, **change: str) -> Any:
    """Return the official client, configured by address and credentials alone."""
    credentials = space.twin.credentials(space.root)
    return sdk.Fireblocks(
        sdk.ClientConfiguration(
            base_path=space.root + "/v1",
            api_key=change.get("api_key", credentials["api_key"]),
            secret_key=credentials["private_key"],
        )
    )


def request() -> Any:
    """Return the vendor guide's own case: two payees from one exchange account."""
    made = sdk.CreatePayoutRequest.from_dict(
        {
            "paymentAccount": {"id": "EX_SUB3", "type": "EXCHANGE_ACCOUNT"},
            "instructionSet": [
                {
                    "payeeAccount": {"id": EXTERNAL_WALLET, "type": "EXTERNAL_WALLET"},
                    "amount": {"amount": "43", "assetId": "USDC"},
                },
                {
                    "payeeAccount": {"id": NETWORK_CONNECTION, "type": "NETWORK_CONNECTION"},
                    "amount": {"amount": "4423", "assetId": "USDC"},
                },
            ],
        }
    )
    assert made is not None
    return made


async def call(work: Any, *arguments: Any, **members: Any) -> Any:
    """Run a blocking call of the client beside the twin's loop; return its data."""
    answer = await asyncio.to_thread(lambda: work(*arguments, **members).result())
    return answer.data


async def test_it_creates_executes_and_reads(caplog: pytest.LogCaptureFixture) -> None:
    """Every answer is of the client's own model, and nothing is logged as odd (warnings are errors)."""
    async with open_workspace(base_time=time.time) as space:
        with client(space) as official, caplog.at_level(logging.WARNING):
            payments = official.payments_payout
            made = await call(
                payments.create_payout, create_payout_request=request(), idempotency_key="k-1"
            )
            assert type(made) is sdk.PayoutResponse
            assert (made.state, made.status) == ("REQUESTED", "REGISTERED")
            done = await call(payments.execute_payout_action, made.payout_id, idempotency_key="k-2")
            assert done.payout_id == made.payout_id
            await space.steps(14)
            seen = await call(payments.get_payout, made.payout_id)
            assert type(seen) is sdk.PayoutResponse
            assert (seen.state, seen.status) == ("FINALIZED", "DONE")
            for instruction in seen.instruction_set:
                assert instruction.state == "COMPLETED"
                (transaction,) = instruction.transactions
                details = await call(official.transactions.get_transaction, transaction.id)
                assert type(details) is sdk.TransactionResponse
                assert details.tx_hash
                assert details.status == "COMPLETED"
        assert caplog.records == []
        assert sorted(each["amount"] for each in await space.ledger()) == ["43", "4423"]


async def test_a_repeat_is_replayed_and_a_second_execute_refused() -> None:
    """The same key gives the same payout; one is executed once."""
    async with open_workspace(base_time=time.time) as space:
        with client(space) as official:
            payments = official.payments_payout
            first, second = [
                await call(
                    payments.create_payout, create_payout_request=request(), idempotency_key="k-1"
                )
                for _ in range(2)
            ]
            assert first.payout_id == second.payout_id
            await call(payments.execute_payout_action, first.payout_id, idempotency_key="k-2")
            with pytest.raises(sdk.BadRequestException):
                await call(payments.execute_payout_action, first.payout_id, idempotency_key="k-3")
            with pytest.raises(sdk.NotFoundException):
                await call(payments.get_payout, "0c0f4a4e-0000-4000-8000-000000000001")


async def test_a_wrong_key_is_refused() -> None:
    """Another workspace's API key, or a signature by another key."""
    async with open_workspace(base_time=time.time) as space, open_workspace() as other:
        api_key = other.twin.credentials(other.root)["api_key"]
        with client(space, api_key=api_key) as official, pytest.raises(sdk.UnauthorizedException):
            await call(official.payments_payout.get_payout, "p")
