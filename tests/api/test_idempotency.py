"""One idempotency key at two gateways on one database: one effect, whichever of them stops or stalls."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from gateway.api import batches as batch_routes
from gateway.api import idempotency
from gateway.api.idempotency import STILL_S, Answer, Claim, KeyedRequest, Keys, OpenClaim, Watch
from gateway.config.settings import Settings
from gateway.errors import ClaimLost, Refused
from gateway.store.database import Tx
from gateway.store.idempotency import KeyScope, purge_answers
from tests.api.conftest import WALLET, Api, open_api
from tests.clock import SetClock

QUOTE: dict[str, Any] = {
    "external_ref": "u-1",
    "destination": WALLET,
    "asset": "USDC",
    "amount": "43",
}
OTHER = {**QUOTE, "amount": "44"}
BATCH: dict[str, Any] = {
    "source": {"custodian": "acme_eu", "account": {"id": "A1", "type": "VAULT"}},
    "payouts": [{**QUOTE, "reference": f"r-{n}"} for n in range(3)],
}
ROUTES = [
    ("/payouts/quote", QUOTE, "quotes"),
    ("/payout-batches", BATCH, "batches"),
    ("/webhook-endpoints", {"url": "https://a.example/"}, "endpoints"),
]


@pytest.fixture
async def two(settings: Settings) -> AsyncIterator[tuple[Api, Api]]:
    """Two gateways on one database, each with a clock of its own; quotes ask the custodian."""
    async with open_api(settings, offers=True) as first, open_api(settings, offers=True) as second:
        await first.key()
        # The key's first use is written now: it is a change of its own, and no part of a request.
        await first.call("GET", "/payouts")
        while select(first, "SELECT 1 FROM api_keys WHERE last_used_at IS NULL"):
            await asyncio.sleep(0.005)
        second.keys = first.keys
        yield first, second
        first.pricer.answering.set()
        second.pricer.answering.set()


class Pause:
    """Lets some changes of a gateway through, then keeps the next ones waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, api: Api, changes: int) -> None:
        self.reached = asyncio.Event()
        self._go = asyncio.Event()
        self._left = changes
        self._run = api.context.db.run
        self._fails: Exception | None = None
        monkeypatch.setattr(api.context.db, "run", self._paused)

    async def _paused(self, *args: Any, **kwargs: Any) -> Any:
        if self._left == 0:
            self.reached.set()
            await self._go.wait()
            if self._fails is not None:
                raise self._fails
        else:
            self._left -= 1
        return await self._run(*args, **kwargs)

    def go_on(self) -> None:
        """Let everything through."""
        self._fails = None
        self._go.set()

    def fail(self, error: Exception) -> None:
        """Fail what waits, and every change until `go_on`."""
        self._fails = error
        self._go.set()


def select(api: Api, sql: str) -> list[tuple[Any, ...]]:
    """Return rows of the database."""
    connection = sqlite3.connect(api.path)
    found = connection.execute(sql).fetchall()
    connection.close()
    return found


def count(api: Api, table: str) -> int:
    """Return how many rows a table has."""
    return int(select(api, f"SELECT count(*) FROM {table}")[0][0])


def beat(
    api: Api, counter: int, stopped_at: int | None = None, at: tuple[str, int] = ("c", 0)
) -> None:
    """Write a gateway's row as its heartbeat does, at a clock's id and its elapsed microseconds."""
    connection = sqlite3.connect(api.path)
    connection.execute(
        "INSERT OR REPLACE INTO gateways (id, counter, clock_id, elapsed, wall, host, pid, version, "
        "config_digest, schema_from, schema_to, gate_version, marks, started_at, stopped_at) "
        "VALUES (?, ?, ?, ?, 0, 'h', 1, 'v', 'd', '1', '1', 1, 0, 0, ?)",
        (api.context.gateway_id, counter, *at, stopped_at),
    )
    connection.commit()
    connection.close()


async def post(
    api: Api, path: str, body: Any, key: str = "k"
) -> tuple[aiohttp.ClientResponse, bytes]:
    """Send a request with a key."""
    return await api.send("POST", path, body=body, idempotency_key=key)


