"""Two processes on one PostgreSQL: 50 callers at once, and every rule as exact as with one writer."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.stack import DUMMY, FIREBLOCKS, SharedStacks, Stack, eventually, subscribe
from tests.e2e.test_batches import create, item, payouts, reaches, source
from tests.postgres import place_of

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]
CALLERS = 50
Answer = tuple[int, Any]


@pytest_asyncio.fixture(loop_scope="module")
async def made(stacks: SharedStacks) -> AsyncIterator[Stack]:
    """Two gateways on one database, and a subscriber."""
    async with stacks.lend("two", FIREBLOCKS, database=place_of("postgresql")) as made:
        await made.start_gateway("--quick")
        await subscribe(made)
        await made.start_second("--quick")
        yield made


async def at_once(made: Stack, method: str, path: str, body: Any, **headers: str) -> list[Answer]:
    """Let 50 callers do the same at the same time, each process half of them."""
    own, other = made.own_url, made.url

    async def one(number: int) -> Answer:
        async with made.http.request(
            method,
            (own, other)[number % 2] + path,
            json=body,
            headers={"authorization": f"Bearer {made.key}", **headers},
        ) as answer:
            return answer.status, await answer.json()

    return list(await asyncio.gather(*(one(number) for number in range(CALLERS))))


async def test_a_quote_is_used_once(made: Stack) -> None:
    """One payout; the 49 others get its id."""
    quote_id = await made.quote()
    answers = await at_once(made, "POST", "/payouts", {"quote_id": quote_id})
    assert Counter(status for status, _ in answers) == {201: 1, 409: CALLERS - 1}
    (payout_id,) = {body["id"] if status == 201 else body["payout_id"] for status, body in answers}
    await made.ended(payout_id)
    assert len(await made.ledger()) == 1


async def test_an_idempotency_key_does_its_work_once(made: Stack) -> None:
    """One quote, whichever process is asked; requests during its creation get 409."""
    body = {
        "external_ref": "user-1",
        "asset": "USDC",
        "amount": "5",
        "destination": dict(FIREBLOCKS.destination),
    }
    key = secrets.token_hex(8)
    answers = await at_once(made, "POST", "/payouts/quote", body, **{"idempotency-key": key})
    assert {status for status, _ in answers} <= {200, 409}
    assert len({told["quote_id"] for status, told in answers if status == 200}) == 1
    assert {told["code"] for status, told in answers if status == 409} <= {
        "idempotency_in_progress"
    }


async def test_a_batch_is_executed_once(made: Stack) -> None:
    """One caller executes it; each of its payouts is paid once."""
    batch = await create(made, [item("3"), item("4"), item("5")])
    answers = await at_once(made, "POST", f"/payout-batches/{batch['id']}/execute", {})
    assert Counter(status for status, _ in answers) == {202: 1, 409: CALLERS - 1}
    await reaches(made, batch, "finalized")
    assert sorted(each["amount"] for each in await made.ledger()) == ["3", "4", "5"]
    assert len(await payouts(made, batch)) == 3


async def test_a_reference_pays_once(made: Stack) -> None:
    """Batches with the same reference of an item: one of them is created."""
    reference = f"inv-{secrets.token_hex(4)}"
    own, other = made.own_url, made.url

    async def one(number: int) -> Answer:
        body = {"source": source(made), "payouts": [item("3", reference=reference)]}
        async with made.http.post(
            (own, other)[number % 2] + "/payout-batches",
            json=body,
            headers={
                "authorization": f"Bearer {made.key}",
                "idempotency-key": secrets.token_hex(8),
            },
        ) as answer:
            return answer.status, await answer.json()

    answers = await asyncio.gather(*(one(number) for number in range(CALLERS)))
    statuses = Counter(status for status, _ in answers)
    assert statuses[201] == 1, statuses
    (row,) = made.rows("SELECT count(*) AS n FROM payouts WHERE reference = ?", reference)
    assert row["n"] == 1


async def test_the_quota_of_endpoints_holds(made: Stack) -> None:
    """Callers of two processes register endpoints: never more than an org may have."""
    answers = await at_once(
        made, "POST", "/webhook-endpoints", {"url": made.receiver.url, "event_types": ["batch.*"]}
    )
    (row,) = made.rows("SELECT count(*) AS n FROM endpoints WHERE deleted_at IS NULL")
    created = [told["id"] for status, told in answers if status == 201]
    # 50 is what an org may have, and one is the subscriber's.
    assert row["n"] == 50
    assert len(created) == 49
    for endpoint_id in created:
        status, _ = await made.call("DELETE", f"/webhook-endpoints/{endpoint_id}")
        assert status == 204


async def _send(made: Stack, count: int) -> list[str]:
    """Accept payouts at two processes at once, and wait until all of them have ended."""
    quotes = [await made.quote() for _ in range(count)]
    own, other = made.own_url, made.url

    async def one(number: int) -> str:
        async with made.http.post(
            (own, other)[number % 2] + "/payouts",
            json={"quote_id": quotes[number]},
            headers={"authorization": f"Bearer {made.key}"},
        ) as answer:
            assert answer.status == 201
            return str((await answer.json())["id"])

    async def all_ended() -> bool:
        (row,) = made.rows("SELECT count(*) AS n FROM executions WHERE ended_at IS NULL")
        return bool(row["n"] == 0)

    ids = list(await asyncio.gather(*(one(number) for number in range(count))))
    await eventually(all_ended, 80)
    return ids


async def test_an_account_pays_one_at_a_time(made: Stack) -> None:
    """The custodian never has two calls of one account in progress, whichever engine makes them."""
    await _send(made, 10)
    calls = await made.calls("create", "execute")
    assert len(await made.ledger()) == 10
    # Created, then executed, each before the next one is created.
    assert calls == ["create", "execute"] * 10


async def test_fifty_payouts_are_sent_once_by_two_engines(stacks: SharedStacks) -> None:
    """Both claim and set marks at once; each payout is paid once and reported in order, and no mark exists twice."""
    async with stacks.lend("fifty", DUMMY, database=place_of("postgresql")) as made:
        await made.start_gateway("--quick")
        await subscribe(made)
        await made.start_second("--quick")
        ids = await _send(made, CALLERS)
        assert len(await made.ledger()) == CALLERS
        for payout_id in ids:
            rows = made.rows(
                "SELECT sequence FROM events WHERE payout_id = ? ORDER BY position", payout_id
            )
            assert [row["sequence"] for row in rows] == [1, 2, 3]
        (marks,) = made.rows(
            "SELECT count(*) AS n, count(DISTINCT mark) AS d FROM evidence WHERE kind = 'call'"
        )
        assert marks["n"] == marks["d"] == CALLERS
        owners = made.rows("SELECT DISTINCT lease_owner FROM executions")
        assert len(owners) == 2
