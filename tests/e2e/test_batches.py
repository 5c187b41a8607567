"""Batches over real processes: the custodian's twin, its ledger, and a gateway that dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import tomllib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gateway.runtime import Failpoint
from gateway.testing.processes import Process
from tests.e2e.stack import (
    ERC20,
    FIREBLOCKS,
    NETWORK,
    PAYEE,
    Rail,
    SharedStacks,
    Stack,
    eventually,
    free_port,
    subscribe,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
_ENDS = {"finalized", "failed", "canceled"}
WALLET = {"type": "custodian_account", "account_type": "EXTERNAL_WALLET", "id": PAYEE}
PARTNER = {"type": "custodian_account", "account_type": "NETWORK_CONNECTION", "id": NETWORK}
#: Sets of two at most.
_SMALL_SETS = replace(FIREBLOCKS, settings={**FIREBLOCKS.settings, "set_limit": 2})


@pytest_asyncio.fixture(loop_scope="module")
async def made(request: pytest.FixtureRequest, stacks: SharedStacks) -> AsyncIterator[Stack]:
    """A stack on the rail of the parameter; Fireblocks, if none is given. No gateway runs yet."""
    rail: Rail = getattr(request, "param", FIREBLOCKS)
    async with stacks.lend(f"{rail.name} {rail.settings}", rail) as built:
        yield built


def source(made: Stack) -> dict[str, Any]:
    """Return the account that pays."""
    route = tomllib.loads(made.config.read_text())["routes"][0]
    return {"custodian": made.rail.name, "account": route["account"]}


def item(amount: str, destination: Any = WALLET, **members: Any) -> dict[str, Any]:
    """Return one payout of a batch."""
    return {
        "external_ref": "user-1",
        "asset": "USDC",
        "amount": amount,
        "destination": destination,
        **members,
    }


async def create(made: Stack, payouts: list[dict[str, Any]], **members: Any) -> dict[str, Any]:
    """Create a batch."""
    status, batch = await made.call(
        "POST",
        "/payout-batches",
        {"source": source(made), "payouts": payouts, **members},
        idempotency_key=secrets.token_hex(8),
    )
    assert status == 201, batch
    return dict(batch)


async def execute(made: Stack, batch: dict[str, Any]) -> None:
    """Execute it."""
    status, told = await made.call("POST", f"/payout-batches/{batch['id']}/execute", {})
    assert status == 202, told


async def ends(made: Stack, batch: dict[str, Any], seconds: float = 25) -> dict[str, Any]:
    """Wait until a batch has ended."""
    return await reaches(made, batch, *_ENDS, seconds=seconds)


async def reaches(
    made: Stack, batch: dict[str, Any], *states: str, seconds: float = 25
) -> dict[str, Any]:
    """Wait until a batch is in one of the states."""

    async def look() -> dict[str, Any] | None:
        status, told = await made.call("GET", f"/payout-batches/{batch['id']}")
        assert status == 200, told
        return told if told["state"] in states else None

    return await eventually(look, seconds)  # type: ignore[arg-type]


async def payouts(made: Stack, batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the payouts of a batch."""
    found: list[dict[str, Any]] = []
    query = "?limit=200"
    while True:
        status, page = await made.call("GET", f"/payout-batches/{batch['id']}/payouts{query}")
        assert status == 200, page
        found += page["data"]
        if not page["has_more"]:
            return found
        query = f"?limit=200&cursor={page['next_cursor']}"


