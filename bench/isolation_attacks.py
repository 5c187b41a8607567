"""One attacker, as a process of its own: what `bench/isolation.py` measures the victim beside.

Reads one JSON object from its first argument: `attack`, `host`, `port`, `key` (an API key of the
attacker's org) and `most` (how many endpoints, connections or bytes at most). Prints `ready` once the
attack is under way, goes on until SIGTERM, and then prints as one line of JSON what it did.

It runs only where nothing else wants a processor, so that what is measured is the gateway and not a fight
for the processor (an attacker has a machine of its own), and calls from 127.0.0.2, so that a limit per address meets it and not the victim. It
takes what it gets: every attack runs whether the gateway refuses it or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import uvloop

ADDRESS = "127.0.0.2"
#: So long an attack may prepare itself.
PREPARE_S = 25.0
_PAY_EVERY_S = 0.2
_CALL_S = 5.0
_DESTINATION = {
    "type": "address",
    "network": "EthereumSepolia",
    "address": "0x52908400098527886E0F7030069857D2E4169EE7",
}
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Attacker:
    """What the attacks share: calls of the API, receivers, raw connections, and what was counted."""

    def __init__(self, wanted: dict[str, Any], http: aiohttp.ClientSession) -> None:
        self.host, self.port = str(wanted["host"]), int(wanted["port"])
        self.most = int(wanted["most"])
        self.counts: Counter[str] = Counter()
        self._key = str(wanted["key"])
        self._http = http
        self._ready = False

    def ready(self) -> None:
        """Say that the attack is under way. May be called twice."""
        if not self._ready:
            self._ready = True
            print("ready", flush=True)  # noqa: T201 - the parent reads it

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        text: str | None = None,
    ) -> tuple[int, Any, float]:
        """Call the API with JSON or a CSV `text`; return status (0: no answer), JSON, `Retry-After` (s)."""
        headers = {
            "Authorization": f"Bearer {key or self._key}",
            "Idempotency-Key": secrets.token_hex(8),
        }
        url = f"http://{self.host}:{self.port}{path}"
        sent: dict[str, Any] = {"json": body}
        if text is not None:
            headers["Content-Type"] = "text/csv"
            sent = {"data": text.encode()}
        timeout = aiohttp.ClientTimeout(total=_CALL_S if text is None else PREPARE_S)
        try:
            async with self._http.request(
                method, url, headers=headers, timeout=timeout, **sent
            ) as answer:
                if answer.content_type == "text/csv":
                    told: Any = len(await answer.read())
                else:
                    told = await answer.json(content_type=None)
                wait_s = float(answer.headers.get("Retry-After", "1"))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            self.counts["no answer"] += 1
            return 0, None, 1.0
        self.counts[str(answer.status)] += 1
        return answer.status, told, wait_s

    async def quote(self) -> str | None:
        """Ask for a quote; return its id, or None where it was refused."""
        body = {"external_ref": "a", "asset": "USDC", "amount": "1", "destination": _DESTINATION}
        status, told, _ = await self.call("POST", "/payouts/quote", body)
        return str(told["quote_id"]) if status == 200 else None  # noqa: PLR2004 - OK

    async def pay(self) -> None:
        """Make payouts, a few a second, for ever: each brings events to every endpoint."""
        while True:
            quote_id = await self.quote()
            if quote_id is not None:
                await self.call("POST", "/payouts", {"quote_id": quote_id})
            await asyncio.sleep(_PAY_EVERY_S)

    async def subscribe(self, url_of: Callable[[int], str]) -> None:
        """Create as many endpoints as the gateway allows, `most` at most."""
        end = time.monotonic() + PREPARE_S
        made = 0
        while made < self.most and time.monotonic() < end:
            body = {"url": url_of(made), "rate_limit_per_second": 100}
            status, _, wait_s = await self.call("POST", "/webhook-endpoints", body)
            if status == 201:  # noqa: PLR2004 - created
                made += 1
            elif status == 429:  # noqa: PLR2004 - too many requests: later
                await asyncio.sleep(min(wait_s, 5.0))
            else:
                break
        self.counts["endpoints"] = made

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Open a connection to the gateway; None where that fails."""
        try:
            async with asyncio.timeout(_CALL_S):
                made = await asyncio.open_connection(self.host, self.port, local_addr=(ADDRESS, 0))
        except (OSError, TimeoutError):
            self.counts["not connected"] += 1
            return None
        self.counts["connections"] += 1
        return made

    async def keep(self, count: int, hold: Handler) -> None:
        """Keep so many connections in use, for ever: one that ends is opened again a second later."""

        async def one() -> None:
            while True:
                made = await self.connect()
                self.ready_after_all(count)
                if made is not None:
                    with contextlib.suppress(OSError, EOFError):
                        await hold(*made)
                    made[1].transport.abort()
                await asyncio.sleep(1)

        await asyncio.gather(*(one() for _ in range(count)))

    def ready_after_all(self, count: int) -> None:
        """Say that the attack is under way once every connection was tried."""
        if self.counts["connections"] + self.counts["not connected"] >= count:
            self.ready()


