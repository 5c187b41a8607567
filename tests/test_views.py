"""A payout as partners and subscribers see it: built by hand, and the same as its models would be."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from gateway.model import (
    Account,
    AddressDestination,
    BankAccountDestination,
    CustodianAccountDestination,
    Destination,
    Failure,
    FailureCode,
    FundsMoved,
    Payout,
    PayoutAccountDestination,
    QuoteTerms,
    RequiredAction,
    Route,
    Status,
    SubStatus,
    TimelineEntry,
    Transaction,
    format_time,
)
from gateway.quotes import Quote, quote_json
from gateway.report import Returned
from gateway.store.rows import to_json
from gateway.views import (
    BY_OPERATOR,
    EventView,
    PayoutView,
    PayoutWithTracking,
    event_body,
    payout_json,
    payout_with_tracking,
    terms_json,
)

AT = datetime(2026, 3, 2, 10, 0, 0, 123456, UTC)
ADDRESS = AddressDestination(network="Ethereum", address="0x" + "ab" * 20, memo="m é \u2028")
DESTINATIONS: list[Destination] = [
    ADDRESS,
    CustodianAccountDestination(account_type="VAULT", id="7"),
    PayoutAccountDestination(payout_account_id="18"),
    BankAccountDestination(
        payment_instructions_id="pi-1", country="DE", fiat_currency="EUR", purpose="salary"
    ),
]


def _payout(destination: Destination = ADDRESS, **members: Any) -> Payout:
    terms = QuoteTerms(
        quote_id="quo_1",
        expires_at=AT,
        destination=destination,
        asset="USDC",
        amount=Decimal("43.10"),
        user_sends=Decimal("43.10"),
        recipient_gets=Decimal("42.000000"),
        send_asset="USDC",
        recipient_asset="EUR",
        fx_rate=Decimal("0.92"),
        price="indicative",
        fee_total_usd=Decimal(0),
        route=Route(
            custodian="dummy", from_network=None, to_network="Ethereum", estimated_seconds=60
        ),
    )
    entry = TimelineEntry(status=Status.PENDING, sub_status=SubStatus.CREATED, at=AT)
    usual: dict[str, Any] = {
        "id": "pay_1",
        "org": "acme",
        "livemode": True,
        "status": Status.PENDING,
        "sub_status": SubStatus.CREATED,
        "external_ref": 'user "1"',
        "reference": None,
        "metadata": {"k": "v\u007f", "é": ""},
        "terms": terms,
        "custodian": "dummy",
        "account": Account(id="MAIN", type="ACCOUNT"),
        "timeline": (entry,),
        "sequence": 1,
        "created_at": AT,
        "updated_at": AT + timedelta(seconds=1),
    }
    return Payout(**{**usual, **members})


PAYOUTS: dict[str, Payout] = {
    "queued": _payout(sub_status=SubStatus.QUEUED),
    **{each.type: _payout(each) for each in DESTINATIONS},
    "of a batch": _payout(
        terms=_payout().terms.model_copy(
            update={"quote_id": None, "expires_at": None, "fx_rate": None, "fee_total_usd": None}
        ),
        batch_id="bat_1",
        reference="ref",
    ),
    "asks": _payout(
        sub_status=SubStatus.REQUIRES_ACTION,
        requires_action=RequiredAction(
            number=2, type="enter_passcode", channel="sms", masked_target="…9", expires_at=AT
        ),
    ),
    "was answered": _payout(
        requires_action=RequiredAction(
            number=1, open=False, type="redirect_to_url", url="https://x.example", expires_at=AT
        ),
    ),
    "delivered": _payout(
        status=Status.DELIVERED,
        sub_status=SubStatus.DELIVERED,
        custodian_reference="tr-1",
        transactions=(
            Transaction(id="tr-1", at=AT),
            Transaction(
                id="tr-1",
                tx_hash="0x1",
                network="Ethereum",
                status="DONE",
                explorer_url="https://e.example/0x1",
                at=datetime(2026, 3, 2, 12, tzinfo=timezone(timedelta(hours=2))),
            ),
        ),
        timeline=tuple(
            TimelineEntry(status=status, sub_status=sub, at=AT, tx_hash=tx_hash, detail=detail)
            for status, sub, tx_hash, detail in (
                (Status.PENDING, SubStatus.CREATED, None, None),
                (Status.BROADCAST, SubStatus.CONFIRMING, "0x1", "on its way"),
                (Status.DELIVERED, SubStatus.DELIVERED, "0x1", BY_OPERATOR + ": a secret reason"),
            )
        ),
        fees_paid_usd=Decimal("1.50"),
        final_recipient_amount=Decimal(42),
        returned_amount=Decimal("0.5"),
    ),
    "failed": _payout(
        status=Status.FAILED,
        sub_status=SubStatus.FAILED,
        failure=Failure(
            code=FailureCode.OPERATOR_DECISION,
            message=BY_OPERATOR + ": a secret reason",
            custodian_code="X",
            funds_moved=FundsMoved.UNKNOWN,
        ),
    ),
}
AS_MODELS = pytest.mark.parametrize("payout", PAYOUTS.values(), ids=PAYOUTS)


@AS_MODELS
def test_a_payout_is_what_its_model_would_be(payout: Payout) -> None:
    """Byte for byte, every member in its place: the model is what the API's document shows."""
    told = payout_with_tracking(payout, "https://g.example/track/x", "pcs_secret")
    members = {
        **told,
        "quote": payout.terms,
        "transactions": payout.transactions,
        "timeline": told["timeline"],
    }
    model = PayoutWithTracking.model_validate(members)
    assert list(told) == list(PayoutWithTracking.model_fields)
    assert json.dumps(told) == json.dumps(model.model_dump(mode="json"))


