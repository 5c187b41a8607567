"""Rates per key and class, a budget of custodian calls, and unknown clients: what a 429 leaves alone."""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
from starlette.requests import Request

from gateway.api.access import GIVES_WAY_S
from gateway.api.admission import Admission
from gateway.config.settings import Settings
from gateway.errors import Refused
from gateway.limits import HELD
from tests.api.conftest import RATES, WALLET, Api, open_api

QUOTE: dict[str, Any] = {
    "external_ref": "u-1",
    "destination": WALLET,
    "asset": "USDC",
    "amount": "43",
}


@asynccontextmanager
async def limited(settings: Settings, *, offers: bool = False, **burst: int) -> AsyncIterator[Api]:
    """Run an API whose buckets hold so many tokens and get one a second."""
    limits = (
        settings.limits.model_dump()
        | {f"{name}_per_s": 1 for name in RATES}
        | {f"{name}_burst": burst.get(name, 10_000) for name in RATES}
        | {name: value for name, value in burst.items() if name.startswith("refusals_")}
    )
    changed = settings.model_dump() | {"limits": limits}
    changed["server_key"] = settings.server_key.get_secret_value()
    async with open_api(Settings.model_validate(changed), offers=offers) as api:
        yield api


def rows(api: Api, *tables: str) -> list[Any]:
    """Return everything in some tables."""
    with closing(sqlite3.connect(api.path)) as connection:
        return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]


async def test_each_class_has_a_bucket_of_its_own(settings: Settings) -> None:
    """Reads, quotes, confirms and other writes of one key do not hold each other up; nor do keys."""
    async with limited(settings, reads=2, quotes=2, writes=2, confirms=2) as api:
        other = await api.key("rival")
        payouts = [(await api.pay())["id"] for _ in range(2)]
        calls: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", "/payouts", {}),
            ("POST", "/payouts/quote", {"body": QUOTE, "idempotency_key": "k"}),
            ("POST", f"/payouts/{payouts[0]}/cancel", {}),
            ("POST", "/webhook-endpoints", {"body": {"url": "https://a.example"}}),
        ]
        for method, path, options in calls:
            seen = [(await api.call(method, path, **options))[0] for _ in range(3)]
            assert seen[-1] == 429, path
            if path not in {"/payouts/quote", "/webhook-endpoints"}:
                assert 429 not in seen[:2], path
        status, _ = await api.call("GET", "/payouts", authorization=f"Bearer {other}")
        assert status == 200
        await api.clock.advance(1)
        assert (await api.call("GET", "/payouts"))[0] == 200
        assert (await api.call("GET", "/payouts"))[0] == 429


async def test_a_refusal_says_when_to_come_back(settings: Settings) -> None:
    """`RateLimit` on every answer; 429 is a problem with `Retry-After`, and holds exactly so long."""
    async with limited(settings, reads=3) as api:
        told = []
        for _ in range(4):
            answer, raw = await api.send("GET", "/payouts")
            told.append((answer.status, answer.headers["ratelimit"]))
            assert answer.headers["ratelimit-policy"] == '"reads";q=3;w=3'
        assert told == [
            (200, '"reads";r=2;t=1'),
            (200, '"reads";r=1;t=2'),
            (200, '"reads";r=0;t=3'),
            (429, '"reads";r=0;t=3'),
        ]
        problem = json.loads(raw)
        assert (problem["code"], problem["retryable"]) == ("rate_limited", True)
        assert answer.headers["content-type"] == "application/problem+json"
        await api.clock.advance(int(answer.headers["retry-after"]))
        assert (await api.call("GET", "/payouts"))[0] == 200


