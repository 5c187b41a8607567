"""How a batch is loaded: each line checked once, stored in the given order, whole or not at all."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from gateway.batches.items import Check, Kept, Planned
from gateway.batches.loop import BatchLoop
from gateway.batches.service import Batches
from gateway.caller import Caller
from gateway.store import batches as rows
from gateway.store.database import Tx
from tests.api.conftest import Api
from tests.api.test_batches import _HEAD, _ROW, _load, ids, steps, upload

_LINES = 260


def _file() -> str:
    return _HEAD + "".join(_ROW.format(number) for number in range(_LINES))


async def test_each_line_is_checked_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checking and storing are two passes, and the second one validates and prices nothing."""
    priced: list[str] = []
    terms = Check._terms

    def counting(self: Check, item: Any) -> Any:
        priced.append(item.external_ref)
        return terms(self, item)

    monkeypatch.setattr(Check, "_terms", counting)
    status, made = await upload(api, _file())
    assert (status, made["item_count"]) == (201, _LINES)
    assert len(priced) == len(set(priced)) == _LINES


async def test_items_are_in_the_order_of_their_lines(api: Api) -> None:
    """Pages are handed in before the ones before them are durable; the places are those of the file."""
    _, made = await upload(api, _file())
    found = await api.context.db.read(rows.items_page, made["id"], -1, _LINES + 1)
    assert [row["batch_position"] for row in found] == list(range(_LINES))
    listed = await ids(api, made["id"])
    assert listed == [row["id"] for row in found] == sorted(listed)
    _, first = await api.call("GET", f"/payouts/{listed[0]}")
    _, last = await api.call("GET", f"/payouts/{listed[-1]}")
    assert first["external_ref"] != last["external_ref"]
    assert first["created_at"] == last["created_at"]


async def test_the_totals_of_the_answer_are_those_that_are_stored(api: Api) -> None:
    """They come from the check; a later read adds up what is in the database. Exact in both."""
    amounts = ["0.1", "0.2", "123456789012345.000001", "0.7", "1"]
    text = _HEAD + "".join(
        _ROW.format(number).replace("1.5", amounts[number % len(amounts)]) for number in range(50)
    )
    status, made = await upload(api, text)
    assert status == 201, made
    assert made["totals"][0]["count"] == 50
    assert made["totals"][0]["amount"] == "1234567890123470.00001"
    _, read = await api.call("GET", f"/payout-batches/{made['id']}")
    assert read == made


async def test_a_page_that_cannot_be_stored_leaves_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pages that were handed in beside it are deleted with the batch."""
    add, pages = Batches.add, list[int]()

    async def failing(self: Batches, tx: Tx, batch_id: str, items: Any) -> None:
        if any(each["batch_position"] == _LINES // 2 for each in items):
            raise sqlite3.OperationalError("no room")
        await add(self, tx, batch_id, items)
        pages.append(len(items))

    monkeypatch.setattr(Batches, "add", failing)
    status, _ = await upload(api, _file())
    assert status == 503
    assert pages

    async def left(tx: Tx) -> list[Any]:
        return [
            await rows.stale_load(tx, 2**62),
            *await rows.list_batches(tx, "acme", "live", None, 9),
        ]

    assert await api.context.db.read(left) == [None]
    _, page = await api.call("GET", "/payouts")
    assert page["data"] == []
    monkeypatch.undo()
    status, made = await upload(api, _file())
    assert (status, made["item_count"]) == (201, _LINES)


def test_kept_items_are_read_as_they_came() -> None:
    """Beyond what is kept in memory, too; with line breaks and whatever letters in them."""
    items = [
        Planned(f"u-{number}", None if number % 2 else "é\u2028\n", "{}", "x" * 900, "名")
        for number in range(2000)
    ]
    with Kept() as kept:
        for each in items:
            kept.add(each)
        assert list(kept.read()) == items
        assert list(kept.read()) == items


async def test_the_caller_of_a_batch_is_that_of_its_items(api: Api) -> None:
    """What the items of a batch share is written into each of them."""
    _, made = await upload(api, _file())
    (row, *_) = await api.context.db.read(rows.items_page, made["id"], -1, 1)
    batch = await api.context.db.read(
        api.context.batches.row, Caller("acme", "live", "k"), made["id"]
    )
    shared = ("org", "mode", "custodian", "account")
    assert {name: row[name] for name in shared} == {name: batch[name] for name in shared}


async def test_a_load_is_not_given_up_by_another_clock(api: Api) -> None:
    """A process whose wall clock is hours ahead lets it go on; one that was really left is deleted."""
    context, clock = api.context, api.clock
    batch_id = await _load(api, 5)
    loop = BatchLoop(
        db=context.db, runtime=context.runtime, steps=steps(api), idle_s=5, wake=lambda _: None
    )
    # Hours ago, by the wall clock of this process.
    await loop.forget(2**62)
    assert await context.db.read(rows.stale_load, 2**62) == batch_id
    await clock.advance(601)
    await loop.forget(2**62)
    assert await context.db.read(rows.stale_load, 2**62) is None
