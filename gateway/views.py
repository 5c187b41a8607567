"""What partners and subscribers see of a payout: one object, in the API and in the events."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from gateway.model import (
    AddressDestination,
    Amount,
    Attention,
    CustodianAccountDestination,
    Failure,
    Payout,
    PayoutAccountDestination,
    QuoteTerms,
    Status,
    SubStatus,
    TaggedDestination,
    Time,
    TimelineEntry,
    Transaction,
    format_amount,
    format_time,
)
from gateway.report import Returned

API_VERSION = "2026-11-01"
#: Marks a member, in its schema, that a response may leave out.
MAY_BE_MISSING = "x-may-be-missing"
_OPTIONAL: dict[str, Any] = {MAY_BE_MISSING: True}

#: Every event type of a payout, and when it is sent.
PAYOUT_EVENTS: dict[str, str] = {
    "payout.created": "A payout was accepted",
    "payout.requires_action": "A person must answer, or the payout expires",
    "payout.broadcast": "The custodian has handed the money to the rail",
    "payout.delivered": "The payout is final: delivered",
    "payout.failed": "The payout is final: failed",
    "payout.returned": "Money came back after the payout was delivered; its status stays",
    "payout.attention": "A person should look at a payout; only for endpoints that name this type",
}
#: Every event type of a webhook endpoint. It is sent to the other endpoints, and is in the feed.
ENDPOINT_EVENTS: dict[str, str] = {
    "webhook_endpoint.failing": "An endpoint has failed for days, and will be disabled",
    "webhook_endpoint.disabled": "An endpoint was disabled; what it misses waits for a recovery",
}
#: Every event type of a batch, beside those of its payouts.
BATCH_EVENTS: dict[str, str] = {
    "batch.executing": "Payouts of a batch are under way",
    "batch.finalized": "Every payout of a batch has ended; its report is final",
    "batch.failed": "A batch has ended and nothing was sent",
    "batch.canceled": "A batch was canceled before anything was sent",
}
EVENT_TYPES: dict[str, str] = {**PAYOUT_EVENTS, **BATCH_EVENTS, **ENDPOINT_EVENTS}
EventType = Literal[
    "payout.created",
    "payout.requires_action",
    "payout.broadcast",
    "payout.delivered",
    "payout.failed",
    "payout.returned",
    "payout.attention",
    "batch.executing",
    "batch.finalized",
    "batch.failed",
    "batch.canceled",
    "webhook_endpoint.failing",
    "webhook_endpoint.disabled",
]
assert get_args(EventType) == tuple(EVENT_TYPES)  # noqa: S101 - a type cannot be computed

#: The event that reports a status.
EVENT_OF: dict[Status, str] = {
    Status.PENDING: "payout.created",
    Status.BROADCAST: "payout.broadcast",
    Status.DELIVERED: "payout.delivered",
    Status.FAILED: "payout.failed",
}

#: The share of the quoted time that is left at a stage; it only shrinks from stage to stage.
_LEFT = {
    SubStatus.SUBMITTED: 0.8,
    SubStatus.BROADCAST: 0.4,
    SubStatus.CONFIRMING: 0.25,
    SubStatus.SETTLING: 0.15,
}


#: The event of a person being asked for something.
ACTION_EVENT = "payout.requires_action"
#: The event of money that came back.
RETURNED_EVENT = "payout.returned"


#: The event of a payout that a person should look at; an endpoint has to name it.
ATTENTION_EVENT = "payout.attention"


class RequiredActionView(BaseModel):
    """What a payout waits for a person to do, as long as it does."""

    model_config = ConfigDict(frozen=True, title="RequiredAction")

    type: Literal["enter_passcode", "redirect_to_url", "await_external_approval"]
    client_secret: str | None = Field(
        default=None,
        description="Allows its holder to answer this action, and nothing else. Shown only by "
        "`GET /payouts/{id}` under an API key; never stored, never in events.",
        json_schema_extra=_OPTIONAL,
    )
    channel: str | None = Field(description="How the code reaches its owner; null: it is known.")
    masked_target: str | None = Field(description="Where the code was sent, masked.")
    url: str | None = Field(
        description="The page that the person has to visit, for `redirect_to_url`."
    )
    attempts_left: int | None = Field(description="Answers left for this action; 0: locked.")
    expires_at: Time = Field(description="Without an answer by then the payout fails.")


class PayoutView(BaseModel):
    """A payout, as partners see it: the schema of what `payout_json` returns."""

    model_config = ConfigDict(frozen=True, title="PayoutWithoutTracking")

    id: str
    object: Literal["payout"] = "payout"
    livemode: bool
    status: Status
    sub_status: SubStatus
    external_ref: str
    reference: str | None
    metadata: Mapping[str, str]
    quote: QuoteTerms
    custodian: str
    custodian_reference: str | None
    batch_id: str | None
    transactions: tuple[Transaction, ...]
    requires_action: RequiredActionView | None
    failure: Failure | None = Field(
        description="Set when the payout failed. Only `funds_moved: no` allows paying again elsewhere."
    )
    timeline: tuple[TimelineEntry, ...]
    fees_paid_usd: Amount | None
    final_recipient_amount: Amount | None = Field(
        description="What the recipient got, in the recipient's asset, as the custodian reported it; it "
        "may differ from `quote.recipient_gets`. Null until the payout is delivered, and null where the "
        "custodian reports no such amount, as with payouts to bank accounts."
    )
    returned_amount: Amount | None = Field(
        description="What came back after the payout was delivered, in the recipient's asset; null: "
        "nothing. It may grow. The status stays `delivered`: the reference is not free, and nothing is "
        "paid again by itself."
    )
    estimated_seconds_remaining: int | None = Field(
        description="The estimate at this stage, counted from `updated_at`. Null while the payout is queued, "
        "because nobody knows when a pause or another payout's turn ends, and once it has ended."
    )
    estimated_delivery_at: Time | None = Field(
        description="`updated_at` and `estimated_seconds_remaining`; null with it."
    )
    created_at: Time
    updated_at: Time


class ExecutionView(BaseModel):
    """A custodian that a payout was handed to."""

    model_config = ConfigDict(frozen=True, title="Execution")

    number: int = Field(description="From 1, in the order in which they were opened.")
    custodian: str
    ended_at: Time | None = Field(
        description="When it was closed: proven not to pay, or with the end of the payout. Null: open."
    )


class PayoutWithTracking(PayoutView):
    """A payout with the address of its public page, as shown under an API key."""

    model_config = ConfigDict(frozen=True, title="Payout")

    tracking_url: str
    queued_behind: str | None = Field(
        default=None,
        description="`GET /payouts/{id}` of a payout that is `queued`: the payout of yours that has the turn "
        "at the source account. Null: another org's, or it waits for something else.",
    )
    executions: list[ExecutionView] | None = Field(
        default=None,
        description="`GET /payouts/{id}` of a payout that went on at another custodian than quoted: every "
        "custodian that it was handed to. At most one of them pays it. Null otherwise.",
    )


class ReturnView(BaseModel):
    """Money that came back after a payout was delivered."""

    model_config = ConfigDict(frozen=True, title="PayoutReturn")

    id: str | None = Field(
        description="The custodian's own id of the return; null if it reports only totals."
    )
    amount: Amount = Field(description="What came back this time.")
    asset: str
    at: Time = Field(description="When it came back, by the custodian.")


class AttentionNote(BaseModel):
    """Why a person should look at a payout."""

    model_config = ConfigDict(frozen=True, title="AttentionNote")

    code: Attention
    since: Time = Field(description="When it was noted first.")


class EventBankAccount(TaggedDestination):
    """A bank account, as events show it: without the id of its payment instructions."""

    model_config = ConfigDict(title="BankAccountDestinationInEvent")

    type: Literal["bank_account"] = "bank_account"
    country: str
    fiat_currency: str
    purpose: str


EventDestination = Annotated[
    AddressDestination | CustodianAccountDestination | PayoutAccountDestination | EventBankAccount,
    Field(discriminator="type"),
]


class EventTerms(QuoteTerms):
    """The terms of a payout, as events show them: bank details left out."""

    model_config = ConfigDict(title="QuoteTermsInEvent")

    # One of its kinds shows less than that of the quote.
    destination: EventDestination  # type: ignore[assignment]


class EventPayout(PayoutView):
    """A payout as it was at an event; bank details left out."""

    model_config = ConfigDict(frozen=True, title="EventPayout")

    quote: EventTerms

    previous_status: Status | None
    sequence: int = Field(
        description="Number of this event among the payout's events, from 1, no gaps."
    )
    returned: ReturnView | None = Field(
        default=None,
        description="The return that `payout.returned` reports; null in other events.",
    )
    attention: AttentionNote | None = Field(
        default=None, description="What `payout.attention` reports; null in other events."
    )


class EventHead(BaseModel):
    """What every event has: in the body of a webhook, and in the feed."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(
        description="The event's id (`evt_…`), the same as the header `webhook-id`. Use it to recognise "
        "an event that you have already processed."
    )
    type: str
    timestamp: Time = Field(description="When the event happened.")
    api_version: str = Field(description="The version of the schema of `data`, a date.")
    test: bool = Field(
        default=False,
        description="Present, and true, only in an example event sent by "
        "`POST /webhook-endpoints/{endpoint_id}/test`.",
        json_schema_extra=_OPTIONAL,
    )


