"""`POST /payouts` and the reads: single use, isolation, test mode, cursors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.adapter import Failure, FailureCode, FundsMoved, Report, SubStatus
from gateway.model import Status
from gateway.store import events
from tests.api.conftest import Api


async def test_a_payout_is_accepted(api: Api) -> None:
    """201 with Location, pending, and the worker is woken."""
    quote = await api.quote(reference="inv-7", metadata={"a": "b"})
    answer, raw = await api.send("POST", "/payouts", body={"quote_id": quote["quote_id"]})
    payout = json.loads(raw)
    assert answer.status == 201
    assert answer.headers["location"] == f"/payouts/{payout['id']}"
    assert (payout["status"], payout["sub_status"], payout["livemode"]) == (
        "pending",
        "created",
        True,
    )
    assert (payout["reference"], payout["metadata"]) == ("inv-7", {"a": "b"})
    assert payout["quote"]["quote_id"] == quote["quote_id"]
    assert not {"recommendation", "insufficient_funds"} & set(payout["quote"])
    assert payout["tracking_url"].startswith("https://pay.example/base/track/")
    assert [entry["status"] for entry in payout["timeline"]] == ["pending"]
    assert (payout["estimated_seconds_remaining"], payout["estimated_delivery_at"]) == (
        60,
        "2026-03-02T10:01:00.000Z",
    )
    assert "acme_eu" in api.woken
    assert await api.call("GET", f"/payouts/{payout['id']}") == (200, payout)


async def test_fifty_callers_race_for_one_quote(api: Api) -> None:
    """One payout is made; every other caller learns its id."""
    quote = await api.quote()
    answers = await asyncio.gather(
        *(api.call("POST", "/payouts", body={"quote_id": quote["quote_id"]}) for _ in range(50))
    )
    statuses = sorted(status for status, _ in answers)
    assert statuses == [201] + [409] * 49
    made = next(body["id"] for status, body in answers if status == 201)
    assert {body["payout_id"] for status, body in answers if status == 409} == {made}
    _, listed = await api.call("GET", "/payouts")
    assert len(listed["data"]) == 1


@pytest.mark.parametrize(
    ("body", "code", "status"),
    [
        ({"quote_id": "quo_nope"}, "quote_not_found", 404),
        ({"quote_id": "x" * 129}, "invalid_request", 422),
        ({"quote_id": ""}, "invalid_request", 422),
        ({"quote_id": 7}, "invalid_request", 422),
        ({}, "invalid_request", 422),
        ([], "invalid_request", 422),
        ("text", "invalid_request", 422),
        ({"quote_id": "quo_nope", "amount": "1"}, "invalid_request", 422),
    ],
)
async def test_bad_bodies(api: Api, body: Any, code: str, status: int) -> None:
    """The body is a quote id and nothing else."""
    problem = await api.problem("POST", "/payouts", body=body)
    assert (problem["code"], problem["status"]) == (code, status)


async def test_an_expired_quote_is_refused_and_a_used_one_wins_over_expiry(api: Api) -> None:
    """After 60 seconds an unused quote is gone; a used one still tells its payout."""
    fresh, used = await api.quote(), await api.quote()
    _, payout = await api.call("POST", "/payouts", body={"quote_id": used["quote_id"]})
    await api.clock.advance(60)
    problem = await api.problem("POST", "/payouts", body={"quote_id": fresh["quote_id"]})
    assert (problem["code"], problem["status"]) == ("quote_expired", 422)
    problem = await api.problem("POST", "/payouts", body={"quote_id": used["quote_id"]})
    assert (problem["code"], problem["payout_id"]) == ("quote_already_used", payout["id"])


async def test_an_org_sees_only_its_own(api: Api) -> None:
    """Another org's, and the other mode's, ids are not found, whatever the call."""
    payout = await api.pay()
    quote = await api.quote()
    status, endpoint = await api.call(
        "POST", "/webhook-endpoints", body={"url": "https://a.example/h"}
    )
    assert status == 201
    _, feed = await api.call("GET", "/events")
    event = feed["data"][0]["id"]
    for who in ({"org": "rival"}, {"mode": "test"}):
        for method, path in (
            ("GET", f"/payouts/{payout['id']}"),
            ("GET", f"/webhook-endpoints/{endpoint['id']}"),
            ("DELETE", f"/webhook-endpoints/{endpoint['id']}"),
            ("GET", f"/events/{event}"),
        ):
            assert (await api.problem(method, path, **who))["status"] == 404
        problem = await api.problem("POST", "/payouts", body={"quote_id": quote["quote_id"]}, **who)
        assert problem["code"] == "quote_not_found"
        for path in ("/payouts", "/webhook-endpoints", "/events"):
            assert (await api.call("GET", path, **who))[1]["data"] == []


async def test_test_mode_repeats_its_first_answer(api: Api) -> None:
    """The same quote gives the same bytes, also after the payout went on; the id is derived."""
    quote = await api.quote(mode="test")
    body = {"quote_id": quote["quote_id"]}
    first, raw = await api.send("POST", "/payouts", body=body, mode="test")
    payout_id = json.loads(raw)["id"]
    assert (first.status, json.loads(raw)["livemode"]) == (201, False)
    assert payout_id == api.context.vault.sandbox_payout_id("acme", quote["quote_id"])
    await api.context.db.run(
        api.context.payouts.apply, payout_id, Report(SubStatus.BROADCAST, "SENT")
    )
    await api.clock.advance(3600)
    second, again = await api.send("POST", "/payouts", body=body, mode="test")
    assert (second.status, again) == (201, raw)
    strict = await api.problem("POST", "/payouts", body=body, mode="test", gateway_sandbox="strict")
    assert (strict["code"], strict["payout_id"]) == ("quote_already_used", payout_id)


async def test_strict_test_mode_consumes(api: Api) -> None:
    """With the header the second call is refused as in live mode."""
    quote = await api.quote(mode="test")
    for expected in (201, 409):
        status, _ = await api.call(
            "POST",
            "/payouts",
            body={"quote_id": quote["quote_id"]},
            mode="test",
            gateway_sandbox="strict",
        )
        assert status == expected


async def test_lists_are_filtered_and_paged(api: Api) -> None:
    """Newest first, without gaps or doubles, under every filter."""
    made = []
    for index in range(7):
        made.append((await api.pay(external_ref=f"u-{index % 2}", reference=f"r-{index}"))["id"])
        await api.clock.advance(1)
    seen, cursor = [], ""
    while True:
        _, page = await api.call("GET", f"/payouts?limit=3{cursor}")
        seen += [each["id"] for each in page["data"]]
        if not page["has_more"]:
            assert page["next_cursor"] is None
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == made[::-1]
    for query, expected in (
        ("external_ref=u-1", made[1::2][::-1]),
        ("reference=r-3", [made[3]]),
        ("status=pending", made[::-1]),
        ("status=failed", []),
        ("custodian=acme_eu", made[::-1]),
        ("custodian=other", []),
        ("from=2026-03-02T10:00:05Z", made[5:][::-1]),
        ("to=2026-03-02T10:00:01Z", made[:2][::-1]),
        ("from=2026-03-02T11:00:01%2B01:00&to=2026-03-02T10:00:02Z", made[1:3][::-1]),
    ):
        _, page = await api.call("GET", f"/payouts?{query}")
        assert [each["id"] for each in page["data"]] == expected, query


async def test_a_payout_is_found_by_the_time_that_it_shows(api: Api) -> None:
    """Times are kept to the microsecond and shown to the millisecond."""
    await api.clock.advance(0.159705)
    payout = await api.pay()
    shown = payout["created_at"]
    assert shown.endswith(".159Z")
    for query, count in (
        (f"from={shown}&to={shown}", 1),
        (f"to={shown.replace('.159Z', '.158Z')}", 0),
        (f"from={shown.replace('.159Z', '.160Z')}", 0),
    ):
        _, page = await api.call("GET", f"/payouts?{query}")
        assert len(page["data"]) == count, query


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "invalid_request"),
        ("limit=201", "invalid_request"),
        ("limit=x", "invalid_request"),
        ("limit=1&limit=2", "invalid_request"),
        ("status=done", "invalid_request"),
        ("from=yesterday", "invalid_request"),
        ("from=2026-01-01T00:00:00", "invalid_request"),
        ("statsu=failed", "invalid_request"),
        ("cursor=%00", "invalid_cursor"),
        ("cursor=W10", "invalid_cursor"),
        ("cursor=bnVsbA", "invalid_cursor"),
    ],
)
async def test_bad_queries_are_refused(api: Api, query: str, code: str) -> None:
    """A mistyped filter never widens a list."""
    assert (await api.problem("GET", f"/payouts?{query}"))["code"] == code


async def test_a_cursor_is_bound_to_its_filters(api: Api) -> None:
    """With other filters it would skip or repeat: refused."""
    for _ in range(2):
        await api.pay()
    _, page = await api.call("GET", "/payouts?limit=1")
    problem = await api.problem(
        "GET", f"/payouts?limit=1&status=pending&cursor={page['next_cursor']}"
    )
    assert problem["code"] == "invalid_cursor"


async def test_the_feed_heals_a_gap(api: Api) -> None:
    """A reader that keeps the cursor gets every event once, in order, including later ones."""
    payout = await api.pay()
    _, first = await api.call("GET", "/events")
    failure = Failure(code=FailureCode.POLICY_REJECTED, message="no", funds_moved=FundsMoved.NO)
    for report in (
        Report(SubStatus.BROADCAST, "SENT"),
        Report(SubStatus.FAILED, "BLOCKED", failure=failure),
    ):
        await api.context.db.run(api.context.payouts.apply, payout["id"], report)
    _, rest = await api.call("GET", f"/events?cursor={first['next_cursor']}")
    events = first["data"] + rest["data"]
    assert [each["type"] for each in events] == [
        "payout.created",
        "payout.broadcast",
        "payout.failed",
    ]
    assert [each["data"]["sequence"] for each in events] == [1, 2, 3]
    assert [each["data"]["previous_status"] for each in events] == [None, "pending", "broadcast"]
    assert events[2]["data"]["failure"]["funds_moved"] == "no"
    assert "tracking_url" not in events[0]["data"]
    assert await api.call("GET", f"/events/{events[1]['id']}") == (200, events[1])
    _, none = await api.call("GET", f"/events?cursor={rest['next_cursor']}")
    assert (none["data"], none["next_cursor"], none["has_more"]) == ([], rest["next_cursor"], False)
    _, only = await api.call("GET", f"/events?type=payout.failed&payout_id={payout['id']}")
    assert [each["id"] for each in only["data"]] == [events[2]["id"]]
    assert (await api.problem("GET", "/events?type=payout.lost"))["code"] == "invalid_request"


@pytest.mark.parametrize("passed", [1, 2, 3, 5])
async def test_a_rare_type_is_found_page_by_page(
    api: Api, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page passes over few events of other types; a reader that goes on misses nothing."""
    monkeypatch.setattr(events, "_PASSED", passed)
    wanted = []
    for number in range(6):
        payout = await api.pay()
        if number in {1, 2, 4}:
            report = Report(SubStatus.BROADCAST, "SENT")
            await api.context.db.run(api.context.payouts.apply, payout["id"], report)
            wanted.append(payout["id"])
    found, pages, more, cursor = [], 0, True, ""
    while more:
        _, page = await api.call("GET", f"/events?type=payout.broadcast&limit=2{cursor}")
        found += [each["data"]["id"] for each in page["data"]]
        more, cursor, pages = page["has_more"], f"&cursor={page['next_cursor']}", pages + 1
    assert found == wanted
    assert pages >= 9 // passed
    _, page = await api.call("GET", f"/events?type=payout.broadcast{cursor}")
    assert (page["data"], page["has_more"]) == ([], False)


