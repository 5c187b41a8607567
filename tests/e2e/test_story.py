"""What an operator sees of one payout, on a stack where things went wrong."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Stack, eventually, stack, subscribe

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Stack]:
    """A stack with a gateway and a subscribed receiver."""
    async with stack(tmp_path) as running:
        await running.start_gateway()
        await subscribe(running)
        yield running


async def show(made: Stack, wanted: str) -> dict[str, Any]:
    """Return a story as scripts get it."""
    story: dict[str, Any] = json.loads(await made.run("payouts", "show", wanted, "--json"))
    return story


async def test_the_whole_story_is_in_the_store(made: Stack) -> None:
    """A lost reply and a receiver that was down: every step, try, note and id, and no secret."""
    made.receiver.answer = 503
    await made.steer("POST", "faults", {"call": "execute", "fault": "lose_reply", "times": 1})
    payout_id = await made.pay()
    payout = await made.reaches(payout_id, "delivered")
    made.receiver.answer = 204

    async def told() -> bool:
        return len(made.receiver.types(payout_id)) == 3

    await eventually(told)

    async def noted() -> dict[str, Any] | None:
        seen = await show(made, payout_id)
        states = {each["state"] for each in seen["deliveries"]}
        return seen if states == {"delivered"} else None

    story = await eventually(noted)
    assert story is not None
    assert story["payout"]["status"] == "delivered"
    assert "outcome_unknown" in [each["sub_status"] for each in story["timeline"]]
    (execution,) = story["executions"]
    calls = [each for each in execution["evidence"] if each["kind"] == "call"]
    assert [each["answer"] for each in calls] == ["unknown"]
    assert calls[0]["at"] < story["timeline"][-1]["at"]
    assert execution["notes"]["payout_id"] == payout["custodian_reference"]
    refs = {each["kind"]: each["value"] for each in story["refs"]}
    assert refs["payout"] == payout["custodian_reference"]
    assert {each["state"] for each in story["custodian_webhooks"]} == {"applied"}
    assert [(each["sequence"], each["type"]) for each in story["events"]] == [
        (1, "payout.created"),
        (2, "payout.broadcast"),
        (3, "payout.delivered"),
    ]
    first = [each for each in story["deliveries"] if each["type"] == "payout.created"]
    assert [each["attempt"] for each in first] == list(range(1, len(first) + 1))
    assert [each["http_status"] for each in first] == [503] * (len(first) - 1) + [204]
    assert len(first) > 1
    assert (story["next_look_at"], story["lease"]) == (None, None)

    # A support desk may have only an id at the custodian or a hash.
    hashes = [each["tx_hash"] for each in payout["transactions"] if each["tx_hash"]]
    for wanted in (*refs.values(), *hashes):
        assert (await show(made, wanted))["payout"]["id"] == payout_id, wanted

    text = await made.run("payouts", "show", payout_id)
    for word in (
        f"{payout_id}  delivered / delivered",
        "43 USDC to custodian_account EXTERNAL_WALLET bef85a1c-b605-4b2e-bdb5-2d400f4d0bf3",
        "from EXCHANGE_ACCOUNT EX_SUB3",
        f"there known as {refs['payout']}",
        "outcome_unknown",
        *hashes,
        *refs.values(),
        *(each["id"] for each in story["events"]),
        *(each["dedup_key"] for each in story["custodian_webhooks"]),
        "503",
    ):
        assert word in text, word
    for shown in (text, json.dumps(story)):
        assert made.key not in shown
        assert made.receiver.secret not in shown


async def test_the_list_narrows_to_what_matters(made: Stack) -> None:
    """By status, by org, and to what an operator should look at."""
    fine = await made.pay("43")
    await made.reaches(fine, "delivered")
    strange = await made.pay("1.000408")  # the twin answers with a word that nobody knows

    async def listed(*arguments: str) -> list[str]:
        rows = json.loads(await made.run("payouts", "list", "--json", *arguments))["data"]
        return [each["payout_id"] for each in rows]

    assert await listed() == [strange, fine]
    assert await listed("--limit", "1") == [strange]
    assert await listed("--status", "delivered") == [fine]
    assert await listed("--status", "failed") == []
    assert await listed("--org", "acme") == [strange, fine]
    assert await listed("--org", "other") == []

    async def noticed() -> bool:
        return set(await listed("--attention")) == {strange}

    await eventually(noticed)
    rows = json.loads(await made.run("payouts", "list", "--attention", "--json"))["data"]
    assert {each["code"] for each in rows} == {"unknown_word"}
    assert [each["last_at"] for each in rows] == sorted(
        (each["last_at"] for each in rows), reverse=True
    )
    assert "unknown_word" in await made.run("payouts", "show", strange)
