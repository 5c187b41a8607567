"""Webhook endpoints over HTTP: what is taken, shown, rotated, tested, sent again."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook

from gateway.adapter import Report, SubStatus
from gateway.api.openapi import document
from gateway.egress import MAX_URL
from gateway.runtime import real_runtime
from gateway.store import deliveries, endpoints
from gateway.store.receipts import Tried, settle_tries
from gateway.store.rows import to_us
from gateway.vault import Vault
from gateway.views import EVENT_TYPES
from tests.api.conftest import Api
from tests.webhooks.test_test_events import holding
from tests.webhooks.test_worker import until

_URL = "https://hooks.example.com/in"
_TOKEN = "token-3f9a1c"


async def make(api: Api, **members: Any) -> dict[str, Any]:
    """Create an endpoint."""
    status, made = await api.call("POST", "/webhook-endpoints", body={"url": _URL, **members})
    assert status == 201, made
    return dict(made)


async def test_every_member_is_kept_and_changed(api: Api) -> None:
    """PATCH changes what is given; the rest stays; null ends a description."""
    made = await make(api, description="ours", headers={"X-Team": "pay"}, event_types=["payout.*"])
    path = f"/webhook-endpoints/{made['id']}"
    status, seen = await api.call("PATCH", path, body={"rate_limit_per_second": 50})
    assert status == 200
    assert {**made, "rate_limit_per_second": 50} == {**seen, "secret": made["secret"]}
    _, seen = await api.call(
        "PATCH",
        path,
        body={
            "url": _URL + "/2",
            "description": None,
            "event_types": [],
            "headers": {"X-Other": "1"},
        },
    )
    assert (seen["url"], seen["description"]) == (_URL + "/2", None)
    assert (seen["event_types"], seen["headers"]) == ([], {"X-Other": "1"})
    assert await api.call("GET", path) == (200, seen)
    status, _ = await api.call("PATCH", path, body={})
    assert status == 200


async def test_sensitive_headers_are_named_only(api: Api) -> None:
    """Not in any answer, not in the database in clear; kept over a change of others."""
    made = await make(api, sensitive_headers={"Authorization": _TOKEN}, headers={"X-A": "1"})
    assert made["sensitive_headers"] == ["Authorization"]
    path = f"/webhook-endpoints/{made['id']}"
    requests: tuple[tuple[str, str, Any], ...] = (
        ("GET", "", None),
        ("PATCH", "", {"headers": {"X-B": "2"}}),
        ("POST", "/rotate-secret", {}),
    )
    for method, at, body in requests:
        _, raw = await api.send(method, path + at, body=body)
        assert _TOKEN.encode() not in raw
        assert json.loads(raw)["sensitive_headers"] == ["Authorization"]
    found = await api.context.db.read(api.context.endpoints.target, made["id"])
    assert found is not None
    assert dict(found.target.headers) == {"X-B": "2", "Authorization": _TOKEN}
    assert _TOKEN not in repr(found)
    for part in ("", "-wal"):
        stored = api.path.with_name(api.path.name + part)
        assert not stored.exists() or _TOKEN.encode() not in stored.read_bytes()
    _, seen = await api.call("PATCH", path, body={"sensitive_headers": {}})
    assert seen["sensitive_headers"] == []


@pytest.mark.parametrize(
    ("members", "pointer", "word"),
    [
        ({"url": "http://hooks.example.com/"}, "/url", "https"),
        ({"url": "https://user:pw@hooks.example.com/"}, "/url", "user"),
        ({"url": "https://hooks.example.com/#x"}, "/url", "fragment"),
        ({"url": "https://8.8.8.8/"}, "/url", "name"),
        ({"url": "https://[2606:4700::1111]/"}, "/url", "name"),
        ({"url": "https://0x7f.1/"}, "/url", "name"),
        ({"url": "https://hooks.example.com:22/"}, "/url", "port"),
        ({"url": "https://localhost/"}, "/url", ""),
        ({"url": "https://printer.local/"}, "/url", ""),
        ({"url": "https://hooks.example.com/" + "a" * 3000}, "/url", str(MAX_URL)),
        ({"headers": {"webhook-id": "x"}}, "/headers", "webhook-id"),
        ({"headers": {"Content-Type": "text/plain"}}, "/headers", "content-type"),
        ({"headers": {"Host": "a"}}, "/headers", "host"),
        ({"sensitive_headers": {"Transfer-Encoding": "a"}}, "/sensitive_headers", "transfer"),
        ({"headers": {"x y": "a"}}, "/headers", "name"),
        ({"headers": {"Authorization": "Bearer a"}}, "/headers", "sensitive_headers"),
        ({"headers": {"X-A": "1"}, "sensitive_headers": {"x-a": "2"}}, "/sensitive_headers", "x-a"),
        ({"event_types": ["payout.lost"]}, "/event_types/0", "payout.delivered"),
    ],
)
async def test_what_could_never_be_delivered_to(
    api: Api, members: dict[str, Any], pointer: str, word: str
) -> None:
    """Refused at once with a pointer and a reason, when it is made and when it is changed."""
    made = await make(api)
    for method, path in (
        ("POST", "/webhook-endpoints"),
        ("PATCH", f"/webhook-endpoints/{made['id']}"),
    ):
        body = {"url": _URL, **members} if method == "POST" else members
        problem = await api.problem(method, path, body=body)
        assert (problem["status"], problem["code"]) == (422, "invalid_request")
        (error,) = problem["errors"]
        assert error["pointer"] == pointer
        assert word in error["detail"]
        assert "pw@" not in json.dumps(problem)


@pytest.mark.parametrize(
    "name",
    [
        "url",
        "event_types",
        "headers",
        "sensitive_headers",
        "rate_limit_per_second",
        "ed25519",
        "status",
    ],
)
async def test_null_changes_nothing_and_says_so(api: Api, name: str) -> None:
    """PATCH refuses it, and the API's description has no null for it; only a description ends by it."""
    made = await make(api)
    path = f"/webhook-endpoints/{made['id']}"
    problem = await api.problem("PATCH", path, body={name: None, "description": "new"})
    assert (problem["status"], problem["code"]) == (422, "invalid_request")
    assert problem["errors"] == [
        {
            "pointer": f"/{name}",
            "code": "null_not_allowed",
            "detail": "must not be null; leave it out to keep it",
        }
    ]
    _, seen = await api.call("GET", path)
    assert {**seen, "secret": made["secret"]} == made
    members = document("")["components"]["schemas"]["WebhookEndpointChange"]["properties"]
    assert "null" not in json.dumps(members[name])
    assert "null" in members["description"]["type"]


