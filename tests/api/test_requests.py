"""What is common to all calls: keys, bodies, methods, idempotency, custodians' webhooks."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urljoin

import pytest

from gateway.adapter import Ref, Report, SubStatus
from gateway.keys import revoke_key
from gateway.payouts import Payouts
from gateway.store.database import Database
from tests.api.conftest import WALLET, Api
from tests.marks import mark_call

QUOTE: dict[str, Any] = {
    "external_ref": "u-1",
    "destination": WALLET,
    "asset": "USDC",
    "amount": "43",
}


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_api_key"),
        ("Basic abc", "missing_api_key"),
        ("Bearer ", "missing_api_key"),
        ("Bearer sk_live_short", "invalid_api_key"),
        ("Bearer sk_live_" + "A" * 43, "invalid_api_key"),
    ],
)
async def test_a_key_is_needed(api: Api, header: str | None, code: str) -> None:
    """Before anything else is looked at, and with the challenge that HTTP wants."""
    answer, raw = await api.send("POST", "/payouts/quote", body={}, authorization=header)
    assert (answer.status, json.loads(raw)["code"]) == (401, code)
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_revoked_key_says_so(api: Api) -> None:
    """Revoked is not unknown."""
    await api.key()
    connection = sqlite3.connect(api.path)
    (key_id,) = connection.execute("SELECT id FROM api_keys").fetchone()
    connection.close()
    assert await api.context.db.run(revoke_key, api.context.runtime, key_id)
    assert (await api.problem("GET", "/payouts"))["code"] == "api_key_revoked"


@pytest.mark.parametrize(
    ("data", "code", "status"),
    [
        (b"{", "invalid_json", 400),
        (b"", "invalid_json", 400),
        (b"\xff\xfe", "invalid_json", 400),
        (b'{"amount": NaN}', "invalid_json", 400),
        (b'{"amount": Infinity}', "invalid_json", 400),
        (b'{"amount": "1", "amount": "2"}', "invalid_json", 400),
        (b"[" * 100_0, "invalid_json", 400),
        (b"[" * 40 + b"]" * 40, "invalid_json", 400),
        (b'{"quote_id": "\\ud800"}', "invalid_json", 400),
        (b'{"quote_id": "' + b"a" * 70_000 + b'"}', "payload_too_large", 413),
    ],
)
async def test_bad_bodies(api: Api, data: bytes, code: str, status: int) -> None:
    """What is not strict JSON of a sensible size is refused by name."""
    problem = await api.problem("POST", "/payouts", data=data)
    assert (problem["code"], problem["status"]) == (code, status)


async def test_a_number_with_thousands_of_digits_is_named(api: Api) -> None:
    """What refuses it is Python's parser; its message, which names settings of Python, is not passed on."""
    problem = await api.problem("POST", "/payouts", data=b'{"quote_id": 1' + b"0" * 6000 + b"}")
    assert (problem["code"], problem["status"]) == ("invalid_json", 400)
    assert problem["detail"] == "The body contains a number with too many digits."


