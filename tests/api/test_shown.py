"""Payouts in bytes: kept by what their rows hold, and so the same as without keeping them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from typing import Any

import pytest
from pydantic_core import to_json
from starlette.responses import Response

from gateway.api import shown
from gateway.api.shown import PayoutResponse, ShownPayouts, payout_answer
from gateway.store.payout_lists import list_payouts
from gateway.store.payouts import payout_row
from gateway.store.rows import payout_of
from gateway.views import payout_with_tracking
from tests.api.conftest import WALLET, Api

QUOTE: dict[str, Any] = {
    "external_ref": "u-1",
    "destination": WALLET,
    "asset": "USDC",
    "amount": "43",
}
_ELSEWHERE = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1], isolation_level=None) as connection:
    connection.execute(sys.argv[2], sys.argv[3:])
"""


async def _pay(api: Api, key: str) -> str:
    _, quote = await api.call("POST", "/payouts/quote", body=QUOTE, idempotency_key=key)
    _, payout = await api.call("POST", "/payouts", body={"quote_id": quote["quote_id"]})
    return str(payout["id"])


@pytest.fixture
async def payout_id(api: Api) -> str:
    """Return the id of a payout."""
    return await _pay(api, "q")


async def test_each_column_that_another_process_writes_is_shown(api: Api, payout_id: str) -> None:
    """From the next request on, in the payout and in the list; also where nothing else has changed."""
    path = f"/payouts/{payout_id}"
    _, before = await api.call("GET", path)
    for column, value, member in (
        ("external_ref", "theirs", "external_ref"),
        ("custodian_reference", "t-9", "custodian_reference"),
        ("metadata", '{"a":"b"}', "metadata"),
        ("document", '{"timeline":[]}', "timeline"),
    ):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _ELSEWHERE, str(api.context.db.path)),
            *(f"UPDATE payouts SET {column} = ? WHERE id = ?", value, payout_id),
        )
        assert await process.wait() == 0
        _, now = await api.call("GET", path)
        _, listed = await api.call("GET", "/payouts")
        assert now[member] != before[member]
        assert listed["data"] == [now]


async def test_a_page_is_what_its_payouts_make(api: Api) -> None:
    """Byte for byte what dumping the whole page at once gives."""
    ids = [await _pay(api, f"q{number}") for number in range(3)]
    found = await api.context.db.read(list_payouts, {}, 10)
    url = api.context.settings.public_url
    views = [
        payout_with_tracking(
            each, f"{url.rstrip('/')}/track/{api.context.vault.tracking_token(each.id)}"
        )
        for each in found
    ]
    for _ in range(2):
        _, page = await api.call("GET", "/payouts")
        assert [each["id"] for each in page["data"]] == ids[::-1]
        assert page == json.loads(to_json({"data": views, "next_cursor": None, "has_more": False}))
    _, page = await api.call("GET", "/payouts?limit=2")
    assert list(page) == ["data", "next_cursor", "has_more"]
    assert (len(page["data"]), page["has_more"]) == (2, True)
    _, rest = await api.call("GET", f"/payouts?limit=2&cursor={page['next_cursor']}")
    assert [each["id"] for each in rest["data"]] == ids[:1]
    _, none = await api.call("GET", "/payouts?external_ref=nobody")
    assert none == {"data": [], "next_cursor": None, "has_more": False}


async def test_the_same_row_is_not_shown_anew(
    api: Api, payout_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise no test here could fail. Of one payout only the newest row is kept."""
    kept = ShownPayouts(api.context.vault, api.context.settings.public_url)
    row = await api.context.db.read(payout_row, payout_id)
    assert row is not None
    first = kept.of(row)
    assert first.body == payout_answer(
        api.context.vault, api.context.settings.public_url, payout_of(row)
    )
    with sqlite3.connect(api.context.db.path) as connection:
        connection.execute("UPDATE api_keys SET name = 'n'")
    connection.close()
    await asyncio.sleep(0)
    again = await api.context.db.read(payout_row, payout_id)
    assert again is not None
    assert again is not row
    assert kept.of(again) is first
    monkeypatch.setattr(shown, "MOST", 2)
    for number in range(4):
        kept.of({**dict(row), "id": await _pay(api, f"k{number}")})  # type: ignore[arg-type]
    assert len(kept._kept) == 2
    assert kept.of(row).body == first.body


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 5000])
def test_the_response_is_the_librarys_own(body: bytes) -> None:
    """Field by field, and what Starlette looks at when it is sent."""
    ours, library = PayoutResponse(body), Response(body, media_type="application/json")
    for each in ("status_code", "body", "raw_headers", "background"):
        assert getattr(ours, each) == getattr(library, each)
    assert vars(library).keys() - vars(ours).keys() == {"media_type"}
