"""Reservations as a partner meets them: real processes, a real custodian, whatever dies in between."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.runtime import Failpoint
from tests.e2e.stack import DUMMY, Stack, eventually, stack
from tests.postgres import place_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
RESERVING = replace(
    DUMMY,
    settings={**DUMMY.settings, "reserve": True, "balance_every_s": 1, "balance_max_age_s": 30},
)
WAITING = replace(
    RESERVING,
    gateway={
        "routes": [
            {
                "custodian": "dummy",
                "destination": "address",
                "account": {"id": "MAIN", "type": "ACCOUNT"},
                "on_shortage": "wait",
            }
        ]
    },
)


async def fund(made: Stack, amount: str) -> None:
    """Set what the account holds, and wait until the gateway has read it."""
    line = {"account": "MAIN", "asset": "USDC", "amount": amount}
    await made.steer("PUT", "balances", {"balances": [line]})

    async def read() -> bool:
        shown = await balance(made)
        return shown is not None and shown["balance"] == amount

    await eventually(read)


async def balance(made: Stack) -> dict[str, Any] | None:
    """Return the account's line of `GET /balances`; None: it was not read yet."""
    status, told = await made.call("GET", "/balances")
    assert status == 200, told
    (account,) = told["data"]
    return account["balances"][0] if account["state"] == "fresh" and account["balances"] else None


async def nothing_is_reserved(made: Stack) -> bool:
    """Whether every reservation has ended."""
    shown = await balance(made)
    return shown is not None and shown["reserved"] == "0"


async def test_a_payout_reserves_until_the_balance_shows_it(tmp_path: Path) -> None:
    """And no longer. The command line shows what the API does."""
    async with stack(tmp_path, rail=RESERVING) as made:
        await made.serve()
        await fund(made, "100")
        payout_id = await made.pay("60")
        shown = await balance(made)
        assert shown is not None
        assert shown["reserved"] == "60"
        quote_id = await made.quote("60")
        status, problem = await made.call("POST", "/payouts", {"quote_id": quote_id})
        assert (status, problem["code"]) == (422, "insufficient_funds")
        assert (await made.ended(payout_id))["status"] == "delivered"
        # The twin's balance shrinks by what was paid; by then the reservation is still there.
        told = json.loads(await made.run("balances", "--json"))["data"][0]["balances"][0]
        assert told["reserved"] == "60"
        await eventually(lambda: nothing_is_reserved(made), 40)
        shown = await balance(made)
        assert shown is not None
        assert (shown["balance"], shown["available"]) == ("40", "40")
        assert "40" in await made.run("balances")
        code, _, words = await made.command("balances", "release", payout_id, "--evidence", "x")
        assert code == 1
        assert "ends by itself" in words


async def test_a_payout_waits_for_funds(tmp_path: Path) -> None:
    """It is accepted, nothing is sent, and it is paid once the account is funded."""
    async with stack(tmp_path, rail=WAITING) as made:
        await made.serve()
        await fund(made, "10")
        payout_id = await made.pay("60")
        await made.reaches(payout_id, "awaiting_funds")
        assert await made.ledger() == []
        await fund(made, "60")
        assert (await made.ended(payout_id))["status"] == "delivered"


@pytest.mark.parametrize(
    ("failpoint", "occurrence"),
    [
        # Four quotes come to it first.
        (Failpoint.ACCEPT_COMMITTED, 5),
        (Failpoint.MOVED, 1),
        (Failpoint.SUBMITTED, 1),
        (Failpoint.APPLIED, 1),
    ],
)
async def test_a_crash_loses_no_reservation(
    tmp_path: Path, failpoint: Failpoint, occurrence: int
) -> None:
    """What was accepted before it is reserved after it; and never more is paid than there was."""
    async with stack(tmp_path, rail=RESERVING) as made:
        dying = await made.kill_at(failpoint, occurrence)
        await fund(made, "100")
        quotes = [await made.quote("40") for _ in range(4)]

        async def execute(quote_id: str) -> int:
            try:
                return (await made.call("POST", "/payouts", {"quote_id": quote_id}))[0]
            except (OSError, aiohttp.ClientError):
                return 0

        await asyncio.gather(*(execute(each) for each in quotes))
        await dying.died()
        await made.serve()
        await eventually(lambda: _fresh(made))
        again = [await execute(each) for each in quotes]
        assert set(again) <= {201, 409, 422}
        rows = made.rows("SELECT id FROM payouts")
        assert len(rows) <= 2
        for row in rows:
            assert (await made.ended(row["id"]))["status"] == "delivered"
        assert sum(Decimal(each["amount"]) for each in await made.ledger()) <= 100
        (account,) = made.rows("SELECT reserved FROM fund_accounts")
        kept = made.rows("SELECT amount, fee, released FROM reservations")
        total = sum(
            Decimal(each["amount"]) + Decimal(each["fee"]) - Decimal(each["released"])
            for each in kept
        )
        assert sum(Decimal(each[2]) for each in json.loads(account["reserved"])) == total


async def _fresh(made: Stack) -> bool:
    return await balance(made) is not None


async def test_fifty_callers_spend_one_balance(tmp_path: Path) -> None:
    """Two gateways on one PostgreSQL: fourteen of fifty fit, and the custodian pays them."""
    async with stack(tmp_path, rail=RESERVING, database=place_of("postgresql")) as made:
        await made.start_gateway("--quick")
        await made.start_second("--quick")
        await fund(made, "100")
        quotes = [await made.quote("7") for _ in range(50)]
        own, other = made.own_url, made.url

        async def one(number: int) -> tuple[int, Any]:
            async with made.http.post(
                (own, other)[number % 2] + "/payouts",
                json={"quote_id": quotes[number]},
                headers={"authorization": f"Bearer {made.key}"},
            ) as answer:
                return answer.status, await answer.json()

        answers = await asyncio.gather(*(one(number) for number in range(50)))
        assert Counter(status for status, _ in answers) == {201: 14, 422: 36}
        assert {told["code"] for status, told in answers if status == 422} == {"insufficient_funds"}
        (account,) = made.rows("SELECT reserved FROM fund_accounts")
        assert json.loads(account["reserved"])[0][2] == "98"
        for status, told in answers:
            if status == 201:
                assert (await made.ended(told["id"]))["status"] == "delivered"
        assert len(await made.ledger()) == 14
