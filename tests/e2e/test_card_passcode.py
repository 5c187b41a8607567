"""A payout to a payout account, from quote to delivered, with the processes that people run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.stack import Stack, running_stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]


async def _final(stack: Stack, payout_id: str) -> dict[str, Any]:
    async with asyncio.timeout(40):
        while True:
            payout: dict[str, Any] = await stack.call("GET", f"/payouts/{payout_id}")
            if payout["status"] in {"delivered", "failed"}:
                return payout
            await asyncio.sleep(0.1)


async def test_payouts_by_standing_passcode(tmp_path: Path) -> None:
    """One is delivered, one fails for lack of wallet balance; money moves once, and is told exactly."""
    async with running_stack(tmp_path) as stack:
        ended = {}
        for amount in ("75.00", "4000.04"):
            quote = await stack.call(
                "POST",
                "/payouts/quote",
                {
                    "external_ref": "shop-1",
                    "destination": {"type": "payout_account", "payout_account_id": "18"},
                    "asset": "USD",
                    "amount": amount,
                },
                **{"Idempotency-Key": f"quote-{amount}"},
            )
            assert quote["route"]["custodian"] == "card_passcode"
            made = await stack.call("POST", "/payouts", {"quote_id": quote["quote_id"]})
            ended[amount] = await _final(stack, made["id"])
        delivered, failed = ended.values()
        assert delivered["status"] == "delivered"
        steps = [each["status"] for each in delivered["timeline"]]
        assert steps == sorted(steps, key=["pending", "broadcast", "delivered"].index)
        assert delivered["fees_paid_usd"] == "0.9"
        assert (delivered["final_recipient_amount"], failed["final_recipient_amount"]) == (
            "75",
            None,
        )
        assert delivered["transactions"][0]["id"].startswith("MP")
        assert failed["failure"] == {
            "code": "insufficient_funds",
            "message": "The provider's wallet did not cover the payout.",
            "custodian_code": "FAILED",
            "funds_moved": "no",
        }
        (moved,) = await stack.transfers()
        assert moved["reference"] == delivered["custodian_reference"]
        assert (moved["destination"], moved["amount"], moved["asset"]) == ("18", "75", "USD")
        passcode = stack.twins["card_passcode"]["credentials"]["passcode"].encode()
        config = stack.config
        for path in tmp_path.iterdir():
            assert path == config or passcode not in path.read_bytes(), path