async def refused(api: Api, path: str, body: Any, key: str = "k") -> str:
    """Send a request that is refused; return the code."""
    return str((await api.problem("POST", path, body=body, idempotency_key=key))["code"])


async def hangs(api: Api) -> asyncio.Task[tuple[aiohttp.ClientResponse, bytes]]:
    """Ask a gateway for a quote and return once it waits for the custodian, its key claimed."""
    api.pricer.answering.clear()
    asking = asyncio.create_task(post(api, "/payouts/quote", QUOTE))
    await asyncio.wait_for(api.pricer.called.wait(), 20)
    return asking


def replayed(answer: aiohttp.ClientResponse) -> bool:
    """Whether an answer is marked as a replay."""
    return answer.headers.get("idempotent-replayed") == "true"


@pytest.mark.parametrize(("path", "body", "table"), ROUTES)
async def test_fifty_callers_of_one_key_at_two_gateways(
    two: tuple[Api, Api], path: str, body: Any, table: str
) -> None:
    """One effect and one answer; the others replay it or get 409."""
    answers = await asyncio.gather(*(post(two[n % 2], path, body) for n in range(50)))
    assert count(two[0], table) == 1
    assert two[0].pricer.calls + two[1].pricer.calls == (path == "/payouts/quote")
    made = [(answer, raw) for answer, raw in answers if answer.status < 300]
    assert len([1 for answer, _ in made if not replayed(answer)]) == 1
    assert len({raw for _, raw in made}) == 1
    for answer, raw in answers:
        if answer.status >= 300:
            assert (answer.status, json.loads(raw)["code"]) == (409, "idempotency_in_progress")
            assert answer.headers["retry-after"] == "1"
    for api in two:
        answer, raw = await post(api, path, body)
        assert (replayed(answer), raw) == (True, made[0][1])


async def test_fifty_callers_pay_once(two: tuple[Api, Api]) -> None:
    """A payout is one transaction: each caller gets the first answer, at whichever gateway."""
    quote = await two[0].quote()
    body = {"quote_id": quote["quote_id"]}
    answers = await asyncio.gather(*(post(two[n % 2], "/payouts", body) for n in range(50)))
    assert {answer.status for answer, _ in answers} == {201}
    assert len({raw for _, raw in answers}) == 1
    assert len([1 for answer, _ in answers if not replayed(answer)]) == 1
    assert count(two[0], "payouts") == 1


async def test_the_row_names_what_was_created(two: tuple[Api, Api]) -> None:
    """So that an operator finds it by the key."""
    made = {}
    for path, body, _ in ROUTES:
        _, raw = await post(two[0], path, body)
        told = json.loads(raw)
        made[f"POST {path}"] = told.get("id") or told["quote_id"]
    _, raw = await post(two[0], "/payouts", {"quote_id": made["POST /payouts/quote"]})
    made["POST /payouts"] = json.loads(raw)["id"]
    assert dict(select(two[0], "SELECT route, created_id FROM idempotency")) == made
    assert set(select(two[0], "SELECT claimant FROM idempotency")) == {(two[0].context.gateway_id,)}


async def test_while_it_is_in_progress(two: tuple[Api, Api]) -> None:
    """409 with the same body, 422 with another, at both gateways; then the answer, byte for byte."""
    first, second = two
    asking = await hangs(first)
    for api in two:
        answer, raw = await post(api, "/payouts/quote", QUOTE)
        assert (answer.status, json.loads(raw)["code"]) == (409, "idempotency_in_progress")
        assert answer.headers["retry-after"] == "1"
        assert await refused(api, "/payouts/quote", OTHER) == "idempotency_key_reused"
    first.pricer.answering.set()
    answer, raw = await asking
    assert (answer.status, replayed(answer)) == (200, False)
    again, same = await post(second, "/payouts/quote", QUOTE)
    assert (again.status, replayed(again), same) == (200, True, raw)
    assert (first.pricer.calls, second.pricer.calls) == (1, 0)