@AS_MODELS
def test_an_event_is_what_its_model_would_be(payout: Payout) -> None:
    """But for the bank details and the person's secret, which no event has."""
    returned = Returned("ret-1", Decimal("0.50"), "EUR", AT)
    body = event_body(payout, Status.PENDING, AT, "payout.returned", returned=returned)
    told = json.loads(body)
    assert body == json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
    assert told["timestamp"] == "2026-03-02T10:00:00.123Z"
    assert "payment_instructions_id" not in told["data"]["quote"]["destination"]
    assert "client_secret" not in (told["data"]["requires_action"] or {})
    if payout.terms.destination.type != "bank_account":
        told = {"id": "evt_1", **told}
        model = EventView.model_validate(told).model_dump(mode="json", exclude={"test"})
        (model["data"]["requires_action"] or {}).pop("client_secret", None)
        assert json.dumps(told) == json.dumps(model)


@AS_MODELS
def test_a_quote_and_its_terms_are_what_their_models_would_be(payout: Payout) -> None:
    """The answer to a quote, and what is stored of it."""
    members = {name: getattr(payout.terms, name) for name in QuoteTerms.model_fields}
    if payout.terms.quote_id is None:
        members |= {"quote_id": "quo_1", "expires_at": AT}
    quote = Quote(**members, external_ref="e", reference="ref é", metadata={"k": "v"})
    assert to_json(quote_json(quote)) == quote.model_dump_json()
    assert to_json(terms_json(quote)) == QuoteTerms(**members).model_dump_json()
    assert to_json(terms_json(payout.terms)) == payout.terms.model_dump_json()


def test_nothing_of_a_payout_is_left_out() -> None:
    """A new member of the model is shown, or the test of it fails."""
    assert list(payout_json(_payout())) == list(PayoutView.model_fields)


def test_what_an_operator_wrote_is_not_for_partners() -> None:
    """Neither in the timeline nor in the failure."""
    for each in PAYOUTS.values():
        assert "secret reason" not in json.dumps(payout_json(each))


def test_a_time_is_told_in_utc_whatever_its_zone() -> None:
    """Also where an equal time of another zone was told before."""
    east = AT.astimezone(timezone(timedelta(hours=5)))
    assert format_time(AT) == format_time(east) == "2026-03-02T10:00:00.123Z"
    with pytest.raises(ValueError, match="zone"):
        format_time(AT.replace(tzinfo=None))


def test_a_queued_payout_has_no_estimate() -> None:
    """Neither seconds nor a time: what holds it ends at a time that nobody knows."""
    names = "estimated_seconds_remaining", "estimated_delivery_at"
    told = payout_json(PAYOUTS["queued"])
    assert [told[name] for name in names] == [None, None]
    told = payout_json(_payout())
    assert [told[name] for name in names] == [60, "2026-03-02T10:01:01.123Z"]