async def test_a_huge_body_is_cut_off(api: Api) -> None:
    """10 MB without an announced length are refused long before they are read."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(160):
            sent += 65536
            yield b"a" * 65536
            await asyncio.sleep(0)

    async with api.http.post(
        api.url + "/payouts",
        data=endless(),
        headers={"authorization": f"Bearer {await api.key()}", "content-type": "application/json"},
    ) as answer:
        assert answer.status == 413
    assert sent <= 160 * 65536


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_only_json_is_read(api: Api, media_type: str | None) -> None:
    """415 for anything else; parameters of the media type do not matter."""
    problem = await api.problem("POST", "/payouts", data=b"{}", content_type=media_type or "")
    assert (problem["code"], problem["status"]) == ("unsupported_media_type", 415)
    problem = await api.problem(
        "POST", "/payouts", data=b"{}", content_type="application/json; charset=utf-8"
    )
    assert problem["code"] == "invalid_request"


_CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize("path", ["/guide/x", "/docs/x", "/nothing/at/all", "/assets/x.css"])
async def test_a_browser_gets_a_page_where_nothing_is(api: Api, path: str) -> None:
    """With ways on that lead somewhere; programs get the problem, whatever else they accept."""
    answer, raw = await api.send("GET", path, authorization=None, accept=_CHROME)
    text = raw.decode()
    assert (answer.status, answer.content_type) == (404, "text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Request-Id"] in text
    assert "There is no page at this address" in text
    links = re.findall(r'href="([^"]+)"', text)
    assert len(links) == 5
    for link in links:
        there = urljoin(path, link)
        if there != "/admin":
            followed, _ = await api.send("GET", there, authorization=None, accept=_CHROME)
            assert followed.status == 200, there
    for accept in ("*/*", "application/json", "application/json, text/html;q=0.5"):
        answer, raw = await api.send("GET", path, authorization=None, accept=accept)
        assert answer.content_type == "application/problem+json"
        assert json.loads(raw)["code"] == "not_found"


@pytest.mark.parametrize(
    ("path", "to"),
    [
        ("/", "/docs"),
        ("/docs/", "/docs"),
        ("/docs/problems/", "/docs/problems"),
        ("/guide/", "/guide"),
        ("/guide/how-to/pay-a-batch/", "/guide/how-to/pay-a-batch"),
    ],
)
async def test_a_slash_at_the_end_leads_to_the_page(api: Api, path: str, to: str) -> None:
    """By a relative redirect, which names no host; so does the root, for a browser."""
    url = api.url + path
    async with api.http.get(url, headers={"Accept": _CHROME}, allow_redirects=False) as answer:
        assert answer.status == 307
        assert answer.headers["Location"][0] not in "/h"
    async with api.http.get(url, headers={"Accept": _CHROME}) as answer:
        assert (answer.status, answer.url.path) == (200, to)


async def test_unknown_paths_and_methods(api: Api) -> None:
    """404 and 405 are problems, too; 405 names every method."""
    assert (await api.problem("GET", "/nothing"))["code"] == "not_found"
    answer, raw = await api.send("DELETE", "/payouts")
    assert (answer.status, json.loads(raw)["code"]) == (405, "method_not_allowed")
    assert set(answer.headers["allow"].replace(" ", "").split(",")) == {"GET", "HEAD", "POST"}


async def test_a_repeat_replays_the_first_answer(api: Api) -> None:
    """Same key, same body (in any order of members): the same bytes, marked."""
    first, raw = await api.send("POST", "/payouts/quote", body=QUOTE, idempotency_key='"k-1"')
    turned = dict(reversed(QUOTE.items()))
    second, again = await api.send("POST", "/payouts/quote", body=turned, idempotency_key="k-1")
    assert (first.status, second.status, again) == (200, 200, raw)
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"


async def test_replays_carry_location_and_refusals(api: Api) -> None:
    """A created payout and a business refusal come back as they were."""
    quote = await api.quote()
    body = {"quote_id": quote["quote_id"]}
    first, raw = await api.send("POST", "/payouts", body=body, idempotency_key="p")
    second, again = await api.send("POST", "/payouts", body=body, idempotency_key="p")
    assert (second.status, again, second.headers["location"]) == (
        201,
        raw,
        first.headers["location"],
    )
    refused, raw = await api.send("POST", "/payouts", body=body, idempotency_key="other")
    repeated, again = await api.send("POST", "/payouts", body=body, idempotency_key="other")
    assert (refused.status, repeated.status, again) == (409, 409, raw)
    assert repeated.headers["content-type"] == "application/problem+json"
    assert repeated.headers["idempotent-replayed"] == "true"


async def test_a_key_is_bound_to_body_org_mode_and_route(api: Api) -> None:
    """Another body is refused; another org, mode or route is another key; after 24 hours it is new."""
    await api.send("POST", "/payouts/quote", body=QUOTE, idempotency_key="k")
    other = {**QUOTE, "amount": "44"}
    problem = await api.problem("POST", "/payouts/quote", body=other, idempotency_key="k")
    assert (problem["code"], problem["status"]) == ("idempotency_key_reused", 422)
    for options in ({"org": "rival"}, {"mode": "test"}):
        status, _ = await api.call(
            "POST", "/payouts/quote", body=other, idempotency_key="k", **options
        )
        assert status == 200
    status, _ = await api.call(
        "POST", "/webhook-endpoints", body={"url": "https://a.example"}, idempotency_key="k"
    )
    assert status == 201
    await api.clock.advance(24 * 3600)
    answer, _ = await api.send("POST", "/payouts/quote", body=other, idempotency_key="k")
    assert answer.status == 200
    assert "idempotent-replayed" not in answer.headers


async def test_a_faulty_request_does_not_bind_its_key(api: Api) -> None:
    """Nothing was executed, so the corrected request may use the key."""
    await api.problem("POST", "/payouts/quote", body={**QUOTE, "amount": "x"}, idempotency_key="k")
    status, _ = await api.call("POST", "/payouts/quote", body=QUOTE, idempotency_key="k")
    assert status == 200


@pytest.mark.parametrize("key", ["", '""', "a b", "x" * 256, "naïve"])
async def test_bad_keys(api: Api, key: str) -> None:
    """1 to 255 visible ASCII characters."""
    problem = await api.problem("POST", "/payouts/quote", body=QUOTE, idempotency_key=key)
    assert problem["code"] == "invalid_idempotency_key"


async def test_quotes_need_a_key(api: Api) -> None:
    """Without one a lost answer would give a second price."""
    problem = await api.problem("POST", "/payouts/quote", body=QUOTE)
    assert (problem["code"], problem["status"]) == ("idempotency_key_required", 400)


async def test_concurrent_repeats_make_one(api: Api) -> None:
    """Fifty at once with one key: one effect; the others replay it or get 409."""
    quote = await api.quote()
    answers = await asyncio.gather(
        *(
            api.call(
                "POST", "/payouts", body={"quote_id": quote["quote_id"]}, idempotency_key="same"
            )
            for _ in range(50)
        )
    )
    made = {body["id"] for status, body in answers if status == 201}
    assert len(made) == 1
    assert {body["code"] for status, body in answers if status != 201} <= {
        "idempotency_in_progress"
    }


async def test_secrets_are_shown_once_and_sealed(api: Api) -> None:
    """Neither the endpoint's secret nor the API key is in the database, not even in a kept answer."""
    body = {"url": "https://a.example/hook", "event_types": ["payout.*"], "description": "erp"}
    _, made = await api.call("POST", "/webhook-endpoints", body=body, idempotency_key="k")
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/=]{44}", made["secret"])
    _, again = await api.call("POST", "/webhook-endpoints", body=body, idempotency_key="k")
    assert again == made
    _, read = await api.call("GET", f"/webhook-endpoints/{made['id']}")
    assert read == {name: value for name, value in made.items() if name != "secret"}
    _, listed = await api.call("GET", "/webhook-endpoints")
    assert listed["data"] == [read]
    stored = b"".join(
        each.read_bytes()
        for each in api.path.parent.iterdir()
        if each.name.startswith(api.path.name)
    )
    assert made["id"].encode() in stored
    for secret in (made["secret"], made["secret"].removeprefix("whsec_"), await api.key()):
        assert secret.encode() not in stored
    status, _ = await api.call("DELETE", f"/webhook-endpoints/{made['id']}")
    assert status == 204
    assert (await api.problem("GET", f"/webhook-endpoints/{made['id']}"))[
        "code"
    ] == "endpoint_not_found"


