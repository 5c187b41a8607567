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
import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from harness import Child, Failed, Http, Load, child, closed_loop

from gateway.config.settings import load
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
    """Wait until a server answers 200. Failed with the end of its log where it does not."""
    end = time.monotonic() + _READY_S
    while time.monotonic() < end and not process.ended:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            with closing(connection):
                connection.request("GET", path)
                if connection.getresponse().status == 200:  # noqa: PLR2004 - ready
                    return
        time.sleep(0.005)
    raise Failed(f"the server is not ready:\n{process.log_tail()}")


@dataclass(frozen=True)
class Gateway:
    """A running gateway."""

    process: Child
    database: Path
    port: int
    key: str
    #: from the start of its process until it was ready
    start_s: float
    #: payouts that were open when it was started
    found_open: int

    def http(self) -> Http:
        """Return a client of its API."""
        return Http(self.port, self.key)

    def counts(self) -> tuple[int, int]:
        """Return how many statements and commits its store has run so far."""
        told = self.process.ask("count")
        return told["statements"], told["commits"]

    def unsettled(self) -> int:
        """Return how many payouts and deliveries it works on, but for the payouts that it found open."""
        open_ = count(self.database, "execution_items WHERE open = 1") - self.found_open
        return open_ + count(self.database, "deliveries WHERE state = 'pending'")

    def submitted(self) -> int:
        """Return how many payouts the custodian has and has not ended, and no webhook waits for."""
        if count(self.database, "deliveries WHERE state = 'pending'"):
            return 0
        return count(self.database, "payouts WHERE sub_status = 'submitted'")


def count(database: Path, what: str) -> int:
    """Return how many rows of a table there are."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as db:
        return int(db.execute(f"SELECT count(*) FROM {what}").fetchone()[0])


@dataclass
class Stack:
    """The twin, the receiver, and what gateways need to know of them."""

    folder: Path
    twin: Child
    receiver: Child
    receiver_url: str
    control_url: str
    port: int
    config: dict[str, Any]
    key: str = ""

    def prepare(self, database: Path) -> None:
        """Make a database with a live key."""
        settings = load(self._write(database), {})
        migrate.prepare(database)

        async def mint() -> str:
            runtime = real_runtime()
            async with open_database(settings, runtime) as db:
                return (await db.run(mint_key, runtime, ORG, "live")).key

        self.key = asyncio.run(mint())

    @contextmanager
    def gateway(self, database: Path, endpoints: int = 2) -> Iterator[Gateway]:
        """Run a gateway on a database, with so many endpoints; end it whatever happens.

        BENCH_PROFILE names a file that its profile is written to.
        """
        path, log = self._write(database), database.with_suffix(".log")
        profile = os.environ.get("BENCH_PROFILE")
        first = ("--profile", profile) if profile else ()
        found_open = count(database, "execution_items WHERE open = 1")
        begun = time.perf_counter()
        with child(log, "serve.py", *first, "--config", str(path)) as process:
            wait_ready(process, self.port)
            start_s = time.perf_counter() - begun
            gateway = Gateway(process, database, self.port, self.key, start_s, found_open)
            asyncio.run(self._subscribe(gateway, endpoints))
            yield gateway

    async def _subscribe(self, gateway: Gateway, wanted: int) -> None:
        http = gateway.http()
        known = len((await http.json("GET", "/webhook-endpoints"))["data"])
        for number in range(known, wanted):
            url = f"{self.receiver_url}/ok/{number}"
            await http.json(
                "POST", "/webhook-endpoints", {"url": url, "rate_limit_per_second": 5000}
            )
        http.close()

    def copy(self, database: Path, to: Path) -> None:
        """Copy a database that no gateway runs on, with its state file, and declare the copy the original."""
        for ending in ("", ".state"):
            shutil.copy(f"{database}{ending}", f"{to}{ending}")
        moved = (sys.executable, "-m", "gateway", "db", "moved", "--config", str(self._write(to)))
        subprocess.run(moved, check=True, capture_output=True)

    def received(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Return what the receiver got: time (monotonic ns) and count, by webhook-id and path."""
        return {(event, path): (at, n) for event, path, at, n in self.receiver.ask("tell")}

    def set_step(self, seconds: float) -> None:
        """Set how long a transfer is in each of its states from now on."""

        async def put() -> None:
            http = Http(int(self.control_url.rpartition(":")[2]))
            await http.json("PUT", "/_twin/settings", {"step_s": seconds})
            http.close()

        asyncio.run(put())

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
        yield Stack(folder, twin, receiver, url, told["control_url"], port, config)


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


async def make_quotes(http: Http, wanted: int, callers: int = 32) -> list[str]:
    """Return the ids of new quotes."""
    found: list[str] = []

    async def one(_: int) -> None:
        found.append(await quote(http))

    await closed_loop(callers, wanted, one)
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


async def pay(http: Http, wanted: int, callers: int = 32) -> Load:
    """Quote and accept payouts, as fast as some callers can."""

    async def one(_: int) -> None:
        await accept(http, await quote(http))

    return await closed_loop(callers, wanted, one)
