"""The calls that nearly all requests are: what they cost in statements, and numbers that no column has.

Counted, not timed.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.api.requests import parse_json
from gateway.errors import Refused
from tests.api.conftest import WALLET, Api

QUOTE: dict[str, Any] = {
    "external_ref": "u-1",
    "destination": WALLET,
    "asset": "USDC",
    "amount": "43",
}


async def _cost(api: Api, method: str, path: str, **options: Any) -> tuple[Any, int]:
    before = api.context.db.statements
    status, body = await api.call(method, path, **options)
    assert status < 300, body
    return body, api.context.db.statements - before


async def test_what_a_payout_costs_until_it_is_accepted_and_read(api: Api) -> None:
    """Whose key it is, in each; then only what the call itself needs. Two endpoints are subscribed."""
    for name in "ab":
        await api.call(
            "POST",
            "/webhook-endpoints",
            body={"url": f"https://{name}.example"},
            idempotency_key=name,
        )
    quote, cost = await _cost(api, "POST", "/payouts/quote", body=QUOTE, idempotency_key="q")
    # The key, claimed with its answer; whether payouts are accepted; the quote.
    assert cost == 1 + 1 + 1 + 1
    payout, cost = await _cost(api, "POST", "/payouts", body={"quote_id": quote["quote_id"]})
    # Quote used, payout, execution, its item, event, deliveries.
    assert cost <= 1 + 6
    _, cost = await _cost(api, "GET", f"/payouts/{payout['id']}")
    assert cost == 1 + 1


@pytest.mark.parametrize(
    "number", ["9223372036854775808", "-9223372036854775809", "1" * 400, "1e400"]
)
async def test_a_number_beyond_64_bits_is_a_fault_like_any_other(api: Api, number: str) -> None:
    """It says where; nothing breaks. It does not bind its Idempotency-Key either."""
    problem = await api.problem(
        "POST",
        "/payouts",
        data=b'{"quote_id": %s}' % number.encode(),
        content_type="application/json",
    )
    assert (problem["status"], problem["code"]) == (422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/quote_id"
    body = json.dumps({**QUOTE, "metadata": {"n": 0}}).replace('"n": 0', f'"n": {number}')
    problem = await api.problem(
        "POST",
        "/payouts/quote",
        data=body.encode(),
        content_type="application/json",
        idempotency_key="k",
    )
    assert problem["errors"][0]["pointer"] == "/metadata/n"
    status, _ = await api.call("POST", "/payouts/quote", body=QUOTE, idempotency_key="k")
    assert status == 200


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"[" * 33 + b"]" * 33, "deep"),
        (b"[" * 32 + b"1" + b"]" * 32, "deep"),
        (b'{"a":[' * 16 + b"1" + b"]}" * 16, "deep"),
        (b"[" * 5000 + b"]" * 5000, "deep"),
        (rb'{"a": "\ud800"}', "surrogate"),
        (rb'{"\udfff": 1}', "surrogate"),
        (rb'["\u00e9", "\ud83d\ude00", "\ud83d"]', "surrogate"),
        (b'{"a": 1, "a": 1}', "twice"),
        (b'{"a": {"b": 1, "\\u0062": 2}}', "twice"),
        (b"[NaN]", "NaN"),
        (b"\xff", "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),
    ],
)
def test_what_is_no_strict_json_is_refused(raw: bytes, word: str) -> None:
    """Each rule, also where the body gives no hint of it but the one place."""
    with pytest.raises(Refused, match=word) as refused:
        parse_json(raw)
    assert refused.value.code == "invalid_json"


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 32 + b"]" * 32,
        b"[" * 31 + b"1" + b"]" * 31,
        b'["' + b"[{" * 100 + b'"]',
        b"[" + b"[]," * 200 + b"{}]",
        '{"é": "\\ud83d\\ude00", "\U0001f600": "\\u0041"}'.encode(),
        b"12345678901234567890123",
    ],
)
def test_what_is_strict_json_is_read(raw: bytes) -> None:
    """Many brackets are not deep, and a whole pair is no half of one."""
    assert parse_json(raw) == json.loads(raw)
