"""`payout-gateway custodians balances`, as an operator runs it, against real twins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import ERC20, FIREBLOCKS, PASSCODE, Rail, stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]


@pytest.mark.parametrize("rail", [FIREBLOCKS, ERC20], ids=lambda rail: rail.name)
async def test_balances_of_every_configured_account(tmp_path: Path, rail: Rail) -> None:
    """As a table, and as JSON; without a running gateway, and without a change in the database."""
    async with stack(tmp_path, rail=rail) as made:
        told = json.loads(await made.run("custodians", "balances", rail.name, "--json"))
        assert told["faults"] == []
        usdc: list[dict[str, Any]] = [each for each in told["data"] if each["asset"] == "USDC"]
        assert {each["available"] for each in usdc} == {"1000000"}
        assert all(each["as_of"].endswith("Z") for each in usdc)
        table = await made.run("custodians", "balances", rail.name)
        assert "1000000" in table
        unknown = await made.command("custodians", "balances", "x")
        assert unknown[0] == 2
        assert f"custodians: {rail.name}" in unknown[2]
        await made.steer(
            "POST", "faults", {"call": "balances", "fault": "error_before", "status": 503}
        )
        code, _, words = await made.command("custodians", "balances", rail.name)
        assert code == 1
        assert "503" in words


async def test_a_custodian_that_tells_no_balances(tmp_path: Path) -> None:
    """The card-passcode API documents no balance of the wallet: it is said so, and nothing is guessed."""
    async with stack(tmp_path, rail=PASSCODE) as made:
        code, out, words = await made.command("custodians", "balances", "card_passcode")
        assert (code, out.strip()) == (1, "")
        assert "balances are not supported by card_passcode" in words