class EventView(EventHead):
    """An event of a payout."""

    model_config = ConfigDict(frozen=True, title="PayoutEvent")

    data: EventPayout


def payout_with_tracking(
    payout: Payout, tracking_url: str, client_secret: str | None = None
) -> dict[str, Any]:
    """Return what a partner sees of a payout, with the secret of the action it waits for, if given.

    As JSON has it; its schema is `PayoutWithTracking`.
    """
    return {
        **payout_json(payout, client_secret),
        "tracking_url": tracking_url,
        "queued_behind": None,
        "executions": None,
    }


class ReducedPayout(BaseModel):
    """What the holder of a client secret sees: where the payout stands and what it asks for."""

    model_config = ConfigDict(frozen=True, title="ReducedPayout")

    id: str
    object: Literal["payout"] = "payout"
    livemode: bool
    status: Status
    sub_status: SubStatus
    recipient_gets: Amount
    recipient_asset: str
    requires_action: RequiredActionView | None


def reduced_payout(payout: Payout) -> ReducedPayout:
    """Return what may be shown in the browser of the person who answers an action."""
    return ReducedPayout(
        id=payout.id,
        livemode=payout.livemode,
        status=payout.status,
        sub_status=payout.sub_status,
        recipient_gets=payout.terms.recipient_gets,
        recipient_asset=payout.terms.recipient_asset,
        requires_action=_action(payout, None),
    )


