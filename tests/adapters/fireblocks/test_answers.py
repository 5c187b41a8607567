"""What each answer of Fireblocks means: create, execute, status, and the request that they answer."""

from __future__ import annotations

import hashlib
import json
import uuid
from decimal import Decimal
from typing import Any

import jwt
import pytest

from gateway.adapter import (
    Absent,
    CannotLook,
    FailureCode,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Report,
    SubStatus,
)
from tests.adapters.fireblocks.rig import adapter_for, answering, fetch, order, pem, submit
from tests.adapters.fireblocks.workspace import EXTERNAL_WALLET
from tests.clock import SetClock

VALIDATION = {"error": {"type": "VALIDATION", "message": "bad payee account"}}
BURNT = {"message": "the Idempotency-Key cannot be reused after an internal error", "code": 1}
LOCKED = {"error": {"type": "VALIDATION", "message": "payment account has an active payout"}}
DONE = {"error": {"type": "VALIDATION", "message": "payout was already executed"}}
TWICE = {"error": {"type": "VALIDATION", "message": "this was done twice"}}
BUSY = {
    "message": "already executed: another payout of this account, which is in progress",
    "code": 1,
}


@pytest.mark.parametrize(
    ("status", "body", "expected", "fresh"),
    [
        # Shape of the payments API: type and message.
        (400, VALIDATION, Rejected, False),
        (422, {"error": {"type": "UNPROCESSABLE_ENTITY", "message": "amount"}}, Rejected, False),
        (404, {"error": {"type": "NOT_FOUND", "message": "payment account"}}, Rejected, False),
        (403, {"error": {"type": "FORBIDDEN", "message": "no"}}, NotSent, True),
        (400, {"error": {"type": "AUTHORIZATION", "message": "no right"}}, NotSent, True),
        (500, {"error": {"type": "INTERNAL", "message": "x"}}, NotSent, True),
        # Shape of the gateway: message and code.
        (400, {"message": "amount is malformed", "code": 7}, Rejected, False),
        (401, {"message": "JWT is missing", "code": -3}, NotSent, False),
        (429, {"message": "slow down", "code": 429}, NotSent, False),
        (400, BURNT, NotSent, True),
        (409, {"message": "conflict", "code": 2}, NotSent, True),
        # A wrong address of ours, or a proxy's opinion: never the payout's fault.
        (404, {"message": "no Route matched with those values"}, NotSent, True),
        (404, "<html>not found</html>", NotSent, True),
        (400, "<html>plain HTTP was sent to an HTTPS port</html>", NotSent, True),
        (400, {"error": {"type": "VALIDATION"}}, NotSent, True),
        (502, "<html>bad gateway</html>", NotSent, True),
        (302, "", NotSent, True),
        # A success that is none.
        (201, {"payoutId": "p"}, NotSent, True),
        (200, {"no": "id"}, NotSent, True),
        (200, {"payoutId": ""}, NotSent, True),
        (200, [1], NotSent, True),
        (200, "[" * 100_000, NotSent, True),
    ],
)
async def test_every_answer_to_create(
    status: int, body: Any, expected: type[Exception], *, fresh: bool
) -> None:
    """All three error shapes. What is our fault or theirs fails no payout, and takes a fresh key."""
    async with answering({"create": (status, body)}) as (adapter, wire):
        mine = order()
        with pytest.raises(expected):
            await submit(adapter, mine)
        assert [each[0] for each in wire.calls] == ["create"]
        assert mine.story == (["remember create_step"] if fresh else [])
        assert "payout_id" not in mine.notes


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, {"payoutId": "other"}, OutcomeUnknown),
        (200, "half", OutcomeUnknown),
        (200, [1], OutcomeUnknown),
        (202, {}, OutcomeUnknown),
        (302, "", OutcomeUnknown),
        (401, {"message": "expired", "code": -10}, NotSent),
        (403, {"message": "no", "code": -8}, NotSent),
        (429, {"message": "slow", "code": 1}, NotSent),
        (400, VALIDATION, Rejected),
        (400, LOCKED, NotSent),
        (400, TWICE, OutcomeUnknown),
        (400, BURNT, OutcomeUnknown),
        (400, "<html>bad request</html>", OutcomeUnknown),
        (400, {"error": {"type": "INTERNAL", "message": "x"}}, OutcomeUnknown),
        # Not among the documented answers of execute: no proof of anything.
        (404, {"error": {"type": "NOT_FOUND", "message": "payout"}}, OutcomeUnknown),
        (409, {"error": {"type": "VALIDATION", "message": "conflict"}}, OutcomeUnknown),
        (422, {"error": {"type": "UNPROCESSABLE_ENTITY", "message": "x"}}, OutcomeUnknown),
        (500, {"error": {"type": "INTERNAL", "message": "x"}}, OutcomeUnknown),
        (502, "<html>bad gateway</html>", OutcomeUnknown),
        (504, "", OutcomeUnknown),
    ],
)
async def test_every_answer_to_execute(status: int, body: Any, expected: type[Exception]) -> None:
    """A clear no to the first call is one; everything else is unknown, or was stopped at the door."""
    async with answering({"execute": (status, body)}) as (adapter, wire):
        mine = order()
        with pytest.raises(expected):
            await submit(adapter, mine)
        assert len(wire.made("execute")) == 1
        # What was looked at used up its key; what was stopped at the door did not.
        assert mine.notes.get("execute_step", 1) == (1 if status in {401, 403, 429} else 2)