async def test_the_sets_of_two_payees(made: Stack) -> None:
    """One instruction set, executed once; each payout and the batch tell of themselves."""
    await made.start_gateway()
    await subscribe(made)
    batch = await create(
        made,
        [item("43", reference="inv-1", name="ACME"), item("4423", PARTNER, reference="inv-2")],
        reference="october",
    )
    assert batch["state"] == "requested"
    assert batch["totals"][0]["amount"] == "4466"
    for each in await payouts(made, batch):
        assert (each["status"], each["sub_status"]) == ("pending", "created")
        assert each["quote"]["quote_id"] is None
        assert each["batch_id"] == batch["id"]
    assert made.receiver.received == []
    await execute(made, batch)
    status, problem = await made.call("POST", f"/payout-batches/{batch['id']}/execute", {})
    assert (status, problem["code"]) == (409, "batch_already_executed")
    done = await ends(made, batch)
    assert (done["state"], done["delivered_count"], done["failed_count"]) == ("finalized", 2, 0)
    assert [part["items"] for part in done["parts"]] == [2]
    assert sorted(each["amount"] for each in await made.ledger()) == ["43", "4423"]
    ids = [each["id"] for each in await payouts(made, batch)]

    async def told() -> bool:
        kinds = {
            each["type"] for each in made.receiver.received if each["data"]["id"] == batch["id"]
        }
        return kinds == {"batch.executing", "batch.finalized"} and all(
            made.receiver.types(each) == ["payout.created", "payout.broadcast", "payout.delivered"]
            for each in ids
        )

    await eventually(told)
    assert made.receiver.unverified == 0


#: Those of which the engine of sets has an order of its own; the others are the same code for both.
_SET_FAILPOINTS = [
    Failpoint.REMEMBERING,
    Failpoint.REMEMBERED,
    Failpoint.MOVED,
    Failpoint.SUBMITTED,
    Failpoint.SETTLED,
    Failpoint.FETCHED,
]


@pytest.mark.parametrize("made", [_SMALL_SETS], indirect=True, ids=["small sets"])
@pytest.mark.parametrize("failpoint", _SET_FAILPOINTS)
async def test_a_kill_at_any_failpoint_pays_every_item_once(
    made: Stack, failpoint: Failpoint
) -> None:
    """Three sets of two: killed at the failpoint and started again, the ledger has each payee once."""
    dying = await made.start_gateway("--quick", "--at", failpoint)
    await subscribe(made)
    batch = await create(made, [item(f"{n}.25", reference=f"{failpoint}-{n}") for n in range(1, 6)])
    with contextlib.suppress(aiohttp.ClientError):
        await execute(made, batch)
    assert await dying.died(30) == -signal.SIGKILL, f"{failpoint} was never reached"
    await made.start_gateway("--quick")
    status, _ = await made.call("POST", f"/payout-batches/{batch['id']}/execute", {})
    assert status in {202, 409}
    done = await ends(made, batch, 60)
    assert (done["state"], done["delivered_count"]) == ("finalized", 5)
    assert [part["items"] for part in done["parts"]] == [2, 2, 1]
    amounts = sorted(each["amount"] for each in await made.ledger())
    assert amounts == [f"{n}.25" for n in range(1, 6)]
    ids = [each["id"] for each in await payouts(made, batch)]

    async def told() -> bool:
        return all(
            made.receiver.types(each) == ["payout.created", "payout.broadcast", "payout.delivered"]
            for each in ids
        )

    await eventually(told)


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("create", "lose_reply"),
        ("execute", "lose_reply"),
        ("execute", "error_after"),
        ("execute", "drop_before"),
    ],
)
async def test_a_lost_reply_pays_once(made: Stack, call: str, fault: str) -> None:
    """Whatever arrived: looked for, and every item paid once."""
    await made.start_gateway("--quick")
    await made.steer("POST", "faults", {"call": call, "fault": fault, "times": 1})
    batch = await create(made, [item("7"), item("7"), item("8", PARTNER)])
    await execute(made, batch)
    done = await ends(made, batch, 40)
    assert (done["state"], done["delivered_count"]) == ("finalized", 3)
    assert sorted(each["amount"] for each in await made.ledger()) == ["7", "7", "8"]