@pytest.mark.parametrize(
    "members",
    [
        {"headers": {"X-A": "a\r\nX-B: b"}},
        {"headers": {"X-A": "a" * 5000}},
        {"headers": {f"X-{n}": "a" for n in range(100)}},
        {"rate_limit_per_second": 0},
        {"rate_limit_per_second": 10**9},
        {"rate_limit_per_second": "10"},
        {"event_types": ["payout.*"] * 51},
        {"secret": "whsec_mine"},
        {"description": "x" * 10_000},
    ],
)
async def test_members_out_of_bounds(api: Api, members: dict[str, Any]) -> None:
    """The model refuses them."""
    problem = await api.problem("POST", "/webhook-endpoints", body={"url": _URL, **members})
    assert problem["status"] == 422


async def test_three_secrets_at_most(api: Api) -> None:
    """Each signs until its end; a fourth is refused with what to do; early revoke leaves one."""
    made = await make(api)
    path = f"/webhook-endpoints/{made['id']}"
    secrets = [made["secret"]]
    for hours in (1, 48):
        status, rotated = await api.call(
            "POST", path + "/rotate-secret", body={"overlap_seconds": hours * 3600}
        )
        assert status == 200
        secrets.append(rotated["secret"])
        assert rotated["previous_secret_expires_at"] is not None
    assert len(set(secrets)) == 3
    assert await _signing(api, made["id"]) == 3
    problem = await api.problem("POST", path + "/rotate-secret", body={})
    assert (problem["status"], problem["code"]) == (409, "too_many_secrets")
    assert "previous-secrets" in problem["detail"]
    await api.clock.advance(3601)
    assert await _signing(api, made["id"]) == 2
    status, _ = await api.call("POST", path + "/rotate-secret", body={"overlap_seconds": 0})
    assert (status, await _signing(api, made["id"])) == (200, 2)
    status, _ = await api.call("DELETE", path + "/previous-secrets")
    assert (status, await _signing(api, made["id"])) == (204, 1)
    status, _ = await api.call("DELETE", path + "/previous-secrets")
    assert status == 204
    for overlap in (-1, 7 * 86_400 + 1, "1"):
        problem = await api.problem(
            "POST", path + "/rotate-secret", body={"overlap_seconds": overlap}
        )
        assert problem["status"] == 422