def event_body(  # noqa: PLR0913 - the event and what it reports
    payout: Payout,
    previous_status: Status | None,
    at: datetime,
    kind: str | None = None,
    *,
    returned: Returned | None = None,
    attention: AttentionNote | None = None,
) -> bytes:
    """Return the bytes of the event that reports the payout's present status, or of another kind.

    `returned` is what `payout.returned` reports, `attention` what `payout.attention` does. Frozen from
    then on.
    """
    members = {
        **payout_json(payout),
        "previous_status": None if previous_status is None else previous_status.value,
        "sequence": payout.sequence,
        "returned": None
        if returned is None
        else ReturnView(
            id=returned.id, amount=returned.amount, asset=returned.asset, at=returned.at
        ).model_dump(mode="json"),
        "attention": None if attention is None else attention.model_dump(mode="json"),
    }
    # Bank details and the person's secret never leave in an event.
    members["quote"]["destination"].pop("payment_instructions_id", None)
    if members["requires_action"]:
        members["requires_action"].pop("client_secret", None)
    body = {
        "type": kind or EVENT_OF[payout.status],
        "timestamp": format_time(at),
        "api_version": API_VERSION,
        "data": members,
    }
    return to_json(body)


def _action(payout: Payout, client_secret: str | None) -> RequiredActionView | None:
    action = payout.requires_action
    if action is None or not action.open:
        return None
    members = action.model_dump(exclude={"number", "open"})
    return RequiredActionView(**members, client_secret=client_secret)