@pytest.mark.parametrize(
    "switches",
    [
        {"server_instruction_ids": False, "reorder_instructions": True},
        {"server_instruction_ids": True, "reorder_instructions": True},
    ],
)
async def test_every_item_has_its_own_fate(made: Stack, switches: dict[str, bool]) -> None:
    """Skipped, untranslated, failed and delivered ones, in whatever order they come back."""
    await made.start_gateway()
    await made.steer("PUT", "settings", switches)
    turn = secrets.token_hex(4)
    batch = await create(
        made,
        [
            item("5", reference=f"{turn} a"),
            item("5.000403", reference=f"{turn} skipped"),
            item("5", PARTNER, reference=f"{turn} b"),
            item("5.000404", reference=f"{turn} untranslated"),
            item("5.000409", reference=f"{turn} policy"),
            item("5", reference=f"{turn} c"),
        ],
    )
    await execute(made, batch)
    done = await ends(made, batch)
    assert (done["state"], done["delivered_count"], done["failed_count"]) == ("finalized", 3, 3)
    fates = {
        each["reference"].removeprefix(f"{turn} "): each["failure"] and each["failure"]["code"]
        for each in await payouts(made, batch)
    }
    assert fates == {
        "a": None,
        "b": None,
        "c": None,
        "skipped": "unknown_reason",
        "untranslated": "destination_rejected",
        "policy": "policy_rejected",
    }
    assert all(
        each["failure"]["funds_moved"] == "no"
        for each in await payouts(made, batch)
        if each["failure"]
    )
    assert [each["amount"] for each in await made.ledger()] == ["5", "5", "5"]


async def test_short_of_money_until_midnight(made: Stack) -> None:
    """It holds its place; at the custodian's midnight every item fails, and nothing was sent.

    The batch behind it then begins by itself.
    """
    await made.start_gateway("--quick")
    first = await create(made, [item("9.000401", reference="x"), item("9", reference="y")])
    second = await create(made, [item("4", reference="z")])
    await execute(made, first)
    await execute(made, second)
    await reaches(made, first, "awaiting_funds")
    assert {each["sub_status"] for each in await payouts(made, first)} == {"awaiting_funds"}
    await asyncio.sleep(1.5)
    assert (await reaches(made, second, "requested"))["executed_at"] is not None
    await made.steer("POST", "clock", {"advance_s": 86_400})
    done = await ends(made, first)
    assert (done["state"], done["failure"]["code"]) == ("failed", "insufficient_funds")
    for each in await payouts(made, first):
        assert each["failure"]["code"] == "insufficient_funds"
        assert each["failure"]["funds_moved"] == "no"
    assert (await ends(made, second))["state"] == "finalized"
    assert [each["amount"] for each in await made.ledger()] == ["4"]


async def test_a_single_payout_and_a_batch_share_the_account(made: Stack) -> None:
    """One at a time at Fireblocks: neither starves the other."""
    await made.start_gateway()
    batch = await create(made, [item("6"), item("6", PARTNER)])
    before = await made.pay("1")
    await execute(made, batch)
    after = await made.pay("2")
    assert (await ends(made, batch))["state"] == "finalized"
    for payout_id in (before, after):
        assert (await made.reaches(payout_id, "delivered"))["status"] == "delivered"
    assert sorted(each["amount"] for each in await made.ledger()) == ["1", "2", "6", "6"]


@pytest.mark.parametrize("made", [_SMALL_SETS], indirect=True, ids=["small sets"])
async def test_canceled_while_it_waits(made: Stack) -> None:
    """Nothing was sent: all is canceled. While it runs: what was sent stays sent."""
    rail_limit = _SMALL_SETS.settings["set_limit"]
    await made.start_gateway()
    await made.steer("PUT", "settings", {"step_s": 1})
    first = await create(made, [item(f"{n}.5") for n in range(1, 6)])
    second = await create(made, [item("3")])
    await execute(made, first)
    await execute(made, second)

    async def sent() -> bool:
        return any(part["state"] == "submitted" for part in (await _read(made, first))["parts"])

    await eventually(sent)
    for each in (first, second):
        status, told = await made.call("POST", f"/payout-batches/{each['id']}/cancel", {})
        assert status == 202, told
    done = await ends(made, first, 40)
    assert done["state"] == "finalized"
    assert done["delivered_count"] + done["failed_count"] == 5
    assert done["delivered_count"] % rail_limit == 0
    assert done["delivered_count"] >= rail_limit
    assert len(await made.ledger()) == done["delivered_count"]
    assert (await ends(made, second))["state"] == "canceled"