@pytest.mark.parametrize("sub_status", ["rejected", "submitted", "outcome_unknown", "delivered"])
async def test_filters_that_exclude_each_other_find_nothing(api: Api, sub_status: str) -> None:
    """No payout has both; and each finds what has one of them."""
    payout = await api.pay()
    news = [SubStatus.SUBMITTED, SubStatus(sub_status)]
    failure = Failure(code=FailureCode.POLICY_REJECTED, message="no", funds_moved=FundsMoved.NO)
    for each in news:
        report = Report(each, each.upper(), failure=failure if each == "rejected" else None)
        await api.context.db.run(api.context.payouts.apply, payout["id"], report)
    _, shown = await api.call("GET", f"/payouts/{payout['id']}")
    assert shown["sub_status"] == sub_status
    for status in Status:
        _, page = await api.call("GET", f"/payouts?status={status}&sub_status={sub_status}")
        expected = [payout["id"]] if status == shown["status"] else []
        assert [each["id"] for each in page["data"]] == expected
    _, page = await api.call("GET", f"/payouts?sub_status={sub_status}&custodian=acme_eu")
    assert [each["id"] for each in page["data"]] == [payout["id"]]


async def test_custodians_are_listed(api: Api) -> None:
    """Instances with their capabilities."""
    _, listed = await api.call("GET", "/custodians")
    assert [(each["name"], each["adapter"]) for each in listed["data"]] == [("acme_eu", "acme")]
    assert listed["data"][0]["destination_types"] == ["address", "custodian_account"]