async def _signing(api: Api, endpoint_id: str) -> int:
    found = await api.context.db.read(api.context.endpoints.target, endpoint_id)
    assert found is not None
    return len(found.target.secrets)


async def test_one_rotation_per_idempotency_key(api: Api) -> None:
    """Repeated, it is answered again without a further secret; the secret is not stored in clear."""
    made = await make(api)
    path = f"/webhook-endpoints/{made['id']}/rotate-secret"
    for _ in range(2):
        status, rotated = await api.call("POST", path, body={}, idempotency_key="r-1")
        assert status == 200
    assert await _signing(api, made["id"]) == 2
    assert rotated["id"] == made["id"]
    other = await make(api)
    problem = await api.problem(
        "POST",
        f"/webhook-endpoints/{other['id']}/rotate-secret",
        body={},
        idempotency_key="r-1",
    )
    assert problem["code"] == "idempotency_key_reused"


@asynccontextmanager
async def receiver(status: int = 200) -> AsyncIterator[tuple[str, list[tuple[bytes, Any]]]]:
    """Run a receiver; give its URL and what it got."""
    got: list[tuple[bytes, Any]] = []

    async def take(request: web.Request) -> web.Response:
        got.append((await request.read(), dict(request.headers)))
        return web.Response(status=status, text="thanks")

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/", got
    finally:
        await runner.cleanup()


async def _redirect(api: Api, endpoint_id: str, url: str) -> None:
    """Point an endpoint to a receiver on this machine, which no request may."""
    await api.context.db.run(lambda tx: endpoints.update_endpoint(tx, endpoint_id, url=url))


@pytest.mark.parametrize("kind", EVENT_TYPES)
async def test_an_example_of_every_type(api: Api, kind: str) -> None:
    """Signed like a real one, marked as a test; the response has the endpoint's answer."""
    made = await make(api)
    async with receiver(202) as (url, got):
        await _redirect(api, made["id"], url)
        status, seen = await api.call(
            "POST", f"/webhook-endpoints/{made['id']}/test", body={"type": kind}
        )
    assert status == 200
    assert (seen["type"], seen["outcome"], seen["http_status"]) == (kind, "succeeded", 202)
    assert seen["response_snippet"] == "thanks"
    ((body, headers),) = got
    event = json.loads(body)
    assert (event["type"], event["test"]) == (kind, True)
    assert headers["webhook-id"] == seen["event_id"]
    at = api.clock.now()
    assert (
        Webhook(made["secret"]).sign(seen["event_id"], at, body.decode())
        in (headers["webhook-signature"])
    )


async def test_one_test_of_an_endpoint_at_a_time(api: Api) -> None:
    """Of twenty at once one is sent; the others hear when to repeat theirs."""
    made = await make(api)
    path = f"/webhook-endpoints/{made['id']}/test"
    async with holding() as held:
        await _redirect(api, made["id"], held.url)
        calls = [asyncio.create_task(api.call("POST", path, body={})) for _ in range(20)]
        await until(lambda: sum(each.done() for each in calls) == 19)
        held.go_on.set()
        answers = await asyncio.gather(*calls)
    assert len(held.took) == 1
    assert sorted(status for status, _ in answers) == [200, *[409] * 19]
    refused = [body for status, body in answers if status == 409]
    assert {(each["code"], each["retryable"]) for each in refused} == {("endpoint_busy", True)}


async def test_a_test_of_a_disabled_or_unknown_endpoint(api: Api) -> None:
    """Refused, with what to do."""
    made = await make(api)
    path = f"/webhook-endpoints/{made['id']}"
    await api.call("PATCH", path, body={"status": "disabled"})
    for at in ("/test", "/recover"):
        body = {"since": "2026-03-01T00:00:00Z"} if at == "/recover" else {}
        problem = await api.problem("POST", path + at, body=body)
        assert (problem["status"], problem["code"]) == (409, "endpoint_disabled")
    problem = await api.problem("POST", "/webhook-endpoints/whe_none/test", body={})
    assert (problem["status"], problem["code"]) == (404, "endpoint_not_found")
    problem = await api.problem("POST", path + "/test", body={"type": "payout.lost"})
    assert problem["status"] == 422