async def test_a_refusal_has_done_nothing(settings: Settings) -> None:
    """No quote and no idempotency key is used: the same request pays once it is let in."""
    async with limited(settings, writes=1) as api:
        quote = await api.quote()
        first = await api.quote()
        await api.call("POST", "/payouts", body={"quote_id": first["quote_id"]})
        tables = ("quotes", "payouts", "idempotency", "events")
        before = rows(api, *tables)
        pay: dict[str, Any] = {
            "body": {"quote_id": quote["quote_id"]},
            "idempotency_key": "pay-1",
        }
        assert (await api.problem("POST", "/payouts", **pay))["code"] == "rate_limited"
        assert rows(api, *tables) == before
        await api.clock.advance(1)
        answer, _ = await api.send("POST", "/payouts", **pay)
        assert answer.status == 201
        assert "idempotent-replayed" not in answer.headers


async def test_a_budget_of_custodian_calls_for_quotes(settings: Settings) -> None:
    """Per org: what is refused asks nobody and uses no key; a replay asks nobody and is not refused."""
    async with limited(settings, offers=True, quote_calls=2) as api:

        async def quote(key: str, org: str = "acme", **members: str) -> tuple[int, Any]:
            body = {**QUOTE, **members}
            path = "/payouts/quote"
            return await api.call("POST", path, body=body, org=org, idempotency_key=key)

        status, first = await quote("k-1")
        assert (status, api.pricer.calls) == (200, 1)
        assert (await quote("k-2"))[0] == 200
        before = rows(api, "quotes", "idempotency")
        status, problem = await quote("k-3")
        assert (status, problem["code"], api.pricer.calls) == (429, "rate_limited", 2)
        assert rows(api, "quotes", "idempotency") == before
        # Neither of these has to ask the custodian.
        assert await quote("k-1") == (200, first)
        assert (await quote("k-1", amount="44"))[1]["code"] == "idempotency_key_reused"
        assert (await quote("k-4", asset="DOGE"))[1]["code"] == "unsupported_asset"
        assert api.pricer.calls == 2
        # Another org has a budget of its own.
        assert (await quote("k-1", org="rival"))[0] == 200
        await api.clock.advance(1)
        assert (await quote("k-3"))[0] == 200
        assert api.pricer.calls == 4


@pytest.mark.parametrize(
    ("path", "header"),
    [
        ("/payouts", f"Bearer sk_live_{'A' * 43}"),
        ("/payouts", None),
        ("/nothing", None),
        ("/payouts/pay_01hzy3v5qsf6tb3vqm8e3r0d1n", f"Bearer pcs_{'A' * 22}"),
        (f"/track/{'A' * 43}", None),
    ],
)
async def test_unknown_clients_are_limited_by_address(
    settings: Settings, path: str, header: str | None
) -> None:
    """Wrong keys, secrets, links and paths; a valid key still works from the same address."""
    async with limited(settings, unknown=3) as api:
        payout = await api.pay()
        seen = []
        for _ in range(5):
            answer, _ = await api.send("GET", path, authorization=header)
            seen.append(answer.status)
        assert 429 not in seen[:3]
        assert seen[3:] == [429, 429]
        assert answer.headers["retry-after"] == "1"
        assert (await api.call("GET", "/payouts"))[0] == 200
        assert (await api.call("GET", "/healthz", authorization=None))[0] == 200
        link = payout["tracking_url"].removeprefix("https://pay.example/base")
        answer, _ = await api.send("GET", link, authorization=None)
        assert answer.status == 200
        # A faulty request under a right key is nobody's guess.
        for _ in range(5):
            assert (await api.call("GET", "/payouts/pay_x"))[0] == 404
        await api.clock.advance(1)
        answer, _ = await api.send("GET", path, authorization=header)
        assert answer.status == seen[0]


