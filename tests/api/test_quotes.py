"""`POST /payouts/quote`: prices, and every way to ask wrongly."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import Refused
from tests.api.conftest import ADDRESS, WALLET, Api

GOOD: dict[str, Any] = {
    "external_ref": "u-1",
    "destination": WALLET,
    "asset": "USDC",
    "amount": "43",
}


async def test_a_quote_promises_a_price(api: Api) -> None:
    """The terms come back exactly, for 60 seconds."""
    quote = await api.quote(
        asset="usdc", amount="43.50", reference="inv-7", metadata={"team": "ops"}
    )
    assert quote["quote_id"].startswith("quo_")
    assert quote["expires_at"] == "2026-03-02T10:01:00.000Z"
    assert (quote["user_sends"], quote["recipient_gets"], quote["fee_total_usd"]) == (
        "43.5",
        "43.5",
        "0",
    )
    assert (quote["send_asset"], quote["recipient_asset"], quote["price"]) == (
        "USDC",
        "USDC",
        "firm",
    )
    assert quote["route"] == {
        "custodian": "acme_eu",
        "from_network": "Ethereum",
        "to_network": "Ethereum",
        "estimated_seconds": 60,
    }
    assert quote["recommendation"] is None
    assert quote["insufficient_funds"] is None


@pytest.mark.parametrize(
    ("amount", "asset", "gets", "usd"),
    [
        ("100", "USDC", "99.65", "0.35"),
        ("0.333333", "USDC", "0.232499", "0.100834"),
        ("100", "EURC", "99.65", None),
    ],
)
async def test_fees_are_exact(
    api: Api, amount: str, asset: str, gets: str, usd: str | None
) -> None:
    """Flat and basis points, rounded up to the asset's unit; dollars only where they are known."""
    quote = await api.quote(
        amount=amount,
        asset=asset,
        destination={"type": "address", "network": "Base", "address": ADDRESS.lower()},
    )
    assert (quote["recipient_gets"], quote["fee_total_usd"]) == (gets, usd)
    assert quote["destination"]["address"] == ADDRESS


async def test_a_bare_address_takes_the_hint(api: Api) -> None:
    """An EVM address fits several networks: without a hint it is refused, with one it is taken."""
    problem = await api.problem(
        "POST", "/payouts/quote", body={**GOOD, "destination": ADDRESS}, idempotency_key="k"
    )
    assert (problem["code"], problem["errors"][0]["pointer"]) == (
        "invalid_destination",
        "/network_hint",
    )
    quote = await api.quote(destination=ADDRESS, network_hint="Polygon")
    assert quote["destination"]["network"] == "Polygon"


async def test_a_wished_account_must_be_configured(api: Api) -> None:
    """A partner picks among the configured accounts, and no others."""
    quote = await api.quote(
        route={"custodian": "acme_eu", "account": {"id": "A2", "type": "VAULT"}}
    )
    assert quote["route"]["custodian"] == "acme_eu"
    for route, code in (
        ({"custodian": "acme_eu", "account": {"id": "A9", "type": "VAULT"}}, "unknown_account"),
        ({"custodian": "other", "account": {"id": "A1", "type": "VAULT"}}, "route_unavailable"),
    ):
        problem = await api.problem(
            "POST", "/payouts/quote", body={**GOOD, "route": route}, idempotency_key=code
        )
        assert problem["code"] == code