async def test_disabled_and_enabled_again(api: Api) -> None:
    """What was missed is kept as skipped and recovered by a job of its own."""
    made = await make(api)
    path = f"/webhook-endpoints/{made['id']}"
    await api.pay()
    status, seen = await api.call("PATCH", path, body={"status": "disabled"})
    assert (status, seen["status"], seen["disabled_reason"]) == (200, "disabled", "by_you")
    assert seen["disabled_at"] is not None
    await api.clock.advance(60)
    await api.pay()
    status, seen = await api.call("PATCH", path, body={"status": "enabled"})
    assert (seen["status"], seen["disabled_reason"], seen["disabled_at"]) == ("enabled", None, None)
    _, jobs = await api.call("GET", path + "/recoveries")
    ((job),) = jobs["data"]
    while job["state"] == "running":
        await api.context.db.run(api.context.replays.step, job["id"])
        _, job = await api.call("GET", f"{path}/recoveries/{job['id']}")
    assert job["events_recovered"] == 2
    assert job["finished_at"] is not None


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/since"),
        ({"since": "yesterday"}, "/since"),
        ({"since": "2026-03-02T10:00:00"}, "/since"),
        ({"since": "2999-01-01T00:00:00Z"}, "/since"),
        ({"since": "2026-03-01T00:00:00Z", "until": "2026-02-01T00:00:00Z"}, "/since"),
        ({"since": "2026-03-01T00:00:00Z", "what": 1}, "/what"),
    ],
)
async def test_a_recovery_that_cannot_be(api: Api, body: dict[str, Any], pointer: str) -> None:
    """Says where the fault is."""
    made = await make(api)
    path = f"/webhook-endpoints/{made['id']}/recover"
    problem = await api.problem("POST", path, body=body)
    assert problem["status"] == 422
    assert problem["errors"][0]["pointer"] == pointer


async def test_the_log_of_tries(api: Api) -> None:
    """Newest first, of an endpoint and of an event, page by page; another org sees none."""
    made = await make(api)
    path = f"/webhook-endpoints/{made['id']}/attempts"
    payout = await api.pay()
    await api.context.db.run(
        api.context.payouts.apply, payout["id"], Report(SubStatus.DELIVERED, "COMPLETED")
    )
    rows = await api.context.db.read(deliveries.deliveries_of, payout["id"])
    for attempt in (1, 2):
        now = api.context.runtime.timeline.now()
        claimed = await api.context.db.run(
            deliveries.claim_deliveries, [(made["id"], 9)], now, now + 1, attempt
        )
        tries = [
            Tried(
                position=row["position"],
                endpoint_id=row["endpoint_id"],
                token=row["lease_token"],
                attempt=row["attempts"] + 1,
                trigger=row["trigger"],
                state="pending",
                due=now,
                settled=None,
                outcome="http_error",
                http_status=500,
                snippet="no",
                started_at=to_us(api.clock.now() + timedelta(seconds=10 * number + attempt)),
                duration_ms=3,
                next_attempt_at=None,
            )
            for number, (row, _) in enumerate(claimed)
        ]
        await api.context.db.run(settle_tries, tries)
    seen: list[dict[str, Any]] = []
    query = "?limit=2"
    while True:
        _, page = await api.call("GET", path + query)
        seen += page["data"]
        if not page["has_more"]:
            break
        query = f"?limit=2&cursor={page['next_cursor']}"
    assert len(seen) == len({each["id"] for each in seen}) == 2 * len(rows) == 6
    assert [each["started_at"] for each in seen] == sorted(
        (each["started_at"] for each in seen), reverse=True
    )
    event_id = seen[0]["event_id"]
    _, page = await api.call("GET", f"/events/{event_id}/attempts")
    assert page["data"] == [each for each in seen if each["event_id"] == event_id]
    for at in (path, f"/events/{event_id}/attempts"):
        assert (await api.problem("GET", at, org="other"))["status"] == 404
    _, other = await api.call("GET", f"/events/{event_id}/attempts?limit=1")
    crossed = await api.problem("GET", path + f"?cursor={other['next_cursor']}")
    assert crossed["code"] == "invalid_cursor"