@pytest.mark.parametrize(
    "body",
    [
        {"url": "http://a.example"},
        {"url": "ftp://a.example"},
        {"url": "/relative"},
        {"url": "https://"},
        {"url": "https://u:p@a.example"},
        {"url": "https://a.example/#frag"},
        {"url": "https://a.example/" + "x" * 3000},
        {"url": "https://a.example:99999/"},
        {"url": "https://a .example"},
        {"url": 7},
        {},
        {"url": "https://a.example", "event_types": ["payment.*"]},
        {"url": "https://a.example", "event_types": ["payout.*", "P"]},
        {"url": "https://a.example", "secret": "mine"},
    ],
)
async def test_bad_endpoints(api: Api, body: dict[str, Any]) -> None:
    """What could never be delivered to is refused with the reason."""
    problem = await api.problem("POST", "/webhook-endpoints", body=body)
    assert (problem["code"], problem["status"]) == ("invalid_request", 422)
    assert problem["errors"][0]["pointer"]


async def test_a_custodians_webhook_is_stored_once(api: Api) -> None:
    """Verified, stored raw, answered; a double is answered and not stored again."""
    body = b'{"id": "n-1",  "transfer": "t-1"}'
    for _ in range(3):
        assert await _told(api, body) == (200, {"received": True})
    assert _inbox(api, "custodian, dedup_key, body, state") == [("acme_eu", "n-1", body, "waiting")]