async def test_an_answer_costs_no_call_of_the_custodian(two: tuple[Api, Api]) -> None:
    """The key is looked up before the custodian is asked; another body is refused before it."""
    await post(two[0], "/payouts/quote", QUOTE)
    for api in two:
        assert replayed((await post(api, "/payouts/quote", QUOTE))[0])
        assert await refused(api, "/payouts/quote", OTHER) == "idempotency_key_reused"
    assert two[0].pricer.calls + two[1].pricer.calls == 1


async def test_a_claimant_that_stands_still_is_replaced(two: tuple[Api, Api]) -> None:
    """After 60 s of the observer's time; what the old one writes later is refused."""
    first, second = two
    beat(first, 7)
    asking = await hangs(first)
    assert await refused(second, "/payouts/quote", QUOTE) == "idempotency_in_progress"
    await second.clock.advance(STILL_S - 0.001)
    assert await refused(second, "/payouts/quote", QUOTE) == "idempotency_in_progress"
    await second.clock.advance(0.001)
    assert await refused(second, "/payouts/quote", OTHER) == "idempotency_key_reused"
    answer, raw = await post(second, "/payouts/quote", QUOTE)
    assert (answer.status, replayed(answer)) == (200, False)
    first.pricer.answering.set()
    late, same = await asking
    assert (late.status, replayed(late), same) == (200, True, raw)
    assert select(first, "SELECT id FROM quotes") == [(json.loads(raw)["quote_id"],)]
    assert select(first, "SELECT claimant FROM idempotency") == [(second.context.gateway_id,)]
    for api in two:
        again, same = await post(api, "/payouts/quote", QUOTE)
        assert (again.status, replayed(again), same) == (200, True, raw)
    assert (first.pricer.calls, second.pricer.calls) == (1, 1)


@pytest.mark.parametrize("short_us", [1, 0])
async def test_a_claimant_that_died_before_the_observer_began(
    two: tuple[Api, Api], short_us: int
) -> None:
    """On one machine its last sign of life is dated by the observer's clock: 60 s after that, and not sooner."""
    first, second = two
    now = second.clock.moment()
    still_us = round(STILL_S * 1e6)
    beat(first, 7, at=(now.clock_id, now.elapsed - still_us + short_us))
    asking = await hangs(first)
    if short_us:
        assert await refused(second, "/payouts/quote", QUOTE) == "idempotency_in_progress"
        await second.clock.advance(short_us / 1e6)
    answer, raw = await post(second, "/payouts/quote", QUOTE)
    assert (answer.status, replayed(answer)) == (200, False)
    first.pricer.answering.set()
    late, same = await asking
    assert (late.status, replayed(late), same) == (200, True, raw)


async def test_an_old_claimant_that_comes_before_the_new_answer(two: tuple[Api, Api]) -> None:
    """It writes nothing and is told that the work is in progress; the new claimant's answer counts."""
    first, second = two
    asking = await hangs(first)
    assert await refused(second, "/payouts/quote", QUOTE) == "idempotency_in_progress"
    await second.clock.advance(STILL_S)
    again = await hangs(second)
    first.pricer.answering.set()
    late, raw = await asking
    assert (late.status, json.loads(raw)["code"]) == (409, "idempotency_in_progress")
    assert count(first, "quotes") == 0
    second.pricer.answering.set()
    answer, raw = await again
    assert answer.status == 200
    assert select(first, "SELECT id FROM quotes") == [(json.loads(raw)["quote_id"],)]


async def test_only_one_observer_takes_over(settings: Settings, two: tuple[Api, Api]) -> None:
    """Two observers at once: one does the work."""
    first, second = two
    asking = await hangs(first)
    async with open_api(settings, offers=True) as third:
        third.keys = first.keys
        observers = (second, third)
        for api in observers:
            assert await refused(api, "/payouts/quote", QUOTE) == "idempotency_in_progress"
            await api.clock.advance(STILL_S)
        answers = await asyncio.gather(
            *(post(observers[n % 2], "/payouts/quote", QUOTE) for n in range(10))
        )
        made = [(answer, raw) for answer, raw in answers if answer.status == 200]
        assert len([1 for answer, _ in made if not replayed(answer)]) == 1
        assert second.pricer.calls + third.pricer.calls == 1
        first.pricer.answering.set()
        assert (await asking)[1] == made[0][1]
    assert count(first, "quotes") == 1


