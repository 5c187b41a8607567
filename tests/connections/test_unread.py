"""Answers that nobody reads keep nobody out."""

from __future__ import annotations

import asyncio

import pytest

from gateway.config.settings import ListenSettings
from gateway.connections import Limits
from tests.connections.test_limits import GET, listening, until

BIG = GET.replace(b"small", b"big")


@pytest.mark.parametrize(
    "request_", [BIG, BIG.replace(b"\r\nhost", b"\r\nconnection: close\r\nhost"), BIG * 2, BIG * 3]
)
async def test_answers_that_nobody_reads_take_nobodys_place(request_: bytes) -> None:
    """Without a key: whether the connection would close after them, or others were asked for ahead."""
    async with listening(Limits.of(ListenSettings(), 5)) as made:
        for _ in range(5):
            _, writer = await made.connect(limit=1024)
            writer.write(request_)
        await until(lambda: len(made.table) == 5)
        await asyncio.sleep(2.5)
        for _ in range(3):
            assert (await made.ask()).startswith(b"HTTP/1.1 200 ")