async def test_a_custodians_webhook_is_applied_at_once(api: Api) -> None:
    """In the transaction that stores it, where its id is known; later, where the id comes later."""
    payout = await api.pay()
    early = b'{"id": "n-0", "transfer": "t-1", "state": "sent"}'
    await _told(api, early)
    submitted = Report(SubStatus.SUBMITTED, "OK", refs=(Ref("transfer", "t-1"),))
    await mark_call(api.context.db, api.context.runtime, payout["id"])
    applied = await api.context.db.run(api.context.payouts.apply, payout["id"], submitted)
    assert applied.woke_inbox
    assert _inbox(api, "state") == [("new",)]
    done = b'{"id": "n-1", "transfer": "t-1", "state": "done"}'
    assert await _told(api, done) == (200, {"received": True})
    assert _inbox(api, "dedup_key, state, payout_id") == [
        ("n-0", "new", None),
        ("n-1", "applied", payout["id"]),
    ]
    _, shown = await api.call("GET", f"/payouts/{payout['id']}")
    assert shown["status"] == "delivered"
    assert "acme_eu" in api.woken


async def test_a_webhook_that_cannot_be_applied_is_kept(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raw and new, for the loop; it is answered all the same, and nothing of it is half done."""
    payout = await api.pay()
    submitted = Report(SubStatus.SUBMITTED, "OK", refs=(Ref("transfer", "t-1"),))
    await mark_call(api.context.db, api.context.runtime, payout["id"])
    await api.context.db.run(api.context.payouts.apply, payout["id"], submitted)

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    body = b'{"id": "n-1", "transfer": "t-1", "state": "done"}'
    with monkeypatch.context() as patch:
        patch.setattr(Payouts, "apply", broken)
        assert await _told(api, body) == (200, {"received": True})
        assert await _told(api, body) == (200, {"received": True})
    assert _inbox(api, "body, state, payout_id, settled_at") == [(body, "new", None, None)]
    assert api.woken.count("inbox") == 1


async def test_a_webhook_that_cannot_be_stored_is_not_answered(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, so that the custodian sends it again."""

    async def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk full")

    body = b'{"id": "n-1", "transfer": "t-1"}'
    await api.key()
    with monkeypatch.context() as patch:
        patch.setattr(Database, "run", full)
        status, problem = await _told(api, body)
    assert (status, problem["code"]) == (503, "store_unavailable")
    assert _inbox(api, "state") == []


async def _told(api: Api, body: bytes) -> tuple[int, Any]:
    """Send a webhook as the custodian does."""
    return await api.call(
        "POST",
        "/custodians/acme_eu/webhooks",
        data=body,
        authorization=None,
        x_signature=api.custodian.sign(body),
    )


def _inbox(api: Api, columns: str) -> list[tuple[Any, ...]]:
    """Return columns of what is stored, the oldest first."""
    connection = sqlite3.connect(api.path)
    try:
        return connection.execute(f"SELECT {columns} FROM inbox ORDER BY rowid").fetchall()
    finally:
        connection.close()


async def test_a_forged_webhook_changes_nothing(api: Api) -> None:
    """401, and nothing stored; keys out of reach are 503, so that the sender tries again."""
    path = "/custodians/acme_eu/webhooks"
    problem = await api.problem("POST", path, data=b'{"id": "n-1"}', x_signature="0" * 64)
    assert (problem["code"], problem["status"]) == ("invalid_signature", 401)
    api.custodian.keys_reachable = False
    answer, raw = await api.send("POST", path, data=b'{"id": "n-1"}')
    assert (answer.status, json.loads(raw)["code"]) == (503, "cannot_verify")
    assert answer.headers["retry-after"] == "30"
    assert (await api.problem("POST", "/custodians/nobody/webhooks", data=b"{}"))["status"] == 404
    assert (await api.problem("POST", path, data=b"x" * (1024 * 1024 - 1) + b"yz"))["status"] == 413
    assert _inbox(api, "state") == []


async def test_an_unreadable_webhook_is_kept(api: Api) -> None:
    """A genuine delivery that cannot be parsed is stored all the same."""
    body = b"not json at all"
    assert (await _told(api, body))[0] == 200
    assert _inbox(api, "body, state") == [(body, "unreadable")]


async def test_a_store_that_cannot_be_read_is_not_described(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, without the error's words."""

    async def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    await api.key()
    monkeypatch.setattr(Database, "read", fail)
    answer, raw = await api.send("GET", "/payouts")
    assert (answer.status, json.loads(raw)["code"]) == (503, "store_unavailable")
    assert b"disk" not in raw


async def test_a_fault_of_ours_tells_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 is a problem, too, without the error's words."""

    async def fail(*_: object) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr(Database, "read", fail)
    answer, raw = await api.send("GET", "/payouts")
    assert (answer.status, json.loads(raw)["code"]) == (500, "internal_error")
    assert b"secret words" not in raw