@pytest.mark.parametrize(
    ("members", "code", "pointer"),
    [
        ({"amount": 43}, "invalid_request", "/amount"),
        ({"amount": 4.3}, "invalid_request", "/amount"),
        ({"amount": "4e3"}, "invalid_request", "/amount"),
        ({"amount": "-1"}, "invalid_request", "/amount"),
        ({"amount": "+1"}, "invalid_request", "/amount"),
        ({"amount": "NaN"}, "invalid_request", "/amount"),
        ({"amount": "Infinity"}, "invalid_request", "/amount"),
        ({"amount": "01"}, "invalid_request", "/amount"),
        ({"amount": " 1"}, "invalid_request", "/amount"),
        ({"amount": "1\n"}, "invalid_request", "/amount"),
        ({"amount": "\u0661"}, "invalid_request", "/amount"),
        ({"amount": "9" * 31}, "invalid_request", "/amount"),
        ({"amount": ""}, "invalid_request", "/amount"),
        ({"amount": None}, "invalid_request", "/amount"),
        ({"amount": "0"}, "amount_below_minimum", "/amount"),
        ({"amount": "1.0000001"}, "amount_too_precise", "/amount"),
        ({"asset": "DOGE"}, "unsupported_asset", "/asset"),
        ({"asset": "U"}, "invalid_request", "/asset"),
        ({"asset": 7}, "invalid_request", "/asset"),
        ({"external_ref": ""}, "invalid_request", "/external_ref"),
        ({"external_ref": "x" * 256}, "invalid_request", "/external_ref"),
        ({"reference": ""}, "invalid_request", "/reference"),
        ({"metadata": {"a": 1}}, "invalid_request", "/metadata/a"),
        ({"metadata": {str(n): "" for n in range(21)}}, "invalid_request", "/metadata"),
        ({"surprise": True}, "invalid_request", "/surprise"),
        ({"network_hint": "Tron"}, "unsupported_network", "/network_hint"),
        (
            {"destination": {**WALLET, "account_type": "MERCHANT"}},
            "invalid_destination",
            "/destination/account_type",
        ),
        ({"destination": {"type": "pigeon"}}, "invalid_request", "/destination"),
        (
            {"destination": {"type": "address", "address": ADDRESS}},
            "invalid_request",
            "/destination/network",
        ),
        ({"destination": {**WALLET, "memo": "x"}}, "invalid_request", "/destination/memo"),
        (
            {"destination": {"type": "address", "network": "Base", "address": ADDRESS[:-1] + "D"}},
            "invalid_destination",
            "/destination/address",
        ),
        (
            {"destination": {"type": "payout_account", "payout_account_id": "18"}},
            "route_unavailable",
            None,
        ),
    ],
)
async def test_bad_requests_say_what_is_wrong(
    api: Api, members: dict[str, Any], code: str, pointer: str | None
) -> None:
    """Each fault has its code and points at its member."""
    problem = await api.problem(
        "POST", "/payouts/quote", body={**GOOD, **members}, idempotency_key="k1"
    )
    assert problem["code"] == code, problem
    if pointer is not None:
        assert pointer in [each["pointer"] for each in problem["errors"]], problem


@pytest.mark.parametrize("missing", ["external_ref", "destination", "asset", "amount"])
async def test_missing_members_are_named(api: Api, missing: str) -> None:
    """A required member that is not there is pointed at."""
    body = {name: value for name, value in GOOD.items() if name != missing}
    problem = await api.problem("POST", "/payouts/quote", body=body, idempotency_key="k")
    assert f"/{missing}" in [each["pointer"] for each in problem["errors"]]


async def test_a_fee_that_eats_the_amount_is_refused(api: Api) -> None:
    """Nothing would be left."""
    destination = {"type": "address", "network": "Base", "address": ADDRESS}
    problem = await api.problem(
        "POST",
        "/payouts/quote",
        body={**GOOD, "amount": "0.1", "destination": destination},
        idempotency_key="k",
    )
    assert problem["code"] == "amount_below_minimum"


async def test_an_amount_of_zero_is_refused(api: Api) -> None:
    """The detail is about the amount: no fee is the cause."""
    problem = await api.problem(
        "POST", "/payouts/quote", body={**GOOD, "amount": "0"}, idempotency_key="k"
    )
    assert problem["code"] == "amount_below_minimum"
    assert problem["detail"] == "The amount must be above 0."


async def test_values_are_never_echoed(api: Api) -> None:
    """What was sent does not come back in an error."""
    secret = "very-private-value"
    _, raw = await api.send(
        "POST",
        "/payouts/quote",
        body={**GOOD, "amount": secret, "metadata": {"k": [secret]}},
        idempotency_key="k",
    )
    assert secret.encode() not in raw


@pytest.mark.parametrize("error", [Refused("no_route", "none now"), RuntimeError("broken")])
async def test_a_repeat_is_answered_whatever_a_new_quote_would_be(
    api: Api, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The key has its answer; a new key gets what there is to say now."""
    first = await api.call("POST", "/payouts/quote", body=GOOD, idempotency_key="k-1")

    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(api.context.quotes, "draft", fail)
    assert await api.call("POST", "/payouts/quote", body=GOOD, idempotency_key="k-1") == first
    status, _ = await api.call("POST", "/payouts/quote", body=GOOD, idempotency_key="k-2")
    assert status == (422 if isinstance(error, Refused) else 500)
