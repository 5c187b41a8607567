"""Inherited tests of webhooks: authentic, doubled, forged, garbled, and without keys to verify by."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.adapter import CannotVerify, InvalidSignature, Notice
from gateway.testing.bench import Bench, Receiver
from gateway.testing.declared import FORGERIES, proves
from gateway.testing.kit_base import KitBase, not_applicable

_GARBAGE = (b"", b"\xff", b"[]", b"{}", b"null", b"1", b'"x"', b"{", b"[" * 20_000)


class WebhookTests(KitBase):
    """The adapter and the webhooks of its twin."""

    async def news(self, bench: Bench, receiver: Receiver, fault: str = "", **more: Any) -> Any:
        """Let a payout live; return the webhooks of it, and its course."""
        if not self.adapter.capabilities.webhooks:
            not_applicable("the custodian sends no webhooks")
        if fault:
            await bench.fault("webhook", fault, **more)
        course = self.course(bench)
        await course.until_ended()
        # Whatever the twin has to send has come, or is not coming.
        async with asyncio.timeout(10):
            while any(each["state"] == "waiting" for each in await self.deliveries(bench)):
                await asyncio.sleep(0.01)
        assert receiver.got, "the twin sent no webhook of the payout"
        return list(receiver.got), course

    async def deliveries(self, bench: Bench) -> list[dict[str, Any]]:
        """Return what the twin has sent."""
        return list((await bench.steer("GET", "webhooks"))["deliveries"])

    @pytest.mark.asyncio
    @proves("webhooks")
    async def test_authentic_news_is_verified_and_read(self, bench: Bench) -> None:
        """Its notices name the payout by ids that its reports have, and each has its own key."""
        async with bench.receiver() as receiver:
            got, course = await self.news(bench, receiver)
            known = {ref for report in course.reports for ref in report.refs}
            known |= set(course.order.expected)
            keys = []
            for headers, body in list(got):
                await bench.adapter.verify(headers, body)
                for notice in bench.adapter.parse(body):
                    assert isinstance(notice, Notice)
                    keys.append(notice.dedup_key)
                    assert not notice.refs or set(notice.refs) & known, (notice, known)
            assert keys
            assert all(keys)
            assert len(set(keys)) == len(keys), "two different pieces of news have one dedup_key"

    @pytest.mark.asyncio
    @proves("webhooks")
    async def test_doubled_news_has_one_key(self, bench: Bench) -> None:
        """The same news twice is known by its dedup_key."""
        async with bench.receiver() as receiver:
            got, _ = await self.news(bench, receiver, "duplicate")
            keys = [each.dedup_key for _, body in got for each in bench.adapter.parse(body)]
            assert len(keys) == len(set(keys)) + 1, keys

    @pytest.mark.asyncio
    @proves("signatures")
    @pytest.mark.parametrize("how", FORGERIES)
    async def test_forged_news_is_refused(self, bench: Bench, how: str) -> None:
        """Unsigned, signed by a stranger, or changed on the way: refused; the real one is not."""
        async with bench.receiver() as receiver:
            got, _ = await self.news(bench, receiver, "forge", how=how)
            verdicts = [await self.verdict(bench, *each) for each in list(got)]
            assert verdicts.count("forged") == 1, verdicts
            assert set(verdicts) == {"authentic", "forged"}

    @pytest.mark.asyncio
    @proves("signatures")
    async def test_a_changed_byte_is_refused(self, bench: Bench) -> None:
        """The signature is over the raw bytes: one more blank, and it does not fit."""
        async with bench.receiver() as receiver:
            got, _ = await self.news(bench, receiver)
            headers, body = got[0]
            assert await self.verdict(bench, headers, body) == "authentic"
            assert await self.verdict(bench, headers, body + b" ") == "forged"
            assert await self.verdict(bench, headers, b" " + body) == "forged"

    @pytest.mark.asyncio
    @proves("signatures")
    async def test_malformed_headers_are_refused(self, bench: Bench) -> None:
        """Missing, empty, cut, doubled and not ASCII: refused like a wrong signature, nothing else."""
        async with bench.receiver() as receiver:
            got, _ = await self.news(bench, receiver)
            headers, body = got[0]
            plain = {"content-type", "content-length", "host", "accept", "user-agent"}
            plain |= {"accept-encoding", "connection"}
            signed = [name for name in headers if name not in plain]
            assert await self.verdict(bench, {}, body) == "forged"
            for name in signed:
                for value in ("", "é" * 64, headers[name][:-3], "=", "."):
                    said = await self.verdict(bench, {**headers, name: value}, body)
                    assert said in {"forged", "authentic"}, (name, value, said)
            empty = {**headers, **dict.fromkeys(signed, "")}
            assert await self.verdict(bench, empty, body) == "forged"

    @pytest.mark.asyncio
    @proves("webhooks")
    async def test_garbled_news_is_a_value_error(self, bench: Bench) -> None:
        """Whatever the bytes are: notices or a ValueError, which keeps the body; never another error."""
        bodies = list(_GARBAGE)
        if self.adapter.capabilities.webhooks:
            async with bench.receiver() as receiver:
                got, _ = await self.news(bench, receiver)
                bodies += [each for _, body in got for each in _garbled(body)]
        for body in bodies:
            try:
                assert all(isinstance(each, Notice) for each in bench.adapter.parse(body))
            except (ValueError, RecursionError):
                continue

    @pytest.mark.asyncio
    @proves("signatures")
    async def test_without_keys_nothing_is_refused_for_good(self, bench: Bench) -> None:
        """Keys out of reach: CannotVerify (the sender tries again), never InvalidSignature."""
        if self.webhook_keys is None:
            not_applicable("the adapter fetches no keys to verify webhooks by")
        async with bench.receiver() as receiver:
            got, _ = await self.news(bench, receiver)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            nobody = f"http://127.0.0.1:{taken.getsockname()[1]}/keys"
            bench.new_process(**{str(self.webhook_keys): nobody})
            with pytest.raises(CannotVerify):
                await bench.adapter.verify(*got[0])

    @pytest.mark.asyncio
    @proves("signatures")
    async def test_an_adapter_without_webhooks_refuses_them(self, bench: Bench) -> None:
        """Where none are declared, every one is refused, and nothing is read."""
        if self.adapter.capabilities.webhooks:
            not_applicable("the custodian sends webhooks")
        assert await self.verdict(bench, {}, b"{}") == "forged"

    async def verdict(self, bench: Bench, headers: Mapping[str, str], body: bytes) -> str:
        """Verify a webhook."""
        try:
            await asyncio.wait_for(bench.adapter.verify(headers, body), 10)
        except InvalidSignature:
            return "forged"
        return "authentic"


def _garbled(body: bytes) -> list[bytes]:
    """Return a body cut, and with each member missing, null, and of another type."""
    found = [body[: len(body) // 2], body[:-1], body + b"}"]
    try:
        document = json.loads(body)
    except ValueError:
        return found
    return found + [json.dumps(each).encode() for each in _changed(document)]


def _changed(document: Any) -> list[Any]:
    """Return copies of a document, each with one member that is not what it was."""
    if not isinstance(document, dict):
        return [None, [], 7, "x"]
    found: list[Any] = []
    for name, value in document.items():
        rest = {k: v for k, v in document.items() if k != name}
        odd: tuple[Any, ...] = (None, [], {}, 7, "é")
        found += [rest, *({**rest, name: each} for each in odd)]
        if isinstance(value, dict):
            found += [{**rest, name: each} for each in _changed(value)]
    return found
