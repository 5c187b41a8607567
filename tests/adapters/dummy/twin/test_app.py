"""Dummy's twin by itself: strict, and run as a process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from tests.adapters.dummy.conftest import Space

BODY = {
    "key": "k-1",
    "source": "MAIN",
    "asset": "USDC",
    "amount": "10",
    "destination": "SHOP",
}


@pytest.mark.parametrize(
    "change",
    [
        {"extra": "1"},
        {"amount": 10},
        {"amount": "0"},
        {"amount": "-1"},
        {"amount": "NaN"},
        {"amount": "Infinity"},
        {"amount": "ten"},
        {"destination": None},
        {"key": 1},
    ],
)
async def test_malformed_orders_are_refused(space: Space, change: dict[str, Any]) -> None:
    """Unknown members, wrong types and what is no amount are 400."""
    status, _ = await space.post({**BODY, **change})
    assert status == 400


@pytest.mark.parametrize("body", [[], "text", None, {}])
async def test_what_is_no_order_is_refused(space: Space, body: Any) -> None:
    """Any other JSON is 400, too."""
    assert (await space.post(body))[0] == 400


async def test_same_key_same_body_is_one_transfer(space: Space) -> None:
    """The repeat is answered by the transfer as it is by then; another body is refused."""
    first = await space.post(BODY)
    await space.steps(1)
    second = await space.post(BODY)
    assert (first[0], second[0]) == (201, 200)
    assert first[1]["id"] == second[1]["id"]
    assert (first[1]["state"], second[1]["state"]) == ("ACCEPTED", "SENT")
    assert (await space.post({**BODY, "amount": "11"}))[0] == 409
    await space.steps(1)
    assert len((await space.steer("GET", "ledger"))["transfers"]) == 1


async def test_a_refusal_does_not_use_up_the_key(space: Space) -> None:
    """After 422 the same order can be sent again, when there are funds."""
    await space.steer(
        "PUT", "balances", {"balances": [{"account": "MAIN", "asset": "USDC", "amount": "1"}]}
    )
    assert (await space.post(BODY))[0] == 422
    await space.steer(
        "PUT", "balances", {"balances": [{"account": "MAIN", "asset": "USDC", "amount": "10"}]}
    )
    assert (await space.post(BODY))[0] == 201
    assert space.twin.ledger.free("MAIN", "USDC") == 0


async def test_money_that_was_kept_can_be_spent_again(space: Space) -> None:
    """A refusal after acceptance gives back what was held."""
    before = space.twin.ledger.free("MAIN", "USDC")
    await space.post({**BODY, "amount": "5.000402"})
    assert space.twin.ledger.free("MAIN", "USDC") == before - Decimal("5.000402")
    await space.steps(1)
    assert space.twin.ledger.free("MAIN", "USDC") == before


async def test_what_is_paid_is_no_longer_there(space: Space) -> None:
    """From the acceptance on; what comes back of a refusal is there again. Another account is not known."""
    key = space.twin.credentials("")["api_key"]

    async def balances(account: str) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"}
        async with space.http.get(f"{space.root}/v1/accounts/{account}", headers=headers) as answer:
            return answer.status, (await answer.json()).get("balances")

    assert await balances("MAIN") == (200, [{"asset": "USDC", "amount": "1000000"}])
    await space.post(BODY)
    await space.post({**BODY, "key": "k-2", "amount": "5.000402"})
    assert (await balances("MAIN"))[1] == [{"asset": "USDC", "amount": "999984.999598"}]
    await space.steps(3)
    assert (await balances("MAIN"))[1] == [{"asset": "USDC", "amount": "999990.000000"}]
    assert await balances("OTHER") == (404, None)


async def test_strangers_are_refused_even_by_a_fault(space: Space) -> None:
    """A wrong key is 401, also while a fault waits for that call."""
    await space.steer("POST", "faults", {"call": "transfer", "fault": "error_after"})
    assert (await space.post(BODY, key="stranger"))[0] == 401


async def test_unknown_paths_and_methods_are_told_in_its_shape(space: Space) -> None:
    """404 and 405 come in the same shape, too."""
    for path, expected in (("/v1/nothing", 404), ("/v1/transfers", 405)):
        async with space.http.get(space.root + path) as answer:
            assert answer.status == expected
            assert set(await answer.json()) == {"error"}


async def test_every_fault_it_names_does_something(space: Space) -> None:
    """Keys are never used up by a failure here, so that there is no fault that burns one."""
    known = (await space.steer("GET", "faults"))["known"]
    assert set(known) == {"transfer", "status", "balances", "webhook"}
    assert "burn_key" not in known["transfer"]


@pytest.mark.slow
async def test_it_runs_as_a_process() -> None:
    """One JSON line says where it listens and with which credentials; SIGTERM ends it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "adapters.dummy.twin.app", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        told = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        assert set(told) == {"url", "control_url", "credentials"}
        assert set(told["credentials"]) == {"api_key", "webhook_secret"}
        headers = {"Authorization": f"Bearer {told['credentials']['api_key']}"}
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{told['url']}/transfers", json=BODY, headers=headers) as answer,
        ):
            assert answer.status == 201
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