async def receiver(handler: Handler) -> str:
    """Serve a receiver of webhooks; return the beginning of its URLs."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
            await handler(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, ADDRESS, 0)
    return f"http://{ADDRESS}:{server.sockets[0].getsockname()[1]}"


async def _take(reader: asyncio.StreamReader) -> None:
    """Read one request."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = next(
        (int(line.partition(b":")[2]) for line in head.split(b"\r\n") if b"content-length" in line),
        0,
    )
    await reader.readexactly(size)


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer at once, again and again."""
    while True:
        await _take(reader)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")


async def hangs(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Take everything and never answer."""
    while await reader.read(65_536):
        pass


async def hints(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send interim responses without end."""
    await _take(reader)
    hint = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload; as=style\r\n\r\n" * 500
    while True:
        writer.write(hint)
        await writer.drain()


async def trickles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a byte at a time, a header that never ends."""
    await _take(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
    while True:
        writer.write(b"a")
        await writer.drain()
        await asyncio.sleep(0.2)


async def _by_endpoints(attacker: Attacker, handler: Handler) -> None:
    base = await receiver(handler)
    await attacker.subscribe(lambda number: f"{base}/{number}")
    attacker.ready()
    await attacker.pay()


async def endpoints(attacker: Attacker) -> None:
    """Create as many endpoints as there may be, all of them well."""
    await _by_endpoints(attacker, answers)


async def hanging_endpoints(attacker: Attacker) -> None:
    """Create endpoints that never answer."""
    await _by_endpoints(attacker, hangs)


async def early_hints(attacker: Attacker) -> None:
    """Create endpoints that send 103 without end."""
    await _by_endpoints(attacker, hints)


async def trickling(attacker: Attacker) -> None:
    """Create endpoints that answer a byte at a time."""
    await _by_endpoints(attacker, trickles)


async def silent_names(attacker: Attacker) -> None:
    """Create endpoints on names that no name server answers for."""
    await attacker.subscribe(lambda number: f"http://n{number}.silent.example:8443/")
    attacker.ready()
    await attacker.pay()


async def slow_clients(attacker: Attacker) -> None:
    """Send requests a byte a second."""

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /payouts HTTP/1.1\r\nhost: gateway\r\nx-slow: ")
        while not writer.transport.is_closing():
            writer.write(b"a")
            await asyncio.sleep(1)

    await attacker.keep(attacker.most, hold)


async def slow_bodies(attacker: Attacker) -> None:
    """Send whole headers without a key, and the body a byte a second."""

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /payouts HTTP/1.1\r\nhost: gateway\r\ncontent-length: 1000\r\n\r\n")
        while not writer.transport.is_closing():
            writer.write(b"a")
            await asyncio.sleep(1)

    await attacker.keep(attacker.most, hold)


async def half_open(attacker: Attacker) -> None:
    """Connect and send nothing, or the beginning of a request."""
    numbers = itertools.count()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if next(numbers) % 2:
            writer.write(b"GET /payouts HTTP/1.1\r\nhost:")
        await reader.read(1)

    await attacker.keep(attacker.most, hold)


async def big_headers(attacker: Attacker) -> None:
    """Send headers without end, `most` bytes over all connections at once."""
    connections = 8
    line = b"x-big-%d: " + b"a" * 8000 + b"\r\n"

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /payouts HTTP/1.1\r\nhost: gateway\r\n")
        for number in range(attacker.most // connections // len(line)):
            writer.write(line % number)
            await writer.drain()
            attacker.counts["header bytes"] += len(line)
            await asyncio.sleep(0)

    await attacker.keep(connections, hold)


async def not_reading(attacker: Attacker) -> None:
    """Ask for large documents and read none of them."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        writer.write(b"GET /openapi.json HTTP/1.1\r\nhost: gateway\r\n\r\n" * 200)
        await reader.read(1)

    await attacker.keep(attacker.most, hold)


async def distinct_keys(attacker: Attacker) -> None:
    """Guess API keys, each once."""

    async def guess() -> None:
        while True:
            await attacker.call("GET", "/payouts", key=f"sk_live_{secrets.token_urlsafe(32)}")

    attacker.ready()
    await asyncio.gather(*(guess() for _ in range(16)))


async def flood(attacker: Attacker) -> None:
    """Ask for quotes as fast as they are answered, and never wait where that is asked for."""

    async def ask() -> None:
        while True:
            await attacker.quote()

    attacker.ready()
    await asyncio.gather(*(ask() for _ in range(16)))


_BATCH = "/payout-batches?custodian=dummy&account_id=MAIN&account_type=ACCOUNT"


async def _upload(attacker: Attacker, lines: int, *, dry: bool) -> Any:
    """Upload a CSV file of so many lines, to create a batch or only to have it checked."""
    head = "external_ref,asset,amount,destination_type,network,address,reference\n"
    to, tag = f"{_DESTINATION['network']},{_DESTINATION['address']}", secrets.token_hex(4)
    rows = (f"u{number},USDC,1,address,{to},{tag}-{number}\n" for number in range(lines))
    path = _BATCH + ("&validate=true" if dry else "")
    return await attacker.call("POST", path, text=head + "".join(rows))


async def reports(attacker: Attacker) -> None:
    """Read the report of a large batch, many times at once, and never wait where that is asked for."""
    status, told, _ = await _upload(attacker, attacker.most, dry=False)
    if status != 201:  # noqa: PLR2004 - created
        raise SystemExit(f"the batch was not created: {status} {told}")

    async def read() -> None:
        while True:
            await attacker.call("GET", f"/payout-batches/{told['id']}/report.csv")

    attacker.ready()
    await asyncio.gather(*(read() for _ in range(8)))


async def validations(attacker: Attacker) -> None:
    """Have large files checked, many at once; nothing is stored."""

    async def check() -> None:
        while True:
            await _upload(attacker, attacker.most, dry=True)

    attacker.ready()
    await asyncio.gather(*(check() for _ in range(6)))


#: By name: what it does, and how many at most (quick, full).
ATTACKS: dict[str, tuple[Callable[[Attacker], Awaitable[None]], int, int]] = {
    "endpoints at quota": (endpoints, 300, 4000),
    "endpoints that hang": (hanging_endpoints, 50, 50),
    "103 without end": (early_hints, 6, 6),
    "answers that trickle": (trickling, 50, 50),
    "names without answer": (silent_names, 50, 50),
    "200 slow clients": (slow_clients, 200, 200),
    "1200 half-open connections": (half_open, 1200, 1200),
    "clients that do not read": (not_reading, 40, 40),
    "50 MB of headers": (big_headers, 50_000_000, 50_000_000),
    "10000 distinct keys": (distinct_keys, 10_000, 10_000),
    "an org at its rate": (flood, 0, 0),
    "reports of a large batch": (reports, 1_000, 10_000),
    "checks of large files": (validations, 5_000, 100_000),
    "1000 bodies without a key": (slow_bodies, 1000, 1000),
}


async def run(wanted: dict[str, Any]) -> None:
    """Attack until SIGTERM."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    connector = aiohttp.TCPConnector(limit=0, local_addr=(ADDRESS, 0))
    timeout = aiohttp.ClientTimeout(total=_CALL_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as http:
        attacker = Attacker(wanted, http)
        attack = ATTACKS[wanted["attack"]][0]
        task = asyncio.ensure_future(attack(attacker))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            # An attack has no end of its own: this shows why it has one.
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    print(json.dumps(dict(attacker.counts)), flush=True)  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    os.nice(15)
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    uvloop.run(run(json.loads(sys.argv[1])))
