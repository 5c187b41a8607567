"""Dummy's webhooks: whose they are, and what they say."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.adapter import InvalidSignature, Ref
from tests.adapters.dummy.conftest import Receiver, Space
from tests.adapters.orders import OrderForTest


async def _received(receiver: Receiver, count: int) -> list[tuple[dict[str, str], bytes]]:
    """Wait until so many webhooks have come."""
    end = time.monotonic() + 10
    while len(receiver.got) < count:
        assert time.monotonic() < end, f"{len(receiver.got)} of {count} webhooks"
        await asyncio.sleep(0.005)
    return receiver.got


async def test_authentic_news_is_verified_and_read(space: Space) -> None:
    """Each change is told; a notice names the transfer and has the news' own id."""
    async with space.receiver() as receiver:
        told = await space.adapter.submit(OrderForTest())
        await space.steps(2)
        got = await _received(receiver, 2)
    keys = set()
    for headers, body in got:
        await space.adapter.verify(headers, body)
        (notice,) = space.adapter.parse(body)
        assert notice.refs == (Ref("transfer", str(told.custodian_reference)),)
        assert notice.report is None
        keys.add(notice.dedup_key)
    assert len(keys) == 2


async def test_doubled_news_has_one_id(space: Space) -> None:
    """The same news twice is known by its id."""
    await space.fault("webhook", "duplicate")
    async with space.receiver() as receiver:
        await space.adapter.submit(OrderForTest())
        await space.steps(1)
        got = await _received(receiver, 2)
    assert len({space.adapter.parse(body)[0].dedup_key for _, body in got}) == 1


async def test_forged_news_is_refused(space: Space) -> None:
    """A stranger's news is not authentic; the real one beside it is."""
    await space.fault("webhook", "forge")
    async with space.receiver() as receiver:
        await space.adapter.submit(OrderForTest())
        await space.steps(1)
        got = await _received(receiver, 2)
    verdicts = []
    for headers, body in got:
        try:
            await space.adapter.verify(headers, body)
            verdicts.append("authentic")
        except InvalidSignature:
            verdicts.append("forged")
    assert sorted(verdicts) == ["authentic", "forged"]


async def test_a_changed_body_is_refused(space: Space) -> None:
    """The signature is over the raw bytes: one more blank, and it does not fit."""
    async with space.receiver() as receiver:
        await space.adapter.submit(OrderForTest())
        await space.steps(1)
        ((headers, body),) = await _received(receiver, 1)
    await space.adapter.verify(headers, body)
    with pytest.raises(InvalidSignature):
        await space.adapter.verify(headers, body + b" ")
    with pytest.raises(InvalidSignature):
        await space.adapter_with(webhook_secret="another").verify(headers, body)


@pytest.mark.parametrize("headers", [{}, {"dummy-signature": ""}, {"dummy-signature": "é" * 64}])
async def test_a_malformed_header_is_refused_like_a_wrong_one(
    space: Space, headers: dict[str, str]
) -> None:
    """Every kind of bad input is InvalidSignature, never another error."""
    with pytest.raises(InvalidSignature):
        await space.adapter.verify(headers, b"{}")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"id": "x", "transfer": []}',
        b'{"id": "x", "transfer": {}}',
        b'{"transfer": {"id": "t"}}',
        b'{"id": "x", "transfer": null}',
    ],
)
async def test_what_cannot_be_read_is_a_value_error(space: Space, body: bytes) -> None:
    """Then the gateway keeps the body, unread."""
    with pytest.raises(ValueError, match=r"\S"):
        space.adapter.parse(body)