@pytest.mark.parametrize("reachable", [True, False])
async def test_forged_webhooks_are_limited_per_client(
    settings: Settings, capsys: pytest.CaptureFixture[str], *, reachable: bool
) -> None:
    """Whether or not the keys are in reach; genuine ones get through. A flood is few lines of the log."""
    body = b'{"id":"n-1"}'
    path = "/custodians/acme_eu/webhooks"
    async with limited(settings, unknown=3) as api:
        api.custodian.keys_reachable = reachable
        seen = []
        for _ in range(30):
            answer, _ = await api.send("POST", path, data=body, x_signature="0" * 64)
            seen.append(answer.status)
        assert seen == [401 if reachable else 503] * 3 + [429] * 27
        lines = capsys.readouterr()
        assert (lines.out + lines.err).count("/custodians/{name}/webhooks") == 4
        api.custodian.keys_reachable = True
        signature = api.custodian.sign(body)
        answer, _ = await api.send("POST", path, data=body, x_signature=signature)
        assert answer.status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/payouts", 405),
        ("OPTIONS", "/payouts", 405),
        ("GET", "/.well-known/webhook-keys.json?endpoint_id=whe_01m8kef33zezes22y8rwjryv1z", 200),
    ],
)
async def test_whatever_a_stranger_tries_is_counted(
    settings: Settings, method: str, path: str, status: int
) -> None:
    """Wrong methods and unknown endpoints, too; not what has a right answer."""
    async with limited(settings, unknown=3) as api:
        seen = [(await api.send(method, path, authorization=None))[0].status for _ in range(6)]
        assert seen == [status] * 3 + [429] * 3
        assert (await api.send("GET", "/healthz", authorization=None))[0].status == 200
        assert (await api.call("GET", "/payouts"))[0] == 200


async def test_a_refusal_names_the_policy_that_refused(settings: Settings) -> None:
    """The budget of custodian calls, and not the rate of quotes, of which there is enough left."""
    async with limited(settings, offers=True, quote_calls=1) as api:
        await api.quote()
        answer, _ = await api.send(
            "POST", "/payouts/quote", body={**QUOTE, "external_ref": "b"}, idempotency_key="b"
        )
        assert answer.status == 429
        assert answer.headers.getall("ratelimit") == ['"quote_calls";r=0;t=1']
        assert answer.headers.getall("ratelimit-policy") == ['"quote_calls";q=1;w=1']
        answer, _ = await api.send("GET", "/payouts")
        assert answer.headers["ratelimit"].startswith('"reads";')


async def test_ten_thousand_wrong_keys_are_one_client(settings: Settings) -> None:
    """Each with another key and another forged address: the address is the connection's own."""
    async with limited(settings, unknown=3) as api:
        seen = []
        for number in range(30):
            answer, _ = await api.send(
                "GET",
                "/payouts",
                authorization=f"Bearer sk_live_{secrets.token_urlsafe(32)}",
                x_forwarded_for=f"192.0.2.{number}",
            )
            seen.append(answer.status)
        assert seen == [401] * 3 + [429] * 27


_HELD: dict[str, Any] = {"refusals_burst": 2, "refusals_per_s": 1, "refusals_held_s": 3}