async def test_a_claimant_whose_counter_rises_is_left_alone(two: tuple[Api, Api]) -> None:
    """However long its work takes: the claim neither is taken over nor expires."""
    first, second = two
    asking = await hangs(first)
    for counter in range(1, 5):
        beat(first, counter)
        assert await refused(second, "/payouts/quote", QUOTE) == "idempotency_in_progress"
        await second.clock.advance(STILL_S * 600)
    beat(first, 5)
    # Ten days later by the second gateway's clocks.
    assert await second.context.db.run(purge_answers, 2**62, 10) == 0
    assert await refused(second, "/payouts/quote", QUOTE) == "idempotency_in_progress"
    assert await refused(second, "/payouts/quote", OTHER) == "idempotency_key_reused"
    first.pricer.answering.set()
    assert (await asking)[0].status == 200
    assert second.pricer.calls == 0


async def test_a_clock_that_is_set_does_not_count(two: tuple[Api, Api]) -> None:
    """A day by the wall clock is no time at all; elapsed time counts."""
    first, second = two
    beat(first, 1)
    asking = await hangs(first)
    assert await refused(second, "/payouts/quote", QUOTE) == "idempotency_in_progress"
    second.clock.step(86_400)
    assert await refused(second, "/payouts/quote", QUOTE) == "idempotency_in_progress"
    first.pricer.answering.set()
    assert (await asking)[0].status == 200


@pytest.mark.parametrize("row", ["missing", "stopped"])
async def test_a_claimant_that_is_not_registered(two: tuple[Api, Api], row: str) -> None:
    """It has as long as one that stands still, from when it was first seen so."""
    first, second = two
    beat(first, 1)
    asking = await hangs(first)
    assert await refused(second, "/payouts/quote", QUOTE) == "idempotency_in_progress"
    await second.clock.advance(STILL_S - 1)
    if row == "stopped":
        beat(first, 1, stopped_at=5)
    else:
        connection = sqlite3.connect(first.path)
        connection.execute("DELETE FROM gateways")
        connection.commit()
        connection.close()
    assert await refused(second, "/payouts/quote", QUOTE) == "idempotency_in_progress"
    await second.clock.advance(STILL_S - 1)
    assert await refused(second, "/payouts/quote", QUOTE) == "idempotency_in_progress"
    await second.clock.advance(1)
    assert (await post(second, "/payouts/quote", QUOTE))[0].status == 200
    first.pricer.answering.set()
    assert replayed((await asking)[0])


async def test_a_gateway_does_not_take_over_from_itself(two: tuple[Api, Api]) -> None:
    """It knows that the work still runs, registered or not."""
    first, _ = two
    asking = await hangs(first)
    for _ in range(3):
        assert await refused(first, "/payouts/quote", QUOTE) == "idempotency_in_progress"
        await first.clock.advance(STILL_S)
    first.pricer.answering.set()
    assert (await asking)[0].status == 200
    assert first.pricer.calls == 1


@pytest.mark.parametrize("changes", [1, 2, 3, 4])
async def test_a_batch_of_an_old_claimant_never_becomes_visible(
    two: tuple[Api, Api], monkeypatch: pytest.MonkeyPatch, changes: int
) -> None:
    """Stalled after the claim, the batch's row, a page, or before the last step: one batch, whole."""
    monkeypatch.setattr(batch_routes, "_STORED_AT_ONCE", 2)
    first, second = two
    beat(first, 1)
    pause = Pause(monkeypatch, first, changes)
    creating = asyncio.create_task(post(first, "/payout-batches", BATCH))
    await asyncio.wait_for(pause.reached.wait(), 20)
    assert count(first, "batches") == (changes > 1)
    assert await refused(second, "/payout-batches", BATCH) == "idempotency_in_progress"
    _, page = await second.call("GET", "/payout-batches")
    assert page["data"] == []
    await second.clock.advance(STILL_S)
    answer, raw = await post(second, "/payout-batches", BATCH)
    assert (answer.status, replayed(answer)) == (201, False)
    made = json.loads(raw)["id"]
    # The load of the old claimant is gone already, and cannot grow again.
    assert select(first, "SELECT id FROM batches") == [(made,)]
    pause.go_on()
    late, same = await creating
    assert (late.status, replayed(late), same) == (201, True, raw)
    assert late.headers["location"] == f"/payout-batches/{made}"
    assert select(first, "SELECT id, state FROM batches") == [(made, "requested")]
    assert select(first, "SELECT DISTINCT batch_id FROM payouts") == [(made,)]
    assert count(first, "payouts") == count(first, "payouts") == 3
    for api in two:
        again, same = await post(api, "/payout-batches", BATCH)
        assert (again.status, replayed(again), same) == (201, True, raw)


