"""Large files are checked in another process, with the results that this one would have."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.adapter import Terms
from gateway.api import batches as batch_routes
from gateway.api import file_checks
from gateway.api.jobs import LINES
from gateway.batches import child
from gateway.batches.elsewhere import FileChecks
from gateway.batches.service import Batches
from gateway.config.settings import Settings
from gateway.custodians.breaker import Breaker
from gateway.quotes import Quotes
from gateway.routing.durations import Durations
from gateway.routing.facts import KnownFacts
from gateway.store import batches as batch_rows
from gateway.store import idempotency as keys
from tests.api.conftest import Api, open_api
from tests.api.test_batches import QUERY, upload
from tests.api.test_jobs import Longest, uploading

HEADER = (
    "external_ref,destination_type,account_type,id,network,address,asset,amount,reference,name\n"
)
GOOD = "u-{0},custodian_account,EXTERNAL_WALLET,w-{0},,,USDC,1.5,r-{0},Payee {0}\n"
ON_CHAIN = "u-{0},address,,,Ethereum,0x52908400098527886e0f7030069857d2e4169ee7,EURC,7,c-{0},\n"
DRY = QUERY + "&validate=true"
FAULTY = (
    # A reference that comes twice, in one page and over two, and one that is not clean.
    "u,custodian_account,EXTERNAL_WALLET,w,,,USDC,1,r-5,\n",
    "u,custodian_account,EXTERNAL_WALLET,w,,,USDC,1,R-6,\n",
    "u,custodian_account,EXTERNAL_WALLET,w,,,USDC,1, r-7\u200b,\n",
    "u,custodian_account,EXTERNAL_WALLET,w,,,USDC,0,,\n",
    "u,custodian_account,EXTERNAL_WALLET,w,,,USDC,1.0000001,,\n",
    "u,custodian_account,EXTERNAL_WALLET,w,,,DOGE,1,,\n",
    "u,address,,,Ethereum,0x52908400098527886E0F7030069857d2e4169ee7,USDC,1,,\n",
    "u,address,,,Ethereum,0x52908400098527886e0f7030069857d2e4169ee7,USDC,0.05,,\n",
    "u,address,,,Ethereum,0x52908400098527886e0f7030069857d2e4169ee7,USDT,1,,\n",
    "u,bank_account,,,,,USDC,1,,\n",
    "u,USDC,1\n",
    ",custodian_account,EXTERNAL_WALLET,w,,,USDC,1,,\n",
    "\x01,custodian_account,EXTERNAL_WALLET,w,,,USDC,many,,\n",
)


@pytest.fixture
async def apart(settings: Settings) -> AsyncIterator[Api]:
    """An API that checks large files in another process."""
    async with running(settings) as made:
        yield made


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Api]:
    """Run such an API."""
    checks = FileChecks()
    try:
        async with open_api(settings, file_checks=checks) as made:
            yield made
    finally:
        await checks.close()


def pid_of(api: Api) -> int | None:
    """Return the id of the other process, if there is one."""
    assert api.context.file_checks is not None
    return api.context.file_checks.pid


def good(count: int, first: int = 0) -> str:
    """Return so many lines of two assets."""
    return "".join(
        (ON_CHAIN if number % 7 == 0 else GOOD).format(number)
        for number in range(first, first + count)
    )


async def both(api: Api, text: str, query: str = DRY) -> list[tuple[int, Any]]:
    """Upload a file to be checked in the other process, and in this one."""
    elsewhere = await upload(api, text, query)
    assert pid_of(api) is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_checks, "SMALL_FILE", len(text) * 4)
        here = await upload(api, text, query)
    return [_apart_from_the_moment(each) for each in (elsewhere, here)]


def _apart_from_the_moment(told: tuple[int, Any]) -> tuple[int, Any]:
    status, body = told
    return status, {name: body[name] for name in body if name not in {"request_id", "instance"}}


async def test_a_custodian_that_does_not_answer_is_no_fault_of_a_line(apart: Api) -> None:
    """Whichever process finds it out: the answer is that of a quote, and names no line."""
    breaker = Breaker(apart.clock, faults=1)
    apart.context.quotes._facts = KnownFacts({"acme_eu": breaker}, Durations())
    breaker.fault("unreachable")
    elsewhere, here = await both(apart, HEADER + good(1700))
    assert elsewhere == here
    assert (elsewhere[0], elsewhere[1]["code"]) == (422, "no_route")
    assert "errors" not in elsewhere[1]
    assert {each["reason"] for each in elsewhere[1]["reasons"]} == {"health"}


async def test_both_find_the_same(apart: Api) -> None:
    """A good file; faults of every kind in several pages; more faults than are listed."""
    elsewhere, here = await both(apart, HEADER + good(1700))
    assert elsewhere == here
    assert elsewhere[0] == 200, elsewhere
    assert elsewhere[1]["item_count"] == 1700
    faulty = HEADER + good(1400) + "".join(FAULTY) + good(400, 5000) + "".join(FAULTY[2:])
    elsewhere, here = await both(apart, faulty)
    assert elsewhere == here
    assert elsewhere[0] == 422
    assert {each["code"] for each in elsewhere[1]["errors"]} >= {
        "duplicate_reference",
        "amount_too_precise",
        "unsupported_asset",
        "invalid_line",
    }
    many = HEADER + good(1400) + FAULTY[5] * 1100 + good(9, 5000) + 'u,"'
    elsewhere, here = await both(apart, many)
    assert elsewhere == here
    assert len(elsewhere[1]["errors"]) == 100
    assert "1101 faults" in elsewhere[1]["detail"]


@pytest.mark.parametrize("header", ["what\n", "external_ref,asset\n"])
async def test_both_refuse_a_header(apart: Api, header: str) -> None:
    """It is the only line then."""
    elsewhere, here = await both(apart, header + good(1400))
    assert elsewhere == here
    assert elsewhere[0] == 422


async def test_both_refuse_a_file_without_payouts(apart: Api) -> None:
    """Nothing but empty lines."""
    elsewhere, here = await both(apart, HEADER + "\n" * file_checks.SMALL_FILE)
    assert elsewhere == here
    assert elsewhere[1]["errors"][0]["code"] == "too_short"


async def test_what_is_stored_is_the_same(settings: Settings) -> None:
    """Every column of every payout but ids and times."""
    stored: list[Any] = []
    for checks in (FileChecks(), None):
        other = settings.model_copy(
            update={"database": settings.database.with_name(f"{len(stored)}.db")}
        )
        async with open_api(other, file_checks=checks) as api:
            status, made = await upload(api, HEADER + good(1100))
            assert status == 201, made
            rows = await api.context.db.scan(_items)
            stored.append(([{name: row[name] for name in _SAME} for row in rows], made["totals"]))
            assert (checks is None) or checks.pid is not None
        if checks is not None:
            await checks.close()
    assert len(stored[0][0]) == 1100
    assert stored[0] == stored[1]


_SAME = ("batch_position", "external_ref", "reference", "metadata", "terms", "name", "account")


async def _items(tx: Any) -> list[Any]:
    columns = ", ".join(_SAME)
    return list(tx._connection.query(f"SELECT {columns} FROM payouts ORDER BY batch_position", {}))


async def test_a_custodian_that_objects_is_asked_here(
    apart: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no part in the other process; its reason is that of the line."""
    asked: list[Terms] = []

    def check(terms: Terms) -> str | None:
        asked.append(terms)
        return "never to w-9" if getattr(terms.destination, "id", "") == "w-9" else None

    monkeypatch.setattr(apart.pricer, "check", check)
    elsewhere, here = await both(apart, HEADER + good(1400))
    assert elsewhere == here
    assert [each["detail"] for each in here[1]["errors"]] == [
        "The custodian 'acme_eu' cannot pay this: never to w-9."
    ]
    # The other process was asked first; the objection led to a check in this one.
    assert len(asked) > 1400
    assert asked[8] == asked[len(asked) - 1400 + 8]
    status, _ = await upload(apart, (HEADER + good(1400)).replace("w-9,", "w-0,"))
    assert status == 201


