"""Batches over real processes: the custodian's twin, its ledger, and a gateway that dies."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import FIREBLOCKS, NETWORK, PAYEE, Rail, Stack, eventually, stack, subscribe

_ENDS = {"finalized", "failed", "canceled"}
WALLET = {"type": "custodian_account", "account_type": "EXTERNAL_WALLET", "id": PAYEE}
PARTNER = {"type": "custodian_account", "account_type": "NETWORK_CONNECTION", "id": NETWORK}


@pytest.fixture
async def made(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    """A stack on the rail of the parameter; Fireblocks, if none is given."""
    rail: Rail = getattr(request, "param", FIREBLOCKS)
    async with stack(tmp_path, rail=rail) as built:
        yield built


def source(made: Stack) -> dict[str, Any]:
    """Return the account that pays."""
    import tomllib  # noqa: PLC0415 - for this one use

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
