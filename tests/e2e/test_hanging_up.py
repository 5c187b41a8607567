"""Clients that hang up in the middle of reports and lists: everything goes on working."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.stack import Stack, eventually, stack, subscribe
from tests.e2e.test_batches import create, item

_ITEMS = 600
_CLIENTS = 30
_ROUNDS = 4


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Stack]:
    """A running stack with a subscriber."""
    async with stack(tmp_path) as made:
        await made.start_gateway()
        await subscribe(made)
        yield made


async def _hang_up(made: Stack, path: str, after: int) -> None:
    """Send a request, read so many bytes of the answer, and cut the connection."""
    address = urlsplit(made.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2**12)
    request = f"GET {path} HTTP/1.1\r\nHost: pay\r\nAuthorization: Bearer {made.key}\r\n\r\n"
    writer.write(request.encode())
    await writer.drain()
    seen = 0
    while seen < after and (chunk := await reader.read(after - seen)):
        seen += len(chunk)
    writer.transport.abort()


async def _nobody_reads(made: Stack) -> bool:
    """Whether no connection of the gateway is left inside a transaction.

    One that is keeps its snapshot: the log cannot be cut off then.
    """
    with closing(sqlite3.connect(made.folder / "gateway.db", timeout=1)) as connection:
        (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy


@pytest.mark.timeout(120)
async def test_clients_that_hang_up_stop_nobody(made: Stack) -> None:
    """Reports and lists that nobody reads to their end; then reads, changes and every loop work.

    Each cancelled report could leave a connection inside a transaction. Soon every read was refused,
    every loop died, and /healthz still said 200.
    """
    batch = await create(made, [item("1", reference=f"r{index}") for index in range(_ITEMS)])
    at = f"/payout-batches/{batch['id']}"
    paths = [
        f"{at}/report.csv",
        f"{at}/report.json",
        f"{at}/payouts?limit=200",
        "/payouts?limit=200",
        "/events",
    ]
    for turn in range(_ROUNDS):
        clients = [
            # At the first byte, at once after the request, or somewhere within the report.
            _hang_up(made, paths[number % len(paths)], (number * 997 * turn) % 50_000)
            for number in range(_CLIENTS)
        ]
        await asyncio.gather(*clients)
    for path in ("/healthz", "/readyz", "/payouts", at):
        status, told = await made.call("GET", path)
        assert status == 200, told
    await eventually(lambda: _nobody_reads(made))
    async with made.http.get(
        f"{made.url}{at}/report.csv", headers={"authorization": f"Bearer {made.key}"}
    ) as answer:
        assert len((await answer.text()).splitlines()) == _ITEMS + 1
    # The engine, the inbox, the deliveries, the sweeper: a payout goes all the way.
    payout_id = await made.pay()
    await made.reaches(payout_id, "delivered")

    async def told_all() -> bool:
        return "payout.delivered" in made.receiver.types(payout_id)

    await eventually(told_all)
    assert made.gateway is not None
    log = made.gateway.log.read_text()
    assert "store_unavailable" not in log
    assert "loop_died" not in log
