"""Every call says who calls: `payout-gateway/<version>`, at every custodian."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import gateway
from tests.e2e.stack import DUMMY, FIREBLOCKS, OFF_RAMP, PASSCODE, Rail, stack

pytestmark = pytest.mark.timeout(90)


#: A code is sent for this account, so that calls are made before the payout asks for it.
CODE = replace(PASSCODE, destination={"type": "payout_account", "payout_account_id": "19"})


@pytest.mark.parametrize("rail", [DUMMY, FIREBLOCKS, OFF_RAMP, CODE], ids=lambda rail: rail.name)
async def test_every_call_names_the_gateway_and_its_version(tmp_path: Path, rail: Rail) -> None:
    """Tokens, signatures, looks, moving calls: whatever the adapter sends."""
    async with stack(tmp_path, rail=rail) as made:
        await made.start_gateway("--quick")
        await made.reaches(await made.pay(), "delivered", "requires_action")
        calls = (await made.steer("GET", "calls"))["calls"]
        assert calls
        assert {each["user_agent"] for each in calls} == {f"payout-gateway/{gateway.__version__}"}
