"""What most benchmarks run on: the dummy custodian's twin, a receiver, and gateways, each its own process.

One stack may serve one gateway after the other, each on its own database: its port and its custodian
stay the same, so that a copy of a database has open payouts at the same account.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import secrets
import socket
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from harness import Child, Http, Load, child, closed_loop

from gateway.config import load
from gateway.keys import mint_key
from gateway.runtime import real_runtime
from gateway.store import migrate
from gateway.store.opening import open_database

ORG = "acme"
ADDRESS = "0x52908400098527886E0F7030069857D2E4169EE7"
_READY_S = 60.0
#: Far above whatever is measured: the limits per key are not what is measured.
_NO_LIMIT = 1_000_000
QUOTE = {
    "external_ref": "user-1",
    "asset": "USDC",
    "amount": "1.25",
    "reference": "invoice 2024-17",
    "destination": {"type": "address", "network": "EthereumSepolia", "address": ADDRESS},
}
_QUOTE_BODY = json.dumps(QUOTE).encode()


def free_port() -> int:
    """Return a port that is free now, below those that the system hands out by itself."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", secrets.choice(range(20_000, 30_000))))
            return int(probe.getsockname()[1])


def wait_ready(process: Child, port: int, path: str = "/readyz") -> None:
    """Wait until a server answers 200. SystemExit with the end of its log where it does not."""
    end = time.monotonic() + _READY_S
    while time.monotonic() < end and not process.ended:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            with closing(connection):
                connection.request("GET", path)
                if connection.getresponse().status == 200:  # noqa: PLR2004 - ready
                    return
        time.sleep(0.005)
    raise SystemExit(f"the server is not ready:\n{process.log_tail()}")


@dataclass(frozen=True)
class Gateway:
    """A running gateway."""

    process: Child
    database: Path
    port: int
    key: str

    def http(self) -> Http:
        """Return a client of its API."""
        return Http(self.port, self.key)

    def counts(self) -> tuple[int, int]:
        """Return how many statements and commits its store has run so far."""
        told = self.process.ask("count")
        return told["statements"], told["commits"]

    def unsettled(self) -> int:
        """Return how many payouts and deliveries it still works on."""
        address = f"file:{self.database}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=30)) as db:
            (left,) = db.execute(
                "SELECT (SELECT count(*) FROM execution_items WHERE open = 1) "
                "+ (SELECT count(*) FROM deliveries WHERE state = 'pending')"
            ).fetchone()
        return int(left)


@dataclass
class Stack:
    """The twin, the receiver, and what gateways need to know of them."""

    folder: Path
    twin: Child
    receiver: Child
    receiver_url: str
    port: int
    config: dict[str, Any]
    key: str = ""

    def prepare(self, database: Path, endpoints: int = 2) -> None:
        """Make a database with a live key and webhook endpoints at the receiver."""
        path = self._write(database)
        settings = load(path, {})
        migrate.prepare(database)

        async def mint() -> str:
            runtime = real_runtime()
            async with open_database(settings, runtime) as db:
                return (await db.run(mint_key, runtime, ORG, "live")).key

        self.key = asyncio.run(mint())
        if not endpoints:
            return

        async def subscribe(gateway: Gateway) -> None:
            http = gateway.http()
            for number in range(endpoints):
                url = f"{self.receiver_url}/ok/{number}"
                body = {"url": url, "rate_limit_per_second": 5000}
                await http.json("POST", "/webhook-endpoints", body)
            http.close()

        with self.gateway(database) as gateway:
            asyncio.run(subscribe(gateway))

    @contextmanager
    def gateway(self, database: Path, profile: Path | None = None) -> Iterator[Gateway]:
        """Run a gateway on a database; end it whatever happens."""
        path, log = self._write(database), database.with_suffix(".log")
        first = ("--profile", str(profile)) if profile else ()
        with child(log, "serve.py", *first, "--config", str(path)) as process:
            wait_ready(process, self.port)
            yield Gateway(process, database, self.port, self.key)

    def received(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Return what the receiver got: time (monotonic ns) and count, by webhook-id and path."""
        return {(event, path): (at, n) for event, path, at, n in self.receiver.ask("tell")}

    def _write(self, database: Path) -> Path:
        path = database.with_suffix(".toml")
        path.write_text(tomli_w.dumps({**self.config, "database": str(database)}))
        return path


@contextmanager
def running_stack(step_s: float = 0.05) -> Iterator[Stack]:
    """Start twin and receiver in a folder of their own; end them whatever happens.

    `step_s`: how long a transfer is in each of its two states before the last one.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-")))
        port = free_port()
        twin = stack.enter_context(
            child(
                folder / "twin.log",
                "adapters.dummy.twin.app",
                *("--port", "0", "--step-s", str(step_s)),
                *("--webhook-url", f"http://127.0.0.1:{port}/custodians/dummy/webhooks"),
            )
        )
        receiver = stack.enter_context(child(folder / "receiver.log", "webhook_receiver.py"))
        told = json.loads(twin.line())
        config = _config(port, told)
        url = f"http://127.0.0.1:{int(receiver.line())}"
        yield Stack(folder, twin, receiver, url, port, config)


def _config(port: int, twin: dict[str, Any]) -> dict[str, Any]:
    kinds = ("reads", "quotes", "writes", "confirms")
    rates = {f"{kind}_per_s": _NO_LIMIT for kind in kinds}
    bursts = {f"{kind}_burst": _NO_LIMIT for kind in kinds}
    return {
        "server_key": base64.b64encode(secrets.token_bytes(32)).decode(),
        "listen": {"port": port, "max_connections_per_address": 1000},
        "limits": {**rates, **bursts},
        # Receivers are on loopback here.
        "webhooks": {"allow_private_addresses": True},
        "custodians": {
            "dummy": {"adapter": "dummy", "base_url": twin["url"], **twin["credentials"]}
        },
        "routes": [
            {
                "destination": "address",
                "custodian": "dummy",
                "account": {"id": "MAIN", "type": "ACCOUNT"},
                "assets": ["USDC"],
            }
        ],
    }


async def make_quotes(http: Http, count: int, callers: int = 32) -> list[str]:
    """Return the ids of new quotes."""
    found: list[str] = []

    async def one(_: int) -> None:
        found.append(await quote(http))

    await closed_loop(callers, count, one)
    return found


async def quote(http: Http) -> str:
    """Return the id of a new quote."""
    return str(json.loads(await quote_body(http))["quote_id"])


async def quote_body(http: Http) -> bytes:
    """Return a new quote as it was answered. The key is fresh each time: each quote is wanted once."""
    fields = f"Idempotency-Key: {secrets.token_hex(8)}\r\n"
    return await http.call("POST", "/payouts/quote", _QUOTE_BODY, fields)


async def accept(http: Http, quote_id: str) -> bytes:
    """Accept a quote; return the payout as it was answered."""
    return await http.call("POST", "/payouts", b'{"quote_id":"%s"}' % quote_id.encode())


async def pay(http: Http, count: int, callers: int = 32) -> Load:
    """Quote and accept payouts, as fast as some callers can."""

    async def one(_: int) -> None:
        await accept(http, await quote(http))

    return await closed_loop(callers, count, one)