async def _read(made: Stack, batch: dict[str, Any]) -> dict[str, Any]:
    status, told = await made.call("GET", f"/payout-batches/{batch['id']}")
    assert status == 200
    return dict(told)


@pytest.mark.parametrize("made", [ERC20], indirect=True)
async def test_a_fanned_out_batch_whose_gateway_is_killed(made: Stack) -> None:
    """Every few moments, in the middle of it: every item is paid once."""
    gateway = await made.start_gateway("--quick")
    address = made.rail.destination
    batch = await create(made, [item(f"{n}.5", address) for n in range(1, 31)])
    await execute(made, batch)
    for _ in range(4):
        await asyncio.sleep(0.7)
        os.kill(gateway.pid, signal.SIGKILL)
        await gateway.died()
        gateway = await made.start_gateway("--quick")
    done = await ends(made, batch, 60)
    assert (done["state"], done["delivered_count"]) == ("finalized", 30)
    assert done["parts"] == []
    amounts = sorted(float(each["amount"]) for each in await made.ledger())
    assert amounts == [n + 0.5 for n in range(1, 31)]


@pytest.mark.parametrize("made", [FIREBLOCKS, ERC20], indirect=True, ids=["sets", "one by one"])
async def test_two_gateways_on_one_database(made: Stack) -> None:
    """Both work on the same batches: every item is paid once, and reported once."""
    second = await made.start_gateway("--quick", "--port", "0")
    first = await made.start_gateway("--quick")
    try:
        await subscribe(made)
        payee = made.rail.destination
        batches = [
            await create(made, [item(f"{each}{n}.5", payee) for n in range(1, 9)])
            for each in (1, 2)
        ]
        for batch in batches:
            await execute(made, batch)
        for batch in batches:
            done = await ends(made, batch, 60)
            assert (done["state"], done["delivered_count"]) == ("finalized", 8)
        amounts = sorted(float(each["amount"]) for each in await made.ledger())
        assert amounts == sorted(float(f"{each}{n}.5") for each in (1, 2) for n in range(1, 9))
        ids = [each["id"] for batch in batches for each in await payouts(made, batch)]

        async def told() -> bool:
            return all(
                made.receiver.types(each)
                == ["payout.created", "payout.broadcast", "payout.delivered"]
                for each in ids
            )

        await eventually(told)
    finally:
        await second.stop()
    assert first.pid != second.pid


async def test_one_key_at_two_processes(made: Stack) -> None:
    """Two gateways on one database, each key at both at once: one batch per key, and one answer."""
    await made.start_gateway()
    second = await Process.start(
        made.folder / "second.log",
        "gateway.testing.serving",
        "--config",
        str(made.config),
        "--port",
        str(free_port()),
    )

    async def create_at(url: str, number: int) -> tuple[int, str]:
        body = {"source": source(made), "payouts": [item("1", reference=f"r-{number}")]}
        headers = {"authorization": f"Bearer {made.key}", "idempotency-key": f"k-{number}"}
        async with made.http.post(f"{url}/payout-batches", json=body, headers=headers) as answer:
            return answer.status, await answer.text()

    try:
        before = len((await made.call("GET", "/payout-batches?limit=200"))[1]["data"])
        urls = (made.url, second.line.strip())
        for number in range(5):
            answers = await asyncio.gather(*(create_at(urls[n % 2], number) for n in range(8)))
            assert {status for status, _ in answers} <= {201, 409}, answers
            assert len({text for status, text in answers if status == 201}) == 1
            assert await create_at(urls[0], number) == await create_at(urls[1], number)
        _, page = await made.call("GET", "/payout-batches?limit=200")
        assert len(page["data"]) == 5 + before
    finally:
        await second.stop()
