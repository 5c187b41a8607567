"""Tests of the Fireblocks twin's idempotency keys."""

from __future__ import annotations

import pytest

from tests.adapters.fireblocks.workspace import Workspace

_DAY_S = 24 * 3600


async def test_a_key_replays_the_first_response_for_a_day(workspace: Workspace) -> None:
    """Same key, same payout; a day later the key is new again."""
    first = await workspace.create(key="k-1")
    await workspace.steer("POST", "clock", {"advance_s": _DAY_S - 60})
    assert (await workspace.create(key="k-1")).text == first.text
    await workspace.steer("POST", "clock", {"advance_s": 61})
    assert (await workspace.create(key="k-1")).json["payoutId"] != first.json["payoutId"]


async def test_without_a_key_every_create_is_a_payout(workspace: Workspace) -> None:
    """The key is optional, as at the vendor."""
    first, second = await workspace.create(), await workspace.create()
    assert first.json["payoutId"] != second.json["payoutId"]


@pytest.mark.parametrize(("length", "status"), [(40, 200), (41, 400)])
async def test_a_key_has_at_most_40_characters(
    workspace: Workspace, length: int, status: int
) -> None:
    """A UUID fits, two joined do not."""
    assert (await workspace.create(key="k" * length)).status == status


async def test_an_execute_is_replayed_and_done_once(workspace: Workspace) -> None:
    """The repeat of an execute with its key is a 200, not the refusal of a second execution."""
    payout_id = (await workspace.create()).json["payoutId"]
    first = await workspace.execute(payout_id, key="x-1")
    again = await workspace.execute(payout_id, key="x-1")
    assert (again.status, again.text) == (first.status, first.text)
    assert (await workspace.execute(payout_id, key="x-2")).error == (400, "VALIDATION")


async def test_keys_are_global_by_default(workspace: Workspace) -> None:
    """The key of a create replays its answer on execute, and nothing is executed."""
    made = await workspace.create(key="k-1")
    reply = await workspace.execute(made.json["payoutId"], key="k-1")
    assert (reply.status, reply.text) == (200, made.text)
    await workspace.steps(2)
    assert (await workspace.payout(made.json["payoutId"]))["state"] == "REQUESTED"


async def test_keys_can_be_scoped_to_the_endpoint(workspace: Workspace) -> None:
    """With the switch, the same key works on each endpoint."""
    await workspace.steer("PUT", "settings", {"key_scope": "endpoint"})
    made = await workspace.create(key="k-1")
    await workspace.execute(made.json["payoutId"], key="k-1")
    await workspace.steps(1)
    assert (await workspace.payout(made.json["payoutId"]))["state"] == "TRANSLATED"


async def test_another_body_replays_or_is_refused(workspace: Workspace) -> None:
    """By default the first answer comes back for another body; the switch refuses it."""
    first = await workspace.create("43", key="k-1")
    assert (await workspace.create("44", key="k-1")).text == first.text
    await workspace.steer("PUT", "settings", {"key_body": "refuse"})
    assert (await workspace.create("44", key="k-1")).error == (400, "VALIDATION")
    assert (await workspace.create("43", key="k-1")).text == first.text


@pytest.mark.parametrize(("replay", "status"), [(True, 400), (False, 200)])
async def test_refusals_are_replayed_or_not(
    workspace: Workspace, replay: bool, status: int
) -> None:
    """Whether a 4XX is remembered under its key is a switch; the worst case is that it is."""
    await workspace.steer("PUT", "settings", {"replay_4xx": replay})
    assert (await workspace.create("0", key="k-1")).status == 400
    assert (await workspace.create("43", key="k-1")).status == status


@pytest.mark.parametrize("fault", ["error_after", "error_before"])
async def test_an_internal_error_burns_the_key(workspace: Workspace, fault: str) -> None:
    """After a 5XX the key is refused with 400 for a day, whether or not the call was carried out."""
    payout_id = (await workspace.create()).json["payoutId"]
    await workspace.fault("execute", fault, status=500)
    assert (await workspace.execute(payout_id, key="x-1")).error == (500, "INTERNAL")
    reply = await workspace.execute(payout_id, key="x-1")
    assert reply.error == (400, "VALIDATION")
    assert "internal error" in reply.json["error"]["message"]
    await workspace.steps(1)
    done = {"error_after": "TRANSLATED", "error_before": "REQUESTED"}[fault]
    assert (await workspace.payout(payout_id))["state"] == done
    await workspace.steer("POST", "clock", {"advance_s": _DAY_S})
    assert "internal" not in (await workspace.execute(payout_id, key="x-1")).text


@pytest.mark.parametrize(("done", "state"), [(False, "REQUESTED"), (True, "TRANSLATED")])
async def test_a_key_can_be_burnt_by_a_fault(workspace: Workspace, done: bool, state: str) -> None:
    """`burn_key`: the first call meets a burnt key, perhaps after it was carried out."""
    payout_id = (await workspace.create()).json["payoutId"]
    await workspace.fault("execute", "burn_key", done=done)
    for _ in range(2):
        assert (await workspace.execute(payout_id, key="x-1")).error == (400, "VALIDATION")
    await workspace.steps(1)
    assert (await workspace.payout(payout_id))["state"] == state
