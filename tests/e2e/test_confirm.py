"""Payouts that need a person: asked once, answered once, paid once; the passcode is kept nowhere."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.stack import PASSCODE, SHORT_SESSIONS, Stack, eventually, stack, subscribe

pytestmark = pytest.mark.timeout(120)
ORIGIN = "https://shop.example"
SHORT = replace(
    PASSCODE, gateway={**PASSCODE.gateway, "engine": {"idle_s": 0.3, "action_life_s": 3}}
)


@pytest.fixture
async def made(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stack]:
    """A running stack with a subscriber."""
    rail = getattr(request, "param", PASSCODE)
    async with stack(tmp_path, rail=rail) as made:
        await made.start_gateway("--quick")
        await subscribe(made)
        yield made


async def asked(made: Stack, amount: str = "75", account: str = "18") -> tuple[str, dict[str, Any]]:
    """Make a payout and wait until it asks; return its id and what it asks for."""
    quote = await made.quote(amount, payout_account_id=account)
    payout_id = await made.execute(quote)
    payout = await made.reaches(payout_id, "requires_action")
    assert payout["status"] == "pending"
    return payout_id, payout["requires_action"]


def answer(action: dict[str, Any], code: str, **device: str) -> dict[str, Any]:
    """Return the body of a confirm."""
    passcode: dict[str, Any] = {"token": {"code": code}}
    if device:
        passcode["device"] = device
    return {"client_secret": action["client_secret"], "passcode": passcode}


async def confirm(made: Stack, payout_id: str, body: Any, **headers: str) -> tuple[int, Any]:
    """Confirm under the API key."""
    return await made.call("POST", f"/payouts/{payout_id}/confirm", body, **headers)


async def executions(made: Stack) -> int:
    """Return how many executions the provider received."""
    calls = (await made.steer("GET", "calls"))["calls"]
    return Counter(each["call"] for each in calls)["execute"]


async def test_the_caller_gives_the_passcode(made: Stack) -> None:
    """Nothing is called before the answer; then one execution, delivered, reported in order."""
    payout_id, action = await asked(made)
    assert action["type"] == "enter_passcode"
    assert action["client_secret"].startswith("pcs_")
    assert action["attempts_left"] == 5
    assert action["expires_at"]
    assert (await made.steer("GET", "calls"))["calls"] == []
    status, listed = await made.call("GET", "/payouts")
    assert status == 200
    assert listed["data"][0]["requires_action"]["client_secret"] is None
    status, payout = await confirm(
        made, payout_id, answer(action, made.credentials["passcode"], name="till 4")
    )
    assert status == 202, payout
    assert payout["requires_action"] is None
    await made.reaches(payout_id, "delivered")
    (entry,) = await made.ledger()
    assert (entry["destination"], entry["amount"]) == ("18", "75")
    wanted = [
        "payout.created",
        "payout.requires_action",
        "payout.broadcast",
        "payout.delivered",
    ]

    async def told() -> bool:
        return made.receiver.types(payout_id) == wanted

    await eventually(told)
    assert made.receiver.unverified == 0
    assert action["client_secret"] not in str(made.receiver.received)
    shown = await made.run("payouts", "show", payout_id)
    # The device is fixed with the attempt; what came from the request is marked as such.
    assert "till 4" in shown
    assert "device.client_ip" in shown


async def test_a_browser_confirms_with_the_client_secret_alone(made: Stack) -> None:
    """A code was sent; the page of a configured origin reads and answers without an API key."""
    payout_id, action = await asked(made, account="19")
    assert action["channel"] == "sms"
    assert action["masked_target"]
    (message,) = (await made.steer("GET", "inbox"))["messages"]
    url = f"{made.url}/payouts/{payout_id}"
    async with aiohttp.ClientSession() as page:
        preflight = {
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        }
        async with page.options(url + "/confirm", headers=preflight) as may:
            assert may.status == 200
            assert may.headers["Access-Control-Allow-Origin"] == ORIGIN
        stranger = {**preflight, "Origin": "https://evil.example"}
        async with page.options(url + "/confirm", headers=stranger) as may:
            assert may.status == 400
        secret = {"Authorization": f"Bearer {action['client_secret']}", "Origin": ORIGIN}
        async with page.get(url, headers=secret) as reply:
            reduced = await reply.json()
            assert reply.status == 200
            assert reply.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert set(reduced) == {
            *("id", "object", "livemode", "status", "sub_status"),
            *("recipient_gets", "recipient_asset", "requires_action"),
        }
        assert reduced["requires_action"]["client_secret"] is None
        body = answer(action, message["code"])
        async with page.post(url + "/confirm", json=body, headers={"Origin": ORIGIN}) as reply:
            assert reply.status == 202, await reply.text()
            assert set(await reply.json()) == set(reduced)
        await made.reaches(payout_id, "delivered")
        async with page.get(url, headers=secret) as reply:
            assert (await reply.json())["status"] == "delivered"
        async with page.post(url + "/confirm", json=body) as reply:
            assert reply.status == 409
            assert (await reply.json())["code"] == "action_not_required"
    assert len(await made.ledger()) == 1


async def test_wrong_codes_are_counted_and_a_new_action_begins(made: Stack) -> None:
    """Five, then the session is locked: another client secret, session and reference."""
    payout_id, action = await asked(made)
    for left in (4, 3, 2, 1, 0):
        status, problem = await confirm(made, payout_id, answer(action, "WRONG"))
        assert (status, problem["code"], problem["attempts_left"]) == (422, "wrong_answer", left)

    async def renewed() -> dict[str, Any] | None:
        now = (await made.payout(payout_id))["requires_action"]
        return now if now and now["attempts_left"] == 5 else None

    new = await eventually(renewed)
    assert new is not None
    assert new["client_secret"] != action["client_secret"]
    status, problem = await confirm(made, payout_id, answer(action, made.credentials["passcode"]))
    assert (status, problem["code"]) == (404, "payout_not_found")
    status, _ = await confirm(made, payout_id, answer(new, made.credentials["passcode"]))
    assert status == 202
    await made.reaches(payout_id, "delivered")
    assert len(await made.ledger()) == 1
    feed = (await made.call("GET", f"/events?payout_id={payout_id}"))[1]["data"]
    assert [each["type"] for each in feed].count("payout.requires_action") == 2
    assert [each["data"]["sequence"] for each in feed] == list(range(1, len(feed) + 1))


async def test_what_is_not_answered_right(made: Stack) -> None:
    """Wrong and foreign secrets, nothing to answer, odd bodies: each its own answer, nothing sent."""
    payout_id, action = await asked(made)
    _, other = await asked(made)
    right = made.credentials["passcode"]
    for secret in (
        other["client_secret"],
        "pcs_nonsense",
        "pcs_ünicode",
        action["client_secret"][:-1],
    ):
        status, problem = await confirm(made, payout_id, answer({"client_secret": secret}, right))
        assert (status, problem["code"]) == (404, "payout_not_found"), secret
    for body, code in (
        ({**answer(action, right), "extra": 1}, "invalid_request"),
        ({"client_secret": action["client_secret"]}, "invalid_request"),
        ({"client_secret": action["client_secret"], "passcode": {"token": {}}}, "invalid_request"),
        (answer(action, ""), "invalid_request"),
        (answer(action, "9" * 65), "invalid_request"),
        (answer(action, "9" * 1_000_000), "payload_too_large"),
    ):
        status, problem = await confirm(made, payout_id, body)
        assert problem["code"] == code
        assert status in {413, 422}
        assert "999" not in str(problem)
    assert await executions(made) == 0
    for code in ("1", "pässcode✓"):

        async def answered(code: str = code) -> tuple[int, Any] | None:
            # A look that is in progress is waited for, but not for ever.
            status, problem = await confirm(made, payout_id, answer(action, code))
            return None if problem["code"] == "confirm_in_progress" else (status, problem["code"])

        assert await eventually(answered) == (422, "wrong_answer")
    status, _ = await confirm(made, payout_id, answer(action, right))
    assert status == 202
    await made.reaches(payout_id, "delivered")
    status, problem = await confirm(made, payout_id, answer(action, right))
    assert (status, problem["code"]) == (409, "action_not_required")


@pytest.mark.parametrize("made", [SHORT], indirect=True)
async def test_an_action_that_nobody_answers_expires(made: Stack) -> None:
    """Nothing was debited, and the payout says so; a late answer is refused."""
    payout_id, action = await asked(made)
    payout = await made.reaches(payout_id, "failed")
    assert payout["failure"]["code"] == "authentication_expired"
    assert payout["failure"]["funds_moved"] == "no"
    status, problem = await confirm(made, payout_id, answer(action, made.credentials["passcode"]))
    assert status == 409
    assert problem["code"] in {"action_expired", "action_not_required"}
    assert await made.ledger() == []


async def test_twenty_answers_at_once_are_one_execution(made: Stack) -> None:
    """One is carried out; the others get 409."""
    payout_id, action = await asked(made)
    body = answer(action, made.credentials["passcode"])
    replies = await asyncio.gather(*(confirm(made, payout_id, body) for _ in range(20)))
    codes = Counter(status if status == 202 else reply["code"] for status, reply in replies)
    assert codes[202] == 1
    assert set(codes) <= {202, "confirm_in_progress", "action_not_required"}
    await made.reaches(payout_id, "delivered")
    assert await executions(made) == 1
    assert len(await made.ledger()) == 1


@pytest.mark.parametrize("made", [SHORT_SESSIONS], indirect=True, ids=["short"])
@pytest.mark.parametrize("fault", ["lose_reply", "error_after", "half_response", "drop_before"])
async def test_a_lost_reply_and_another_answer_are_one_execution(made: Stack, fault: str) -> None:
    """The outcome is unknown and found out; where nothing arrived, it is asked for again."""
    await made.steer("POST", "faults", {"call": "execute", "fault": fault, "times": 1})
    payout_id, action = await asked(made)
    body = answer(action, made.credentials["passcode"])
    status, payout = await confirm(made, payout_id, body)
    assert status == 202
    assert payout["status"] == "pending"
    status, _ = await confirm(made, payout_id, body)
    assert status == 409
    if fault == "drop_before":
        payout = await made.reaches(payout_id, "requires_action", seconds=40)
        new = payout["requires_action"]
        assert new["client_secret"] != action["client_secret"]

        async def answered() -> bool:
            status, _ = await confirm(made, payout_id, answer(new, made.credentials["passcode"]))
            return status == 202

        await eventually(answered)
    await made.reaches(payout_id, "delivered", seconds=40)
    assert len(await made.ledger()) == 1


async def test_a_provider_that_is_away_leaves_it_asking(made: Stack) -> None:
    """Down between session and execution: 503, nothing sent, and the same answer works later."""
    await made.steer("POST", "faults", {"call": "session", "fault": "error_before", "times": 1})
    payout_id, action = await asked(made)
    body = answer(action, made.credentials["passcode"])
    status, problem = await confirm(made, payout_id, body)
    assert (status, problem["code"]) == (503, "confirm_not_sent")
    assert (await made.payout(payout_id))["sub_status"] == "requires_action"
    await made.steer(
        "POST", "faults", {"call": "execute", "fault": "reject", "status": 403, "times": 1}
    )
    status, problem = await confirm(made, payout_id, body)
    assert (status, problem["code"]) == (503, "confirm_not_sent")
    payout = await made.payout(payout_id)
    assert payout["requires_action"]["attempts_left"] == 5
    status, _ = await confirm(made, payout_id, body)
    assert status == 202
    await made.reaches(payout_id, "delivered")
    assert len(await made.ledger()) == 1


async def test_a_late_refusal_of_the_code_asks_again(made: Stack) -> None:
    """PROCESSING is not believed for ten seconds; FAILED for the code then asks once more."""
    payout_id, action = await asked(made, amount="4000.10")
    status, payout = await confirm(made, payout_id, answer(action, made.credentials["passcode"]))
    assert status == 202
    assert payout["status"] == "pending"
    payout = await made.reaches(payout_id, "requires_action", "failed", "broadcast")
    assert payout["sub_status"] == "requires_action"
    assert payout["requires_action"]["client_secret"] != action["client_secret"]
    assert await made.ledger() == []


async def test_a_repeat_under_one_key_is_replayed(made: Stack) -> None:
    """The fingerprint leaves the passcode out; another device is another body."""
    payout_id, action = await asked(made)
    body = answer(action, made.credentials["passcode"])
    status, first = await confirm(made, payout_id, body, idempotency_key="k-1")
    assert status == 202
    status, again = await confirm(made, payout_id, answer(action, "other"), idempotency_key="k-1")
    assert (status, again) == (202, first)
    status, problem = await confirm(
        made, payout_id, answer(action, "other", name="x"), idempotency_key="k-1"
    )
    assert (status, problem["code"]) == (422, "idempotency_key_reused")
    await made.reaches(payout_id, "delivered")
    assert await executions(made) == 1


async def by_secret(made: Stack, payout_id: str, body: Any, key: str) -> tuple[int, Any, bool]:
    """Confirm as a browser does, without an API key; return also whether it is a replay."""
    async with (
        aiohttp.ClientSession() as page,
        page.post(
            f"{made.url}/payouts/{payout_id}/confirm", json=body, headers={"Idempotency-Key": key}
        ) as reply,
    ):
        return reply.status, await reply.json(), "Idempotent-Replayed" in reply.headers


async def test_a_replay_is_for_the_audience_of_its_answer(made: Stack) -> None:
    """What was answered to an API key is not given to a client secret under the same key, nor the reverse."""
    payout_id, action = await asked(made)
    body = answer(action, made.credentials["passcode"])
    status, full = await confirm(made, payout_id, body, idempotency_key="k-1")
    assert status == 202
    assert {"metadata", "quote", "timeline"} <= set(full)
    status, told, replayed = await by_secret(made, payout_id, body, "k-1")
    assert (status, told["code"], replayed) == (409, "action_not_required", False)
    assert not {"metadata", "quote", "timeline"} & set(told)
    # The API key's own replay is as it was.
    assert await confirm(made, payout_id, body, idempotency_key="k-1") == (202, full)
    other_id, action = await asked(made)
    body = answer(action, made.credentials["passcode"])
    # Another payout's page: the same text is another key, and not one that is taken.
    status, reduced, replayed = await by_secret(made, other_id, body, "k-1")
    assert (status, replayed) == (202, False)
    assert await by_secret(made, other_id, body, "k-1") == (202, reduced, True)
    status, told = await confirm(made, other_id, body, idempotency_key="k-2")
    assert (status, told["code"]) == (409, "action_not_required")
    for each in (payout_id, other_id):
        await made.reaches(each, "delivered")
    assert await executions(made) == 2


async def test_another_action_is_not_answered_by_a_replay(made: Stack) -> None:
    """The secret of the next action under the key of the one before: the answer is carried out."""
    payout_id, first = await asked(made, amount="4000.10")
    right = made.credentials["passcode"]
    status, _, _ = await by_secret(made, payout_id, answer(first, right), "k-1")
    assert status == 202

    second = (await made.reaches(payout_id, "requires_action"))["requires_action"]
    assert second["client_secret"] != first["client_secret"]
    status, told, replayed = await by_secret(made, payout_id, answer(second, "WRONG"), "k-1")
    assert (status, told["code"], replayed) == (422, "wrong_answer", False)


@pytest.mark.parametrize("failpoint", ["order.moved", "submit.returned", "order.remembered"])
async def test_a_kill_during_an_answer_pays_at_most_once(tmp_path: Path, failpoint: str) -> None:
    """Between execution sent and reply stored: found, without asking again. Before it: asked again."""
    async with stack(tmp_path, rail=SHORT_SESSIONS) as made:
        plain = await made.start_gateway("--quick")
        payout_id, action = await asked(made)
        await plain.stop()
        dying = await made.start_gateway("--quick", "--at", failpoint)
        body = answer(action, made.credentials["passcode"])
        with pytest.raises(aiohttp.ClientError):
            await confirm(made, payout_id, body)
        assert await dying.died(30) == -signal.SIGKILL
        await made.start_gateway("--quick")
        if failpoint == "submit.returned":
            payout = await made.reaches(payout_id, "delivered", seconds=40)
            steps = [each["sub_status"] for each in payout["timeline"]]
            assert steps.count("requires_action") == 1
        else:

            async def answered() -> bool:
                now = (await made.payout(payout_id))["requires_action"]
                if now is None:
                    return False
                status, _ = await confirm(
                    made, payout_id, answer(now, made.credentials["passcode"])
                )
                return status == 202

            await eventually(answered, seconds=40)
            await made.reaches(payout_id, "delivered", seconds=40)
        assert len(await made.ledger()) == 1


async def test_cancel_ends_what_has_not_moved(made: Stack) -> None:
    """While it asks: failed, canceled, nothing moved. Afterwards it is too late."""
    payout_id, action = await asked(made)
    status, payout = await made.call("POST", f"/payouts/{payout_id}/cancel")
    assert status == 202, payout
    assert (payout["status"], payout["failure"]["code"]) == ("failed", "canceled")
    assert payout["failure"]["funds_moved"] == "no"
    status, problem = await confirm(made, payout_id, answer(action, made.credentials["passcode"]))
    assert (status, problem["code"]) == (409, "action_not_required")
    paid, action = await asked(made)
    await confirm(made, paid, answer(action, made.credentials["passcode"]))
    status, problem = await made.call("POST", f"/payouts/{paid}/cancel")
    assert status == 409
    assert problem["code"] in {"cancel_unsupported", "cancel_too_late"}
    await made.reaches(paid, "delivered")
    status, problem = await made.call("POST", f"/payouts/{paid}/cancel")
    assert (status, problem["code"]) == (409, "cancel_too_late")
    assert len(await made.ledger()) == 1


async def test_no_passcode_is_kept_anywhere(tmp_path: Path) -> None:
    """After success, refusal, timeout, a strange answer and a crash: nowhere in any file or answer."""
    wrong = "WRONGPASSCODE77"
    async with stack(tmp_path, rail=PASSCODE) as made:
        right = made.credentials["passcode"]
        gateway = await made.start_gateway("--quick")
        await subscribe(made)
        said: list[str] = []

        async def give(payout_id: str, action: dict[str, Any], code: str) -> int:
            status, reply = await confirm(
                made, payout_id, answer(action, code), idempotency_key=f"{payout_id}-{code[:2]}"
            )
            said.append(str(reply))
            return status

        payout_id, action = await asked(made)
        assert await give(payout_id, action, wrong) == 422
        assert await give(payout_id, action, right) == 202
        await made.reaches(payout_id, "delivered")
        for fault in ("hang_after", "bad_json", "lose_reply"):
            more = {"seconds": 5} if fault == "hang_after" else {}
            await made.steer("POST", "faults", {"call": "execute", "fault": fault, **more})
            payout_id, action = await asked(made)
            assert await give(payout_id, action, right) == 202
        payout_id, action = await asked(made)
        await gateway.stop()
        dying = await made.start_gateway("--quick", "--at", "order.moved")
        with pytest.raises(aiohttp.ClientError):
            await give(payout_id, action, right)
        await dying.died()
        await made.start_gateway("--quick")
        said += [str(each["body"]) for each in made.receiver.received]
        said.append(await made.run("payouts", "show", payout_id))
        assert not [each for each in said if right in each or wrong in each]
        files = [each for each in tmp_path.iterdir() if not each.name.startswith("twin.")]
        assert {"gateway.db", "gateway.log"} <= {each.name for each in files}
        for path in files:
            raw = path.read_bytes()
            assert right.encode() not in raw, path
            assert wrong.encode() not in raw, path