async def test_a_caller_that_goes_on_is_held_back(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its refusals are sent one a second, in order; beyond three seconds at once, and the connection closes."""
    async with limited(settings, reads=1, **_HELD) as api:
        other = await api.key("rival")
        seen: list[int] = []

        async def ask(number: int) -> None:
            answer, _ = await api.send("GET", "/payouts")
            assert answer.status == 429
            assert "connection" not in answer.headers
            assert int(answer.headers["retry-after"]) > 0
            seen.append(number)

        assert (await api.call("GET", "/payouts"))[0] == 200
        await ask(0)
        await ask(1)
        waiting = []
        for number in range(2, 5):
            waiting.append(asyncio.create_task(ask(number)))
            while api.clock.sleepers < number - 1:
                await asyncio.sleep(0.001)
        answer, _ = await api.send("GET", "/payouts")
        assert (answer.status, answer.headers["connection"]) == (429, "close")
        # The same key has its other classes, and other callers their own refusals.
        assert (await api.call("POST", "/payouts/pay_x/cancel"))[0] == 404
        assert (await api.call("GET", "/payouts", authorization=f"Bearer {other}"))[0] == 200
        assert (await api.call("GET", "/payouts", authorization=f"Bearer {other}"))[0] == 429
        assert seen == [0, 1]
        for number in range(2, 5):
            await api.clock.advance(1)
            await waiting[number - 2]
            assert seen == list(range(number + 1))
        assert (await api.call("GET", "/payouts"))[0] == 200
        metrics = api.context.metrics
        for result, count in (("held", 3), ("closed", 1)):
            name = "payout_gateway_refusals_held_total"
            assert metrics.registry.get_sample_value(name, {"result": result}) == count
    lines = capsys.readouterr()
    # A line for each refusal that was sent at once; of the others, one in ten seconds.
    assert (lines.out + lines.err).count("status=429") == 2 + 1 + 1


async def test_a_stranger_that_goes_on_is_held_back(settings: Settings) -> None:
    """By its address, whatever key it tries; a right key from there is answered at once."""
    async with limited(settings, unknown=1, **_HELD) as api:

        async def guess() -> tuple[int, str | None]:
            key = f"Bearer sk_live_{secrets.token_urlsafe(32)}"
            answer, _ = await api.send("GET", "/payouts", authorization=key)
            return answer.status, answer.headers.get("connection")

        assert [await guess() for _ in range(3)] == [(401, None), (429, None), (429, None)]
        held = [asyncio.create_task(guess()) for _ in range(3)]
        while api.clock.sleepers < 3:
            await asyncio.sleep(0.001)
        assert await guess() == (429, "close")
        assert (await api.call("GET", "/payouts"))[0] == 200
        await api.clock.advance(3)
        assert await asyncio.gather(*held) == [(429, None)] * 3


async def test_a_stranger_that_guesses_tracking_links_is_held_back(settings: Settings) -> None:
    """Its refusals are pages, and are paced like all others; the stream of a page, too."""
    async with limited(settings, unknown=1, **_HELD) as api:

        async def guess(end: str = "") -> tuple[int, str | None]:
            path = f"/track/{secrets.token_urlsafe(24)}{end}"
            answer, _ = await api.send("GET", path, authorization=None)
            return answer.status, answer.headers.get("connection")

        assert [await guess() for _ in range(3)] == [(404, None), (429, None), (429, None)]
        held = [asyncio.create_task(guess(end)) for end in ("", "/stream", "")]
        while api.clock.sleepers < 3 and not any(each.done() for each in held):
            await asyncio.sleep(0.001)
        assert not any(each.done() for each in held)
        assert await guess() == (429, "close")
        await api.clock.advance(3)
        assert await asyncio.gather(*held) == [(429, None)] * 3


async def test_the_listener_learns_of_refusals_that_are_held_back_or_close(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not of those within the burst. New connections of that address come after requests in progress."""
    told: list[None] = []
    hold_back = Admission.hold_back

    async def noted(admission: Admission, request: Request, refused: Refused) -> Refused:
        request.scope["state"][HELD] = lambda: told.append(None)
        return await hold_back(admission, request, refused)

    monkeypatch.setattr(Admission, "hold_back", noted)
    async with limited(settings, unknown=1, **_HELD) as api:

        async def guess() -> None:
            await api.call("GET", "/payouts", authorization="Bearer sk_live_wrong")

        for _ in range(3):
            await guess()
        assert not told
        held = [asyncio.create_task(guess()) for _ in range(3)]
        while api.clock.sleepers < 3:
            await asyncio.sleep(0.001)
        assert len(told) == 3
        await guess()
        assert len(told) == 4
        await api.clock.advance(3)
        await asyncio.gather(*held)


async def test_the_body_of_a_held_request_is_not_read(settings: Settings) -> None:
    """Jobs are held back like rates; a large file is not received meanwhile."""
    jobs = {"batch_jobs_per_org": 1, "batch_jobs": 1}
    changed = settings.model_dump() | {"limits": settings.limits.model_dump() | jobs | _HELD}
    changed["limits"]["refusals_burst"] = 1
    changed["server_key"] = settings.server_key.get_secret_value()
    async with open_api(Settings.model_validate(changed)) as api:
        path = "/payout-batches?custodian=acme_eu&account_id=A1&account_type=VAULT&validate=true"
        taken = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal taken
            for _ in range(1024):
                taken += 1
                yield bytes(64 * 1024)

        async def upload(data: AsyncIterator[bytes]) -> int:
            headers = {"Authorization": f"Bearer {await api.key()}", "Content-Type": "text/csv"}
            async with api.http.post(api.url + path, data=data, headers=headers) as answer:
                return answer.status

        begun = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"external_ref"
            begun.set()
            await asyncio.Event().wait()

        first = asyncio.create_task(upload(slow()))
        await begun.wait()
        await asyncio.sleep(0.1)
        assert await upload(body()) == 429
        taken = 0
        second = asyncio.create_task(upload(body()))
        while api.clock.sleepers < 1:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.2)
        assert taken < 512, "the sockets hold the rest"
        await api.clock.advance(1)
        assert await second == 429
        first.cancel()


