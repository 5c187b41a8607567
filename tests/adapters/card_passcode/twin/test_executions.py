"""Tests of the card-passcode twin's executions: once per reference, and every end."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from adapters.card_passcode.twin.app import __doc__ as told
from adapters.card_passcode.twin.world import FAILURES, MAGIC
from tests.adapters.card_passcode.merchant import Merchant, open_merchant

_MEMBERS = {
    "reference_id",
    "status",
    "payer_amount",
    "payer_currency",
    "payee_amount",
    "payee_currency",
    "operation_type",
    "provider_transaction_id",
    "gateway_message",
    "wallet_message",
    "client_secret",
    "requires_action",
}


async def test_a_life(merchant: Merchant) -> None:
    """PENDING, PROCESSING, COMPLETED; one ledger entry, at the end; the wallet pays a fee."""
    body = merchant.execution(await merchant.opened())
    first = (await merchant.execute(body)).json
    assert set(first) == _MEMBERS
    assert (first["reference_id"], first["status"]) == (body["reference_id"], "PENDING")
    assert first["operation_type"] == "PAYOUT"
    assert (first["client_secret"], first["requires_action"]) == (None, False)
    words = []
    for _ in range(2):
        assert await merchant.ledger() == []
        await merchant.steps(1)
        words.append((await merchant.look(body["reference_id"]))["status"])
    assert words == ["PROCESSING", "COMPLETED"]
    last = await merchant.look(body["reference_id"])
    assert Decimal(str(last["payee_amount"])) == Decimal(75)
    assert Decimal(str(last["payer_amount"])) == Decimal("75.90")
    assert last["provider_transaction_id"]
    (entry,) = await merchant.ledger()
    at = entry.pop("at")
    assert at.startswith("2026-03-02T")
    assert entry == {
        "reference": body["reference_id"],
        "source": "3",
        "destination": "18",
        "asset": "USD",
        "amount": "75.00",
    }
    (row,) = (await merchant.steer("GET", "balances"))["balances"]
    assert row["amount"] == "999924.10"


@pytest.mark.parametrize(
    ("form", "kinds"),
    [("text", {str}), ("number", {Decimal}), ("mixed", {str, Decimal})],
)
async def test_amounts_are_text_or_numbers(form: str, kinds: set[type]) -> None:
    """The schema leaves it open, so that by default both are seen."""
    async with open_merchant(amount_form=form) as merchant:
        reference = await merchant.paid()
        seen = set()
        for _ in range(3):
            look = await merchant.look(reference)
            seen |= {type(look[name]) for name in ("payer_amount", "payee_amount")}
            await merchant.steps(1)
        assert seen == kinds


@pytest.mark.parametrize(
    ("repeat", "expected"),
    [("session", "body.session_id"), ("reference", "body.reference_id"), ("current", None)],
)
async def test_a_repeat_moves_nothing_again(repeat: str, expected: str | None) -> None:
    """Whatever it is told, one ledger entry; after the end, too."""
    async with open_merchant(repeat=repeat) as merchant:
        body = merchant.execution(await merchant.opened())
        assert (await merchant.execute(body)).status == 200
        for _ in range(3):
            reply = await merchant.execute(body)
            if expected is None:
                assert reply.json == await merchant.look(body["reference_id"])
            else:
                assert reply.fields == [expected]
            await merchant.steps(1)
        assert len(await merchant.ledger()) == 1


async def test_the_code_is_no_part_of_the_content() -> None:
    """The same payout with another code is the same; with another device it is not."""
    async with open_merchant(repeat="current") as merchant:
        body = merchant.execution(await merchant.opened())
        await merchant.execute(body)
        reference = {"reference_id": body["reference_id"]}
        rotated = merchant.execution(body["session_id"], code="another", **reference)
        assert (await merchant.execute(rotated)).status == 200
        moved = merchant.execution(body["session_id"], device={"name": "worker-4"}, **reference)
        fresh = merchant.execution(await merchant.opened(), **reference)
        for other in (moved, fresh):
            assert (await merchant.execute(other)).fields == ["body.reference_id"]


async def test_acceptance_is_atomic() -> None:
    """Twenty at once: one is accepted, money moves once."""
    async with open_merchant() as merchant:
        body = merchant.execution(await merchant.opened())
        await merchant.token()
        replies = await asyncio.gather(*(merchant.execute(body) for _ in range(20)))
        assert sorted(each.status for each in replies) == [200] + [422] * 19
        await merchant.steps(3)
        assert len(await merchant.ledger()) == 1


@pytest.mark.parametrize(
    "reference",
    ["x", "ea7e56c6-e59b-11f1-a2f2-02fc00000001", "95b0af5f07b84f64994ae757ebe26a1b", "", 5],
)
async def test_a_reference_is_a_uuid4(merchant: Merchant, reference: object) -> None:
    """Anything else is refused, and the session stays open."""
    session_id = await merchant.opened()
    reply = await merchant.execute(merchant.execution(session_id, reference_id=reference))
    assert reply.fields == ["body.reference_id"]
    assert (await merchant.execute(merchant.execution(session_id))).status == 200


async def test_a_reference_has_one_spelling(merchant: Merchant) -> None:
    """Upper case is the same reference."""
    body = merchant.execution(await merchant.opened())
    assert (await merchant.execute(body)).status == 200
    shouted = body["reference_id"].upper()
    assert (await merchant.execute({**body, "reference_id": shouted})).status == 422
    assert (await merchant.status(shouted)).status == 200


_ENDS: dict[str, tuple[list[str], int]] = {
    "4000.02": (["PENDING", "PROCESSING", "FAILED"], 0),
    "4000.03": (["PENDING", "PROCESSING", "FAILED"], 0),
    "4000.04": (["PENDING", "FAILED"], 0),
    "4000.05": (["PENDING", "PROCESSING", "COMPLETED"], 1),
    "4000.06": (["PENDING", "UNDER_THE_STARS", "PROCESSING", "COMPLETED"], 1),
    "4000.07": (["FAILED"], 0),
    "4000.08": (["PENDING", "PROCESSING", "COMPLETED"], 1),
    "4000.09": (["PENDING", "PROCESSING", "COMPLETED"], 1),
    "4000.10": (["PENDING", "PROCESSING", "FAILED"], 0),
    "4000.11": (["PENDING", "PROCESSING", "COMPLETED"], 1),
    "4000.12": (["PENDING", "PROCESSING", "COMPLETED"], 1),
    "4000.13": (["PENDING", "PROCESSING", "FAILED"], 0),
}


@pytest.mark.parametrize(("amount", "end"), _ENDS.items(), ids=_ENDS)
async def test_magic_amounts(merchant: Merchant, amount: str, end: tuple[list[str], int]) -> None:
    """Each shows its words in order, moves money or not, and leaves the wallet right."""
    words, moved = end
    reference = await merchant.paid(amount)
    seen: list[str] = []
    for _ in range(85):
        look = await merchant.look(reference)
        if look["status"] not in seen[-1:]:
            seen.append(look["status"])
        if look["status"] in {"COMPLETED", "FAILED"}:
            break
        await merchant.advance(51)
    assert seen == words
    assert len(await merchant.ledger()) == moved
    (row,) = (await merchant.steer("GET", "balances"))["balances"]
    assert (row["amount"] == "1000000" or row["amount"] == "1000000.00") == (not moved)


def test_the_table_of_magic_amounts_is_told() -> None:
    """The documentation of the twin and its table are the same; every one is tested."""
    rows = {line for line in (told or "").splitlines() if line.startswith("| 4000")}
    assert rows == {f"| {amount} | {course.meaning} |" for amount, course in MAGIC.items()}
    assert set(_ENDS) == {str(amount) for amount in MAGIC}


async def test_what_magic_amounts_show(merchant: Merchant) -> None:
    """A short payee amount, another operation, an action that is none of payouts, the messages."""
    looks = {}
    for amount in ("4000.08", "4000.09", "4000.11"):
        reference = await merchant.paid(amount)
        await merchant.advance(101)
        looks[amount] = await merchant.look(reference)
    assert Decimal(str(looks["4000.08"]["payee_amount"])) == Decimal("3999.08")
    assert looks["4000.09"]["operation_type"] == "TRANSFER"
    assert looks["4000.11"]["requires_action"] is True
    assert looks["4000.11"]["client_secret"].startswith("pi_")
    failed = {}
    for amount in ("4000.02", "4000.03", "4000.04"):
        reference = await merchant.paid(amount)
        await merchant.steps(3)
        failed[amount] = await merchant.look(reference)
    assert [bool(failed[each]["gateway_message"]) for each in failed] == [True, True, False]
    assert [bool(failed[each]["wallet_message"]) for each in failed] == [False, False, True]
    assert [bool(failed[each]["provider_transaction_id"]) for each in failed] == [
        False,
        True,
        False,
    ]


async def test_a_wallet_without_money(merchant: Merchant) -> None:
    """Accepted, then FAILED with a word about the wallet; no HTTP error, nothing moved."""
    row = {"account": "3", "asset": "USD", "amount": "75.89"}
    await merchant.steer("PUT", "balances", {"balances": [row]})
    reference = await merchant.paid()
    await merchant.steps(3)
    look = await merchant.look(reference)
    assert (look["status"], bool(look["wallet_message"])) == ("FAILED", True)
    await merchant.steer("PUT", "balances", {"balances": [{**row, "amount": "75.90"}]})
    reference = await merchant.paid()
    await merchant.steps(3)
    assert (await merchant.look(reference))["status"] == "COMPLETED"
    assert len(await merchant.ledger()) == 1


@pytest.mark.parametrize("how", FAILURES)
async def test_any_amount_can_fail_later(merchant: Merchant, how: str) -> None:
    """A 200, and then FAILED."""
    await merchant.fault("execute", "fail_later", how=how)
    reference = await merchant.paid()
    await merchant.steps(3)
    assert (await merchant.look(reference))["status"] == "FAILED"
    assert await merchant.ledger() == []


@pytest.mark.parametrize(
    "token",
    [
        {"phone": None},
        {"user_id": "1001"},
        {"code": ""},
        {"code": None},
        {"code": "1" * 65},
        {"extra": "x"},
    ],
)
async def test_a_passcode_has_one_owner(merchant: Merchant, token: dict[str, Any]) -> None:
    """Exactly one of phone and user id, and a code; nothing counts as a wrong try."""
    session_id = await merchant.opened()
    for _ in range(6):
        reply = await merchant.execute(merchant.execution(session_id, token=token))
        assert reply.fields[0].startswith("body.passcode.token")
    assert (await merchant.execute(merchant.execution(session_id))).status == 200


async def test_a_user_id_is_as_good_as_a_phone(merchant: Merchant) -> None:
    """Either; both only where the switch says so."""
    await merchant.paid(token={"phone": None, "user_id": "1001"})
    await merchant.switch(both_ids="accept")
    await merchant.paid(token={"user_id": "1001"})


@pytest.mark.parametrize("member", ["name", "type", "platform", "user_agent", "client_ip"])
async def test_every_device_field_is_required(merchant: Merchant, member: str) -> None:
    """Kept for audit."""
    body = merchant.execution(await merchant.opened())
    del body["passcode"]["device"][member]
    assert (await merchant.execute(body)).fields == [f"body.passcode.device.{member}"]


@pytest.mark.parametrize("echo", [True, False])
async def test_a_422_may_repeat_what_was_sent(merchant: Merchant, echo: bool) -> None:
    """As FastAPI does: a passcode in a malformed block comes back."""
    await merchant.switch(echo_input=echo)
    body = merchant.execution(await merchant.opened())
    body["passcode"]["token"] = {"kode": merchant.passcode}
    assert (merchant.passcode in (await merchant.execute(body)).text) is echo


@pytest.mark.parametrize(
    ("trouble", "wrong"),
    [
        ("422", {"code": "NOPE"}),
        ("422", {"token": {"phone": "231770000009"}}),
        ("422", {"token": {"phone": None, "user_id": "7"}}),
        ("403", {"code": "NOPE"}),
        ("failed", {"code": "NOPE"}),
    ],
)
async def test_a_wrong_passcode(merchant: Merchant, trouble: str, wrong: dict[str, Any]) -> None:
    """Told in one of three ways, the same whatever was wrong; five lock the session."""
    await merchant.switch(passcode_trouble=trouble)
    session_id = await merchant.opened()
    for _ in range(5):
        body = merchant.execution(session_id, **wrong)
        reply = await merchant.execute(body)
        if trouble == "422":
            assert reply.fields == ["body.passcode"]
        elif trouble == "403":
            assert (reply.status, reply.json) == (403, {"detail": "Passcode verification failed"})
        else:
            assert reply.json["status"] == "PENDING"
            await merchant.steps(2)
            assert (await merchant.look(body["reference_id"]))["status"] == "FAILED"
    reply = await merchant.execute(merchant.execution(session_id))
    assert "locked" in reply.json["detail"][0]["msg"]
    assert await merchant.ledger() == []


async def test_four_wrong_passcodes_leave_the_session_open(merchant: Merchant) -> None:
    """The right one is taken then; another session is not touched by them."""
    session_id = await merchant.opened()
    for _ in range(4):
        body = merchant.execution(session_id, code="NOPE")
        assert (await merchant.execute(body)).status == 422
    assert (await merchant.execute(merchant.execution(session_id))).status == 200
    await merchant.paid()