async def test_a_crash_between_claim_and_result(
    settings: Settings, two: tuple[Api, Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of a load and its open claim is replaced by the next process, and by nobody sooner."""
    first, second = two
    beat(first, 1)
    pause = Pause(monkeypatch, first, 3)
    creating = asyncio.create_task(post(first, "/payout-batches", BATCH))
    await asyncio.wait_for(pause.reached.wait(), 20)
    # From here on the first gateway writes nothing any more, not even that it gives up.
    pause.fail(sqlite3.OperationalError("gone"))
    assert (await creating)[0].status == 503
    assert (count(first, "batches"), count(first, "idempotency")) == (1, 1)
    async with open_api(settings) as restarted:
        restarted.keys = first.keys
        for api in (second, restarted):
            assert await refused(api, "/payout-batches", BATCH) == "idempotency_in_progress"
        await restarted.clock.advance(STILL_S)
        answer, raw = await post(restarted, "/payout-batches", BATCH)
        assert (answer.status, replayed(answer)) == (201, False)
        again, same = await post(second, "/payout-batches", BATCH)
        assert (replayed(again), same) == (True, raw)
    assert select(first, "SELECT id FROM batches") == [(json.loads(raw)["id"],)]
    assert count(first, "payouts") == 3


async def test_a_claim_that_could_not_be_released(
    two: tuple[Api, Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own gateway knows that the work has ended, and does it again at once."""
    first, second = two
    pause = Pause(monkeypatch, first, 1)
    first.pricer.fails = RuntimeError("no offer")
    asking = asyncio.create_task(post(first, "/payouts/quote", QUOTE))
    await asyncio.wait_for(pause.reached.wait(), 20)
    pause.fail(sqlite3.OperationalError("the disk is full"))
    assert (await asking)[0].status == 500
    assert await refused(second, "/payouts/quote", QUOTE) == "idempotency_in_progress"
    pause.go_on()
    first.pricer.fails = None
    answer, _ = await post(first, "/payouts/quote", QUOTE)
    assert (answer.status, replayed(answer)) == (200, False)


async def test_work_that_raises_frees_its_key(two: tuple[Api, Api]) -> None:
    """An error of ours is no answer: any gateway may do the work, even with another body."""
    first, second = two
    first.pricer.fails = RuntimeError("no offer")
    assert (await post(first, "/payouts/quote", QUOTE))[0].status == 500
    assert count(first, "idempotency") == 0
    assert (await post(second, "/payouts/quote", OTHER))[0].status == 200


async def test_a_refused_batch_frees_its_key(two: tuple[Api, Api]) -> None:
    """The corrected file may come under the same key; nothing is left of the first one."""
    first, second = two
    wrong = {**BATCH, "payouts": [*BATCH["payouts"], BATCH["payouts"][0]]}
    assert await refused(first, "/payout-batches", wrong) == "invalid_batch"
    assert (count(first, "batches"), count(first, "idempotency")) == (0, 0)
    assert (await post(second, "/payout-batches", BATCH))[0].status == 201


async def test_a_refusal_is_kept_after_the_custodian_was_asked(two: tuple[Api, Api]) -> None:
    """A refused quote is an answer, byte for byte, wherever it is asked for again."""
    first, second = two
    asking = await hangs(first)
    first.pricer.refuses = "the payee is closed"
    first.pricer.answering.set()
    answer, raw = await asking
    assert (answer.status, json.loads(raw)["code"]) == (422, "invalid_destination")
    again, same = await post(second, "/payouts/quote", QUOTE)
    assert (again.status, replayed(again), same) == (422, True, raw)


async def test_a_refusal_that_may_be_retried_is_not_kept(
    two: tuple[Api, Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same request may succeed in a moment, under the same key."""
    first, second = two
    path, body, _ = ROUTES[2]

    async def busy(*_: object) -> None:
        raise Refused("payout_busy", "now")

    monkeypatch.setattr(first.context.endpoints, "create", busy)
    assert await refused(first, path, body) == "payout_busy"
    assert count(first, "idempotency") == 0
    assert (await post(second, path, body))[0].status == 201


async def test_a_client_that_leaves_gets_its_answer_later(two: tuple[Api, Api]) -> None:
    """The work goes on without it; the repeat replays the answer."""
    first, second = two
    asking = await hangs(first)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    first.pricer.answering.set()
    async with asyncio.timeout(20):
        while (await post(second, "/payouts/quote", QUOTE))[0].status == 409:
            await asyncio.sleep(0.01)
    assert replayed((await post(second, "/payouts/quote", QUOTE))[0])
    assert (first.pricer.calls, second.pricer.calls, count(first, "quotes")) == (1, 0, 1)


async def test_a_cancelled_request_frees_its_key(two: tuple[Api, Api]) -> None:
    """A gateway that stops cancels what is in progress: the next one need not wait for 60 s."""
    first, second = two
    keys = Keys(first.context)
    begun = await keys.begin(_keyed(first))
    assert isinstance(begun, Claim)
    working = asyncio.Event()

    async def work(claim: Claim) -> Answer:
        working.set()
        await asyncio.Event().wait()
        raise AssertionError(claim)

    task = asyncio.create_task(keys.carry_out(begun, work))
    await working.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert count(first, "idempotency") == 0
    assert isinstance(await Keys(second.context).begin(_keyed(second)), Claim)


async def test_a_request_that_is_cancelled_while_it_claims(two: tuple[Api, Api]) -> None:
    """The change that it has handed in is committed all the same, and undone by another."""
    first, _ = two
    keys = Keys(first.context)
    task = asyncio.create_task(keys.begin(_keyed(first)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert count(first, "idempotency") == 0
    assert isinstance(await keys.begin(_keyed(first)), Claim)


async def test_a_finish_that_is_cancelled_is_whole(two: tuple[Api, Api]) -> None:
    """Its change was handed in: the answer is committed with the work, and the key is not freed."""
    first, second = two
    keys = Keys(first.context)
    begun = await keys.begin(_keyed(first))
    assert isinstance(begun, Claim)

    async def done(_: Tx) -> Answer:
        return Answer(200, b"{}")

    task = asyncio.create_task(keys.carry_out(begun, lambda claim: claim.finish(done)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await Keys(second.context).begin(_keyed(second)) == Answer(200, b"{}")


async def test_an_old_token_is_never_used_again(two: tuple[Api, Api]) -> None:
    """Taken over, released and claimed again: the first claimant still writes nothing."""
    first, second = two
    observer = Keys(second.context)
    mine = await Keys(first.context).begin(_keyed(first))
    assert isinstance(mine, Claim)
    found = OpenClaim(mine.token, first.context.gateway_id, None)
    with pytest.raises(Refused, match="idempotency_in_progress"):
        await observer.take_over(_keyed(second), found)
    await second.clock.advance(STILL_S)
    taken = await observer.take_over(_keyed(second), found)
    assert taken.token > mine.token

    async def gives_up(_: Claim) -> Answer:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await observer.carry_out(taken, gives_up)
    assert count(first, "idempotency") == 0
    anew = await Keys(first.context).begin(_keyed(first))
    assert isinstance(anew, Claim)

    async def late(_: Tx) -> Answer:
        return Answer(200, b"late")

    for old in (mine, taken):
        with pytest.raises(ClaimLost):
            await old.finish(late)
        with pytest.raises(ClaimLost):
            await first.context.db.run(old.hold)
        with pytest.raises(ClaimLost):
            await first.context.db.run(old.creating, "bat_1")
    assert await anew.finish(late) == Answer(200, b"late")


@pytest.mark.parametrize("error", [Refused("batch_ended", ""), RuntimeError("late")])
async def test_what_lost_work_raises_counts_for_nothing(
    two: tuple[Api, Api], error: Exception
) -> None:
    """It may come from what the new claimant has done: the answer is the new claimant's."""
    first, second = two
    observer, keys = Keys(second.context), Keys(first.context)
    mine = await keys.begin(_keyed(first))
    assert isinstance(mine, Claim)
    found = OpenClaim(mine.token, first.context.gateway_id, None)
    with pytest.raises(Refused, match="idempotency_in_progress"):
        await observer.take_over(_keyed(second), found)
    await second.clock.advance(STILL_S)
    taken = await observer.take_over(_keyed(second), found)

    async def keep(_: Tx) -> Answer:
        return Answer(200, b"the answer")

    async def raises(_: Claim) -> Answer:
        await observer.carry_out(taken, lambda claim: claim.finish(keep))
        raise error

    answer = await keys.carry_out(mine, raises)
    assert (answer.status_code, answer.body) == (200, b"the answer")
    assert answer.headers["idempotent-replayed"] == "true"


async def test_a_key_left_open_by_another_configuration(
    settings: Settings, two: tuple[Api, Api]
) -> None:
    """A gateway that needs no call for the same quote waits for the claim, too, and takes it over."""
    first, _ = two
    asking = await hangs(first)
    async with open_api(settings, offers=False) as plain:
        plain.keys = first.keys
        assert await refused(plain, "/payouts/quote", QUOTE) == "idempotency_in_progress"
        await plain.clock.advance(STILL_S)
        answer, raw = await post(plain, "/payouts/quote", QUOTE)
        assert (answer.status, replayed(answer)) == (200, False)
        first.pricer.answering.set()
        assert (await asking)[1] == raw
    assert count(first, "quotes") == 1


async def test_a_cancel_is_carried_out_once(two: tuple[Api, Api]) -> None:
    """At two gateways at once, and again when the payout has ended: one answer."""
    first, second = two
    payout = await first.pay()
    path = f"/payouts/{payout['id']}/cancel"
    answers = await asyncio.gather(*(post(two[n % 2], path, {}) for n in range(10)))
    made = [raw for answer, raw in answers if answer.status == 202]
    assert len(set(made)) == 1
    assert {answer.status for answer, _ in answers} <= {202, 409}
    for api in two:
        again, same = await post(api, path, {})
        assert (again.status, replayed(again), same) == (202, True, made[0])
    assert await refused(second, path, {}, key="other") == "cancel_too_late"


async def test_two_dry_runs_at_once(two: tuple[Api, Api]) -> None:
    """A dry run does nothing that could be repeated: it neither claims a key nor waits for one."""
    path = "/payout-batches?validate=true"
    answers = await asyncio.gather(
        *(two[0].call("POST", path, body=BATCH, idempotency_key=key) for key in (None, None, "k"))
    )
    assert [status for status, _ in answers] == [200, 200, 200]
    assert count(two[0], "idempotency") == 0


def test_a_watch_forgets_what_it_saw_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is bounded; a claim that is forgotten is watched from the beginning."""
    monkeypatch.setattr(idempotency, "_MOST_WATCHED", 2)
    clock = SetClock()
    watch = Watch(clock)
    scope = KeyScope("acme", "live", "r", "k")
    assert [watch.still_s((scope, n), 1) for n in (1, 2)] == [0, 0]
    asyncio.run(clock.advance(5))
    assert watch.still_s((scope, 1), 1) == 5
    assert watch.still_s((scope, 3), 1) == 0
    assert watch.still_s((scope, 1), 1) == 5
    assert watch.still_s((scope, 2), 1) == 0


def _keyed(api: Api) -> KeyedRequest:
    """Return a request with a key, without a request."""
    scope = KeyScope("acme", "live", "POST /things", "k")
    return replace(KeyedRequest(scope, "f", "req_1"), request_id=api.context.runtime.ids.new("req"))