async def test_an_event_again(api: Api) -> None:
    """To one endpoint or to all that subscribe; another org's events and endpoints are not there."""
    first, second = await make(api), await make(api, event_types=["payout.failed"])
    payout = await api.pay()
    _, feed = await api.call("GET", f"/events?payout_id={payout['id']}")
    event_id = feed["data"][0]["id"]
    status, sent = await api.call("POST", f"/events/{event_id}/resend", body={})
    assert (status, sent["endpoint_ids"]) == (202, [first["id"]])
    status, sent = await api.call(
        "POST", f"/events/{event_id}/resend", body={"endpoint_id": second["id"]}
    )
    assert (status, sent["endpoint_ids"]) == (202, [second["id"]])
    assert "deliveries" in api.woken
    for body, org, code in (
        ({"endpoint_id": "whe_none"}, "acme", "endpoint_not_found"),
        ({}, "other", "event_not_found"),
        ({"endpoint": "x"}, "acme", "invalid_request"),
    ):
        problem = await api.problem("POST", f"/events/{event_id}/resend", body=body, org=org)
        assert problem["code"] == code


async def test_a_feed_from_now_on(api: Api) -> None:
    """`start=now` gives an empty page and a cursor that misses nothing after it."""
    await api.pay()
    _, page = await api.call("GET", "/events?start=now")
    assert (page["data"], page["has_more"]) == ([], False)
    payout = await api.pay()
    _, page = await api.call("GET", f"/events?cursor={page['next_cursor']}")
    assert [each["data"]["id"] for each in page["data"]] == [payout["id"]]
    for query in ("?start=then", "?start=now&cursor=x"):
        assert (await api.problem("GET", "/events" + query))["code"] == "invalid_request"


async def test_twenty_rotations_at_once(api: Api) -> None:
    """Never more than three secrets, whatever races."""
    made = await make(api)
    path = f"/webhook-endpoints/{made['id']}/rotate-secret"
    answers = await asyncio.gather(*(api.call("POST", path, body={}) for _ in range(20)))
    assert sorted(status for status, _ in answers) == [200] * 2 + [409] * 18
    assert await _signing(api, made["id"]) == 3


async def test_ed25519_beside_hmac(api: Api) -> None:
    """On request; the public key is shown, published without a key of ours, and verifies."""
    plain = await make(api)
    assert plain["public_keys"] == []
    made = await make(api, ed25519=True)
    (key,) = made["public_keys"]
    path = "/.well-known/webhook-keys.json"
    _, told = await api.call("GET", f"{path}?endpoint_id={made['id']}", authorization=None)
    assert told["keys"] == [{"endpoint_id": made["id"], "kind": "v1a", "key": key}]
    for other in (plain["id"], "whe_none"):
        _, none = await api.call("GET", f"{path}?endpoint_id={other}", authorization=None)
        assert none == {"keys": []}
    assert (await api.problem("GET", path, authorization=None))["code"] == "invalid_request"
    async with receiver() as (url, got):
        await _redirect(api, made["id"], url)
        await api.call("POST", f"/webhook-endpoints/{made['id']}/test", body={})
    ((body, headers),) = got
    entries = dict(each.split(",", 1) for each in headers["webhook-signature"].split(" "))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.removeprefix("whpk_")))
    public.verify(base64.b64decode(entries["v1a"]), signed)
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(entries["v1a"]), signed + b" ")
    at = api.clock.now()
    assert Webhook(made["secret"]).sign(headers["webhook-id"], at, body.decode()) == (
        "v1," + entries["v1"]
    )
    _, seen = await api.call("PATCH", f"/webhook-endpoints/{made['id']}", body={"ed25519": False})
    assert seen["public_keys"] == []


def test_a_change_of_the_server_key_signs_with_both() -> None:
    """Until the one before is taken out: receivers may still have its public key."""
    ids = real_runtime().ids
    old, new = bytes(32), bytes(range(32))
    before = Vault(old, ids).webhook_seeds("whe_1")
    meanwhile = Vault(new, ids, old).webhook_seeds("whe_1")
    after = Vault(new, ids).webhook_seeds("whe_1")
    assert meanwhile == (*after, *before)
    assert Vault(new, ids).webhook_seeds("whe_2") != after
