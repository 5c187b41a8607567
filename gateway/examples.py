"""One example of every event type, built from the models: for tests of endpoints and for the docs."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from gateway.batches.schemas import AssetTotal, BatchSource, BatchView, StatusTotal
from gateway.model import (
    Account,
    AddressDestination,
    Attention,
    BatchState,
    Failure,
    FailureCode,
    FundsMoved,
    Payout,
    QuoteTerms,
    RequiredAction,
    Route,
    Status,
    SubStatus,
    TimelineEntry,
    Transaction,
    format_time,
)
from gateway.report import Returned
from gateway.states import STATUS_OF
from gateway.views import (
    API_VERSION,
    ATTENTION_EVENT,
    BATCH_EVENTS,
    ENDPOINT_EVENTS,
    RETURNED_EVENT,
    AttentionNote,
    EventType,
    event_body,
)
from gateway.webhooks.subscriptions import EndpointView

#: The id of an example that nobody is sent.
EXAMPLE_ID = "evt_01k74z3g00e008000000000001"
_PAYOUT_ID = "pay_01k74z3g00e008000000000001"
_HASH = "0x5c504ed432cb51138bcf09aa5e8a410dd4a1e204ef84bfed1be16dfba1b22060"
#: The sub-statuses that a payout of each event has met.
_WAY: dict[str, tuple[SubStatus, ...]] = {
    "payout.created": (SubStatus.CREATED,),
    "payout.requires_action": (SubStatus.CREATED, SubStatus.REQUIRES_ACTION),
    "payout.broadcast": (SubStatus.CREATED, SubStatus.SUBMITTED, SubStatus.BROADCAST),
    "payout.delivered": (
        SubStatus.CREATED,
        SubStatus.SUBMITTED,
        SubStatus.BROADCAST,
        SubStatus.DELIVERED,
    ),
    "payout.failed": (SubStatus.CREATED, SubStatus.SUBMITTED, SubStatus.REJECTED),
    "payout.attention": (SubStatus.CREATED, SubStatus.SUBMITTED),
    "payout.returned": (
        SubStatus.CREATED,
        SubStatus.SUBMITTED,
        SubStatus.BROADCAST,
        SubStatus.DELIVERED,
    ),
}


def example_event(
    kind: EventType, at: datetime, *, livemode: bool, event_id: str = EXAMPLE_ID
) -> bytes:
    """Return the body of an example event, marked `"test": true`. Pure."""
    if kind in ENDPOINT_EVENTS or kind in BATCH_EVENTS:
        make = example_endpoint if kind in ENDPOINT_EVENTS else example_batch
        body: dict[str, Any] = {
            "type": kind,
            "timestamp": format_time(at),
            "api_version": API_VERSION,
            "data": make(kind, at, livemode=livemode).model_dump(mode="json"),
        }
    else:
        way = _WAY[kind]
        back, attends = kind == RETURNED_EVENT, kind == ATTENTION_EVENT
        before = STATUS_OF[way[-1 if back or attends else -2]] if len(way) > 1 else None
        payout = example_payout(kind, at, livemode=livemode)
        returned = Returned("ret-1", Decimal("4.50"), "USDC", at) if back else None
        note = AttentionNote(code=Attention.CUSTODIAN_UNREACHABLE, since=at) if attends else None
        body = json.loads(event_body(payout, before, at, kind, returned=returned, attention=note))
    body = {"id": event_id, **body, "test": True}
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def example_batch(kind: str, at: datetime, *, livemode: bool) -> BatchView:
    """Return the batch that an example event is about. Pure."""
    state = BatchState(kind.partition(".")[2])
    delivered = 2 if state is BatchState.FINALIZED else 0
    failed = 0 if state is BatchState.EXECUTING else 3 - delivered
    stands = {
        Status.PENDING: 3 - delivered - failed,
        Status.DELIVERED: delivered,
        Status.FAILED: failed,
    }
    failure = Failure(
        code=FailureCode.INSUFFICIENT_FUNDS,
        message="Nothing of the batch was sent.",
        funds_moved=FundsMoved.NO,
    )
    batch_id = "bat_01k74z3g00e008000000000001"
    return BatchView(
        id=batch_id,
        livemode=livemode,
        state=state,
        source=BatchSource(custodian="treasury", account=Account(id="7", type="VAULT_ACCOUNT")),
        init_method="file",
        reference="salaries-march",
        metadata={},
        item_count=3,
        delivered_count=delivered,
        failed_count=failed,
        totals=[
            AssetTotal(
                asset="USDC",
                count=3,
                amount=Decimal("37.5"),
                by_status={
                    status: StatusTotal(count=count, amount=count * Decimal("12.5"))
                    for status, count in stands.items()
                    if count
                },
            )
        ],
        parts=[],
        failure=failure if state is BatchState.FAILED else None,
        report_url=f"https://gateway.example/payout-batches/{batch_id}/report.csv",
        created_at=at - timedelta(minutes=5),
        expires_at=None,
        executed_at=at - timedelta(minutes=4),
        cancel_requested_at=at if state is BatchState.CANCELED else None,
        finalized_at=None if state is BatchState.EXECUTING else at,
    )


def example_payout(kind: str, at: datetime, *, livemode: bool) -> Payout:
    """Return the payout that an example event is about. Pure."""
    way = _WAY[kind]
    begun = at - timedelta(seconds=10 * len(way))
    amount = Decimal("12.50")
    sent = SubStatus.BROADCAST in way
    timeline = tuple(
        TimelineEntry(
            status=STATUS_OF[each] or Status.PENDING,
            sub_status=each,
            at=begun + timedelta(seconds=10 * number),
            tx_hash=_HASH if each is SubStatus.BROADCAST else None,
        )
        for number, each in enumerate(way)
    )
    return Payout(
        id=_PAYOUT_ID,
        org="example",
        livemode=livemode,
        status=STATUS_OF[way[-1]] or Status.PENDING,
        sub_status=way[-1],
        external_ref="user-42",
        reference="invoice-7",
        metadata={"run": "october"},
        terms=QuoteTerms(
            quote_id="quo_01k74z3g00e008000000000001",
            expires_at=begun + timedelta(seconds=60),
            destination=AddressDestination(
                network="Ethereum", address="0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
            ),
            asset="USDC",
            amount=amount,
            user_sends=amount,
            recipient_gets=amount,
            send_asset="USDC",
            recipient_asset="USDC",
            fee_total_usd=Decimal(0),
            route=Route(
                custodian="treasury",
                from_network="Ethereum",
                to_network="Ethereum",
                estimated_seconds=60,
            ),
        ),
        custodian="treasury",
        account=Account(id="0", type="VAULT_ACCOUNT"),
        custodian_reference=None if len(way) == 1 else "7f3c2d9a",
        transactions=(
            Transaction(id="tx-1", tx_hash=_HASH, network="Ethereum", status="COMPLETED", at=at),
        )
        if sent
        else (),
        requires_action=RequiredAction(
            number=1,
            type="enter_passcode",
            channel="sms",
            masked_target="••• 42",
            attempts_left=5,
            expires_at=at + timedelta(minutes=10),
        )
        if kind == "payout.requires_action"
        else None,
        failure=Failure(
            code=FailureCode.POLICY_REJECTED,
            message="A policy of the custodian refused it.",
            custodian_code="BLOCKED_BY_POLICY",
            funds_moved=FundsMoved.NO,
        )
        if kind == "payout.failed"
        else None,
        timeline=timeline,
        fees_paid_usd=Decimal("0.21") if kind == "payout.delivered" else None,
        final_recipient_amount=amount if kind == "payout.delivered" else None,
        returned_amount=Decimal("4.50") if kind == RETURNED_EVENT else None,
        sequence=len({STATUS_OF[each] for each in way})
        + (kind in {RETURNED_EVENT, ATTENTION_EVENT}),
        created_at=begun,
        updated_at=timeline[-1].at,
    )


def example_endpoint(kind: str, at: datetime, *, livemode: bool) -> EndpointView:
    """Return the endpoint that an example event is about. Pure."""
    disabled = kind == "webhook_endpoint.disabled"
    return EndpointView(
        id="whe_01k74z3g00e008000000000001",
        livemode=livemode,
        url="https://hooks.example.com/payouts",
        description="erp",
        event_types=["payout.*"],
        headers={},
        sensitive_headers=["X-Api-Key"],
        rate_limit_per_second=10,
        public_keys=[],
        status="disabled" if disabled else "enabled",
        disabled_reason="failing" if disabled else None,
        disabled_at=at if disabled else None,
        failing_since=at - timedelta(days=5 if disabled else 3),
        previous_secret_expires_at=None,
        created_at=at - timedelta(days=30),
    )