@asynccontextmanager
async def arriving(api: Api, org: str) -> AsyncIterator[None]:
    """Keep a body under way."""
    host, _, port = api.url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = (
        "POST /payouts HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {await api.key(org)}\r\nidempotency-key: {secrets.token_hex(8)}\r\n"
        "content-length: 100\r\n\r\n{"
    )
    writer.write(head.encode())
    await writer.drain()
    await asyncio.sleep(0.1)
    try:
        yield
    finally:
        writer.transport.abort()
        await asyncio.sleep(0.1)


async def test_few_bodies_of_a_key_arrive_at_once(settings: Settings) -> None:
    """Another one is refused unread; what has no body, other keys and strangers are not."""
    changed = settings.model_dump() | {"limits": settings.limits.model_dump() | {"bodies": 2}}
    changed["server_key"] = settings.server_key.get_secret_value()
    async with open_api(Settings.model_validate(changed)) as api:
        quote: dict[str, Any] = {"body": QUOTE, "idempotency_key": "q-1"}
        await api.key("rival")
        async with arriving(api, "acme"):
            assert (await api.call("POST", "/payouts/quote", **quote))[0] == 200
            async with arriving(api, "acme"):
                quote["idempotency_key"] = "q-2"
                answer, _ = await api.send("POST", "/payouts/quote", **quote)
                assert answer.status == 429
                assert answer.headers["retry-after"] == "1"
                assert answer.headers.getall("ratelimit") == ['"bodies";r=0;t=1']
                policy = '"bodies";q=2;qu="concurrent-requests"'
                assert answer.headers.getall("ratelimit-policy") == [policy]
                assert (await api.call("GET", "/payouts"))[0] == 200
                assert (await api.call("POST", "/payouts/quote", org="rival", **quote))[0] == 200
                path = "/custodians/acme_eu/webhooks"
                answer, _ = await api.send("POST", path, data=b"{}", authorization=None)
                assert answer.status == 401
            answer, _ = await api.send("POST", "/payouts/quote", **quote)
            assert answer.status == 200
            assert "idempotent-replayed" not in answer.headers


async def test_who_has_used_up_half_of_a_rate_comes_after_other_orgs(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request waits for those in progress, for a bounded time; one with most of its rate left does not."""
    waited: list[tuple[str, float, int]] = []

    async with limited(settings, reads=6) as api:
        await api.key("rival")
        asked = 0

        async def quiet(org: str, most_s: float) -> None:
            waited.append((org, most_s, asked))

        monkeypatch.setattr(api.context.calling, "quiet", quiet)
        for _ in range(6):
            asked += 1
            assert (await api.call("GET", "/payouts"))[0] == 200
        assert waited == [("acme", GIVES_WAY_S, number) for number in (4, 5, 6)]
        # What is refused has nothing to wait for, and another org has a rate of its own.
        assert (await api.call("GET", "/payouts"))[0] == 429
        assert (await api.call("GET", "/payouts", org="rival"))[0] == 200
        assert len(waited) == 3