def payout_json(payout: Payout, client_secret: str | None = None) -> dict[str, Any]:
    """Return what a partner sees of a payout, without its tracking address, as JSON has it.

    Built member by member: every payout is shown several times on its way, and to build and dump the
    models (`PayoutView`) costs several times as much. `tests/test_views.py` compares the two.
    """
    left = _seconds_left(payout)
    action = _action(payout, client_secret)
    failure = _failure(payout)
    estimate = estimated_delivery(payout)
    return {
        "id": payout.id,
        "object": "payout",
        "livemode": payout.livemode,
        # The values themselves: an enumeration's member is dumped ten times as slowly as a text.
        "status": payout.status.value,
        "sub_status": payout.sub_status.value,
        "external_ref": payout.external_ref,
        "reference": payout.reference,
        "metadata": payout.metadata,
        "quote": terms_json(payout.terms),
        "custodian": payout.custodian,
        "custodian_reference": payout.custodian_reference,
        "batch_id": payout.batch_id,
        "transactions": [
            {
                "id": each.id,
                "tx_hash": each.tx_hash,
                "network": each.network,
                "status": each.status,
                "explorer_url": each.explorer_url,
                "at": format_time(each.at),
            }
            for each in payout.transactions
        ],
        "requires_action": None if action is None else action.model_dump(mode="json"),
        "failure": None if failure is None else failure.model_dump(mode="json"),
        "timeline": [
            {
                "status": each.status.value,
                "sub_status": each.sub_status.value,
                "at": format_time(each.at),
                "tx_hash": each.tx_hash,
                "detail": shown_detail(each.detail),
            }
            for each in payout.timeline
        ],
        "fees_paid_usd": _amount(payout.fees_paid_usd),
        "final_recipient_amount": _amount(payout.final_recipient_amount),
        "returned_amount": _amount(payout.returned_amount),
        "estimated_seconds_remaining": left,
        "estimated_delivery_at": None if estimate is None else format_time(estimate),
        "created_at": format_time(payout.created_at),
        "updated_at": format_time(payout.updated_at),
    }


def terms_json(terms: QuoteTerms) -> dict[str, Any]:
    """Return the terms of a quote, or of what is more than them, as JSON has them."""
    return {
        "quote_id": terms.quote_id,
        "expires_at": None if terms.expires_at is None else format_time(terms.expires_at),
        "destination": terms.destination.model_dump(),
        "asset": terms.asset,
        "amount": format_amount(terms.amount),
        "user_sends": format_amount(terms.user_sends),
        "recipient_gets": format_amount(terms.recipient_gets),
        "send_asset": terms.send_asset,
        "recipient_asset": terms.recipient_asset,
        "fx_rate": _amount(terms.fx_rate),
        "price": terms.price,
        "fee_total_usd": _amount(terms.fee_total_usd),
        "route": terms.route.model_dump(),
    }


def _amount(amount: Decimal | None) -> str | None:
    return None if amount is None else format_amount(amount)


#: What the timeline and the failure of a payout say that an operator ended.
BY_OPERATOR = "resolved by an operator"
#: The timeline's text for an unknown outcome; the reason in parentheses behind it is for operators.
OUTCOME_UNKNOWN = "outcome unknown; the gateway asks the custodian"


def shown_detail(text: str | None) -> str | None:
    """Return a text of a payout as partners may see it.

    The reason of an unknown outcome may hold an adapter's or a custodian's error message, which is for
    operators. So is the operator's evidence, which earlier releases wrote behind their words.
    """
    if text is None:
        return None
    if text.startswith(BY_OPERATOR + ": "):
        return BY_OPERATOR
    return OUTCOME_UNKNOWN if text.startswith(OUTCOME_UNKNOWN + " (") else text


def _failure(payout: Payout) -> Failure | None:
    failure = payout.failure
    if failure is None or shown_detail(failure.message) == failure.message:
        return failure
    return failure.model_copy(update={"message": BY_OPERATOR})


def estimated_delivery(payout: Payout) -> datetime | None:
    """Return when the payout should have been delivered; None if it is queued, has ended or nothing is known."""
    left = _seconds_left(payout)
    return None if left is None else payout.updated_at + timedelta(seconds=left)


def _seconds_left(payout: Payout) -> int | None:
    """Return the estimate at the payout's stage, from its last change; None when it has ended.

    None too while it is queued: nobody knows when a pause ends, or the turn of another payout.
    """
    if payout.final or payout.sub_status is SubStatus.QUEUED:
        return None
    passed = [entry.sub_status for entry in payout.timeline]
    share = min(_LEFT.get(each, 1.0) for each in (payout.sub_status, *passed))
    return round(payout.terms.route.estimated_seconds * share)
