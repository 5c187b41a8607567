"""A whole gateway against clients without a key: half-open connections, forged addresses, metrics."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import tomli_w

from tests.e2e.stack import free_port

FILES = 1024
CONNECTIONS = 1200
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a custodian that is not there."""
    path = tmp_path / "g.toml"
    document = {
        "database": "g.db",
        "server_key": KEY,
        # All clients of a test have one address.
        "listen": {"port": free_port(), "max_connections_per_address": 100_000},
        "metrics": {"port": free_port()},
        "custodians": {
            "acme": {
                "adapter": "dummy",
                "base_url": "http://127.0.0.1:1/v1",
                "api_key": "k",
                "webhook_secret": "s",
            }
        },
    }
    path.write_text(tomli_w.dumps(document))
    return path


@asynccontextmanager
async def serving(config: Path, files: int = FILES) -> AsyncIterator[tuple[str, str]]:
    """Run `payout-gateway serve` with a limit of open files; return the addresses of both listeners."""
    command = f'ulimit -n {files} && exec "$0" -m gateway serve --config "$1"'
    with (config.parent / "gateway.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", command, sys.executable, str(config), stdout=log, stderr=log
        )
    text = config.read_text()
    ports = [int(line.split("=")[1]) for line in text.splitlines() if line.startswith("port")]
    public, inner = (f"http://127.0.0.1:{port}" for port in ports)
    try:
        async with aiohttp.ClientSession() as http, asyncio.timeout(30):
            while not await _answers(http, public):
                assert process.returncode is None, (config.parent / "gateway.log").read_text()
                await asyncio.sleep(0.05)
        yield public, inner
    finally:
        process.terminate()
        await process.wait()


async def _answers(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url + "/healthz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def get(url: str, **headers: str) -> tuple[int, str]:
    """Send a request on a connection of its own."""
    async with (
        aiohttp.ClientSession() as http,
        asyncio.timeout(10),
        http.get(url, headers={k.replace("_", "-"): v for k, v in headers.items()}) as answer,
    ):
        return answer.status, await answer.text()


@pytest.mark.e2e
async def test_half_open_connections_take_nobodys_place(config: Path) -> None:
    """1,200 of them with 1,024 open files: every question in between, and after it, is answered."""
    async with serving(config) as (public, inner):
        port = int(public.rpartition(":")[2])
        writers = []
        try:
            for number in range(CONNECTIONS):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")
                writers.append(writer)
                if number % 100 == 99:
                    assert (await get(public + "/healthz"))[0] == 200
            for _ in range(20):
                assert (await get(public + "/healthz"))[0] == 200
                assert (await get(inner + "/healthz"))[0] == 200
            # All at once, so that the listener finds more of them than it may have files.
            many = [asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
            writers += [writer for _, writer in await asyncio.gather(*many)]
            for _ in range(20):
                assert (await get(public + "/healthz"))[0] == 200
            _, text = await get(inner + "/metrics")
        finally:
            for writer in writers:
                writer.transport.abort()
    log = (config.parent / "gateway.log").read_text()
    assert "Too many open files" not in log
    (replaced,) = re.findall(r'connections_closed_total{reason="replaced"} ([0-9.]+)', text)
    assert float(replaced) >= 2 * CONNECTIONS - FILES


@pytest.mark.e2e
@pytest.mark.parametrize("path", ["/payouts", "/custodians/acme/webhooks"])
async def test_bodies_without_a_key_take_nobodys_place(config: Path, path: str) -> None:
    """Five addresses drip 1,000 bodies; probes and a client with a key are answered all the time."""
    document = tomllib.loads(config.read_text())
    del document["listen"]["max_connections_per_address"]
    document["limits"] = {"unknown_per_s": 1, "unknown_burst": 10}
    config.write_text(tomli_w.dumps(document))
    async with serving(config) as (public, inner):
        key = await _key(config)
        port = int(public.rpartition(":")[2])
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{{"
        writers = []
        try:
            for number in range(1000):
                local = (f"127.0.1.{number % 5 + 1}", 0)
                _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=local)
                writer.write(head.encode())
                writers.append(writer)
            for _ in range(20):
                for writer in writers:
                    if not writer.transport.is_closing():
                        writer.write(b"a")
                assert (await get(public + "/healthz"))[0] == 200
                status, _ = await get(public + "/payouts", authorization=f"Bearer {key}")
                assert status == 200
            _, text = await get(inner + "/metrics")
        finally:
            for writer in writers:
                writer.transport.abort()
    assert 'connections_closed_total{reason="too_many"}' not in text


async def _key(config: Path) -> str:
    """Mint a key of an org."""
    words = ["keys", "create", "--org", "o", "--mode", "live", "--json", "--config"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", *words, str(config), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return str(json.loads(out)["key"])


@pytest.mark.e2e
@pytest.mark.parametrize("trusted", [False, True])
async def test_an_address_is_believed_only_from_a_proxy(config: Path, *, trusted: bool) -> None:
    """Wrong keys under forged addresses are one client's, until its address is that of a proxy."""
    document = tomllib.loads(config.read_text())
    document["limits"] = {"unknown_per_s": 0.01, "unknown_burst": 3}
    if trusted:
        document["listen"]["trusted_proxies"] = ["192.0.2.0/24", "127.0.0.1"]
    config.write_text(tomli_w.dumps(document))
    async with serving(config) as (public, _):
        key = "Bearer sk_live_" + "A" * 43
        seen = []
        for number in range(8):
            # What the client wrote itself stands before what the proxies have added.
            forwarded = f"198.51.100.{number}, 203.0.113.{number}, 192.0.2.1"
            status, _ = await get(public + "/payouts", authorization=key, x_forwarded_for=forwarded)
            seen.append(status)
        assert seen == [401] * 8 if trusted else [401] * 3 + [429] * 5
        for _ in range(5):
            forwarded = "203.0.113.77"
            status, _ = await get(public + "/payouts", authorization=key, x_forwarded_for=forwarded)
        assert status == 429


@pytest.mark.e2e
async def test_metrics_are_on_a_listener_of_their_own(config: Path) -> None:
    """Not on the public one, which is where everybody asks; probes are on both."""
    async with serving(config) as (public, inner):
        status, text = await get(public + "/metrics")
        assert (status, json.loads(text)["code"]) == (404, "not_found")
        status, text = await get(inner + "/metrics")
        assert status == 200
        assert "payout_gateway_http_requests_total" in text
        assert (await get(inner + "/readyz"))[0] == (await get(public + "/readyz"))[0]
        assert (await get(inner + "/payouts"))[0] == 404


@pytest.mark.e2e
async def test_without_a_custodian_it_lives_and_is_not_ready(config: Path) -> None:
    """Nothing can be paid; a restart would not help."""
    document = tomllib.loads(config.read_text())
    del document["custodians"]
    config.write_text(tomli_w.dumps(document))
    async with serving(config) as (public, _):
        assert (await get(public + "/healthz"))[0] == 200
        status, text = await get(public + "/readyz")
        assert (status, json.loads(text)["status"]) == (503, "no_custodian")
