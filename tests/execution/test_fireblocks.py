"""Fireblocks below the real engine: sets that wait for their account, and a clock that is set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jwt
import pytest

from adapters.fireblocks.adapter import Fireblocks
from adapters.fireblocks.settings import FireblocksSettings
from gateway.adapter import Capabilities
from gateway.execution.proof import Kind
from gateway.model import Account
from tests.adapters.fireblocks.rig import ASSETS
from tests.adapters.fireblocks.workspace import EXTERNAL_WALLET, Workspace, open_workspace
from tests.execution.conftest import Bench
from tests.execution.rails import Rail, settings_of, tools_of


@pytest.fixture
def capabilities() -> Capabilities:
    """As the adapter declares."""
    return Fireblocks.capabilities


@pytest.fixture
async def space(bench: Bench) -> AsyncIterator[Workspace]:
    """A twin by the bench's clock."""
    async with open_workspace(lambda: bench.clock.now().timestamp()) as opened:
        yield opened


@pytest.fixture
async def rail(bench: Bench, space: Workspace) -> AsyncIterator[Rail]:
    """The rail."""
    async with aiohttp.ClientSession() as http:
        settings = settings_of(
            FireblocksSettings,
            space.twin.credentials(space.root),
            base_url=space.root + "/v1",
            assets=ASSETS,
            timeout_s=5,
        )
        payee = {
            "type": "custodian_account",
            "account_type": "EXTERNAL_WALLET",
            "id": EXTERNAL_WALLET,
        }
        adapter = Fireblocks(settings, tools_of(bench, http))
        source = Account(id="EX_SUB3", type="EXCHANGE_ACCOUNT")
        yield Rail(bench, adapter, source, {"destination": payee, "asset": "USDC"})


# --- Credentials that a wrong clock has dated -----------------------------------------------------


async def test_a_token_dated_by_a_wrong_clock_is_not_used(rail: Rail) -> None:
    """It is signed while the clock is an hour ahead, and lives an hour too long at the custodian.

    The clock is set right before the mark. The call would be stored with 90 s.
    """
    clock = rail.bench.clock
    payout_id = await rail.accept("7")
    client: Any = rail.adapter._client  # type: ignore[attr-defined]
    prepare = client.prepare
    tokens: list[str] = []

    async def prepared(method: str, path: str, *args: Any, **more: Any) -> Any:
        wrong = path.endswith("/actions/execute") and not tokens
        clock.step(3600 if wrong else 0)
        call = await prepare(method, path, *args, **more)
        clock.step(-3600 if wrong else 0)
        if path.endswith("/actions/execute"):
            tokens.append(call.headers["Authorization"].removeprefix("Bearer "))
        return call

    client.prepare = prepared
    await rail.turn()
    assert not [each for each in await rail.rows() if each.kind is Kind.CALL]
    assert "clock_skew" in await rail.bench.attention(payout_id)
    await rail.turns(3, 40)
    (call,) = [each for each in await rail.rows() if each.kind is Kind.CALL]
    expires = jwt.decode(tokens[-1], options={"verify_signature": False})["exp"]
    assert call.call_life is not None
    assert expires * 1_000_000 <= call.at.wall + call.call_life
