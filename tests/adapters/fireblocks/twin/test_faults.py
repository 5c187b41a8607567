"""Tests of what can be made to go wrong on the Fireblocks twin's calls."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from adapters.fireblocks.twin.world import REASONS
from tests.adapters.fireblocks.workspace import Reply, Workspace, eventually

_CALLS = ["create", "execute", "status", "transaction", "jwks"]
#: aiohttp repeats a GET that was cut off, once; the twin must be asked to cut both.
_TRIES = {"create": 1, "execute": 1, "status": 2, "transaction": 2, "jwks": 2}
_BROKEN = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError)


class _Prepared:
    """A workspace with one payout in flight, and a second one to execute."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.payout_id = ""
        self.ready_id = ""
        self.transaction_id = ""

    async def prepare(self) -> None:
        self.payout_id = await self.workspace.started("43", source=("VAULT_ACCOUNT", "7"))
        await self.workspace.steps(3)
        (row,) = (await self.workspace.payout(self.payout_id))["instructionSet"]
        self.transaction_id = row["transactions"][0]["id"]
        self.ready_id = (await self.workspace.create("44")).json["payoutId"]

    async def make(self, call: str) -> Reply:
        match call:
            case "create":
                return await self.workspace.create("45", key="k-create")
            case "execute":
                return await self.workspace.execute(self.ready_id, key="k-execute")
            case "status":
                return await self.workspace.read(self.payout_id)
            case "transaction":
                return await self.workspace.call("GET", f"/v1/transactions/{self.transaction_id}")
        return await self.workspace.send("GET", "/.well-known/jwks.json")

    async def done(self, call: str) -> bool:
        """Say whether the moving call had its effect."""
        if call == "execute":
            await self.workspace.steps(1)
            return bool((await self.workspace.payout(self.ready_id))["state"] == "TRANSLATED")
        return len(self.workspace.twin._book.payouts) == 3  # what else could tell of an orphan?


@pytest.fixture
async def prepared(workspace: Workspace) -> _Prepared:
    """A workspace where every call can be made."""
    made = _Prepared(workspace)
    await made.prepare()
    return made


@pytest.mark.parametrize("call", _CALLS)
async def test_reject(prepared: _Prepared, call: str) -> None:
    """`reject` refuses once and does nothing."""
    await prepared.workspace.fault(call, "reject")
    assert (await prepared.make(call)).error == (400, "VALIDATION")
    if call in ("create", "execute"):
        assert not await prepared.done(call)
    assert (await prepared.make(call)).status == 200


@pytest.mark.parametrize("call", _CALLS)
async def test_rate_limit(prepared: _Prepared, call: str) -> None:
    """`rate_limit` is a 429 with Retry-After, as often as said."""
    await prepared.workspace.fault(call, "rate_limit", times=2, retry_after_s=7)
    for _ in range(2):
        reply = await prepared.make(call)
        assert (reply.status, reply.headers["Retry-After"]) == (429, "7")
    assert (await prepared.make(call)).status == 200


@pytest.mark.parametrize("call", _CALLS)
async def test_drop_before(prepared: _Prepared, call: str) -> None:
    """`drop_before` cuts the line before anything is done."""
    await prepared.workspace.fault(call, "drop_before", times=_TRIES[call])
    with pytest.raises(_BROKEN):
        await prepared.make(call)
    if call in ("create", "execute"):
        assert not await prepared.done(call)
    assert (await prepared.make(call)).status == 200


@pytest.mark.parametrize("call", ["create", "execute"])
@pytest.mark.parametrize("fault", ["lose_reply", "half_response", "bad_json"])
async def test_done_but_not_told(prepared: _Prepared, call: str, fault: str) -> None:
    """The call is carried out and the reply lost or broken; its key replays the reply."""
    await prepared.workspace.fault(call, fault)
    if fault == "bad_json":
        reply = await prepared.make(call)
        assert reply.status == 200
        with pytest.raises(ValueError, match="line 1"):
            _ = reply.json
    else:
        with pytest.raises(_BROKEN):
            await prepared.make(call)
    assert await prepared.done(call)
    assert (await prepared.make(call)).status == 200
    assert len(prepared.workspace.twin._book.payouts) == (3 if call == "create" else 2)


@pytest.mark.parametrize("call", ["status", "transaction", "jwks"])
@pytest.mark.parametrize("fault", ["lose_reply", "half_response"])
async def test_a_read_is_cut_off(prepared: _Prepared, call: str, fault: str) -> None:
    """Reads can lose their reply too."""
    times = _TRIES[call] if fault == "lose_reply" else 1
    await prepared.workspace.fault(call, fault, times=times)
    with pytest.raises(_BROKEN):
        await prepared.make(call)
    assert (await prepared.make(call)).status == 200


