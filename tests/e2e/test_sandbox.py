"""The sandbox as scripts use it: one line, a configuration that works as it is, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.config.settings import load
from gateway.sandbox import reserved_port
from tests.e2e.processes import all_gone, descendants, started

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]
Start = Callable[..., Awaitable[asyncio.subprocess.Process]]
_ROOT = Path(__file__).parents[2]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start commands that end with the test."""
    async with AsyncExitStack() as stack:

        async def run(*arguments: str, cwd: Path = _ROOT) -> asyncio.subprocess.Process:
            return await stack.enter_async_context(started(*arguments, cwd=cwd))

        yield run


async def line_of(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """Return the one line of a sandbox."""
    assert process.stdout is not None
    told: dict[str, Any] = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
    return told


async def test_it_tells_one_line_and_ends_on_sigterm(tmp_path: Path, start: Start) -> None:
    """Exactly the promised members once the twins answer; secrets are for the owner only; exit 0."""
    config = tmp_path / "g.toml"
    process = await start("sandbox", "--json", "--config-out", str(config))
    told = await line_of(process)
    assert set(told) == {"twins"}
    assert "dummy" not in told["twins"]
    for twin in told["twins"].values():
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
    by_custodian = {route.custodian: route for route in settings.routes}
    assert by_custodian["fireblocks"].account.id == "EX_SUB3"
    paid = {(each.custodian, each.destination) for each in settings.routes}
    assert {("dfns", "address"), ("dfns", "bank_account")} <= paid
    assert by_custodian["card_passcode"].destination == "payout_account"
    assert by_custodian["card_passcode"].account.id == "3"
    assert settings.accounts["fireblocks"][0].id == "7"
    twins = descendants(process.pid)
    assert len(twins) == len(told["twins"])
    process.terminate()
    rest, errors = await asyncio.wait_for(process.communicate(), 15)
    assert (process.returncode, rest, errors) == (0, b"", b"")
    assert await all_gone(twins) == set()


async def test_its_configuration_serves_as_it_is(tmp_path: Path, start: Start) -> None:
    """Also with the dummy, and again after a restart: what the database has sealed stays readable."""
    config = tmp_path / "g.toml"
    sandbox = await start("sandbox", "--json", "--with-dummy", "--config-out", str(config))
    assert {"card_passcode", "dfns", "dummy", "fireblocks"} == set(
        (await line_of(sandbox))["twins"]
    )
    key = (tmp_path / "g.server-key").read_text()
    gateway = await start("serve", "--config", str(config))
    url = load(config, {}).public_url
    async with asyncio.timeout(20), aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.get(url + "/readyz") as answer:
                    assert answer.status == 200
                    break
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.05)
    gateway.terminate()
    sandbox.terminate()
    await asyncio.gather(gateway.communicate(), sandbox.communicate())
    assert (gateway.returncode, sandbox.returncode) == (0, 0)
    await line_of(await start("sandbox", "--json", "--config-out", str(config)))
    assert (tmp_path / "g.server-key").read_text() == key


def test_the_gateways_port_is_kept_for_it() -> None:
    """Another sandbox does not get it; the gateway does, again and again."""
    with reserved_port() as port:
        assert 20_000 <= port < 30_000
        for _ in range(2):
            with socket.socket() as another, pytest.raises(OSError, match="in use"):
                another.bind(("127.0.0.1", port))
            with (
                socket.create_server(("127.0.0.1", port)) as gateway,
                socket.create_connection(("127.0.0.1", port)),
            ):
                gateway.accept()[0].close()


async def test_a_twin_that_dies_ends_it(start: Start) -> None:
    """It says so, ends the others, exit 1."""
    process = await start("sandbox", "--json", "--with-dummy")
    await line_of(process)
    twins = descendants(process.pid)
    dummy = next(
        pid for pid in twins if b"adapters.dummy" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    os.kill(dummy, signal.SIGKILL)
    _, errors = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 1
    assert re.fullmatch(
        r"sandbox: the twin of (card_passcode|dummy|fireblocks) ended by itself; the others are stopped\n",
        errors.decode(),
    )
    assert await all_gone(twins) == set()


async def test_a_signal_while_the_twins_start(start: Start) -> None:
    """It does not wait for them; none is left, and nothing was announced."""
    process = await start("sandbox", "--json")
    async with asyncio.timeout(20):
        while not (twins := descendants(process.pid)):
            await asyncio.sleep(0.001)
    process.terminate()
    out, errors = await asyncio.wait_for(process.communicate(), 15)
    assert (process.returncode, errors) == (0, b"")
    assert out == b"" or set(json.loads(out)) == {"twins"}  # a quick twin may have answered
    assert await all_gone(twins) == set()


async def test_what_a_twin_says_is_checked(tmp_path: Path, start: Start) -> None:
    """A twin whose line lacks a member is named, and none of its words is repeated."""
    twin = tmp_path / "adapters" / "fireblocks" / "twin" / "app.py"
    twin.parent.mkdir(parents=True)
    for folder in list(twin.parents)[:3]:
        (folder / "__init__.py").touch()
    twin.write_text(
        'print(\'{"url": "http://127.0.0.1:1", "credentials": {"api_key": "s3cr3t"}}\')\n'
    )
    process = await start("sandbox", "--json", "--only", "fireblocks", cwd=tmp_path)
    out, errors = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, out) == (1, b"")
    assert b"the twin of fireblocks (adapters.fireblocks.twin.app:main) did not start" in errors
    assert b"s3cr3t" not in errors


async def test_a_configuration_that_cannot_be_written(tmp_path: Path, start: Start) -> None:
    """Said in words, exit 2, no twin left."""
    process = await start("sandbox", "--json", "--config-out", str(tmp_path))
    out, errors = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, out) == (2, b"")
    assert errors.decode() == f"sandbox: {tmp_path}: Is a directory\n"
