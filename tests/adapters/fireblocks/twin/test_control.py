"""Tests of the control API, on the Fireblocks twin."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from adapters.fireblocks.twin.world import FireblocksSettings
from tests.adapters.fireblocks.workspace import Workspace


async def test_the_seeded_world(workspace: Workspace) -> None:
    """A fresh twin has the documented balances and nothing else."""
    rows = (await workspace.steer("GET", "balances"))["balances"]
    assert rows == [
        {"account": "7", "asset": "USDC", "amount": "1000000"},
        {"account": "EX_SUB3", "asset": "USDC", "amount": "1000000"},
        {"account": "FIAT1", "asset": "USD", "amount": "1000000"},
    ]
    assert await workspace.steer("GET", "ledger") == {"transfers": []}
    assert await workspace.steer("GET", "inbox") == {"messages": []}
    assert await workspace.steer("GET", "calls") == {"calls": []}


async def test_calls_are_listed_without_secrets(workspace: Workspace) -> None:
    """Every request of the custodian's API is there with its status; no header, no token."""
    payout_id = await workspace.started("43")
    await workspace.call("GET", f"/v1/payments/payout/{payout_id}?x=1", sub="stranger")
    document = await workspace.steer("GET", "calls")
    assert [(c["call"], c["method"], c["path"], c["status"]) for c in document["calls"]] == [
        ("create", "POST", "/v1/payments/payout", 200),
        ("execute", "POST", f"/v1/payments/payout/{payout_id}/actions/execute", 200),
        ("status", "GET", f"/v1/payments/payout/{payout_id}?x=1", 401),
    ]
    members = {"call", "method", "path", "status", "at", "user_agent"}
    assert all(set(c) == members for c in document["calls"])
    assert workspace.twin.user.api_key not in json.dumps(document)
    assert workspace.twin.user.api_key not in repr(workspace.twin.user)


async def test_the_clock_moves_on_only(workspace: Workspace) -> None:
    """The clock answers its new time and never steps back."""
    before = datetime.fromisoformat(
        (await workspace.steer("POST", "clock", {"advance_s": 0}))["now"]
    )
    after = datetime.fromisoformat(
        (await workspace.steer("POST", "clock", {"advance_s": 3600.5}))["now"]
    )
    assert 3600 < (after - before).total_seconds() < 3700
    assert after.tzinfo == UTC
    for wrong in (-1, "5", True, None, 10**12):
        await workspace.steer("POST", "clock", {"advance_s": wrong}, status=422)


@pytest.mark.parametrize(
    "body",
    [
        {"call": "create", "fault": "explode"},
        {"call": "explode", "fault": "reject"},
        {"call": "status", "fault": "burn_key"},
        {"call": "create", "fault": "forge"},
        {"call": "webhook", "fault": "reject"},
        {"call": "create"},
        {"fault": "reject"},
        {"call": ["create"], "fault": "reject"},
        {"call": "create", "fault": "reject", "times": 0},
        {"call": "create", "fault": "reject", "times": "2"},
        {"call": "create", "fault": "reject", "seconds": 3},
        {"call": "create", "fault": "reject", "status": "400"},
        {"call": "create", "fault": "hang_after", "seconds": -1},
        {"call": "execute", "fault": "burn_key", "done": 1},
        {"call": "execute", "fault": "fail_payout", "reason": "BAD_LUCK"},
        {"call": "webhook", "fault": "forge", "how": "nicely"},
    ],
    ids=str,
)
async def test_an_unknown_fault_is_refused_with_the_known(
    workspace: Workspace, body: dict[str, Any]
) -> None:
    """422 with what is known per call, and nothing is waiting."""
    answer = await workspace.steer("POST", "faults", body, status=422)
    assert set(answer["known"]) == {
        "create", "execute", "status", "transaction", "webhook", "jwks", "balances",
    }  # fmt: skip
    assert "lose_reply" in answer["known"]["execute"]
    assert (await workspace.steer("GET", "faults"))["faults"] == []


async def test_waiting_faults_are_listed(workspace: Workspace) -> None:
    """A fault set is shown with its defaults until it has happened as often as said."""
    told = await workspace.fault("status", "error_before", times=2)
    assert told["status"] == 500
    assert (await workspace.steer("GET", "faults"))["faults"] == [told]
    await workspace.read("x")
    assert (await workspace.steer("GET", "faults"))["faults"][0]["times"] == 1
    await workspace.read("x")
    assert (await workspace.steer("GET", "faults"))["faults"] == []


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("balances", {"balances": []}),
        ("balances", {"balances": [{"account": "EX_SUB3", "asset": "USDC"}]}),
        ("balances", {"balances": [{"account": "EX_SUB3", "asset": "USDC", "amount": 5}]}),
        ("balances", {"balances": [{"account": "EX_SUB3", "asset": "USDC", "amount": "NaN"}]}),
        ("balances", {"balances": [{"account": "EX_SUB3", "asset": "USDC", "amount": "-1"}]}),
        ("balances", {"balances": [{"account": "EX_SUB3", "asset": "DOGE", "amount": "1"}]}),
        ("balances", {"balances": [{"account": "nobody", "asset": "USDC", "amount": "1"}]}),
        ("balances", {"EX_SUB3": {"USDC": "1"}}),
        ("webhooks", {}),
        ("webhooks", {"url": "ftp://x"}),
        ("webhooks", {"url": "http://x", "secret": "y"}),
        ("settings", {"key_scope": "galaxy"}),
        ("settings", {"unknown": True}),
        ("settings", {"step_s": -1}),
        ("settings", {"step_s": "1"}),
        ("settings", []),
    ],
    ids=str,
)
async def test_wrong_control_calls_are_refused(workspace: Workspace, what: str, body: Any) -> None:
    """422, and nothing has changed."""
    before = await workspace.steer("GET", what)
    await workspace.steer("PUT", what, body, status=422)
    assert await workspace.steer("GET", what) == before


async def test_reset_brings_the_seeded_world_back(workspace: Workspace) -> None:
    """After a reset a used twin answers as a fresh one, with the same credentials and receiver."""
    async with workspace.receiver() as receiver:
        payout_id = await workspace.started("43")
        await workspace.create(key="k-1")
        await workspace.fault("create", "reject")
        await workspace.steer("PUT", "settings", {"key_scope": "endpoint"})
        await workspace.steps(10_000)
        first_settings = FireblocksSettings(step_s=100)
        told = await workspace.steer("POST", "reset", {})
        assert told["now"].startswith("2026-03-02T12:")
        assert (await workspace.steer("GET", "webhooks"))["url"] == receiver.url
    assert (await workspace.steer("GET", "webhooks"))["deliveries"] == []
    assert (await workspace.steer("GET", "faults"))["faults"] == []
    assert await workspace.steer("GET", "calls") == {"calls": []}
    assert await workspace.ledger() == []
    assert workspace.twin.settings == first_settings
    assert (await workspace.read(payout_id)).error == (404, "NOT_FOUND")
    assert (await workspace.create("44", key="k-1")).json["instructionSet"][0]["amount"] == {
        "amount": "44",
        "assetId": "USDC",
    }