@pytest.mark.parametrize("status", [500, 502, 503])
@pytest.mark.parametrize("call", ["create", "execute"])
async def test_error_after_doing_it(prepared: _Prepared, call: str, status: int) -> None:
    """`error_after` does it and answers 5XX; the 502 is a proxy's page."""
    await prepared.workspace.fault(call, "error_after", status=status)
    reply = await prepared.make(call)
    assert reply.status == status
    assert reply.headers["Content-Type"].startswith("text/html") is (status == 502)
    assert await prepared.done(call)
    assert "internal error" in (await prepared.make(call)).text


@pytest.mark.parametrize("call", _CALLS)
async def test_error_before_doing_it(prepared: _Prepared, call: str) -> None:
    """`error_before` answers 5XX without doing it."""
    await prepared.workspace.fault(call, "error_before", status=503)
    assert (await prepared.make(call)).error == (503, "INTERNAL")
    if call in ("create", "execute"):
        assert not await prepared.done(call)


@pytest.mark.parametrize("call", ["create", "execute"])
async def test_hang_after_doing_it(prepared: _Prepared, call: str) -> None:
    """`hang_after` does it and says nothing, for so long by the twin's clock, then hangs up."""
    await prepared.workspace.fault(call, "hang_after", seconds=1000)
    calls = prepared.workspace.twin.calls
    before = len(calls)
    hanging = asyncio.create_task(prepared.make(call))
    await eventually(lambda: calls[before:] and calls[before].call)
    assert await prepared.done(call)
    assert not hanging.done()
    await prepared.workspace.steer("POST", "clock", {"advance_s": 1000})
    with pytest.raises(_BROKEN):
        await hanging
    told = (await prepared.workspace.steer("GET", "calls"))["calls"]
    assert [c["status"] for c in told if c["call"] == call][-1] is None


async def test_old_state(prepared: _Prepared) -> None:
    """Reads show the past for so long: known payouts as they were, new ones as they began."""
    workspace = prepared.workspace
    before = await workspace.payout(prepared.payout_id)
    await workspace.fault("status", "old_state", seconds=500)
    await workspace.fault("transaction", "old_state", seconds=500)
    new_id = await workspace.started("46")
    await workspace.steer("POST", "clock", {"advance_s": 440})
    assert await workspace.payout(prepared.payout_id) == before
    assert (await workspace.payout(new_id))["state"] == "REQUESTED"
    assert (await workspace.transaction(prepared.transaction_id))["status"] == "SUBMITTED"
    await workspace.steer("POST", "clock", {"advance_s": 60})
    assert (await workspace.payout(prepared.payout_id))["state"] == "FINALIZED"
    assert (await workspace.payout(new_id))["state"] == "SUBMITTED"
    assert (await workspace.transaction(prepared.transaction_id))["status"] == "COMPLETED"


async def test_old_state_can_hide_what_is_new(prepared: _Prepared) -> None:
    """With `hide_new`, a payout made since is not found, then found."""
    workspace = prepared.workspace
    await workspace.fault("status", "old_state", seconds=60, hide_new=True)
    await workspace.steer("POST", "clock", {"advance_s": 1})
    new_id = (await workspace.create("46")).json["payoutId"]
    assert (await workspace.read(new_id)).error == (404, "NOT_FOUND")
    assert (await workspace.read(prepared.payout_id)).status == 200
    await workspace.steer("POST", "clock", {"advance_s": 60})
    assert (await workspace.read(new_id)).status == 200


async def test_old_state_does_not_hide_other_faults(prepared: _Prepared) -> None:
    """A window and a counted fault on the same call both hold."""
    await prepared.workspace.fault("status", "old_state", seconds=60)
    await prepared.workspace.fault("status", "reject")
    assert (await prepared.make("status")).status == 400
    assert (await prepared.make("status")).status == 200


@pytest.mark.parametrize("reason", REASONS)
async def test_a_payout_can_be_made_to_fail(prepared: _Prepared, reason: str) -> None:
    """`fail_payout`: execute is accepted, the payout fails with the vendor's word, nothing moves."""
    await prepared.workspace.fault("execute", "fail_payout", reason=reason)
    assert (await prepared.make("execute")).status == 200
    await prepared.workspace.steps(1)
    payout = await prepared.workspace.payout(prepared.ready_id)
    assert (payout["state"], payout["reasonOfFailure"]) == ("FAILED", reason)


async def test_faults_happen_in_the_order_they_were_set(prepared: _Prepared) -> None:
    """Two faults on one call happen one after the other."""
    await prepared.workspace.fault("status", "reject", status=404)
    await prepared.workspace.fault("status", "error_before", status=502)
    assert [(await prepared.make("status")).status for _ in range(3)] == [404, 502, 200]