@pytest.mark.parametrize(
    ("body", "expected"), [(VALIDATION, OutcomeUnknown), (TWICE, OutcomeUnknown), (LOCKED, NotSent)]
)
async def test_a_refused_repeat_is_never_final(body: Any, expected: type[Exception]) -> None:
    """The first call may have arrived. Only a busy account is waited for."""
    async with answering({"execute": (400, body)}) as (adapter, wire):
        mine = order()
        wire.answers["execute"] = (502, "")
        with pytest.raises(OutcomeUnknown):
            await submit(adapter, mine)
        wire.answers["execute"] = (400, body)
        with pytest.raises(expected):
            await submit(adapter, mine.again())
        keys = [headers["Idempotency-Key"] for _, _, headers, _ in wire.made("execute")]
        assert len(set(keys)) == 2
        assert len(wire.made("create")) == 1


@pytest.mark.parametrize("status", [400, 409])
@pytest.mark.parametrize("lost", [False, True])
async def test_a_set_that_was_executed_before_is_accepted(status: int, *, lost: bool) -> None:
    """The API says so of this very set, which may wait for its account and not show it."""
    async with answering({"execute": (502, "")}) as (adapter, wire):
        mine = order()
        if lost:
            with pytest.raises(OutcomeUnknown):
                await submit(adapter, mine)
            mine = mine.again()
        wire.answers["execute"] = (status, DONE)
        report = await submit(adapter, mine)
        assert (report.sub_status, report.custodian_word) == (
            SubStatus.SUBMITTED,
            "executed before",
        )
        # Of the account, or of another set, it says nothing about ours.
        wire.answers["execute"] = (400, BUSY)
        with pytest.raises((OutcomeUnknown, NotSent)):
            await submit(adapter, mine.again())


@pytest.mark.parametrize(
    "look",
    [
        (500, ""),
        (429, {"message": "slow", "code": 1}),
        (404, {"error": {"type": "NOT_FOUND", "message": "payout"}}),
        (404, "<html>"),
        (200, {"payoutId": "another"}),
        (200, "no json"),
    ],
)
async def test_a_refusal_that_cannot_be_checked_is_unknown(look: tuple[int, Any]) -> None:
    """Unseen is not unexecuted: a refusal is final only where the set is seen not executed."""
    async with answering({"execute": (400, VALIDATION), "status": look}) as (adapter, _):
        with pytest.raises(OutcomeUnknown):
            await submit(adapter, order())


async def test_a_busy_account_says_nothing_of_an_earlier_execute() -> None:
    """This call did nothing; the set may have been executed by the first one, and wait."""
    async with answering({"execute": (502, "")}) as (adapter, wire):
        mine = order()
        with pytest.raises(OutcomeUnknown):
            await submit(adapter, mine)
        wire.answers["execute"] = (400, LOCKED)
        with pytest.raises(NotSent):
            await submit(adapter, mine.again())
        again = mine.again()
        assert again.moved
        assert isinstance(await fetch(adapter, again), CannotLook)


async def test_a_refused_execute_that_was_executed() -> None:
    """A proxy sent it twice: the status tells, not the refusal of the second one."""
    async with answering({"execute": (400, VALIDATION)}) as (adapter, wire):
        mine = order()
        wire.change["status"] = "VERIFYING"
        report = await submit(adapter, mine)
        assert report.sub_status is SubStatus.SUBMITTED


async def test_no_connection_is_not_sent() -> None:
    """Refused before any byte: nothing moved, in create and in execute."""
    url, key = "http://127.0.0.1:9/v1", pem()
    async with adapter_for(url, SetClock(), api_key="k-123456", private_key=key) as adapter:
        with pytest.raises(NotSent):
            await submit(adapter, order())
        mine = order()
        await mine.remember(payout_id="p-1", instruction_id="i")
        with pytest.raises(NotSent):
            await submit(adapter, mine)
        assert mine.story[-1] == "moving"


