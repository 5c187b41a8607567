"""Tests of what can be made to go wrong on the card-passcode twin's calls."""

from __future__ import annotations

import contextlib

import aiohttp
import pytest

from adapters.card_passcode.twin.app import _CALLS
from tests.adapters.card_passcode.merchant import Merchant, Reply

#: aiohttp repeats a GET that was cut off, once; the twin must be asked to cut both.
_TRIES = {call: 2 if call == "status" else 1 for call in _CALLS}
_BROKEN = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError)


async def _make(merchant: Merchant, call: str) -> Reply:  # noqa: PLR0911 - one per call
    """Make any of the calls, well formed."""
    match call:
        case "token":
            return await merchant.obtain()
        case "party":
            body: dict[str, object] = {"fullname": "A", "phone": "231771234567"}
            return await merchant.call("POST", "/parties/create", body)
        case "counterparty":
            body = {"relationship_type": "BENEFICIARY"}
            return await merchant.call("POST", "/counterparties/create", body)
        case "account":
            body = {"account_name": "A", "provider": "PAWAPAY", "method": "WALLET", "party_id": 42}
            path = "/payment-accounts/create?operation_type=PAYOUT"
            return await merchant.call("POST", path, body)
        case "session":
            return await merchant.session()
        case "send_code":
            body = {"session_id": await merchant.opened(account=19), "channel": "sms"}
            return await merchant.call("POST", "/passcodes/send", body)
        case "execute":
            return await merchant.execute(merchant.execution(await merchant.opened()))
    return await merchant.status(await merchant.paid())


@pytest.mark.parametrize("call", _CALLS)
async def test_answers_that_are_told(merchant: Merchant, call: str) -> None:
    """A refusal, a rate limit with `Retry-After`, a 5xx in JSON and one of a proxy."""
    await merchant.token()
    await merchant.fault(call, "reject", status=403)
    reply = await _make(merchant, call)
    assert (reply.status, type(reply.json["detail"])) == (403, str)
    await merchant.fault(call, "rate_limit", retry_after_s=7)
    reply = await _make(merchant, call)
    assert (reply.status, reply.headers["Retry-After"]) == (429, "7")
    await merchant.fault(call, "error_before", status=500)
    reply = await _make(merchant, call)
    assert (reply.status, reply.json) == (500, {"detail": "internal error"})
    await merchant.fault(call, "error_after", status=502)
    reply = await _make(merchant, call)
    assert (reply.status, "<html>" in reply.text) == (502, True)
    assert (await _make(merchant, call)).status == 200


@pytest.mark.parametrize("fault", ["drop_before", "lose_reply", "half_response"])
@pytest.mark.parametrize("call", _CALLS)
async def test_answers_that_are_lost(merchant: Merchant, call: str, fault: str) -> None:
    """The connection breaks; afterwards all is well."""
    await merchant.token()
    await merchant.fault(call, fault, times=_TRIES[call])
    with pytest.raises(_BROKEN):
        await _make(merchant, call)
    await merchant.steer("POST", "reset")
    assert (await _make(merchant, call)).status == 200


@pytest.mark.parametrize(
    ("fault", "moved"),
    [
        ("drop_before", 0),
        ("error_before", 0),
        ("reject", 0),
        ("rate_limit", 0),
        ("lose_reply", 1),
        ("error_after", 1),
        ("half_response", 1),
        ("bad_json", 1),
    ],
)
async def test_what_a_fault_of_execute_does(merchant: Merchant, fault: str, moved: int) -> None:
    """Some faults stand before the deed and some behind it; a repeat ends with one entry."""
    body = merchant.execution(await merchant.opened())
    await merchant.fault("execute", fault)
    with contextlib.suppress(*_BROKEN):
        await merchant.execute(body)
    assert (await merchant.status(body["reference_id"])).status == (200 if moved else 404)
    assert (await merchant.execute(body)).status == (422 if moved else 200)
    await merchant.steps(3)
    assert len(await merchant.ledger()) == 1


async def test_a_request_can_arrive_late(merchant: Merchant) -> None:
    """Cut off and not found; carried out later all the same. A repeat meanwhile wins."""
    late, early = [merchant.execution(await merchant.opened()) for _ in range(2)]
    for body in (late, early):
        await merchant.fault("execute", "late_arrival", seconds=50)
        with pytest.raises(_BROKEN):
            await merchant.execute(body)
        assert (await merchant.status(body["reference_id"])).status == 404
    assert (await merchant.execute(early)).status == 200
    await merchant.advance(51)
    assert (await merchant.status(late["reference_id"])).status == 200
    await merchant.steps(3)
    assert len(await merchant.ledger()) == 2


async def test_a_late_request_needs_a_token_too(merchant: Merchant) -> None:
    """A fault lets no stranger in."""
    await merchant.fault("execute", "late_arrival", seconds=0)
    reply = await merchant.send("POST", "/executions/payout", {}, "nonsense")
    assert reply.status == 401


async def test_an_old_state_is_shown(merchant: Merchant) -> None:
    """As it was when the fault was set; a newer execution shows its first state, or hides."""
    old = await merchant.paid()
    await merchant.fault("status", "old_state", seconds=3600, hide_new=True)
    await merchant.advance(1)
    new = await merchant.paid()
    await merchant.steps(3)
    assert (await merchant.look(old))["status"] == "PENDING"
    assert (await merchant.status(new)).status == 404
    await merchant.advance(3600)
    assert (await merchant.look(old))["status"] == "COMPLETED"
    assert (await merchant.look(new))["status"] == "COMPLETED"
    await merchant.fault("status", "old_state", seconds=3600)
    newest = await merchant.paid()
    await merchant.steps(3)
    assert (await merchant.look(newest))["status"] == "PENDING"


async def test_a_5xx_may_burn_the_reference(merchant: Merchant) -> None:
    """Only where the switch says so; the session is untouched."""
    await merchant.switch(burnt_by_5xx=True)
    body = merchant.execution(await merchant.opened())
    await merchant.fault("execute", "error_before")
    assert (await merchant.execute(body)).status == 500
    assert (await merchant.execute(body)).fields == ["body.reference_id"]
    again = merchant.execution(body["session_id"])
    assert (await merchant.execute(again)).status == 200


async def test_unknown_faults_and_webhooks(merchant: Merchant) -> None:
    """There are no webhooks to break, and no keys to burn."""
    known = (await merchant.steer("GET", "faults"))["known"]
    assert set(known) == set(_CALLS)
    assert {"late_arrival", "fail_later"} <= set(known["execute"])
    await merchant.steer("POST", "faults", {"call": "webhook", "fault": "drop"}, 422)
    await merchant.steer("POST", "faults", {"call": "execute", "fault": "burn_key"}, 422)
    assert (await merchant.steer("GET", "webhooks"))["deliveries"] == []


async def test_what_nobody_serves(merchant: Merchant) -> None:
    """A path or method that the provider has not is answered in its shape."""
    for method, path in (("GET", "/sessions/payout"), ("GET", "/nothing"), ("DELETE", "/status")):
        reply = await merchant.call(method, path)
        assert reply.status in {404, 405}
        assert isinstance(reply.json["detail"], str)