async def test_a_small_file_needs_no_process(apart: Api) -> None:
    """Handing it over would take longer."""
    assert (await upload(apart, HEADER + good(20), DRY))[0] == 200
    assert pid_of(apart) is None


async def test_the_process_starts_while_a_large_file_is_received(apart: Api) -> None:
    """Its start costs the load no time of its own."""
    assert pid_of(apart) is None
    async with uploading(apart, "acme"):
        async with asyncio.timeout(20):
            while pid_of(apart) is None:
                await asyncio.sleep(0.01)


async def test_a_process_that_dies_loses_nothing(
    apart: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says so, nothing is stored, and the key can be used again."""
    key, text = secrets.token_hex(8), HEADER + good(3000)
    assert (await upload(apart, text, DRY))[0] == 200
    pid = pid_of(apart)
    assert pid is not None
    killed: list[int] = []
    add = file_checks._add

    def kill(*arguments: Any) -> None:
        if not killed:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
        add(*arguments)

    monkeypatch.setattr(file_checks, "_add", kill)
    status, told = await upload(apart, text, QUERY, key)
    assert (status, told["code"], told["retryable"]) == (500, "internal_error", True)
    assert "Nothing was stored" in told["detail"]
    assert (await apart.call("GET", "/payout-batches"))[1]["data"] == []
    status, told = await upload(apart, text, QUERY, key)
    assert (status, told["item_count"]) == (201, 3000)
    assert pid_of(apart) not in {None, pid}


async def test_what_is_left_here_is_done_in_short_steps(
    apart: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The custodian is asked about a few lines between two turns of the loop; no line is read here."""
    longest = Longest()
    monkeypatch.setattr(Quotes, "objection", longest.counted(Quotes.objection))
    monkeypatch.setattr("gateway.api.batches.Check", None)
    with longest.watching():
        told = await asyncio.gather(*(upload(apart, HEADER + good(1203), DRY) for _ in range(3)))
    assert [(status, body["item_count"]) for status, body in told] == [(200, 1203)] * 3
    assert longest.calls == 3 * 1203
    assert longest.most <= LINES


def test_a_page_is_what_is_looked_up_at_once() -> None:
    """So faults come in the same order as where this process reads the lines."""
    assert batch_routes._LOOKED_UP_AT_ONCE == child.PAGE_LINES


async def test_items_are_stored_while_others_are_checked(
    apart: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a fault none is stored, and what was stored before it is deleted with the refusal."""
    stored: list[int] = []
    add = Batches.add

    async def noted(self: Batches, tx: Any, batch_id: str, page: Any) -> None:
        stored.append(len(page))
        await add(self, tx, batch_id, page)

    monkeypatch.setattr(Batches, "add", noted)
    drop, under_way, drops = batch_rows.drop_loaded, [0], list[int]()

    async def dropped(tx: Any, batch_id: str, limit: int) -> int:
        return await drop(tx, batch_id, limit)

    run = apart.context.db.run

    async def counted(fn: Any, *args: Any, **kwargs: Any) -> Any:
        under_way[0] += fn is dropped
        drops.extend([under_way[0]] if fn is dropped else [])
        try:
            return await run(fn, *args, **kwargs)
        finally:
            under_way[0] -= fn is dropped

    monkeypatch.setattr(batch_rows, "drop_loaded", dropped)
    monkeypatch.setattr(apart.context.db, "run", counted)
    text = HEADER + good(1200) + FAULTY[5] + good(1000, 5000)
    status, told = await upload(apart, text)
    assert (status, told["code"], len(told["errors"])) == (422, "invalid_batch", 1)
    # Two of the four pages, but for what was not a whole transaction's yet.
    assert 900 <= sum(stored) <= 1000
    # Twenty pages of rows, eight of them at a time.
    assert 0 < len(drops) <= 24
    assert max(drops) >= 8
    assert await apart.context.db.scan(_items) == []
    assert await apart.context.db.read(batch_rows.stale_load, 2**62) is None
    stored.clear()
    assert (await upload(apart, text.replace(FAULTY[5], "")))[0] == 201
    assert sum(stored) == len(await apart.context.db.scan(_items)) == 2200


async def test_a_fault_of_the_first_page_stores_nothing(
    apart: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a batch that nobody sees: most faults are in each line of a file."""
    monkeypatch.setattr(Batches, "begin", None)
    status, told = await upload(apart, HEADER + good(10) + FAULTY[5] + good(1400, 5000))
    assert (status, told["code"]) == (422, "invalid_batch")


async def test_an_objection_after_pages_were_stored_stores_each_item_once(
    apart: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stored of the other process's check is deleted; the check in this one begins anew."""
    objected: list[Terms] = []

    def check(terms: Terms) -> str | None:
        if getattr(terms.destination, "id", "") == "w-1300" and not objected:
            objected.append(terms)
            return "not at this moment"
        return None

    monkeypatch.setattr(apart.pricer, "check", check)
    stored: list[str] = []
    add = Batches.add

    async def noted(self: Batches, tx: Any, batch_id: str, page: Any) -> None:
        stored.append(batch_id)
        await add(self, tx, batch_id, page)

    monkeypatch.setattr(Batches, "add", noted)
    status, made = await upload(apart, HEADER + good(1400))
    assert (status, made["item_count"]) == (201, 1400), made
    assert len(objected) == 1
    assert len(set(stored)) == 2
    rows = await apart.context.db.scan(_items)
    assert [row["external_ref"] for row in rows] == [f"u-{each}" for each in range(1400)]
    assert [row["batch_position"] for row in rows] == list(range(1400))
    assert await apart.context.db.read(batch_rows.stale_load, 2**62) is None


@pytest.mark.parametrize("after", [1, 9, 20])
async def test_a_check_that_is_broken_off_leaves_nothing(
    apart: Api, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The request is cancelled while pages are handed in that are not durable yet."""
    add, pages = Batches.add, list[int]()
    loading: list[asyncio.Task[Any]] = []
    create = batch_routes._Load.create

    async def noted(self: Any, claim: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        loading.append(task)
        return await create(self, claim)

    async def cancelling(self: Batches, tx: Any, batch_id: str, page: Any) -> None:
        pages.append(len(page))
        if len(pages) == after:
            loading[0].cancel()
        await add(self, tx, batch_id, page)

    monkeypatch.setattr(batch_routes._Load, "create", noted)
    monkeypatch.setattr(Batches, "add", cancelling)
    key = secrets.token_hex(8)
    data = (HEADER + good(1400)).encode()
    path, kind = "/payout-batches" + QUERY, "text/csv"
    answer, _ = await apart.send("POST", path, data=data, content_type=kind, idempotency_key=key)
    assert answer.status == 500
    assert len(pages) >= after
    await asyncio.wait(loading)
    assert await apart.context.db.read(batch_rows.stale_load, 2**62) is None
    assert await apart.context.db.scan(_items) == []
    status, made = await upload(apart, HEADER + good(1400), QUERY, key)
    assert (status, made["item_count"]) == (201, 1400), made
    assert len(await apart.context.db.scan(_items)) == 1400


async def test_a_load_whose_key_was_taken_over_stores_nothing_more(
    apart: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another gateway took it for gone while its lines were still being checked; what it stored is deleted."""
    add, pages = batch_routes._Load.add, list[int]()

    async def taken(self: Any, tx: Any, claim: Any, batch_id: str, page: Any) -> None:
        await add(self, tx, claim, batch_id, page)
        pages.append(len(page))
        if len(pages) == 3:
            await keys.take_over_key(tx, claim.keyed.scope, claim.token, "another gateway")

    monkeypatch.setattr(batch_routes._Load, "add", taken)
    status, told = await upload(apart, HEADER + good(1400))
    assert (status, told["code"]) == (409, "idempotency_in_progress")
    assert len(pages) == 3
    assert await apart.context.db.scan(_items) == []
    assert await apart.context.db.read(batch_rows.stale_load, 2**62) is None