@pytest.mark.parametrize(
    ("status", "body", "absent"),
    [
        (404, {"error": {"type": "NOT_FOUND", "message": "payout"}}, True),
        (404, {"message": "Not found", "code": 1404}, True),
        (404, {"message": "no Route matched with those values"}, False),
        (404, "<html>not found</html>", False),
    ],
)
async def test_only_the_custodian_tells_absence(status: int, body: Any, *, absent: bool) -> None:
    """A proxy's 404 proves nothing: it would let the engine pay elsewhere."""
    async with answering({"status": (status, body)}) as (adapter, _):
        mine = order()
        await mine.remember(payout_id="p-1")
        if absent:
            assert isinstance(await fetch(adapter, mine), Absent)
        else:
            with pytest.raises(NotSent):
                await fetch(adapter, mine)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"amount": {"amount": "430", "assetId": "USDC"}}, ()),
        ({"amount": {"amount": "43", "assetId": "USDT"}}, ()),
        ({"amount": {"amount": 43, "assetId": "USDC"}}, ("instruction",)),
        ({"amount": {"amount": "sNaN", "assetId": "USDC"}}, ("instruction",)),
        ({"payeeAccount": {"id": "another", "type": "EXTERNAL_WALLET"}}, ()),
        ({"payeeAccount": {"id": EXTERNAL_WALLET, "type": "VAULT_ACCOUNT"}}, ()),
        ({"payeeAccount": {"id": EXTERNAL_WALLET}}, ("instruction",)),
        ({"payeeAccount": None}, ("instruction",)),
        ({"double": True}, ("instructionSet",)),
        (
            {"paymentAccount": {"id": "another", "type": "EXCHANGE_ACCOUNT"}},
            ("paymentAccount",),
        ),
        ({"paymentAccount": {}}, ("paymentAccount",)),
    ],
)
async def test_another_echo_is_never_executed(
    change: dict[str, Any], told: tuple[str, ...]
) -> None:
    """What create registered is compared with the order; a difference waits for a person, who sees it."""
    async with answering({}, change) as (adapter, wire):
        mine = order()
        report = await submit(adapter, mine)
        assert report.sub_status is SubStatus.AWAITING_APPROVAL
        assert report.detail
        assert report.unknown_words == told
        assert report.echo is not None
        assert told or report.echo.differences()
        assert [each[0] for each in wire.calls] == ["create"]
        assert mine.story == []


@pytest.mark.parametrize(
    "change",
    [
        {
            "paymentAccount": {
                "id": "EX_SUB3",
                "type": " EXCHANGE_ACCOUNT",
                "name": "main",
            }
        },
        {"payeeAccount": {"id": EXTERNAL_WALLET, "type": "EXTERNAL_WALLET ", "name": "shop"}},
        {"amount": {"amount": "43.00", "assetId": "USDC", "usd": "43"}},
        {"id": None},
        {"name": "a label"},
    ],
)
async def test_what_is_only_told_in_more_words_is_executed(change: dict[str, Any]) -> None:
    """Labels that the schema does not declare, blanks, zeros and ids of their own make no difference."""
    async with answering({}, change) as (adapter, wire):
        mine = order()
        assert (await submit(adapter, mine)).sub_status is SubStatus.SUBMITTED
        assert len(wire.made("execute")) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"payoutId": "another"},
        {"paymentAccount": {"id": "another", "type": "EXCHANGE_ACCOUNT"}},
        {"double": True, "id": "not-ours"},
        {"transactions": None},
    ],
)
async def test_a_status_of_something_else_changes_nothing(change: dict[str, Any]) -> None:
    """Another set, account or number of instructions: told to the operator, and no end of it believed."""
    async with answering() as (adapter, wire):
        mine = order()
        await submit(adapter, mine)
        wire.registered.update(status="DONE", state="FINALIZED")
        wire.registered["instructionSet"][0].update(state="FAILED")
        for name, value in change.items():
            if name in {"payoutId", "paymentAccount"}:
                wire.registered[name] = value
            elif name == "double":
                wire.registered["instructionSet"].append(wire.registered["instructionSet"][0])
            else:
                wire.registered["instructionSet"][0][name] = value
        found = await fetch(adapter, mine.again())
        assert isinstance(found, Report)
        assert (found.sub_status, found.failure) == (None, None)
        assert found.unknown_words


