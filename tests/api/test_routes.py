"""`POST /routes/explain`, and the decision that is kept with a quote."""

from __future__ import annotations

import json

from gateway.api.routes import Explanation
from gateway.custodians.breaker import Breaker
from gateway.routing.durations import Durations
from gateway.routing.facts import KnownFacts
from gateway.store.quotes import decision_of
from tests.api.conftest import ADDRESS, WALLET, Api
from tests.api.test_pauses import operator

ASKED = {"asset": "USDC", "amount": "100", "destination": WALLET}


async def test_a_route_is_explained(api: Api) -> None:
    """The candidates with fee and time, and the reason for each other route; nothing is written."""
    status, told = await api.call("POST", "/routes/explain", body=ASKED)
    assert status == 200
    Explanation.model_validate(told)
    assert (told["policy"], told["code"]) == ("fixed", None)
    (taken,) = told["candidates"]
    assert (taken["route"], taken["custodian"]) == ("routes.0", "acme_eu")
    assert [(each["route"], each["reason"]) for each in told["left_out"]] == [
        ("routes.1", "destination")
    ]
    status, told = await api.call(
        "POST", "/routes/explain", body={**ASKED, "destination": ADDRESS, "network_hint": "Polygon"}
    )
    assert [each["route"] for each in told["candidates"]] == ["routes.1"]
    assert told["candidates"][0]["fee"] == "0.35"


async def test_what_cannot_be_paid_is_explained_as_it_would_be_refused(api: Api) -> None:
    """The code of the quote, and the reasons; what is wrong whatever the route is refused."""
    wanted = {**ASKED, "destination": {"type": "payout_account", "payout_account_id": "18"}}
    _, told = await api.call("POST", "/routes/explain", body=wanted)
    assert (told["candidates"], told["code"]) == ([], "route_unavailable")
    assert {each["reason"] for each in told["left_out"]} == {"destination"}
    problem = await api.problem("POST", "/routes/explain", body={**ASKED, "asset": "NOPE"})
    assert problem["code"] == "unsupported_asset"


async def test_the_operator_names_the_org(api: Api) -> None:
    """An org hears of its own routes alone."""
    by = await operator(api)
    problem = await api.problem("POST", "/routes/explain", body=ASKED, authorization=by)
    assert problem["errors"][0]["pointer"] == "/org"
    status, _ = await api.call(
        "POST", "/routes/explain", body={**ASKED, "org": "acme"}, authorization=by
    )
    assert status == 200
    problem = await api.problem("POST", "/routes/explain", body={**ASKED, "org": "rival"})
    assert problem["code"] == "operator_key_required"


async def test_a_custodian_that_does_not_answer_is_left_out(api: Api) -> None:
    """No quote goes there, `GET /custodians` says so, and the refusal has the reason."""
    breaker = Breaker(api.clock, faults=1)
    facts = KnownFacts({"acme_eu": breaker}, Durations())
    api.context.quotes._facts = facts
    _, listed = await api.call("GET", "/custodians")
    assert listed["data"][0]["available"] is True
    breaker.fault("unreachable")
    problem = await api.problem(
        "POST", "/payouts/quote", body={**ASKED, "external_ref": "u"}, idempotency_key="down"
    )
    assert (problem["status"], problem["code"], problem["retryable"]) == (422, "no_route", True)
    assert problem["reasons"] == [
        {
            "custodian": "acme_eu",
            "reason": "health",
            "detail": "the custodian does not answer (unreachable)",
        }
    ]
    _, listed = await api.call("GET", "/custodians")
    assert listed["data"][0]["available"] is False
    # It passes by itself, so the refusal is kept under no key: the same request succeeds later.
    api.context.quotes._facts = KnownFacts({}, Durations())
    status, _ = await api.call(
        "POST", "/payouts/quote", body={**ASKED, "external_ref": "u"}, idempotency_key="down"
    )
    assert status == 200


async def test_the_decision_is_kept_with_the_payout(api: Api) -> None:
    """As it was made, for operators."""
    quote = await api.quote()
    status, payout = await api.call("POST", "/payouts", body={"quote_id": quote["quote_id"]})
    assert status == 201
    text = await api.context.db.read(decision_of, payout["id"])
    assert text is not None
    kept = json.loads(text)
    assert kept["policy"] == "fixed"
    assert [each["custodian"] for each in kept["candidates"]] == ["acme_eu"]
