"""Tests of what the Fireblocks twin accepts as a payout."""

from __future__ import annotations

from typing import Any

import pytest

from tests.adapters.fireblocks.workspace import (
    CREATE,
    STEP_S,
    Workspace,
    open_workspace,
    payout_body,
)


def _changed(path: str, value: Any) -> dict[str, Any]:
    body = payout_body("43")
    place: Any = body
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in way:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return body


_ONE = "instructionSet.0"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        [],
        {},
        _changed("paymentAccount", ...),
        _changed("instructionSet", ...),
        _changed("instructionSet", []),
        _changed("note", "hello"),
        _changed("paymentAccount.name", "x"),
        _changed("paymentAccount.type", "INTERNAL_WALLET"),
        _changed("paymentAccount.type", "exchange_account"),
        _changed("paymentAccount.id", "EX_SUB9"),
        _changed("paymentAccount.id", 7),
        _changed("paymentAccount.type", "VAULT_ACCOUNT"),
        _changed(f"{_ONE}.memo", "x"),
        _changed(f"{_ONE}.id", ""),
        _changed(f"{_ONE}.payeeAccount", ...),
        _changed(f"{_ONE}.payeeAccount.type", "MERCHANT"),
        _changed(f"{_ONE}.payeeAccount.id", "nobody"),
        _changed(f"{_ONE}.payeeAccount.type", "NETWORK_CONNECTION"),
        _changed(f"{_ONE}.amount", "43"),
        _changed(f"{_ONE}.amount.assetId", "DOGE"),
        _changed(f"{_ONE}.amount.amount", 43),
        _changed(f"{_ONE}.amount.amount", 43.5),
        _changed(f"{_ONE}.amount.amount", "0"),
        _changed(f"{_ONE}.amount.amount", "0.000000"),
        _changed(f"{_ONE}.amount.amount", "-1"),
        _changed(f"{_ONE}.amount.amount", "+1"),
        _changed(f"{_ONE}.amount.amount", "1e3"),
        _changed(f"{_ONE}.amount.amount", "NaN"),
        _changed(f"{_ONE}.amount.amount", " 1"),
        _changed(f"{_ONE}.amount.amount", "1."),
        _changed(f"{_ONE}.amount.amount", ".5"),
        _changed(f"{_ONE}.amount.amount", "01"),
        _changed(f"{_ONE}.amount.amount", "٤٣"),
        _changed(f"{_ONE}.amount.amount", "1.0000001"),
        _changed(f"{_ONE}.amount.amount", "1.0000000"),
    ],
    ids=str,
)
async def test_refuses_what_is_not_a_payout(workspace: Workspace, body: Any) -> None:
    """Each fault is a 400 VALIDATION in the payments API's shape, and nothing is registered."""
    reply = await workspace.call("POST", CREATE, body)
    assert reply.error == (400, "VALIDATION"), reply
    assert set(reply.json) == {"error"}
    assert workspace.twin.calls[-1].call == "create"


async def test_refuses_an_instruction_id_twice(workspace: Workspace) -> None:
    """Ids given by the caller are unique in a set."""
    body = payout_body("1", "2")
    for instruction in body["instructionSet"]:
        instruction["id"] = "same"
    assert (await workspace.call("POST", CREATE, body)).error == (400, "VALIDATION")


@pytest.mark.parametrize(
    ("asset", "amount", "status"),
    [
        ("USDC", "0.000001", 200),
        ("ETH", "0.000000000000000001", 200),
        ("BTC", "0.00000001", 200),
        ("BTC", "0.000000001", 400),
        ("USD", "0.01", 200),
        ("USD", "0.001", 400),
    ],
)
async def test_decimals_are_the_asset_s(
    workspace: Workspace, asset: str, amount: str, status: int
) -> None:
    """The smallest unit of each asset is taken, less is not."""
    assert (await workspace.create(amount, asset=asset)).status == status


async def test_execute_takes_no_body(workspace: Workspace) -> None:
    """A body on execute is refused."""
    payout_id = (await workspace.create()).json["payoutId"]
    reply = await workspace.call("POST", f"{CREATE}/{payout_id}/actions/execute", {})
    assert reply.error == (400, "VALIDATION")


async def test_unknown_things_are_not_found(workspace: Workspace) -> None:
    """Unknown payout: 404 on status, 400 on execute; unknown transaction: the classic 404."""
    assert (await workspace.read("nothing")).error == (404, "NOT_FOUND")
    assert (await workspace.execute("nothing")).error == (400, "VALIDATION")
    reply = await workspace.call("GET", "/v1/transactions/nothing")
    assert (reply.status, set(reply.json)) == (404, {"message", "code"})
    assert (await workspace.call("GET", "/v1/payments/payout")).error == (405, "VALIDATION")
    assert (await workspace.call("GET", "/v1/elsewhere")).error == (404, "NOT_FOUND")


async def test_validation_can_wait_for_execute() -> None:
    """With the switch, create takes an unknown payee and execute refuses it."""
    async with open_workspace(validate_at="execute") as workspace:
        made = await workspace.create(payee=("EXTERNAL_WALLET", "nobody"))
        assert made.status == 200
        reply = await workspace.execute(made.json["payoutId"])
        assert reply.error == (400, "VALIDATION")
        assert (await workspace.payout(made.json["payoutId"]))["state"] == "REQUESTED"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"payee": ("EXTERNAL_WALLET", "nobody")}, "DESTINATION_NOT_FOUND"),
        ({"source": ("VAULT_ACCOUNT", "99")}, "SOURCE_NOT_FOUND"),
        ({"asset": "DOGE"}, "PARSING"),
    ],
)
async def test_validation_can_wait_for_translation(more: dict[str, Any], reason: str) -> None:
    """With the switch, an executed payout fails with the vendor's word."""
    async with open_workspace(validate_at="translation") as workspace:
        payout_id = await workspace.started("1", **more)
        await workspace.steer("POST", "clock", {"advance_s": STEP_S * 2})
        payout = await workspace.payout(payout_id)
        assert (payout["state"], payout["reasonOfFailure"]) == ("FAILED", reason)
