"""The demo and the sandbox as a newcomer runs them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from pathlib import Path

import aiohttp
import pytest

from gateway.config import load

pytestmark = pytest.mark.timeout(90)


async def test_the_demo_delivers() -> None:
    """Exit 0, every payout delivered and every webhook verified, within its own limit."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        "demo",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 80)
    text = out.decode()
    assert process.returncode == 0, text
    assert text.count("signature verified") == 6
    assert "paid once, and told by verified webhooks" in text


async def test_the_sandbox_tells_and_ends(tmp_path: Path) -> None:
    """One line of JSON once the twins answer, a complete configuration, no process left after SIGTERM."""
    config = tmp_path / "g.toml"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "sandbox", "--json", "--config-out", str(config)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    told = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
    assert set(told) == {"twins"}
    assert set(told["twins"]) == {"fireblocks"}
    twin = told["twins"]["fireblocks"]
    assert set(twin) == {"url", "control_url", "credentials"}
    async with (
        aiohttp.ClientSession() as http,
        http.get(twin["control_url"] + "/_twin/ledger") as answer,
    ):
        assert await answer.json() == {"transfers": []}
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    settings = load(config, {})
    assert settings.custodians["fireblocks"].modes == ("live", "test")
    assert settings.routes[0].account.id == "EX_SUB3"
    os.kill(process.pid, signal.SIGTERM)
    rest, _ = await asyncio.wait_for(process.communicate(), 15)
    assert (process.returncode, rest) == (0, b"")
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(twin["control_url"] + "/_twin/ledger")