async def test_a_transaction_without_an_id_still_counts() -> None:
    """Else a failed instruction could be said to have moved nothing."""
    async with answering() as (adapter, wire):
        mine = order()
        await submit(adapter, mine)
        instruction = wire.registered["instructionSet"][0]
        instruction.update(state="FAILED", transactions=[{"state": "CONFIRMING"}])
        found = await fetch(adapter, mine.again())
        assert isinstance(found, Report)
        assert found.sub_status is SubStatus.OUTCOME_UNKNOWN
        instruction.update(transactions=["nonsense"])
        found = await fetch(adapter, mine.again())
        assert isinstance(found, Report)
        assert (found.sub_status, found.unknown_words) == (None, ("(none)",))


async def test_a_hash_forbids_to_say_that_nothing_moved() -> None:
    """FAILED with a hash is `unknown`, unless the network itself reverted it."""
    for sub_status, moved in (
        ("REJECTED_BY_BLOCKCHAIN", "unknown"),
        ("SMART_CONTRACT_EXECUTION_FAILED", "no"),
    ):
        details = {"txHash": "0xab", "subStatus": sub_status}
        async with answering({"transaction": (200, details)}) as (adapter, wire):
            mine = order()
            await submit(adapter, mine)
            wire.registered["instructionSet"][0].update(
                state="FAILED", transactions=[{"id": "t-1", "state": "FAILED"}]
            )
            found = await fetch(adapter, mine.again())
            assert isinstance(found, Report)
            assert found.failure is not None
            assert found.failure.code is FailureCode.CHAIN_REJECTED
            assert found.failure.funds_moved == moved


async def test_a_retry_after_is_believed_within_reason() -> None:
    """A number of four hundred digits is no time."""
    async with answering({"create": (429, {"message": "slow", "code": 1})}) as (adapter, wire):
        for told, expected in (("7", 7.0), ("9" * 400, 3600.0), ("soon", None), ("-1", None)):
            wire.headers["Retry-After"] = told
            with pytest.raises(NotSent) as caught:
                await submit(adapter, order())
            assert caught.value.again_after_s == expected


def _token(call: tuple[str, str, dict[str, str], bytes]) -> dict[str, Any]:
    token = call[2]["Authorization"].removeprefix("Bearer ")
    assert jwt.get_unverified_header(token) == {"alg": "RS256", "typ": "JWT"}
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


async def test_requests_are_those_of_the_official_client() -> None:
    """Headers and claims, for create, execute and status; the hash is that of the bytes sent."""
    clock = SetClock()
    async with answering(clock=clock) as (adapter, wire):
        mine = order(amount=Decimal("43.50"))
        await submit(adapter, mine)
        await fetch(adapter, mine)
        nonces = set()
        for call, path, headers, body in wire.calls:
            claims = _token((call, path, headers, body))
            assert set(claims) == {"uri", "nonce", "iat", "exp", "sub", "bodyHash"}
            assert claims["uri"] == path
            assert claims["iat"] == int(clock.now().timestamp())
            assert claims["exp"] - claims["iat"] == 55
            assert claims["sub"] == headers["X-API-Key"] == "k-123456"
            assert claims["bodyHash"] == hashlib.sha256(body).hexdigest()
            assert uuid.UUID(claims["nonce"]).version == 4
            nonces.add(claims["nonce"])
            assert headers["Accept"] == "application/json"
        create, execute, status = (headers for _, _, headers, _ in wire.calls)
        assert len(nonces) == 3
        assert create["Content-Type"] == "application/json"
        assert execute["Content-Length"] == "0"
        assert "Content-Type" not in execute
        assert {"Content-Type", "Content-Length", "Idempotency-Key"} & set(status) == set()
        assert create["Idempotency-Key"] != execute["Idempotency-Key"]
        assert all(len(each["Idempotency-Key"]) <= 40 for each in (create, execute))
        (sent,) = json.loads(wire.calls[0][3])["instructionSet"]
        assert sent["amount"] == {"amount": "43.5", "assetId": "USDC"}
        assert sent["id"] == mine.items[0].key


async def test_what_is_sent_is_fixed() -> None:
    """A repeat of create is the same bytes under the same key."""
    async with answering({"create": (502, "")}) as (adapter, wire):
        for _ in range(2):
            with pytest.raises(NotSent):
                await submit(adapter, order())
        (first, second) = wire.calls
        assert first[3] == second[3]
        assert first[2]["Idempotency-Key"] == second[2]["Idempotency-Key"]


async def test_no_secret_in_a_repr() -> None:
    """A request that is told in a log or traceback tells neither key nor token."""
    async with answering() as (adapter, _):
        prepared = await adapter._client.prepare("GET", "/x")
        assert "Bearer" not in repr(prepared)
        assert "k-123456" not in repr(prepared) + repr(adapter.settings)
        assert "PRIVATE KEY" not in repr(adapter.settings)
